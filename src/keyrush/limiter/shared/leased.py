"""`KEYRUSH_LIMITER_MODE=leased`: a process takes units of shared windows in blocks, ahead of need.

What it has not used yet of a block, it serves from memory. Units were taken when the block was,
so they are good until the first of their windows turns to its next period, and no longer: used
later, they would have been counted too early. So never more is admitted than the ledger allows,
whatever happens to a process; what it holds when it is killed stays counted as used.

A block follows what the process itself uses in some seconds, and the ledger grants no more than
one part in `sliding.SHARE` of what is left: near the limit, units are taken one by one. What
lies idle is given back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from keyrush.core.sliding import UNLIMITED, Demand, Tally, Window
from keyrush.errors import Away
from keyrush.limiter.ledgers.protocol import AsyncLedger
from keyrush.limiter.protocol import LimiterState
from keyrush.limiter.shared.client import LedgerClient
from keyrush.limiter.shared.lease import Lease
from keyrush.limiter.shared.ledger_clock import Answer
from keyrush.limiter.shared.membership import SIGN_OF_LIFE
from keyrush.limiter.together import one_by_one
from keyrush.runtime.background import Background
from keyrush.runtime.bridge import in_event_loop
from keyrush.runtime.forks import after_fork

#: Seconds between two looks at what lies idle.
TICK = 0.1

#: Leases looked at for each new one, so that those of no use go faster than new ones come.
_SWEPT = 2

#: Makes a Tally in a third of the time that calling the class takes.
_tally = tuple.__new__


class LeasedLimiter:
    """Exact between all processes, at nearly the cost of one alone."""

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
        self._leases: OrderedDict[str, Lease] = OrderedDict()  # by the key of the first window
        self._held: set[Lease] = set()  # those with units, and some that had

    def __len__(self) -> int:
        return len(self._leases)

    def start(self, background: Background) -> None:
        self._background = background
        background.every(SIGN_OF_LIFE, self.client.membership.enlist)
        background.every(TICK, self.tick)

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
                if is_out and cost and cost == lease.refused:
                    return lease.refusal
        if self.client.circuit.is_open:
            return self._books.answer_in_outage(windows, cost, now)
        return None

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        tally = self.take_at_once(windows, cost, now)
        if tally is not None:
            return tally
        lease = self._lease(windows)
        # Where no thread could be started this is the event loop's own, and who asks may be one of
        # its tasks, which goes on when this is over.
        is_first = lease.asking.acquire(blocking=not in_event_loop())
        try:
            now = self._clock.wall()
            tally = self.take_at_once(windows, cost, now)  # of what another has brought meanwhile
            if tally is not None:
                return tally
            return self._ask(lease, windows, cost, is_first=is_first)
        except Away:
            return self._books.answer_in_outage(windows, cost, self._clock.wall())
        finally:
            if is_first:
                lease.asking.release()

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

    def _ask(self, lease: Lease, windows: Sequence[Window], cost: int, *, is_first: bool) -> Tally:
        """Ask the ledger; who `is_first` holds `lease.asking`, and asks for a block.

        Raises:
            Away: It can't answer.
        """
        asked_at = self._clock.instant()
        if is_first:
            self._prepare(lease, windows)
        extra = lease.ahead(cost, asked_at) if is_first and cost else 0
        answer = self.client.ask(windows, cost, extra)
        with self._lock:
            return self._absorb(lease, windows, answer, cost, asked_at if is_first else None)

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
        return tally

    # --- in the background ---

    def _refill(self, lease: Lease) -> None:
        """Ask for another block, unless that is being done."""
        if not lease.asking.acquire(blocking=False):
            return
        try:
            self._ask_ahead(lease)
        except Away:
            return  # whoever comes next finds out what holds then
        finally:
            lease.asking.release()

    def _ask_ahead(self, lease: Lease) -> None:
        asked_at, windows = self._clock.instant(), lease.windows
        if not lease.is_good(asked_at):
            return  # whoever comes next asks for what is needed then
        if extra := lease.ahead(0, asked_at):
            answer = self.client.ask(windows, 0, extra)
            if answer.taken.granted:
                with self._lock:
                    self._absorb(lease, windows, answer, 0, asked_at)

    def tick(self) -> None:
        """Give back what lies idle or can't be used any more."""
        with self._lock:
            instant = self._clock.instant()
            for lease in list(self._held):
                if lease.is_idle(instant) or not lease.is_good(instant):
                    self._let_go(lease)
        self.client.settle()

    def _let_go(self, lease: Lease) -> None:
        """Have all its units given back. The lock is held."""
        self._held.discard(lease)
        if units := lease.lose():
            self._books.owe(tuple(lease.windows), -units, lease.taken_at)

    def take_together(self, demands: Sequence[Demand], now: int) -> Tally:
        return one_by_one(self, demands, now)

    def take_together_at_once(
        self,
        demands: Sequence[Demand],  # noqa: ARG002  # as below
        now: int,  # noqa: ARG002  # only I/O can tell
    ) -> Tally | None:
        return None

    def add(self, windows: Sequence[Window], cost: int, now: int) -> None:
        self.give_back(windows, -cost, now)

    # --- giving back ---

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
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
            is_of_it = lease.is_of(windows, [at // window.length for window in windows])
            is_counted = self._books.counts(taken_at) and not self._books.owes(windows)
            if is_of_it and is_counted and lease.is_good(self._clock.instant()):
                lease.left += cost
                self._held.add(lease)
                return True
            lease.stale = True
            return False

    # --- state and end ---

    def state(self) -> LimiterState:
        return self.client.state()

    def flush(self) -> None:
        """Give back everything that is held; blocks."""
        with self._lock:
            for lease in list(self._held):
                self._let_go(lease)
        self.client.flush()

    def close(self) -> None:
        self.flush()
        self.client.close()


class AwaitedLeasedLimiter(LeasedLimiter):
    """The same over a ledger that can be awaited: who has to ask needs no thread.

    One of a subject's requests asks for a block, as in threads; those beside it don't wait for
    what it brings, but ask for their own cost, which the ledger sends along with the block.
    """

    def __init__(self, client: LedgerClient, ledger: AsyncLedger) -> None:
        super().__init__(client)
        self._take = ledger.take_async

    async def take_async(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        """`take`, on the event loop; None where the ledger has to be told something before."""
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        tally = self.take_at_once(windows, cost, now)
        if tally is not None:
            return tally
        lease = self._lease(windows)
        is_first = lease.asking.acquire(blocking=False)
        try:
            if is_first:
                self._prepare(lease, windows)
            if self._books.slots(windows):
                return None
            return await self._ask_async(lease, windows, cost, is_first=is_first)
        except Away:
            return self._books.answer_in_outage(windows, cost, self._clock.wall())
        finally:
            if is_first:
                lease.asking.release()

    async def _ask_async(
        self, lease: Lease, windows: Sequence[Window], cost: int, *, is_first: bool
    ) -> Tally:
        asked_at = self._clock.instant()
        extra = lease.ahead(cost, asked_at) if is_first and cost else 0
        answer = await self.client.ask_async(self._take, windows, cost, extra)
        with self._lock:
            return self._absorb(lease, windows, answer, cost, asked_at if is_first else None)

    async def take_together_async(self, demands: Sequence[Demand], now: int) -> Tally | None:  # noqa: ARG002  # what blocks can tell
        return None
