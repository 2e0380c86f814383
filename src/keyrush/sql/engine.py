"""A database: how it is opened, and its connections, for all that is kept in it."""

from __future__ import annotations

import sqlite3
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from keyrush.core.urls import is_quotable, readable
from keyrush.errors import ConfigurationError, Unreachable
from keyrush.runtime.forks import after_fork
from keyrush.sql.files import make_private
from keyrush.sql.pool import ClosingPool, let_go
from keyrush.sql.schema import prepare
from keyrush.sql.states import ends_connections, give_up, told
from keyrush.sql.turns import Writer
from keyrush.sql.url import file_at, parse_url, prepare_threshold

#: Seconds to wait for a connection, an answer, or in SQLite another process's write.
_PATIENCE = 2


#: Connections beyond 5: with them as many as keyrush's own threads may want, and some.
_OVERFLOW = 20


_PAUSE = 0.01  # seconds between two looks at a lock that SQLite does not wait for


#: The same for PostgreSQL, where the URL says nothing else (libpq, "Parameter Key Words"; the
#: second part is psycopg's). Of these only the encoding is sent, which every pooler takes.
_POSTGRESQL_OPTIONS = {
    "connect_timeout": _PATIENCE,
    "tcp_user_timeout": _PATIENCE * 1000,
    "keepalives_idle": 30,  # seconds; so that nobody on the way forgets an idle connection
    "client_encoding": "utf8",  # whatever the database's own is
    # Behind a pooler the next transaction may be another server connection's, which knows
    # nothing of statements that were prepared on this one.
    "prepare_threshold": None,
}


#: One message, so one round trip. Nothing of it outlives the transaction, because behind a pooler
#: a session is another's in the next. A little less than the client's own patience, so that a
#: server that is well speaks first; and whoever is stopped in a transaction keeps no locks.
_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; "
    f"SET LOCAL statement_timeout = {_PATIENCE * 900}; "
    f"SET LOCAL idle_in_transaction_session_timeout = {_PATIENCE * 1000}"
)

#: The same for statements that are sent after it in one message, which is a transaction by itself.
AT_ONCE = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
    f"SET LOCAL statement_timeout = {_PATIENCE * 900}; "
)


class Database:
    """The database at a SQLAlchemy URL, as in `sqlite:///keyrush.db` or `postgresql://…`.

    Store, windows and news are kept in it, each made with this. Opening makes the tables where
    there are none; processes that start together don't collide. No connection is carried across
    a fork.

    Raises:
        ConfigurationError: The URL is wrong, its driver is missing, the database can't be
            opened or written, or it was made by a newer keyrush.
    """

    def __init__(self, url: str) -> None:
        self._engine = _opened(url)
        # What no driver can encode, or no column hold, is Python's own error.
        of_driver = self._engine.dialect.loaded_dbapi.Error
        self._errors = (SQLAlchemyError, of_driver, UnicodeError, OverflowError)
        after_fork(self._forget_connections)
        weakref.finalize(self, self._engine.dispose)

    @property
    def engine(self) -> sa.Engine:
        """Where connections come from, one at a time for whoever asks."""
        return self._engine

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database, None of any other. Links are followed, as SQLite does for
        what lies beside it: whatever name leads there, it is one.
        """
        found = file_at(self._engine.url)
        return found and found.resolve()

    @property
    def connecting(self) -> tuple[Sequence[Any], dict[str, Any]]:
        """What PostgreSQL's driver connects with: its arguments, and those that have a name."""
        args, options = self._engine.dialect.create_connect_args(self._engine.url)
        return args, {**_POSTGRESQL_OPTIONS, "autocommit": True, **options}

    @contextmanager
    def driver(self) -> Iterator[Any]:
        """A connection of the driver's, in autocommit. What is begun on it and not committed is
        undone afterwards.

        Raises:
            StoreError: The database can't answer.
            DataError: It can't take what it was given.
        """
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

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A connection of the driver's, in a transaction that takes SQLite's write lock at its
        beginning, and is committed at the end.

        Raises:
            StoreError: The database can't answer.
            DataError: It can't take what it was given.
        """
        with self.driver() as connection:
            if isinstance(connection, Writer):
                connection.await_turn()
            connection.execute("BEGIN IMMEDIATE" if self.dialect == "sqlite" else _BEGIN)
            yield connection
            connection.commit()

    def call(self, statement: str, values: Sequence[Any]) -> Any:
        """The row that a statement gives on PostgreSQL, None for none: one message, which is a
        transaction of its own, and so one round trip. Its outcome is unknown where no answer comes:
        a server that was frozen does later what it was told.

        Raises:
            StoreError: The database can't answer.
            DataError: It can't take what it was given.
        """
        # Of several statements the values are written into them, by the driver.
        with self.driver() as connection, connection.literal_cursor() as cursor:
            cursor.execute(AT_ONCE + statement, values)
            while cursor.nextset():
                pass
            return cursor.fetchone()

    def _forget_connections(self) -> None:
        self._engine.dispose(close=False)

    def close(self) -> None:
        """Let go of connections, of those in use when they come back. The database may be used
        again afterwards.
        """
        let_go(self._engine)


def _opened(url: str) -> sa.Engine:
    """An engine on a database with all tables, which has no connection yet."""
    parsed = parse_url(url)
    try:
        engine = make_engine(parsed)
        try:
            prepare(engine)
        finally:
            # Nothing open may be carried across a fork; connections come with the first use.
            engine.dispose()
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"KEYRUSH_STORE_URL: {readable(url)} needs the module {error.name!r}; "
            "for PostgreSQL: pip install 'keyrush[postgres]'"
        ) from error
    except ImportError as error:  # psycopg is there, what it works with is not
        raise ConfigurationError(
            f"KEYRUSH_STORE_URL: {readable(url)} needs libpq, PostgreSQL's own library; "
            "it comes with pip install 'keyrush[postgres]'"
        ) from error
    except ConfigurationError:
        raise
    except (SQLAlchemyError, ValueError, TypeError) as error:
        raise _cannot_open(url, parsed, error)  # noqa: B904  # it has the cause that may be shown
    return engine


def make_engine(url: URL) -> sa.Engine:
    """An engine with the options that keyrush relies on; nothing is opened yet."""
    if url.get_backend_name() != "sqlite":
        return _make_postgresql_engine(url)
    engine = sa.create_engine(
        url,
        poolclass=ClosingPool,
        pool_use_lifo=True,  # whoever wrote last has what it read at hand, for the next who writes
        max_overflow=_OVERFLOW,
        pool_timeout=_PATIENCE,
        hide_parameters=True,
        connect_args={"timeout": _PATIENCE, "check_same_thread": False, "factory": Writer},
    )

    @sa.event.listens_for(engine, "do_connect")
    def _before(_dialect: Any, _record: Any, args: Any, options: Any) -> None:
        make_private(args[0], is_uri=bool(options.get("uri")))

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # BEGIN is sent below, not by the driver
        _use_wal(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # At once with the write lock: a lock taken later in a transaction can deadlock.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            writer = connection.connection.dbapi_connection
            if isinstance(writer, Writer):  # a connection's own to SQLAlchemy is any driver's
                writer.await_turn()
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _make_postgresql_engine(url: URL) -> sa.Engine:
    options = {n: value for n, value in _POSTGRESQL_OPTIONS.items() if n not in url.query}
    if "prepare_threshold" in url.query:  # libpq has none of that name
        options["prepare_threshold"] = prepare_threshold(url)
        url = url.difference_update_query(["prepare_threshold"])
    engine = sa.create_engine(
        url,
        poolclass=ClosingPool,
        max_overflow=_OVERFLOW,
        pool_timeout=_PATIENCE,
        hide_parameters=True,
        # The driver begins no transactions: that is done below.
        isolation_level="AUTOCOMMIT",
        connect_args=options,
    )
    from keyrush.sql.patience import make_patient  # noqa: PLC0415  # its driver is an extra

    make_patient(engine)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql(_BEGIN)

    return engine


def _use_wal(connection: Any) -> None:
    """Switch the database to write-ahead logging, unless that has been done.

    Several processes may want to at once, and here SQLite itself does not wait for the lock.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _cannot_open(url: str, parsed: URL, error: Exception) -> ConfigurationError:
    """What to raise when the database at `url` can't be opened.

    Where what the driver says may hold a secret, neither its words nor its error are in it.
    """
    kind = Unreachable if isinstance(error, DBAPIError) else ConfigurationError
    said = f"KEYRUSH_STORE_URL: can't open {readable(url)}: "
    if not isinstance(error, SQLAlchemyError):
        return _without_cause(kind(f"{said}an option that its driver does not take"))
    if not is_quotable(url):
        return _without_cause(kind(f"{said}{type(error).__name__}, which may quote a secret"))
    advice = ""
    path = file_at(parsed)
    if isinstance(error, OperationalError) and path:
        advice = f"; the folder {path.parent} must exist and be writable, the file too"
    cause = str(getattr(error, "orig", None) or error).strip()
    raised = kind(f"{said}{cause}{advice}")
    raised.__cause__ = error
    return raised


def _without_cause(error: ConfigurationError) -> ConfigurationError:
    error.__suppress_context__ = True  # as `from None` does
    return error
