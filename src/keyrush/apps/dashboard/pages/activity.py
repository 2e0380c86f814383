"""Activity: what was asked in a span of time and what came of it, in figures, a chart, and rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, get_args

from markupsafe import Markup
from starlette.responses import Response

from keyrush.apps.dashboard.asked import NO_RULE, Asked, asked
from keyrush.apps.dashboard.callers import names
from keyrush.apps.dashboard.charting import cards, chart
from keyrush.apps.dashboard.charts import OUTCOMES, share
from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.figures import Figures, figures
from keyrush.apps.dashboard.pace import FILE, READING
from keyrush.apps.dashboard.sheets import streamed
from keyrush.apps.dashboard.visit import Stop, Visit
from keyrush.core.activity import Activity, Group, Source, Where
from keyrush.core.model import Account
from keyrush.core.paging import MAX_LIMIT, Page, Place, cursor_at
from keyrush.core.times import DAY, SECOND, iso
from keyrush.errors import InvalidArgument
from keyrush.gate.gate import Gate
from keyrush.operations.activity import ActivityLog

#: Rows of a page, values of a list of the most, and of a filter.
_ROWS, _MOST, _CHOICES = 20, 5, 25

#: Rows are there about a second after their request has ended, but stand where it came: who asks
#: for newer ones asks from so long before the newest there was.
_LATE = 15 * SECOND

Ranked = Sequence[tuple[str, int]]


class _Found(NamedTuple):
    """All that the page shows, as the store has it."""

    figures: Figures
    most: dict[str, Ranked]
    choices: dict[str, Ranked]
    rows: Page[Activity]
    kept: int  #: rows there are; above 1,000 they are not counted
    is_anything: bool
    names: dict[str, str]
    opened: str | None  #: the id of the row that is open


def _read(gate: Gate, account: Account, of: Asked) -> _Found:
    account_id, log = account.id, gate.activity.of(account)
    span, where = of.span, of.where
    since = span.since if span.before is None else span.before
    both = where._replace(since=since)
    of_outcomes = log.summary(account_id, both, by=span.asked, group="outcome", durations=False)
    found = figures(of_outcomes, span)

    def most(where: Where, at_most: int, groups: Iterable[Group]) -> dict[str, Ranked]:
        return {one: log.most(account_id, where, group=one, at_most=at_most) for one in groups}

    everything = Where(since=span.since, until=span.until)
    choices = most(everything, _CHOICES, ("rule", "key"))
    tops = choices | most(where, _MOST, ("source",))
    if of.is_filtered:
        tops |= most(where, _MOST, ("rule", "key"))
    rows, opened = _rows(log, account_id, of)
    ids = [row.credential_id for row in rows]
    ids += [one for one, _ in (*choices["key"], *tops["key"])]
    return _Found(
        found,
        tops,
        choices,
        rows,
        log.count(account_id, where),
        found.total.requests > 0 or len(rows) > 0 or len(log.page(account_id, limit=1)) > 0,
        names(gate, account_id, [*ids, where.credential_id]),
        opened,
    )


def _rows(log: ActivityLog, account_id: str, of: Asked) -> tuple[Page[Activity], str | None]:
    """The rows of the page, and which one is open: where it is on no such page, it comes first."""
    rows = log.page(account_id, of.where, limit=_ROWS, cursor=of.after)
    if of.opened is None or any(row.id == of.opened.id for row in rows):
        return rows, of.opened and of.opened.id
    at, opened = of.opened.created_at, of.opened.id
    same = of.where._replace(since=at, until=at + 1)
    if not any(row.id == opened for row in log.page(account_id, same, limit=MAX_LIMIT)):
        return rows, None
    return log.page(account_id, of.where._replace(until=at + 1), limit=_ROWS), opened


async def show(visit: Visit) -> Response:
    """The page."""
    of = asked(visit.request.query_params, visit.now)
    found = await _reading(visit, of)
    cursor = found.rows.cursor
    words = _Words(visit, found.names)
    t = visit.t
    return visit.render(
        "activity.html",
        status=200 if of.wrong is None else 400,
        asked=of,
        found=found,
        chart=chart(visit, found.figures, of.span),
        cards=cards(visit, found.figures, of.span),
        top_rules=words.most(found.most["rule"], words.rule),
        top_keys=words.most(found.most["key"], words.key),
        top_sources=words.most(found.most["source"], words.source),
        key_choices=words.choices(found.choices["key"], words.key),
        rule_choices=words.choices(found.choices["rule"], words.rule),
        source_choices=[(one, t(f"sources.{one}")) for one in get_args(Source)],
        outcome_choices=[(one, t(f"outcomes.{one}")) for one in OUTCOMES],
        rows=found.rows,
        names=found.names,
        opened=found.opened,
        is_dated=_is_dated(of),
        link=lambda **changes: visit.path("/activity", **(of.query | changes)),
        row_link=lambda row: _row_link(visit, of, row),
        older=None if cursor is None else visit.path("/activity", **of.query, after=cursor),
        feed=visit.path("/activity/rows", **of.query) if of.is_live else None,
        csv=visit.path("/activity.csv", **of.query),
    )


class _Words:
    """Values of totals as people know them."""

    def __init__(self, visit: Visit, names: dict[str, str]) -> None:
        self._t = visit.t
        self._names = names

    def rule(self, value: str) -> str:
        """A rule's path or tool; what no rule names is together."""
        return value or self._t("activity.no_rule")

    def key(self, value: str) -> str:
        """The name of a key, or of whom an issuer knows."""
        return self._names.get(value) or value

    def source(self, value: str) -> str:
        """A door."""
        return self._t(f"sources.{value}")

    def most(self, values: Ranked, words: Callable[[str], str]) -> list[tuple[str, int, Markup]]:
        """Those with the most requests, each with a bar."""
        top = values[0][1] if values else 0
        return [(words(value), count, share(count, top)) for value, count in values[:_MOST]]

    def choices(self, values: Ranked, words: Callable[[str], str]) -> list[tuple[str, str]]:
        """What may be filtered by, by name."""
        known = [(value or NO_RULE, words(value)) for value, _ in values]
        return sorted(known, key=lambda one: one[1].casefold())


def _is_dated(of: Asked) -> bool:
    """Whether times alone would not say which day they are of."""
    return of.span.until - of.span.since > DAY


async def _reading(visit: Visit, of: Asked) -> _Found:
    try:
        return await visit.run(_read, visit.gate, visit.account, of)
    except InvalidArgument:  # such as a whole key where an id was meant: nothing of it is shown
        raise Stop("bad_query", 400) from None


def _row_link(visit: Visit, of: Asked, row: Activity) -> str:
    place = cursor_at(Place(row.at, row.id))
    return visit.path("/activity", **of.query, after=of.after, open=place) + f"#{row.id}"


async def newer(visit: Visit) -> Response:
    """The rows that may be newer than those of a page, for its script: it leaves out what is there
    already.
    """
    query = visit.request.query_params
    of = asked(query, visit.now)
    text = query.get("newer", "")
    is_time = text.isascii() and text.isdecimal() and len(text) <= len(str(visit.now))
    since = max(of.span.since, int(text) - _LATE) if is_time else of.span.since

    def read() -> tuple[Page[Activity], dict[str, str]]:
        where = of.where._replace(since=since)
        log = visit.gate.activity.of(visit.account)
        rows = log.page(visit.account_id, where, limit=_ROWS)
        return rows, names(visit.gate, visit.account_id, [row.credential_id for row in rows])

    try:
        rows, known = await visit.run(read)
    except InvalidArgument:
        raise Stop("bad_query", 400) from None
    return visit.render(
        "activity_rows.html",
        rows=rows,
        names=known,
        opened=None,
        is_dated=_is_dated(of),
        row_link=lambda row: _row_link(visit, of, row),
    )


#: The columns of a row as CSV.
_COLUMNS = (
    "time", "id", "source", "key_id", "key", "subject", "method", "path", "rule", "status",
    "outcome", "reason", "credits", "duration_ms", "request_id", "address", "user_agent",
)  # fmt: skip


async def download(visit: Visit) -> Response:
    """What the filters leave of the span, as CSV."""
    of = asked(visit.request.query_params, visit.now)
    if of.wrong is not None:
        raise Stop("bad_query", 400)
    gate, account_id = visit.gate, visit.account_id
    known: dict[str, str] = {}

    def read(cursor: str | None) -> Page[Activity]:
        rows = gate.activity.page(account_id, of.where, limit=MAX_LIMIT, cursor=cursor)
        if len(known) > MAX_LIMIT:  # of an account with very many keys, not all are kept in mind
            known.clear()
        known.update(names(gate, account_id, {row.credential_id for row in rows} - known.keys()))
        return rows

    def written(row: Activity) -> Sequence[object]:
        return (
            iso(row.at), row.id, row.source, row.credential_id, known.get(row.credential_id),
            row.subject, row.method, row.path, row.rule, row.status, row.outcome, row.reason,
            row.credits, f"{row.duration / 1000:.3f}", row.request_id, row.address, row.agent,
        )  # fmt: skip

    try:
        return await streamed(
            visit,
            f"activity-{account_id}",
            _COLUMNS,
            lambda cursor: visit.run(read, cursor),
            written,
        )
    except InvalidArgument:
        raise Stop("bad_query", 400) from None


ROUTES = [
    page("/activity", show, cost=READING),
    page("/activity/rows", newer),
    page("/activity.csv", download, cost=FILE),
]
