"""How rows of activity come to where they are found by index, and into totals, in a SQL store.

A flush adds rows to a table that has no index, one beside the other: that is all it pays for. Every
few thousand, or every minute, those are settled in one transaction: moved to the table of all
rows, in the order of its indexes, and summed into totals of minutes. So what each row would pay for
a place of its own in two indexes and a total, some dozens pay together; and a row is, whatever is
killed, either fresh or settled. Whoever reads looks through what is fresh, too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from keyrush.core.activity import BUCKETS, FINE
from keyrush.core.times import DAY
from keyrush.store.activity.adding import ROWS, added
from keyrush.store.activity.statements import statement

#: Rows that are fresh at most, of each process: looked through within a millisecond or two.
MOST = 10_000

#: Seconds after which rows are settled, however few.
INTERVAL = 60.0

#: PostgreSQL's advisory lock of who settles: one at a time, or they would wait for each other.
_LOCK = 0x6B657972757364

_COLUMNS = ", ".join(ROWS)

_WITHIN = " ".join(f"WHEN duration <= {most} THEN {number}" for number, most in enumerate(BUCKETS))
_BUCKET = f"CASE {_WITHIN} ELSE {len(BUCKETS)} END"

#: Rows that are fresh, as the totals of minutes that each would be.
CELLS = f"""(
    SELECT whole, at / {FINE} AS minute, part, kind, {_BUCKET} AS bucket, 1 AS requests,
        credits, duration, duration AS longest
    FROM keyrush_activity_fresh AS fresh
)"""  # noqa: S608  # of this package alone

_OLDEST = """
    SELECT count(*), max(number) FROM (
        SELECT number FROM keyrush_activity_fresh ORDER BY number LIMIT :most
    ) AS oldest
"""


def _into_rows(taken: str) -> str:
    return f"""
        INSERT INTO keyrush_activity (day, {_COLUMNS})
        SELECT at / {DAY}, {_COLUMNS} FROM {taken} ORDER BY whole, part, kind, at
    """  # noqa: S608


def _into_minutes(dialect: str, taken: str) -> str:
    return f"""
        INSERT INTO keyrush_activity_minutes AS found
            (is_fresh, whole, minute, part, kind, bucket, requests, credits, duration, longest)
        SELECT 1, whole, at / {FINE}, part, kind, {_BUCKET},
            count(*), sum(credits), sum(duration), max(duration)
        FROM {taken} WHERE true
        GROUP BY 2, 3, 4, 5, 6 ORDER BY 2, 3, 4, 5, 6
        ON CONFLICT (is_fresh, whole, minute, part, kind, bucket) DO UPDATE SET {added(dialect)}
    """  # noqa: S608


@cache
def statements(dialect: str) -> list[str]:
    """What settles the rows up to the number `:last`, in one transaction."""
    delete = "DELETE FROM keyrush_activity_fresh WHERE number <= :last"
    if dialect == "sqlite":  # whose transactions are alone from their beginning
        taken = "(SELECT * FROM keyrush_activity_fresh WHERE number <= :last) AS taken"
        return [_into_rows(taken), _into_minutes(dialect, taken), delete]
    # What is deleted is what is moved, whatever else is committed meanwhile.
    together = f"""
        WITH taken AS ({delete} RETURNING *),
        rows AS ({_into_rows("taken")})
        {_into_minutes(dialect, "taken")}
    """
    return [statement(dialect, together)]


def settle(connection: Any, dialect: str) -> int:
    """Settle the oldest rows, in the transaction of the driver's `connection`: how many there were.
    Less than `MOST` is all.
    """
    if dialect == "postgresql":
        is_mine = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone()
        if not is_mine[0]:
            return 0
    count, last = connection.execute(statement(dialect, _OLDEST), {"most": MOST}).fetchone()
    if count:
        for text in statements(dialect):
            connection.execute(text, {"last": last})
    return int(count)
