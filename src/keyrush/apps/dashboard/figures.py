"""What a page of activity says in numbers. All of it, the cards, the chart and its table, comes of
one summary, so that nothing disagrees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from keyrush.apps.dashboard.charts import OUTCOMES, Outcomes
from keyrush.apps.dashboard.ranges import Range
from keyrush.core.activity import Total


class Figures(NamedTuple):
    """Requests of a span: of each bin and in all, and how that compares to what went before.

    Compared are the bins that have ended, `whole`, with as many of the span before, `before`:
    None where that is not known any more.
    """

    bins: Sequence[Outcomes]
    total: Outcomes
    whole: Outcomes
    before: Outcomes | None

    @property
    def busiest(self) -> int:
        """Which bin has the most requests."""
        return max(range(len(self.bins)), key=lambda place: self.bins[place].requests)

    @property
    def worst(self) -> int | None:
        """In which bin the most were not answered well; None where all were."""
        place = max(range(len(self.bins)), key=lambda place: _bad(self.bins[place]))
        return place if _bad(self.bins[place]) else None


def _bad(counts: Outcomes) -> int:
    return counts.requests - counts.ok


def figures(totals: Iterable[Total], span: Range) -> Figures:
    """The figures of a span, from totals by outcome that go back to the span before."""
    length = span.until - span.since
    bins: list[Counter[str]] = [Counter() for _ in span.bins]
    before: Counter[str] = Counter()
    compared = span.since + span.whole * span.step
    for total in totals:
        if total.value is None:
            continue
        if span.since <= total.at < span.until:
            bins[(total.at - span.since) // span.step][total.value] += total.requests
        elif span.since <= total.at + length < compared:
            before[total.value] += total.requests
    counts = [_outcomes(one) for one in bins]
    return Figures(
        counts,
        _sum(counts),
        _sum(counts[: span.whole]),
        None if span.before is None else _outcomes(before),
    )


def _outcomes(counts: Counter[str]) -> Outcomes:
    return Outcomes(*(counts[name] for name in OUTCOMES))


def _sum(counts: Iterable[Outcomes]) -> Outcomes:
    return Outcomes(*(sum(column) for column in zip(Outcomes(), *counts, strict=True)))


class Delta(NamedTuple):
    """How a figure has changed, in tenths of a per cent, or of a point where it is a rate."""

    tenths: int
    #: Whether that is well: None where it is neither good nor bad.
    is_good: bool | None


def change(now: int, before: int, *, is_good: bool | None = None) -> Delta | None:
    """How much more or less there is than before; None where that can't be said in per cent.
    `is_good` says whether more would be.
    """
    if not before:
        return None
    tenths = round(1000 * (now - before) / before)
    return Delta(tenths, _judged(tenths, is_good))


def rate_change(now: Outcomes, before: Outcomes) -> Delta | None:
    """By how many points the share of what went well has changed; more is good."""
    if not now.requests or not before.requests:
        return None
    tenths = round(1000 * now.ok / now.requests) - round(1000 * before.ok / before.requests)
    return Delta(tenths, _judged(tenths, is_good=True))


def _judged(tenths: int, is_good: bool | None) -> bool | None:
    if not tenths or is_good is None:
        return None
    return is_good == (tenths > 0)
