"""Windows in a PostgreSQL database: for all processes of all machines that share it.

The arithmetic of `core.sliding` is restated in `sql/functions.sql`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keyrush.core import sliding
from keyrush.core.sliding import Part, Taken, Window
from keyrush.limiter.ledgers.calls import Call, taken_of, undoing
from keyrush.limiter.ledgers.postgresql_calls import PostgresqlCalls, numbers, texts
from keyrush.limiter.ledgers.protocol import WORKER_TTL, Place
from keyrush.sql.engine import Database

#: Idle counters that one `enlist` deletes at most.
SWEPT = 1000

_TTL = int(WORKER_TTL * 1000)

_ENLIST = "SELECT keyrush_enlist(%s::text, %s::bigint, %s::bigint, %s::bigint)"


class PostgresqlLedger(PostgresqlCalls[Call, list[Taken]]):
    """A ledger in the tables of a PostgreSQL database, which remains the store's to close.

    It goes by the server's clock; `clock`, in Unix milliseconds, stands in for that. Counters that
    count no more are deleted by `enlist`. A call is one message, and so one round trip.
    Where the database can't answer, every method raises `StoreError`, or `NoReply`.
    """

    def __init__(self, database: Database, clock: Callable[[], int] | None = None) -> None:
        super().__init__(database, clock, undoing)
        self.has_own_clock = clock is None

    # --- windows ---

    def take(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        return self.take_together([Part(windows, cost, extra)])[0]

    async def take_async(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        return (await self.take_together_async([Part(windows, cost, extra)]))[0]

    def take_together(self, parts: Sequence[Part]) -> list[Taken]:
        return self._ask(Call("take", parts))

    async def take_together_async(self, parts: Sequence[Part]) -> list[Taken]:
        """`take_together`. What is granted to a task that has been cancelled meanwhile is given
        back.
        """
        return await self._loops.ask(0, Call("take", parts))

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        self._ask(Call("give", [(windows, cost, taken_at)]))

    def keys(self, call: Call) -> Sequence[str]:
        return [window.key for window in call.windows]

    def statement(self, call: Call, at: str) -> str:
        windows = call.windows
        keys = texts([window.key for window in windows])
        lengths = numbers([window.length for window in windows])
        sizes, costs, others = [], [], []
        for its, cost, other in call.parts:
            sizes.append(len(its))
            costs.append(cost)
            others.append(other)
        parts = f"{numbers(sizes)}, {numbers(costs)}, {numbers(others)}"
        if call.operation == "give":
            return f"SELECT keyrush_give_back({keys}, {lengths}, {parts})"
        amounts = numbers([window.amount for window in windows])
        rest = f"{parts}, {sliding.SHARE}, {at}"
        return f"SELECT keyrush_take({keys}, {lengths}, {amounts}, {rest})"

    def answers(self, found: Sequence[Any], calls: Sequence[Call]) -> list[list[Taken]]:
        taken = []
        for answer, call in zip(found, calls, strict=True):
            told = iter(answer or [0])
            taken.append(taken_of(call, next(told), told))
        return taken

    # --- processes ---

    def enlist(self, worker: str) -> Place:
        at = self._clock and self._clock()
        return Place(*self.execute(_ENLIST, worker, _TTL, SWEPT, at))

    def leave(self, worker: str) -> None:
        self.execute("DELETE FROM keyrush_workers WHERE id = %s RETURNING id", worker)

    def advice(self) -> str | None:
        """None: a database has no other way of being used."""
        return None
