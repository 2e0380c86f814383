"""The values: times and months, keys that are active, and what a refusal's status is."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.core.identity import MonthlyCount
from keyrush.core.model import Plan
from keyrush.core.notation import names_of
from keyrush.core.refusal import MEANINGS, Reason, Refusal
from keyrush.core.times import LATEST, iso, month_bounds, month_of
from keyrush.runtime.clock import now_ms
from keyrush.settings.tables import PlanTable
from tests.support.values import NOW, account, api_key, verified

instants = st.integers(0, LATEST)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00Z"),
        (NOW, "2026-11-19T21:47:00Z"),
        (NOW + 7, "2026-11-19T21:47:00.007Z"),
        (LATEST, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_iso(instant: int | None, text: str | None) -> None:
    """O4: times are ISO 8601 UTC with `Z`."""
    assert iso(instant) == text


@given(instants)
def test_iso_is_exact(instant: int) -> None:
    """O4: no millisecond is lost on the way."""
    text = iso(instant)
    assert text is not None
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo == UTC
    assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) / model_millisecond == instant


model_millisecond = datetime(1970, 1, 1, 0, 0, 0, 1000, UTC) - datetime(1970, 1, 1, tzinfo=UTC)


@given(st.integers(0, 253_370_764_800_000))
def test_months(now: int) -> None:
    """R18: an instant lies in its calendar month, UTC, and the next one begins where it ends."""
    first, following = month_bounds(now)
    assert first <= now < following
    assert month_of(first) == month_of(now) == month_of(following - 1)
    assert month_of(first - 1) != month_of(now) != month_of(following)
    assert iso(first) == f"{month_of(now)}-01T00:00:00Z"


def test_months_are_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """R18: the machine's time zone has no part in it."""
    last = 1_798_761_599_999  # 2026-12-31T23:59:59.999Z
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert (month_of(last), month_of(last + 1)) == ("2026-12", "2027-01")
        assert month_bounds(last)[1] == last + 1
    finally:
        monkeypatch.undo()
        time.tzset()


def test_now_is_unix_milliseconds() -> None:
    """The wall clock, in milliseconds."""
    assert time.time() * 1000 - 1 <= now_ms() <= time.time() * 1000 + 1


@pytest.mark.parametrize(
    ("values", "active"),
    [
        ({}, True),
        ({"expires_at": NOW + 1}, True),
        ({"expires_at": NOW}, False),
        ({"expires_at": NOW - 1}, False),
        ({"revoked_at": NOW - 1}, False),
        ({"revoked_at": NOW + 1}, False),
        ({"revoked_at": 0}, False),
        ({"expires_at": 0}, False),
        ({"retires_at": NOW + 1}, True),
        ({"retires_at": NOW}, False),
        ({"retires_at": NOW + 1, "expires_at": NOW}, False),
        ({"retires_at": NOW, "expires_at": NOW + 1}, False),
    ],
)
def test_is_active(values: dict[str, Any], active: bool) -> None:
    """R5, R17: not from `expires_at` or `retires_at` on, and never again once revoked."""
    assert api_key(**values).is_active(NOW) is active


def test_repr_of_a_stored_key() -> None:
    """O22: neither hash nor fingerprint is shown."""
    key = api_key(fingerprint="f" * 64, hash="$argon2id$secret", pepper_id="p-id")
    assert "ffff" not in repr(key)
    assert "argon2" not in repr(key)
    assert "p-id" not in repr(key)


@pytest.mark.parametrize("value", [account(), api_key(), verified(), Refusal("rate_limited")])
def test_values_are_frozen(value: object) -> None:
    """Values don't change: nothing that was decided on can be altered afterwards."""
    name = dataclasses.fields(value)[0].name  # type: ignore[arg-type]  # all are dataclasses
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, "other")


def test_every_reason_has_a_status() -> None:
    """R7, O12, O15: each refusal has its documented status."""
    assert set(get_args(Reason)) == set(MEANINGS)
    assert {reason: meaning.status for reason, meaning in MEANINGS.items()} == {
        "missing_credential": 401,
        "invalid_credential": 401,
        "two_credentials": 400,
        "malformed_path": 400,
        "unruled": 403,
        "insufficient_scope": 403,
        "beyond_caller": 403,
        "too_many_keys": 403,
        "module_not_in_plan": 403,
        "gated_feature": 402,
        "rate_limited": 429,
        "quota_exceeded": 429,
        "insufficient_credits": 402,
        "not_found": 404,
        "method_not_allowed": 405,
        "body_too_large": 413,
        "not_json": 400,
        "not_json_rpc": 400,
        "batch_refused": 400,
        "call_without_id": 400,
        "id_in_use": 400,
        "header_mismatch": 400,
        "unavailable": 503,
    }


def test_count_total() -> None:
    """A count is what is stored, on its way, and pending."""
    count = MonthlyCount("key:a", "2026-11", 5)
    count.flushing, count.pending = 3, -1
    assert count.total == 7


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([], []),
        (["a,b"], ["a", "b"]),
        ([" a , ,b,", "c"], ["a", "b", "c"]),
        ([",,"], []),
    ],
)
def test_names_of(values: list[str], names: list[str]) -> None:
    """Lists are split at commas, stripped, and empty parts dropped."""
    assert list(names_of(values)) == names


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("key", "key", 50)),
        ({"per": "account"}, ("account", "account", 50)),
        ({"quota_per": "account"}, ("key", "account", 50)),
        ({"per": "account", "quota_per": "key", "max_keys": 3}, ("account", "key", 3)),
    ],
)
def test_what_a_plan_counts(values: dict[str, Any], expected: tuple[str, str, int]) -> None:
    """R6, O13: the quota counts what limits count, unless the plan says otherwise; 50 keys."""
    for plan in (Plan("p", **values), PlanTable(**values).plan("p")):
        assert (plan.per, plan.quota_per, plan.max_keys) == expected
