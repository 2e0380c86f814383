"""Who sends keys that nobody knows: so many of one address are looked up at once, and no more.

The checksum of a key is public (S80), so anyone can make keys that only a look-up tells from
real ones. An address is limited once it has sent some of those, not before, so that a fleet
of good keys that starts anew is never in its own way.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from keyrush.runtime.forks import after_fork
from keyrush.wire.sender import client_of

#: Unknown keys of one address in one to two `PERIOD`s that are nobody's business.
TOLERATED = 20

#: Look-ups for one address under way at once, once it has sent more unknown keys than that.
AT_ONCE = 4

#: Seconds.
PERIOD = 10.0

#: Addresses remembered; those that have sent nothing for longest are forgotten first.
REMEMBERED = 10_000


class _Sender:
    __slots__ = ("before", "period", "under_way", "unknown")

    def __init__(self) -> None:
        self.under_way = 0
        self.period = 0  # the one that `unknown` is of
        self.unknown = self.before = 0  # unknown keys in this period, and in the one before


class Strangers:
    """The addresses that first-seen keys come from. `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._senders: OrderedDict[str, _Sender] = OrderedDict()

    def __len__(self) -> int:
        return len(self._senders)

    def enter(self, address: str | None) -> bool:
        """Go ahead with a look-up for an address, which ends with `leave`; False: not now."""
        with self._lock:
            name = client_of(address)
            sender = self._senders.get(name)
            if sender is None:
                sender = self._senders[name] = _Sender()
                if len(self._senders) > REMEMBERED:
                    self._evict()
            else:
                self._senders.move_to_end(name)
            self._turn(sender)
            if sender.under_way >= AT_ONCE and sender.unknown + sender.before > TOLERATED:
                return False
            sender.under_way += 1
            return True

    def leave(self, address: str | None, *, is_unknown: bool) -> None:
        """The look-up has ended; `is_unknown` where it was for nothing."""
        with self._lock:
            sender = self._senders.get(client_of(address))
            if sender is None:  # forgotten meanwhile, as in a forked child
                return
            self._turn(sender)
            sender.under_way = max(0, sender.under_way - 1)
            sender.unknown += is_unknown

    def _turn(self, sender: _Sender) -> None:
        period = int(self._monotonic() / PERIOD)
        if period != sender.period:
            sender.before = sender.unknown if period == sender.period + 1 else 0
            sender.unknown, sender.period = 0, period

    def _evict(self) -> None:
        name, sender = next(iter(self._senders.items()))
        if sender.under_way:
            self._senders.move_to_end(name)
        else:
            del self._senders[name]
