"""Which plan, limits and scopes hold: a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keyrush.core.catalog import Catalog
from keyrush.core.entitlement import verified
from keyrush.core.identity import Claims, MonthlyCount, Verified
from keyrush.core.model import Limit, Override, Plan, Quota
from keyrush.core.sliding import Window, subject_of
from keyrush.core.times import NEVER
from keyrush.errors import ConfigurationError
from tests.support.values import MONTH, NOW, account

CLAIMS = Claims(
    id="cred_b",
    lineage="cred_a",
    name="production",
    prefix="kr_live_abc123...",
    scopes=("read:*",),
    environment="live",
)

LONG = ("key:cred_a:3600", 100)

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
        replace(CLAIMS, limits=own), account(plan=plan, limits=accounts), CATALOG, COUNTS, NOW
    )
    assert [(window.key, window.amount) for window in found.windows] == windows


@pytest.mark.parametrize(
    ("plan", "accounts", "own", "before", "after"),
    [
        ("starter", None, None, [("key:cred_a:60", 7)], [("key:cred_a:60", 10), LONG]),
        ("starter", ACCOUNTS, None, [("key:cred_a:60", 7)], [("key:cred_a:60", 20)]),
        ("starter", ACCOUNTS, OWN, [("key:cred_a:60", 30)], [("key:cred_a:60", 30)]),
        ("shared", ACCOUNTS, None, [("account:acct_a:60", 7)], [("account:acct_a:60", 20)]),
        ("open", None, None, [("key:cred_a:60", 7)], []),
    ],
)
def test_an_override(plan: str, accounts: Any, own: Any, before: Any, after: Any) -> None:
    """O13: limits of the account for a time are instead of its others and the plan's, and of no
    credential's own; at their end it is as though they had never been.
    """

    def windows(override: Override | None, now: int, looked: int = NOW) -> Any:
        found = account(plan=plan, limits=accounts, override=override)
        known = verified(replace(CLAIMS, limits=own), found, CATALOG, COUNTS, looked).at(now)
        return [(window.key, window.amount) for window in known.windows]

    override = Override((Limit(7, 60),), NOW + 5)
    assert windows(override, NOW + 4) == before
    assert windows(override, NOW + 5) == after == windows(None, NOW)
    assert windows(override, NOW + 4, looked=NOW + 5) == after


@pytest.mark.parametrize(("ends_at", "changes_at"), [(None, 5), (3, 3), (9, 5)])
def test_when_an_override_is_looked_at(ends_at: int | None, changes_at: int) -> None:
    """Who has an override is looked at when it ends, or the credential does; who has none when that
    does; all else of the two is the same.
    """
    claims, override = replace(CLAIMS, ends_at=ends_at), Override((Limit(7, 60),), 5)
    found = verified(claims, account(override=override), CATALOG, COUNTS, 0)
    plain = verified(claims, account(), CATALOG, COUNTS, 0)
    assert (found.changes_at, plain.changes_at) == (changes_at, plain.expires_at)
    assert found.at(5) == plain == plain.at(5)
    assert found.at(4) is found
    same = set(Verified.__slots__) - {"windows"}
    assert all(getattr(found, name) == getattr(plain, name) for name in same)


def test_windows_are_named() -> None:
    """A window says its length in milliseconds and its name for header fields."""
    found = verified(replace(CLAIMS, limits=OWN), account(), CATALOG, COUNTS, NOW)
    assert found.windows == (Window("key:cred_a:60", 60_000, 30, "minute"),)


@pytest.mark.parametrize(("plan", "count"), [("starter", 0), ("shared", 1), ("apart", 1)])
def test_what_the_quota_is_held_against(plan: str, count: int) -> None:
    """R13, O13: the count of the credential or of the account, as the plan says of its quota."""
    found = verified(CLAIMS, account(plan=plan), CATALOG, COUNTS, NOW)
    assert found.quota_count is COUNTS[count]
    assert found.counts == COUNTS


@pytest.mark.parametrize(("environment", "is_metered"), [("live", True), ("test", False)])
def test_sandboxes_are_not_metered(environment: str, is_metered: bool) -> None:
    """R2: in an unmetered environment nothing is counted and nothing charged."""
    found = verified(replace(CLAIMS, environment=environment), account(), CATALOG, COUNTS, NOW)
    assert found.is_metered is is_metered
    assert found.counts == (COUNTS if is_metered else ())


@pytest.mark.parametrize(("ends_at", "expires_at"), [(None, NEVER), (5, 5), (0, 0)])
def test_what_was_claimed_is_handed_on(ends_at: int | None, expires_at: int) -> None:
    """Scopes with their wildcards, names, end and source are those that were proved."""
    claims = replace(CLAIMS, ends_at=ends_at, source="token")
    found = verified(claims, account(), CATALOG, COUNTS, NOW)
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
    found = verified(replace(CLAIMS, max_concurrent=own), account(plan=plan), CATALOG, COUNTS, NOW)
    assert found.max_concurrent == most
    assert found.subject is COUNTS[0].subject


def test_plan_that_is_not_in_the_table() -> None:
    """S19: an account on a plan that has left the table is the operator's fault, and named."""
    with pytest.raises(ConfigurationError, match="acct_a is on the plan 'gone': not in the table"):
        verified(CLAIMS, account(plan="gone"), CATALOG, COUNTS, NOW)


def test_no_subject_begins_a_group() -> None:
    """Whatever an authenticator of one's own calls its caller, no window of theirs is one of a
    group of somebody else's.
    """
    counts = MonthlyCount("key:a|rule /x", MONTH), COUNTS[1]
    caller = verified(CLAIMS, account(), CATALOG, counts, NOW)
    assert subject_of(caller.windows[0].key) == caller.subject == "key:a%7Crule /x"
