"""Links and sessions of the dashboard, and forms that were sent, in a SQL store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from keyrush.core.portal import PortalLink, PortalSession
from keyrush.sql.tables import PORTAL_LINKS, PORTAL_SESSIONS, SPENT_FORMS
from keyrush.store.counts import insert_into
from keyrush.store.protocol import MAX_SESSIONS

#: Rows that one call deletes: more than it adds, so that those that have ended never pile up.
_A_TURN = 10


class PortalInSql(ABC):
    """The part of a SQL store that is `protocol.PortalStore`."""

    @abstractmethod
    def _run(self, *, atomic: bool = False) -> AbstractContextManager[sa.Connection]:
        """The store has it."""

    def add_portal_link(self, link: PortalLink) -> None:
        with self._run(atomic=True) as connection:
            _forget(connection, PORTAL_LINKS, link.created_at)
            connection.execute(sa.insert(PORTAL_LINKS).values(asdict(link)))

    def portal_link(self, hash: str, now: int) -> PortalLink | None:
        row = self._held(PORTAL_LINKS, hash, now)
        return None if row is None else PortalLink(**row)

    def open_portal_session(self, hash: str, session: PortalSession) -> bool:
        # Of two that delete one row the second finds none, once the first has committed.
        used = sa.delete(PORTAL_LINKS).where(
            PORTAL_LINKS.c.hash == hash,
            PORTAL_LINKS.c.ends_at > session.created_at,
            PORTAL_LINKS.c.account_id == session.account_id,
        )
        with self._run(atomic=True) as connection:
            if connection.execute(used.returning(PORTAL_LINKS.c.hash)).scalar() is None:
                return False
            _forget(connection, PORTAL_SESSIONS, session.created_at)
            connection.execute(sa.insert(PORTAL_SESSIONS).values(asdict(session)))
        return True

    def portal_session(self, hash: str, now: int) -> PortalSession | None:
        row = self._held(PORTAL_SESSIONS, hash, now)
        return None if row is None else PortalSession(**row)

    def portal_sessions(self, now: int, account_id: str | None = None) -> Sequence[PortalSession]:
        table = PORTAL_SESSIONS
        select = sa.select(table).where(table.c.ends_at > now)
        if account_id is not None:
            select = select.where(table.c.account_id == account_id)
        ordered = select.order_by(table.c.created_at, table.c.id).limit(MAX_SESSIONS)
        with self._run() as connection:
            return [PortalSession(**row) for row in connection.execute(ordered).mappings()]

    def end_portal_session(self, session_id: str, now: int) -> bool:
        table = PORTAL_SESSIONS
        ended = sa.delete(table).where(table.c.id == session_id, table.c.ends_at > now)
        with self._run() as connection:
            return connection.execute(ended.returning(table.c.id)).scalar() is not None

    def spend_form(self, name: str, now: int, ends_at: int) -> bool:
        with self._run(atomic=True) as connection:
            _forget(connection, SPENT_FORMS, now)
            insert = insert_into(SPENT_FORMS, connection.dialect.name)
            once = insert.values(name=name, ends_at=ends_at).on_conflict_do_nothing()
            return connection.execute(once.returning(SPENT_FORMS.c.name)).scalar() is not None

    def _held(self, table: sa.Table, hash: str, now: int) -> Mapping[str, Any] | None:
        select = sa.select(table).where(table.c.hash == hash, table.c.ends_at > now)
        with self._run() as connection:
            row = connection.execute(select).mappings().one_or_none()
        return None if row is None else {str(name): value for name, value in row.items()}


def _forget(connection: sa.Connection, table: sa.Table, now: int) -> None:
    """Delete some that have ended; those that someone is about to change are left."""
    (key,) = table.primary_key.columns
    old = (
        sa.select(key)
        .where(table.c.ends_at <= now)
        .order_by(table.c.ends_at)
        .limit(_A_TURN)
        .with_for_update(skip_locked=True)
    )
    connection.execute(sa.delete(table).where(key.in_(old)))
