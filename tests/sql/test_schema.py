"""How the tables come to be: made, upgraded from those of an older keyrush, left as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from keyrush.core.identity import Found
from keyrush.core.model import Limit, Override
from keyrush.core.sliding import Window
from keyrush.errors import ConfigurationError
from keyrush.limiter.opening import open_limiter
from keyrush.runtime.clock import Clock, now_ms
from keyrush.sql import opening, patience
from keyrush.sql.engine import Database, make_engine
from keyrush.sql.schema import SCHEMA, prepare
from keyrush.sql.tables import ACCOUNTS, KEYS, WINDOWS, WORKERS
from keyrush.sql.url import parse_url
from keyrush.store.edits import Edit
from keyrush.store.opening import open_store
from keyrush.store.sql import SqlStore
from tests.support.scripts import run
from tests.support.values import MONTH, NOW, account, api_key

#: The tables as keyrush made them first.
FIRST = [
    """
    CREATE TABLE keyrush_meta (
        name VARCHAR(64) NOT NULL, value VARCHAR(255) NOT NULL, PRIMARY KEY (name)
    )
    """,
    """
    CREATE TABLE keyrush_accounts (
        id VARCHAR(64) NOT NULL, plan VARCHAR(64) NOT NULL, limits TEXT,
        balance BIGINT NOT NULL, created_at BIGINT NOT NULL, PRIMARY KEY (id),
        CONSTRAINT keyrush_balance_not_negative CHECK (balance >= 0)
    )
    """,
    """
    CREATE TABLE keyrush_keys (
        id VARCHAR(64) NOT NULL, account_id VARCHAR(64) NOT NULL, lineage VARCHAR(64) NOT NULL,
        name VARCHAR(120) NOT NULL, prefix VARCHAR(64) NOT NULL, environment VARCHAR(32),
        scopes TEXT NOT NULL, limits TEXT, fingerprint VARCHAR(64) NOT NULL,
        hash VARCHAR(255) NOT NULL, pepper_id VARCHAR(16) NOT NULL, created_at BIGINT NOT NULL,
        last_used_at BIGINT, expires_at BIGINT, retires_at BIGINT, revoked_at BIGINT,
        PRIMARY KEY (id), FOREIGN KEY(account_id) REFERENCES keyrush_accounts (id),
        UNIQUE (fingerprint)
    )
    """,
    "CREATE INDEX ix_keyrush_keys_account_id ON keyrush_keys (account_id)",
    """
    CREATE TABLE keyrush_usage (
        subject VARCHAR(80) NOT NULL, month VARCHAR(7) NOT NULL, counted BIGINT NOT NULL,
        PRIMARY KEY (subject, month)
    )
    """,
]

#: What the second keyrush had added to them.
SECOND = [
    """
    CREATE TABLE keyrush_batches (
        worker VARCHAR(80) NOT NULL, number BIGINT NOT NULL, added_at BIGINT NOT NULL,
        PRIMARY KEY (worker)
    )
    """,
    "CREATE INDEX ix_keyrush_batches_added_at ON keyrush_batches (added_at)",
    """
    CREATE TABLE keyrush_changes (
        mark {serial} NOT NULL, account_id VARCHAR(64) NOT NULL, changed_at BIGINT NOT NULL,
        PRIMARY KEY (mark)
    )
    """,
    "CREATE INDEX ix_keyrush_changes_changed_at ON keyrush_changes (changed_at)",
    """
    CREATE TABLE keyrush_windows (
        key VARCHAR(120) NOT NULL, period BIGINT NOT NULL, current BIGINT NOT NULL,
        previous BIGINT NOT NULL, idle_at BIGINT NOT NULL, PRIMARY KEY (key)
    )
    """,
    "CREATE INDEX ix_keyrush_windows_idle_at ON keyrush_windows (idle_at)",
    """
    CREATE TABLE keyrush_workers (
        id VARCHAR(80) NOT NULL, seen_at BIGINT NOT NULL, PRIMARY KEY (id)
    )
    """,
    "UPDATE keyrush_meta SET value = '2'",
]

#: What the third keyrush had changed.
THIRD = [
    "ALTER TABLE keyrush_keys ADD COLUMN created_by VARCHAR(64)",
    "DROP INDEX ix_keyrush_keys_account_id",
    "CREATE INDEX ix_keyrush_accounts_by_age ON keyrush_accounts (created_at, id)",
    "CREATE INDEX ix_keyrush_keys_of_account ON keyrush_keys (account_id, created_at, id)",
    "CREATE INDEX ix_keyrush_keys_by_age ON keyrush_keys (created_at, id)",
    "CREATE INDEX ix_keyrush_keys_created_by ON keyrush_keys (created_by)",
    "UPDATE keyrush_meta SET value = '3'",
]

#: What the fourth keyrush had added.
FOURTH = [
    """
    CREATE TABLE keyrush_charges (
        reference VARCHAR(80) NOT NULL, account_id VARCHAR(64) NOT NULL, credits BIGINT NOT NULL,
        charged_at BIGINT NOT NULL, reversed_at BIGINT, PRIMARY KEY (reference)
    )
    """,
    "CREATE INDEX ix_keyrush_charges_charged_at ON keyrush_charges (charged_at)",
    "UPDATE keyrush_meta SET value = '4'",
]

FIFTH = [
    "ALTER TABLE keyrush_keys ADD COLUMN proof VARCHAR(64)",
    "UPDATE keyrush_meta SET value = '5'",
]

#: What the sixth keyrush had added.
SIXTH = [
    """
    CREATE TABLE keyrush_links (
        id VARCHAR(64) NOT NULL, account_id VARCHAR(64) NOT NULL, issuer VARCHAR(255) NOT NULL,
        subject VARCHAR(255) NOT NULL, created_at BIGINT NOT NULL, revoked_before BIGINT,
        ended_at BIGINT, PRIMARY KEY (id),
        FOREIGN KEY(account_id) REFERENCES keyrush_accounts (id)
    )
    """,
    "CREATE INDEX ix_keyrush_links_of_account ON keyrush_links (account_id, created_at, id)",
    "CREATE INDEX ix_keyrush_links_by_subject ON keyrush_links (subject, issuer)",
    "CREATE INDEX ix_keyrush_links_by_age ON keyrush_links (issuer, created_at)",
    """
    CREATE UNIQUE INDEX ux_keyrush_links ON keyrush_links (issuer, subject)
    WHERE ended_at IS NULL
    """,
    """
    CREATE TABLE keyrush_bindings (
        name VARCHAR(64) NOT NULL, account_id VARCHAR(64) NOT NULL, ends_at BIGINT NOT NULL,
        PRIMARY KEY (name)
    )
    """,
    "CREATE INDEX ix_keyrush_bindings_ends_at ON keyrush_bindings (ends_at)",
    "CREATE INDEX ix_keyrush_bindings_of_account ON keyrush_bindings (account_id, ends_at)",
    "UPDATE keyrush_meta SET value = '6'",
]

#: What was in them: an account with a key that has been used.
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("meta", {"name": "schema", "value": "1"}),
    ("accounts", {"id": "acct_a", "plan": "starter", "balance": 500, "created_at": NOW}),
    (
        "keys",
        {
            "id": "cred_a",
            "account_id": "acct_a",
            "lineage": "cred_a",
            "name": "production",
            "prefix": "kr_live_abc123...",
            "environment": "live",
            "scopes": "*",
            "fingerprint": api_key().fingerprint,
            "hash": "$argon2id$",
            "pepper_id": "p1",
            "created_at": NOW,
            "last_used_at": NOW + 1,
        },
    ),
    ("usage", {"subject": "key:cred_a", "month": MONTH, "counted": 7}),
    ("usage", {"subject": "account:acct_a", "month": MONTH, "counted": 9}),
]

WINDOW = Window("key:cred_a:60", 60_000, 2, "minute")


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """An engine on the empty database."""
    made = make_engine(parse_url(url))
    yield made
    made.dispose()


def make_first(engine: sa.Engine) -> None:
    """The tables and rows of the first keyrush."""
    with engine.begin() as connection:
        for statement in FIRST:
            connection.exec_driver_sql(statement)
        for name, row in ROWS:
            table = sa.table(f"keyrush_{name}", *map(sa.column, row))
            connection.execute(sa.insert(table).values(row))


def make_second(engine: sa.Engine) -> None:
    """The tables and rows of the second keyrush, which had come by the first one's."""
    make_first(engine)
    serial = "BIGSERIAL" if engine.dialect.name == "postgresql" else "INTEGER"
    with engine.begin() as connection:
        for statement in SECOND:
            connection.exec_driver_sql(statement.format(serial=serial))


def make_third(engine: sa.Engine) -> None:
    """The tables and rows of the third keyrush, which had come by the second one's."""
    make_second(engine)
    with engine.begin() as connection:
        for statement in THIRD:
            connection.exec_driver_sql(statement)


def make_fourth(engine: sa.Engine) -> None:
    """The tables and rows of the fourth keyrush, which had come by the third one's."""
    make_third(engine)
    with engine.begin() as connection:
        for statement in FOURTH:
            connection.exec_driver_sql(statement)


def make_fifth(engine: sa.Engine) -> None:
    """The tables and rows of the fifth keyrush, which had come by the fourth one's."""
    make_fourth(engine)
    with engine.begin() as connection:
        for statement in FIFTH:
            connection.exec_driver_sql(statement)
        if engine.dialect.name == "sqlite":
            for table in (WINDOWS.name, WORKERS.name):
                connection.exec_driver_sql(f"DROP TABLE {table}")


def make_sixth(engine: sa.Engine) -> None:
    """The tables and rows of the sixth keyrush, which had come by the fifth one's."""
    make_fifth(engine)
    with engine.begin() as connection:
        for statement in SIXTH:
            connection.exec_driver_sql(statement)


def make_seventh(engine: sa.Engine) -> None:
    """The tables and rows of the seventh keyrush: those of today, without what came after."""
    make_sixth(engine)
    prepare(engine)
    with engine.begin() as connection:
        for column in (ACCOUNTS.c.override, ACCOUNTS.c.override_until, KEYS.c.max_concurrent):
            connection.exec_driver_sql(f"ALTER TABLE {column.table.name} DROP COLUMN {column.name}")
        connection.exec_driver_sql("UPDATE keyrush_meta SET value = '7'")


OLD = [make_first, make_second, make_third, make_fourth, make_fifth, make_sixth, make_seventh]


@pytest.fixture(params=OLD, ids=["1", "2", "3", "4", "5", "6", "7"])
def make_old(request: pytest.FixtureRequest) -> Callable[[sa.Engine], None]:
    """Makes the tables of each older keyrush."""
    made: Callable[[sa.Engine], None] = request.param
    return made


def shape(engine: sa.Engine) -> dict[str, tuple[set[str], set[str]]]:
    """The columns and the indexes of every table."""
    inspector = sa.inspect(engine)
    return {
        table: (
            {column["name"] for column in inspector.get_columns(table)},
            {str(index["name"]) for index in inspector.get_indexes(table)},
        )
        for table in inspector.get_table_names()
    }


def recorded(engine: sa.Engine) -> list[tuple[str, str]]:
    with engine.begin() as connection:
        rows = connection.exec_driver_sql("SELECT name, value FROM keyrush_meta")
        return [(row[0], row[1]) for row in rows]


def tables(engine: sa.Engine) -> set[str]:
    with engine.begin() as connection:
        return set(sa.inspect(connection).get_table_names())


def test_upgrade_keeps_all_data(url: str, engine: sa.Engine) -> None:
    """What the first keyrush has written is found by this one, which adds its own tables."""
    make_first(engine)
    before = tables(engine)
    store = SqlStore(Database(url))
    assert store.find([api_key().fingerprint], MONTH) == Found(
        api_key(last_used_at=NOW + 1), account(balance=500), 7, 9
    )
    assert list(store.keys("acct_a")) == [store.key("cred_a")]
    [entry] = store.entries("acct_a")
    assert (entry.number, entry.amount, entry.reason) == (1, 500, "adjustment")
    shared = {"windows", "workers", "slots", "slot_workers"}  # by several machines
    shared = {f"keyrush_{name}" for name in shared}
    is_shared = engine.dialect.name == "postgresql"
    added = {"batches", "bindings", "changes", "key_events", "ledger", "links", "lots"}
    added |= {"portal_links", "portal_sessions", "spent_forms"}
    added |= {"activity", "activity_fresh", "activity_subjects"}
    added |= {"activity_minutes", "activity_totals"}
    added = {f"keyrush_{name}" for name in added}
    assert tables(engine) - before == (added | shared if is_shared else added)
    assert recorded(engine) == [("schema", str(SCHEMA))]
    store.close()


def test_upgraded_is_as_good_as_new(
    url: str, engine: sa.Engine, make_old: Callable[[sa.Engine], None]
) -> None:
    """In an upgraded database everything works that works in a new one, and there is no more."""
    make_old(engine)
    store = SqlStore(Database(url))
    made = api_key("cred_b", created_by="cred_a", proof="a" * 64, max_concurrent=5)
    has_shared = {WINDOWS.name, WORKERS.name} <= tables(engine)
    assert has_shared == (engine.dialect.name == "postgresql")
    assert store.add_keys([made], 9) == "done"
    assert store.key("cred_b") == made
    assert store.edit_key("cred_b", Edit(NOW, max_concurrent=6)) == "done"
    assert store.set_account_limits("acct_a", (Limit(5, 60),), NOW + 9)
    assert store.account("acct_a") == account(
        balance=500, override=Override((Limit(5, 60),), NOW + 9)
    )
    assert store.charge("acct_a", 1, "one", NOW) == 499
    assert store.reverse("acct_a", "one", NOW) == 500
    assert store.revoke("cred_a", NOW) == ("done", ["cred_a"])
    limiter = open_limiter("store", store.database, mode="exact").limiter
    taken = [limiter.take([WINDOW], 1, now_ms()).admitted for _ in range(3)]
    assert taken == [True, True, False]
    limiter.close()
    store.close()


#: Charges of the last day as the sixth keyrush kept them: reference, account, credits, when, and
#: when reversed.
CHARGES = [
    ("a2", "acct_a", 7, NOW + 5, None),
    ("a1", "acct_a", 3, NOW + 5, None),
    ("a0", "acct_a", 20, NOW + 1, None),
    ("free", "acct_a", 0, NOW + 2, None),
    ("undone", "acct_a", 9, NOW + 3, NOW + 4),
    ("early", "", 0, NOW + 3, NOW + 3),
    ("b0", "acct_b", 40, NOW + 9, None),
]


@pytest.mark.parametrize("make_with_charges", [make_fourth, make_sixth], ids=["4", "6"])
def test_balances_become_entries(
    url: str, engine: sa.Engine, make_with_charges: Callable[[sa.Engine], None]
) -> None:
    """O3, O11: of each account what it has is the sum of its entries, and what it was charged
    lately can still be given back, once.
    """
    make_with_charges(engine)
    with engine.begin() as connection:
        columns = "id", "plan", "balance", "created_at"
        accounts = sa.table("keyrush_accounts", *map(sa.column, columns))
        for account_id, balance in (("acct_b", 0), ("acct_c", 0), ("acct_d", 2**40)):
            row = dict(zip(columns, (account_id, "starter", balance, NOW), strict=True))
            connection.execute(sa.insert(accounts).values(row))
        names = "reference", "account_id", "credits", "charged_at", "reversed_at"
        table = sa.table("keyrush_charges", *map(sa.column, names))
        rows = [dict(zip(names, row, strict=True)) for row in CHARGES]
        connection.execute(sa.insert(table), rows)
    store = SqlStore(Database(url))
    found = {
        account_id: [
            (one.number, one.at, one.amount, one.balance, one.reference)
            for one in reversed(store.entries(account_id))
        ]
        for account_id in ("acct_a", "acct_b", "acct_c", "acct_d")
    }
    now = found["acct_d"][0][1]
    assert found == {
        "acct_a": [
            (1, NOW + 1, 530, 530, "opening"),
            (2, NOW + 1, -20, 510, "a0"),
            (3, NOW + 5, -3, 507, "a1"),
            (4, NOW + 5, -7, 500, "a2"),
        ],
        "acct_b": [(1, NOW + 9, 40, 40, "opening"), (2, NOW + 9, -40, 0, "b0")],
        "acct_c": [],
        "acct_d": [(1, now, 2**40, 2**40, "opening")],
    }
    assert store.reverse("acct_a", "a1", NOW + 99) == 503
    assert store.charge("acct_a", 20, "a0", NOW + 99) == 503
    assert store.reverse("acct_a", "undone", NOW + 99) is None
    assert store.charge("acct_b", 1, "new", NOW + 99) is None
    assert store.reverse("acct_b", "b0", NOW + 99) == 40
    assert store.charge("acct_d", 1, "new", NOW + 99) == 2**40 - 1
    assert store.audit_entries(None, 100).wrong == store.audit_balances(None, 100).wrong == []
    store.close()


def test_balances_are_entered_once(url: str, engine: sa.Engine) -> None:
    """O3: an upgrade that is made again enters nothing twice."""
    make_sixth(engine)
    open_store(url).store.close()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE keyrush_meta SET value = '6'")
    store = open_store(url).store
    assert [one.amount for one in store.entries("acct_a")] == [500]
    assert store.audit_balances(None, 100).wrong == []
    store.close()


def test_an_upgrade_may_take_its_time(
    bare_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O3: a statement of an upgrade may take longer than any other: there may be millions of
    accounts.
    """
    engine = make_engine(parse_url(bare_postgres_url))
    make_sixth(engine)
    monkeypatch.setattr(patience, "ANSWER", 0.05)
    monkeypatch.setattr(opening, "_CHARGES", "SELECT pg_sleep(0.5)")
    monkeypatch.setattr(opening, "_OPEN", "SELECT 1")
    with engine.begin() as connection:  # one that was made before, too
        connection.exec_driver_sql("SELECT 1")
    prepare(engine)
    assert recorded(engine) == [("schema", str(SCHEMA))]
    with pytest.raises(sa.exc.OperationalError), engine.begin() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(0.5)")
    engine.dispose()


def test_upgrade_keeps_what_a_server_counts(bare_postgres_url: str) -> None:
    """On PostgreSQL what has been counted in windows counts on after an upgrade."""
    engine = make_engine(parse_url(bare_postgres_url))
    make_fourth(engine)
    counter = {"key": WINDOW.key, "period": NOW // 60_000, "current": 1, "previous": 0}
    with engine.begin() as connection:
        connection.execute(sa.insert(WINDOWS).values(**counter, idle_at=NOW + 120_000))
    database = Database(bare_postgres_url)
    limiter = open_limiter("store", database, mode="exact", clock=Clock.of(lambda: NOW)).limiter
    assert [limiter.take([WINDOW], 1, NOW).admitted for _ in range(2)] == [True, False]
    limiter.close()
    database.close()
    engine.dispose()


def test_upgraded_has_the_shape_of_new(
    engine: sa.Engine, make_old: Callable[[sa.Engine], None]
) -> None:
    """An upgraded database has the columns and indexes of a new one, and what is in it."""
    make_old(engine)
    prepare(engine)
    upgraded = shape(engine)
    with engine.begin() as connection:
        rows = connection.exec_driver_sql("SELECT id, created_by FROM keyrush_keys").all()
        for table in sorted(upgraded, reverse=True):  # what refers to others before them
            connection.exec_driver_sql(f"DROP TABLE {table} {_cascade(engine)}")
    prepare(engine)
    assert shape(engine) == upgraded
    assert [tuple(row) for row in rows] == [("cred_a", None)]


def _cascade(engine: sa.Engine) -> str:
    return "CASCADE" if engine.dialect.name == "postgresql" else ""


def test_upgrade_that_was_cut_short(
    url: str, engine: sa.Engine, make_old: Callable[[sa.Engine], None]
) -> None:
    """A column that is there already, and an index that is not, are no obstacle."""
    make_old(engine)
    with engine.begin() as connection:
        if make_old in (make_first, make_second):
            for statement in (THIRD[0], THIRD[-2]):
                connection.exec_driver_sql(statement)
        if make_old not in (make_fifth, make_sixth, make_seventh):
            connection.exec_driver_sql(FIFTH[0])
    store = SqlStore(Database(url))
    assert store.key("cred_a") == api_key(last_used_at=NOW + 1)
    store.close()
    assert recorded(engine) == [("schema", str(SCHEMA))]


def test_upgrade_of_half_made_tables(url: str, engine: sa.Engine) -> None:
    """An upgrade that was cut short is completed the next time."""
    make_first(engine)
    open_store(url).store.close()
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE keyrush_bindings")
        connection.exec_driver_sql("UPDATE keyrush_meta SET value = '1'")
    open_store(url).store.close()
    assert "keyrush_bindings" in tables(engine)
    assert recorded(engine) == [("schema", str(SCHEMA))]


@pytest.mark.parametrize("is_old", [True, False], ids=["old", "new"])
def test_nothing_is_made_twice(engine: sa.Engine, is_old: bool) -> None:
    """Tables that are up to date are left as they are: nothing is created, nothing locked."""
    if is_old:
        make_first(engine)
    prepare(engine)
    statements: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def _note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    prepare(engine)
    assert statements
    assert not [text for text in statements if "CREATE" in text or "advisory" in text]


def test_processes_that_upgrade_together(
    url: str, engine: sa.Engine, make_old: Callable[[sa.Engine], None]
) -> None:
    """However many processes find old tables, each can work with the new ones."""
    make_old(engine)
    code = """
        import sys
        from keyrush.limiter.opening import open_limiter
        from keyrush.runtime.clock import now_ms
        from keyrush.sql.engine import Database, make_engine
        from keyrush.sql.url import parse_url
        from keyrush.store.sql import SqlStore
        from keyrush.core.sliding import Window
        from tests.support.mapped import in_children

        window = Window("key:cred_a:86400", 86_400_000, 2, "day")
        make_engine(parse_url(sys.argv[1])).dispose()  # its driver is imported once

        def work():
            store = SqlStore(Database(sys.argv[1]))
            limiter = open_limiter("store", store.database, mode="exact").limiter
            admitted = limiter.take([window], 1, now_ms()).admitted
            limiter.close()
            store.close()
            return admitted

        print(in_children(3, work))
        """
    assert run(code, url) == "2\n"
    assert recorded(engine) == [("schema", str(SCHEMA))]


def test_a_newer_keyrush_was_faster(url: str, engine: sa.Engine) -> None:
    """Tables that a newer keyrush upgrades when this one is about to do so are not touched."""
    make_first(engine)
    newer = make_engine(parse_url(url))
    transactions: list[object] = []

    @sa.event.listens_for(engine, "checkout")
    def _begins(*connection: object) -> None:
        transactions.append(connection)
        if len(transactions) == 2:  # the version has been read; what follows is the upgrade
            with newer.begin() as other:
                other.exec_driver_sql("UPDATE keyrush_meta SET value = '999'")

    with pytest.raises(ConfigurationError, match="has schema 999, this keyrush knows"):
        prepare(engine)
    assert recorded(newer) == [("schema", "999")]
    assert "keyrush_ledger" not in tables(newer)
    newer.dispose()
