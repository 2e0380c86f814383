"""Numbers, times and durations as the page's language writes them; the signs and words are in its
catalogue, in the table `formats`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

from markupsafe import Markup

from keyrush.core.times import DAY, SECOND

_MINUTE, _HOUR = 60 * SECOND, 3600 * SECOND

#: Units of an axis, the largest first.
_UNITS = (("billions", 10**9), ("millions", 10**6), ("thousands", 10**3))

#: Durations below this many microseconds are written with a fraction.
_SHORT = 10_000


class Formats:
    """How one language writes; `t` gives the texts of its catalogue.

    Instants are Unix milliseconds, and written in UTC; a reader's script may write them anew in
    the reader's zone.
    """

    def __init__(self, t: Callable[..., str]) -> None:
        self._t = t
        self._group, self._point, self._minus = (
            str(t(f"formats.{name}")) for name in ("group", "point", "minus")
        )
        self._months = t("formats.months").split()
        self._long_months = t("formats.long_months").split()
        self._forms = {form: _form(str(t(f"formats.{form}"))) for form in _FORMS}

    def number(self, value: int) -> str:
        """`1,234`, and `−10` with the sign of minus (U+2212)."""
        if 0 <= value < 1000:  # noqa: PLR2004  # where nothing is to be grouped, as most are
            return str(value)
        text = f"{abs(value):,}".replace(",", self._group)
        return self._minus + text if value < 0 else text

    def signed(self, value: int) -> str:
        """The same with a sign also where it is a gain: `+10`, `−10`, `0`."""
        return f"+{self.number(value)}" if value > 0 else self.number(value)

    def decimal(self, value: float | Decimal, places: int = 1) -> str:
        """With so many digits after the point: `95.0`."""
        text = f"{abs(value):,.{places}f}"
        minus = self._minus if value < 0 and text.strip("0.,") else ""
        whole, _, rest = text.partition(".")
        whole = whole.replace(",", self._group)
        return f"{minus}{whole}{self._point}{rest}" if rest else minus + whole

    def percent(self, part: int, of: int) -> str:
        """`95.0%`; what is not all is never rounded to 100, nor what is something to 0."""
        tenths = round(1000 * part / of) if of else 0
        if 0 < part < of:
            tenths = min(999, max(1, tenths))
        return self._t("formats.percent", number=self.decimal(tenths / 10))

    def compact(self, value: int) -> str:
        """For an axis: `500`, `15k`, `2.5M`."""
        for name, size in _UNITS:
            if abs(value) >= size:
                number = self.decimal(value / size, 1 if value * 10 % (size * 10) else 0)
                return self._t(f"formats.{name}", number=number)
        return self.number(value)

    def duration(self, microseconds: int) -> str:
        """`2,310 ms`; below ten with a fraction, `0.4 ms`."""
        if microseconds < _SHORT:
            number = self.decimal(microseconds / 1000)
        else:
            number = self.number(round(microseconds / 1000))
        return self._t("formats.milliseconds", number=number)

    def ago(self, at: int, now: int) -> str:
        """`12 s ago`, then in minutes, hours and days; what is yet to come is now."""
        passed = max(0, now - at)
        for name, size in (("days", DAY), ("hours", _HOUR), ("minutes", _MINUTE)):
            if passed >= size:
                return self._t(f"formats.{name}_ago", number=self.number(passed // size))
        return self._t("formats.seconds_ago", number=self.number(passed // SECOND))

    def span(self, milliseconds: int) -> str:
        """How long in words, to one unit: `6 weeks`, `3 days`, `1 hour`."""
        sizes = (("months_long", 30 * DAY), ("weeks", 7 * DAY), ("days", DAY), ("hours", _HOUR))
        for name, size in sizes:
            if milliseconds >= 2 * size or (name in {"days", "hours"} and milliseconds >= size):
                return self._t(f"formats.{name}", n=self.number(milliseconds // size))
        return self._t("formats.minutes", n=self.number(max(1, milliseconds // _MINUTE)))

    def day(self, at: int) -> str:
        """`26 Nov 2026`."""
        return self._written("date", at)

    def short_day(self, at: int) -> str:
        """`26 Nov`."""
        return self._written("short_date", at)

    def long_day(self, at: int) -> str:
        """`1 December`."""
        return self._written("long_date", at)

    def month(self, at: int) -> str:
        """`November 2026`."""
        return self._written("month_of_year", at)

    def moment(self, at: int) -> str:
        """`26 Nov 2026, 23:19 UTC`."""
        return self._written("moment", at)

    def short_moment(self, at: int) -> str:
        """`26 Nov, 23:19 UTC`."""
        return self._written("short_moment", at)

    def clock(self, at: int) -> str:
        """`23:19`, for an axis."""
        return self._written("clock", at)

    def seconds(self, at: int) -> str:
        """`23:19:42 UTC`."""
        return self._written("seconds", at)

    def day_and_seconds(self, at: int) -> str:
        """`26 Nov, 23:19:42 UTC`."""
        return self._written("day_and_seconds", at)

    def _written(self, form: str, at: int) -> str:
        moment = datetime.fromtimestamp(at // 1000, UTC)
        month = moment.month - 1
        text = self._forms[form].format(
            moment, month=self._months[month], long_month=self._long_months[month]
        )
        return Markup(text)  # noqa: S704  # of texts, which are escaped, and numbers


#: Forms of a moment in the catalogue, and what the names of their parts stand for.
_FORMS = (
    *("date", "short_date", "long_date", "month_of_year", "moment", "short_moment"),
    *("clock", "seconds", "day_and_seconds"),
)
_PARTS = {"month": "{month}", "long_month": "{long_month}", "day": "{0.day}", "year": "{0.year}"}
_PARTS |= {name: f"{{0.{name}:02}}" for name in ("hour", "minute", "second")}
_PART = re.compile(r"\{(\w+)\}|[{}]")


def _form(text: str) -> str:
    """A text as `str.format` fills it in: a page has hundreds of moments."""
    return _PART.sub(lambda found: _PARTS.get(found[1]) or _doubled(found[0]), text)


def _doubled(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
