"""Adding to the counts of a SQL store, each batch once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keyrush.core.times import DAY, SECOND
from keyrush.sql.schema import BATCHES
from keyrush.store.protocol import Batch, Increments

T = TypeVar("T")

#: Milliseconds between two looks for batches that can be forgotten.
FORGET_INTERVAL = 3600 * SECOND


# One statement for each batch, as text for the driver: made of expressions, a statement on many
# rows is compiled anew whenever their number changes, which costs 40 us a row.

_ADD = {
    "sqlite": """
        INSERT INTO keyrush_usage (subject, month, counted)
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
        FROM json_each(?) WHERE true
        ON CONFLICT (subject, month) DO UPDATE SET counted = counted + excluded.counted
        RETURNING subject, month, counted
    """,
    "postgresql": """
        INSERT INTO keyrush_usage AS found (subject, month, counted)
        SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[])
        ON CONFLICT (subject, month) DO UPDATE SET counted = found.counted + excluded.counted
        RETURNING subject, month, counted
    """,
}

_TOUCH = {
    "sqlite": """
        UPDATE keyrush_keys SET last_used_at = used.at
        FROM (
            SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS at
            FROM json_each(?)
        ) AS used
        WHERE keyrush_keys.id = used.id
        AND (keyrush_keys.last_used_at IS NULL OR keyrush_keys.last_used_at < used.at)
    """,
    # Locked in one order everywhere, so that two processes never wait for each other.
    "postgresql": """
        WITH earlier AS (
            SELECT found.id, used.at
            FROM unnest(%s::text[], %s::bigint[]) AS used (id, at)
            JOIN keyrush_keys AS found ON found.id = used.id
            WHERE found.last_used_at IS NULL OR found.last_used_at < used.at
            ORDER BY found.id COLLATE "C"
            FOR UPDATE OF found
        )
        UPDATE keyrush_keys SET last_used_at = earlier.at
        FROM earlier WHERE keyrush_keys.id = earlier.id
    """,
}


def insert_into(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT, which the two dialects spell alike."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def add_counts(
    connection: sa.Connection, increments: Increments, batch: Batch | None, now: int
) -> Increments:
    """`Store.add_usage`, in the transaction of `connection`."""
    is_new = batch is None or _note(connection, batch, now)
    # In one order everywhere, so that two processes never wait for each other. What has been
    # added before is added as nothing, which brings the totals.
    rows = [
        (subject, month, increment if is_new else 0)
        for (subject, month), increment in sorted(increments.items())
    ]
    totals: dict[tuple[str, str], int] = {}
    for some in portions(rows):
        returned = connection.exec_driver_sql(*statement_of(connection, _ADD, some)).fetchall()
        totals.update({(subject, month): counted for subject, month, counted in returned})
    return totals


def touch(connection: sa.Connection, used: Mapping[str, int]) -> None:
    """`Store.touch`, in the transaction of `connection`."""
    for some in portions(sorted(used.items())):
        connection.exec_driver_sql(*statement_of(connection, _TOUCH, some))


def statement_of(
    connection: sa.Connection, by_dialect: Mapping[str, str], rows: Sequence[tuple[object, ...]]
) -> tuple[str, tuple[object, ...]]:
    """A statement on many rows, with one parameter on SQLite, one for each column elsewhere."""
    dialect = connection.dialect.name
    if dialect == "sqlite":
        return by_dialect[dialect], (json.dumps(rows),)
    return by_dialect[dialect], tuple(list(column) for column in zip(*rows, strict=True))


def _note(connection: sa.Connection, batch: Batch, now: int) -> bool:
    """Note the batch; False where it has been added before.

    Its row is locked from here on: a second call with the same batch waits for the first.
    """
    insert = insert_into(BATCHES, connection.dialect.name).values(
        worker=batch.worker, number=batch.number, added_at=now
    )
    upsert = insert.on_conflict_do_update(
        index_elements=[BATCHES.c.worker],
        set_={"number": insert.excluded.number, "added_at": insert.excluded.added_at},
        where=BATCHES.c.number < insert.excluded.number,
    )
    return connection.execute(upsert.returning(BATCHES.c.number)).scalar() is not None


def forget_batches(connection: sa.Connection, now: int) -> None:
    """Delete what is known of workers that have added nothing for a day."""
    # Rows that someone is about to change are left, or two processes could wait for each other.
    old = sa.select(BATCHES.c.worker).where(BATCHES.c.added_at < now - DAY)
    old = old.with_for_update(skip_locked=True)
    connection.execute(sa.delete(BATCHES).where(BATCHES.c.worker.in_(old)))


def portions(rows: list[T], size: int = 500) -> Iterator[list[T]]:
    """Bounded statements: to write one, or to read its answer, keeps other threads waiting."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
