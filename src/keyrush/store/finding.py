"""The look-ups of the cold path: a key, or a link, its account and this month's counts, in one
statement each.

By the driver, below SQLAlchemy, whose part in it would cost more than all the rest.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from functools import cache
from typing import Any

from keyrush.core.identity import Found, FoundLink, account_subject, key_subject
from keyrush.core.model import Account
from keyrush.core.notation import parse_limits
from keyrush.sql.engine import Database
from keyrush.sql.tables import ACCOUNTS, KEYS, LINKS, USAGE
from keyrush.store.rows import key_of, link_of, override_of

_KEY = [column.name for column in KEYS.c]

_LINK = [column.name for column in LINKS.c]

_REST = [
    "plan",
    "account_limits",
    "balance",
    "account_created_at",
    "override",
    "override_until",
    "key_count",
    "account_count",
]

# What rows are read as: as the tables have it, which types can't say.
_KeyRow = namedtuple("_KeyRow", [*_KEY, *_REST])  # type: ignore[misc]  # noqa: PYI024
_LinkRow = namedtuple("_LinkRow", [*_LINK, *_REST])  # type: ignore[misc]  # noqa: PYI024


@cache
def _statement(mark: str, fingerprints: int) -> str:
    """The statement for so many fingerprints; `mark` is how the driver has a parameter."""
    among = ", ".join([mark] * fingerprints)
    return (
        f"{_found(mark, KEYS.name, _KEY, 'lineage')} WHERE found.fingerprint IN ({among}) LIMIT 1"
    )


@cache
def _link_statement(mark: str) -> str:
    """The statement for a link."""
    where = f"found.subject = {mark} AND found.issuer = {mark} AND found.ended_at IS NULL"
    return f"{_found(mark, LINKS.name, _LINK, 'id')} WHERE {where} LIMIT 1"


def _found(mark: str, table: str, names: Sequence[str], lineage: str) -> str:
    """What is found of a row of a table, whose own counts are under its `lineage`."""
    columns = ", ".join(f"found.{name}" for name in names)
    # Every name is a table's or a column's.
    return f"""
        SELECT {columns},
            accounts.plan, accounts.limits, accounts.balance, accounts.created_at,
            accounts.override, accounts.override_until,
            coalesce(of_key.counted, 0), coalesce(of_account.counted, 0)
        FROM {table} AS found
        JOIN {ACCOUNTS.name} AS accounts ON accounts.id = found.account_id
        LEFT JOIN {USAGE.name} AS of_key
            ON of_key.subject = '{key_subject("")}' || found.{lineage} AND of_key.month = {mark}
        LEFT JOIN {USAGE.name} AS of_account
            ON of_account.subject = '{account_subject("")}' || found.account_id
            AND of_account.month = {mark}
    """  # noqa: S608  # nothing of it comes from a request


def find(database: Database, fingerprints: Sequence[str], month: str) -> Found | None:
    """`Store.find`.

    Raises:
        StoreError: The database can't answer.
    """
    if not fingerprints:
        return None
    statement = _statement(_mark(database), len(fingerprints))
    row = _row(database, statement, (month, month, *fingerprints), _KeyRow)
    if row is None:
        return None
    return Found(key_of(row), _account_of(row), row.key_count, row.account_count)


def find_link(database: Database, issuer: str, subject: str, month: str) -> FoundLink | None:
    """`Store.find_link`.

    Raises:
        StoreError: The database can't answer.
    """
    statement = _link_statement(_mark(database))
    row = _row(database, statement, (month, month, subject, issuer), _LinkRow)
    if row is None:
        return None
    return FoundLink(link_of(row), _account_of(row), row.key_count, row.account_count)


def _mark(database: Database) -> str:
    return "?" if database.dialect == "sqlite" else "%s"


def _row(database: Database, statement: str, values: Sequence[str], row: Any) -> Any:
    with database.driver() as connection:
        found = connection.execute(statement, values).fetchone()
    return None if found is None else row._make(found)


def _account_of(row: Any) -> Account:
    return Account(
        row.account_id,
        row.plan,
        row.account_created_at,
        row.balance,
        parse_limits(row.account_limits),
        override_of(row.override, row.override_until),
    )
