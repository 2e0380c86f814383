"""Charts as SVG: values and words in, markup out, without a style attribute or a script.

x is in per cent and y in CSS pixels, so that labels never scale. Bars stand at their true height,
and what is below three quarters of a pixel is not drawn: the table beside a chart has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from keyrush.core.times import iso

#: Bars are stacked in this order, from the base line up; the names are those of the style sheet.
OUTCOMES = ("ok", "limited", "refused", "error")

#: Shorter bars, in pixels, are not drawn.
_VISIBLE = 0.75

#: Pixels of the axis' labels, on the left and below, and of what is above the highest line.
_LEFT, _FOOT, _HEAD = 44, 24, 10

#: Lines of a chart above its base, at most.
_LINES = 5

#: Days of a sparkline, and pixels of a day's bar with the gap beside it, of its plot and where it
#: ends, of a bar that is there at all, and of one that shows what failed.
_DAYS, _BAR, _PLOT, _BASE, _LEAST, _LEAST_FAILED = 30, 4, 26, 27.5, 1.5, 2.0

#: A day is shown as bad where more than this share of it failed.
_BAD_SHARE = 0.05


class Outcomes(NamedTuple):
    """How many requests came to what, in the order of `OUTCOMES`."""

    ok: int = 0
    limited: int = 0
    refused: int = 0
    error: int = 0

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(self)


class Bar(NamedTuple):
    """One bin of a chart. `tip` says its figures; `when` its time, which the reader's script may
    write in another zone where `is_zoned`.
    """

    at: int  #: when it begins, Unix milliseconds
    counts: Outcomes
    when: str
    tip: str
    label: str = ""  #: on the axis below, for some


class Named(NamedTuple):
    """What a chart is called: `id` prefixes those of its parts, `says` is a sentence with what it
    shows.
    """

    id: str
    title: str
    says: str


def scale(top: float) -> tuple[int, int]:
    """The step of an axis from 0 to at least `top`, and how many steps there are: at most five, of
    1, 2, 2.5 or 5 times a power of ten, and whole.
    """
    if top <= 0:
        return 1, _LINES
    size = 10 ** max(0, math.floor(math.log10(top / _LINES)))
    steps = (size * of // 10 for of in (10, 20, 25, 50, 100) if not size * of % 10)
    step = next(step for step in steps if step * _LINES >= top)
    return step, max(1, math.ceil(top / step))


def spark(requests: Sequence[int], failed: Sequence[int], label: str) -> Markup:
    """Thirty days in 119 × 28 pixels, for a row of a table.

    Args:
        requests: Of each day, the oldest first.
        failed: How many of these were not answered well; red where they are more than a
            twentieth of their day.
        label: What a screen reader says.
    """
    top = max(requests, default=0) or 1
    paths: dict[str, list[str]] = {"nil": [], "ok": [], "error": []}  # three elements, not sixty
    for day, (count, bad) in enumerate(zip(requests, failed, strict=True)):
        if not count:
            paths["nil"].append(_bar(day, _BASE, 1.5))
            continue
        red = 0.0
        if bad > _BAD_SHARE * count:
            red = min(_PLOT, max(_LEAST_FAILED, _PLOT * bad / top))
        blue = _PLOT * (count - bad if red else count) / top
        blue = min(max(_LEAST if count > bad or not red else 0, blue), _PLOT - red)
        if blue:
            paths["ok"].append(_bar(day, _BASE, blue))
        if red:
            paths["error"].append(_bar(day, _BASE - blue, red))
    width = _DAYS * _BAR - 1
    out = [
        f'<svg class="spark" width="{width}" height="28" role="img" aria-label="{escape(label)}">'
    ]
    out += [f'<path class="{name}" d="{"".join(bars)}"/>' for name, bars in paths.items() if bars]
    return Markup("".join(out) + "</svg>")  # noqa: S704  # made of numbers, and escaped


def _bar(day: int, base: float, height: float) -> str:
    return f"M{day * _BAR} {base - height:.4g}h3V{base:.4g}h-3z"


def stacked(
    bars: Sequence[Bar],
    named: Named,
    axis: Callable[[int], str],
    *,
    is_zoned: bool = False,
    height: int = 208,
) -> Markup:
    """Bars by outcome, one a bin; `axis` writes a number on the axis."""
    step, lines = scale(max((bar.counts.requests for bar in bars), default=0))
    plot = height - _FOOT - _HEAD
    width = 100 / max(1, len(bars))
    gap = width * 0.15
    out = [*_frame(named, axis, (step, lines), height, _HEAD)]
    for place, bar in enumerate(bars):
        left = place * width
        zoned = f' data-time="{iso(bar.at)}"' if is_zoned else ""
        out.append(
            f'<g class="bin"{zoned}><title>{escape(bar.when)}: {escape(bar.tip)}</title>'
            f'<rect class="hit" x="{left:.3f}%" y="{_HEAD}" width="{width:.3f}%" height="{plot}"/>'
        )
        base = float(_HEAD + plot)
        for name, count in zip(OUTCOMES, bar.counts, strict=True):
            tall = plot * count / (step * lines)
            if tall < _VISIBLE:
                continue
            out.append(
                f'<rect class="{name}" x="{left + gap:.3f}%" y="{base - tall:.1f}" '
                f'width="{width - 2 * gap:.3f}%" height="{tall:.1f}"/>'
            )
            base -= tall + 1
        out.append("</g>")
    marks = [(place, bar) for place, bar in enumerate(bars) if bar.label]
    for number, (place, bar) in enumerate(marks):
        x = (place + 0.5) * width
        out.append(_mark(x, height, bar.label, bar.at if is_zoned else None, is_odd=number % 2 > 0))
    return Markup("".join(out) + "</svg></div>")  # noqa: S704  # made of numbers, and escaped


class Month(NamedTuple):
    """Requests since a month began: `so_far` at the end of each day that has been, the last being
    now, of `days`; `quota` and `projected`, where there are any.
    """

    so_far: Sequence[int]
    days: int
    elapsed: float  #: days since it began
    quota: int | None
    projected: int | None


def month(
    of: Month, named: Named, axis: Callable[[int], str], quota: str, *, height: int = 190
) -> Markup:
    """A line that climbs through a month, dashed where it may go; `quota` names the line of what
    is included.
    """
    head, now = 14, of.so_far[-1] if of.so_far else 0
    step, lines = scale(max(now, of.quota or 0, of.projected or 0) * 1.02)
    plot = height - _FOOT - head

    def y(value: float) -> float:
        return plot * (1 - value / (step * lines))

    ends = [(min(day, of.elapsed), value) for day, value in enumerate(of.so_far, 1)]
    points = " ".join(f"{100 * at / of.days:.2f},{y(value):.2f}" for at, value in ends)
    here = 100 * of.elapsed / of.days
    out = [
        *_frame(named, axis, (step, lines), height, head),
        f'<svg x="0" y="{head}" width="100%" height="{plot}" viewBox="0 0 100 {plot}"',
        ' preserveAspectRatio="none">',
        f'<polygon class="area" points="0,{plot} {points} {here:.2f},{plot}"/>',
        f'<polyline class="line" points="0,{plot} {points}"/>',
    ]
    if of.projected is not None:
        out.append(
            f'<line class="ahead" x1="{here:.2f}" y1="{y(now):.2f}" x2="100" '
            f'y2="{y(of.projected):.2f}"/>'
        )
    out.append("</svg>")
    if of.quota is not None:
        at = round(head + y(of.quota)) + 0.5
        out.append(
            f'<line class="quota" x1="0" x2="100%" y1="{at}" y2="{at}"/>'
            f'<text class="x quota-t" x="0" y="{at - 5}">{escape(quota)}</text>'
        )
    weeks = range(1, of.days + 1, 7)
    out += [_mark(100 * (day - 0.5) / of.days, height, axis(day), None) for day in weeks]
    return Markup("".join(out) + "</svg></div>")  # noqa: S704  # made of numbers, and escaped


def share(value: int, top: int) -> Markup:
    """A bar as long as `value` is of `top`; decoration, the figure beside it says it."""
    part = max(1.0, _percent(value, top))
    return Markup(  # noqa: S704  # made of numbers
        '<svg class="share" width="100%" height="6" aria-hidden="true">'
        '<rect class="track" width="100%" height="6" rx="3"/>'
        f'<rect class="ok" width="{part:.1f}%" height="6" rx="3"/></svg>'
    )


def meter(value: int, full: int, *, ahead: int | None = None, tone: str = "ok") -> Markup:
    """The inside of a meter: `value` of `full`, pale up to `ahead`, with a tick at `full` where
    either goes above. `tone` is one of `OUTCOMES`.
    """
    most = max(full, value, ahead or 0)
    end = most if most == full else math.ceil(most * 1.03)
    out = [
        '<svg width="100%" height="10" aria-hidden="true">',
        '<rect class="track" width="100%" height="8" y="1" rx="4"/>',
    ]
    if ahead is not None and ahead > value:
        out.append(
            f'<rect class="ahead" width="{_percent(ahead, end):.1f}%" height="8" y="1" rx="4"/>'
        )
    if value:
        out.append(
            f'<rect class="{tone}" width="{_percent(value, end):.1f}%" height="8" y="1" rx="4"/>'
        )
    if end > full:
        at = f"{_percent(full, end):.1f}%"
        out.append(f'<line class="tick" x1="{at}" x2="{at}" y1="0" y2="10"/>')
    return Markup("".join(out) + "</svg>")  # noqa: S704  # made of numbers


def _percent(value: int, of: int) -> float:
    return min(100.0, 100 * value / of) if of else 0.0


def _frame(
    named: Named, axis: Callable[[int], str], ticks: tuple[int, int], height: int, head: int
) -> Iterator[str]:
    """The axis on the left, the lines, and the name; what is drawn after it is inside the plot."""
    step, lines = ticks
    plot = height - _FOOT - head
    heights = [(value * step, head + plot * (1 - value / lines)) for value in range(lines + 1)]
    yield f'<div class="chart"><svg class="yaxis" height="{height}" width="{_LEFT}"'
    yield ' aria-hidden="true">'
    for value, y in heights:
        yield f'<text x="36" y="{y + 4:.1f}" text-anchor="end">{escape(axis(value))}</text>'
    ids = f"{named.id}-t", f"{named.id}-d"
    yield f'</svg><svg class="plot" height="{height}" width="100%" role="img"'
    yield f' aria-labelledby="{ids[0]} {ids[1]}">'
    yield f'<title id="{ids[0]}">{escape(named.title)}</title>'
    yield f'<desc id="{ids[1]}">{escape(named.says)}</desc>'
    for value, y in heights:
        at = round(y) + 0.5
        yield f'<line class="{"grid" if value else "base"}" x1="0" x2="100%" y1="{at}" y2="{at}"/>'


def _mark(x: float, height: int, label: str, at: int | None, *, is_odd: bool = False) -> str:
    zoned = "" if at is None else f' data-time="{iso(at)}"'
    odd = " odd" if is_odd else ""  # half of them go where there is little room
    return (
        f'<text class="x{odd}"{zoned} x="{x:.2f}%" y="{height - 6}" text-anchor="middle">'
        f"{escape(label)}</text>"
    )
