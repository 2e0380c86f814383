"""How often who is not signed in yet may try, by address. Anyone can have very many: they are
counted in this process alone, and so many of them at most.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from keyrush.core import sliding
from keyrush.core.sliding import Tally, Window, WindowCount
from keyrush.core.times import SECOND
from keyrush.wire.sender import client_of

MINUTE = 60 * SECOND

#: Links that an address may open in a minute, and addresses that are remembered: those that have
#: opened none for longest are forgotten first.
LINKS, REMEMBERED = 60, 10_000


def seconds(tally: Tally, now: int) -> int:
    """Whole seconds after which it is admitted."""
    return max(1, -(-(tally.ready_at - now) // SECOND))


class Addresses:
    """What those have asked for who are not signed in, by address. Safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, WindowCount] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    def take(self, address: str | None, now: int) -> Tally:
        """One more for an address, of IPv6 its network; or none where it has had too many."""
        client = client_of(address)
        window = Window(client, MINUTE, LINKS, "minute")
        with self._lock:
            tally, changes = sliding.take([window], self._counts, 1, now)
            for _, count in changes:
                self._counts[client] = count
                self._counts.move_to_end(client)
            if len(self._counts) > REMEMBERED:
                self._counts.popitem(last=False)
            return tally
