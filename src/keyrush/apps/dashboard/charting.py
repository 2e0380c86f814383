"""Figures in words: the cards and the chart of a page, as its language says them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

from keyrush.apps.dashboard.charts import OUTCOMES, Bar, Named, Outcomes, stacked
from keyrush.apps.dashboard.figures import Delta, Figures, change, rate_change
from keyrush.apps.dashboard.ranges import Range
from keyrush.apps.dashboard.visit import Visit
from keyrush.core.times import DAY, iso


class Card(NamedTuple):
    """One figure, and how it has changed: by `by`, or as `note` says."""

    name: str
    value: str
    by: str | None = None
    direction: Literal["up", "down"] = "up"
    tone: Literal["good", "bad", ""] = ""
    note: str = ""


class Chart(NamedTuple):
    """A chart, and the rows of the table beside it, the newest first."""

    markup: Markup
    rows: Markup


def cards(visit: Visit, of: Figures, span: Range) -> list[Card]:
    """Requests, and what came of them, against the span before."""
    number, total = visit.formats.number, of.total
    rate = visit.formats.percent(total.ok, total.requests) if total.requests else "–"  # noqa: RUF001  # a dash
    before = of.before if of.before is not None and of.before.requests else None
    found = [
        _card(visit, "requests", number(total.requests)),
        _card(visit, "success", rate),
        *(
            _card(visit, name, number(count))
            for name, count in (
                ("errors", total.error),
                ("limited", total.limited),
                ("refused", total.refused),
            )
        ),
    ]
    if before is None:
        return found
    whole, than = of.whole, visit.t(f"activity.than_{span.name}")
    changes = [
        change(whole.requests, before.requests),
        rate_change(whole, before),
        _of_bad(whole.error, before.error),
        _of_bad(whole.limited, before.limited),
        _of_bad(whole.refused, before.refused),
    ]
    return [
        _compared(visit, card, delta, than, "activity.points" if rate else "formats.percent")
        for card, delta, rate in zip(found, changes, _RATES, strict=True)
    ]


#: Which of the cards is a rate.
_RATES = (False, True, False, False, False)


def _card(visit: Visit, name: str, value: str) -> Card:
    return Card(visit.t(f"activity.{name}"), value, note=visit.t("activity.not_known"))


def _of_bad(now: int, before: int) -> Delta | None:
    """Fewer are good; None where there are some now, and were none."""
    return change(now, before, is_good=False) if before or now else Delta(0, None)


def _compared(visit: Visit, card: Card, delta: Delta | None, than: str, unit: str) -> Card:
    if delta is None:
        return card._replace(note=visit.t("activity.none_before"), tone="bad")
    if not delta.tenths:
        return card._replace(note=visit.t("activity.as_many"))
    number = visit.formats.decimal(abs(delta.tenths) / 10)
    return card._replace(
        by=visit.t(unit, number=number),
        direction="up" if delta.tenths > 0 else "down",
        tone=_TONES[delta.is_good],
        note=than,
    )


_TONES: dict[bool | None, Literal["good", "bad", ""]] = {True: "good", False: "bad", None: ""}


def bars(visit: Visit, counts: list[Outcomes], span: Range) -> list[Bar]:
    """The bins of a span with their words."""
    formats, marks = visit.formats, span.marks
    found = []
    for at, one in zip(span.bins, counts, strict=True):
        tip = tip_of(visit, one)
        if at + span.step > visit.now:
            tip = f"{tip} ({visit.t('activity.running')})"
        when = formats.short_moment(at) if span.step < DAY else formats.short_day(at)
        has_clock = span.is_zoned or (span.step < DAY and at % DAY)
        mark = (formats.clock if has_clock else formats.short_day)(at)
        found.append(Bar(at, one, when, tip, mark if at in marks else ""))
    return found


def tip_of(visit: Visit, counts: Outcomes) -> str:
    """The figures of a bin: what went well, and whatever else there was."""
    return ", ".join(
        visit.t(f"outcomes_of.{name}", number=visit.formats.number(count))
        for name, count in zip(OUTCOMES, counts, strict=True)
        if count or name == "ok"
    )


def chart(visit: Visit, of: Figures, span: Range) -> Chart:
    """Bars by outcome, with a sentence that says what they show."""
    found = bars(visit, list(of.bins), span)
    named = Named("by-outcome", visit.t("activity.by_outcome"), _says(visit, of, found))
    axis = visit.formats.compact
    markup = stacked(found, named, axis, is_zoned=span.is_zoned)
    return Chart(markup, _rows(visit, found, has_times=span.step < DAY))


def _rows(visit: Visit, bars: Sequence[Bar], *, has_times: bool) -> Markup:
    """The bars as rows of a table, without end tags of cells and rows, which HTML does without.
    Not by a template, which would take most of a page's time for these.
    """
    number, out = visit.formats.number, []
    for bar in reversed(bars):
        when = escape(bar.when)
        if has_times:  # which the script writes in the reader's zone
            when = Markup('<time datetime="{}">{}</time>').format(iso(bar.at), when)
        cells = "".join(f"<td>{number(count)}" for count in bar.counts)
        out.append(f'<tr><th scope="row">{when}{cells}\n')
    return Markup("".join(out))  # noqa: S704  # of numbers, and escaped


def _says(visit: Visit, of: Figures, found: list[Bar]) -> str:
    if not of.total.requests:
        return visit.t("activity.says_none")
    number, busiest = visit.formats.number, found[of.busiest]
    said: str = visit.t(
        "activity.says",
        n=number(of.total.requests),
        busiest=busiest.when,
        most=number(busiest.counts.requests),
    )
    if of.worst is not None:
        worst = found[of.worst]
        bad = number(worst.counts.requests - worst.counts.ok)
        said += visit.t("activity.says_bad", worst=worst.when, bad=bad)
    return said
