"""What was done to the keys of a SQL store, and an account's keys in outline."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa

from keyrush.core.key_search import Outline
from keyrush.sql.engine import Database
from keyrush.sql.tables import EVENTS, KEYS
from keyrush.store.edits import MAX_EVENTS, KeyEvent


def note(connection: sa.Connection, key_ids: Sequence[str], event: KeyEvent) -> None:
    """Keep that the same was done to keys, whose account the transaction has locked; the oldest
    events of one that has too many go.
    """
    if not key_ids:
        return
    row = {"at": event.at, "what": event.what, "by": event.by, "changes": json.dumps(event.changes)}
    connection.execute(sa.insert(EVENTS), [{**row, "key_id": key_id} for key_id in key_ids])
    if event.what == "edited":  # the others are done to a key once
        beyond = (
            sa.select(EVENTS.c.number)
            .where(EVENTS.c.key_id.in_(key_ids))
            .order_by(EVENTS.c.number.desc())
            .offset(MAX_EVENTS)
            .limit(MAX_EVENTS)  # SQLite has no offset without
        )
        connection.execute(sa.delete(EVENTS).where(EVENTS.c.number.in_(beyond)))


def listed(connection: sa.Connection, key_id: str) -> Sequence[KeyEvent]:
    """`Store.key_events`."""
    select = sa.select(EVENTS).where(EVENTS.c.key_id == key_id)
    rows = connection.execute(select.order_by(EVENTS.c.number.desc()).limit(MAX_EVENTS))
    return [
        KeyEvent(
            row.at,
            row.what,
            row.by,
            {name: (was, is_now) for name, (was, is_now) in json.loads(row.changes).items()},
        )
        for row in rows
    ]


_OUTLINES = f"""
    SELECT {", ".join(Outline._fields)} FROM {KEYS.name}
    WHERE account_id = {{0}}{{1}} ORDER BY created_at DESC, id DESC LIMIT {{0}}
"""  # noqa: S608  # every name is a column's


def outlines(
    database: Database, account_id: str, limit: int, among: Sequence[str] | None
) -> Sequence[Outline]:
    """`Store.outlines`. By the driver: thousands of rows, of which few are shown.

    Raises:
        StoreError: The database can't answer.
    """
    if among is not None and not among:
        return []
    mark = "?" if database.dialect == "sqlite" else "%s"
    ids = among or ()
    more = f" AND id IN ({', '.join([mark] * len(ids))})" if ids else ""
    with database.driver() as connection:
        text = _OUTLINES.format(mark, more)
        found = connection.execute(text, (account_id, *ids, limit)).fetchall()
    return [Outline._make(row) for row in found]
