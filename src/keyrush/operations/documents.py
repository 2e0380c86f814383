"""The one JSON of a key, an account, its links, credits, ledger, usage and activity: of the account
API, and of the command line's `--json`.
"""

from __future__ import annotations

from collections.abc import Sequence

from keyrush.core.activity import BUCKETS, Activity, Group, Total
from keyrush.core.ledger import Entry
from keyrush.core.model import Account, ApiKey, Link
from keyrush.core.notation import format_limits
from keyrush.core.portal import PortalSession
from keyrush.core.times import iso
from keyrush.operations.audit import Checked
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
        "max_concurrent": key.max_concurrent,
        "revoked_at": iso(key.revoked_at),
        "created_by": key.created_by,
    }


def new_key_json(new: NewKey, credential: dict[str, object]) -> dict[str, object]:
    """A new key with its text, shown this once (contract O4); `credential` is its object."""
    return {"key": new.text, "api_credential": credential}


def account_json(account: Account, now: int) -> dict[str, object]:
    """An account, with the limits of its own that hold now, null where its plan's do. Those of an
    override hold before `limits_until`, and `permanent_limits` afterwards; it is null without one.
    """
    override = account.override_at(now)
    return {
        "id": account.id,
        "plan": account.plan,
        "limits": format_limits(account.limits_at(now)),
        "limits_until": None if override is None else iso(override.until),
        "permanent_limits": format_limits(account.limits),
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


def entry_json(entry: Entry) -> dict[str, object]:
    """A row of an account's ledger, with who and what it is of; `amount` is negative where credits
    went, `balance` is that after it.
    """
    by = entry.by
    return {
        "id": entry.number,
        "at": iso(entry.at),
        "amount": entry.amount,
        "balance": entry.balance,
        "reason": entry.reason,
        "reference": entry.reference,
        "reverses": entry.reverses,
        "source": by.source,
        "credential_id": by.credential_id,
        "subject": by.subject,
        "rule": by.rule,
        "request_id": by.request_id,
        "note": entry.note,
        "expires_at": iso(entry.expires_at),
    }


def check_json(checked: Checked) -> dict[str, object]:
    """Whether every balance is the sum of its ledger; `entry` null means the account itself."""
    return {
        "is_right": not checked.discrepancies,
        "is_complete": checked.is_complete,
        "accounts": checked.accounts,
        "entries": checked.entries,
        "wrong": [
            {"account_id": one.account_id, "entry": one.number, "what": one.what}
            for one in checked.discrepancies
        ],
    }


def activity_json(row: Activity) -> dict[str, object]:
    """A row of activity (contract O20); null where something is not known, or not kept."""
    return {
        "id": row.id,
        "at": iso(row.at),
        "credential_id": row.credential_id,
        "subject": row.subject,
        "source": row.source,
        "method": row.method,
        "path": row.path,
        "rule": row.rule or None,
        "status": row.status,
        "outcome": row.outcome,
        "reason": row.reason,
        "credits": row.credits,
        "duration_ms": row.duration / 1000,
        "request_id": row.request_id,
        "address": row.address,
        "agent": row.agent,
    }


def summary_json(
    totals: Sequence[Total], by: str, group: Group | None, since: int, until: int
) -> dict[str, object]:
    """Totals of activity by bin: `value` is what `group` tells apart. `durations` has the number
    of those up to each of `durations_up_to_ms`, and last of those above.
    """
    return {
        "by": by,
        "group": group,
        "since": iso(since),
        "until": iso(until),
        "durations_up_to_ms": [bound / 1000 for bound in BUCKETS],
        "totals": [
            {
                "at": iso(total.at),
                "value": total.value,
                "requests": total.requests,
                "credits": total.credits,
                "duration_ms": total.duration / 1000,
                "longest_ms": total.longest / 1000,
                "durations": list(total.buckets),
            }
            for total in totals
        ],
    }


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
