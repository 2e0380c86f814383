"""Shared windows as one process sees them: a ledger, and what holds while it can't answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from keyrush import windows
from keyrush.circuit import Away, Circuit
from keyrush.forks import after_fork, process_name
from keyrush.limiter.counters import Counters
from keyrush.limiter.ledger import Ledger, Place
from keyrush.windows import Taken, Tally, Window

#: What a request gets while the ledger is away: its process's share of the limit, everything,
#: or 503.
Outage = Literal["local", "open", "closed"]

#: Seconds between two signs of life to the ledger.
SIGN_OF_LIFE = 2.0

Windows = tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the ledger said. The shifts turn its instants into those of this process.

    Between asking and hearing, this process doesn't know when the ledger's clock was read.
    Adding `shift` gives the earliest instant that it can have been on the clock of
    `SharedWindows.instant`, by which units expire; adding `wall_shift` gives the latest on the
    wall clock, by which a client that waits until then is not too early.
    """

    taken: Taken
    shift: int
    wall_shift: int

    def tally(self, wanted: Sequence[Window], cost: int) -> Tally:
        """The tally of a take of `cost`, on the wall clock."""
        tally = windows.tally(wanted, self.taken, cost)
        return tally._replace(ready_at=tally.ready_at + self.wall_shift)


class SharedWindows:
    """What the limiters over a ledger have in common. Safe to use from any thread.

    `clock` gives wall-clock Unix milliseconds, `monotonic` float seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        outage: Outage,
        clock: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self.outage: Outage = outage
        self.clock = clock
        self.monotonic = monotonic
        self.circuit = Circuit("the limiter", monotonic)
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """As in a new process: what a parent took or owes is the parent's."""
        self._lock = threading.Lock()
        self._worker = process_name()
        #: Among how many processes the limit is divided in an outage, as last heard.
        self.place: Place | None = None
        self._wall_shift = 0
        self._known = Counters()  # as the ledger last had them
        self._own = Counters()  # what was admitted meanwhile, by this process's share
        #: Units to add to windows, or with a minus to give back, and when they were taken, by
        #: windows and period of the first of them.
        self._owed: dict[tuple[Windows, int], tuple[int, int]] = {}

    # --- asking ---

    def instant(self, now: int) -> int:
        """Milliseconds on the clock by which units expire: the wall clock `now` where the
        ledger goes by it, else one that nobody can set.
        """
        return int(self.monotonic() * 1000) if self.ledger.has_own_clock else now

    def ask(self, wanted: Sequence[Window], cost: int, extra: int) -> Answer:
        """`Ledger.take`.

        Raises:
            Away: The ledger can't answer, or has not been asked because it couldn't before.
        """
        self.circuit.enter()
        try:
            if self._owed:
                self._settle(lambda owing: owing == tuple(wanted))
            before = self.monotonic()
            taken = self.ledger.take(wanted, cost, extra)
        except Exception as error:
            raise self._lost(error) from error
        return self._heard(wanted, taken, before)

    async def ask_async(self, wanted: Sequence[Window], cost: int) -> Answer:
        """`ask`, by a ledger that has `take_async`."""
        self.circuit.enter()
        try:
            before = self.monotonic()
            taken = await self.ledger.take_async(wanted, cost, 0)  # type: ignore[attr-defined]
        except Exception as error:
            raise self._lost(error) from error
        return self._heard(wanted, taken, before)

    def _lost(self, error: Exception) -> Away:
        self.circuit.failed(error)
        return Away("the limiter is away")

    def _heard(self, wanted: Sequence[Window], taken: Taken, before: float) -> Answer:
        self.circuit.succeeded()
        shift = wall_shift = 0
        if self.ledger.has_own_clock:
            shift = int(before * 1000) - taken.now
            wall_shift = self.clock() - taken.now
        with self._lock:
            self._wall_shift = wall_shift
            for window, counter in zip(wanted, taken.counters, strict=True):
                self._known[window.key] = counter
            if len(self._known) > len(self._known.lengths):
                self._known.sweep(wanted, taken.now)
        return Answer(taken, shift, wall_shift)

    # --- without an answer ---

    def without(self, wanted: Sequence[Window], cost: int, now: int) -> Tally:
        """What a take comes to while the ledger is away, by the outage policy. Does no I/O.

        Raises:
            Away: It is refused: 503.
        """
        at = now - self._wall_shift
        if self.outage == "open":
            with self._lock:
                tally, _ = windows.take(wanted, self._known, 0, at)
            return tally._replace(ready_at=tally.ready_at + self._wall_shift)
        if self.outage == "closed" or self.place is None:
            raise Away("the limiter is away")
        with self._lock:
            mine = [self._share(window, self.place, at) for window in wanted]
            tally, changes = windows.take(mine, self._own, cost, at)
            self._own.update(changes)
            if changes:
                self._own.sweep(wanted, at)
                self._owe(tuple(wanted), cost, at)
        whole = next((window for window in wanted if window.key == tally.window.key), None)  # type: ignore[union-attr]
        return tally._replace(window=whole, ready_at=tally.ready_at + self._wall_shift)

    def _share(self, window: Window, place: Place, at: int) -> Window:
        """The window with this process's share of what was left when last heard of."""
        counter = windows.roll(self._known.get(window.key), at // window.length)
        room = max(0, window.amount - windows.used(counter, window.length, at))
        each, rest = divmod(room, place.workers)
        return window._replace(amount=each + (place.rank < rest))

    # --- what is owed to the ledger ---

    def give_back(self, wanted: Sequence[Window], cost: int, taken_at: int) -> None:
        """Have `cost` given back that was taken at `taken_at` on the wall clock; no I/O here."""
        self.owe(tuple(wanted), -cost, taken_at - self._wall_shift)

    def owe(self, wanted: Windows, units: int, taken_at: int) -> None:
        """Have units added to windows, or with a minus given back, at the ledger's `taken_at`."""
        with self._lock:
            self._owe(wanted, units, taken_at)

    def _owe(self, wanted: Windows, units: int, taken_at: int) -> None:
        slot = (wanted, taken_at // min(window.length for window in wanted))
        known, at = self._owed.get(slot, (0, taken_at))
        self._owed[slot] = (known + units, min(at, taken_at))

    def settle(self) -> None:
        """Tell the ledger what it is owed; what can't be told waits."""
        if not self._owed:
            return
        try:
            self.circuit.enter()
        except Away:
            self._forgive()
            return
        try:
            self._settle(lambda _: True)
        except Exception as error:
            self.circuit.failed(error)
        else:
            self.circuit.succeeded()

    def _settle(self, concerns: Callable[[Windows], bool]) -> None:
        for slot in [slot for slot in list(self._owed) if concerns(slot[0])]:
            with self._lock:
                units, taken_at = self._owed.pop(slot, (0, 0))
                if units > 0:  # from now on the ledger counts them
                    for window in slot[0]:
                        self._own.pop(window.key, None)
            if not units:
                continue
            try:
                self.ledger.give_back(slot[0], -units, taken_at)
            except Exception:
                # Whether it had its effect is unknown. Adding twice admits no more than the
                # limit; giving back twice would.
                if units > 0:
                    self.owe(slot[0], units, taken_at)
                raise

    def _forgive(self) -> None:
        """Forget what would no longer count."""
        at = self.clock() - self._wall_shift
        with self._lock:
            for slot, (_, taken_at) in list(self._owed.items()):
                if at > taken_at + 2 * max(window.length for window in slot[0]):
                    del self._owed[slot]

    # --- being one of several ---

    def enlist(self) -> None:
        """Give a sign of life, and hear how many others do."""
        with suppress(Away):
            self.place = self.circuit.call(self.ledger.enlist, self._worker)

    def flush(self) -> None:
        """Settle, and stop being one of those at work, until the next sign of life."""
        self.settle()
        if self.place is not None:
            with suppress(Away):  # it will be missed soon enough
                self.circuit.call(self.ledger.leave, self._worker)

    def close(self) -> None:
        """`flush`, and let go of connections."""
        self.flush()
        self.place = None
        self.ledger.close()
