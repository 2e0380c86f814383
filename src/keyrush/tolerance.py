"""How many refusals a caller may have: as many as requests, in windows of their own.

A refused request consumes nothing, so without this a key of five requests a minute could have
any number of refusals, each with its store calls. Beyond the number the caller gets 429 from
memory alone. Refusals by a limit are not counted: they must not lengthen the wait (S35).
"""

from __future__ import annotations

import threading

from keyrush import windows
from keyrush.forks import after_fork
from keyrush.limiter.counters import Counters
from keyrush.model import SECOND, Identity
from keyrush.windows import Tally, Window

#: Refusals a minute of callers whom no limit holds.
OTHERWISE = 1000


class Tolerance:
    """The refusals of this process. Safe to use from any thread."""

    def __init__(self) -> None:
        self._counters = Counters()
        #: Until when callers have had enough, by subject; empty as long as all behave.
        self.exceeded: dict[str, Tally] = {}
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def note(self, identity: Identity, now: int) -> None:
        """The caller was refused something that it may not do or can't pay."""
        wanted = identity.windows or (
            Window(f"{identity.key_id}:60", 60 * SECOND, OTHERWISE, "minute"),
        )
        with self._lock:
            tally, changes = windows.take(wanted, self._counters, 1, now)
            self._counters.update(changes)
            if len(self._counters) > len(self._counters.lengths):
                self._counters.sweep(wanted, now)
            if tally.remaining == 0:
                self.exceeded[_subject(identity)] = tally

    def over(self, identity: Identity, now: int) -> Tally | None:
        """The tally of a caller who has had enough refusals for now; else None."""
        subject = _subject(identity)
        tally = self.exceeded.get(subject)
        if tally is not None and now >= tally.ready_at:
            self.exceeded.pop(subject, None)
            return None
        return tally


def _subject(identity: Identity) -> str:
    return identity.windows[0].key if identity.windows else identity.key_id
