"""The tables of store and ledger, how they come to be, and how older ones are upgraded."""

from __future__ import annotations

from importlib.resources import files

import sqlalchemy as sa

from keyrush.errors import ConfigurationError

#: The version of the tables below; recorded in the database, so that they can be upgraded.
SCHEMA = 7


_PREPARE_LOCK = 0x6B657972757368  # "keyrush": the advisory lock while tables are made

_metadata = sa.MetaData()

META = sa.Table(
    "keyrush_meta",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(255), nullable=False),
)

ACCOUNTS = sa.Table(
    "keyrush_accounts",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("plan", sa.String(64), nullable=False),
    sa.Column("limits", sa.Text),
    sa.Column("balance", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.CheckConstraint("balance >= 0", name="keyrush_balance_not_negative"),
    sa.Index("ix_keyrush_accounts_by_age", "created_at", "id"),
)

KEYS = sa.Table(
    "keyrush_keys",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("account_id", sa.ForeignKey(ACCOUNTS.c.id), nullable=False),
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
    sa.Column("retires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("created_by", sa.String(64)),
    sa.Column("proof", sa.String(64)),
    sa.Index("ix_keyrush_keys_of_account", "account_id", "created_at", "id"),
    sa.Index("ix_keyrush_keys_by_age", "created_at", "id"),
    sa.Index("ix_keyrush_keys_created_by", "created_by"),
)

#: Whom issuers of tokens know, and for which account each acts; those that have ended stay, with
#: what was counted of them.
LINKS = sa.Table(
    "keyrush_links",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("account_id", sa.ForeignKey(ACCOUNTS.c.id), nullable=False),
    sa.Column("issuer", sa.String(255), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("revoked_before", sa.BigInteger),
    sa.Column("ended_at", sa.BigInteger),
    sa.Index("ix_keyrush_links_of_account", "account_id", "created_at", "id"),
    sa.Index("ix_keyrush_links_by_subject", "subject", "issuer"),
    sa.Index("ix_keyrush_links_by_age", "issuer", "created_at"),
)

#: One account for each subject, whoever adds links at the same time.
sa.Index(
    "ux_keyrush_links",
    LINKS.c.issuer,
    LINKS.c.subject,
    unique=True,
    sqlite_where=LINKS.c.ended_at.is_(None),
    postgresql_where=LINKS.c.ended_at.is_(None),
)

#: Before schema 3, which has a wider one.
_OLD_INDEX = "ix_keyrush_keys_account_id"

USAGE = sa.Table(
    "keyrush_usage",
    _metadata,
    sa.Column("subject", sa.String(80), primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("counted", sa.BigInteger, nullable=False),
)

#: What accounts were charged in the last day, so that each charge can be reversed, once. Where a
#: reversal has come before its charge, a row of no account and no credits says so.
CHARGES = sa.Table(
    "keyrush_charges",
    _metadata,
    sa.Column("reference", sa.String(80), primary_key=True),
    sa.Column("account_id", sa.String(64), nullable=False),
    sa.Column("credits", sa.BigInteger, nullable=False),
    sa.Column("charged_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("reversed_at", sa.BigInteger),
)

#: Which batch of counts each process has added last, so that none is added twice.
BATCHES = sa.Table(
    "keyrush_batches",
    _metadata,
    sa.Column("worker", sa.String(80), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("added_at", sa.BigInteger, nullable=False, index=True),
)

#: Which account has opened a session of an MCP server, by the hash of its id.
BINDINGS = sa.Table(
    "keyrush_bindings",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("account_id", sa.String(64), nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=False, index=True),
    sa.Index("ix_keyrush_bindings_of_account", "account_id", "ends_at"),
)

#: Accounts of which a key, the plan or limits have changed, in the order of `mark`.
CHANGES = sa.Table(
    "keyrush_changes",
    _metadata,
    sa.Column("mark", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("account_id", sa.String(64), nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False, index=True),
)

#: Counters of windows (see `keyrush.core.sliding`), on PostgreSQL.
WINDOWS = sa.Table(
    "keyrush_windows",
    _metadata,
    sa.Column("key", sa.String(120), primary_key=True),
    sa.Column("period", sa.BigInteger, nullable=False),
    sa.Column("current", sa.BigInteger, nullable=False),
    sa.Column("previous", sa.BigInteger, nullable=False),
    sa.Column("idle_at", sa.BigInteger, nullable=False, index=True),
)

#: Processes that count in these windows, on PostgreSQL.
WORKERS = sa.Table(
    "keyrush_workers",
    _metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
)

#: Processes that hold slots, on PostgreSQL, and how many each holds of each subject.
SLOT_WORKERS = sa.Table(
    "keyrush_slot_workers",
    _metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
)

SLOTS = sa.Table(
    "keyrush_slots",
    _metadata,
    sa.Column("key", sa.String(120), primary_key=True),
    sa.Column(
        "worker",
        sa.ForeignKey(SLOT_WORKERS.c.id, ondelete="CASCADE"),
        primary_key=True,
        index=True,
    ),
    sa.Column("slots", sa.BigInteger, nullable=False),
)

#: What several machines need to share, and a file can't do.
SHARED = (WINDOWS, WORKERS, SLOT_WORKERS, SLOTS)


def prepare(engine: sa.Engine) -> None:
    """Make the tables where there are none, and upgrade those of an older keyrush, whose data
    they keep; processes that do so together don't collide.

    Raises:
        ConfigurationError: They were made by a newer keyrush.
        SQLAlchemyError: The database can't be read or written.
    """
    with engine.begin() as connection:
        if _version(connection) == SCHEMA:
            return
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_PREPARE_LOCK)))
        found = _version(connection)  # once more: another process may have done it meanwhile
        if found != SCHEMA:
            _make(connection, found)


def _make(connection: sa.Connection, found: int | None) -> None:
    is_older = sa.inspect(connection).has_table(KEYS.name)
    is_postgresql = connection.dialect.name == "postgresql"
    tables = [table for table in _metadata.sorted_tables if is_postgresql or table not in SHARED]
    _metadata.create_all(connection, tables)  # what is missing; 2, 4, 6 and 7 only add tables
    if is_older and not is_postgresql:
        _metadata.drop_all(connection, SHARED)  # before 5 windows were counted here, too
    if is_older:
        _complete(connection)
    if connection.dialect.name == "postgresql":
        functions = files("keyrush.sql").joinpath("functions.sql").read_text("utf-8")
        # As it stands: a "%" in it is no placeholder.
        connection.exec_driver_sql(functions, execution_options={"no_parameters": True})
    if found is None:
        connection.execute(sa.insert(META).values(name="schema", value=str(SCHEMA)))
    else:
        update = sa.update(META).where(META.c.name == "schema")
        connection.execute(update.values(value=str(SCHEMA)))


def _complete(connection: sa.Connection) -> None:
    """Give older tables the column and the indexes that 3 has added, and the column of 5."""
    columns = {column["name"] for column in sa.inspect(connection).get_columns(KEYS.name)}
    for added in (KEYS.c.created_by.name, KEYS.c.proof.name):
        if added not in columns:
            connection.exec_driver_sql(f"ALTER TABLE {KEYS.name} ADD COLUMN {added} VARCHAR(64)")
    for index in (*ACCOUNTS.indexes, *KEYS.indexes):
        index.create(connection, checkfirst=True)
    connection.exec_driver_sql(f"DROP INDEX IF EXISTS {_OLD_INDEX}")


def _version(connection: sa.Connection) -> int | None:
    """The recorded version of the tables, None where there are none yet."""
    if not sa.inspect(connection).has_table(META.name):
        return None
    # A write that changes nothing: a database that can't be written is found out here.
    same = sa.update(META).values(value=META.c.value).where(META.c.name == "schema")
    found = connection.execute(same.returning(META.c.value)).scalar()
    if found is None:
        return None
    if not found.isdecimal() or int(found) > SCHEMA:
        raise ConfigurationError(
            f"KEYRUSH_STORE_URL: the database has schema {found}, this keyrush knows "
            f"{SCHEMA}; upgrade keyrush"
        )
    return int(found)
