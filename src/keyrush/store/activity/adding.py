"""Rows of activity, and totals of what has no rows, as a flush adds them to a SQL store."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any

from keyrush.core.activity import BUCKETS, FINE, Activity
from keyrush.store.activity.subjects import KINDS, Asked, Numbers, Subjects

#: The columns that are written, with their types.
ROWS = {
    "whole": "bigint",
    "part": "bigint",
    "kind": "smallint",
    "at": "bigint",
    "id": "text",
    "subject": "text",
    "method": "text",
    "path": "text",
    "status": "integer",
    "reason": "text",
    "credits": "bigint",
    "duration": "bigint",
    "request_id": "text",
    "address": "text",
    "agent": "text",
}
#: Those that may be null.
_NULLABLE = frozenset(("subject", "path", "reason", "request_id", "address", "agent"))

#: What stands for null among the values of a row. SQLite's driver is half a microsecond about each
#: None, which it looks for an adapter for: there it is a number, which no text is equal to.
_NULL = {"sqlite": 0, "postgresql": None}

_CELLS = {
    "is_fresh": "smallint",
    "whole": "bigint",
    "minute": "bigint",
    "part": "bigint",
    "kind": "smallint",
    "bucket": "smallint",
    "requests": "bigint",
    "credits": "bigint",
    "duration": "bigint",
    "longest": "bigint",
}


def added(dialect: str) -> str:
    """What an upsert of totals does where there are some, in a table that is named `found`."""
    greatest = "max" if dialect == "sqlite" else "greatest"
    return f"""
        requests = found.requests + excluded.requests,
        credits = found.credits + excluded.credits,
        duration = found.duration + excluded.duration,
        longest = {greatest}(found.longest, excluded.longest)
    """


@cache
def _insert_rows(dialect: str, count: int) -> str:
    given = _given(dialect, ROWS, count)
    return f"INSERT INTO keyrush_activity_fresh ({', '.join(ROWS)}) {given}"


@cache
def _upsert_cells(dialect: str, count: int) -> str:
    return f"""
        INSERT INTO keyrush_activity_minutes AS found ({", ".join(_CELLS)})
        {_given(dialect, _CELLS, count)}
        ON CONFLICT (is_fresh, whole, minute, part, kind, bucket) DO UPDATE SET {added(dialect)}
    """


def _given(dialect: str, types: dict[str, str], count: int) -> str:
    """The rows of an INSERT: on SQLite `count`; on PostgreSQL any, out of a JSON list for each
    column, so that they are one statement and one round trip.
    """
    if dialect == "sqlite":
        row = ", ".join("nullif(?, 0)" if name in _NULLABLE else "?" for name in types)
        return f"VALUES {', '.join([f'({row})'] * count)}"
    columns = ", ".join(f"given.{name}::{kind}" for name, kind in types.items())
    lists = ", ".join(["json_array_elements_text(%s)"] * len(types))
    return f"SELECT {columns} FROM ROWS FROM ({lists}) AS given({', '.join(types)})"  # noqa: S608  # of this module alone


def add(
    connection: Any, dialect: str, rows: Sequence[Activity], subjects: Subjects
) -> dict[Asked, Numbers]:
    """`ActivityStore.add_activity`, in the transaction of the driver's `connection`: what
    `subjects` may remember once it is committed.
    """
    numbers, new = subjects.numbers(connection, dialect, [*map(_PART, rows)])
    null = _NULL[dialect]
    # In one expression with all names at hand: this is most of what a row costs in this process.
    kept = [
        (
            whole, part, KINDS[source, outcome], at, row_id,
            null if subject is None else subject, method, null if path == rule else path, status,
            null if reason is None else reason, credits, duration,
            null if request_id is None else request_id,
            null if address is None else address, null if agent is None else agent,
        )
        for (whole, part), (
            row_id, at, _, _, subject, source, method, path, rule, status, outcome, reason, credits,
            duration, request_id, address, agent, is_kept,
        ) in zip(numbers, rows, strict=True)
        if is_kept
    ]  # fmt: skip
    if kept:
        _write(connection, dialect, _insert_rows, kept)
    if len(kept) < len(rows):
        cells: dict[tuple[int, ...], list[int]] = {}
        for of_row, row in zip(numbers, rows, strict=True):
            if not row.is_kept:
                _sum_up(cells, of_row, row)
        # All lock totals in one order, so that two processes never wait for each other.
        totals = [(*cell, *cells[cell]) for cell in sorted(cells)]
        _write(connection, dialect, _upsert_cells, totals)
    return new


#: What tells of a row who asks, and for what.
_PART = itemgetter(2, 3, 8)


def _sum_up(cells: dict[tuple[int, ...], list[int]], numbers: Numbers, row: Activity) -> None:
    """Add a row to the total that it is of."""
    duration = row.duration
    kind = KINDS[row.source, row.outcome]
    minute, bucket = row.at // FINE, bisect_left(BUCKETS, duration)
    sums = cells.setdefault((1, numbers.whole, minute, numbers.part, kind, bucket), [0, 0, 0, 0])
    sums[0] += 1
    sums[1] += row.credits
    sums[2] += duration
    sums[3] = max(sums[3], duration)


#: Rows of one statement on SQLite: it takes 999 parameters everywhere (before SQLite 3.32 no more),
#: and each costs a fifth less than with a statement of its own.
_TOGETHER = 50


def _write(
    connection: Any,
    dialect: str,
    text: Callable[[str, int], str],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    if dialect == "postgresql":
        columns = [json.dumps(column) for column in zip(*rows, strict=True)]
        connection.execute(text(dialect, 0), columns)
        return
    whole = len(rows) // _TOGETHER * _TOGETHER
    for start in range(0, whole, _TOGETHER):
        values = list(chain.from_iterable(rows[start : start + _TOGETHER]))
        connection.execute(text(dialect, _TOGETHER), values)
    if whole < len(rows):
        connection.executemany(text(dialect, 1), rows[whole:])
