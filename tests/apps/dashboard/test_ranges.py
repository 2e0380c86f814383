"""Spans of time and their bins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.apps.dashboard.ranges import SPANS, named, own
from keyrush.core.times import DAY
from keyrush.errors import InvalidArgument

MINUTE, HOUR = 60_000, 3_600_000


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOW = at("2026-11-26T23:20:42.123")
instants = st.integers(at("2020-01-01"), at("2090-01-01"))


@pytest.mark.parametrize(
    ("name", "since", "until", "bins"),
    [
        ("1h", "2026-11-26T22:21", "2026-11-26T23:21", 60),
        ("24h", "2026-11-25T23:30", "2026-11-26T23:30", 48),
        ("7d", "2026-11-20", "2026-11-27", 28),
        ("30d", "2026-10-28", "2026-11-27", 30),
    ],
)
def test_spans(name: str, since: str, until: str, bins: int) -> None:
    """Spans end with the bin that is running, and begin on the clock."""
    span = named(name, NOW)
    assert (span.since, span.until, len(span.bins)) == (at(since), at(until), bins)


@given(st.sampled_from(sorted(SPANS)), instants)
def test_any_moment_is_in_the_last_bin(name: str, now: int) -> None:
    """Now is in the running bin, bins are of one step, and marks are few and among them."""
    span = named(name, now)
    assert span.bins[-1] <= now < span.until
    assert len(span.bins) == SPANS[name][0]
    assert span.since % span.step == span.until % span.step == 0
    assert span.is_running
    assert 1 <= len(span.marks) <= 8
    assert span.marks <= set(span.bins)
    assert span.is_zoned == (name in {"1h", "24h"})


@given(st.sampled_from(sorted(SPANS)), instants)
def test_what_went_before_is_as_long(name: str, now: int) -> None:
    """The span before is as long, and kept by the minute where it is asked for by less than an
    hour.
    """
    span = named(name, now)
    assert span.before == 2 * span.since - span.until
    assert span.before > now - 2 * DAY or span.step >= HOUR
    assert span.whole == len(span.bins) - 1


@pytest.mark.parametrize(
    ("first", "last", "whole", "has_before"),
    [
        ("2026-11-26", "2026-11-26", 46, True),
        ("2026-11-25", "2026-11-25", 48, False),
        ("2026-11-24", "2026-11-24", 24, True),
        ("2026-11-26T23:00", "2026-11-26T23:59", 20, True),
        ("2026-11-25T22:30", "2026-11-25T23:29", 60, True),
        ("2025-10-25", "2025-11-25", 32, False),
        ("2026-02-25", "2026-11-25", 39, False),
        ("2026-11-26", "2026-12-24", 0, True),
    ],
)
def test_what_is_compared(first: str, last: str, whole: int, has_before: bool) -> None:
    """Bins that have ended are compared, with what is kept of the span before."""
    span = own(first, last, NOW)
    assert span.whole == whole
    assert (span.before is not None) == has_before


@pytest.mark.parametrize(
    ("first", "last", "step", "bins"),
    [
        ("2026-11-26", "2026-11-26", 30 * MINUTE, 48),
        ("2026-11-20", "2026-11-20", HOUR, 24),
        ("2026-11-26T22:30", "2026-11-26T23:29", MINUTE, 60),
        ("2026-11-20T22:30", "2026-11-20T22:59", HOUR, 1),
        ("2026-11-19", "2026-11-25", 6 * HOUR, 28),
        ("2026-10-01", "2026-11-25", DAY, 56),
        ("2026-01-01", "2026-11-25", 7 * DAY, 47),
        ("2026-11-26", "2026-12-24", DAY, 29),
    ],
)
def test_a_span_of_ones_own(first: str, last: str, step: int, bins: int) -> None:
    """The finest step is taken that gives at most 60 bins and is kept for so long."""
    span = own(first, last, NOW)
    assert (span.step, len(span.bins)) == (step, bins)
    assert span.since <= at(first)
    assert span.until > at(last)


@pytest.mark.parametrize(
    ("first", "last", "field"),
    [
        ("", "2026-11-26", "from"),
        ("2026-11-26", "", "to"),
        ("2026-11-26", "2026-11-25", "to"),
        ("2026-02-30", "2026-11-25", "from"),
        ("2025-01-01", "2026-11-25", "from"),
        ("2026-12-01", "2026-12-02", "from"),
        ("9999-12-31", "9999-12-31", "from"),
        ("0001-01-01", "2026-11-25", "from"),
        ("1e9", "2026-11-25", "from"),
        ("\uff12026-11-25", "2026-11-25", "from"),
        ("2026-11-26T23:19Z", "2026-11-26", "from"),
        ("'><script>a", "2026-11-26", "from"),
        ("2026-11-26 25:00", "2026-11-26", "from"),
        ("2026-W48-4", "2026-11-26", "from"),
    ],
)
def test_no_span(first: str, last: str, field: str) -> None:
    """What is no span says which end is wrong."""
    with pytest.raises(InvalidArgument) as raised:
        own(first, last, NOW)
    assert raised.value.field == field


@given(st.integers(0, 420), st.integers(0, 420), instants)
def test_any_span_has_few_bins(ago: int, days: int, now: int) -> None:
    """Any two days give at most 60 bins that cover them, or a field that is wrong."""
    first = datetime.fromtimestamp(now / 1000, UTC).date() - timedelta(days=ago)
    last = first + timedelta(days=days)
    try:
        span = own(str(first), str(last), now)
    except InvalidArgument as error:
        assert error.field in {"from", "to"}  # noqa: PT017  # either is right
        assert days >= 400
        return
    assert 1 <= len(span.bins) <= 60
    assert span.since <= at(str(first)) < at(str(last)) + DAY <= span.until
    assert len(span.marks) <= 8
