"""The one JSON of keys, accounts, credits and usage."""

from __future__ import annotations

from decimal import Decimal

import pytest

from keyrush.core.times import month_bounds
from keyrush.operations.documents import (
    account_json,
    balance_json,
    credential_json,
    key_json,
    new_key_json,
    usage_json,
)
from keyrush.operations.keys import NewKey
from keyrush.operations.usage import MonthlyUsage
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
    assert account_json(made)["balance"] == balance_json(7)["balance"] == 7
    assert account_json(made)["limits"] is None


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
