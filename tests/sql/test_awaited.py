"""A connection on an event loop: closed by whoever finds out that it is of no use."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import pq

from keyrush.errors import StoreError
from keyrush.sql.awaited import AwaitedConnection
from keyrush.sql.engine import Database
from tests.support.calls import run

LONG = b"SELECT '" + b"x" * 20_000_000 + b"'"  # more than a socket takes at once


class _Unwritable:
    """libpq, to which the kernel says no while there is still something to be sent."""

    def __init__(self, libpq: pq.abc.PGconn) -> None:
        self._libpq = libpq
        self._flushed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._libpq, name)

    def flush(self) -> int:
        self._flushed += 1
        if self._flushed > 1:
            raise psycopg.OperationalError("sending has failed")
        return self._libpq.flush()


def test_closed_when_sending_fails(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that can't be sent ends its connection at once, and the next has another."""
    opened: list[psycopg.AsyncConnection[Any]] = []
    connect = psycopg.AsyncConnection.connect

    async def connecting(*given: Any, **options: Any) -> psycopg.AsyncConnection[Any]:
        opened.append(await connect(*given, **options))
        return opened[-1]

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", connecting)
    database = Database(postgres_url)

    async def main() -> None:
        connection = AwaitedConnection(database)
        assert await connection.ask(b"SELECT 1") == [b"1"]
        libpq = connection._libpq  # noqa: SLF001  # a fault in it is what this is about
        assert libpq is not None
        connection._libpq = _Unwritable(libpq)  # type: ignore[assignment]  # noqa: SLF001  # so
        with pytest.raises(StoreError, match="sending has failed"):
            await connection.ask(LONG)
        assert [one.closed for one in opened] == [True]
        assert await connection.ask(b"SELECT 2") == [b"2"]
        await connection.close()

    run(main(), "asyncio")
    assert [one.closed for one in opened] == [True, True]
    database.close()
