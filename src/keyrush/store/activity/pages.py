"""Rows of activity in a SQL store, newest first.

Two indexes, both by kind (source and outcome) and time: of accounts, and of parts, which are key
and rule. So every filter names lanes, of which each is one range of an index: those of an account
are at most one for each kind; those of a key, a rule, or both, one for each part and kind. A page
of n rows is in the n lanes whose newest rows are newest, which one look at each lane tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from keyrush.core.activity import Activity, Where
from keyrush.core.paging import Place
from keyrush.core.times import NEVER
from keyrush.store.activity.statements import statement
from keyrush.store.activity.subjects import OUTCOMES, PART, SOURCES, WHOLE, chosen, kinds_of

_COLUMNS = """
    r.id, r.at, part.credential_id, r.subject, r.kind, r.method, r.path, part.rule, r.status,
    r.reason, r.credits, r.duration, r.request_id, r.address, r.agent
"""

_NEWEST = "ORDER BY x.at DESC, x.id /*bytes*/ DESC"

_BEFORE = "AND (x.at < :at OR x.at = :at AND x.id /*bytes*/ < :id)"


def _lanes(condition: str, kinds: Sequence[int]) -> str:
    """A table of `number` and `kind` of the lanes that may have rows."""
    values = ", ".join(f"({kind})" for kind in kinds)
    # Kinds that the account has none of are not asked for in each of its parts.
    return f"""
        SELECT subject.number, kinds.kind
        FROM keyrush_activity_subjects AS subject
        CROSS JOIN (
            SELECT listed.column1 AS kind FROM (VALUES {values}) AS listed
            WHERE EXISTS (
                SELECT 1 FROM keyrush_activity_subjects AS whole
                JOIN keyrush_activity AS x ON x.whole = whole.number
                WHERE whole.account_id = :account AND whole.level = {WHOLE}
                AND x.kind = listed.column1
            )
        ) AS kinds
        WHERE {condition}
    """  # noqa: S608  # of this module and numbers


@cache
def _page(dialect: str, column: str, condition: str, kinds: tuple[int, ...], range_: str) -> str:
    lanes = _lanes(condition, kinds)
    in_lane = f"x.{column} = lane.number AND x.kind = lane.kind AND {range_}"
    if dialect == "sqlite":
        first = f"""
            SELECT lane.number, lane.kind FROM ({lanes}) AS lane
            CROSS JOIN keyrush_activity AS f
            WHERE f.number = (
                SELECT x.number FROM keyrush_activity AS x WHERE {in_lane} {_NEWEST} LIMIT 1
            )
            ORDER BY f.at DESC, f.id DESC LIMIT :limit
        """  # noqa: S608
        rows = f"""
            CROSS JOIN keyrush_activity AS r
            CROSS JOIN keyrush_activity_subjects AS part
            WHERE r.number IN (
                SELECT x.number FROM keyrush_activity AS x WHERE {in_lane} {_NEWEST} LIMIT :limit
            )
            AND part.number = r.part
        """  # noqa: S608
    else:
        first = f"""
            SELECT lane.number, lane.kind FROM ({lanes}) AS lane
            CROSS JOIN LATERAL (
                SELECT x.at, x.id FROM keyrush_activity AS x WHERE {in_lane} {_NEWEST} LIMIT 1
            ) AS f
            ORDER BY f.at DESC, f.id /*bytes*/ DESC LIMIT :limit
        """  # noqa: S608
        rows = f"""
            CROSS JOIN LATERAL (
                SELECT x.* FROM keyrush_activity AS x WHERE {in_lane} {_NEWEST} LIMIT :limit
            ) AS r
            JOIN keyrush_activity_subjects AS part ON part.number = r.part
        """  # noqa: S608
    text = f"""
        SELECT {_COLUMNS} FROM ({first}) AS lane {rows}
        ORDER BY r.at DESC, r.id /*bytes*/ DESC LIMIT :limit
    """  # noqa: S608
    return statement(dialect, text)


@cache
def _count(dialect: str, column: str, condition: str, kinds: tuple[int, ...], range_: str) -> str:
    lanes = _lanes(condition, kinds)
    in_lane = f"x.{column} = lane.number AND x.kind = lane.kind AND {range_}"
    if dialect == "sqlite":
        rows = f"CROSS JOIN keyrush_activity AS x WHERE {in_lane}"
    else:
        rows = f"""
            CROSS JOIN LATERAL (
                SELECT 1 FROM keyrush_activity AS x WHERE {in_lane} LIMIT :limit
            ) AS x
        """  # noqa: S608
    text = f"""
        SELECT count(*) FROM (SELECT 1 FROM ({lanes}) AS lane {rows} LIMIT :limit) AS counted
    """  # noqa: S608
    return statement(dialect, text)


def _asked(
    account_id: str, where: Where, limit: int, after: Place | None
) -> tuple[tuple[str, str, tuple[int, ...], str], dict[str, Any]]:
    """What the text of a statement depends on, and its parameters."""
    is_of_parts = where.credential_id is not None or where.rule is not None
    level, column = (PART, "part") if is_of_parts else (WHOLE, "whole")
    condition, values = chosen(level, where)
    until = NEVER if where.until is None else where.until
    range_ = "x.at >= :since AND x.at < :until"
    if after is not None:
        until = min(until, after.created_at + 1)
        range_ = f"{range_} {_BEFORE}"
        values |= {"at": after.created_at, "id": after.id}
    values |= {"account": account_id, "since": where.since or 0, "until": until, "limit": limit}
    return (column, condition, tuple(kinds_of(where)), range_), values


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
    asked, values = _asked(account_id, where, limit, after)
    found = connection.execute(_page(dialect, *asked), values).fetchall()
    return [_row(account_id, row) for row in found]


def count(connection: Any, dialect: str, account_id: str, where: Where, at_most: int) -> int:
    """`ActivityStore.count_activity`, by the driver's `connection`."""
    asked, values = _asked(account_id, where, at_most, None)
    return int(connection.execute(_count(dialect, *asked), values).fetchone()[0])


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
