"""The one JSON of a key, an account and its usage."""

from __future__ import annotations

from typing import Any

from keyrush.core.model import Account, ApiKey
from keyrush.core.notation import format_limits
from keyrush.core.times import iso
from keyrush.operations.usage import MonthlyUsage


def as_json(key: ApiKey, now: int) -> dict[str, object]:
    """The `api_credential` object of contract O4; never a key."""
    return {
        "id": key.id,
        "account_id": key.account_id,
        "name": key.name,
        "prefix": key.prefix,
        "is_active": key.is_active(now),
        "created_at": iso(key.created_at),
        "last_used_at": iso(key.last_used_at),
        "expires_at": iso(key.ends_at),
    }


def key_json(key: ApiKey, now: int) -> dict[str, object]:
    """The `api_credential` object (contract O4) and what else is known of the key."""
    return as_json(key, now) | {
        "environment": key.environment,
        "scopes": list(key.scopes),
        "limits": format_limits(key.limits),
        "revoked_at": iso(key.revoked_at),
        "created_by": key.created_by,
    }


def account_json(account: Account) -> dict[str, object]:
    """An account for programs; `limits` null means its plan's."""
    return {
        "id": account.id,
        "plan": account.plan,
        "limits": format_limits(account.limits),
        "balance": account.balance,
        "created_at": iso(account.created_at),
    }


def usage_json(usage: MonthlyUsage) -> dict[str, Any]:
    """This month's use for programs; `limit` null means no quota."""
    return {
        "month": usage.month,
        "counted": usage.counted,
        "limit": usage.limit,
        "overage": usage.overage,
        "resets_at": iso(usage.resets_at),
    }
