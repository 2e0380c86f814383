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
from keyrush.limiter.together import one_by_one
from keyrush.runtime.clock import now_ms

#: What is to be given back and could not be yet; the oldest is forgotten, so that it counts.
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
        self._owed: deque[tuple[Sequence[Window], int, int]] = deque(maxlen=_OWED)
        self._uncounted: dict[int, int] = {}  # when takes passed last that nothing has counted
        super().__init__(path, TABLES, outage, clock, monotonic)

    def take_at_once(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        table = self._table
        if table is None:
            return self._without(windows, now) if self._circuit.is_open else None
        try:
            tally = table.take(windows, cost, now, self._clock)
        except Held as held:
            return self._without(windows, now) if held.stripe in table.stuck else None
        except NoPlace:
            return self._without(windows, now) if self._room.is_open else None
        if table.filling:
            self._grow_soon()
        return tally

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        """`take_at_once`, where one may wait: for a lock, or until the file is larger."""
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")

        def ask(table: Table, has_waited: bool) -> Tally:
            nonlocal now
            if has_waited:
                now = max(now, self._clock())
            return table.take(windows, cost, now, self._clock)

        try:
            return self._patiently(ask)
        except Away:
            return self._without(windows, now)

    def _without(self, windows: Sequence[Window], now: int) -> Tally:
        """The answer of the outage policy."""
        if self._outage == "closed":
            raise Away("the limiter is away")
        slot = _slot(windows)
        self._uncounted[slot] = max(now, self._uncounted.get(slot, now))
        return sliding.take(windows, {}, 0, now)[0]

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

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        if windows and taken_at > self._uncounted.get(_slot(windows), -1):
            self._return(windows, cost, taken_at)

    def _return(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        table = self._table
        if table is None or not self.counts(taken_at):
            return
        try:
            table.give_back(windows, cost, taken_at)
        except Held:
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
        """Give back what could not be given back yet."""
        self._settle()

    def close(self) -> None:
        """`flush`, and let go of the file. May be used again."""
        self._settle()
        super().close()


def _slot(windows: Sequence[Window]) -> int:
    """Few numbers for all subjects, so that what is remembered by them is bounded."""
    return hash(windows[0].key) % 1024
