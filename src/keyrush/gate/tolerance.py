"""How many refusals a key may have: as many as requests, in windows of their own.

A refused request consumes nothing, so without this a key of five requests a minute could have
any number of refusals, each with its store calls. Beyond the number it gets 429 from memory alone.
Of refusals by the rules the next one is known without I/O, so that only those become 429; what the
app itself refuses is known only once it runs, so there every request of the key does. Refusals by a
limit are not counted: they must not lengthen the wait (S35).
"""

from __future__ import annotations

import threading
from typing import Literal

from keyrush.core import sliding
from keyrush.core.identity import Verified
from keyrush.core.sliding import Tally, Window
from keyrush.core.times import SECOND
from keyrush.limiter.counters import WindowCounts
from keyrush.runtime.forks import after_fork

#: Refusals a minute of keys that no limit holds.
OTHERWISE = 1000

#: Who has refused: the rules (or a balance that is known), or the app.
By = Literal["rules", "app"]


class Tolerance:
    """The refusals of this process. Safe to use from any thread."""

    def __init__(self) -> None:
        self._counters = WindowCounts()
        #: Until when keys have had enough, by who has refused them and by their ids; empty as
        #: long as all behave.
        self.exceeded: dict[tuple[By, str], Tally] = {}
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def note(self, verified: Verified, by: By, now: int) -> None:
        """The key was refused something that it may not do or can't pay."""
        enforced = () if verified.is_observed else verified.windows
        plans = enforced or (Window("", 60 * SECOND, OTHERWISE, "minute"),)
        wanted = [
            window._replace(key=f"{by}:{verified.key_id}:{window.length}") for window in plans
        ]
        with self._lock:
            tally, changes = sliding.take(wanted, self._counters, 1, now)
            self._counters.put(changes, wanted, now)
            if tally.remaining == 0:
                still = {key: it for key, it in self.exceeded.items() if now < it.ready_at}
                self.exceeded = still | {(by, verified.key_id): tally}

    def over(self, verified: Verified, by: By, now: int) -> Tally | None:
        """The tally of a key that has had enough refusals for now; else None."""
        tally = self.exceeded.get((by, verified.key_id))
        return tally if tally is not None and now < tally.ready_at else None
