"""`KEYRUSH_LIMITER_MODE=leased`: a process takes units of shared windows in blocks, ahead of need.

What it has not used yet of a block, it serves from memory. Units were taken when the block was,
so they are good until the first of their windows turns to its next period, and no longer: used
later, they would have been counted too early. So never more is admitted than the ledger allows,
whatever happens to a process; what it holds when it is killed stays counted as used.

A block follows what the process itself uses in `HORIZON`, and the ledger grants no more than
one part in `sliding.SHARE` of what is left: near the limit, units are taken one by one. What
lies idle is given back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from keyrush.core.sliding import UNLIMITED, Tally, Window
from keyrush.errors import Away
from keyrush.limiter.protocol import LimiterState
from keyrush.limiter.shared.client import SIGN_OF_LIFE, Answer, SharedWindows
from keyrush.runtime.background import Background
from keyrush.runtime.forks import after_fork

#: Milliseconds of a process's own use that a block is meant to last.
HORIZON = 200

#: Seconds between two looks at what lies idle.
TICK = 0.1

#: A block is asked for ahead of need when this part of the last one is left.
_LOW = 4

#: Leases looked at for each new one, so that those of no use go faster than new ones come.
_SWEPT = 2

#: Makes a Tally in a third of the time that calling the class takes.
_tally = tuple.__new__


class Lease:
    """What a process holds of one subject's windows, and what it knows of them.

    Changed under the lock of `LeasedLimiter` alone; who asks the ledger holds `asking`, so
    that answers come in order. Instants without a word are those of `SharedWindows.instant`.
    """

    __slots__ = (
        "asked_at",
        "asking",
        "ends_at",
        "filled",
        "idle",
        "left",
        "low",
        "out_until",
        "periods",
        "ready_at",
        "refusal",
        "refused",
        "room",
        "since",
        "stale",
        "taken_at",
        "until",
        "window",
        "windows",
    )

    def __init__(self) -> None:
        self.asking = threading.Lock()
        self.windows: Sequence[Window] = ()
        self.periods: list[int] = []  # of the windows, when the units were taken
        self.left = 0  # units
        self.filled = 0  # units there were after the last answer
        self.low = -1  # units at which more are asked for ahead; -1: not ahead
        self.idle = -1  # units there were at the last look
        self.since = self.until = 0  # when the units are good
        self.taken_at = 0  # on the ledger's clock
        self.asked_at = 0
        #: For the tally: the most constrained window, what others leave in it, and the ends.
        self.window: Window | None = None
        self.room = 0
        self.ends_at = self.ready_at = 0  # on the wall clock
        self.stale = False  # something was given back since, which only the ledger knows
        self.out_until = 0  # until then the ledger need not be asked
        self.refusal: Tally = UNLIMITED
        self.refused = 0  # the cost that was refused


class LeasedLimiter:
    """Exact between all processes, at nearly the cost of one alone."""

    def __init__(self, shared: SharedWindows) -> None:
        self.shared = shared
        self._background: Background | None = None
        self._by_monotonic = shared.ledger.has_own_clock
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
        background.every(SIGN_OF_LIFE, self.shared.enlist)
        background.every(TICK, self.tick)

    # --- taking ---

    def take_at_once(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        """`take` without I/O; None where only I/O can tell."""
        if not windows:
            return UNLIMITED
        lease = self._leases.get(windows[0][0])
        if lease is not None:
            instant = self.shared.instant(now) if self._by_monotonic else now
            with self._lock:
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
        if self.shared.circuit.is_open:
            return self.shared.without(windows, cost, now)
        return None

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        tally = self.take_at_once(windows, cost, now)
        if tally is not None:
            return tally
        lease = self._lease(windows)
        with lease.asking:
            now = self.shared.clock()
            tally = self.take_at_once(windows, cost, now)  # of what another has brought meanwhile
            if tally is not None:
                return tally
            try:
                return self._ask(lease, windows, cost)
            except Away:
                return self.shared.without(windows, cost, self.shared.clock())

    def _lease(self, windows: Sequence[Window]) -> Lease:
        """The lease of the windows; a new one makes others go that are of no use any more."""
        key = windows[0].key
        with self._lock:
            lease = self._leases.get(key)
            if lease is None:
                lease = self._leases[key] = Lease()
                instant = self.shared.instant(self.shared.clock())
                for _ in range(_SWEPT):
                    oldest, its = next(iter(self._leases.items()))
                    if its is lease or its.left or its.asking.locked() or instant < its.out_until:
                        self._leases.move_to_end(oldest)
                    else:
                        del self._leases[oldest]
            return lease

    def _ask(self, lease: Lease, windows: Sequence[Window], cost: int) -> Tally:
        """Ask the ledger, holding `lease.asking`.

        Raises:
            Away: It can't answer.
        """
        instant = self.shared.instant(self.shared.clock())
        if lease.windows != windows:  # before the ledger is asked, which then counts them no more
            with self._lock:
                self._let_go(lease)
        answer = self.shared.ask(windows, cost, self._extra(lease, cost, instant) if cost else 0)
        with self._lock:
            return self._absorb(lease, windows, answer, cost, instant)

    def _extra(self, lease: Lease, cost: int, instant: int) -> int:
        """How many units to ask for ahead: what `HORIZON` needs at the rate since the last time,
        in steps that double at most, so that a single pair of requests makes no block.
        """
        if not lease.asked_at:
            return 0
        used = lease.filled - lease.left + cost
        elapsed = max(1, instant - lease.asked_at)
        horizon = HORIZON
        if lease.since <= instant < lease.until:
            horizon = min(horizon, lease.until - instant)
        return max(0, min(used * horizon // elapsed, 2 * lease.filled + 1))

    def _absorb(
        self, lease: Lease, windows: Sequence[Window], answer: Answer, cost: int, instant: int
    ) -> Tally:
        """Make the answer part of the lease, and take `cost` of it."""
        taken = answer.taken
        periods = [counter[0] for counter in taken.counters]
        if periods != lease.periods or lease.windows != windows:
            self._let_go(lease)
            lease.windows, lease.periods = windows, periods
            lease.since = taken.now + answer.shift
        lease.since = min(lease.since, taken.now + answer.shift)  # the clock has stepped back
        starts = [period * w.length for period, w in zip(periods, windows, strict=True)]
        ends = [start + w.length for start, w in zip(starts, windows, strict=True)]
        lease.until = min(ends) + answer.shift
        lease.taken_at = max(taken.now, *starts)  # they may be held at a later period
        lease.asked_at, lease.stale = instant, False
        tally = answer.tally(windows, 0)
        lease.window, lease.room, lease.ready_at = tally.window, tally.remaining, tally.ready_at
        assert tally.window is not None  # noqa: S101  # there are windows
        length = tally.window.length
        lease.ends_at = (taken.now // length + 1) * length + answer.wall_shift
        if taken.granted < cost:
            lease.refusal = answer.tally(windows, cost)
            lease.refused = cost
            lease.out_until = lease.refusal.ready_at - answer.wall_shift + answer.late_shift
            lease.low = -1
            return lease.refusal
        lease.out_until = 0
        lease.left += taken.granted - cost
        lease.filled = lease.left
        lease.low = lease.left // _LOW or -1
        if lease.left:
            lease.idle = -1
            self._held.add(lease)
        remaining = lease.room + lease.left
        return Tally(True, lease.window, remaining, lease.ends_at if remaining else lease.ready_at)

    # --- in the background ---

    def _refill(self, lease: Lease) -> None:
        """Ask for another block, unless that is being done."""
        if not lease.asking.acquire(blocking=False):
            return
        try:
            instant = self.shared.instant(self.shared.clock())
            windows = lease.windows
            if not lease.since <= instant < lease.until:
                return  # whoever comes next asks for what is needed then
            if extra := self._extra(lease, 0, instant):
                answer = self.shared.ask(windows, 0, extra)
                if answer.taken.granted:
                    with self._lock:
                        self._absorb(lease, windows, answer, 0, instant)
        except Away:
            return
        finally:
            lease.asking.release()

    def tick(self) -> None:
        """Give back what has not been used since the last tick or can't be any more."""
        with self._lock:
            instant = self.shared.instant(self.shared.clock())
            for lease in list(self._held):
                if lease.left == lease.idle or not lease.since <= instant < lease.until:
                    self._let_go(lease)
                lease.idle = lease.left
        self.shared.settle()

    def _let_go(self, lease: Lease) -> None:
        if lease.left:
            self.shared.owe(tuple(lease.windows), -lease.left, lease.taken_at)
            lease.stale = True
        lease.filled -= lease.left  # they were not used
        lease.left = 0
        self._held.discard(lease)

    # --- giving back ---

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        if not windows:
            return
        lease = self._leases.get(windows[0].key)
        with self._lock:
            if lease is not None:
                lease.out_until = 0
                instant = self.shared.instant(self.shared.clock())
                is_good = lease.since <= instant < lease.until and lease.windows == windows
                at = self.shared.ledger_time(taken_at)
                is_of_it = lease.periods == [at // window.length for window in windows]
                is_counted = self.shared.counts(taken_at) and not self.shared.owes(windows)
                if is_good and is_of_it and is_counted:
                    lease.left += cost
                    self._held.add(lease)
                    return
                lease.stale = True
        self.shared.give_back(windows, cost, taken_at)

    def state(self) -> LimiterState:
        return self.shared.state()

    def flush(self) -> None:
        """Give back everything that is held; blocks."""
        with self._lock:
            for lease in list(self._held):
                self._let_go(lease)
        self.shared.flush()

    def close(self) -> None:
        self.flush()
        self.shared.close()
