"""What a process holds of shared windows, subject by subject, without asking anybody.

What it has not used yet of a block, it serves from memory. Units were taken when the block was,
so they are good until the first of their windows turns to its next period, and no longer: used
later, they would have been counted too early. So never more is admitted than the ledger allows,
whatever happens to a process; what it holds when it is killed stays counted as used.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from keyrush.core import sliding
from keyrush.core.sliding import UNLIMITED, Demand, Part, Tally, Window
from keyrush.limiter.shared.client import LedgerClient
from keyrush.limiter.shared.demands import bounded, limited
from keyrush.limiter.shared.lease import Lease
from keyrush.limiter.shared.ledger_clock import Answer
from keyrush.runtime.background import Background
from keyrush.runtime.forks import after_fork

#: Leases looked at for each new one, so that those of no use go faster than new ones come.
_SWEPT = 2

#: Makes a Tally in a third of the time that calling the class takes.
_tally = tuple.__new__


class Used(NamedTuple):
    """Units of a lease that a take of several demands has used."""

    lease: Lease
    windows: Sequence[Window]
    periods: list[int]
    units: int
    taken_at: int  #: on the ledger's clock


class Lacking(NamedTuple):
    """A lease that lacks units for a demand."""

    place: int  #: of the demand among all
    lease: Lease
    is_first: bool  #: nobody else asks for a block of it


class Hand(NamedTuple):
    """A take of several demands: what it has of leases, and what it asks the ledger for."""

    tallies: list[Tally]  #: of all demands; of those that lack units none yet
    used: list[Used]
    parts: list[Part]
    lacking: list[Lacking]  #: of the parts
    asked_at: int

    def asked(self) -> list[tuple[Lease, Sequence[Window]]]:
        """The leases that lack units, and the windows that these are asked for of."""
        asked = zip(self.lacking, self.parts, strict=True)
        return [(lacking.lease, part.windows) for lacking, part in asked]


class Leases(ABC):
    """Leases by the key of their first window, under one lock. Does no I/O.

    Safe to use from any thread.
    """

    def __init__(self, client: LedgerClient) -> None:
        self.client = client
        self._clock = client.clock
        self._books = client.books
        self._background: Background | None = None
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """As in a new process: what a parent holds, its children may not use."""
        self._lock = threading.Lock()
        self._leases: OrderedDict[str, Lease] = OrderedDict()
        self._held: set[Lease] = set()  # those with units, and some that had

    def __len__(self) -> int:
        return len(self._leases)

    @abstractmethod
    def _refill(self, lease: Lease) -> None:
        """Ask for another block, in the background."""

    # --- taking ---

    def take_at_once(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        """`take` without I/O; None where only I/O can tell."""
        if not windows:
            return UNLIMITED
        lease = self._leases.get(windows[0][0])
        if lease is not None:
            instant = self._clock.instant(now) if self._clock.is_own else now
            with self._lock:  # what `Lease` could say is written out: a call costs more
                is_it = lease.windows is windows or lease.windows == windows
                is_good = is_it and lease.since <= instant < lease.until
                if is_good and lease.left >= cost and (cost or not lease.stale):
                    left = lease.left = lease.left - cost
                    if left <= lease.low and self._background is not None:
                        lease.low = -1
                        self._background.soon(partial(self._refill, lease))
                    remaining = lease.room + left
                    ready_at = lease.ends_at if remaining else lease.ready_at
                    return _tally(Tally, (True, lease.window, remaining, ready_at))
                is_out = is_it and lease.since <= instant < lease.out_until
                if is_out and cost >= lease.refused:
                    return lease.refusal_of(cost)
        if self.client.circuit.is_open:
            return self._books.answer_in_outage([Demand(windows, cost)], now)
        return None

    def take_together_at_once(self, demands: Sequence[Demand], now: int) -> Tally | None:
        """`take_together` without I/O; None where only I/O can tell."""
        with self._lock:
            tally = self._from_all(demands, self._clock.instant(now))
            if tally is not None:
                return tally
            demands = limited(demands)
            tally = self._refused(demands, now)
        if tally is None and self.client.circuit.is_open:
            return self._books.answer_in_outage(demands, now)
        return tally

    def _from_all(self, demands: Sequence[Demand], instant: int) -> Tally | None:
        """Take from the leases of all demands; None where one lacks units. The lock is held."""
        having: list[tuple[Lease, int]] = []
        for windows, cost in demands:
            if windows:
                lease = self._leases.get(windows[0][0])
                if lease is None or cost < 0 or not lease.has(windows, cost, instant):
                    return None
                having.append((lease, cost))
        return sliding.together([self._use(lease, cost) for lease, cost in having])

    def _refused(self, demands: Sequence[Demand], now: int) -> Tally | None:
        """What refusals that stand say to the demands. The lock is held."""
        instant = self._clock.instant(now)
        refusals: list[Tally] = []
        lacking: list[Demand] = []
        for demand in demands:
            lease = self._leases.get(demand.windows[0].key)
            if lease is None or not lease.has(*demand, instant):
                if lease is not None and lease.refuses(*demand, instant):
                    refusals.append(lease.refusal_of(demand.cost))
                else:
                    lacking.append(demand)
        if not refusals:
            return None
        # For how long, others that lack units may have to say, too.
        expected = [self._books.expected(*demand, now) for demand in lacking]
        return sliding.together(refusals + [one for one in expected if not one.admitted])

    def _use(self, lease: Lease, cost: int) -> Tally:
        """Take `cost` of its units; where few are left, more are asked for. The lock is held."""
        tally = lease.use(cost)
        if lease.left <= lease.low and self._background is not None:
            lease.low = -1
            self._background.soon(partial(self._refill, lease))
        return tally

    def _begin(
        self, demands: Sequence[Demand], leases: Sequence[Lease], first: Sequence[Lease]
    ) -> Tally | Hand:
        """What the leases say to all demands; or what they have of it, which nobody else uses
        meanwhile, and what is to be asked for: in blocks where the take comes `first`.
        """
        instant = self._clock.instant()
        hand = Hand([], [], [], [], instant)
        with self._lock:
            refused = self._refused(demands, self._clock.wall())
            if refused is not None:
                return refused
            for place, ((windows, cost), lease) in enumerate(zip(demands, leases, strict=True)):
                if lease.has(windows, cost, instant):
                    of = (lease, lease.windows, lease.periods, cost, lease.taken_at)
                    hand.used.append(Used(*of))
                    hand.tallies.append(self._use(lease, cost))
                    continue
                is_first = lease in first
                extra = lease.ahead(cost, instant) if is_first and cost else 0
                hand.parts.append(Part(windows, cost, extra))
                hand.lacking.append(Lacking(place, lease, is_first))
                hand.tallies.append(UNLIMITED)
        return hand if hand.parts else sliding.together(hand.tallies)

    def _end(self, hand: Hand, answers: Sequence[Answer]) -> Tally:
        """The tally of a take, now that the ledger has answered. Where it has refused a part, the
        leases of that part know it, and all others have what they had.
        """
        told = [
            answer.tally(part.windows, part.cost)
            for part, answer in zip(hand.parts, answers, strict=True)
        ]
        is_taken = all(tally.admitted for tally in told)
        asked = zip(hand.parts, hand.lacking, answers, told, strict=True)
        with self._lock:
            for (windows, cost, _), (place, lease, is_first), answer, tally in asked:
                if is_taken or not tally.admitted:
                    asked_at = hand.asked_at if is_first else None
                    tally = self._absorb(lease, windows, answer, cost, asked_at)  # noqa: PLW2901  # it knows of units
                hand.tallies[place] = tally
        if not is_taken:
            self._let_be(hand)
        return sliding.together(hand.tallies)

    def _let_be(self, hand: Hand) -> None:
        """Have the leases' units used again that a take has used which came to nothing."""
        with self._lock:
            instant = self._clock.instant()
            for lease, windows, periods, units, taken_at in hand.used:
                lease.out_until = 0
                if self._may_hold(lease, windows, periods, instant):
                    lease.left += units
                    self._held.add(lease)
                elif units:
                    lease.stale = True
                    self._books.owe(tuple(windows), -units, taken_at)

    def _may_hold(
        self, lease: Lease, windows: Sequence[Window], periods: Sequence[int], instant: int
    ) -> bool:
        """True when units of these windows and periods may be the lease's. Where something is yet
        to be added to one of the windows, the ledger might not grant them. The lock is held.
        """
        is_of_it = lease.is_of(windows, periods) and lease.is_good(instant)
        return is_of_it and not self._books.owes(windows)

    def _lease(self, windows: Sequence[Window]) -> Lease:
        """The lease of the windows; a new one makes others go that are of no use any more."""
        key = windows[0].key
        with self._lock:
            lease = self._leases.get(key)
            if lease is None:
                lease = self._leases[key] = Lease()
                instant = self._clock.instant()
                for _ in range(_SWEPT):
                    oldest, its = next(iter(self._leases.items()))
                    if its is lease or its.asking.locked() or its.is_of_use(instant):
                        self._leases.move_to_end(oldest)
                    else:
                        del self._leases[oldest]
            return lease

    def _prepare(self, lease: Lease, windows: Sequence[Window]) -> None:
        """Have units of other windows given back: the ledger, asked next, counts them no more."""
        if lease.windows != windows:
            with self._lock:
                self._let_go(lease)

    def _absorb(
        self,
        lease: Lease,
        windows: Sequence[Window],
        answer: Answer,
        cost: int,
        asked_at: int | None,
    ) -> Tally:
        """Make the answer part of the lease, and take `cost` of it. The lock is held."""
        if not lease.is_of(windows, answer.periods):
            self._let_go(lease)
            lease.turn_to(windows, answer)
        tally = lease.absorb(answer, cost, asked_at)
        if lease.left:
            self._held.add(lease)
            if self._books.owes(windows):  # added since the ledger was asked, which did not know
                self._let_go(lease)
        return tally

    def _let_go(self, lease: Lease) -> None:
        """Have all its units given back. The lock is held."""
        self._held.discard(lease)
        if units := lease.lose():
            self._books.owe(tuple(lease.windows), -units, lease.taken_at)

    def _gives_way(self, *asked: tuple[Lease, Sequence[Window]]) -> bool:
        """Whether a take that the ledger refused is to be asked for again, because it has counted
        what is held here: units that are too few for it, which are given back, or too old.
        """
        is_to_be_told = False
        with self._lock:
            for lease, windows in asked:
                if lease.left:
                    self._let_go(lease)
                if self._books.slots(windows):
                    lease.out_until, is_to_be_told = 0, True
        return is_to_be_told

    # --- adding and giving back ---

    def add(self, windows: Sequence[Window], cost: int, now: int) -> None:
        """Count what was used without being taken: of the lease's units, and the ledger is told of
        the rest before it is asked again.
        """
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        if not windows or not cost:
            return
        lease = self._leases.get(windows[0].key)
        with self._lock:
            left = bounded(cost, windows)
            if lease is not None:
                left -= self._use_up(lease, windows, left, now)
            if left:
                self._books.give_back(windows, -left, now)

    def _use_up(self, lease: Lease, windows: Sequence[Window], most: int, now: int) -> int:
        """Use of its units what is there, `most` at most: how many. The lock is held."""
        at = self._clock.ledger_time(now)
        is_of_it = lease.is_of(windows, [at // window.length for window in windows])
        if not is_of_it or not lease.is_good(self._clock.instant()):
            self._let_go(lease)  # nobody may use what the ledger might not grant any more
            return 0
        units = min(most, lease.left)
        lease.left -= units
        lease.stale = lease.stale or units < most
        return units

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        if cost < 0:
            self.add(windows, -cost, taken_at)
            return
        if not windows:
            return
        lease = self._leases.get(windows[0].key)
        if lease is None or not self._put_back(lease, windows, cost, taken_at):
            self._books.give_back(windows, cost, taken_at)

    def _put_back(self, lease: Lease, windows: Sequence[Window], cost: int, taken_at: int) -> bool:
        """Have units used again that were taken at `taken_at` on the wall clock. False where they
        are not of this lease, or may not be counted: then it knows less than the ledger.
        """
        with self._lock:
            lease.out_until = 0
            at = self._clock.ledger_time(taken_at)
            periods = [at // window.length for window in windows]
            instant = self._clock.instant()
            may_know = self._books.counts(taken_at) and not (lease.stale or lease.overdrawn)
            if may_know and self._may_hold(lease, windows, periods, instant):
                lease.left += cost
                self._held.add(lease)
                return True
            lease.stale = True
            return False
