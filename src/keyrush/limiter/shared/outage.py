"""What holds while the ledger can't answer, and what it is to be told of afterwards."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from keyrush.core import sliding
from keyrush.core.sliding import Demand, Taken, Tally, Window
from keyrush.errors import Away
from keyrush.limiter.counters import WindowCounts
from keyrush.limiter.ledgers.protocol import Place
from keyrush.limiter.protocol import Outage
from keyrush.limiter.shared.ledger_clock import LedgerClock
from keyrush.limiter.shared.membership import Membership
from keyrush.limiter.shared.owed import Owed, Slot, Windows
from keyrush.runtime.forks import after_fork


class Books:
    """What a process keeps of windows by itself: how the ledger last had them, what was admitted
    since without it, and what it is owed. One lock holds the three together.

    Does no I/O. Safe to use from any thread.
    """

    def __init__(self, outage: Outage, clock: LedgerClock, membership: Membership) -> None:
        self.outage: Outage = outage
        self._clock = clock
        self._membership = membership
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        """As in a new process: what a parent took or owes is the parent's."""
        self._lock = threading.Lock()
        self._known = WindowCounts()  # as the ledger last had them
        self._own = WindowCounts()  # what was admitted meanwhile, by this process's share
        self._owed = Owed()
        self._uncounted_until = 0  # until when, on the wall clock, takes may not be counted

    def heard(self, windows: Sequence[Window], taken: Taken) -> None:
        """Note how the ledger has the windows."""
        with self._lock:
            if self._own and not self._owed.adds_to(windows):  # the ledger counts it all
                self._own.clear_of(windows)
            keys = (window.key for window in windows)
            self._known.put(zip(keys, taken.counters, strict=True), windows, taken.now)

    def expected(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        """What a take would come to, if the ledger still had the windows as last heard."""
        at = self._clock.ledger_time(now)
        with self._lock:
            tally, _ = sliding.take(windows, self._known, cost, at)
        return tally._replace(ready_at=tally.ready_at + now - at)

    # --- in an outage ---

    def answer_in_outage(self, demands: Sequence[Demand], now: int) -> Tally:
        """What a take of all demands comes to while the ledger is away, by the outage policy.

        Raises:
            Away: It is refused: 503.
        """
        place = self._membership.place
        if self.outage == "open":
            return self._pass_uncounted(demands, now)
        # What is admitted is counted later: as of when, only the ledger's clock tells.
        if self.outage == "local" and place is not None and self._clock.is_known:
            return self._take_share(demands, place, now)
        raise Away("the limiter is away")

    def _pass_uncounted(self, demands: Sequence[Demand], now: int) -> Tally:
        looks = [Demand(windows, 0) for windows, _ in demands]
        at = self._clock.ledger_time(now)
        with self._lock:
            self._uncounted_until = max(self._uncounted_until, now)
            tally, _ = sliding.take_together(looks, self._known, at)
        return tally._replace(ready_at=tally.ready_at + now - at)

    def _take_share(self, demands: Sequence[Demand], place: Place, now: int) -> Tally:
        """Take from this process's share of all windows, and owe it to the ledger."""
        every = [window for windows, _ in demands for window in windows]
        with self._lock:
            now = max(now, self._clock.wall())  # which may have had to wait for the lock
            at = self._clock.ledger_time(now)  # never in its future, where counts would begin anew
            mine = [
                Demand([self._share(window, place, at) for window in windows], cost)
                for windows, cost in demands
            ]
            tally, changes = sliding.take_together(mine, self._own, at)
            self._own.put(changes, every, at)
            for windows, cost in demands if changes else ():
                if windows and cost:
                    self._owed.owe(tuple(windows), cost, at)
        part = tally.window
        whole = next((window for window in every if part and window.key == part.key), None)
        return tally._replace(window=whole, ready_at=tally.ready_at + now - at)

    def _share(self, window: Window, place: Place, at: int) -> Window:
        """The window with this process's share of what was left when last heard of. Where there
        is some left, but none for this process, only the outage refuses: that is 503, not 429.

        What the process itself took is rounded up, for the parts of several add up.
        """
        counter = sliding.roll(self._known.get(window.key), at // window.length)
        room = max(0, window.amount - sliding.used(counter, window.length, at))
        each, rest = divmod(room, place.workers)
        share = each + (place.rank < rest)
        if room and not share:
            raise Away("the limiter is away, and its limit too small to be divided")
        index, _, previous = sliding.roll(self._own.get(window.key), at // window.length)
        if index == at // window.length and previous * (at % window.length) % window.length:
            share -= 1
        return window._replace(amount=max(0, share))

    # --- what is owed to the ledger ---

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        """Have `cost` given back that was taken at `taken_at` on the wall clock."""
        if not self.counts(taken_at):
            return
        at = self._clock.ledger_time(taken_at)
        with self._lock:
            self._owed.owe(tuple(windows), -cost, at)
            own = [
                (key, sliding.give_back(self._own.get(key), length, cost, at))
                for key, length, _, _ in windows
            ]
            self._own.put([(key, it) for key, it in own if it is not None], windows, at)

    def counts(self, taken_at: int) -> bool:
        """False where a take at `taken_at` on the wall clock may have passed uncounted."""
        return taken_at > self._uncounted_until

    def owe(self, windows: Windows, units: int, taken_at: int) -> None:
        """Have units added to windows, or with a minus given back, at the ledger's `taken_at`."""
        with self._lock:
            self._owed.owe(windows, units, taken_at)

    def owes(self, windows: Sequence[Window]) -> bool:
        """True when units are yet to be added to one of the windows."""
        if not self._owed:
            return False
        with self._lock:
            return self._owed.adds_to(windows)

    def slots(self, windows: Sequence[Window] | None = None) -> list[Slot]:
        """Those that something is owed of; with `windows` those that concern one of them."""
        if not self._owed:
            return []
        with self._lock:
            return list(self._owed) if windows is None else self._owed.concerning(windows)

    def owed(self, slot: Slot) -> tuple[int, int]:
        """The units that are owed of a slot, and when on the ledger's clock they were taken."""
        with self._lock:
            return self._owed.get(slot, (0, 0))

    def told(self, slot: Slot, units: int, taken_at: int) -> None:
        """Owe so many units of a slot no more. Others may have come meanwhile."""
        with self._lock:
            self._owed.add(slot, -units, taken_at)

    def tidy(self) -> None:
        """Forget what is owed and counts no more."""
        with self._lock:
            self._owed.tidy(self._clock.ledger_time(self._clock.wall()))
