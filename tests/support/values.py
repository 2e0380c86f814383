"""Values that tests need with one or two fields of interest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keyrush.core.identity import MonthlyCount, Verified
from keyrush.core.model import Account, ApiKey, Plan, Quota, Scopes
from keyrush.core.sliding import Window
from keyrush.core.times import NEVER

#: Unix milliseconds: Thu Nov 19 2026 21:47:00 UTC, at the beginning of a minute.
NOW = 1_795_124_820_000
MONTH = "2026-11"


def _encoded(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


#: Ways in which a key may come where it does not belong.
HIDINGS: dict[str, Callable[[str], str]] = {
    "alone": str,
    "in a sentence": lambda key: f" my key, {key}!",
    "without a gap": lambda key: f"x{key}y",
    "percent-encoded": _encoded,
    "percent-encoded twice": lambda key: _encoded(_encoded(key)),
    "the underscores percent-encoded": lambda key: key.replace("_", "%5F"),
}


def account(id: str = "acct_a", **values: Any) -> Account:
    """An account on `starter`."""
    return Account(**{"id": id, "plan": "starter", "created_at": NOW, **values})


def api_key(id: str = "cred_a", **values: Any) -> ApiKey:
    """A key of `acct_a`; its fingerprint is made of its id."""
    return ApiKey(
        **{
            "id": id,
            "account_id": "acct_a",
            "lineage": id,
            "name": "production",
            "prefix": "kr_live_abc123...",
            "environment": "live",
            "scopes": ("*",),
            "fingerprint": id.encode().hex().rjust(64, "0"),
            "hash": "$argon2id$",
            "pepper_id": "p1",
            "created_at": NOW,
            **values,
        }
    )


def verified(
    *scopes: str,
    key_id: str = "cred_a",
    plan: Plan | None = None,
    quota: Quota | None = None,
    windows: tuple[Window, ...] = (),
    counts: tuple[MonthlyCount, ...] = (),
    used: int = 0,
) -> Verified:
    """A verified key of `acct_a` with the scopes; `used` requests count against the quota."""
    return Verified(
        key_id=key_id,
        account_id="acct_a",
        name="production",
        prefix="kr_live_abc123...",
        environment="live",
        scopes=Scopes(scopes or ("*",)),
        plan=plan or Plan("starter", quota=quota),
        windows=windows,
        expires_at=NEVER,
        quota_count=counts[0] if counts else MonthlyCount("key:cred_a", MONTH, used),
        subject=counts[0].subject if counts else "key:cred_a",
        counts=counts,
    )
