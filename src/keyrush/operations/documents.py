"""The one JSON of a key, an account, its links, credits and usage: of the account API, and of the
command line's `--json`.
"""

from __future__ import annotations

from keyrush.core.model import Account, ApiKey, Link
from keyrush.core.notation import format_limits
from keyrush.core.portal import PortalSession
from keyrush.core.times import iso
from keyrush.operations.keys import NewKey
from keyrush.operations.usage import MonthlyUsage


def credential_json(key: ApiKey, now: int) -> dict[str, object]:
    """The `api_credential` object (contract O4), as its account sees it; never a key's text."""
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
    """The `api_credential` object, as the operator sees it: with what else is known of the key."""
    return credential_json(key, now) | {
        "environment": key.environment,
        "scopes": list(key.scopes),
        "limits": format_limits(key.limits),
        "revoked_at": iso(key.revoked_at),
        "created_by": key.created_by,
    }


def new_key_json(new: NewKey, credential: dict[str, object]) -> dict[str, object]:
    """A new key with its text, shown this once (contract O4); `credential` is its object."""
    return {"key": new.text, "api_credential": credential}


def account_json(account: Account) -> dict[str, object]:
    """An account; `limits` null means its plan's."""
    return {
        "id": account.id,
        "plan": account.plan,
        "limits": format_limits(account.limits),
        "balance": account.balance,
        "created_at": iso(account.created_at),
    }


def link_json(link: Link) -> dict[str, object]:
    """Whom an issuer knows, and the account that its tokens act for."""
    return {
        "id": link.id,
        "account_id": link.account_id,
        "issuer": link.issuer,
        "subject": link.subject,
        "created_at": iso(link.created_at),
        "revoked_before": iso(link.revoked_before),
        "ended_at": iso(link.ended_at),
    }


def session_json(session: PortalSession) -> dict[str, object]:
    """A session of the dashboard, of somebody who has signed in by a link."""
    return {
        "id": session.id,
        "account_id": session.account_id,
        "read_only": not session.write,
        "created_at": iso(session.created_at),
        "ends_at": iso(session.ends_at),
    }


def balance_json(balance: int) -> dict[str, object]:
    """The credits of an account (contract O3)."""
    return {"balance": balance}


def usage_json(usage: MonthlyUsage) -> dict[str, object]:
    """This month's use (contract R12, R13); `limit` and `remaining` null mean no quota."""
    return {
        "month": usage.month,
        "counted": usage.counted,
        "limit": usage.limit,
        "remaining": None if usage.limit is None else max(0, usage.limit - usage.counted),
        "overage": usage.overage,
        "overage_price_per_1000": None if usage.overage_price is None else str(usage.overage_price),
        "resets_at": iso(usage.resets_at),
    }
