"""Which keys, rules or doors had the most requests, in a SQL store: all that a list of the most
needs, summed and cut by the database. Whole totals, with their durations, would be thousands of
values here, of which five are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from keyrush.core.activity import FINE, Group, Span, Where
from keyrush.store.activity.folding import LENGTHS, TOGETHER
from keyrush.store.activity.settling import CELLS
from keyrush.store.activity.statements import statement
from keyrush.store.activity.subjects import KEY, WHOLE, chosen, kinds_of, narrowed
from keyrush.store.activity.totals import (
    FOLDED_CELLS,
    FRESH_CELLS,
    NAMED,
    VALUES,
    level_of,
    shape_of,
)


def _of_subjects(level: int, value: str, where: Where, length: int, name: str) -> str:
    condition, _ = chosen(level, where)
    is_any = where.source is None and where.outcome is None
    is_together = is_any and level == KEY and length in TOGETHER
    kinds = [0] if is_together else kinds_of(where)
    return f"""
        SELECT {value} AS value, sum(cell.requests) AS requests
        FROM keyrush_activity_subjects AS subject
        CROSS JOIN keyrush_activity_totals AS cell
        WHERE {condition} AND cell.subject = subject.number
        AND cell.length = {-length if is_together else length}
        AND cell.bin >= :since_{name} / {length} AND cell.bin < :until_{name} / {length}
        AND cell.kind IN ({", ".join(map(str, kinds))})
        GROUP BY 1
    """  # noqa: S608  # of this module and numbers


def _in_minutes(value: str, where: Where, cells: str, name: str) -> str:
    return f"""
        SELECT {value} AS value, sum(cell.requests) AS requests
        FROM keyrush_activity_subjects AS whole
        CROSS JOIN {cells} AS cell
        CROSS JOIN keyrush_activity_subjects AS subject
        WHERE whole.account_id = :account AND whole.level = {WHOLE}
        AND cell.whole = whole.number
        AND cell.minute >= :since_{name} AND cell.minute < :until_{name}
        AND cell.kind IN ({", ".join(map(str, kinds_of(where)))})
        AND subject.number = cell.part{narrowed(where)}
        GROUP BY 1
    """  # noqa: S608  # of this module and numbers


@cache
def _ranked(
    dialect: str, level: int, group: Group, where: Where, spans: tuple[tuple[str, int], ...]
) -> str:
    """What is not in totals yet, and of each span, by name and minutes of its bins, what is. Each
    is summed for itself: of a key a few dozen totals, so that few rows are put together.
    """
    value = VALUES[group]
    order = "1" if group in NAMED else "value /*bytes*/"
    parts = [_in_minutes(value, where, cells, "all") for cells in (FRESH_CELLS, CELLS)]
    for name, length in spans:
        if length in LENGTHS[level]:
            parts.append(_of_subjects(level, value, where, length, name))
        else:
            parts.append(_in_minutes(value, where, FOLDED_CELLS, name))
    text = f"""
        SELECT value, sum(requests) FROM ({" UNION ALL ".join(parts)}) AS found
        GROUP BY 1 ORDER BY 2 DESC, {order} LIMIT :most
    """  # noqa: S608  # of this module
    return statement(dialect, text)


def ranks(
    connection: Any,
    dialect: str,
    account_id: str,
    where: Where,
    spans: Sequence[Span],
    *,
    group: Group,
    at_most: int,
) -> list[tuple[str, int]]:
    """`ActivityStore.activity_ranks`, by the driver's `connection`."""
    told = NAMED.get(group)
    values: dict[str, Any] = {
        "account": account_id,
        "key": where.credential_id,
        "rule": where.rule,
        "since_all": min(span.since for span in spans) // FINE,
        "until_all": max(span.until for span in spans) // FINE,
        "most": max(at_most, len(told or ())),  # all that have numbers: these are in no order
    }
    named = []
    for place, span in enumerate(spans):
        name = "abcdefgh"[place]
        values |= {f"since_{name}": span.since // FINE, f"until_{name}": span.until // FINE}
        named.append((name, span.unit // FINE))
    level = level_of(where, group)
    text = _ranked(dialect, level, group, shape_of(where), tuple(named))
    found = connection.execute(text, values).fetchall()
    if told is None:
        return [(value, int(requests)) for value, requests in found]
    by_name = [(told[number], int(requests)) for number, requests in found]
    return sorted(by_name, key=lambda one: (-one[1], one[0]))[:at_most]
