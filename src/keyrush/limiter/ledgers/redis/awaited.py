"""Servers like Redis on an event loop: calls are sent one after another, each awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from keyrush.limiter.ledgers.redis.script import (
    Script,
    fault,
    is_by_replica,
    not_executed,
    packed,
)
from keyrush.limiter.ledgers.redis.server import (
    ERRORS,
    RedisError,
    Server,
    and_sentinels,
    open_client,
    redis,
)

C = TypeVar("C")  # a call
A = TypeVar("A")  # its answer
C_contra = TypeVar("C_contra", contravariant=True)


class Codec(Protocol[C_contra, A]):
    """What is sent for calls, and what comes back."""

    script: Script  #: runs them

    def message(self, calls: Sequence[C_contra]) -> tuple[list[str], list[Any]]:
        """Keys and arguments of the script."""
        ...

    def answers(self, found: Any, calls: Sequence[C_contra]) -> list[A]:
        """What the script's answer says to each."""
        ...


class AwaitedCluster(Generic[C, A]):
    """A Cluster, which redis-py's own client knows its way about in."""

    def __init__(self, server: Server, codec: Codec[C, A]) -> None:
        self._codec = codec
        self._client = open_client(server, redis.asyncio)

    async def send(self, calls: Sequence[C]) -> list[A]:
        script = self._codec.script
        keys, arguments = self._codec.message(calls)
        values = (len(keys), *keys, *arguments)
        try:
            try:
                answer = await self._execute("EVALSHA", script.digest, *values)
            except RedisError as error:
                if not not_executed(error):
                    raise
                if is_by_replica(error):
                    await self._leave()
                answer = await self._execute("EVAL", script.source, *values)
        except ERRORS as error:
            raise fault(error) from None
        return self._codec.answers(answer, calls)

    async def _execute(self, *command: Any) -> Any:
        return await self._client.execute_command(*command)

    async def _leave(self) -> None:
        """Leave a server that has become a replica, which redis-py sees to here."""

    async def close(self) -> None:
        for client in and_sentinels(self._client):
            await client.aclose()


class AwaitedServer(AwaitedCluster[C, A]):
    """One server, or one behind Sentinels, by one connection of redis-py's that is kept.

    Timeouts are kept here, one for a call: redis-py's own cost more than all the rest of it, and
    so do its pool, retries and statistics. Who connects may have to ask several Sentinels, of which
    each has its own.
    """

    def __init__(self, server: Server, codec: Codec[C, A]) -> None:
        self._patience = server.options.get("socket_timeout")
        without = {**server.options, "socket_timeout": None}
        super().__init__(replace(server, options=without), codec)
        sentinels = len(server.places) if server.kind == "sentinel" else 0
        # Of a Sentinel both the connection and its answer are waited for.
        self._to_connect = self._patience and self._patience * (1 + 2 * sentinels)
        self._connection: Any = None

    async def _execute(self, *command: Any) -> Any:
        connection = self._connection
        try:
            if connection is None or not connection.is_connected:
                async with asyncio.timeout(self._to_connect):
                    connection = await self._connected()
            async with asyncio.timeout(self._patience):
                # Which makes anew what the server has ended meanwhile.
                await self._client.connection_pool.ensure_connection(connection)
                await connection.send_packed_command(packed(command), check_health=False)
                return await connection.read_response()
        except TimeoutError:
            raise redis.TimeoutError("nothing was heard in time") from None

    async def _connected(self) -> Any:
        if self._connection is None:
            self._connection = await self._client.connection_pool.get_connection()
        else:
            await self._connection.connect()
        return self._connection

    async def _leave(self) -> None:
        await self._connection.disconnect()
