"""Links of a SQL store, each change decided in the transaction that makes it."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from keyrush.core.model import Account, Link
from keyrush.runtime.clock import now_ms
from keyrush.sql.changes import tell
from keyrush.sql.tables import ACCOUNTS, LINKS
from keyrush.store.decisions import MAX_LINKS, NEW_LINKS_IN, LinkOutcome
from keyrush.store.keys import lock, read_link
from keyrush.store.rows import link_of, row_of_account

_LOCK = 0x6B65797275736A  # the advisory lock of who adds a link: the one after that of changes


def add(
    connection: sa.Connection, link: Link, account: Account | None, at_most: int | None
) -> LinkOutcome:
    """`Store.add_link`, in the transaction of `connection`.

    One at a time, which SQLite's transactions are from their beginning.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    of_subject = sa.and_(LINKS.c.issuer == link.issuer, LINKS.c.subject == link.subject)
    columns = LINKS.c.ended_at, LINKS.c.revoked_before
    earlier = connection.execute(sa.select(*columns).where(of_subject)).all()
    if any(one.ended_at is None for one in earlier):
        return "taken"
    if account is None:
        if not lock(connection, link.account_id):
            return "gone"
    elif earlier:
        return "ended"
    elif at_most is not None and _new_links(connection, link) >= at_most:
        return "too_many"
    else:
        connection.execute(sa.insert(ACCOUNTS).values(row_of_account(account)))
    revoked = [at for one in earlier if (at := one.revoked_before) is not None]
    values = {column.name: getattr(link, column.name) for column in LINKS.c}
    values["revoked_before"] = max(revoked, default=None)
    connection.execute(sa.insert(LINKS).values(values))
    return "done"


def _new_links(connection: sa.Connection, link: Link) -> int:
    """How many of its issuer's have been added in the minute before."""
    select = sa.select(sa.func.count()).where(
        LINKS.c.issuer == link.issuer, LINKS.c.created_at > link.created_at - NEW_LINKS_IN
    )
    return connection.execute(select).scalar_one()


def listed(
    connection: sa.Connection, account_id: str | None, subject: str | None
) -> Sequence[Link]:
    """`Store.links`."""
    select = sa.select(LINKS).where(LINKS.c.ended_at.is_(None))
    if account_id is not None:
        select = select.where(LINKS.c.account_id == account_id)
    if subject is not None:
        select = select.where(LINKS.c.subject == subject)
    ordered = select.order_by(LINKS.c.created_at, LINKS.c.id).limit(MAX_LINKS)
    return [link_of(row) for row in connection.execute(ordered)]


def change(connection: sa.Connection, link_id: str, **values: int) -> bool:
    """Set columns of a link that has not ended, and tell of its account; False where there is
    none. A later instant stands.

    With the lock of the account, as all that its keys are changed with: what a session of it asks
    for at the same time comes before, or is refused.
    """
    known = read_link(connection, link_id)
    if known is None or not lock(connection, known.account_id):
        return False
    later = {
        name: sa.case((LINKS.c[name] > value, LINKS.c[name]), else_=value)
        for name, value in values.items()
    }
    update = sa.update(LINKS).where(LINKS.c.id == link_id, LINKS.c.ended_at.is_(None))
    changed = connection.execute(update.values(later).returning(LINKS.c.id)).scalar()
    if changed is None:
        return False
    tell(connection, [known.account_id], now_ms())
    return True
