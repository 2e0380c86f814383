"""Slots on Redis ≥6.2 or Valkey: one server, one behind Sentinels, or a Cluster.

Of a Cluster, each subject is in a slot of its own: those of one take are taken one after another,
and what the second refuses, the first is told of at once. Everywhere else they go together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from keyrush.core.concurrency import Want
from keyrush.limiter.ledgers.redis.calls import RedisCalls
from keyrush.limiter.ledgers.redis.script import ESCAPES, Script
from keyrush.limiter.slots.ledger import TOGETHER, SlotAnswer, SlotCall, Standing
from keyrush.limiter.slots.protocol import LEASE

SLOTS, LEASES = Script("slots.lua"), Script("leases.lua")

#: Milliseconds that a lease lasts, and that a subject is kept of which nobody takes or tells.
_LEASE, _KEPT = int(LEASE * 1000), 3 * 3_600_000


class RedisSlots(RedisCalls[SlotCall, SlotAnswer]):
    """`SlotLedger`, which may be used from any thread and any event loop. It goes by the server's
    clock; `clock`, in Unix milliseconds, stands in for it.

    Every method raises `LimiterError` when the server can't answer.

    Raises:
        ConfigurationError: The URL is of no server.
    """

    script = SLOTS

    def __init__(self, url: str, clock: Callable[[], int] | None = None) -> None:
        super().__init__(url, clock, lambda *_: None)

    def renew(self, worker: str, retired: Sequence[str]) -> Standing:
        arguments = (worker, _LEASE, self._now(), *retired)
        was, *alive = self._run(LEASES, [f"{self._prefix}:slot-workers"], arguments)
        return Standing(bool(was), [name.decode() for name in alive])

    def parts(self, wants: Sequence[Want]) -> Sequence[Sequence[Want]]:
        return [[want] for want in wants] if self.is_cluster else [wants]

    def portions(self, keys: Sequence[str]) -> Sequence[Sequence[str]]:
        size = 1 if self.is_cluster else TOGETHER
        return [keys[at : at + size] for at in range(0, len(keys), size)]

    def ask(self, call: SlotCall) -> SlotAnswer:
        return self._ask(self._slot(call), call)

    async def ask_soon(self, call: SlotCall) -> asyncio.Future[SlotAnswer]:
        return await self._join(self._slot(call), call)

    def _slot(self, call: SlotCall) -> int:
        keys = self._keys(call)
        return self._slot_of(keys[0]) if keys else 0

    def _keys(self, call: SlotCall) -> list[str]:
        named = [key for key, _ in call.changes] + [want.key for want in call.wants]
        return [f"{self._prefix}:{{{key.translate(ESCAPES) or '%'}}}:slots" for key in named]

    def message(self, calls: Sequence[SlotCall]) -> tuple[list[str], list[Any]]:
        keys: list[str] = []
        arguments: list[Any] = [_KEPT]
        for call in calls:
            keys += self._keys(call)
            arguments += (call.worker, len(call.gone), *call.gone)
            arguments += (len(call.changes), *(count for _, count in call.changes))
            arguments += (len(call.wants), *(want.most for want in call.wants))
        return keys, arguments

    def answers(self, found: Any, calls: Sequence[SlotCall]) -> list[SlotAnswer]:  # noqa: ARG002  # it has one for each
        return [SlotAnswer(full, [name.decode() for name in names]) for full, *names in found]
