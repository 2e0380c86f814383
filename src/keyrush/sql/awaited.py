"""A connection to PostgreSQL on an event loop, for messages that are sent for every request.

By libpq itself: what cursors do beside it costs several times what a short message does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import pq

from keyrush.sql import patience
from keyrush.sql.patience import ServerSilent
from keyrush.sql.states import ends_connections, give_up, told

if TYPE_CHECKING:
    from keyrush.sql.engine import Database

T = TypeVar("T")


class AwaitedConnection:
    """Sends one message at a time, each a transaction of its own. It is opened when it is used
    first, and anew where the server has ended it. Belongs to one event loop.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._libpq: pq.abc.PGconn | None = None
        self._watched = -1  # the socket that the loop watches
        self._answer: asyncio.Future[None] | None = None  # what is waited for
        self._results: list[pq.abc.PGresult] = []

    async def ask(self, message: bytes) -> list[bytes]:
        """The first value of each statement of the message that returns rows, as text.

        Raises:
            StoreError: The database can't answer.
            DataError: It can't take what it was given.
        """
        engine = self._database.engine
        try:
            if self._libpq is None:
                self._libpq = await _in_time(self._open())
            results = await _in_time(self._ask(self._libpq, message))
            _check(results)
        except psycopg.Error as error:
            if ends_connections(error):
                give_up(engine)  # those that are idle are no better
                await self.close()
            elif not getattr(error, "sqlstate", None):
                await self.close()  # nobody knows what state it is in
            raise told(error, engine) from error
        except BaseException:
            await self.close()
            raise
        rows = [result for result in results if result.status == pq.ExecStatus.TUPLES_OK]
        return [result.get_value(0, 0) or b"" for result in rows]

    async def _open(self) -> pq.abc.PGconn:
        args, options = self._database.connecting
        connection = await psycopg.AsyncConnection.connect(*args, **options)
        self._connection, libpq = connection, connection.pgconn
        self._watched = libpq.socket
        asyncio.get_running_loop().add_reader(self._watched, self._read)
        return libpq

    async def _ask(self, libpq: pq.abc.PGconn, message: bytes) -> list[pq.abc.PGresult]:
        running = asyncio.get_running_loop()
        self._answer, self._results = running.create_future(), []
        libpq.send_query(message)
        if libpq.flush():
            running.add_writer(self._watched, self._write)
        await self._answer
        return self._results

    def _write(self) -> None:
        """Send what there was no room for."""
        assert self._libpq is not None  # noqa: S101  # there is a message to be sent
        try:
            if not self._libpq.flush():
                asyncio.get_running_loop().remove_writer(self._watched)
        except psycopg.Error as error:
            self._end(error)

    def _read(self) -> None:
        """Take what has come; when nothing is waited for, the server ends the connection."""
        assert self._libpq is not None  # noqa: S101  # nothing is watched otherwise
        try:
            self._libpq.consume_input()
            while not self._libpq.is_busy():
                result = self._libpq.get_result()
                if result is None:
                    break
                self._results.append(result)
            else:
                return
        except psycopg.Error as error:
            self._end(error)
            return
        if self._answer is not None and not self._answer.done() and self._results:
            self._answer.set_result(None)
        elif self._libpq.status == pq.ConnStatus.BAD:
            self._forget()

    def _end(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self._forget()

    def _forget(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection, self._libpq = self._connection, None, None
        if self._watched >= 0:
            running = asyncio.get_running_loop()
            running.remove_reader(self._watched)
            running.remove_writer(self._watched)
            self._watched = -1
        if connection is not None:
            connection.pgconn.finish()  # as its own `close` does, which is a coroutine

    async def close(self) -> None:
        """Close it. It may be used again afterwards."""
        self._forget()


def _check(results: list[pq.abc.PGresult]) -> None:
    """Raise what the server says has failed."""
    for result in results:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)


async def _in_time(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(patience.ANSWER):
            return await coroutine
    except TimeoutError:
        silent = f"no answer from the server for {patience.ANSWER} seconds"
        raise ServerSilent(silent) from None
