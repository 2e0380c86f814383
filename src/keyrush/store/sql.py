"""The store in a SQL database, by synchronous SQLAlchemy Core: SQLite in WAL mode, PostgreSQL.

Every statement that can is a single one in autocommit, so that it is atomic by itself; the
few that can't run in a transaction that takes the write lock at its beginning.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from keyrush.core.identity import Found, account_subject, key_subject
from keyrush.core.model import Account, ApiKey, Limit
from keyrush.core.news import Feed
from keyrush.core.notation import format_limits, parse_limits
from keyrush.core.paging import DEFAULT_LIMIT, Place
from keyrush.core.urls import readable
from keyrush.errors import ConfigurationError
from keyrush.runtime.clock import now_ms
from keyrush.runtime.forks import after_fork
from keyrush.sql.changes import PostgresqlFeed, SqliteFeed, tell
from keyrush.sql.engine import cannot_open, make_engine, parse_url
from keyrush.sql.schema import ACCOUNTS, KEYS, USAGE, prepare
from keyrush.sql.states import told
from keyrush.store import keys
from keyrush.store.counts import FORGET_INTERVAL, add_counts, forget_batches, insert_into
from keyrush.store.credits import change_balance, charge, forget_charges, reverse
from keyrush.store.decisions import KeyCount, Outcome, Revocation
from keyrush.store.protocol import Batch, Usage
from keyrush.store.rows import key_of

_of_key = USAGE.alias("of_key")
_of_account = USAGE.alias("of_account")

_FIND = (
    sa.select(
        *KEYS.c,
        ACCOUNTS.c.plan,
        ACCOUNTS.c.limits.label("account_limits"),
        ACCOUNTS.c.balance,
        ACCOUNTS.c.created_at.label("account_created_at"),
        sa.func.coalesce(_of_key.c.counted, 0).label("key_count"),
        sa.func.coalesce(_of_account.c.counted, 0).label("account_count"),
    )
    .join(ACCOUNTS, ACCOUNTS.c.id == KEYS.c.account_id)
    .outerjoin(
        _of_key,
        (_of_key.c.subject == sa.literal(key_subject("")) + KEYS.c.lineage)
        & (_of_key.c.month == sa.bindparam("month")),
    )
    .outerjoin(
        _of_account,
        (_of_account.c.subject == sa.literal(account_subject("")) + KEYS.c.account_id)
        & (_of_account.c.month == sa.bindparam("month")),
    )
    .where(KEYS.c.fingerprint.in_(sa.bindparam("fingerprints", expanding=True)))
    .limit(1)
)


class SqlStore:
    """A store at a SQLAlchemy URL, as in `sqlite:///keyrush.db` or `postgresql://…`.

    Opening makes the tables where there are none; processes that start together don't
    collide.

    Raises:
        ConfigurationError: The URL is wrong, its driver is missing, the database can't be
            opened or written, or it was made by a newer keyrush.
    """

    def __init__(self, url: str) -> None:
        parsed = parse_url(url)
        try:
            self._engine = make_engine(parsed)
            try:
                prepare(self._engine)
            finally:
                # Nothing open may be carried across a fork; connections come with the first use.
                self._engine.dispose()
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"KEYRUSH_STORE_URL: {readable(url)} needs the module {error.name!r}; "
                "for PostgreSQL: pip install 'keyrush[postgres]'"
            ) from error
        except ImportError as error:  # psycopg is there, what it works with is not
            raise ConfigurationError(
                f"KEYRUSH_STORE_URL: {readable(url)} needs libpq, PostgreSQL's own library; "
                "it comes with pip install 'keyrush[postgres]'"
            ) from error
        except ConfigurationError:
            raise
        except (SQLAlchemyError, ValueError, TypeError) as error:
            raise cannot_open(url, parsed, error)  # noqa: B904  # it has the cause that may be shown
        self._forget_at = 0  # when to look for batches of workers that are no longer
        self._charges = 0  # rows of charges since the last look for those that can be forgotten
        self._each = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        after_fork(self._forget_connections)
        weakref.finalize(self, self._engine.dispose)

    @property
    def engine(self) -> sa.Engine:
        """What the store works through, for others that keep something in the same database.

        Its connections are closed with the store; none is carried across a fork.
        """
        return self._engine

    def feed(self) -> Feed:
        """News of what any process, this one too, changes in the database."""
        is_postgresql = self._engine.dialect.name == "postgresql"
        return PostgresqlFeed(self._each) if is_postgresql else SqliteFeed(self._each)

    def _forget_connections(self) -> None:
        self._engine.dispose(close=False)

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
        with self._run() as connection:
            row = connection.execute(
                _FIND, {"fingerprints": list(fingerprints), "month": month}
            ).one_or_none()
        if row is None:
            return None
        account = Account(
            row.account_id,
            row.plan,
            row.account_created_at,
            row.balance,
            parse_limits(row.account_limits),
        )
        return Found(key_of(row), account, row.key_count, row.account_count)

    def add_account(self, account: Account) -> bool:
        values = {
            "id": account.id,
            "plan": account.plan,
            "limits": format_limits(account.limits),
            "balance": account.balance,
            "created_at": account.created_at,
        }
        insert = insert_into(ACCOUNTS, self._engine.dialect.name).values(values)
        with self._run() as connection:
            # Not by rowcount, which PostgreSQL's driver does not give for an INSERT.
            added = connection.execute(
                insert.on_conflict_do_nothing().returning(ACCOUNTS.c.id)
            ).scalar()
        return added is not None

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
        return [
            Account(row.id, row.plan, row.created_at, row.balance, parse_limits(row.limits))
            for row in rows
        ]

    def set_plan(self, account_id: str, plan: str) -> bool:
        return self._change(ACCOUNTS, account_id, plan=plan)

    def set_account_limits(self, account_id: str, limits: tuple[Limit, ...] | None) -> bool:
        return self._change(ACCOUNTS, account_id, limits=format_limits(limits))

    def grant(self, account_id: str, credits: int) -> int | None:
        with self._run(atomic=True) as connection:
            balance = change_balance(connection, account_id, credits)
            if balance is not None:  # others may know it to be short
                tell(connection, [account_id], now_ms())
        return balance

    def charge(self, account_id: str, credits: int, reference: str) -> int | None:
        # Not in autocommit: a server that was frozen would carry out later what it was told, and
        # charge for a request that has long been refused. What is not committed it undoes.
        with self._run(atomic=True) as connection:
            balance = charge(connection, account_id, credits, reference, now_ms())
        self._charges += 1
        return balance

    def reverse(self, reference: str) -> int | None:
        # Not told of: what was given back is asked for again soon enough, and each time to have
        # all keys of the account looked up anew would cost more.
        with self._run(atomic=True) as connection:
            balance = reverse(connection, reference, now_ms())
        self._charges += 1  # it may have left a row, too
        return balance

    def add_key(self, key: ApiKey, max_keys: int | None = None) -> Outcome:
        with self._run(atomic=True) as connection:
            return keys.add(connection, key, max_keys)

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
        self, key_id: str, at: int, descendants: bool = False, by: str | None = None
    ) -> Revocation:
        with self._run(atomic=True) as connection:
            return keys.revoke(connection, key_id, at, descendants=descendants, by=by)

    def replace(
        self,
        key_id: str,
        successor: ApiKey,
        retires_at: int,
        max_keys: int | None = None,
        by: str | None = None,
    ) -> Outcome:
        with self._run(atomic=True) as connection:
            return keys.replace(connection, key_id, successor, retires_at, max_keys=max_keys, by=by)

    def set_key_limits(self, key_id: str, limits: tuple[Limit, ...] | None) -> bool:
        return self._change(KEYS, key_id, limits=format_limits(limits))

    def refingerprint(self, key_id: str, fingerprint: str, pepper_id: str) -> None:
        update = sa.update(KEYS).where(KEYS.c.id == key_id)
        with self._run() as connection:
            connection.execute(update.values(fingerprint=fingerprint, pepper_id=pepper_id))

    def touch(self, used: Mapping[str, int]) -> None:
        earlier = KEYS.c.last_used_at.is_(None) | (KEYS.c.last_used_at < sa.bindparam("at"))
        update = (
            sa.update(KEYS)
            .where(KEYS.c.id == sa.bindparam("key_id"), earlier)
            .values(last_used_at=sa.bindparam("at"))
        )
        # In one order everywhere, so that two processes never wait for each other.
        rows = [{"key_id": key_id, "at": at} for key_id, at in sorted(used.items())]
        if not rows:
            return
        with self._run(atomic=True) as connection:
            connection.execute(update, rows)

    def add_usage(self, increments: Usage, batch: Batch | None = None) -> Usage:
        now = now_ms()
        with self._run(atomic=True) as connection:
            totals = add_counts(connection, increments, batch, now)
            if came := self._charges:
                # More than came, so that those that count no more never pile up.
                self._charges = 0
                forget_charges(connection, now, 2 * came)
            if batch is not None and now >= self._forget_at:
                forget_batches(connection, now)
                self._forget_at = now + FORGET_INTERVAL
        return totals

    def usage(self, subject: str, month: str) -> int:
        select = sa.select(USAGE.c.counted).where(
            USAGE.c.subject == subject, USAGE.c.month == month
        )
        with self._run() as connection:
            return connection.execute(select).scalar() or 0

    def overage(self, account_id: str, month: str, quota: int) -> int:
        lineages = sa.select(sa.literal(key_subject("")) + KEYS.c.lineage)
        above = sa.select(sa.func.sum(USAGE.c.counted - quota)).where(
            USAGE.c.month == month,
            USAGE.c.counted > quota,
            USAGE.c.subject.in_(lineages.where(KEYS.c.account_id == account_id)),
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
        self._engine.dispose()

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
