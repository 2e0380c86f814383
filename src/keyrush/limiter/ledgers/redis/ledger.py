"""Windows on Redis ≥6.2 or Valkey: one server, one behind Sentinels, or a Cluster.

A script, `take.lua`, restates `keyrush.core.sliding`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keyrush.core.sliding import Part, Taken, Window
from keyrush.errors import LimiterError
from keyrush.limiter.ledgers.calls import Call, undoing, without
from keyrush.limiter.ledgers.protocol import WORKER_TTL, Place
from keyrush.limiter.ledgers.redis.calls import RedisCalls
from keyrush.limiter.ledgers.redis.changes import RedisChanges
from keyrush.limiter.ledgers.redis.script import (
    CLUSTER,
    TAKE,
    WORKERS,
    decode,
    encode,
    fault,
    key_of,
)
from keyrush.limiter.ledgers.redis.server import ERRORS
from keyrush.runtime.logs import log_fault


class Apart(NamedTuple):
    """What a take asks of one slot of a Cluster."""

    slot: int
    places: list[int]  #: of its parts among all of the take
    call: Call


def together(told: Sequence[tuple[Apart, Sequence[Taken]]], *, is_taken: bool) -> list[Taken]:
    """What the slots have granted, in the order of the parts; nothing where one has refused."""
    found = {
        place: one if is_taken else without(one)
        for apart, taken in told
        for place, one in zip(apart.places, taken, strict=True)
    }
    return [found[place] for place in sorted(found)]


class RedisLedger(RedisCalls[Call, list[Taken]]):
    """A ledger on Redis, which may be used from any thread and any event loop.

    It goes by the server's clock; `clock`, in Unix milliseconds, stands in for it. Nothing is
    opened before the first call, and nothing of a parent process is used.

    Every method raises `LimiterError` when the server can't answer.

    Raises:
        ConfigurationError: The URL is of no server.
    """

    script = TAKE

    def __init__(self, url: str, clock: Callable[[], int] | None = None) -> None:
        super().__init__(url, clock, undoing)
        self.has_own_clock = clock is None

    # --- windows ---

    def take(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        return self.take_together([Part(windows, cost, extra)])[0]

    async def take_async(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        return (await self.take_together_async([Part(windows, cost, extra)]))[0]

    def take_together(self, parts: Sequence[Part]) -> list[Taken]:
        if len(parts) > 1 and self.is_cluster:
            return self._take_apart(parts)
        return self._ask(self._slot(parts[0].windows), Call("take", parts))

    async def take_together_async(self, parts: Sequence[Part]) -> list[Taken]:
        """`take_together`. What is granted to a task that has been cancelled meanwhile is given
        back.
        """
        if len(parts) > 1 and self.is_cluster:
            return await self._take_apart_async(parts)
        return await self._ask_async(self._slot(parts[0].windows), Call("take", parts))

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        self._ask(self._slot(windows), Call("give", [(windows, cost, taken_at)]))

    # --- windows in several slots of a Cluster ---

    def _take_apart(self, parts: Sequence[Part]) -> list[Taken]:
        """One slot after the other; once one has refused, the rest is only looked at."""
        told: list[tuple[Apart, list[Taken]]] = []
        is_taken, is_refused = False, False
        try:
            for one in self._by_slot(parts):
                call = one.call.looking() if is_refused else one.call
                told.append((one, self._ask(one.slot, call)))
                is_refused = is_refused or one.call.is_refused(told[-1][1])
            is_taken = not is_refused
        finally:
            if not is_taken:
                for one, taken in told:
                    self._undo(one, taken)
        return together(told, is_taken=is_taken)

    def _undo(self, one: Apart, taken: Sequence[Taken]) -> None:
        """Give back what one slot has granted; where that is lost, it stays counted."""
        if back := undoing(one.call, taken):
            try:
                self._ask(one.slot, back)
            except LimiterError as error:
                log_fault("units of a refused request stay taken", error)

    async def _take_apart_async(self, parts: Sequence[Part]) -> list[Taken]:
        """All slots at the same time. What one has granted is given back before it is told that
        another has refused; where the task is cancelled, without anybody's waiting for it.
        """
        apart = self._by_slot(parts)
        coming: list[asyncio.Future[list[Taken]]] = []
        is_taken = is_cancelled = False
        try:
            for one in apart:
                coming.append(await self._join(one.slot, one.call))  # noqa: PERF401  # as far as it comes
            await asyncio.wait(coming)
            told = [(one, answer.result()) for one, answer in zip(apart, coming, strict=True)]
            is_taken = not any(one.call.is_refused(taken) for one, taken in told)
        except asyncio.CancelledError:
            is_cancelled = True
            raise
        finally:
            if not is_taken:
                backs = self._undo_soon(apart, coming)
                if backs and not is_cancelled:
                    await asyncio.wait(backs)
        return together(told, is_taken=is_taken)

    def _undo_soon(
        self, apart: Sequence[Apart], coming: Sequence[asyncio.Future[list[Taken]]]
    ) -> list[asyncio.Future[list[Taken]]]:
        """Give back what slots have granted, and, when it has come, what is on its way."""
        return [
            back
            for one, answer in zip(apart, coming, strict=False)
            if not answer.cancel() and not answer.cancelled() and not answer.exception()
            for back in [self._loops.undo(one.slot, one.call, answer.result())]
            if back is not None
        ]

    def _by_slot(self, parts: Sequence[Part]) -> list[Apart]:
        slots = [self._slot(part.windows) for part in parts]
        return [
            Apart(slot, places, Call("take", [parts[place] for place in places]))
            for slot in dict.fromkeys(slots)
            for places in [[place for place, its in enumerate(slots) if its == slot]]
        ]

    def _slot(self, windows: Sequence[Window]) -> int:
        return self._slot_of(key_of(self._prefix, windows[0].key)) if windows else 0

    def message(self, calls: Sequence[Call]) -> tuple[list[str], list[Any]]:
        return encode(self._prefix, calls, self._now())

    def answers(self, found: Any, calls: Sequence[Call]) -> list[list[Taken]]:
        return decode(found, calls)

    # --- processes and news ---

    def enlist(self, worker: str) -> Place:
        arguments = (worker, int(WORKER_TTL * 1000), self._now())
        found = self._run(WORKERS, [f"{self._prefix}:workers"], arguments)
        return Place(sum(other < worker.encode() for other in found), len(found))

    def leave(self, worker: str) -> None:
        try:
            self._execute("ZREM", f"{self._prefix}:workers", worker)
        except ERRORS as error:
            raise fault(error) from None

    def changes(self) -> RedisChanges:
        """What is told to the server and heard of it, by connections of its own for the latter."""
        return RedisChanges(self._execute, self._connection, f"{self._prefix}:changes")

    def advice(self) -> str | None:
        """What to write instead, where the URL names one node of a Cluster as if it were alone."""
        if self._server.kind in {"sentinel", "cluster"}:
            return None
        try:
            told = self._execute("CLUSTER", "INFO")
        except ERRORS:  # it is none, or this user may not ask
            return None
        size = re.search(rb"cluster_size:(\d+)", told)
        return CLUSTER if size and int(size[1]) > 1 else None

    def _connection(self) -> Any:
        """A connection of its own, not opened yet."""
        client = self._connect()
        if self.is_cluster:  # any node hears of everything
            client = client.get_redis_connection(client.get_random_node())
        pool = client.connection_pool
        return pool.connection_class(**pool.connection_kwargs)
