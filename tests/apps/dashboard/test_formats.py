"""How numbers and times are written, in English and in another language."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.apps.dashboard.formats import Formats
from keyrush.apps.dashboard.texts import texts_in

ENGLISH = Formats(texts_in("en"))
AT = 1_795_735_182_000  # 26 November 2026, 23:19:42 UTC
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (ENGLISH.number(0), "0"),
        (ENGLISH.number(1234), "1,234"),
        (ENGLISH.number(-10), "\u221210"),
        (ENGLISH.signed(10), "+10"),
        (ENGLISH.signed(-1234), "\u22121,234"),
        (ENGLISH.signed(0), "0"),
        (ENGLISH.decimal(1234.56), "1,234.6"),
        (ENGLISH.decimal(-0.04), "0.0"),
        (ENGLISH.decimal(-1.25, 2), "\u22121.25"),
        (ENGLISH.decimal(Decimal("0.50"), 2), "0.50"),
        (ENGLISH.decimal(12, 0), "12"),
        (ENGLISH.percent(95, 100), "95.0%"),
        (ENGLISH.percent(0, 0), "0.0%"),
        (ENGLISH.percent(99_999, 100_000), "99.9%"),
        (ENGLISH.percent(1, 100_000), "0.1%"),
        (ENGLISH.percent(7, 7), "100.0%"),
        (ENGLISH.compact(0), "0"),
        (ENGLISH.compact(500), "500"),
        (ENGLISH.compact(15_000), "15k"),
        (ENGLISH.compact(2_500_000), "2.5M"),
        (ENGLISH.compact(250_000_000_000), "250B"),
        (ENGLISH.duration(2_310_000), "2,310 ms"),
        (ENGLISH.duration(41_400), "41 ms"),
        (ENGLISH.duration(430), "0.4 ms"),
        (ENGLISH.ago(AT, AT + 12_000), "12 s ago"),
        (ENGLISH.ago(AT, AT + 3 * MINUTE), "3 min ago"),
        (ENGLISH.ago(AT, AT + 11 * HOUR), "11 h ago"),
        (ENGLISH.ago(AT, AT + 79 * DAY), "79 d ago"),
        (ENGLISH.ago(AT + 5, AT), "0 s ago"),
        (ENGLISH.span(42 * DAY), "6 weeks"),
        (ENGLISH.span(90 * DAY), "3 months"),
        (ENGLISH.span(DAY), "1 day"),
        (ENGLISH.span(HOUR), "1 hour"),
        (ENGLISH.span(1), "1 minute"),
        (ENGLISH.day(AT), "26 Nov 2026"),
        (ENGLISH.short_day(AT), "26 Nov"),
        (ENGLISH.long_day(AT), "26 November"),
        (ENGLISH.month(AT), "November 2026"),
        (ENGLISH.moment(AT), "26 Nov 2026, 23:19 UTC"),
        (ENGLISH.short_moment(AT), "26 Nov, 23:19 UTC"),
        (ENGLISH.day_and_seconds(AT), "26 Nov, 23:19:42 UTC"),
        (ENGLISH.clock(AT), "23:19"),
        (ENGLISH.seconds(AT), "23:19:42 UTC"),
    ],
)
def test_english(written: str, text: str) -> None:
    """Numbers, times and durations as English writes them, instants in UTC."""
    assert written == text


def test_another_language(tmp_path: Path) -> None:
    """Signs, months and the order of a date are the catalogue's, and can be another file's."""
    german = tmp_path / "de.toml"
    german.write_text(
        '[formats]\ngroup = "."\npoint = ","\npercent = "{number} %"\n'
        'months = "Jan. Feb. März Apr. Mai Juni Juli Aug. Sept. Okt. Nov. Dez."\n'
        'date = "{day}. {month} {year}"\nclock = "<{hour}> {0} {weekday} {"\n',
        "utf-8",
    )
    formats = Formats(texts_in("de", german))
    assert formats.number(1_234_567) == "1.234.567"
    assert formats.decimal(1234.5) == "1.234,5"
    assert formats.percent(19, 20) == "95,0 %"
    assert formats.day(AT) == "26. Nov. 2026"
    assert formats.clock(AT) == "&lt;23&gt; {0} {weekday} {"


@given(st.integers(-(10**15), 10**15))
def test_numbers_are_whole(value: int) -> None:
    """Nothing of a number is lost but on an axis."""
    assert int(ENGLISH.number(value).replace(",", "").replace("\u2212", "-")) == value
    assert len(ENGLISH.compact(value)) < 14


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_share_is_all_only_where_it_is(part: int, more: int) -> None:
    """100% is all, and 0% is nothing."""
    text = ENGLISH.percent(part, part + more)
    assert (text == "100.0%") == (part > 0 and more == 0)
    assert (text == "0.0%") == (part == 0)
