"""News between the processes that share a SQL store: what has changed, told and learned."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection
from typing import Any

import sqlalchemy as sa

from keyrush.core.times import SECOND
from keyrush.runtime.forks import after_fork
from keyrush.sql.engine import Database
from keyrush.sql.states import is_given_up, told
from keyrush.sql.tables import CHANGES

#: PostgreSQL's channel. What a notification says does not matter; all is read from the table.
CHANNEL = "keyrush"

#: Seconds between two looks at the table without a notification: they may get lost, as behind
#: a pooler, and a connection may be dead without saying so.
LOOK = 1.0

_KEPT = 3600 * SECOND  # for how long a change can be read

_LOCK = 0x6B657972757369  # the advisory lock of who writes a change: the one after `prepare`'s

# By the driver: asked whenever anybody has written anything, as each process does with its flush.
_SINCE = {
    "sqlite": "SELECT mark, account_id FROM keyrush_changes WHERE mark >= ? ORDER BY mark",
    "postgresql": "SELECT mark, account_id FROM keyrush_changes WHERE mark >= %s ORDER BY mark",
}

_NEWEST = sa.select(sa.func.coalesce(sa.func.max(CHANGES.c.mark), 0))


def tell(connection: sa.Connection, account_ids: Collection[str], now: int) -> None:
    """Note in the transaction of `connection` that what is known of accounts has changed.

    The last that a transaction does, so that whoever waits for this waits for nothing else.
    """
    if not account_ids:
        return
    if connection.dialect.name == "postgresql":
        # Until the commit nobody else gets a mark: marks become visible in their order, and
        # who has read one has read all before it.
        lock = sa.func.pg_advisory_xact_lock(_LOCK)
        connection.execute(sa.select(lock, sa.func.pg_notify(CHANNEL, "")))
    rows = [{"account_id": account_id, "changed_at": now} for account_id in account_ids]
    connection.execute(sa.insert(CHANGES), rows)
    # After that, so that the newest mark is always there and none is used again.
    connection.execute(sa.delete(CHANGES).where(CHANGES.c.changed_at < now - _KEPT))


class SqlChanges:
    """`core.changes.Changes` over a connection of its own, which opens with the first poll, and
    leaves the database's pool.
    """

    def __init__(self, database: Database) -> None:
        self._database = database  # kept, or its connections would not be
        self._engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        self._connection: sa.Connection | None = None
        self._driver: Any = None  # the connection as the driver knows it
        self._pool: Any = None  # the one that it was taken from
        self._mark = 0  # of the newest change that has been read

    def poll(self) -> Collection[str] | None:
        try:
            if self._connection is not None and is_given_up(self._pool):
                self.close()
            if self._connection is None:
                self._open()
                return None
            return self._read() if self._has_news(self._connection) else ()
        except Exception as error:
            self.close()
            raise told(error, self._engine) from error

    def publish(self, account_id: str) -> None:
        """Nothing to do: who changes something tells of it in the same transaction (`tell`)."""

    def close(self) -> None:
        driver = self._driver
        self._forget()
        if driver is not None:
            driver.close()  # at once: SQLAlchemy would say good-bye to the server

    def _open(self) -> None:
        self._pool = self._engine.pool
        connection = self._engine.connect()
        connection.detach()
        self._driver = connection.connection.dbapi_connection
        self._listen(connection)
        self._mark = connection.execute(_NEWEST).scalar_one()
        self._connection = connection

    def _read(self) -> Collection[str] | None:
        place = self._mark
        rows = self._driver.execute(_SINCE[self._engine.dialect.name], (place,)).fetchall()
        self._mark = rows[-1][0] if rows else 0
        oldest = rows[0][0] if rows else 0
        if oldest > place + 1 or oldest < place:
            return None  # changes have been deleted, perhaps such as were not read
        return {account_id for mark, account_id in rows if mark > place}

    @abstractmethod
    def _listen(self, connection: sa.Connection) -> None:
        """Begin to notice what is written from now on."""

    @abstractmethod
    def _has_news(self, connection: sa.Connection) -> bool:
        """True when something may have been written since the last call."""


class SqliteChanges(SqlChanges):
    """Looks at a number that every commit of another connection to the file changes."""

    lag = 0.0

    def _listen(self, _connection: sa.Connection) -> None:
        self._version = self._data_version()

    def _has_news(self, _connection: sa.Connection) -> bool:
        before, self._version = self._version, self._data_version()
        return self._version != before

    def _data_version(self) -> int:
        # By the driver: it is asked many times a second, and mostly for nothing.
        (version,) = self._driver.execute("PRAGMA data_version").fetchone()
        return int(version)


#: A write that changes nothing: what has become read-only, as the old server after a failover,
#: says so here, where it could still be read from for ever.
_IS_WRITABLE = sa.update(CHANGES).where(sa.false()).values(account_id=CHANGES.c.account_id)


class PostgresqlChanges(SqlChanges):
    """Listens for notifications. Behind a pooler, where none would come, it reads the table."""

    lag = LOOK

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(database)
        self._monotonic = monotonic

    def _listen(self, connection: sa.Connection) -> None:
        self._heard = False
        self._look_at = self._monotonic() + LOOK
        # For those that come while the table is read.
        self._driver.add_notify_handler(self._hear)
        connection.execute(_IS_WRITABLE)
        if self._driver.is_direct:  # or it would be the session of somebody else
            connection.exec_driver_sql(f"LISTEN {CHANNEL}")

    def _hear(self, _notification: object) -> None:
        self._heard = True

    def _has_news(self, connection: sa.Connection) -> bool:
        if self._driver.has_unread():
            self._driver.pgconn.consume_input()
            while self._driver.pgconn.notifies():
                self._heard = True
        now = self._monotonic()
        is_due = now >= self._look_at
        if not self._heard and not is_due:
            return False
        if is_due:
            connection.execute(_IS_WRITABLE)
        self._heard = False
        self._look_at = now + LOOK
        return True


def changes_in(database: Database) -> SqlChanges:
    """The news of a database, in the way of its kind."""
    is_postgresql = database.dialect == "postgresql"
    return PostgresqlChanges(database) if is_postgresql else SqliteChanges(database)
