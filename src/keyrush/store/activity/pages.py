"""Rows of activity in a SQL store, newest first.

Two indexes: of accounts, by day, kind (source and outcome) and time, and of parts, which are key
and rule, by kind and time. So every filter names lanes, of which each is one range of an index:
those of an account are one for each day and kind; those of a key, a rule, or both, one for each
part and kind. A page of n rows is in the n lanes whose newest rows are newest, which one look at
each lane tells. Nothing that is looked at grows with the number of rows. Rows that are not in these
indexes yet (`settling`) are looked through, which are a few thousand at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from keyrush.core.activity import Activity, Where
from keyrush.core.paging import Place
from keyrush.core.times import DAY, NEVER
from keyrush.store.activity.statements import statement
from keyrush.store.activity.subjects import (
    OUTCOMES,
    PART,
    SOURCES,
    WHOLE,
    chosen,
    kinds_of,
    narrowed,
)

_COLUMNS = """
    r.id, r.at, part.credential_id, r.subject, r.kind, r.method, r.path, part.rule, r.status,
    r.reason, r.credits, r.duration, r.request_id, r.address, r.agent
"""

#: From index entry to index entry, the newest `:days` that have rows at all, of any account.
_DAYS = """
    days(day, place) AS (
        SELECT max(x.day), 1 FROM keyrush_activity AS x WHERE x.day <= :last_day
        UNION ALL
        SELECT (SELECT max(x.day) FROM keyrush_activity AS x WHERE x.day < days.day), place + 1
        FROM days WHERE days.day > :first_day AND place < :days
    )
"""

#: Days in which a page of an account is looked for at first, and how many are no bound.
_FIRST_DAYS, _ALL_DAYS = 2, 1_000_000

_RANGE = "x.at >= :since AND x.at < :until"
_BEFORE = "(x.at < :at OR x.at = :at AND x.id /*bytes*/ < :id)"


class _Asked(NamedTuple):
    """What the text of a statement depends on."""

    dialect: str
    is_of_parts: bool
    condition: str  #: which subjects
    narrowed: str  #: the same of parts of the account
    kinds: tuple[int, ...]
    is_after: bool  #: a place

    def lanes(self) -> str:
        """A table of the lanes, `lane`."""
        values = ", ".join(f"({kind})" for kind in self.kinds)
        if not self.is_of_parts:
            return f"""
                SELECT days.day, subject.number, kinds.column1 AS kind
                FROM days
                CROSS JOIN keyrush_activity_subjects AS subject
                CROSS JOIN (VALUES {values}) AS kinds
                WHERE {self.condition}
            """  # noqa: S608  # of this module and numbers
        # Kinds of which the account has none are not asked for in each of its parts.
        any_row = self.rows(
            """
            x.day = days.day AND x.kind = kinds.column1 AND x.whole = (
                SELECT number FROM keyrush_activity_subjects
                WHERE account_id = :account AND level = 0
            )
            """,
            "LIMIT 1",
        )
        return f"""
            SELECT 0 AS day, subject.number, kinds.kind
            FROM keyrush_activity_subjects AS subject
            CROSS JOIN (
                SELECT kinds.column1 AS kind FROM (VALUES {values}) AS kinds
                WHERE EXISTS (SELECT 1 FROM days {any_row})
                LIMIT {len(self.kinds)}
            ) AS kinds
            WHERE {self.condition}
        """  # noqa: S608

    def in_lane(self) -> str:
        """The condition for a row `x` to be meant, and in `lane`."""
        column = "x.part" if self.is_of_parts else "x.day = lane.day AND x.whole"
        found = f"{column} = lane.number AND x.kind = lane.kind AND {_RANGE}"
        return f"{found} AND {_BEFORE}" if self.is_after else found

    def rows(self, condition: str, end: str) -> str:
        """A join with the rows `x` that meet a condition on what is before it, and on PostgreSQL
        nothing but one look at an index for each of these, whatever its statistics are.
        """
        if self.dialect == "sqlite":
            return f"CROSS JOIN keyrush_activity AS x WHERE {condition}"
        return f"""
            CROSS JOIN LATERAL (
                SELECT * FROM keyrush_activity AS x WHERE {condition} {end}
            ) AS x
        """  # noqa: S608


def _order(name: str) -> str:
    return f"ORDER BY {name}.at DESC, {name}.id /*bytes*/ DESC LIMIT"


@cache
def _page(asked: _Asked) -> str:
    in_lane = asked.in_lane()
    # With as many lanes as rows, none of these is older than what is newest in the last lane.
    some = f"""
        SELECT x.{{}} FROM keyrush_activity AS x
        WHERE {in_lane} AND x.at >= (SELECT at FROM oldest) {_order("x")} :limit
    """  # noqa: S608
    if asked.dialect == "sqlite":  # which has no LATERAL
        rows = f"CROSS JOIN keyrush_activity AS y ON y.number IN ({some.format('number')})"
    else:
        rows = f"CROSS JOIN LATERAL ({some.format('*')}) AS y"
    text = f"""
        WITH RECURSIVE {_DAYS},
        lane AS MATERIALIZED (
            SELECT lane.*, (
                SELECT x.at FROM keyrush_activity AS x WHERE {in_lane} ORDER BY x.at DESC LIMIT 1
            ) AS newest
            FROM ({asked.lanes()}) AS lane
        ),
        oldest AS MATERIALIZED (
            SELECT CASE WHEN count(*) < :limit THEN 0 ELSE min(first.newest) END AS at FROM (
                SELECT newest FROM lane WHERE newest IS NOT NULL ORDER BY newest DESC LIMIT :limit
            ) AS first
        ),
        r AS (
            SELECT y.*
            FROM (SELECT * FROM lane WHERE newest >= (SELECT at FROM oldest)) AS lane
            {rows}
            {_order("y")} :limit
        )
        SELECT {_COLUMNS} FROM r
        CROSS JOIN keyrush_activity_subjects AS part WHERE part.number = r.part
        {_order("r")} :limit
    """  # noqa: S608
    return statement(asked.dialect, text)


def _fresh(asked: _Asked, columns: str) -> str:
    """Columns of the rows that are fresh, `x`, and of their parts, `subject`."""
    before = f" AND {_BEFORE}" if asked.is_after else ""
    return f"""
        SELECT {columns}
        FROM keyrush_activity_subjects AS whole
        CROSS JOIN (SELECT * FROM keyrush_activity_fresh AS fresh) AS x
        CROSS JOIN keyrush_activity_subjects AS subject
        WHERE whole.account_id = :account AND whole.level = {WHOLE} AND x.whole = whole.number
        AND x.kind IN ({", ".join(map(str, asked.kinds))}) AND {_RANGE}{before}
        AND subject.number = x.part{asked.narrowed}
    """  # noqa: S608


@cache
def _fresh_page(asked: _Asked) -> str:
    columns = _COLUMNS.replace("r.", "x.").replace("part.", "subject.")
    return statement(asked.dialect, f"{_fresh(asked, columns)} {_order('x')} :limit")


@cache
def _count(asked: _Asked) -> str:
    rows = asked.rows(asked.in_lane(), "LIMIT :limit")
    text = f"""
        WITH RECURSIVE {_DAYS}
        SELECT count(*) FROM (
            SELECT 1 FROM (
                SELECT 1 FROM ({asked.lanes()}) AS lane {rows} LIMIT :limit
            ) AS settled
            UNION ALL {_fresh(asked, "1")} LIMIT :limit
        ) AS found
    """  # noqa: S608
    return statement(asked.dialect, text)


def _asked(
    dialect: str, account_id: str, where: Where, limit: int, after: Place | None
) -> tuple[_Asked, dict[str, Any]]:
    """What is asked, and its parameters."""
    is_of_parts = where.credential_id is not None or where.rule is not None
    condition, values = chosen(PART if is_of_parts else WHOLE, where)
    since = 0 if where.since is None else where.since
    until = NEVER if where.until is None else where.until
    if after is not None:
        until = min(until, after.created_at + 1)
        values |= {"at": after.created_at, "id": after.id}
    values |= {
        "account": account_id,
        "since": since,
        "until": until,
        "first_day": since // DAY,
        "last_day": (until - 1) // DAY,
        "days": _ALL_DAYS,
        "limit": limit,
    }
    kinds = tuple(kinds_of(where))
    asked = _Asked(dialect, is_of_parts, condition, narrowed(where), kinds, after is not None)
    return asked, values


def page(
    connection: Any,
    dialect: str,
    account_id: str,
    where: Where,
    *,
    limit: int,
    after: Place | None,
) -> list[Activity]:
    """`ActivityStore.activity`, by the driver's `connection`."""
    asked, values = _asked(dialect, account_id, where, limit, after)
    # First what is fresh: a row that is settled meanwhile is found twice, and not nowhere.
    fresh = connection.execute(_fresh_page(asked), values).fetchall()
    found: list[Any] = []
    if not asked.is_of_parts:  # most often all that is wanted is of today
        first = values | {"days": _FIRST_DAYS}
        found = connection.execute(_page(asked), first).fetchall()
    if len(found) < limit:
        found = connection.execute(_page(asked), values).fetchall()
    if fresh:
        together = {row[0]: row for row in (*fresh, *found)}
        found = sorted(together.values(), key=_by_place, reverse=True)[:limit]
    return [_row(account_id, row) for row in found]


def _by_place(row: Sequence[Any]) -> tuple[int, str]:
    return row[1], row[0]


def count(connection: Any, dialect: str, account_id: str, where: Where, at_most: int) -> int:
    """`ActivityStore.count_activity`, by the driver's `connection`."""
    asked, values = _asked(dialect, account_id, where, at_most, None)
    return int(connection.execute(_count(asked), values).fetchone()[0])


def _row(account_id: str, row: Sequence[Any]) -> Activity:
    row_id, at, key, subject, kind, method, path, rule, *rest = row
    source, outcome = divmod(kind, len(OUTCOMES))
    status, reason, *others = rest
    return Activity(
        row_id,
        at,
        account_id,
        key,
        subject,
        SOURCES[source],
        method,
        rule if path is None else path,
        rule,
        status,
        OUTCOMES[outcome],
        reason,
        *others,
    )
