"""The store in a SQL database, by synchronous SQLAlchemy Core: SQLite in WAL mode, PostgreSQL.

Every statement that can is a single one in autocommit, so that it is atomic by itself; the
few that can't run in a transaction that takes the write lock at its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from keyrush.errors import ConfigurationError, StoreError
from keyrush.forks import after_fork
from keyrush.notation import format_limits, parse_limits
from keyrush.model import Account, ApiKey, Found, Limit
from keyrush.store import Usage, account_subject, key_subject

#: The version of the tables below; recorded in the database, so that they can be upgraded.
SCHEMA = 1

_BUSY_TIMEOUT = 5  # seconds that SQLite waits for another process's write
_PREPARE_LOCK = 0x6B657972757368  # "keyrush": the advisory lock while tables are made

_metadata = sa.MetaData()

_meta = sa.Table(
    "keyrush_meta",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(255), nullable=False),
)

_accounts = sa.Table(
    "keyrush_accounts",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("plan", sa.String(64), nullable=False),
    sa.Column("limits", sa.Text),
    sa.Column("balance", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.CheckConstraint("balance >= 0", name="keyrush_balance_not_negative"),
)

_keys = sa.Table(
    "keyrush_keys",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("account_id", sa.ForeignKey(_accounts.c.id), nullable=False, index=True),
    sa.Column("lineage", sa.String(64), nullable=False),
    sa.Column("name", sa.String(120), nullable=False),
    sa.Column("prefix", sa.String(64), nullable=False),
    sa.Column("environment", sa.String(32)),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("limits", sa.Text),
    sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
    sa.Column("hash", sa.String(255), nullable=False),
    sa.Column("pepper_id", sa.String(16), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("last_used_at", sa.BigInteger),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
)

_usage = sa.Table(
    "keyrush_usage",
    _metadata,
    sa.Column("subject", sa.String(80), primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("counted", sa.BigInteger, nullable=False),
)

_of_key = _usage.alias("of_key")
_of_account = _usage.alias("of_account")

_FIND = (
    sa.select(
        *_keys.c,
        _accounts.c.plan,
        _accounts.c.limits.label("account_limits"),
        _accounts.c.balance,
        _accounts.c.created_at.label("account_created_at"),
        sa.func.coalesce(_of_key.c.counted, 0).label("key_count"),
        sa.func.coalesce(_of_account.c.counted, 0).label("account_count"),
    )
    .join(_accounts, _accounts.c.id == _keys.c.account_id)
    .outerjoin(
        _of_key,
        (_of_key.c.subject == sa.literal(key_subject("")) + _keys.c.lineage)
        & (_of_key.c.month == sa.bindparam("month")),
    )
    .outerjoin(
        _of_account,
        (_of_account.c.subject == sa.literal(account_subject("")) + _keys.c.account_id)
        & (_of_account.c.month == sa.bindparam("month")),
    )
    .where(_keys.c.fingerprint.in_(sa.bindparam("fingerprints", expanding=True)))
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
        self._url = _parse(url)
        shown = self._url.set(query={}).render_as_string(hide_password=True)
        try:
            self._engine = _engine(self._url)
            self._prepare()
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"KEYRUSH_STORE_URL: {shown} needs the module {error.name!r}; "
                "for PostgreSQL: pip install 'keyrush[postgres]'"
            ) from error
        except SQLAlchemyError as error:
            raise ConfigurationError(_cannot_open(self._url, shown, error)) from error
        self._each = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        # Nothing open may be carried across a fork; connections come with the first use.
        self._engine.dispose()
        after_fork(self._forget_connections)

    def _forget_connections(self) -> None:
        self._engine.dispose(close=False)

    def _prepare(self) -> None:
        if self._version() == SCHEMA:
            return
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_PREPARE_LOCK)))
            _metadata.create_all(connection)
            if connection.execute(sa.select(_meta.c.value)).scalar() is None:
                connection.execute(sa.insert(_meta).values(name="schema", value=str(SCHEMA)))

    def _version(self) -> int | None:
        """The recorded version of the tables, None where there are none yet."""
        with self._engine.begin() as connection:
            if not sa.inspect(connection).has_table(_meta.name):
                return None
            # A write that changes nothing: a database that can't be written is found out here.
            same = sa.update(_meta).values(value=_meta.c.value).where(_meta.c.name == "schema")
            found = connection.execute(same.returning(_meta.c.value)).scalar()
        if found is None:
            return None
        if not found.isdecimal() or int(found) > SCHEMA:
            raise ConfigurationError(
                f"KEYRUSH_STORE_URL: the database has schema {found}, this keyrush knows "
                f"{SCHEMA}; upgrade keyrush"
            )
        return int(found)

    @contextmanager
    def _run(self, *, atomic: bool = False) -> Iterator[sa.Connection]:
        """A connection for one statement, or with `atomic` for several that hold together."""
        try:
            with self._engine.begin() if atomic else self._each.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            # Driver messages quote parameters; those of keyrush hold no key, but keep them short.
            raise StoreError(f"{type(error).__name__} from {self._engine.dialect.name}") from error

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
        return Found(_key(row), account, row.key_count, row.account_count)

    def add_account(self, account: Account) -> bool:
        values = {
            "id": account.id,
            "plan": account.plan,
            "limits": format_limits(account.limits),
            "balance": account.balance,
            "created_at": account.created_at,
        }
        insert = self._insert(_accounts).values(values).on_conflict_do_nothing()
        with self._run() as connection:
            return connection.execute(insert).rowcount == 1

    def account(self, account_id: str) -> Account | None:
        found = self._select_accounts(_accounts.c.id == account_id)
        return found[0] if found else None

    def accounts(self) -> Sequence[Account]:
        return self._select_accounts(sa.true())

    def _select_accounts(self, where: sa.ColumnElement[bool]) -> list[Account]:
        select = sa.select(_accounts).where(where).order_by(_accounts.c.created_at, _accounts.c.id)
        with self._run() as connection:
            rows = connection.execute(select).all()
        return [
            Account(row.id, row.plan, row.created_at, row.balance, parse_limits(row.limits))
            for row in rows
        ]

    def set_plan(self, account_id: str, plan: str) -> bool:
        return self._update(_accounts, account_id, plan=plan)

    def set_account_limits(self, account_id: str, limits: tuple[Limit, ...] | None) -> bool:
        return self._update(_accounts, account_id, limits=format_limits(limits))

    def grant(self, account_id: str, credits: int) -> int | None:
        return self._change_balance(account_id, credits)

    def charge(self, account_id: str, credits: int) -> int | None:
        return self._change_balance(account_id, -credits)

    def _change_balance(self, account_id: str, change: int) -> int | None:
        update = (
            sa.update(_accounts)
            .where(_accounts.c.id == account_id, _accounts.c.balance + change >= 0)
            .values(balance=_accounts.c.balance + change)
            .returning(_accounts.c.balance)
        )
        with self._run() as connection:
            return connection.execute(update).scalar_one_or_none()

    def add_key(self, key: ApiKey) -> None:
        with self._run() as connection:
            connection.execute(sa.insert(_keys).values(_row(key)))

    def key(self, key_id: str) -> ApiKey | None:
        found = self._select_keys(_keys.c.id == key_id)
        return found[0] if found else None

    def keys(self, account_id: str | None = None) -> Sequence[ApiKey]:
        return self._select_keys(
            sa.true() if account_id is None else _keys.c.account_id == account_id
        )

    def _select_keys(self, where: sa.ColumnElement[bool]) -> list[ApiKey]:
        select = sa.select(_keys).where(where).order_by(_keys.c.created_at, _keys.c.id)
        with self._run() as connection:
            return [_key(row) for row in connection.execute(select)]

    def revoke(self, key_id: str, at: int) -> bool:
        return self._update(_keys, key_id, revoked_at=sa.func.coalesce(_keys.c.revoked_at, at))

    def replace(self, key_id: str, successor: ApiKey, expires_at: int) -> bool:
        ends = sa.case((_keys.c.expires_at < expires_at, _keys.c.expires_at), else_=expires_at)
        update = (
            sa.update(_keys)
            .where(_keys.c.id == key_id, _keys.c.revoked_at.is_(None))
            .values(expires_at=ends)
        )
        with self._run(atomic=True) as connection:
            if connection.execute(update).rowcount != 1:
                return False
            connection.execute(sa.insert(_keys).values(_row(successor)))
        return True

    def set_key_limits(self, key_id: str, limits: tuple[Limit, ...] | None) -> bool:
        return self._update(_keys, key_id, limits=format_limits(limits))

    def refingerprint(self, key_id: str, fingerprint: str, pepper_id: str) -> None:
        self._update(_keys, key_id, fingerprint=fingerprint, pepper_id=pepper_id)

    def touch(self, used: Mapping[str, int]) -> None:
        earlier = _keys.c.last_used_at.is_(None) | (_keys.c.last_used_at < sa.bindparam("at"))
        update = (
            sa.update(_keys)
            .where(_keys.c.id == sa.bindparam("key_id"), earlier)
            .values(last_used_at=sa.bindparam("at"))
        )
        # In one order everywhere, so that two processes never wait for each other.
        rows = [{"key_id": key_id, "at": at} for key_id, at in sorted(used.items())]
        if not rows:
            return
        with self._run(atomic=True) as connection:
            connection.execute(update, rows)

    def add_usage(self, increments: Usage) -> Usage:
        insert = self._insert(_usage)
        upsert = insert.on_conflict_do_update(
            index_elements=[_usage.c.subject, _usage.c.month],
            set_={"counted": _usage.c.counted + insert.excluded.counted},
        )
        rows = [
            {"subject": subject, "month": month, "counted": increment}
            for (subject, month), increment in sorted(increments.items())
        ]
        totals: dict[tuple[str, str], int] = {}
        with self._run(atomic=True) as connection:
            for batch in _batches(rows):
                returned = connection.execute(upsert.values(batch).returning(_usage))
                totals.update({(row.subject, row.month): row.counted for row in returned})
        return totals

    def usage(self, subject: str, month: str) -> int:
        select = sa.select(_usage.c.counted).where(
            _usage.c.subject == subject, _usage.c.month == month
        )
        with self._run() as connection:
            return connection.execute(select).scalar() or 0

    def peppers(self, now: int) -> Mapping[str, int]:
        active = _keys.c.revoked_at.is_(None) & (
            _keys.c.expires_at.is_(None) | (_keys.c.expires_at > now)
        )
        select = (
            sa.select(_keys.c.pepper_id, sa.func.count()).where(active).group_by(_keys.c.pepper_id)
        )
        with self._run() as connection:
            return {row[0]: row[1] for row in connection.execute(select)}

    def close(self) -> None:
        self._engine.dispose()

    def _insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT, which the two dialects spell alike."""
        if self._engine.dialect.name == "postgresql":
            return postgresql.insert(table)
        return sqlite.insert(table)

    def _update(self, table: sa.Table, row_id: str, **values: Any) -> bool:
        with self._run() as connection:
            update = sa.update(table).where(table.c.id == row_id).values(values)
            return connection.execute(update).rowcount == 1


def _key(row: Any) -> ApiKey:
    return ApiKey(
        id=row.id,
        account_id=row.account_id,
        lineage=row.lineage,
        name=row.name,
        prefix=row.prefix,
        environment=row.environment,
        scopes=tuple(row.scopes.split()),
        fingerprint=row.fingerprint,
        hash=row.hash,
        pepper_id=row.pepper_id,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        limits=parse_limits(row.limits),
    )


def _row(key: ApiKey) -> dict[str, Any]:
    row = {column.name: getattr(key, column.name) for column in _keys.c}
    return row | {"scopes": " ".join(key.scopes), "limits": format_limits(key.limits)}


def _batches(rows: list[dict[str, Any]], size: int = 1000) -> Iterator[list[dict[str, Any]]]:
    """Bounded statements: SQLite takes 32,766 parameters at most."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


# --- opening -----------------------------------------------------------------------------------


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "KEYRUSH_STORE_URL: not a database URL; write sqlite:///keyrush.db, "
            "postgresql://user:password@host/name or memory://"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(
            f"KEYRUSH_STORE_URL: {parsed.drivername!r} is not supported; "
            "use sqlite, postgresql or memory"
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise ConfigurationError(
            "KEYRUSH_STORE_URL: SQLite needs a file here; for a store in memory use memory://"
        )
    return parsed


def _engine(url: URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": _BUSY_TIMEOUT, "check_same_thread": False},
    )

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # BEGIN is sent below, not by the driver
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # At once with the write lock: a lock taken later in a transaction can deadlock.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _cannot_open(url: URL, shown: str, error: SQLAlchemyError) -> str:
    cause = str(getattr(error, "orig", None) or error).strip()
    if isinstance(error, NoSuchModuleError):
        cause = "there is no such driver"
    advice = ""
    if isinstance(error, OperationalError) and url.get_backend_name() == "sqlite":
        folder = Path(url.database or "").absolute().parent
        advice = f"; the folder {folder} must exist and be writable, the file too"
    return f"KEYRUSH_STORE_URL: can't open {shown}: {cause}{advice}"
