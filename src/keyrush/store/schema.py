"""The tables of the SQL store, how they come to be, and how their database is opened."""

from __future__ import annotations

import sqlite3
import time
from importlib.resources import files
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from keyrush.errors import ConfigurationError, Unreachable
from keyrush.store.files import file_of, make_private
from keyrush.store.hosts import database_url
from keyrush.urls import doubtful, is_plain, is_quotable, readable

#: The version of the tables below; recorded in the database, so that they can be upgraded.
SCHEMA = 3

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

#: What psycopg's `connect` takes besides, and is not for a URL to say.
_NOT_FOR_URLS = {"autocommit", "context", "cursor_factory", "row_factory"}

#: What a URL may say to SQLite, and to Python's module for it.
_SQLITE_OPTIONS = {
    *("cache", "immutable", "mode", "nolock", "psow", "timeout", "uri", "vfs"),
    *("cached_statements", "check_same_thread", "detect_types", "isolation_level"),
}

_UTF8 = {"utf8", "unicode"}  # as PostgreSQL spells it

_NEVER = {"none", "None", ""}

#: One message, so one round trip. Nothing of it outlives the transaction, because behind a pooler
#: a session is another's in the next. A little less than the client's own patience, so that a
#: server that is well speaks first; and whoever is stopped in a transaction keeps no locks.
_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; "
    f"SET LOCAL statement_timeout = {_PATIENCE * 900}; "
    f"SET LOCAL idle_in_transaction_session_timeout = {_PATIENCE * 1000}"
)

_PREPARE_LOCK = 0x6B657972757368  # "keyrush": the advisory lock while tables are made

_metadata = sa.MetaData()

META = sa.Table(
    "keyrush_meta",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(255), nullable=False),
)

ACCOUNTS = sa.Table(
    "keyrush_accounts",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("plan", sa.String(64), nullable=False),
    sa.Column("limits", sa.Text),
    sa.Column("balance", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.CheckConstraint("balance >= 0", name="keyrush_balance_not_negative"),
    sa.Index("ix_keyrush_accounts_by_age", "created_at", "id"),
)

KEYS = sa.Table(
    "keyrush_keys",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("account_id", sa.ForeignKey(ACCOUNTS.c.id), nullable=False),
    sa.Column("lineage", sa.String(64), nullable=False),
    sa.Column("name", sa.String(120), nullable=False),
    sa.Column("prefix", sa.String(64), nullable=False),
    sa.Column("environment", sa.String(32)),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("limits", sa.Text),
    sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
    sa.Column("hash", sa.String(255), nullable=False),
    sa.Column("pepper_id", sa.String(16), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("last_used_at", sa.BigInteger),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("retires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("created_by", sa.String(64)),
    sa.Index("ix_keyrush_keys_of_account", "account_id", "created_at", "id"),
    sa.Index("ix_keyrush_keys_by_age", "created_at", "id"),
    sa.Index("ix_keyrush_keys_created_by", "created_by"),
)

#: Before schema 3, which has a wider one.
_OLD_INDEX = "ix_keyrush_keys_account_id"

USAGE = sa.Table(
    "keyrush_usage",
    _metadata,
    sa.Column("subject", sa.String(80), primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("counted", sa.BigInteger, nullable=False),
)

#: Which batch of counts each process has added last, so that none is added twice.
BATCHES = sa.Table(
    "keyrush_batches",
    _metadata,
    sa.Column("worker", sa.String(80), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("added_at", sa.BigInteger, nullable=False, index=True),
)

#: Accounts of which a key, the plan or limits have changed, in the order of `mark`.
CHANGES = sa.Table(
    "keyrush_changes",
    _metadata,
    sa.Column("mark", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("account_id", sa.String(64), nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False, index=True),
)

#: Counters of windows (see `keyrush.windows`), where they are kept here.
WINDOWS = sa.Table(
    "keyrush_windows",
    _metadata,
    sa.Column("key", sa.String(120), primary_key=True),
    sa.Column("period", sa.BigInteger, nullable=False),
    sa.Column("current", sa.BigInteger, nullable=False),
    sa.Column("previous", sa.BigInteger, nullable=False),
    sa.Column("idle_at", sa.BigInteger, nullable=False, index=True),
)

#: Processes that count in these windows.
WORKERS = sa.Table(
    "keyrush_workers",
    _metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
)


def prepare(engine: sa.Engine) -> None:
    """Make the tables where there are none, and upgrade those of an older keyrush, whose data
    they keep; processes that do so together don't collide.

    Raises:
        ConfigurationError: They were made by a newer keyrush.
        SQLAlchemyError: The database can't be read or written.
    """
    with engine.begin() as connection:
        if _version(connection) == SCHEMA:
            return
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_PREPARE_LOCK)))
        found = _version(connection)  # once more: another process may have done it meanwhile
        if found != SCHEMA:
            _make(connection, found)


def _make(connection: sa.Connection, found: int | None) -> None:
    _metadata.create_all(connection)  # what is missing; 2 has only added tables to 1
    _complete(connection)
    if connection.dialect.name == "postgresql":
        functions = files("keyrush.store").joinpath("functions.sql").read_text("utf-8")
        # As it stands: a "%" in it is no placeholder.
        connection.exec_driver_sql(functions, execution_options={"no_parameters": True})
    if found is None:
        connection.execute(sa.insert(META).values(name="schema", value=str(SCHEMA)))
    else:
        update = sa.update(META).where(META.c.name == "schema")
        connection.execute(update.values(value=str(SCHEMA)))


def _complete(connection: sa.Connection) -> None:
    """Give the tables of schemas 1 and 2 the column and the indexes that 3 has added."""
    columns = {column["name"] for column in sa.inspect(connection).get_columns(KEYS.name)}
    if KEYS.c.created_by.name not in columns:
        connection.exec_driver_sql(f"ALTER TABLE {KEYS.name} ADD COLUMN created_by VARCHAR(64)")
    for index in (*ACCOUNTS.indexes, *KEYS.indexes):
        index.create(connection, checkfirst=True)
    connection.exec_driver_sql(f"DROP INDEX IF EXISTS {_OLD_INDEX}")


def _version(connection: sa.Connection) -> int | None:
    """The recorded version of the tables, None where there are none yet."""
    if not sa.inspect(connection).has_table(META.name):
        return None
    # A write that changes nothing: a database that can't be written is found out here.
    same = sa.update(META).values(value=META.c.value).where(META.c.name == "schema")
    found = connection.execute(same.returning(META.c.value)).scalar()
    if found is None:
        return None
    if not found.isdecimal() or int(found) > SCHEMA:
        raise ConfigurationError(
            f"KEYRUSH_STORE_URL: the database has schema {found}, this keyrush knows "
            f"{SCHEMA}; upgrade keyrush"
        )
    return int(found)


def parse_url(url: str) -> URL:
    """The URL of a database that keyrush supports.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        parsed = database_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "KEYRUSH_STORE_URL: not a database URL; write sqlite:///keyrush.db, "
            "postgresql://user:password@host/name or memory://; several hosts as in "
            "postgresql://user:password@host:5432,host:5432/name"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    # By their drivers, because deadlines and the feed are theirs to keep.
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise ConfigurationError(
            f"KEYRUSH_STORE_URL: {parsed.drivername!r} is not supported; "
            "use sqlite, postgresql or memory"
        )
    if parsed.get_backend_name() == "sqlite":
        if parsed.host or parsed.username is not None or parsed.port:
            raise ConfigurationError(
                "KEYRUSH_STORE_URL: SQLite has neither hosts nor users; a file comes after three "
                "slashes, as in sqlite:///keyrush.db"
            )
        if not parsed.query.keys() <= _SQLITE_OPTIONS:  # SQLAlchemy would warn of them by name
            allowed = ", ".join(sorted(_SQLITE_OPTIONS))
            raise ConfigurationError(f"KEYRUSH_STORE_URL: options for SQLite are {allowed}")
    elif not is_plain(url):
        raise doubtful("KEYRUSH_STORE_URL")
    else:
        _check_postgresql_options(parsed)
    if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise ConfigurationError(
            "KEYRUSH_STORE_URL: SQLite needs a file here; for a store in memory use memory://"
        )
    return parsed


def make_engine(url: URL) -> sa.Engine:
    """An engine with the options that keyrush relies on; nothing is opened yet."""
    if url.get_backend_name() != "sqlite":
        return _make_postgresql_engine(url)
    engine = sa.create_engine(
        url,
        max_overflow=_OVERFLOW,
        pool_timeout=_PATIENCE,
        hide_parameters=True,
        connect_args={"timeout": _PATIENCE, "check_same_thread": False},
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
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _check_postgresql_options(url: URL) -> None:
    if found := _NOT_FOR_URLS & url.query.keys():
        raise ConfigurationError(f"KEYRUSH_STORE_URL: {min(found)} is not for the URL to say")
    encoding = url.query.get("client_encoding", "utf8")
    if not isinstance(encoding, str) or encoding.lower().replace("-", "") not in _UTF8:
        raise ConfigurationError(
            "KEYRUSH_STORE_URL: client_encoding can be nothing but utf8, which is the default "
            "whatever the encoding of the database"
        )
    threshold = url.query.get("prepare_threshold", "none")
    if not isinstance(threshold, str) or not (threshold.isdecimal() or threshold in _NEVER):
        raise ConfigurationError("KEYRUSH_STORE_URL: prepare_threshold is a number, or none")


def _make_postgresql_engine(url: URL) -> sa.Engine:
    options = {n: value for n, value in _POSTGRESQL_OPTIONS.items() if n not in url.query}
    threshold = url.query.get("prepare_threshold")
    if isinstance(threshold, str):  # as all options of a URL are; libpq has none of that name
        url = url.difference_update_query(["prepare_threshold"])
        options["prepare_threshold"] = None if threshold in _NEVER else int(threshold)
    engine = sa.create_engine(
        url,
        max_overflow=_OVERFLOW,
        pool_timeout=_PATIENCE,
        hide_parameters=True,
        # The driver begins no transactions: that is done below.
        isolation_level="AUTOCOMMIT",
        connect_args=options,
    )
    from keyrush.store.patience import make_patient  # noqa: PLC0415  # its driver is an extra

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


def cannot_open(url: str, parsed: URL, error: Exception) -> ConfigurationError:
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
    path = file_of(parsed.database or "", is_uri="uri" in parsed.query)
    if isinstance(error, OperationalError) and parsed.get_backend_name() == "sqlite" and path:
        advice = f"; the folder {path.parent} must exist and be writable, the file too"
    cause = str(getattr(error, "orig", None) or error).strip()
    raised = kind(f"{said}{cause}{advice}")
    raised.__cause__ = error
    return raised


def _without_cause(error: ConfigurationError) -> ConfigurationError:
    error.__suppress_context__ = True  # as `from None` does
    return error
