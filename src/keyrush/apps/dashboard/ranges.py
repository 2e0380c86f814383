"""Spans of time that a page is about, cut into the bins of its chart.

Bins begin on the clock in UTC. The last one may be running, so that it is not whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from keyrush.core.activity import COARSE, FINE
from keyrush.core.times import DAY, LATEST
from keyrush.errors import InvalidArgument

#: The longest span, days: that totals are kept.
LONGEST = 400

#: How long totals of a minute are kept.
FINE_KEPT = 2 * DAY

#: Spans by their names: how many bins of how many milliseconds.
SPANS: Mapping[str, tuple[int, int]] = {
    "1h": (60, FINE),
    "24h": (48, 30 * FINE),
    "7d": (28, 6 * COARSE),
    "30d": (30, DAY),
}

DEFAULT = "24h"
OWN = "own"

#: Steps of spans of one's own; the first that gives no more than so many bins is taken.
_STEPS, _BINS = (FINE, 30 * FINE, COARSE, 6 * COARSE, DAY, 7 * DAY), 60

#: Marks below a chart, at most, and of how many bins one may be named.
_MARKS, _EVERY = 8, (1, 2, 3, 4, 5, 6, 10)

_WRITTEN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2})?")


class Range(NamedTuple):
    """From `since` up to, and without, `until`, in bins of `step`; `now` is when it was asked for.
    Unix milliseconds all.
    """

    name: str
    since: int
    until: int
    step: int
    now: int

    @property
    def is_running(self) -> bool:
        """True where it goes up to now: what happens next is in it, too."""
        return self.until > self.now

    @property
    def is_zoned(self) -> bool:
        """True where it is so short that readers want their own zone; days are in UTC."""
        return self.step < DAY and self.until - self.since <= DAY

    @property
    def bins(self) -> range:
        """When each of them begins."""
        return range(self.since, self.until, self.step)

    @property
    def before(self) -> int | None:
        """When the span of the same length began that went before; None where its totals are kept
        no more.
        """
        since = self.since - (self.until - self.since)
        kept = FINE_KEPT if self.asked % COARSE else LONGEST * DAY
        return since if since >= (self.now - kept) // self.asked * self.asked else None

    @property
    def asked(self) -> int:
        """The step of the totals that the bins are made of: a week is of days."""
        return min(self.step, DAY)

    @property
    def whole(self) -> int:
        """How many of the bins have ended."""
        return min(len(self.bins), max(0, (self.now - self.since) // self.step))

    @property
    def marks(self) -> frozenset[int]:
        """When those bins begin that are named below the chart: eight at most, evenly and on the
        clock, so that names stay where they are while time passes.
        """
        every = next(n for n in _EVERY if -(-len(self.bins) // n) <= _MARKS)
        return frozenset(at for at in self.bins if at // self.step % every == 0)


def named(name: str, now: int) -> Range:
    """The span of that name, up to now."""
    count, step = SPANS[name]
    until = now // step * step + step
    return Range(name, until - count * step, until, step, now)


def own(first: str, last: str, now: int) -> Range:
    """From a day, or a minute, to the end of another, as `2026-11-26` or `2026-11-26T23:19`, UTC.

    Raises:
        InvalidArgument: One of them is none, they are in no order, or more than 400 days apart, or
            longer ago than totals are kept.
    """
    since, until = begin_of(first, "from"), end_of(last, "to")
    since = since // FINE * FINE
    if since >= until:
        raise InvalidArgument("to", "is before the beginning")
    if until - since > LONGEST * DAY:
        raise InvalidArgument("from", f"is more than {LONGEST} days before the end")
    if since > now:
        raise InvalidArgument("from", "is yet to come")
    for step in _STEPS:
        if step < COARSE and since < now - FINE_KEPT:
            continue  # those of a minute are gone
        begin = since // step * step if step <= DAY else since // DAY * DAY
        end = begin - (begin - until) // step * step
        if (end - begin) // step <= _BINS:
            return Range(OWN, begin, end, step, now)
    raise InvalidArgument("from", f"is more than {LONGEST} days before the end")


def is_day(text: str) -> bool:
    """Whether it is a day as forms send it: `2026-11-26`."""
    try:
        return len(text) == len("2026-11-26") and begin_of(text, "") >= 0
    except InvalidArgument:
        return False


def end_of(text: str, field: str) -> int:
    """When a day has ended, or a minute, as `own` takes them; UTC, Unix milliseconds.

    Raises:
        InvalidArgument: It is neither.
    """
    return begin_of(text, field) + (DAY if len(text) == len("2026-11-26") else FINE)


def begin_of(text: str, field: str) -> int:
    """When a day begins, or a minute, as `own` takes them; UTC, Unix milliseconds.

    Raises:
        InvalidArgument: It is neither.
    """
    if _WRITTEN.fullmatch(text):
        try:
            at = int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000
        except ValueError:
            at = -1
        if 0 <= at < LATEST - LONGEST * DAY:
            return at
    raise InvalidArgument(field, "is no day; write 2026-11-26")
