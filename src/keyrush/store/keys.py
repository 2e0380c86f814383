"""Changes of keys in a SQL store, each decided in the transaction that makes it.

All begin with the lock of the account, which SQLite's transactions have from their beginning:
so the changes of an account's keys come one after the other, and nobody waits for two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from keyrush.core.model import ApiKey, Link
from keyrush.core.paging import Place
from keyrush.runtime.clock import now_ms
from keyrush.sql.changes import tell
from keyrush.sql.tables import ACCOUNTS, KEYS, LINKS
from keyrush.store.decisions import (
    KeyCount,
    Outcome,
    Revocation,
    is_trusted,
    judge_caller,
    judge_room,
    judge_rotation,
    judge_session,
    may_be_replaced,
)
from keyrush.store.edits import (
    Edit,
    edited,
    event_of,
    judge_all_made,
    judge_edit,
    judge_made,
    revocation,
    rotation,
)
from keyrush.store.key_events import note
from keyrush.store.rows import key_of, link_of, row_of

#: A key without what proves it, which nothing is decided by: so it is in no log of rows.
_JUDGED = sa.select(
    *(
        sa.literal("").label(column.name)
        if column.name in ("fingerprint", "hash", "proof")
        else column
        for column in KEYS.c
    )
)

_PLACE = KEYS.c.created_at, KEYS.c.id


def add(
    connection: sa.Connection,
    keys: Sequence[ApiKey],
    max_keys: int | None,
    issued_at: int | None,
) -> Outcome:
    """`Store.add_keys`, in the transaction of `connection`."""
    if not keys:
        return "done"
    key = keys[-1]
    if not lock(connection, key.account_id):
        return "gone"
    outcome, maker = _judge_caller(
        connection, key.created_by, key.account_id, key.created_at, issued_at
    )
    if outcome == "done":
        outcome = judge_all_made(maker, keys)
    if outcome == "done":
        there = count(connection, key.account_id, key.created_at)
        outcome = judge_room(there, max_keys, len(keys))
    if outcome == "done":
        connection.execute(sa.insert(KEYS), [row_of(one) for one in keys])
    return outcome


def replace(
    connection: sa.Connection,
    key_id: str,
    successor: ApiKey,
    retires_at: int,
    *,
    max_keys: int | None,
    by: str | None,
    issued_at: int | None,
) -> Outcome:
    """`Store.replace`, in the transaction of `connection`."""
    account_id, now = successor.account_id, successor.created_at
    if not lock(connection, account_id):
        return "gone"
    outcome, caller = _judge_caller(connection, by, account_id, now, issued_at)
    if outcome != "done":
        return outcome
    old = _read(connection, key_id)
    if old is None or not may_be_replaced(old, successor):
        return "gone"
    outcome = judge_made(caller, successor)
    if outcome != "done":
        return outcome
    ends_one = old.is_active(now) and retires_at <= now
    outcome = judge_rotation(count(connection, account_id, now), max_keys, ends_one=ends_one)
    if outcome != "done":
        return outcome
    connection.execute(sa.update(KEYS).where(KEYS.c.id == key_id).values(retires_at=retires_at))
    connection.execute(sa.insert(KEYS).values(row_of(successor)))
    replaced, created = rotation(key_id, successor, retires_at, by)
    note(connection, [key_id], replaced)
    note(connection, [successor.id], created)
    tell(connection, [account_id], now_ms())
    return "done"


def edit(connection: sa.Connection, key_id: str, wanted: Edit) -> Outcome:
    """`Store.edit_key`, in the transaction of `connection`."""
    known = _read(connection, key_id)
    if known is None or not lock(connection, known.account_id):
        return "gone"
    account_id = known.account_id
    outcome, caller = _judge_caller(connection, wanted.by, account_id, wanted.at, wanted.issued_at)
    if outcome != "done":
        return outcome
    key = _read(connection, key_id)  # once more, now that nobody else changes it
    if key is None:
        return "gone"
    outcome = judge_edit(caller, key, wanted)
    if outcome != "done":
        return outcome
    after = edited(key, wanted)
    if event := event_of(key, after, wanted):
        row = row_of(after)
        values = {name: row[name] for name in ("name", "scopes", "expires_at", "max_concurrent")}
        connection.execute(sa.update(KEYS).where(KEYS.c.id == key_id).values(values))
        note(connection, [key_id], event)
        tell(connection, [account_id], now_ms())
    return "done"


def revoke(
    connection: sa.Connection,
    key_id: str,
    at: int,
    *,
    descendants: bool,
    by: str | None,
    issued_at: int | None,
) -> Revocation:
    """`Store.revoke`, in the transaction of `connection`."""
    known = _read(connection, key_id)
    if known is None or not lock(connection, known.account_id):
        return Revocation("gone")
    account_id = known.account_id
    outcome, _ = _judge_caller(connection, by, account_id, at, issued_at)
    if outcome == "caller_retires" and by == key_id and not descendants:
        outcome = "done"  # itself it may revoke
    if outcome != "done":
        return Revocation(outcome)
    where = KEYS.c.id == key_id
    if descendants:
        where = KEYS.c.id.in_(_made_by(key_id, account_id))
        _lock_keys(connection, where)
    update = sa.update(KEYS).where(where, KEYS.c.revoked_at.is_(None)).values(revoked_at=at)
    revoked = [Place(*row) for row in connection.execute(update.returning(*_PLACE))]
    note(connection, [place.id for place in revoked], revocation(at, by))
    others = [place for place in revoked if place.id != key_id]
    tell(connection, [account_id], now_ms())
    return Revocation("done", [key_id, *(place.id for place in sorted(others))])


def count(connection: sa.Connection, account_id: str, now: int) -> KeyCount:
    """How many keys of the account are active."""
    stays = KEYS.c.retires_at.is_(None)
    select = sa.select(sa.func.count().filter(stays), sa.func.count().filter(sa.not_(stays))).where(
        KEYS.c.account_id == account_id, is_active(now)
    )
    return KeyCount(*connection.execute(select).one())


def is_active(now: int) -> sa.ColumnElement[bool]:
    """`ApiKey.is_active`, of a row."""
    return sa.and_(
        KEYS.c.revoked_at.is_(None),
        KEYS.c.expires_at.is_(None) | (KEYS.c.expires_at > now),
        KEYS.c.retires_at.is_(None) | (KEYS.c.retires_at > now),
    )


def lock(connection: sa.Connection, account_id: str) -> bool:
    """Have the account to oneself until the transaction ends; False where there is none.

    What is read after it, in statements of their own, is as the one before has left it.
    """
    select = sa.select(ACCOUNTS.c.id).where(ACCOUNTS.c.id == account_id).with_for_update()
    return connection.execute(select).scalar() is not None


def _judge_caller(
    connection: sa.Connection,
    by: str | None,
    account_id: str,
    now: int,
    issued_at: int | None,
) -> tuple[Outcome, ApiKey | None]:
    """Whether they may ask, and the key that does, where it is one."""
    if by is None or is_trusted(by):
        return "done", None
    key = _read(connection, by)
    if key is None:
        return judge_session(read_link(connection, by), account_id, issued_at), None
    return judge_caller(key, account_id, now), key


def _read(connection: sa.Connection, key_id: str) -> ApiKey | None:
    row = connection.execute(_JUDGED.where(KEYS.c.id == key_id)).one_or_none()
    return None if row is None else key_of(row)


def read_link(connection: sa.Connection, link_id: str) -> Link | None:
    """The link of that id, if it is one of a link."""
    row = connection.execute(sa.select(LINKS).where(LINKS.c.id == link_id)).one_or_none()
    return None if row is None else link_of(row)


def _made_by(key_id: str, account_id: str) -> sa.Select[Any]:
    """The ids of a key and of all that it has made, directly or not."""
    made = sa.select(KEYS.c.id).where(KEYS.c.id == key_id).cte("made", recursive=True)
    child = KEYS.alias("child")
    children = sa.select(child.c.id).where(
        child.c.created_by == made.c.id, child.c.account_id == account_id
    )
    return sa.select(made.union(children).c.id)


def _lock_keys(connection: sa.Connection, where: sa.ColumnElement[bool]) -> None:
    """Lock the rows in the order of a flush, so that the two don't wait for each other."""
    if connection.dialect.name == "postgresql":
        ordered = sa.select(KEYS.c.id).where(where).order_by(sa.collate(KEYS.c.id, "C"))
        connection.execute(ordered.with_for_update())
