"""Which plan, limits and scopes hold: a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keyrush.core.catalog import Catalog
from keyrush.core.entitlement import verified
from keyrush.core.identity import Claims, MonthlyCount
from keyrush.core.model import Limit, Plan, Quota
from keyrush.core.sliding import Window
from keyrush.core.times import NEVER
from keyrush.errors import ConfigurationError
from tests.support.values import MONTH, account

CLAIMS = Claims(
    id="cred_b",
    lineage="cred_a",
    name="production",
    prefix="kr_live_abc123...",
    scopes=("read:*",),
    environment="live",
)

#: Of the credential, and of the account.
COUNTS = MonthlyCount("key:cred_a", MONTH), MonthlyCount("account:acct_a", MONTH)

PLAN, ACCOUNTS, OWN = (Limit(10, 60), Limit(100, 3600)), (Limit(20, 60),), (Limit(30, 60),)

CATALOG = Catalog(
    {
        "starter": Plan("starter", PLAN, Quota(5)),
        "shared": Plan("shared", PLAN, Quota(5), per="account"),
        "apart": Plan("apart", PLAN, Quota(5), quota_per="account"),
        "open": Plan("open"),
        "narrow": Plan("narrow", max_concurrent=10),
    },
    "starter",
    unmetered=frozenset({"test"}),
)


@pytest.mark.parametrize(
    ("plan", "accounts", "own", "windows"),
    [
        ("starter", None, None, [("key:cred_a:60", 10), ("key:cred_a:3600", 100)]),
        ("starter", ACCOUNTS, None, [("key:cred_a:60", 20)]),
        ("starter", ACCOUNTS, OWN, [("key:cred_a:60", 30)]),
        ("starter", None, (), []),
        ("starter", (), None, []),
        ("shared", None, None, [("account:acct_a:60", 10), ("account:acct_a:3600", 100)]),
        ("shared", ACCOUNTS, None, [("account:acct_a:60", 20)]),
        ("shared", ACCOUNTS, OWN, [("key:cred_a:60", 30)]),
        ("open", None, None, []),
        ("open", None, OWN, [("key:cred_a:60", 30)]),
    ],
)
def test_the_narrowest_limits_hold(plan: str, accounts: Any, own: Any, windows: Any) -> None:
    """R6, O13: limits of the credential's own, else the account's, else the plan's; counted for
    the lineage, or for the account as a whole where the plan says so and they are not its own.
    """
    found = verified(
        replace(CLAIMS, limits=own), account(plan=plan, limits=accounts), CATALOG, COUNTS
    )
    assert [(window.key, window.amount) for window in found.windows] == windows


def test_windows_are_named() -> None:
    """A window says its length in milliseconds and its name for header fields."""
    found = verified(replace(CLAIMS, limits=OWN), account(), CATALOG, COUNTS)
    assert found.windows == (Window("key:cred_a:60", 60_000, 30, "minute"),)


@pytest.mark.parametrize(("plan", "count"), [("starter", 0), ("shared", 1), ("apart", 1)])
def test_what_the_quota_is_held_against(plan: str, count: int) -> None:
    """R13, O13: the count of the credential or of the account, as the plan says of its quota."""
    found = verified(CLAIMS, account(plan=plan), CATALOG, COUNTS)
    assert found.quota_count is COUNTS[count]
    assert found.counts == COUNTS


@pytest.mark.parametrize(("environment", "is_metered"), [("live", True), ("test", False)])
def test_sandboxes_are_not_metered(environment: str, is_metered: bool) -> None:
    """R2: in an unmetered environment nothing is counted and nothing charged."""
    found = verified(replace(CLAIMS, environment=environment), account(), CATALOG, COUNTS)
    assert found.is_metered is is_metered
    assert found.counts == (COUNTS if is_metered else ())


@pytest.mark.parametrize(("ends_at", "expires_at"), [(None, NEVER), (5, 5), (0, 0)])
def test_what_was_claimed_is_handed_on(ends_at: int | None, expires_at: int) -> None:
    """Scopes with their wildcards, names, end and source are those that were proved."""
    claims = replace(CLAIMS, ends_at=ends_at, source="token")
    found = verified(claims, account(), CATALOG, COUNTS)
    assert "read:articles" in found.scopes
    assert (found.key_id, found.account_id, found.name) == ("cred_b", "acct_a", "production")
    assert (found.environment, found.prefix) == ("live", "kr_live_abc123...")
    assert (found.expires_at, found.source) == (expires_at, "token")
    assert found.plan is CATALOG.plans["starter"]


@pytest.mark.parametrize(
    ("plan", "own", "most"),
    [("open", None, None), ("open", 5, 5), ("narrow", None, 10), ("narrow", 5, 5)],
)
def test_how_many_at_once(plan: str, own: int | None, most: int | None) -> None:
    """A credential's own `max_concurrent` holds, else the plan's; what is under way belongs to the
    lineage, by the very text that its counts have.
    """
    found = verified(replace(CLAIMS, max_concurrent=own), account(plan=plan), CATALOG, COUNTS)
    assert found.max_concurrent == most
    assert found.subject is COUNTS[0].subject


def test_plan_that_is_not_in_the_table() -> None:
    """S19: an account on a plan that has left the table is the operator's fault, and named."""
    with pytest.raises(ConfigurationError, match="acct_a is on the plan 'gone': not in the table"):
        verified(CLAIMS, account(plan="gone"), CATALOG, COUNTS)
