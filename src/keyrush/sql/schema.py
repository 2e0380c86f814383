"""How the tables come to be, and how older ones are upgraded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from keyrush.errors import ConfigurationError
from keyrush.runtime.clock import now_ms
from keyrush.sql.opening import enter_balances
from keyrush.sql.tables import ACCOUNTS, KEYS, LEDGER, META, METADATA, SHARED

#: The version of the tables; recorded in the database, so that they can be upgraded.
SCHEMA = 8

#: Seconds that a statement of an upgrade may take.
_UPGRADE = 600.0

#: Milliseconds that may pass between two of them; whoever is stopped there keeps no locks.
_IDLE = 60_000

_PREPARE_LOCK = 0x6B657972757368  # "keyrush": the advisory lock while tables are made

#: Before schema 3, which has a wider one.
_OLD_INDEX = "ix_keyrush_keys_account_id"

#: An older keyrush that goes on beside this one changes balances alone, and so does a slip of SQL:
#: that is refused. PostgreSQL's is in `functions.sql`.
_GUARD = """
    CREATE TRIGGER IF NOT EXISTS keyrush_balance_has_entry
    BEFORE UPDATE OF balance ON keyrush_accounts
    WHEN new.balance <> old.balance AND new.entries = old.entries
    BEGIN SELECT RAISE(ABORT, 'a balance changes with its ledger'); END
"""


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
    with engine.begin() as connection, _unhurried(connection):
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_PREPARE_LOCK)))
        found = _version(connection)  # once more: another process may have done it meanwhile
        if found != SCHEMA:
            _make(connection, found)


@contextmanager
def _unhurried(connection: sa.Connection) -> Iterator[None]:
    """Statements of a transaction may take their time: an upgrade of millions of rows does; and so
    may a process between two of them that starts beside many others.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    connection.exec_driver_sql(
        f"SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = {_IDLE}"
    )
    driver: Any = connection.connection.dbapi_connection
    usual, driver.patience = driver.patience, _UPGRADE
    try:
        yield
    finally:
        driver.patience = usual


def _make(connection: sa.Connection, found: int | None) -> None:
    is_older = sa.inspect(connection).has_table(KEYS.name)
    is_postgresql = connection.dialect.name == "postgresql"
    if is_older:
        # What is missing; 2 and 6 only add tables.
        METADATA.create_all(connection, _tables(is_postgresql=is_postgresql))
    else:
        _make_all(connection)
    if is_older and not is_postgresql:
        METADATA.drop_all(connection, SHARED)  # before 5 windows were counted here, too
    if is_older:
        _complete(connection)
        enter_balances(connection, now_ms())
    if is_postgresql:
        functions = files("keyrush.sql").joinpath("functions.sql").read_text("utf-8")
        # As it stands: a "%" in it is no placeholder.
        connection.exec_driver_sql(functions, execution_options={"no_parameters": True})
    else:
        connection.exec_driver_sql(_GUARD)
    if found is None:
        connection.execute(sa.insert(META).values(name="schema", value=str(SCHEMA)))
    else:
        update = sa.update(META).where(META.c.name == "schema")
        connection.execute(update.values(value=str(SCHEMA)))


def _tables(*, is_postgresql: bool) -> Sequence[sa.Table]:
    return [table for table in METADATA.sorted_tables if is_postgresql or table not in SHARED]


def _make_all(connection: sa.Connection) -> None:
    """Make all tables, without a look for each whether it is there."""
    statements = _statements(connection.dialect.name, connection.dialect.driver)
    if connection.dialect.name == "postgresql":
        statements = ("; ".join(statements),)  # one message; SQLite's driver takes no such thing
    for statement in statements:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


@cache
def _statements(dialect: str, driver: str) -> tuple[str, ...]:
    """What makes the tables and their indexes; put into words once, which takes longest."""
    words = sa.make_url(f"{dialect}+{driver}://").get_dialect()()
    made: list[CreateTable | CreateIndex] = []
    for table in _tables(is_postgresql=dialect == "postgresql"):
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        made.append(CreateTable(table, if_not_exists=True))
        made += [CreateIndex(index, if_not_exists=True) for index in indexes]
    return tuple(str(each.compile(dialect=words)) for each in made)


def _complete(connection: sa.Connection) -> None:
    """Give older tables of accounts and keys the columns that 3, 5, 7 and 8 have added, and the
    indexes of 3 and 8.
    """
    for table in (ACCOUNTS, KEYS):
        _add_columns(connection, table)
    for index in (*ACCOUNTS.indexes, *KEYS.indexes, *LEDGER.indexes):
        index.create(connection, checkfirst=True)
    connection.exec_driver_sql(f"DROP INDEX IF EXISTS {_OLD_INDEX}")


def _add_columns(connection: sa.Connection, table: sa.Table) -> None:
    """Give an older table the columns that it lacks, each of which is null or has a default."""
    there = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    for column in table.c:
        if column.name not in there:
            definition = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")


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
