"""Calls of a script on servers like Redis, of any thread and any event loop.

Calls that come while it is under way go together in the next run. Threads and event loops differ
only in how they wait; what is sent, and what an answer means, is written once.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from keyrush.limiter.ledgers.redis.awaited import AwaitedCluster, AwaitedServer
from keyrush.limiter.ledgers.redis.script import (
    ESCAPES,
    TOGETHER,
    Script,
    fault,
    is_by_replica,
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
from keyrush.limiter.ledgers.tasks import Line, Loops, Undo
from keyrush.limiter.ledgers.threads import ThreadBatches
from keyrush.runtime.forks import after_fork

C = TypeVar("C")  # a call
A = TypeVar("A")  # its answer


class RedisCalls(ABC, Generic[C, A]):
    """Who asks a server at `url`: nothing is opened before the first call, and nothing of a parent
    process is used. `clock`, in Unix milliseconds, stands in for the server's.

    Raises:
        ConfigurationError: The URL is of no server.
    """

    script: Script  #: runs calls

    def __init__(self, url: str, clock: Callable[[], int] | None, undo: Undo[C, A]) -> None:
        self._server = parse(url)
        self._prefix = self._server.prefix.translate(ESCAPES)
        self._clock = clock
        self._loops = Loops(self._line, TOGETHER, undo)
        self._inherited: Any = None
        self._begin()
        after_fork(self._begin_anew)

    def _begin(self) -> None:
        self._client: Any = None
        self._threads: dict[int, ThreadBatches[C, A]] = {}

    def _begin_anew(self) -> None:
        """As in a new process. What was the parent's is kept, lest it be closed here."""
        self._inherited = (self._inherited, self._client)
        self._begin()

    # --- calls ---

    @abstractmethod
    def message(self, calls: Sequence[C]) -> tuple[list[str], list[Any]]:
        """What is sent for calls, in one round trip: keys and arguments of the script."""
        ...

    @abstractmethod
    def answers(self, found: Any, calls: Sequence[C]) -> list[A]:
        """What the script's answer says to each call."""
        ...

    def _ask(self, slot: int, call: C) -> A:
        threads = self._threads.get(slot)
        if threads is None:
            threads = self._threads.setdefault(slot, ThreadBatches(self._send, TOGETHER))
        return threads.ask(call)

    async def _ask_async(self, slot: int, call: C) -> A:
        return await self._loops.ask(slot, call)

    async def _join(self, slot: int, call: C) -> asyncio.Future[A]:
        return await self._loops.join(slot, call)

    def _line(self) -> Line[C, A]:
        kind = AwaitedCluster if self.is_cluster else AwaitedServer
        return kind(self._server, self)

    @property
    def is_cluster(self) -> bool:
        """True where keys are in slots, of which a call may have one."""
        return self._server.kind == "cluster"

    def _slot_of(self, key: str) -> int:
        """Calls with the same slot may go together."""
        slot: int = key_slot(key.encode()) if self.is_cluster else 0
        return slot

    def _now(self) -> int | str:
        return "" if self._clock is None else self._clock()

    def _send(self, calls: Sequence[C]) -> list[A]:
        keys, arguments = self.message(calls)
        return self.answers(self._run(self.script, keys, arguments), calls)

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
        if self.is_cluster:
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

    # --- the end ---

    def close(self) -> None:
        """Close connections: those of event loops soon, when they come to it."""
        client, self._client = self._client, None
        if client is not None:
            for one in and_sentinels(client):
                one.close()
        self._loops.close()
