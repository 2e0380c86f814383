"""Connections that are let go of: none stays open, whoever uses it by then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import sqlalchemy as sa

from keyrush.sql.engine import Database
from keyrush.sql.pool import ClosingPool
from keyrush.sql.states import give_up
from tests.support.stores import in_threads


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """A database of each kind."""
    made = Database(url)
    yield made
    made.close()


@pytest.fixture
def counted(database: Database) -> Counter[str]:
    """How many of its connections have been opened and closed from now on."""
    found: Counter[str] = Counter()
    for event in ("connect", "close"):

        @sa.event.listens_for(database.engine, event)
        def _count(*_: object, name: str = event) -> None:
            found[name] += 1

    return found


def test_in_use_while_all_are_let_go_of(database: Database, counted: Counter[str]) -> None:
    """What is in use when a database is closed, or gives its connections up, is closed when it
    comes back, and the server has one less to keep.
    """
    with database.driver(), database.driver():
        database.close()
        assert counted == {"connect": 2}
    assert counted == {"connect": 2, "close": 2}
    with database.driver():
        give_up(database.engine)
    assert counted == {"connect": 3, "close": 3}
    with database.driver() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert counted == {"connect": 4, "close": 3}  # it waits for the next


def test_let_go_of_in_many_threads(database: Database, counted: Counter[str]) -> None:
    """Whoever gives them up at the same time, each connection that was opened is closed in the end:
    no new pool is lost to another.
    """

    def use(_number: int) -> None:
        with database.driver() as connection:
            connection.execute("SELECT 1")
        give_up(database.engine)

    in_threads(use, 80)  # fewer than PostgreSQL takes at once, however late it notices their ends
    database.close()
    assert counted["connect"] == counted["close"] > 0


def test_who_waits_for_one_that_is_let_go_of(tmp_path: Path) -> None:
    """Whoever waits for a connection of an exhausted pool gets one that is new."""
    engine = sa.create_engine(
        f"sqlite:///{tmp_path}/keyrush.db",
        poolclass=ClosingPool,
        pool_size=1,
        max_overflow=0,
        connect_args={"check_same_thread": False},
    )
    pool, found = engine.pool, []

    def wait() -> None:
        waited = pool.connect()
        found.append(waited.cursor().execute("SELECT 1").fetchone())
        waited.close()

    held = pool.connect()
    waiting = Thread(target=wait)
    waiting.start()
    pool.dispose()
    held.close()
    waiting.join()
    assert found == [(1,)]


def test_who_wrote_last_writes_next(tmp_path: Path) -> None:
    """Of SQLite's connections the last that came back is the next to be used: its pages are those
    of the file, where another's would all be read anew.
    """
    database = Database(f"sqlite:///{tmp_path}/keyrush.db")
    with database.driver() as last, database.driver() as first:
        pass
    used = []
    for _ in range(3):
        with database.transaction() as connection:
            used.append(connection)
    database.close()
    assert first is not last
    assert used == [last] * 3
