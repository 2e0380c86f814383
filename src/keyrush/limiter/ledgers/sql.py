"""Windows in the store's own database, SQLite or PostgreSQL: for all processes that share it.

By the driver, below SQLAlchemy, whose part in a take would cost more than all the rest. On
SQLite a call is one transaction with the write lock from its beginning, and the arithmetic is
that of `core.sliding`. On PostgreSQL it is one round trip, to a function in `sql/functions.sql`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from keyrush.core import sliding
from keyrush.core.sliding import Counter, Taken, Window
from keyrush.limiter.ledgers.protocol import WORKER_TTL, Place
from keyrush.runtime.clock import now_ms
from keyrush.sql.states import ends_connections, give_up, told

#: Idle counters that one `enlist` deletes at most.
SWEPT = 1000

_TTL = int(WORKER_TTL * 1000)


class SqlLedger:
    """A ledger in the tables of a `SqlStore`, by its engine, which remains the store's to dispose.

    On PostgreSQL it goes by the server's clock, on SQLite by the machine's; `clock`, in Unix
    milliseconds, stands in for either. Counters that count no more are deleted by `enlist`.
    Where the database can't answer, every method raises `StoreError`.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], int] | None = None) -> None:
        self._engine = engine
        self._errors = (SQLAlchemyError, engine.dialect.loaded_dbapi.Error)
        is_server = engine.dialect.name == "postgresql"
        self.has_own_clock = is_server and clock is None
        self._calls: _OnPostgreSQL | _OnSQLite = (
            _OnPostgreSQL(clock) if is_server else _OnSQLite(clock or now_ms)
        )

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection of the driver's. What is not committed on it is undone afterwards."""
        try:
            pooled = self._engine.raw_connection()
            try:
                yield pooled.dbapi_connection
            except BaseException:
                pooled.invalidate()  # nobody knows what state it is in
                raise
            finally:
                pooled.close()
        except self._errors as error:
            if ends_connections(error):
                give_up(self._engine)  # those that are idle are no better
            raise told(error, self._engine) from error

    def take(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        with self._connection() as connection:
            return self._calls.take(connection, windows, cost, extra)

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        with self._connection() as connection:
            self._calls.give_back(connection, windows, cost, taken_at)

    def enlist(self, worker: str) -> Place:
        with self._connection() as connection:
            return self._calls.enlist(connection, worker)

    def leave(self, worker: str) -> None:
        with self._connection() as connection:
            self._calls.leave(connection, worker)

    def close(self) -> None:
        """Nothing to let go of: the connections are the engine's."""


_FIND = "SELECT period, current, previous FROM keyrush_windows WHERE key = ?"

_PUT = """
    INSERT INTO keyrush_windows (key, period, current, previous, idle_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET
        period = excluded.period,
        current = excluded.current,
        previous = excluded.previous,
        idle_at = excluded.idle_at
"""

_ENLIST = """
    INSERT INTO keyrush_workers (id, seen_at) VALUES (?, ?)
    ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
"""

_SWEEP = """
    DELETE FROM keyrush_windows
    WHERE key IN (SELECT key FROM keyrush_windows WHERE idle_at <= ? LIMIT ?)
"""


class _OnSQLite(NamedTuple):
    """The calls on SQLite. The connection is in autocommit mode: BEGIN and COMMIT are said here."""

    clock: Callable[[], int]

    def take(self, connection: Any, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        if cost or extra:
            connection.begin()
        else:  # a look reads all counters as of one moment too, but keeps nobody from writing
            connection.execute("BEGIN")
        now = self.clock()  # once the lock is held, so that it never runs back between takes
        stored: dict[str, Counter] = {}
        for window in windows:
            if counter := connection.execute(_FIND, (window.key,)).fetchone():
                stored[window.key] = counter
        taken, changes = sliding.grant(windows, stored, cost, extra, now)
        if changes:
            lengths = {window.key: window.length for window in windows}
            connection.executemany(_PUT, [_row(key, lengths[key], new) for key, new in changes])
        connection.commit()
        return taken

    def give_back(
        self, connection: Any, windows: Sequence[Window], cost: int, taken_at: int
    ) -> None:
        connection.begin()
        for key, length, _, _ in windows:
            counter = connection.execute(_FIND, (key,)).fetchone()
            changed = sliding.give_back(counter, length, cost, taken_at)
            if changed is not None and changed != counter:
                connection.execute(_PUT, _row(key, length, changed))
        connection.commit()

    def enlist(self, connection: Any, worker: str) -> Place:
        connection.begin()
        now = self.clock()
        connection.execute(_ENLIST, (worker, now))
        connection.execute("DELETE FROM keyrush_workers WHERE abs(? - seen_at) >= ?", (now, _TTL))
        connection.execute(_SWEEP, (now, SWEPT))
        found = connection.execute("SELECT id FROM keyrush_workers ORDER BY id").fetchall()
        connection.commit()
        return Place(found.index((worker,)), len(found))

    def leave(self, connection: Any, worker: str) -> None:
        # In a transaction like the rest: SQLAlchemy may have left the driver beginning its own.
        connection.begin()
        connection.execute("DELETE FROM keyrush_workers WHERE id = ?", (worker,))
        connection.commit()


def _row(key: str, length: int, counter: Counter) -> tuple[str, int, int, int, int]:
    """What `_PUT` takes; the last is when the counter counts no more (see `sliding.is_idle`)."""
    index, current, previous = counter
    return key, index, current, previous, (index + 2) * length


#: Before each call, in the same message, and so in the same transaction: what the functions rely
#: on, whatever the database's default is; and a server that is well ends what takes too long
#: before the client does, which would not know whether it was done.
_FIRST = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
    "SET LOCAL statement_timeout = 1800; "  # milliseconds
)

_TAKE = """
    SELECT keyrush_take(
        %s::text[], %s::bigint[], %s::bigint[],
        %s::bigint, %s::bigint, %s::bigint, %s::bigint
    )
"""

_GIVE_BACK = "SELECT keyrush_give_back(%s::text[], %s::bigint[], %s::bigint, %s::bigint)"

_ENLIST_HERE = "SELECT keyrush_enlist(%s::text, %s::bigint, %s::bigint, %s::bigint)"


class _OnPostgreSQL(NamedTuple):
    """The calls on PostgreSQL: a message each, so one round trip each. The connection is in
    autocommit mode.
    """

    clock: Callable[[], int] | None

    def take(self, connection: Any, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        keys = [window.key for window in windows]
        lengths = [window.length for window in windows]
        amounts = [window.amount for window in windows]
        at = self.clock and self.clock()
        granted, now, *numbers = _ask(
            connection, _TAKE, keys, lengths, amounts, cost, extra, sliding.SHARE, at
        )
        counters = zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True)
        return Taken(granted, now, list(counters))

    def give_back(
        self, connection: Any, windows: Sequence[Window], cost: int, taken_at: int
    ) -> None:
        keys = [window.key for window in windows]
        lengths = [window.length for window in windows]
        _ask(connection, _GIVE_BACK, keys, lengths, cost, taken_at)

    def enlist(self, connection: Any, worker: str) -> Place:
        at = self.clock and self.clock()
        return Place(*_ask(connection, _ENLIST_HERE, worker, _TTL, SWEPT, at))

    def leave(self, connection: Any, worker: str) -> None:
        _ask(connection, "DELETE FROM keyrush_workers WHERE id = %s RETURNING id", worker)


def _ask(connection: Any, statement: str, *values: Any) -> Any:
    """What a statement returns: one message, and so one transaction, without BEGIN and COMMIT.

    Several statements in one message have their values written into them, by the driver.
    """
    with connection.literal_cursor() as cursor:
        cursor.execute(_FIRST + statement, values)
        while cursor.nextset():
            pass
        (answer,) = cursor.fetchone() or (None,)
    return answer
