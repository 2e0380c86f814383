"""Adding to the counts of a SQL store, each batch once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from keyrush.core.times import DAY, SECOND
from keyrush.sql.schema import BATCHES, USAGE
from keyrush.store.protocol import Batch, Usage

T = TypeVar("T")

#: Milliseconds between two looks for batches that can be forgotten.
FORGET_INTERVAL = 3600 * SECOND


def insert_into(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT, which the two dialects spell alike."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def add_counts(
    connection: sa.Connection, increments: Usage, batch: Batch | None, now: int
) -> Usage:
    """`Store.add_usage`, in the transaction of `connection`."""
    is_new = batch is None or _note(connection, batch, now)
    insert = insert_into(USAGE, connection.dialect.name)
    upsert = insert.on_conflict_do_update(
        index_elements=[USAGE.c.subject, USAGE.c.month],
        set_={"counted": USAGE.c.counted + insert.excluded.counted},
    )
    # In one order everywhere, so that two processes never wait for each other. What has been
    # added before is added as nothing, which brings the totals.
    rows = [
        {"subject": subject, "month": month, "counted": increment if is_new else 0}
        for (subject, month), increment in sorted(increments.items())
    ]
    totals: dict[tuple[str, str], int] = {}
    for some in _portions(rows):
        returned = connection.execute(upsert.values(some).returning(USAGE))
        totals.update({(row.subject, row.month): row.counted for row in returned})
    return totals


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


def _portions(rows: list[T], size: int = 1000) -> Iterator[list[T]]:
    """Bounded statements: SQLite takes 32,766 parameters at most."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
