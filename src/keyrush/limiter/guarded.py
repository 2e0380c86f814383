"""A limiter whose server may be away: left alone then, and answered for by the outage policy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from keyrush.core import sliding
from keyrush.core.sliding import Demand, Tally, Window
from keyrush.errors import Away, DataError, LimiterError
from keyrush.limiter.protocol import WELL, LimiterState, Outage, SmallLimiter
from keyrush.limiter.together import one_by_one
from keyrush.runtime.background import Background
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault

#: What is to be added and has not been yet; the oldest is forgotten.
_OWED = 10_000


class GuardedLimiter:
    """Makes a whole limiter of one that is no ledger, and puts a circuit before it.

    Nobody counts the processes that share it, so none knows its share of a limit: `local` is
    `closed` here. Open, requests pass as through windows that nothing was taken from. With
    `is_local` the event loop may call it. Several subjects are taken from one after the other.
    """

    def __init__(
        self,
        inner: SmallLimiter,
        outage: Outage,
        monotonic: Callable[[], float],
        *,
        is_local: bool = False,
    ) -> None:
        self._inner = inner
        self._is_local = is_local
        self._outage: Outage = "open" if outage == "open" else "closed"
        self._circuit = Circuit("the limiter", monotonic)
        self._background: Background | None = None
        self._forget_owed()
        after_fork(self._forget_owed)

    def _forget_owed(self) -> None:
        """As in a new process: what a parent owes is told by the parent."""
        self._owed: deque[tuple[Sequence[Window], int, int]] = deque(maxlen=_OWED)

    def __repr__(self) -> str:
        return repr(self._inner)

    def take_at_once(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        """`take`, where that does no I/O; the answer of an outage, while there is one."""
        if self._is_local:
            return self.take(windows, cost, now)
        return self._without(windows, now) if self._circuit.is_open else None

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        if self._owed:
            self._settle()
        try:
            return self._circuit.call(self._asked, windows, cost, now)
        except Away:
            return self._without(windows, now)

    def _asked(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        try:
            tally: object = self._inner.take(windows, cost, now)
        except DataError as error:  # of a store it is an answer, but there is none without a tally
            raise LimiterError(str(error)) from error
        if not isinstance(tally, Tally):
            raise TypeError(f"take gave {type(tally).__name__}, not a Tally")
        return tally

    def _without(self, windows: Sequence[Window], now: int) -> Tally:
        if self._outage == "closed":
            raise Away("the limiter is away")
        return sliding.take(windows, {}, 0, now)[0]

    def take_together(self, demands: Sequence[Demand], now: int) -> Tally:
        return one_by_one(self, demands, now)

    def take_together_at_once(self, demands: Sequence[Demand], now: int) -> Tally | None:
        if self._is_local:
            return self.take_together(demands, now)
        return self._without(sliding.joined(demands)[0], now) if self._circuit.is_open else None

    def add(self, windows: Sequence[Window], cost: int, now: int) -> None:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        if not cost or not windows:
            return
        self._owed.append((windows, -cost, now))
        if self._is_local:
            self._settle()
        elif self._background is not None:
            self._background.soon(self._settle)

    def _settle(self) -> None:
        """Tell what was added. While the limiter is away it is kept."""
        for _ in range(len(self._owed)):
            try:
                owed = self._owed.popleft()
            except IndexError:  # another thread tells it
                return
            try:
                self._circuit.call(self._inner.give_back, *owed)
            except Away:
                self._owed.appendleft(owed)
                return
            except DataError as error:  # an answer: it takes no such thing, now or later
                log_fault("what a request cost beyond what it took is not counted", error)

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        if self._circuit.is_closed:  # otherwise it may have passed uncounted
            try:
                self._circuit.call(self._inner.give_back, windows, cost, taken_at)
            except Away:
                if self._outage == "closed":
                    raise

    def start(self, background: Background) -> None:
        self._background = background

    def state(self) -> LimiterState:
        if self._circuit.is_closed:
            return WELL
        return LimiterState(True, self._circuit.seconds_away, self._outage)

    def flush(self) -> None:
        """Tell what was added and has not been told yet."""
        self._settle()

    def close(self) -> None:
        self._settle()
        self._inner.close()
