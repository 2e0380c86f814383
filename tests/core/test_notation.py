"""Limits and times as people write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.core.model import Limit
from keyrush.core.notation import format_limits, parse_limits
from keyrush.core.sliding import EXACT
from keyrush.core.times import iso, parse_duration, parse_expiry
from keyrush.errors import InvalidArgument
from tests.support.values import NOW

DAY = 86_400_000


@pytest.mark.parametrize("given_limits", [["1/minute"], 5, b"1/minute", {"free": "1/day"}])
def test_limits_that_are_no_text(given_limits: Any) -> None:
    """Limits of another kind are refused in words, naming the field; what is given isn't shown."""
    with pytest.raises(InvalidArgument, match=r"^limits: must be text such as .*, not \w+$"):
        parse_limits(given_limits)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("unlimited", ()),
        (" Unlimited ", ()),
        ("100/minute", (Limit(100, 60),)),
        ("100 per minute", (Limit(100, 60),)),
        ("0/minute", (Limit(0, 60),)),
        ("5/10second", (Limit(5, 10),)),
        (
            "1000/hour; 60/minute, 10000/day",
            (Limit(60, 60), Limit(1000, 3600), Limit(10000, 86400)),
        ),
    ],
)
def test_parse_limits(text: str | None, expected: tuple[Limit, ...] | None) -> None:
    """O13: the notation of `limits`, shortest first; 0, none and unlimited are three things."""
    assert parse_limits(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "100",
        "100/",
        "/minute",
        "minute",
        "100/fortnight",
        "-1/minute",
        "1.5/minute",
        "100/minute;",
        "100/minute;;5/hour",
        "100/minute;unlimited",
        "100/minute and more",
        "100/0minute",
        "none",
        "0",
        "100/minute;5/minute",
        "60/minute;1/60second",
        "9" * 20 + "/minute",
        "9" * 5000 + "/minute",
        f"{EXACT // 60_000}/minute;{EXACT}/second",
    ],
)
def test_malformed_limits(text: str) -> None:
    """A limit that can't be read is refused, naming the field; it is never ignored."""
    with pytest.raises(InvalidArgument, match=r"^custom: ") as caught:
        parse_limits(text, "custom")
    assert caught.value.field == "custom"


@given(
    st.none()
    | st.lists(
        st.builds(Limit, st.integers(0, 10**6), st.integers(1, 10**6)),
        max_size=4,
        unique_by=lambda limit: limit.seconds,
    ).map(lambda limits: tuple(sorted(limits, key=lambda limit: limit.seconds)))
)
def test_limits_round_trip(limits: tuple[Limit, ...] | None) -> None:
    """What is formatted for the store is read back the same."""
    assert parse_limits(format_limits(limits)) == limits


@pytest.mark.parametrize(
    ("limit", "name", "text"),
    [
        (Limit(1, 1), "second", "1/second"),
        (Limit(60, 60), "minute", "60/minute"),
        (Limit(0, 3600), "hour", "0/hour"),
        (Limit(5, 86_400), "day", "5/day"),
        (Limit(5, 10), "10s", "5/10second"),
    ],
)
def test_limit_names(limit: Limit, name: str, text: str) -> None:
    """A limit's name is for header fields, its text for people and `parse_limits`."""
    assert (limit.name, str(limit)) == (name, text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("30m", 1800), ("24h", 86_400), ("30d", 30 * 86_400), ("1y", 365 * 86_400),
     ("0", 0), ("3600", 3600), (" 2 H ", 7200)],
)  # fmt: skip
def test_parse_duration(text: str, seconds: int) -> None:
    """Durations are a number and a unit; a bare number is seconds."""
    assert parse_duration(text, "grace") == seconds


@pytest.mark.parametrize(
    "text", ["", "d", "1w", "-1d", "1.5d", "1d1h", "1e3", "9" * 5000, "٣d", "²"]
)
def test_malformed_durations(text: str) -> None:
    """A duration that can't be read is refused, naming the field."""
    with pytest.raises(InvalidArgument, match=r"^grace: "):
        parse_duration(text, "grace")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", None),
        ("Never", None),
        ("", None),
        ("30d", NOW + 30 * DAY),
        ("90d", NOW + 90 * DAY),
        ("1y", NOW + 365 * DAY),
        ("2027-01-31", 1_801_353_600_000),
        ("2027-01-31T00:00:00Z", 1_801_353_600_000),
        ("2027-01-31T01:00:00+01:00", 1_801_353_600_000),
        ("2027-01-31 00:00:00.123+00:00", 1_801_353_600_123),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000),
    ],
)
def test_parse_expiry(text: str, expected: int | None) -> None:
    """R5: none, 30 days, 90 days, 1 year, or a date, which begins in UTC."""
    assert parse_expiry(text, NOW) == expected


@pytest.mark.parametrize(
    "text",
    [
        "soon",
        "2027-02-30",
        "31.01.2027",
        "2027-01-31T00:00:00",
        "2027-01-31 12:00",
        "20270131",
        "999999y",
        "9999-12-31T23:59:59-12:00",
        "10000-01-01",
    ],
)
def test_malformed_expiry(text: str) -> None:
    """R5: no such date, no zone, or so late that it could not be written down again."""
    with pytest.raises(InvalidArgument, match=r"^expires: "):
        parse_expiry(text, NOW)


@given(st.text(max_size=40))
def test_any_expiry_has_an_answer(text: str) -> None:
    """Whatever is typed is an instant that can be shown, none, or refused as such."""
    try:
        instant = parse_expiry(text, NOW)
    except InvalidArgument:
        return
    assert instant is None or isinstance(iso(instant), str)
