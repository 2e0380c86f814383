"""Charts: their markup is well-formed, true in height, and says what it shows."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET  # of our own markup alone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.apps.dashboard.charts import (
    OUTCOMES,
    Bar,
    Month,
    Named,
    Outcomes,
    meter,
    month,
    scale,
    share,
    spark,
    stacked,
)

NAMED = Named("c", "Requests", "Most at noon.")

counts = st.integers(0, 10**12)
outcomes = st.builds(Outcomes, counts, counts, counts, counts)
HOSTILE = "<script>alert(1)</script>\"'&\x00\u202e"


def bars(*found: Outcomes, label: str = "") -> list[Bar]:
    return [
        Bar(60_000 * n, counts, f"00:{n:02}", f"{counts.requests}", label)
        for n, counts in enumerate(found)
    ]


def parsed(markup: str) -> ET.Element:
    return ET.fromstring(markup.replace("\x00", ""))  # noqa: S314  # NUL is in no XML


@given(st.integers(0, 10**18))
def test_an_axis_has_few_round_lines(top: int) -> None:
    """An axis goes from 0 to the top or less than a step above, in at most five round steps."""
    step, lines = scale(top)
    assert step * (lines - 1) < max(top, 5) <= step * max(lines, 5)
    assert lines <= 5
    assert re.fullmatch("(1|2|25|5)0*", str(step))


@given(st.lists(outcomes, min_size=1, max_size=60))
def test_bars_stand_at_their_height(found: list[Outcomes]) -> None:
    """A bar is as tall as its count says; what would be below 0.75 px is not drawn."""
    step, lines = scale(max(one.requests for one in found))
    tree = parsed(stacked(bars(*found), NAMED, str))
    for group, one in zip(tree.iterfind(".//g"), found, strict=True):
        drawn = {
            rect.get("class"): float(rect.get("height", "")) for rect in group.iterfind("rect")
        }
        assert drawn.pop("hit") == 174
        for name, count in zip(OUTCOMES, one, strict=True):
            tall = 174 * count / (step * lines)
            if tall < 0.75:
                assert name not in drawn
            else:
                assert drawn[name] == pytest.approx(tall, abs=0.06)


@given(st.lists(outcomes, min_size=1, max_size=60))
def test_bars_stay_in_the_plot(found: list[Outcomes]) -> None:
    """No bar overlaps another, and none begins above the picture or ends below the base."""
    tree = parsed(stacked(bars(*found), NAMED, str))
    for group in tree.iterfind(".//g"):
        below = 184.0
        for rect in group.iterfind("rect"):
            if rect.get("class") != "hit":
                top, tall = float(rect.get("y", "")), float(rect.get("height", ""))
                assert top + tall <= below + 0.11
                below = top
        assert below >= 10 - 3 - 0.2  # the gaps between the four of them


def test_a_chart_says_what_it_shows() -> None:
    """A chart is an image with a title and a sentence; each bin has its figures as a title."""
    tree = parsed(stacked(bars(Outcomes(3, 1)), NAMED, str))
    plot = tree[1]
    assert plot.get("role") == "img"
    assert plot.get("aria-labelledby") == "c-t c-d"
    assert [(plot[n].tag, plot[n].get("id"), plot[n].text) for n in (0, 1)] == [
        ("title", "c-t", "Requests"),
        ("desc", "c-d", "Most at noon."),
    ]
    assert plot.findtext("g/title") == "00:00: 4"
    assert tree[0].get("aria-hidden") == "true"


def test_short_charts_name_instants_for_the_zone_of_the_reader() -> None:
    """Bins and labels up to a day say when they are, so that a script can write it anew."""
    markup = stacked(bars(Outcomes(1), label="00:00"), NAMED, str, is_zoned=True)
    times = [one.get("data-time") for one in parsed(markup).iter() if one.get("data-time")]
    assert times == ["1970-01-01T00:00:00Z"] * 2
    assert "data-time" not in stacked(bars(Outcomes(1), label="1 Jan"), NAMED, str)


@pytest.mark.parametrize(
    "markup",
    [
        stacked(
            [Bar(0, Outcomes(1), HOSTILE, HOSTILE, HOSTILE)], Named("c", HOSTILE, HOSTILE), str
        ),
        stacked(
            [Bar(0, Outcomes(1), HOSTILE, HOSTILE, HOSTILE)],
            NAMED,
            lambda _: HOSTILE,
            is_zoned=True,
        ),
        spark([1] * 30, [0] * 30, HOSTILE),
        month(Month([1], 30, 1.0, 5, 9), Named("c", HOSTILE, HOSTILE), lambda _: HOSTILE, HOSTILE),
    ],
)
def test_words_are_escaped(markup: str) -> None:
    """Nothing of what a chart is told becomes markup, and nothing of it is style or script."""
    tags = {one.tag for one in parsed(markup).iter()}
    assert tags <= {
        "div", "svg", "text", "title", "desc", "line", "g", "rect", "path", "polygon", "polyline"
    }  # fmt: skip
    assert not re.search(r"<[^>]* (style|on[a-z]+)=", markup)
    assert "<script" not in markup


@given(st.lists(st.tuples(counts, counts), min_size=30, max_size=30))
def test_a_sparkline_stays_within_its_pixels(days: list[tuple[int, int]]) -> None:
    """Thirty bars in 119 × 28: each day has one, and none leaves the picture."""
    failed = [min(pair) for pair in days]
    requests = [max(pair) for pair in days]
    tree = parsed(spark(requests, failed, "x"))
    drawn: dict[str, dict[int, tuple[float, float]]] = {}
    for path in tree.iterfind("path"):
        parts = re.findall(r"M(\d+) ([\d.]+)h3V([\d.]+)h-3z", path.get("d", ""))
        assert "".join(f"M{x} {y}h3V{base}h-3z" for x, y, base in parts) == path.get("d")
        drawn[path.get("class", "")] = {int(x) // 4: (float(y), float(b)) for x, y, b in parts}
    assert all(1.4 <= top <= base <= 27.5 for of in drawn.values() for top, base in of.values())
    for day, (count, bad) in enumerate(zip(requests, failed, strict=True)):
        assert (day in drawn.get("nil", {})) == (not count)
        assert (day in drawn.get("error", {})) == (bad > 0.05 * count)
        if count:
            assert day in drawn.get("ok", {}) or day in drawn["error"]


def test_a_sparkline_is_red_where_much_failed() -> None:
    """A day is red where more than a twentieth of it failed, not for what always fails."""
    assert 'class="error"' not in spark([100] * 30, [5] * 30, "x")
    assert spark([100] * 30, [6] * 30, "x").count("M") == 60
    assert len(spark([100] * 30, [0] * 30, "x")) < 800


def test_the_month_is_anchored_at_now() -> None:
    """The line ends where the month has got to; what may follow is dashed, to the month's end."""
    markup = month(Month([10, 20, 25], 30, 2.5, 100, 300), NAMED, str, "Included: 100")
    tree = parsed(markup)
    line = tree.find(".//polyline")
    assert line is not None
    xs = [float(point.split(",")[0]) for point in line.get("points", "").split()]
    assert xs == pytest.approx([0, 3.33, 6.67, 8.33], abs=0.01)
    ahead = tree.find(".//line[@class='ahead']")
    assert ahead is not None
    assert (ahead.get("x1"), ahead.get("x2")) == ("8.33", "100")
    assert "Included: 100" in markup
    assert "Included" not in month(Month([0], 30, 0.5, None, None), NAMED, str, "Included: 100")


@given(counts, counts, st.none() | counts)
def test_meters_stay_within_their_track(value: int, full: int, ahead: int | None) -> None:
    """A meter's bars are between nothing and all of it, whatever is above the quota."""
    for width in re.findall(r'(?:width|x1|x2)="([\d.]+)%"', meter(value, full, ahead=ahead)):
        assert 0 <= float(width) <= 100
    assert ("tick" in meter(value, full, ahead=ahead)) == (max(value, ahead or 0) > full)


def test_a_share_is_seen_however_small() -> None:
    """What is there has a bar of one per cent at least."""
    assert 'width="1.0%"' in share(1, 10**9)
    assert 'width="50.0%"' in share(1, 2)
    assert 'width="1.0%"' in share(0, 0)
