"""The store in a SQL database, by synchronous SQLAlchemy Core: SQLite in WAL mode, PostgreSQL.

Every statement that can is a single one in autocommit, so that it is atomic by itself; the
few that can't run in a transaction that takes the write lock at its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from keyrush.core.activity import Activity, DayOfKey, Group, Span, Total, Where, storable_rows
from keyrush.core.changes import Changes
from keyrush.core.identity import Found, FoundLink, key_subject
from keyrush.core.key_search import Outline
from keyrush.core.ledger import (
    ALL_ENTRIES,
    OPERATOR,
    Audited,
    By,
    Entry,
    EntryPlace,
    EntryWhere,
    Lot,
    Posting,
    Refill,
)
from keyrush.core.model import Account, ApiKey, Limit, Link
from keyrush.core.notation import format_limits
from keyrush.core.paging import DEFAULT_LIMIT, Place
from keyrush.runtime.clock import now_ms
from keyrush.sql.changes import changes_in, tell
from keyrush.sql.engine import Database
from keyrush.sql.states import told
from keyrush.sql.tables import ACCOUNTS, KEYS, LINKS, USAGE
from keyrush.store import key_events, keys, ledger, links
from keyrush.store.activity import adding, folding, forgetting, pages, ranks, settling, totals
from keyrush.store.activity.subjects import Subjects
from keyrush.store.bindings import bind, bound
from keyrush.store.counts import (
    FORGET_INTERVAL,
    add_counts,
    forget_batches,
    insert_into,
    note,
    touch,
)
from keyrush.store.decisions import KeyCount, LinkOutcome, Outcome, Revocation
from keyrush.store.edits import Edit, KeyEvent
from keyrush.store.finding import find, find_link
from keyrush.store.portal import PortalInSql
from keyrush.store.proofs import record_proofs
from keyrush.store.protocol import Batch, Proved
from keyrush.store.rows import account_of, key_of, row_of_account


class SqlStore(PortalInSql):
    """A store in a database, SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._engine = database.engine
        # What else a statement says that reads how an account stands, so as to change it.
        self._locked = " FOR UPDATE" if database.dialect == "postgresql" else ""
        self._each = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._forget_at = 0.0  # when to look for batches of workers that are no longer
        self._subjects = Subjects()
        # When to settle rows and to fold totals, by no clock that may be set: set back, it would
        # take that long to be over.
        self._settle_at = self._fold_at = monotonic() + settling.INTERVAL
        self._added = 0  # rows of activity, since they were settled

    @property
    def database(self) -> Database:
        """Where windows may be counted, too. It is closed with the store."""
        return self._database

    def changes(self) -> Changes:
        """News of what any process, this one too, changes in the database."""
        return changes_in(self._database)

    @contextmanager
    def _run(self, *, atomic: bool = False) -> Iterator[sa.Connection]:
        """A connection for one statement, or with `atomic` for several that hold together.

        Raises:
            StoreError: The database can't answer.
            DataError: It can't take what it was given.
        """
        try:
            with self._engine.begin() if atomic else self._each.connect() as connection:
                yield connection
        except (SQLAlchemyError, UnicodeError, OverflowError) as error:
            raise told(error, self._engine) from error

    def find(self, fingerprints: Sequence[str], month: str) -> Found | None:
        return find(self._database, fingerprints, month)

    def add_account(self, account: Account) -> bool:
        values = row_of_account(account)
        insert = insert_into(ACCOUNTS, self._database.dialect).values(values)
        with self._run(atomic=bool(account.balance)) as connection:
            # Not by rowcount, which PostgreSQL's driver does not give for an INSERT.
            added = connection.execute(
                insert.on_conflict_do_nothing().returning(ACCOUNTS.c.id)
            ).scalar()
            if added is not None:
                self._open_ledger(connection, account)
        return added is not None

    def _open_ledger(self, connection: sa.Connection, account: Account) -> None:
        run = self._runner(connection)
        ledger.open_ledger(run, account.id, account.balance, account.created_at)

    def account(self, account_id: str) -> Account | None:
        found = self._select_accounts(sa.select(ACCOUNTS).where(ACCOUNTS.c.id == account_id))
        return found[0] if found else None

    def accounts(self, limit: int = DEFAULT_LIMIT, after: Place | None = None) -> Sequence[Account]:
        return self._select_accounts(_page(ACCOUNTS, limit, after))

    def plans(self) -> Mapping[str, int]:
        select = sa.select(ACCOUNTS.c.plan, sa.func.count()).group_by(ACCOUNTS.c.plan)
        with self._run() as connection:
            return {row[0]: row[1] for row in connection.execute(select)}

    def _select_accounts(self, select: sa.Select[Any]) -> list[Account]:
        with self._run() as connection:
            rows = connection.execute(select).all()
        return [account_of(row) for row in rows]

    def set_plan(self, account_id: str, plan: str) -> bool:
        return self._change(ACCOUNTS, account_id, plan=plan)

    def set_account_limits(
        self, account_id: str, limits: tuple[Limit, ...] | None, until: int | None = None
    ) -> bool:
        values = {"override": format_limits(limits), "override_until": until}
        if until is None:
            values = {"limits": format_limits(limits), "override": None, "override_until": None}
        return self._change(ACCOUNTS, account_id, **values)

    def charge(  # noqa: PLR0917  # one's own may be called by place alone
        self,
        account_id: str,
        credits: int,
        reference: str,
        at: int,
        by: By = OPERATOR,
        refill: Refill | None = None,
    ) -> int | None:
        if self._database.dialect == "postgresql":
            return ledger.charge_at_once(
                self._database, account_id, credits, reference, at=at, by=by, refill=refill
            )
        with self._database.transaction() as driver:
            return ledger.charge(
                driver.execute, account_id, credits, reference, at=at, by=by, refill=refill
            )

    def reverse(
        self, account_id: str, reference: str, at: int, credits: int | None = None
    ) -> int | None:
        # Not told of: what was given back is asked for again soon enough, and each time to have
        # all keys of the account looked up anew would cost more.
        with self._database.transaction() as driver:
            run = ledger.runner(driver.execute, self._database.dialect)
            return ledger.reverse(
                run, account_id, reference, at=at, credits=credits, locked=self._locked
            )

    def post(self, account_id: str, posting: Posting, refill: Refill | None = None) -> Entry | None:
        with self._run(atomic=True) as connection:
            entry = ledger.post(self._runner(connection), account_id, posting, refill, self._locked)
            if entry is not None:  # others may know it to be short
                tell(connection, [account_id], now_ms())
        return entry

    def balance(self, account_id: str, at: int, refill: Refill | None = None) -> int | None:
        with self._database.driver() as driver:
            run = ledger.runner(driver.execute, self._database.dialect)
            balance, is_settled = ledger.balance_if_settled(run, account_id, at, refill)
        if is_settled:
            return balance
        with self._database.transaction() as driver:
            run = ledger.runner(driver.execute, self._database.dialect)
            return ledger.settle(run, account_id, at, refill, self._locked)

    def lots(self, account_id: str) -> Sequence[Lot]:
        with self._database.driver() as driver:
            return ledger.lots(ledger.runner(driver.execute, self._database.dialect), account_id)

    def entries(
        self,
        account_id: str,
        where: EntryWhere = ALL_ENTRIES,
        limit: int = DEFAULT_LIMIT,
        before: int | None = None,
    ) -> Sequence[Entry]:
        with self._database.driver() as driver:
            run = ledger.runner(driver.execute, self._database.dialect)
            return ledger.entries(run, account_id, where, limit, before)

    def audit_entries(self, after: EntryPlace | None, limit: int) -> Audited[EntryPlace]:
        with self._database.driver() as driver:
            run = ledger.runner(driver.execute, self._database.dialect)
            return ledger.audit_entries(run, after, limit)

    def audit_balances(self, after: str | None, limit: int) -> Audited[str]:
        with self._database.driver() as driver:
            run = ledger.runner(driver.execute, self._database.dialect)
            return ledger.audit_balances(run, after, limit)

    def _runner(self, connection: sa.Connection) -> ledger.Run:
        """What runs the ledger's statements on a connection of SQLAlchemy's."""
        return ledger.runner(
            lambda statement, values: connection.exec_driver_sql(statement, tuple(values)),
            self._database.dialect,
        )

    def add_keys(
        self,
        added: Sequence[ApiKey],
        max_keys: int | None = None,
        issued_at: int | None = None,
    ) -> Outcome:
        with self._run(atomic=True) as connection:
            return keys.add(connection, added, max_keys, issued_at)

    def key(self, key_id: str) -> ApiKey | None:
        found = self._select_keys(sa.select(KEYS).where(KEYS.c.id == key_id))
        return found[0] if found else None

    def keys(
        self,
        account_id: str | None = None,
        limit: int = DEFAULT_LIMIT,
        after: Place | None = None,
    ) -> Sequence[ApiKey]:
        select = _page(KEYS, limit, after)
        if account_id is not None:
            select = select.where(KEYS.c.account_id == account_id)
        return self._select_keys(select)

    def _select_keys(self, select: sa.Select[Any]) -> list[ApiKey]:
        with self._run() as connection:
            return [key_of(row) for row in connection.execute(select)]

    def active_keys(self, account_id: str, now: int) -> KeyCount:
        with self._run() as connection:
            return keys.count(connection, account_id, now)

    def revoke(
        self,
        key_id: str,
        at: int,
        descendants: bool = False,
        by: str | None = None,
        issued_at: int | None = None,
    ) -> Revocation:
        with self._run(atomic=True) as connection:
            return keys.revoke(
                connection, key_id, at, descendants=descendants, by=by, issued_at=issued_at
            )

    def replace(  # noqa: PLR0917  # one's own may be called by place alone
        self,
        key_id: str,
        successor: ApiKey,
        retires_at: int,
        max_keys: int | None = None,
        by: str | None = None,
        issued_at: int | None = None,
    ) -> Outcome:
        with self._run(atomic=True) as connection:
            return keys.replace(
                connection,
                key_id,
                successor,
                retires_at,
                max_keys=max_keys,
                by=by,
                issued_at=issued_at,
            )

    def edit_key(self, key_id: str, edit: Edit) -> Outcome:
        with self._run(atomic=True) as connection:
            return keys.edit(connection, key_id, edit)

    def key_events(self, key_id: str) -> Sequence[KeyEvent]:
        with self._run() as connection:
            return key_events.listed(connection, key_id)

    def outlines(
        self, account_id: str, limit: int, among: Sequence[str] | None = None
    ) -> Sequence[Outline]:
        return key_events.outlines(self._database, account_id, limit, among)

    def set_key_limits(self, key_id: str, limits: tuple[Limit, ...] | None) -> bool:
        return self._change(KEYS, key_id, limits=format_limits(limits))

    def refingerprint(
        self, key_id: str, fingerprint: str, pepper_id: str, proof: str | None
    ) -> None:
        update = sa.update(KEYS).where(KEYS.c.id == key_id)
        values = {"fingerprint": fingerprint, "pepper_id": pepper_id, "proof": proof}
        with self._run() as connection:
            connection.execute(update.values(values))

    def record_proofs(self, proofs: Sequence[Proved]) -> None:
        if proofs:
            with self._run(atomic=True) as connection:
                record_proofs(connection, proofs)

    def find_link(self, issuer: str, subject: str, month: str) -> FoundLink | None:
        return find_link(self._database, issuer, subject, month)

    def add_link(
        self, link: Link, account: Account | None = None, at_most: int | None = None
    ) -> LinkOutcome:
        with self._run(atomic=True) as connection:
            outcome = links.add(connection, link, account, at_most)
            if outcome == "done" and account is not None:
                self._open_ledger(connection, account)
        return outcome

    def link(self, link_id: str) -> Link | None:
        with self._run() as connection:
            return keys.read_link(connection, link_id)

    def links(self, account_id: str | None = None, subject: str | None = None) -> Sequence[Link]:
        with self._run() as connection:
            return links.listed(connection, account_id, subject)

    def end_link(self, link_id: str, at: int) -> bool:
        with self._run(atomic=True) as connection:
            return links.change(connection, link_id, ended_at=at)

    def revoke_sessions(self, link_id: str, before: int) -> bool:
        with self._run(atomic=True) as connection:
            return links.change(connection, link_id, revoked_before=before)

    def add_usage(
        self,
        month: str,
        increments: Mapping[str, int],
        batch: Batch | None = None,
        used: Mapping[str, int] | None = None,
    ) -> Mapping[str, int]:
        now, dialect = now_ms(), self._database.dialect
        with self._database.transaction() as driver:
            totals = add_counts(driver, dialect, month, increments, batch=batch, now=now)
            if used:
                touch(driver, dialect, used)
        self._forget(now)
        return totals

    def _forget(self, now: int) -> None:
        """Delete what nobody will ask about any more."""
        if monotonic() >= self._forget_at:
            self._forget_at = monotonic() + FORGET_INTERVAL
            with self._run(atomic=True) as connection:
                forget_batches(connection, now)

    def bind(self, name: str, account_id: str, now: int, ends_at: int) -> str:
        with self._run(atomic=True) as connection:
            return bind(connection, name, account_id, now, ends_at)

    def bound(self, name: str, now: int) -> str | None:
        with self._run() as connection:
            return bound(connection, name, now)

    def add_activity(self, rows: Sequence[Activity], batch: Batch | None = None) -> None:
        if not rows:
            return
        dialect = self._database.dialect
        with self._database.transaction() as driver:
            if batch is not None and not note(driver, dialect, batch, now_ms()):
                return  # it has been added before
            known = adding.add(driver, dialect, storable_rows(rows), self._subjects)
        self._subjects.remember(known)
        self._added += len(rows)
        self._settle_if_due()

    def _settle_if_due(self) -> None:
        now = monotonic()
        if now >= self._fold_at:
            self._fold_at = now + folding.INTERVAL
            self.fold_activity()
        elif self._added >= settling.MOST or now >= self._settle_at:
            self.settle_activity()

    def settle_activity(self) -> None:
        """Have rows that are fresh found by index, and in totals of minutes."""
        self._settle_at, self._added = monotonic() + settling.INTERVAL, 0
        settled = settling.MOST
        while settled == settling.MOST:
            with self._database.transaction() as driver:
                settled = settling.settle(driver, self._database.dialect)

    def fold_activity(self) -> None:
        """Have rows that are fresh in totals of minutes, and those in the totals of hours."""
        self.settle_activity()
        folded = folding.PORTION
        while folded == folding.PORTION:
            with self._database.transaction() as driver:
                folded = folding.fold(driver, self._database.dialect)

    def activity(
        self, account_id: str, where: Where, limit: int = DEFAULT_LIMIT, after: Place | None = None
    ) -> Sequence[Activity]:
        with self._database.driver() as driver:
            return pages.page(
                driver, self._database.dialect, account_id, where, limit=limit, after=after
            )

    def count_activity(self, account_id: str, where: Where, at_most: int) -> int:
        with self._database.driver() as driver:
            return pages.count(driver, self._database.dialect, account_id, where, at_most)

    def activity_totals(
        self,
        account_id: str,
        where: Where,
        step: int,
        group: Group | None,
        at_most: int,
        *,
        durations: bool = True,
    ) -> Sequence[Total]:
        with self._database.driver() as driver:
            return totals.totals(
                driver,
                self._database.dialect,
                account_id,
                where,
                step=step,
                group=group,
                at_most=at_most,
                durations=durations,
            )

    def activity_ranks(
        self, account_id: str, where: Where, spans: Sequence[Span], group: Group, at_most: int
    ) -> Sequence[tuple[str, int]]:
        dialect = self._database.dialect
        with self._database.driver() as driver:
            return ranks.ranks(
                driver, dialect, account_id, where, spans, group=group, at_most=at_most
            )

    def days_of_keys(
        self, account_id: str, key_ids: Sequence[str], since: int, until: int
    ) -> Sequence[DayOfKey]:
        dialect = self._database.dialect
        with self._database.driver() as driver:
            return totals.days_of_keys(driver, dialect, account_id, key_ids, (since, until))

    def forget_activity(
        self, before_rows: int, before_minutes: int, before_hours: int, at_most: int
    ) -> int:
        self._settle_if_due()  # nothing else does, once no more rows come
        with self._database.transaction() as driver:
            return forgetting.forget(
                driver,
                self._database.dialect,
                before_rows=before_rows,
                before_minutes=before_minutes,
                before_hours=before_hours,
                at_most=at_most,
            )

    def usage(self, subject: str, month: str) -> int:
        select = sa.select(USAGE.c.counted).where(
            USAGE.c.subject == subject, USAGE.c.month == month
        )
        with self._run() as connection:
            return connection.execute(select).scalar() or 0

    def overage(self, account_id: str, month: str, quota: int) -> int:
        prefix = sa.literal(key_subject(""))
        of_keys = sa.select(prefix + KEYS.c.lineage).where(KEYS.c.account_id == account_id)
        of_links = sa.select(prefix + LINKS.c.id).where(LINKS.c.account_id == account_id)
        above = sa.select(sa.func.sum(USAGE.c.counted - quota)).where(
            USAGE.c.month == month,
            USAGE.c.counted > quota,
            USAGE.c.subject.in_(of_keys.union(of_links)),
        )
        with self._run() as connection:
            return int(connection.execute(above).scalar() or 0)

    def peppers(self, now: int) -> Mapping[str, int]:
        select = (
            sa.select(KEYS.c.pepper_id, sa.func.count())
            .where(keys.is_active(now))
            .group_by(KEYS.c.pepper_id)
        )
        with self._run() as connection:
            return {row[0]: row[1] for row in connection.execute(select)}

    def close(self) -> None:
        self._database.close()

    def _change(self, table: sa.Table, row_id: str, **values: Any) -> bool:
        """Update an account or a key, and tell of it, in one step; False where there is none."""
        owner = table.c.id if table is ACCOUNTS else table.c.account_id
        update = sa.update(table).where(table.c.id == row_id).values(values).returning(owner)
        with self._run(atomic=True) as connection:
            account_id = connection.execute(update).scalar_one_or_none()
            if account_id is not None:
                tell(connection, [account_id], now_ms())
        return account_id is not None


def _page(table: sa.Table, limit: int, after: Place | None) -> sa.Select[Any]:
    """The rows after a place, in the order of their age."""
    order = (table.c.created_at, table.c.id)
    select = sa.select(table).order_by(*order).limit(limit)
    if after is not None:
        select = select.where(sa.tuple_(*order) > sa.tuple_(*after))
    return select
