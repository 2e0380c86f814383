"""Rows of activity and their totals, as a flush adds them to a SQL store."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any

from keyrush.core.activity import BUCKETS, FINE, Activity
from keyrush.core.times import DAY
from keyrush.store.activity.subjects import KINDS, Asked, Numbers, Subjects

#: Of a row that is written, its part.
_BY_PART = itemgetter(2)

#: The columns that are written, with their types.
_ROWS = {
    "day": "integer",
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
    given = _given(dialect, _ROWS, count)
    return f"INSERT INTO keyrush_activity ({', '.join(_ROWS)}) {given}"


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
        row = f"({', '.join('?' * len(types))})"
        return f"VALUES {', '.join([row] * count)}"
    columns = ", ".join(f"given.{name}::{kind}" for name, kind in types.items())
    lists = ", ".join(["json_array_elements_text(%s)"] * len(types))
    return f"SELECT {columns} FROM ROWS FROM ({lists}) AS given({', '.join(types)})"  # noqa: S608  # of this module alone


def add(
    connection: Any, dialect: str, rows: Sequence[Activity], subjects: Subjects
) -> dict[Asked, Numbers]:
    """`ActivityStore.add_activity`, in the transaction of the driver's `connection`: what
    `subjects` may remember once it is committed.
    """
    parts = {(row[2], row[3], row[8]) for row in rows}
    known = subjects.numbers(connection, dialect, parts)
    kept: list[tuple[Any, ...]] = []
    cells: dict[tuple[int, ...], list[int]] = {}
    # One pass with all names at hand: this is most of what a row costs in this process.
    for (
        row_id, at, account_id, credential_id, subject, source, method, path, rule, status,
        outcome, reason, credits, duration, request_id, address, agent, is_kept,
    ) in rows:  # fmt: skip
        whole, part = known[account_id, credential_id, rule]
        kind = KINDS[source, outcome]
        if is_kept:
            shown = None if path == rule else path
            kept.append((
                at // DAY, whole, part, kind, at, row_id, subject, method, shown, status, reason,
                credits, duration, request_id, address, agent,
            ))  # fmt: skip
        cell = (1, whole, at // FINE, part, kind, bisect_left(BUCKETS, duration))
        sums = cells.get(cell)
        if sums is None:
            cells[cell] = [1, credits, duration, duration]
        else:
            sums[0] += 1
            sums[1] += credits
            sums[2] += duration
            if duration > sums[3]:  # noqa: PLR1730  # a call of max costs three times as much
                sums[3] = duration
    if kept:
        # As the indexes have them, which finds the place of each beside that of the one before.
        kept.sort(key=_BY_PART)
        _write(connection, dialect, _insert_rows, kept)
    # All lock totals in one order, so that two processes never wait for each other.
    totals = [(*cell, *cells[cell]) for cell in sorted(cells)]
    _write(connection, dialect, _upsert_cells, totals)
    return known


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
