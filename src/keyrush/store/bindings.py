"""Which account has opened a session of an MCP server, in a SQL store."""

from __future__ import annotations

import sqlalchemy as sa

from keyrush.sql.tables import BINDINGS
from keyrush.store.counts import insert_into
from keyrush.store.protocol import MAX_BINDINGS


def bind(connection: sa.Connection, name: str, account_id: str, now: int, ends_at: int) -> str:
    """`BindingStore.bind`, in the transaction of `connection`."""
    insert = insert_into(BINDINGS, connection.dialect.name).values(
        name=name, account_id=account_id, ends_at=ends_at
    )
    is_free = sa.or_(BINDINGS.c.ends_at <= now, BINDINGS.c.account_id == account_id)
    upsert = insert.on_conflict_do_update(
        index_elements=[BINDINGS.c.name],
        set_={"account_id": account_id, "ends_at": ends_at},
        where=is_free,
    )
    if connection.execute(upsert.returning(BINDINGS.c.name)).scalar() is None:
        owner: str = connection.execute(
            sa.select(BINDINGS.c.account_id).where(BINDINGS.c.name == name)
        ).scalar_one()
        return owner
    # Rows that someone is about to change are left, or two processes could wait for each other.
    old = (
        sa.select(BINDINGS.c.name)
        .where(BINDINGS.c.ends_at <= now)
        .order_by(BINDINGS.c.ends_at)
        .limit(_A_TURN)
        .with_for_update(skip_locked=True)
    )
    beyond = (
        sa.select(BINDINGS.c.name)
        .where(BINDINGS.c.account_id == account_id)
        .order_by(BINDINGS.c.ends_at.desc(), BINDINGS.c.name)
        .offset(MAX_BINDINGS)
        .limit(_A_TURN)
        .with_for_update(skip_locked=True)
    )
    for gone in (old, beyond):
        connection.execute(sa.delete(BINDINGS).where(BINDINGS.c.name.in_(gone)))
    return account_id


#: Rows that one call deletes: more than it adds, so that those that have ended never pile up.
_A_TURN = 10


def bound(connection: sa.Connection, name: str, now: int) -> str | None:
    """`BindingStore.bound`."""
    select = sa.select(BINDINGS.c.account_id).where(BINDINGS.c.name == name)
    owner: str | None = connection.execute(select.where(BINDINGS.c.ends_at > now)).scalar()
    return owner
