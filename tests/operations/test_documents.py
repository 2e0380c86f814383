"""The one JSON of keys, accounts, credits, ledger, usage and activity."""

from __future__ import annotations

from decimal import Decimal

import pytest

from keyrush.core.ledger import Discrepancy
from keyrush.core.model import Limit, Override
from keyrush.core.times import iso, month_bounds
from keyrush.operations.audit import Checked
from keyrush.operations.documents import (
    account_json,
    activity_json,
    balance_json,
    check_json,
    credential_json,
    key_json,
    new_key_json,
    summary_json,
    usage_json,
)
from keyrush.operations.keys import NewKey
from keyrush.operations.usage import MonthlyUsage
from tests.support.activity import row
from tests.support.values import NOW, account, api_key


def test_key_of_the_operator() -> None:
    """O4: what the operator sees of a key begins as what its account sees, and has neither text nor
    hash.
    """
    key = api_key(scopes=("read:*",), limits=None)
    of_account, of_operator = credential_json(key, NOW), key_json(key, NOW)
    assert list(of_operator)[: len(of_account)] == list(of_account)
    assert of_operator.items() >= of_account.items()
    assert key.hash not in str(of_operator)
    new = new_key_json(NewKey("the text", key), of_account)
    assert new == {"key": "the text", "api_credential": of_account}


def test_account() -> None:
    """O3, O13: an account has its balance, and null for limits that are its plan's."""
    made = account(balance=7)
    assert account_json(made, NOW)["balance"] == balance_json(7)["balance"] == 7
    assert account_json(made, NOW)["limits"] is None


def test_account_with_an_override() -> None:
    """O13: the limits of an account are those of its own that hold now, with their end, and apart
    from them those that it has for good.
    """
    made = account(limits=(Limit(5, 60),), override=Override((Limit(9, 60),), NOW + 1000))
    shown = [
        [account_json(made, now)[name] for name in ("limits", "limits_until", "permanent_limits")]
        for now in (NOW + 999, NOW + 1000)
    ]
    assert shown == [["9/minute", iso(NOW + 1000), "5/minute"], ["5/minute", None, "5/minute"]]


@pytest.mark.parametrize(
    ("counted", "limit", "remaining", "overage"), [(2, 5, 3, 0), (7, 5, 0, 2), (7, None, None, 0)]
)
def test_usage(counted: int, limit: int | None, remaining: int | None, overage: int) -> None:
    """R12, R13: nothing remains of a quota that is exceeded; where there is none, it is null."""
    resets_at = month_bounds(NOW)[1]
    document = usage_json(
        MonthlyUsage("2026-11", counted, limit, overage, resets_at, Decimal("0.50"))
    )
    assert (document["limit"], document["remaining"]) == (limit, remaining)
    assert (document["overage"], document["overage_price_per_1000"]) == (overage, "0.50")
    unpriced = usage_json(MonthlyUsage("2026-11", counted, limit, overage, resets_at, None))
    assert unpriced == document | {"overage_price_per_1000": None}


def test_activity_of_no_rule() -> None:
    """O20: what is not known is null, an empty rule too; durations are milliseconds."""
    document = activity_json(row(1, rule="", duration=1_234, request_id=None))
    assert (document["rule"], document["request_id"]) == (None, None)
    assert document["duration_ms"] == 1.234
    assert "account_id" not in document


def test_summary_of_nothing() -> None:
    """O20: where nothing was asked there are no totals, and the range is told all the same."""
    document = summary_json([], "hour", None, 0, 3_600_000)
    assert (document["since"], document["until"]) == (
        *("1970-01-01T00:00:00Z",),
        "1970-01-01T01:00:00Z",
    )
    assert document["totals"] == []


def test_check() -> None:
    """O19: what does not add up is told by account and entry, null for the account itself."""
    wrong = (Discrepancy("acct_a", 7, "why"), Discrepancy("acct_b", None, "why"))
    assert check_json(Checked(2, 9, wrong, is_complete=False)) == {
        "is_right": False,
        "is_complete": False,
        "accounts": 2,
        "entries": 9,
        "wrong": [
            {"account_id": "acct_a", "entry": 7, "what": "why"},
            {"account_id": "acct_b", "entry": None, "what": "why"},
        ],
    }
