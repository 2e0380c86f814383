"""Slots in a PostgreSQL database: for all processes of all machines that share it.

What a process holds goes with the row of its lease, so whoever finds that one has ended ends both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from keyrush.core.concurrency import Want
from keyrush.limiter.ledgers.postgresql_calls import PostgresqlCalls, numbers, texts
from keyrush.limiter.slots.ledger import TOGETHER, SlotAnswer, SlotCall, Standing
from keyrush.limiter.slots.protocol import LEASE
from keyrush.sql.engine import Database

_LEASE = int(LEASE * 1000)

_RENEW = "SELECT keyrush_slot_lease(%s::text, %s::text[], %s::bigint, %s::bigint)"


class PostgresqlSlots(PostgresqlCalls[SlotCall, SlotAnswer]):
    """`SlotLedger`, in the tables of a database, which remains the store's to close. It goes by the
    server's clock; `clock`, in Unix milliseconds, stands in for it.
    """

    def __init__(self, database: Database, clock: Callable[[], int] | None = None) -> None:
        super().__init__(database, clock, lambda *_: None)

    def renew(self, worker: str, retired: Sequence[str]) -> Standing:
        at = self._clock and self._clock()
        was, *alive = self.execute(_RENEW, worker, list(retired), _LEASE, at)
        return Standing(was == "true", alive)

    def parts(self, wants: Sequence[Want]) -> Sequence[Sequence[Want]]:
        return [wants]

    def portions(self, keys: Sequence[str]) -> Sequence[Sequence[str]]:
        return [keys[at : at + TOGETHER] for at in range(0, len(keys), TOGETHER)]

    def ask(self, call: SlotCall) -> SlotAnswer:
        return self._ask(call)

    async def ask_soon(self, call: SlotCall) -> asyncio.Future[SlotAnswer]:
        return await self._loops.join(0, call)

    def keys(self, call: SlotCall) -> Sequence[str]:
        return [key for key, _ in call.changes] + [want.key for want in call.wants]

    def statement(self, call: SlotCall, at: str) -> str:  # noqa: ARG002  # leases alone have a time
        changed = texts([key for key, _ in call.changes])
        counts = numbers([count for _, count in call.changes])
        wanted = texts([want.key for want in call.wants])
        most = numbers([want.most for want in call.wants])
        worker = texts([call.worker])
        return f"SELECT keyrush_take_slots(({worker})[1], {changed}, {counts}, {wanted}, {most})"

    def answers(self, found: Sequence[Any], calls: Sequence[SlotCall]) -> list[SlotAnswer]:  # noqa: ARG002  # as many
        return [SlotAnswer(full) for (full,) in found]
