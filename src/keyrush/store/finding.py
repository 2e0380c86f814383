"""The look-up of the cold path: a key, its account and this month's counts, in one statement.

By the driver, below SQLAlchemy, whose part in it would cost more than all the rest.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from functools import cache
from typing import Any

from keyrush.core.identity import Found, account_subject, key_subject
from keyrush.core.model import Account
from keyrush.core.notation import parse_limits
from keyrush.sql.engine import Database
from keyrush.sql.schema import ACCOUNTS, KEYS, USAGE
from keyrush.store.rows import key_of

_KEY = [column.name for column in KEYS.c]

_OF_ACCOUNT = ["plan", "account_limits", "balance", "account_created_at"]

_COLUMNS = [*_KEY, *_OF_ACCOUNT, "key_count", "account_count"]

#: What a row is read as.
_Row = namedtuple("_Row", _COLUMNS)  # type: ignore[misc]  # noqa: PYI024  # as the tables have it


@cache
def _statement(mark: str, fingerprints: int) -> str:
    """The statement for so many fingerprints; `mark` is how the driver has a parameter."""
    columns = ", ".join(f"keys.{name}" for name in _KEY)
    among = ", ".join([mark] * fingerprints)
    # Every name is a table's or a column's.
    return f"""
        SELECT {columns},
            accounts.plan, accounts.limits, accounts.balance, accounts.created_at,
            coalesce(of_key.counted, 0), coalesce(of_account.counted, 0)
        FROM {KEYS.name} AS keys
        JOIN {ACCOUNTS.name} AS accounts ON accounts.id = keys.account_id
        LEFT JOIN {USAGE.name} AS of_key
            ON of_key.subject = '{key_subject("")}' || keys.lineage AND of_key.month = {mark}
        LEFT JOIN {USAGE.name} AS of_account
            ON of_account.subject = '{account_subject("")}' || keys.account_id
            AND of_account.month = {mark}
        WHERE keys.fingerprint IN ({among})
        LIMIT 1
    """  # noqa: S608  # nothing of it comes from a request


def find(database: Database, fingerprints: Sequence[str], month: str) -> Found | None:
    """`Store.find`.

    Raises:
        StoreError: The database can't answer.
    """
    if not fingerprints:
        return None
    statement = _statement("?" if database.dialect == "sqlite" else "%s", len(fingerprints))
    with database.driver() as connection:
        found = connection.execute(statement, (month, month, *fingerprints)).fetchone()
    if found is None:
        return None
    row: Any = _Row._make(found)
    account = Account(
        row.account_id,
        row.plan,
        row.account_created_at,
        row.balance,
        parse_limits(row.account_limits),
    )
    return Found(key_of(row), account, row.key_count, row.account_count)
