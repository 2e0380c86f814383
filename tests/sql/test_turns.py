"""Writers of one process take turns at a SQLite file: nobody is passed over."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from keyrush.sql import turns
from keyrush.sql.engine import make_engine
from keyrush.sql.turns import Turns
from keyrush.sql.url import parse_url
from tests.support.faults import until
from tests.support.scripts import run


def engine_of(path: Path) -> sa.Engine:
    return make_engine(parse_url(f"sqlite:///{path}/keyrush.db"))


def test_order_of_arrival() -> None:
    """Whoever has waited longest is next, however often the others ask."""
    queue, came = Turns(), list[int]()
    assert queue.take(0)

    def write(number: int) -> None:
        assert queue.take(60)
        came.append(number)
        queue.hand_on()

    def is_waiting(count: int) -> bool:
        return len(queue._waiting) == count  # noqa: SLF001  # when they have come

    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(write, number)
            until(partial(is_waiting, number + 1))
        queue.hand_on()
    assert came == list(range(8))
    assert queue.take(0)


def test_waiting_in_vain() -> None:
    """Who has gone leaves no gap: the turn is nobody's when nobody waits."""
    queue = Turns()
    assert queue.take(0)
    assert not queue.take(0.001)
    queue.hand_on()
    assert queue.take(0)


def test_nobody_is_passed_over(tmp_path: Path) -> None:
    """A thread that writes again and again lets another in between, though SQLite would not:
    through engines of their own, and by the driver's connections as by SQLAlchemy's.
    """
    first, second = engine_of(tmp_path), engine_of(tmp_path)
    pooled = second.raw_connection()
    driver = pooled.dbapi_connection
    assert isinstance(driver, turns.Writer)
    path = driver.execute("PRAGMA database_list").fetchone()[2]
    with first.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE written (number INTEGER)")
    is_writing, has_ended = threading.Event(), threading.Event()

    def write_many() -> None:
        for number in range(20):
            with first.begin() as connection:
                is_writing.set()
                connection.execute(sa.text("INSERT INTO written VALUES (:n)"), {"n": number})
                if number == 0:
                    until(lambda: bool(turns._files.turns_of(path)._waiting))  # noqa: SLF001  # when
        has_ended.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_many)
        assert is_writing.wait(10)
        driver.await_turn()
        driver.execute("BEGIN IMMEDIATE")
        rows = driver.execute("SELECT count(*) FROM written").fetchone()
        driver.commit()
        writing.result()
    assert rows == (1,)
    assert has_ended.is_set()
    pooled.close()
    first.dispose()
    second.dispose()


@pytest.mark.parametrize("how", ["commits", "is undone", "is closed", "is dropped"])
def test_turn_ends(tmp_path: Path, how: str) -> None:
    """However a transaction ends, the turn is the next one's at once."""
    engine = engine_of(tmp_path)
    pooled = engine.raw_connection()
    writer = pooled.dbapi_connection
    assert isinstance(writer, turns.Writer)
    writer.await_turn()
    writer.execute("BEGIN IMMEDIATE")
    match how:
        case "commits":
            writer.commit()
        case "is undone":
            writer.rollback()
        case "is closed":
            pooled.invalidate()
        case _:
            pooled.detach()
            writer.close()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE written (number INTEGER)")
    engine.dispose()


def test_after_a_fork() -> None:
    """A child does not wait for a turn that a thread of its parent had."""
    run(
        """
        import os
        from keyrush.sql.turns import _files

        held = _files.turns_of("keyrush.db")
        assert held.take(0)
        child = os.fork()
        if not child:
            os._exit(not _files.turns_of("keyrush.db").take(0))
        assert os.waitpid(child, 0)[1] == 0
        """
    )
