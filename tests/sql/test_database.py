"""The database that a store, windows and news share."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from keyrush.core.sliding import Window
from keyrush.limiter.ledgers.postgresql import PostgresqlLedger
from keyrush.limiter.opening import open_limiter
from keyrush.runtime.clock import now_ms
from keyrush.sql.changes import PostgresqlChanges, SqliteChanges, changes_in
from keyrush.sql.engine import Database
from keyrush.sql.tables import META
from keyrush.store.sql import SqlStore
from tests.support.values import account


def test_opened_with_its_tables(url: str) -> None:
    """It says what it is, and all tables are there before anybody has asked for them."""
    database = Database(url)
    assert database.dialect == url.partition(":")[0]
    with database.engine.connect() as connection:
        assert sa.inspect(connection).has_table(META.name)
    kind = PostgresqlChanges if database.dialect == "postgresql" else SqliteChanges
    assert isinstance(changes_in(database), kind)
    database.close()


def test_shared_and_used_again(url: str) -> None:
    """Store, ledger and news work by one, also after the store has closed it."""
    database = Database(url)
    store, changes = SqlStore(database), changes_in(database)
    limiter = open_limiter("store", database).limiter
    assert changes.poll() is None
    store.add_account(account())
    store.close()
    assert store.account("acct_a") == account()
    window = Window("key:cred_a:60", 60_000, 1, "minute")
    assert [limiter.take([window], 1, now_ms()).admitted for _ in range(2)] == [True, False]
    assert not changes.poll()
    changes.publish("acct_a")  # which the store does itself, when something has changed
    assert not changes.poll()
    changes.close()
    limiter.close()
    store.close()


@pytest.mark.parametrize("make", [SqlStore, PostgresqlLedger, SqliteChanges])
def test_kept_by_whoever_is_made_with_it(
    make: Callable[[Database], object], tmp_path: Path
) -> None:
    """It stays as long as somebody uses it, or a forked child would have its connections."""
    database = Database(f"sqlite:///{tmp_path}/keyrush.db")
    there = weakref.ref(database)
    made = make(database)
    del database
    gc.collect()
    assert there() is not None
    del made
    gc.collect()
    assert there() is None


def test_file(tmp_path: Path, postgres_url: str) -> None:
    """Its file is the one that SQLite writes, whatever leads there; a server has none."""
    path = tmp_path / "keyrush.db"
    Database(f"sqlite:///{path}").close()
    (tmp_path / "link.db").symlink_to(path)
    for name in (path, tmp_path / "link.db", f"file:{path}?mode=rw&uri=true"):
        assert Database(f"sqlite:///{name}").file == path
    assert Database(postgres_url).file is None
