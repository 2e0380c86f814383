"""Totals of activity in a SQL store: those of subjects and what is not in them yet, or where there
are none, as of minutes of a key, all of the account's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from keyrush.core.activity import BUCKETS, FINE, DayOfKey, Group, Total, Where
from keyrush.core.times import DAY
from keyrush.store.activity.folding import LENGTHS
from keyrush.store.activity.settling import CELLS
from keyrush.store.activity.statements import statement
from keyrush.store.activity.subjects import (
    KEY,
    LEVELS,
    OUTCOMES,
    SOURCES,
    WHOLE,
    chosen,
    kinds_of,
    narrowed,
)

_SUMS = "requests, credits, duration, longest"

#: Totals of minutes that are in others, and that are not.
FOLDED_CELLS, FRESH_CELLS = (
    f"(SELECT * FROM keyrush_activity_minutes AS cell WHERE is_fresh = {number})"  # noqa: S608  # of two numbers
    for number in (0, 1)
)

#: What tells rows apart, of a table that is named `cell` and one that is named `subject`.
VALUES: dict[Group | None, str] = {
    None: "NULL",
    "key": "subject.credential_id",
    "rule": "subject.rule",
    "source": f"cell.kind / {len(OUTCOMES)}",
    "outcome": f"cell.kind % {len(OUTCOMES)}",
}

#: What numbers among them stand for.
NAMED: dict[Group | None, Sequence[str]] = {"source": SOURCES, "outcome": OUTCOMES}


def level_of(where: Where, group: Group | None) -> int:
    """The level of subjects that tells apart what is asked for."""
    by_key = where.credential_id is not None or group == "key"
    by_rule = where.rule is not None or group == "rule"
    return LEVELS.index((by_key, by_rule))


def shape_of(where: Where) -> Where:
    """What a statement's text depends on: of a key or rule only that there is one."""
    return where._replace(
        credential_id=where.credential_id and "",
        rule=None if where.rule is None else "",
        since=None,
        until=None,
    )


def _of_subjects(value: str, condition: str, kinds: str, length: int) -> str:
    milliseconds = length * FINE
    return f"""
        SELECT cell.bin * {milliseconds} AS at, {value} AS value, cell.bucket, {_SUMS}
        FROM keyrush_activity_subjects AS subject
        CROSS JOIN keyrush_activity_totals AS cell
        WHERE {condition} AND cell.subject = subject.number AND cell.length = {length}
        AND cell.bin >= :since / {milliseconds} AND cell.bin < :until / {milliseconds}
        AND cell.kind IN ({kinds})
    """  # noqa: S608  # of this module and numbers


def _in_minutes(value: str, more: str, kinds: str, cells: str) -> str:
    """Of the parts of the account; `more` is said of these, and nothing of account and level, by
    which PostgreSQL would look through all of them for each total.
    """
    return f"""
        SELECT cell.minute * {FINE} AS at, {value} AS value, cell.bucket, {_SUMS}
        FROM keyrush_activity_subjects AS whole
        CROSS JOIN {cells} AS cell
        CROSS JOIN keyrush_activity_subjects AS subject
        WHERE whole.account_id = :account AND whole.level = {WHOLE}
        AND cell.whole = whole.number
        AND cell.minute >= :since / {FINE} AND cell.minute < :until / {FINE}
        AND cell.kind IN ({kinds})
        AND subject.number = cell.part{more}
    """  # noqa: S608  # of this module and numbers


def _in_no_totals(value: str, more: str, kinds: str) -> str:
    """What is in no totals of subjects yet: totals of minutes, and rows."""
    parts = (_in_minutes(value, more, kinds, cells) for cells in (FRESH_CELLS, CELLS))
    return " UNION ALL ".join(parts)


@cache
def _cells(level: int, length: int, group: Group | None, where: Where) -> str:
    """All totals that are meant; of `where` only what it is about matters."""
    kinds = ", ".join(map(str, kinds_of(where)))
    value = VALUES[group]
    more = narrowed(where)
    if length not in LENGTHS[level]:
        folded = _in_minutes(value, more, kinds, FOLDED_CELLS)
        return f"{folded} UNION ALL {_in_no_totals(value, more, kinds)}"
    of_level, _ = chosen(level, where)
    subjects = _of_subjects(value, of_level, kinds, length)
    return f"{subjects} UNION ALL {_in_no_totals(value, more, kinds)}"


def _length(step: int) -> int:
    """The longest bins of totals that a bin of `step` is made of, in minutes."""
    return max(minutes for minutes in LENGTHS[WHOLE] if step % (minutes * FINE) == 0)


_AMONG = {
    "sqlite": "SELECT value FROM json_each(:told)",
    "postgresql": "SELECT json_array_elements_text(:told)",
}


@cache
def _totals(dialect: str, cells: str, is_cut: bool, durations: bool) -> str:
    value = f"CASE WHEN value IN ({_AMONG[dialect]}) THEN value END" if is_cut else "value"
    more, each = (", sum(duration), max(longest), bucket", ", bucket") if durations else ("", "")
    text = f"""
        SELECT at / :step * :step, {value}, sum(requests), sum(credits){more}
        FROM ({cells}) AS cells GROUP BY 1, 2{each}
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
    durations: bool = True,
) -> list[Total]:
    """`ActivityStore.activity_totals`, by the driver's `connection`."""
    level = level_of(where, group)
    cells = _cells(level, _length(step), group, shape_of(where))
    values = {
        "account": account_id,
        "key": where.credential_id,
        "rule": where.rule,
        "since": where.since,
        "until": where.until,
        "step": step,
        "most": at_most,
    }
    is_cut = group in ("key", "rule") and at_most < _subjects(connection, dialect, level, values)
    if is_cut:
        ranked = connection.execute(_ranked(dialect, cells), values).fetchall()
        values["told"] = json.dumps([row[0] for row in ranked])
    found = connection.execute(_totals(dialect, cells, is_cut, durations), values).fetchall()
    named = NAMED.get(group)
    totals = [
        Total(at, named[value] if named else value, *sums)
        for at, value, sums in (_pivoted(found) if durations else _plain(found))
    ]
    return sorted(totals, key=lambda total: (total.at, total.value is None, total.value or ""))


@cache
def _days_of_keys(dialect: str) -> str:
    of_keys = f" AND subject.credential_id IN ({_AMONG[dialect]})"
    of_account, _ = chosen(KEY, Where())
    kinds = ", ".join(map(str, kinds_of(Where())))
    value = f"subject.credential_id AS key, cell.kind % {len(OUTCOMES)}"
    days = _of_subjects(value, of_account + of_keys, kinds, DAY // FINE)
    fresh = _in_no_totals(value, of_keys, kinds)
    text = f"""
        SELECT key, at / {DAY} * {DAY}, value, sum(requests)
        FROM ({days} UNION ALL {fresh}) AS cells GROUP BY 1, 2, 3
    """  # noqa: S608  # of this module
    return statement(dialect, text)


def days_of_keys(
    connection: Any, dialect: str, account_id: str, key_ids: Sequence[str], days: tuple[int, int]
) -> list[DayOfKey]:
    """`ActivityStore.days_of_keys`, by the driver's `connection`."""
    told = json.dumps([*key_ids])
    values = {"account": account_id, "told": told, "since": days[0], "until": days[1]}
    found = connection.execute(_days_of_keys(dialect), values)
    return [DayOfKey(key, at, OUTCOMES[kind], int(sums)) for key, at, kind, sums in found]


def _subjects(connection: Any, dialect: str, level: int, values: dict[str, Any]) -> int:
    """How many keys or rules of the account may have to be told apart."""
    text = """
        SELECT count(*) FROM keyrush_activity_subjects
        WHERE account_id = :account AND level = :level
    """
    asked = statement(dialect, text)
    return int(connection.execute(asked, values | {"level": level}).fetchone()[0])


#: When a bin begins, its value, and the rest of a total.
_Sums = tuple[int, Any, tuple[int, int, int, int, tuple[int, ...]]]


def _pivoted(rows: Sequence[Sequence[Any]]) -> Iterator[_Sums]:
    """One total of the rows of each bin and value, of which each has one bucket."""
    found: dict[tuple[int, Any], list[int]] = {}
    for at, value, requests, credits, duration, longest, bucket in rows:
        sums = found.setdefault((at, value), [0] * (4 + len(BUCKETS) + 1))
        sums[0] += requests
        sums[1] += credits
        sums[2] += duration
        sums[3] = max(sums[3], longest)
        sums[4 + bucket] += requests
    for (at, value), sums in found.items():
        requests, credits, duration, longest, *buckets = map(int, sums)  # PostgreSQL's are decimal
        yield at, value, (requests, credits, duration, longest, tuple(buckets))


def _plain(rows: Sequence[Sequence[Any]]) -> Iterator[_Sums]:
    for at, value, requests, credits in rows:
        yield at, value, (int(requests), int(credits), 0, 0, ())
