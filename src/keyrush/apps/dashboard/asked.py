"""What a page of activity is asked for, by its query. What can't be meant stands for all, so that a
link from elsewhere or from long ago still shows something.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar, get_args

from keyrush.apps.dashboard.ranges import DEFAULT, OWN, SPANS, Range, is_day, named, own
from keyrush.core.activity import Outcome, Source, Where
from keyrush.core.paging import Place, parse_cursor
from keyrush.core.times import DAY
from keyrush.errors import InvalidArgument

T = TypeVar("T")

#: In queries and forms, for requests that no rule names.
NO_RULE = "-"

#: The days that a span of one's own begins with, until others are chosen.
_DAYS = 7


class Asked(NamedTuple):
    """A span, the filters in it, and the place in the list."""

    span: Range
    where: Where
    after: str | None  #: the cursor of the page before
    opened: Place | None  #: the row that is open
    first: str  #: the days of a span of one's own, as they were given
    last: str
    wrong: str | None  #: which of them can't be meant: `from` or `to`

    @property
    def query(self) -> dict[str, str | None]:
        """What of it is kept in the links and forms of a page: span and filters."""
        is_own = self.span.name == OWN
        return {
            "range": None if self.span.name == DEFAULT else self.span.name,
            "from": self.first if is_own else None,
            "to": self.last if is_own else None,
            **self.filters,
        }

    @property
    def filters(self) -> dict[str, str | None]:
        """The filters alone."""
        rule = self.where.rule
        return {
            "key": self.where.credential_id,
            "source": self.where.source,
            "outcome": self.where.outcome,
            "rule": NO_RULE if rule == "" else rule,
        }

    @property
    def days(self) -> list[tuple[str, str, bool]]:
        """The fields of a span of one's own: name, what was given, and whether that is a day."""
        fields = (("from", self.first), ("to", self.last))
        return [(name, text, is_day(text)) for name, text in fields]

    @property
    def is_filtered(self) -> bool:
        """True where less than all of the span is asked for."""
        return any(value is not None for value in self.filters.values())

    @property
    def is_live(self) -> bool:
        """True where what happens next belongs at the top of the list."""
        return self.span.is_running and self.after is None and self.wrong is None


def asked(query: Mapping[str, str], now: int) -> Asked:
    """What a query asks for at that time."""
    name = query.get("range", DEFAULT)
    first = query.get("from") or _day(now - (_DAYS - 1) * DAY)
    last = query.get("to") or _day(now)
    wrong = None
    if name in SPANS:
        span = named(name, now)
    elif name == OWN:
        try:
            span = own(first, last, now)
        except InvalidArgument as error:
            wrong = error.field
            span = named(DEFAULT, now)._replace(name=OWN)
    else:
        span = named(DEFAULT, now)
    rule = query.get("rule") or None
    sources: tuple[Source, ...] = get_args(Source)
    outcomes: tuple[Outcome, ...] = get_args(Outcome)
    where = Where(
        _one_of(query.get("source"), sources),
        query.get("key") or None,
        _one_of(query.get("outcome"), outcomes),
        "" if rule == NO_RULE else rule,
        span.since,
        span.until,
    )
    after = query.get("after")
    is_place = _place(after) is not None
    return Asked(
        span, where, after if is_place else None, _place(query.get("open")), first, last, wrong
    )


def _one_of(value: str | None, known: tuple[T, ...]) -> T | None:
    return next((one for one in known if one == value), None)


def _place(cursor: str | None) -> Place | None:
    try:
        return parse_cursor(cursor)
    except InvalidArgument:
        return None


def _day(at: int) -> str:
    return f"{datetime.fromtimestamp(at // 1000, UTC):%Y-%m-%d}"
