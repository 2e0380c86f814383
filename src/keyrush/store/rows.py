"""Accounts, keys and links as rows of their tables."""

from __future__ import annotations

from typing import Any

from keyrush.core.model import Account, ApiKey, Link, Override
from keyrush.core.notation import format_limits, parse_limits
from keyrush.sql.tables import KEYS


def account_of(row: Any) -> Account:
    """The account in a row."""
    return Account(
        row.id,
        row.plan,
        row.created_at,
        row.balance,
        parse_limits(row.limits),
        override_of(row.override, row.override_until),
    )


def override_of(limits: str | None, until: int | None) -> Override | None:
    """The override in the columns of an account, where there is one."""
    given = parse_limits(limits)
    return None if given is None or until is None else Override(given, until)


def row_of_account(account: Account) -> dict[str, Any]:
    """The row of an account."""
    override = account.override
    return {
        "id": account.id,
        "plan": account.plan,
        "limits": format_limits(account.limits),
        "override": None if override is None else format_limits(override.limits),
        "override_until": None if override is None else override.until,
        "balance": account.balance,
        "created_at": account.created_at,
    }


def key_of(row: Any) -> ApiKey:
    """The key in a row."""
    return ApiKey(
        id=row.id,
        account_id=row.account_id,
        lineage=row.lineage,
        name=row.name,
        prefix=row.prefix,
        environment=row.environment,
        scopes=tuple(row.scopes.split()),
        fingerprint=row.fingerprint,
        hash=row.hash,
        pepper_id=row.pepper_id,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
        retires_at=row.retires_at,
        revoked_at=row.revoked_at,
        limits=parse_limits(row.limits),
        max_concurrent=row.max_concurrent,
        created_by=row.created_by,
        proof=row.proof,
    )


def row_of(key: ApiKey) -> dict[str, Any]:
    """The row of a key."""
    row = {column.name: getattr(key, column.name) for column in KEYS.c}
    return row | {"scopes": " ".join(key.scopes), "limits": format_limits(key.limits)}


def link_of(row: Any) -> Link:
    """The link in a row."""
    return Link(
        row.id,
        row.account_id,
        row.issuer,
        row.subject,
        row.created_at,
        row.revoked_before,
        row.ended_at,
    )
