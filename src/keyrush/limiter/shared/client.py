"""Shared windows as one process sees them: a ledger, and what holds while it can't answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from keyrush.core import sliding
from keyrush.core.sliding import Taken, Tally, Window
from keyrush.limiter.counters import Counters
from keyrush.limiter.ledgers.protocol import WORKER_TTL, Ledger, Place
from keyrush.limiter.protocol import LimiterState, Outage
from keyrush.limiter.shared.owed import Owed, Slot, Windows
from keyrush.runtime.circuit import Away, Circuit
from keyrush.runtime.forks import after_fork, process_name

#: Seconds between two signs of life to the ledger.
SIGN_OF_LIFE = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the ledger said. The shifts turn its instants into those of this process.

    Between asking and hearing, this process doesn't know when the ledger's clock was read.
    Adding `shift` gives the earliest instant that it can have been on the clock of
    `SharedWindows.instant`, by which units expire; adding `late_shift` gives the latest, and
    adding `wall_shift` the same on the wall clock, by which a client that waits until then is
    not too early.
    """

    taken: Taken
    shift: int
    late_shift: int
    wall_shift: int

    def tally(self, windows: Sequence[Window], cost: int) -> Tally:
        """The tally of a take of `cost`, on the wall clock."""
        tally = sliding.tally(windows, self.taken, cost)
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
        self._missed_at = -WORKER_TTL  # when the ledger did not answer a sign of life
        now = self.clock()
        self._late_shift = self.instant(now) - now  # as if the ledger's clock were the wall clock
        self._knows_clock = not self.ledger.has_own_clock
        self._uncounted_until = 0  # until when, on the wall clock, takes may not be counted
        self._known = Counters()  # as the ledger last had them
        self._own = Counters()  # what was admitted meanwhile, by this process's share
        self._owed = Owed()
        self._telling = threading.Lock()  # held by whoever tells the ledger of it

    # --- asking ---

    def instant(self, now: int) -> int:
        """Milliseconds on the clock by which units expire: the wall clock `now` where the
        ledger goes by it, else one that nobody can set.
        """
        return int(self.monotonic() * 1000) if self.ledger.has_own_clock else now

    def ledger_time(self, instant: int) -> int:
        """The instant of the wall clock on the ledger's, rather too early than too late."""
        now = self.clock()
        return instant - now + self.instant(now) - self._late_shift

    def ask(self, windows: Sequence[Window], cost: int, extra: int) -> Answer:
        """`Ledger.take`.

        Raises:
            Away: The ledger can't answer, or has not been asked because it couldn't before.
        """
        self.circuit.enter()
        try:
            if self._owed:
                with self._lock:
                    concerned = self._owed.concerning(windows)
                self._tell(concerned)
            before = self.monotonic()
            taken = self.ledger.take(windows, cost, extra)
        except Exception as error:
            raise self._lost(error) from error
        return self._heard(windows, taken, before)

    async def ask_async(
        self,
        take: Callable[[Sequence[Window], int, int], Awaitable[Taken]],
        windows: Sequence[Window],
        cost: int,
    ) -> Answer:
        """`ask`, by the ledger's own `take_async`."""
        self.circuit.enter()
        try:
            before = self.monotonic()
            taken = await take(windows, cost, 0)
        except Exception as error:
            raise self._lost(error) from error
        return self._heard(windows, taken, before)

    def _lost(self, error: Exception) -> Away:
        self.circuit.failed(error)
        return Away("the limiter is away")

    def _heard(self, windows: Sequence[Window], taken: Taken, before: float) -> Answer:
        self.circuit.succeeded()
        shift = late_shift = wall_shift = 0
        if self.ledger.has_own_clock:
            # Both instants are cut to milliseconds: the difference may be one less.
            shift = int(before * 1000) - taken.now - 1
            wall = self.clock()
            late_shift, wall_shift = self.instant(wall) - taken.now, wall - taken.now
        with self._lock:
            latest = late_shift + self.ledger.has_own_clock  # milliseconds are cut, as above
            if not self._knows_clock or not shift <= self._late_shift <= latest:
                self._late_shift, self._knows_clock = latest, True  # known better, or set anew
            if self._own and not self._owed.adds_to(windows):  # the ledger counts it all
                for window in windows:
                    self._own.pop(window.key, None)
            for window, counter in zip(windows, taken.counters, strict=True):
                self._known[window.key] = counter
            if len(self._known) > len(self._known.lengths):
                self._known.sweep(windows, taken.now)
        return Answer(taken, shift, late_shift, wall_shift)

    # --- without an answer ---

    def without(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        """What a take comes to while the ledger is away, by the outage policy. Does no I/O.

        Raises:
            Away: It is refused: 503.
        """
        if self.outage == "open":
            at = self.ledger_time(now)
            with self._lock:
                self._uncounted_until = max(self._uncounted_until, now)
                tally, _ = sliding.take(windows, self._known, 0, at)
            return tally._replace(ready_at=tally.ready_at + now - at)
        # What is admitted is counted later: as of when, only the ledger's clock tells.
        if self.outage == "closed" or self.place is None or not self._knows_clock:
            raise Away("the limiter is away")
        with self._lock:
            now = max(now, self.clock())  # which may have had to wait for the lock
            at = self.ledger_time(now)  # never in its future, where counters would begin anew
            mine = [self._share(window, self.place, at) for window in windows]
            tally, changes = sliding.take(mine, self._own, cost, at)
            self._own.update(changes)
            if changes:
                self._own.sweep(windows, at)
                self._owed.owe(tuple(windows), cost, at)
        part = tally.window
        whole = next((window for window in windows if part and window.key == part.key), None)
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
        """Have `cost` given back that was taken at `taken_at` on the wall clock; no I/O here."""
        if not self.counts(taken_at):
            return
        at = self.ledger_time(taken_at)
        with self._lock:
            self._owed.owe(tuple(windows), -cost, at)
            for key, length, _, _ in windows:
                if own := sliding.give_back(self._own.get(key), length, cost, at):
                    self._own[key] = own

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

    def settle(self) -> None:
        """Tell the ledger what it is owed; what can't be told waits."""
        if not self._owed:
            return
        try:
            self.circuit.enter()
        except Away:
            with self._telling, self._lock:
                self._owed.tidy(self.ledger_time(self.clock()))
            return
        try:
            self._tell(list(self._owed))
        except Exception as error:
            self.circuit.failed(error)
        else:
            self.circuit.succeeded()

    def _tell(self, slots: list[Slot]) -> None:
        for slot in slots:
            with self._telling:  # whoever else is concerned waits until it is counted
                self._tell_one(slot)

    def _tell_one(self, slot: Slot) -> None:
        """Tell what is owed of a slot.

        Whether a call that fails had its effect is unknown. Adding twice admits no more than the
        limit; giving back twice would.
        """
        with self._lock:
            units, taken_at = self._owed.get(slot, (0, 0))
        if not units:
            return
        is_told = units < 0
        try:
            self.ledger.give_back(slot[0], -units, taken_at)
            is_told = True
        finally:
            if is_told:
                with self._lock:  # more may have come meanwhile
                    self._owed.add(slot, -units, taken_at)

    # --- being one of several ---

    def state(self) -> LimiterState:
        """How the ledger stands, and among how many processes; does no I/O."""
        workers = self.place.workers if self.place else None
        if self.circuit.is_closed:
            return LimiterState(workers=workers)
        return LimiterState(True, self.circuit.seconds_away, self.outage, workers)

    def enlist(self) -> None:
        """Give a sign of life, and hear how many others do.

        After an outage those that are slow to speak up are not missing, for a while.
        """
        now = self.monotonic()
        try:
            place = self.circuit.call(self.ledger.enlist, self._worker)
        except Away:
            self._missed_at = now
            return
        known = self.place
        if known is None or place.workers >= known.workers or now - self._missed_at >= WORKER_TTL:
            self.place = place

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
