"""How totals of minutes come into all others, in a SQL store.

A flush adds to one total for each key, rule, source, outcome and minute, as fresh. Every few
minutes those that are fresh are added to the totals of all subjects that they are of, and are
fresh no more, in one transaction: so each is in them once, whatever is killed, and a flush pays
for one total, not for each that something can be asked by. Whoever sums adds what is fresh.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from keyrush.store.activity.adding import added
from keyrush.store.activity.statements import statement
from keyrush.store.activity.subjects import KEY, LEVELS, PART, WHOLE

#: Seconds between two times that a process folds.
INTERVAL = 600.0

#: Totals of minutes that one transaction folds: some hundredths of a second, a tenth on PostgreSQL.
PORTION = 500

_KEY = "whole, minute, part, kind, bucket"

#: PostgreSQL's advisory lock of who folds; one at a time, or they would take turns at each row.
_LOCK = 0x6B657972757363

#: Minutes of the bins in which subjects of a level have totals. A chart of a day is of half hours:
#: of a key, its minutes would have to be found among all of the account's. Of parts there are so
#: many that a quarter of what folding costs would be theirs.
LENGTHS: dict[int, tuple[int, ...]] = {
    level: {WHOLE: (1, 30, 60, 1440), PART: (60, 1440)}.get(level, (30, 60, 1440))
    for level in range(len(LEVELS))
}

#: Of such bins of a key there is one total besides of all kinds and durations together, whose
#: length is the negative: a list of the most reads one number for each key and bin, not dozens.
TOGETHER = (60, 1440)

_TARGETS = ", ".join(
    f"({level}, {int(by_key)}, {int(by_rule)}, {abs(length)}, {int(length > 0)})"
    for level, (by_key, by_rule) in enumerate(LEVELS)
    for length in (*LENGTHS[level], *(-one for one in TOGETHER if level == KEY))
)

# Of what this module says alone.

_TAKEN = f"""
    SELECT {_KEY} FROM keyrush_activity_minutes WHERE is_fresh = 1 ORDER BY {_KEY} LIMIT :portion
    /*skip*/
"""  # noqa: S608


#: One look at an index for each target. As a join, PostgreSQL looks through all subjects of the
#: account for each total, which an account of a few thousand keys never gets to the end of.
_SUBJECT = """
    SELECT subject.number FROM keyrush_activity_subjects AS subject
    WHERE subject.account_id = part.account_id AND subject.level = target.level
    AND subject.credential_id = CASE target.by_key WHEN 1 THEN part.credential_id ELSE '' END
    AND subject.rule = CASE target.by_rule WHEN 1 THEN part.rule ELSE '' END
"""


def _into_totals(dialect: str, taken: str) -> str:
    return f"""
        INSERT INTO keyrush_activity_totals AS found
            (subject, length, bin, kind, bucket, requests, credits, duration, longest)
        SELECT ({_SUBJECT}),
            CASE target.is_apart WHEN 1 THEN target.length ELSE -target.length END,
            taken.minute / target.length,
            taken.kind * target.is_apart, taken.bucket * target.is_apart,
            sum(taken.requests), sum(taken.credits), sum(taken.duration), max(taken.longest)
        FROM {taken}
        CROSS JOIN keyrush_activity_subjects AS part
        CROSS JOIN (
            SELECT column1 AS level, column2 AS by_key, column3 AS by_rule, column4 AS length,
                column5 AS is_apart
            FROM (VALUES {_TARGETS}) AS listed
        ) AS target
        WHERE part.number = taken.part
        GROUP BY 1, 2, 3, 4, 5
        ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (subject, length, bin, kind, bucket) DO UPDATE SET {added(dialect)}
    """  # noqa: S608


def _into_minutes(dialect: str, taken: str) -> str:
    return f"""
        INSERT INTO keyrush_activity_minutes AS found
            (is_fresh, {_KEY}, requests, credits, duration, longest)
        SELECT 0, {_KEY}, requests, credits, duration, longest
        FROM {taken} WHERE true ORDER BY {_KEY}
        ON CONFLICT (is_fresh, {_KEY}) DO UPDATE SET {added(dialect)}
    """  # noqa: S608


@cache
def _statements(dialect: str) -> list[str]:
    """What folds a portion; the last says how many totals it had."""
    delete = f"""
        DELETE FROM keyrush_activity_minutes
        WHERE is_fresh = 1 AND ({_KEY}) IN ({_TAKEN})
    """  # noqa: S608
    if dialect == "sqlite":  # whose transactions are alone from their beginning
        values = "requests, credits, duration, longest"
        same = _TAKEN.replace(f"SELECT {_KEY}", f"SELECT {_KEY}, {values}")
        source = f"({same}) AS taken"
        return [_into_totals(dialect, source), _into_minutes(dialect, source), delete]
    # What is taken is what is added: others may add to it until it is deleted.
    together = f"""
        WITH taken AS ({delete} RETURNING *),
        totals AS ({_into_totals(dialect, "taken")}),
        minutes AS ({_into_minutes(dialect, "taken")})
        SELECT count(*) FROM taken
    """  # noqa: S608
    return [statement(dialect, together)]


def fold(connection: Any, dialect: str) -> int:
    """Fold one portion, in the transaction of the driver's `connection`: how many totals of
    minutes it was. Less than `PORTION` is all that there were.
    """
    if dialect == "postgresql":
        is_mine = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone()
        if not is_mine[0]:
            return 0
    for text in _statements(dialect):
        answer = connection.execute(text, {"portion": PORTION})
    return int(answer.rowcount if dialect == "sqlite" else answer.fetchone()[0])
