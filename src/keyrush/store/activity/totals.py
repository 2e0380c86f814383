"""Totals of activity in a SQL store: from minutes, or from hours and what is not in them yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from keyrush.core.activity import BUCKETS, COARSE, FINE, Group, Total, Where
from keyrush.store.activity.statements import statement
from keyrush.store.activity.subjects import (
    LEVELS,
    OUTCOMES,
    PART,
    SOURCES,
    WHOLE,
    chosen,
    kinds_of,
)

_SUMS = "requests, credits, duration, longest"

#: What tells rows apart, of a table that is named `cell` and one that is named `subject`.
_VALUES: dict[Group | None, str] = {
    None: "NULL",
    "key": "subject.credential_id",
    "rule": "subject.rule",
    "source": f"cell.kind / {len(OUTCOMES)}",
    "outcome": f"cell.kind % {len(OUTCOMES)}",
}


def _in_hours(value: str, condition: str, kinds: str) -> str:
    return f"""
        SELECT cell.hour * {COARSE} AS at, {value} AS value, cell.bucket, {_SUMS}
        FROM keyrush_activity_subjects AS subject
        CROSS JOIN keyrush_activity_hours AS cell
        WHERE {condition} AND cell.subject = subject.number
        AND cell.hour >= :since / {COARSE} AND cell.hour < :until / {COARSE}
        AND cell.kind IN ({kinds})
    """  # noqa: S608  # of this module and numbers


def _in_minutes(value: str, condition: str, kinds: str, fresh: str) -> str:
    """Of the parts of the account: `condition` is of these."""
    return f"""
        SELECT cell.minute * {FINE} AS at, {value} AS value, cell.bucket, {_SUMS}
        FROM keyrush_activity_subjects AS whole
        CROSS JOIN keyrush_activity_minutes AS cell
        CROSS JOIN keyrush_activity_subjects AS subject
        WHERE whole.account_id = :account AND whole.level = {WHOLE}
        AND cell.is_fresh IN ({fresh}) AND cell.whole = whole.number
        AND cell.minute >= :since / {FINE} AND cell.minute < :until / {FINE}
        AND cell.kind IN ({kinds})
        AND subject.number = cell.part AND {condition}
    """  # noqa: S608  # of this module and numbers


@cache
def _cells(step_is_hours: bool, group: Group | None, where: Where) -> str:
    """All totals that are meant; of `where` only what it is about matters."""
    kinds = ", ".join(map(str, kinds_of(where)))
    value = _VALUES[group]
    by_key = where.credential_id is not None or group == "key"
    by_rule = where.rule is not None or group == "rule"
    of_parts, _ = chosen(PART, where)
    if not step_is_hours:
        return _in_minutes(value, of_parts, kinds, "0, 1")
    of_level, _ = chosen(LEVELS.index((by_key, by_rule)), where)
    hours = _in_hours(value, of_level, kinds)
    return f"{hours} UNION ALL {_in_minutes(value, of_parts, kinds, '1')}"


_AMONG = {
    "sqlite": "SELECT value FROM json_each(:told)",
    "postgresql": "SELECT json_array_elements_text(:told)",
}


@cache
def _totals(dialect: str, cells: str, is_cut: bool) -> str:
    value = f"CASE WHEN value IN ({_AMONG[dialect]}) THEN value END" if is_cut else "value"
    text = f"""
        SELECT at / :step * :step, {value}, bucket,
            sum(requests), sum(credits), sum(duration), max(longest)
        FROM ({cells}) AS cells GROUP BY 1, 2, 3
    """  # noqa: S608  # of this module
    return statement(dialect, text)


@cache
def _ranked(dialect: str, cells: str) -> str:
    text = f"""
        SELECT value FROM ({cells}) AS cells
        GROUP BY value ORDER BY sum(requests) DESC, value /*bytes*/ LIMIT :most
    """  # noqa: S608  # of this module
    return statement(dialect, text)


def totals(
    connection: Any,
    dialect: str,
    account_id: str,
    where: Where,
    *,
    step: int,
    group: Group | None,
    at_most: int,
) -> list[Total]:
    """`ActivityStore.activity_totals`, by the driver's `connection`."""
    anyone = where._replace(
        credential_id=where.credential_id and "",
        rule=None if where.rule is None else "",
        since=None,
        until=None,
    )
    cells = _cells(step % COARSE == 0, group, anyone)
    values = {
        "account": account_id,
        "key": where.credential_id,
        "rule": where.rule,
        "since": where.since,
        "until": where.until,
        "step": step,
        "most": at_most + 1,
    }
    is_cut = False
    if group in ("key", "rule"):
        ranked = connection.execute(_ranked(dialect, cells), values).fetchall()
        is_cut = len(ranked) > at_most
        values["told"] = json.dumps([row[0] for row in ranked[:at_most]])
    found = connection.execute(_totals(dialect, cells, is_cut), values).fetchall()
    return _pivoted(found, group)


def _pivoted(rows: Sequence[Sequence[Any]], group: Group | None) -> list[Total]:
    """One total of the rows of each bin and value, of which each has one bucket."""
    found: dict[tuple[int, Any], list[int]] = {}
    for at, value, bucket, requests, credits, duration, longest in rows:
        sums = found.setdefault((at, value), [0] * (4 + len(BUCKETS) + 1))
        sums[0] += requests
        sums[1] += credits
        sums[2] += duration
        sums[3] = max(sums[3], longest)
        sums[4 + bucket] += requests
    named = {"source": SOURCES, "outcome": OUTCOMES}.get(group or "")
    totals = []
    for (at, value), sums in found.items():
        requests, credits, duration, longest, *buckets = map(int, sums)  # PostgreSQL's are decimal
        shown = named[value] if named else value
        totals.append(Total(at, shown, requests, credits, duration, longest, tuple(buckets)))
    return sorted(totals, key=lambda total: (total.at, total.value is None, total.value or ""))
