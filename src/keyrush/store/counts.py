"""What a flush writes to a SQL store: counts, each batch once, and when keys were last used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keyrush.core.times import DAY
from keyrush.sql.tables import BATCHES
from keyrush.store.protocol import Batch

#: Seconds between two looks for batches that can be forgotten.
FORGET_INTERVAL = 3600.0


# By the driver, and with all rows in one JSON object, as it is answered with one: neither a
# statement that is compiled anew for each number of rows, nor a value, a row or a turn of the
# interpreter for each row. All lock rows in one order, so that two processes never wait for each
# other.

#: The last of them gives the totals.
_ADD = {
    "sqlite": (
        """
        INSERT INTO keyrush_usage (subject, month, counted)
        SELECT key, ?1, value FROM json_each(?2) WHERE true
        ON CONFLICT (subject, month) DO UPDATE SET counted = counted + excluded.counted
        """,
        """
        SELECT json_group_object(found.subject, found.counted)
        FROM json_each(?2) AS added
        CROSS JOIN keyrush_usage AS found ON found.subject = added.key AND found.month = ?1
        """,
    ),
    "postgresql": (
        """
        WITH added AS (
            INSERT INTO keyrush_usage AS found (subject, month, counted)
            SELECT key, %s, value::bigint FROM json_each_text(%s) ORDER BY key COLLATE "C"
            ON CONFLICT (subject, month) DO UPDATE SET counted = found.counted + excluded.counted
            RETURNING subject, counted
        )
        SELECT json_object_agg(subject, counted)::text FROM added
        """,
    ),
}

_TOUCH = {
    "sqlite": """
        UPDATE keyrush_keys SET last_used_at = used.value
        FROM json_each(?) AS used
        WHERE keyrush_keys.id = used.key
        AND (keyrush_keys.last_used_at IS NULL OR keyrush_keys.last_used_at < used.value)
    """,
    "postgresql": """
        WITH earlier AS (
            SELECT found.id, used.value::bigint AS at
            FROM json_each_text(%s) AS used
            JOIN keyrush_keys AS found ON found.id = used.key
            WHERE found.last_used_at IS NULL OR found.last_used_at < used.value::bigint
            ORDER BY found.id COLLATE "C"
            FOR UPDATE OF found
        )
        UPDATE keyrush_keys SET last_used_at = earlier.at
        FROM earlier WHERE keyrush_keys.id = earlier.id
    """,
}

_NOTE = """
    INSERT INTO keyrush_batches AS found (worker, number, added_at)
    VALUES ({0}, {0}, {0})
    ON CONFLICT (worker) DO UPDATE SET number = excluded.number, added_at = excluded.added_at
    WHERE found.number < excluded.number
    RETURNING number
"""


def insert_into(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT, which the two dialects spell alike."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def add_counts(
    connection: Any,
    dialect: str,
    month: str,
    increments: Mapping[str, int],
    *,
    batch: Batch | None,
    now: int,
) -> Mapping[str, int]:
    """`Store.add_usage`, but for `used`, in the transaction of the driver's `connection`."""
    if not increments:
        return {}
    if batch is not None and not note(connection, dialect, batch, now):
        # What has been added before is added as nothing, which brings the totals.
        increments = dict.fromkeys(increments, 0)
    rows = json.dumps(increments)
    for statement in _ADD[dialect]:
        answer = connection.execute(statement, (month, rows))
    totals: dict[str, int] = json.loads(answer.fetchone()[0])
    return totals


def touch(connection: Any, dialect: str, used: Mapping[str, int]) -> None:
    """Set `last_used_at` of keys, in the transaction of the driver's `connection`."""
    connection.execute(_TOUCH[dialect], (json.dumps(used),))


def note(connection: Any, dialect: str, batch: Batch, now: int) -> bool:
    """Note the batch; False where it has been added before.

    Its row is locked from here on: a second call with the same batch waits for the first.
    """
    mark = "?" if dialect == "sqlite" else "%s"
    noted = connection.execute(_NOTE.format(mark), (*batch, now))
    return noted.fetchone() is not None


def forget_batches(connection: sa.Connection, now: int) -> None:
    """Delete what is known of workers that have added nothing for a day."""
    # Rows that someone is about to change are left, or two processes could wait for each other.
    old = sa.select(BATCHES.c.worker).where(BATCHES.c.added_at < now - DAY)
    old = old.with_for_update(skip_locked=True)
    connection.execute(sa.delete(BATCHES).where(BATCHES.c.worker.in_(old)))
