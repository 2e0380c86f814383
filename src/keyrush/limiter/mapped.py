"""Windows of one machine, in a file that all its workers map: exact, on the caller's thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from keyrush.core import sliding
from keyrush.core.sliding import Demand, Tally, Window
from keyrush.errors import Away
from keyrush.limiter.ledgers.mapped.records import Held, NoPlace
from keyrush.limiter.ledgers.mapped.table import Table
from keyrush.limiter.ledgers.mapped.tables import TABLES
from keyrush.limiter.over_file import OverFile
from keyrush.limiter.protocol import Outage
from keyrush.runtime.clock import now_ms

#: What is to be given back, or added, and could not be yet; the oldest is forgotten, so that what
#: was given back counts.
_OWED = 10_000


class MappedLimiter(OverFile[Table]):
    """`file:///…`. Safe to use from any thread. `clock` gives Unix milliseconds.

    Raises:
        Unusable: The file can't be used.
    """

    _what = "windows"

    def __init__(
        self,
        path: str,
        outage: Outage = "local",
        clock: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uncounted: dict[int, int] = {}  # when takes passed last that nothing has counted
        super().__init__(path, TABLES, outage, clock, monotonic)

    def _renew_lock(self) -> None:
        super()._renew_lock()
        #: What a parent owes is told by the parent.
        self._owed: deque[tuple[Sequence[Window], int, int]] = deque(maxlen=_OWED)

    def take_at_once(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        table = self._table
        if table is None:
            return self._without((windows,), now) if self._circuit.is_open else None
        try:
            tally = table.take(windows, cost, now, self._clock)
        except (Held, NoPlace) as why:
            return self._without((windows,), now) if self._is_given_up(table, why) else None
        if table.filling:
            self._grow_soon()
        return tally

    def take_together_at_once(self, demands: Sequence[Demand], now: int) -> Tally | None:
        table = self._table
        if table is None:
            return self._without(_windows(demands), now) if self._circuit.is_open else None
        try:
            tally = table.take_together(demands, now, self._clock)
        except (Held, NoPlace) as why:
            return self._without(_windows(demands), now) if self._is_given_up(table, why) else None
        if table.filling:
            self._grow_soon()
        return tally

    def _is_given_up(self, table: Table, why: Held | NoPlace) -> bool:
        """Whether nobody waits for that any more."""
        return why.stripe in table.stuck if isinstance(why, Held) else self._room.is_open

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        """`take_at_once`, where one may wait: for a lock, or until the file is larger."""
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        return self.take_together([Demand(windows, cost)], now)

    def take_together(self, demands: Sequence[Demand], now: int) -> Tally:
        def ask(table: Table, has_waited: bool) -> Tally:
            nonlocal now
            if has_waited:
                now = max(now, self._clock())
            return table.take_together(demands, now, self._clock)

        try:
            return self._patiently(ask)
        except Away:
            return self._without(_windows(demands), now)

    def _without(self, subjects: Sequence[Sequence[Window]], now: int) -> Tally:
        """The answer of the outage policy, of all windows of a request."""
        if self._outage == "closed":
            raise Away("the limiter is away")
        for windows in subjects:
            if windows:
                slot = _slot(windows)
                self._uncounted[slot] = max(now, self._uncounted.get(slot, now))
        return sliding.take_together([Demand(windows, 0) for windows in subjects], {}, now)[0]

    def add(self, windows: Sequence[Window], cost: int, now: int) -> None:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        if cost:
            self._return(windows, -cost, now)

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        if windows and taken_at > self._uncounted.get(_slot(windows), -1):
            self._return(windows, cost, taken_at)

    def _return(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        """Give back, or with a negative cost add; where that can't be now, it is owed."""
        table = self._table
        if cost > 0 and (table is None or not self.counts(taken_at)):
            return
        try:
            if table is not None:
                table.give_back(windows, cost, taken_at, self._clock)
                return
        except Held:
            pass
        except NoPlace:
            self._grow_soon()
        self._owed.append((windows, cost, taken_at))

    def counts(self, taken_at: int) -> bool:
        """False where a take at `taken_at` may have been counted in a file that is gone."""
        return taken_at >= self._opened_at

    def _settle(self) -> None:
        for _ in range(len(self._owed)):
            self._return(*self._owed.popleft())

    def _tend(self, table: Table) -> None:  # noqa: ARG002  # what is owed is of any
        self._settle()

    def flush(self) -> None:
        """Give back, and add, what could not be yet."""
        self._settle()

    def close(self) -> None:
        """`flush`, and let go of the file. May be used again."""
        self._settle()
        super().close()


def _windows(demands: Sequence[Demand]) -> list[Sequence[Window]]:
    return [demand.windows for demand in demands]


def _slot(windows: Sequence[Window]) -> int:
    """Few numbers for all subjects, so that what is remembered by them is bounded."""
    return hash(windows[0].key) % 1024
