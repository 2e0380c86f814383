"""What pages say in numbers: figures of a span, a month, and cells of CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.apps.dashboard.charts import OUTCOMES, Outcomes
from keyrush.apps.dashboard.figures import Delta, change, figures, rate_change
from keyrush.apps.dashboard.months import projected, so_far
from keyrush.apps.dashboard.ranges import OWN, Range, named
from keyrush.apps.dashboard.sheets import cell, lines
from keyrush.core.activity import BUCKETS, Total
from keyrush.core.times import DAY

HOUR = 3_600_000
NOW = 20_783 * DAY + 23 * HOUR + 20 * 60_000


def total(at: int, value: str | None, requests: int) -> Total:
    return Total(at, value, requests, 0, 0, 0, (0,) * (len(BUCKETS) + 1))


SPAN = named("24h", NOW)

found = st.lists(
    st.builds(
        total,
        st.integers(-48, 47).map(lambda n: SPAN.since + n * SPAN.step),
        st.sampled_from([*OUTCOMES, None]),
        st.integers(1, 1000),
    )
)


@given(found)
def test_figures_are_of_one_sum(totals: list[Total]) -> None:
    """The bins of the chart and its table add up to the cards, and compared are whole bins."""
    of = figures(totals, SPAN)
    assert len(of.bins) == 48
    assert of.total == tuple(sum(column) for column in zip(*of.bins, strict=True))
    assert of.whole == tuple(sum(column) for column in zip(*of.bins[:47], strict=True))
    sums: Counter[str | None] = Counter()
    for one in totals:
        if one.at < SPAN.since and one.at + DAY < SPAN.bins[-1]:
            sums[one.value] += one.requests
    assert of.before == tuple(sums[name] for name in OUTCOMES)


def test_weeks_are_made_of_days() -> None:
    """Totals of days add up in bins of a week, and nothing from outside is in them."""
    span = Range(OWN, 700 * DAY, 714 * DAY, 7 * DAY, 714 * DAY)
    totals = [total(n * DAY, "ok", 1) for n in range(698, 716)] + [total(708 * DAY, "error", 5)]
    of = figures(totals, span)
    assert of.bins == [Outcomes(7), Outcomes(7, error=5)]
    assert of.before == Outcomes(2)
    assert (of.busiest, of.worst) == (1, 1)
    assert figures([], span).worst is None


@pytest.mark.parametrize(
    ("now", "before", "is_good", "expected"),
    [
        (110, 100, None, Delta(100, None)),
        (110, 100, False, Delta(100, False)),
        (90, 100, False, Delta(-100, True)),
        (100, 100, False, Delta(0, None)),
        (1, 0, False, None),
        (0, 0, False, None),
        (0, 3, True, Delta(-1000, False)),
    ],
)
def test_changes(now: int, before: int, is_good: bool | None, expected: Delta | None) -> None:
    """A change is in per cent of what was before, and said to be well where it is."""
    assert change(now, before, is_good=is_good) == expected


def test_rates_change_by_points() -> None:
    """The share of what went well changes by points, as its figures are written."""
    assert rate_change(Outcomes(950, 50), Outcomes(964, 36)) == Delta(-14, is_good=False)
    assert rate_change(Outcomes(1), Outcomes()) is None
    assert rate_change(Outcomes(1), Outcomes(7)) == Delta(0, None)


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), min_size=1, max_size=31))
def test_a_month_ends_at_its_count(counted: int, by_day: list[int]) -> None:
    """The line of a month climbs, and ends where its count stands, whatever activity lacks."""
    line = so_far(counted, by_day)
    assert len(line) == len(by_day)
    assert line[-1] == counted
    assert line == sorted(line)
    assert line[0] >= 0


def test_a_month_goes_on_as_it_went() -> None:
    """At the same pace; on its first day nobody knows."""
    first = 20_758 * DAY  # 1 November 2026
    assert projected(100, first + DAY - 1) is None
    assert projected(100, first + DAY) == 3000
    assert projected(456_738, first + 15 * DAY) == 913_476
    assert projected(0, first + 15 * DAY) == 0


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t1",
        "\r=1",
        "\n=1",
        "  =1",
        "\u00a0=1",
        "=cmd|' /C calc'!A0",
        "%0A=1",
        "\uff1d1",
        "-2+3",
    ],
)
def test_no_cell_is_a_formula(text: str) -> None:
    """Text that a spreadsheet might run has an apostrophe before it, and is else as it was."""
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a;=1+1", "a;'=1+1"),
        ("a; =1;\u00a0@b", "a; '=1;\u00a0'@b"),
        ("a\t-1", "a\t'-1"),
        ("\t=1", "'\t'=1"),
        ('a;"=1', "a;\"'=1"),
        ("=1;=2", "'=1;'=2"),
        ("curl/8 (X11; Linux; a=b)", "curl/8 (X11; Linux; a=b)"),
    ],
)
def test_no_part_of_a_cell_is_a_formula(text: str, written: str) -> None:
    """Nor is what becomes a cell where semicolons or tabs are between them."""
    assert cell(text) == written


@pytest.mark.parametrize(
    ("value", "text"),
    [(-10, "-10"), (None, ""), (0, "0"), ("GET", "GET"), ("", ""), ("a=b", "a=b")],
)
def test_cells(value: object, text: str) -> None:
    """Numbers stay numbers, and what is nothing is empty."""
    assert cell(value) == text


@given(
    st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=2))
)
def test_lines_are_read_as_they_were_written(rows: list[list[str]]) -> None:
    """Quotes, commas and line ends in cells are read back, behind the apostrophe where there is
    one (RFC 4180).
    """
    text = lines(rows).decode()
    read = [*csv.reader(io.StringIO(text, newline=""))]
    assert read == [[cell(value) for value in row] for row in rows]
