"""Windows on Redis ≥6.2 or Valkey: one server, one behind Sentinels, or a Cluster.

A script, `take.lua`, restates `keyrush.core.sliding`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from keyrush.core.sliding import Taken, Window
from keyrush.limiter.ledgers.calls import Call, undoing
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


class RedisLedger(RedisCalls[Call, Taken]):
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
        return self._ask(self._slot(windows), Call("take", windows, cost, extra))

    async def take_async(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        """`take`. What is granted to a task that has been cancelled meanwhile is given back."""
        return await self._ask_async(self._slot(windows), Call("take", windows, cost, extra))

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        self._ask(self._slot(windows), Call("give", windows, cost, taken_at))

    def _slot(self, windows: Sequence[Window]) -> int:
        return self._slot_of(key_of(self._prefix, windows[0].key)) if windows else 0

    def message(self, calls: Sequence[Call]) -> tuple[list[str], list[Any]]:
        return encode(self._prefix, calls, self._now())

    def answers(self, found: Any, calls: Sequence[Call]) -> list[Taken]:
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
