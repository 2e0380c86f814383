"""Windows on Redis ≥6.2 or Valkey: one server, one behind Sentinels, or a Cluster.

A script, `take.lua`, restates `keyrush.core.sliding`. Calls that come while it is under way go
together in the next run. Threads and event loops differ only in how they
wait; what is sent, and what an answer means, is written once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from keyrush.core.sliding import Taken, Window
from keyrush.limiter.ledgers.calls import Call
from keyrush.limiter.ledgers.protocol import WORKER_TTL, Place
from keyrush.limiter.ledgers.redis.awaited import AwaitedCluster, AwaitedServer
from keyrush.limiter.ledgers.redis.changes import RedisChanges
from keyrush.limiter.ledgers.redis.script import (
    CLUSTER,
    ESCAPES,
    TAKE,
    TOGETHER,
    WORKERS,
    Script,
    decode,
    encode,
    fault,
    is_by_replica,
    key_of,
    not_executed,
)
from keyrush.limiter.ledgers.redis.server import (
    ERRORS,
    RedisError,
    and_sentinels,
    key_slot,
    open_client,
    parse,
    redis,
)
from keyrush.limiter.ledgers.tasks import Line, Loops
from keyrush.limiter.ledgers.threads import ThreadBatches
from keyrush.runtime.forks import after_fork


class RedisLedger:
    """A ledger on Redis, which may be used from any thread and any event loop.

    It goes by the server's clock; `clock`, in Unix milliseconds, stands in for it. Nothing is
    opened before the first call, and nothing of a parent process is used.

    Every method raises `LimiterError` when the server can't answer.

    Raises:
        ConfigurationError: The URL is of no server.
    """

    def __init__(self, url: str, clock: Callable[[], int] | None = None) -> None:
        self._server = parse(url)
        self._prefix = self._server.prefix.translate(ESCAPES)
        self._clock = clock
        self.has_own_clock = clock is None
        self._loops = Loops(self._line, TOGETHER)
        self._inherited: Any = None
        self._begin()
        after_fork(self._begin_anew)

    def _begin(self) -> None:
        self._client: Any = None
        self._threads: dict[int, ThreadBatches] = {}

    def _begin_anew(self) -> None:
        """As in a new process. What was the parent's is kept, lest it be closed here."""
        self._inherited = (self._inherited, self._client)
        self._begin()

    # --- windows ---

    def take(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        return self._ask(Call("take", windows, cost, extra))

    async def take_async(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        """`take`. What is granted to a task that has been cancelled meanwhile is given back."""
        return await self._loops.ask(self._slot(windows), Call("take", windows, cost, extra))

    def _line(self) -> Line:
        kind = AwaitedCluster if self._server.kind == "cluster" else AwaitedServer
        return kind(self._server, self.message)

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        self._ask(Call("give", windows, cost, taken_at))

    def _ask(self, call: Call) -> Taken:
        slot = self._slot(call.windows)
        threads = self._threads.get(slot)
        if threads is None:
            threads = self._threads.setdefault(slot, ThreadBatches(self._send, TOGETHER))
        return threads.ask(call)

    def _slot(self, windows: Sequence[Window]) -> int:
        """Calls with the same slot may go together."""
        if self._server.kind != "cluster" or not windows:
            return 0
        slot: int = key_slot(key_of(self._prefix, windows[0].key).encode())
        return slot

    def _now(self) -> int | str:
        return "" if self._clock is None else self._clock()

    def _send(self, calls: Sequence[Call]) -> list[Taken]:
        keys, arguments = self.message(calls)
        return decode(self._run(TAKE, keys, arguments), calls)

    def message(self, calls: Sequence[Call]) -> tuple[list[str], list[Any]]:
        """What is sent for calls, in one round trip: keys and arguments of the script."""
        return encode(self._prefix, calls, self._now())

    def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        values = (len(keys), *keys, *arguments)
        try:
            try:
                return self._execute("EVALSHA", script.digest, *values)
            except RedisError as error:
                if not not_executed(error):
                    raise
                client = self._connect()
                if is_by_replica(error) and hasattr(client, "connection_pool"):
                    client.connection_pool.disconnect(inuse_connections=False)
                return self._execute("EVAL", script.source, *values)
        except ERRORS as error:
            raise fault(error) from None

    def _execute(self, *command: Any) -> Any:
        client = self._connect()
        if self._server.kind == "cluster":
            return client.execute_command(*command)
        # The same without retries and statistics, which are a tenth of a round trip.
        pool = client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            pool.release(connection)

    def _connect(self) -> Any:
        client = self._client
        if client is None:
            client = self._client = open_client(self._server, redis)
        return client

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
        if self._server.kind == "cluster":  # any node hears of everything
            client = client.get_redis_connection(client.get_random_node())
        pool = client.connection_pool
        return pool.connection_class(**pool.connection_kwargs)

    # --- the end ---

    def close(self) -> None:
        """Close connections: those of event loops soon, when they come to it."""
        client, self._client = self._client, None
        if client is not None:
            for one in and_sentinels(client):
                one.close()
        self._loops.close()
