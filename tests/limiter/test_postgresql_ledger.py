"""What is particular to windows in PostgreSQL; what holds for every ledger is elsewhere."""

from __future__ import annotations

import itertools
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from keyrush.core import sliding
from keyrush.core.sliding import Window, WindowCount
from keyrush.errors import StoreError
from keyrush.limiter.ledgers import postgresql
from keyrush.limiter.ledgers import postgresql_calls as sql
from keyrush.limiter.ledgers.postgresql import PostgresqlLedger
from keyrush.limiter.ledgers.protocol import WORKER_TTL
from keyrush.sql import engine, patience
from keyrush.sql.engine import Database
from keyrush.store.sql import SqlStore
from tests.conftest import Clock
from tests.support.faults import until
from tests.support.scripts import together
from tests.support.values import NOW, account

MINUTE = Window("key:cred_a:60", 60_000, 10, "minute")
HOUR = Window("key:cred_a:3600", 3_600_000, 15, "hour")


@pytest.fixture
def store(postgres_url: str) -> Iterator[SqlStore]:
    """A store on PostgreSQL."""
    opened = SqlStore(Database(postgres_url))
    yield opened
    opened.close()


@pytest.fixture
def ledger(store: SqlStore, clock: Clock) -> PostgresqlLedger:
    """A ledger in the store's database that goes by `clock`."""
    return PostgresqlLedger(store.database, clock)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a lock does so for as long as a busy machine needs to see that."""
    monkeypatch.setattr(patience, "ANSWER", 60.0)
    patient = engine.AT_ONCE.replace("1800", "60000")
    for module in (sql, engine):
        monkeypatch.setattr(module, "AT_ONCE", patient)


@contextmanager
def holding(store: SqlStore) -> Iterator[sa.Connection]:
    """A transaction that may stand still, for as long as a busy machine needs."""
    with store.database.engine.begin() as other:
        other.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield other


def rows(store: SqlStore, table: str = "windows") -> list[tuple[Any, ...]]:
    """All there is in a table, by its key, with the transaction that wrote it."""
    columns = [sa.text("*"), sa.text("xmin::text")]
    select = sa.select(*columns).select_from(sa.text(f"keyrush_{table}"))
    with store.database.engine.connect() as connection:
        return sorted(tuple(row) for row in connection.execute(select))


def stored(store: SqlStore) -> dict[str, WindowCount]:
    return {row[0]: row[1:4] for row in rows(store)}


def in_threads(work: Callable[[int], Any], threads: int) -> list[Any]:
    """What `work` returns for 0, 1, …, each in a thread, beginning together."""
    barrier = threading.Barrier(threads)
    with ThreadPoolExecutor(threads, initializer=barrier.wait) as pool:
        return [done.result() for done in [pool.submit(work, n) for n in range(threads)]]


# --- what is written -----------------------------------------------------------------------------


def test_nothing_is_written_by_a_refusal_or_a_look(
    store: SqlStore, ledger: PostgresqlLedger, clock: Clock
) -> None:
    """Field 8: a take that is refused by one of its windows leaves no row, and changes none."""
    none = Window("key:cred_b:60", 60_000, 0, "minute")
    assert ledger.take([MINUTE, none], 1, 5).granted == 0
    assert ledger.take([MINUTE, HOUR], 0, 0).granted == 0
    assert ledger.take([MINUTE, HOUR], 0, 5).granted == 0
    assert ledger.take([], 1, 1).granted == 0
    ledger.give_back([MINUTE], 1, clock.now)
    assert rows(store) == []
    assert ledger.take([MINUTE], 10, 0).granted == 10
    before = rows(store)
    clock.advance(60_000)  # what is answered is rolled to now, what is stored is not
    period = clock.now // 60_000
    assert ledger.take([MINUTE], 1, 0) == (0, clock.now, [(period, 0, 10)])
    assert ledger.take([MINUTE, HOUR], 1, 0).granted == 0
    assert ledger.take([MINUTE], 0, 0).counters == [(period, 0, 10)]
    ledger.give_back([MINUTE, HOUR], 3, clock.now - 180_000)
    assert rows(store) == before


def test_same_arithmetic_as_windows(
    store: SqlStore, ledger: PostgresqlLedger, clock: Clock
) -> None:
    """Thousands of takes and returns, under a clock that jumps, come out as in `core.sliding`."""
    chance = random.Random(7)  # noqa: S311  # a schedule, no secret
    counters: dict[str, WindowCount] = {}
    lengths = (10, 1000, 60_000)
    granted = 0
    for _ in range(1500):
        clock.advance(chance.choice([0, 1, 3, 7, 500, 30_000, 60_000, -1, -9, -1000, -200_000]))
        wanted = [
            Window(f"key:{subject}:{length}", length, chance.choice(amounts), "some")
            for subject, length in chance.sample(list(itertools.product("ab", lengths)), 3)
            for amounts in [[1, 5, 200, 1000, sliding.EXACT // length - 1]]
        ]
        if chance.random() < 0.7:
            cost, extra = chance.choice([0, 1, 1, 2, 100]), chance.choice([0, 0, 1, 10_000])
            taken, changes = sliding.grant(wanted, counters, cost, extra, clock.now)
            assert ledger.take(wanted, cost, extra) == taken
            counters.update(changes)
            granted += taken.granted > 0
            continue
        cost = chance.choice([1, 2, 100, -1, -50])
        taken_at = clock.now - chance.choice([0, 10, 1000, 60_000, 120_000, -1000])
        ledger.give_back(wanted, cost, taken_at)
        for window in wanted:
            known = counters.get(window.key)
            counter = sliding.give_back(known, window.length, cost, taken_at)
            if counter is not None:
                counters[window.key] = counter
    assert stored(store) == counters
    assert granted > 200


def test_idle_counters_are_deleted(store: SqlStore, ledger: PostgresqlLedger, clock: Clock) -> None:
    """Field 8: a counter is there as long as it counts, and no longer."""
    ledger.take([MINUTE, HOUR], 1, 0)
    counter = stored(store)[MINUTE.key]
    clock.advance(119_999)
    ledger.enlist("one")
    assert not sliding.is_idle(counter, MINUTE.length, clock.now)
    assert set(stored(store)) == {MINUTE.key, HOUR.key}
    clock.advance(1)
    ledger.enlist("one")
    assert sliding.is_idle(counter, MINUTE.length, clock.now)
    assert set(stored(store)) == {HOUR.key}
    assert ledger.take([MINUTE], 10, 0).granted == 10


def test_a_late_addition_is_deleted_in_time(
    store: SqlStore, ledger: PostgresqlLedger, clock: Clock
) -> None:
    """What is added for a period long gone is idle at once."""
    ledger.give_back([MINUTE], -3, clock.now - 120_000)
    assert stored(store) == {MINUTE.key: (clock.now // 60_000 - 2, 3, 0)}
    ledger.enlist("one")
    assert rows(store) == []


def test_idle_counters_are_deleted_in_bounded_numbers(
    store: SqlStore, ledger: PostgresqlLedger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many counters have become idle, one call deletes only so many."""
    monkeypatch.setattr(postgresql, "SWEPT", 4)
    for number in range(10):
        ledger.take([Window(f"key:{number}:60", 60_000, 1, "minute")], 1, 0)
    clock.advance(120_000)
    left = []
    for _ in range(4):
        ledger.enlist("one")
        left.append(len(rows(store)))
    assert left == [6, 2, 0, 0]


@pytest.mark.usefixtures("_patient")
def test_a_counter_deleted_while_it_is_taken_from(store: SqlStore, clock: Clock) -> None:
    """A take that has seen an idle counter is kept, though another process deletes that."""
    ledger = PostgresqlLedger(store.database, clock)
    ledger.take([MINUTE], 1, 0)
    clock.advance(120_000)
    with ThreadPoolExecutor(1) as pool:
        with holding(store) as other:
            other.exec_driver_sql("DELETE FROM keyrush_windows")
            taking = pool.submit(ledger.take, [MINUTE], 2, 0)
            until(lambda: waiting(store) == 1)
        assert taking.result().granted == 2
    assert stored(store) == {MINUTE.key: (clock.now // 60_000, 2, 0)}


def waiting(store: SqlStore) -> int:
    """How many sessions of PostgreSQL wait for a lock in the store's database."""
    select = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    with store.database.engine.connect() as connection:
        count: int = connection.exec_driver_sql(select).scalar_one()
        return count


# --- many at a time ------------------------------------------------------------------------------


def test_first_takes_together(store: SqlStore, ledger: PostgresqlLedger) -> None:
    """Of those who take first from a window, when there is no row yet, none is forgotten."""
    wanted = [[Window(f"key:{n}:60", 60_000, 3, "minute")] for n in range(20)]

    def work(_: int) -> int:
        return sum(ledger.take(each, 1, 0).granted for each in wanted)

    assert sum(in_threads(work, 6)) == 60
    assert {counter[1] for counter in stored(store).values()} == {3}


def test_windows_in_any_order(store: SqlStore, ledger: PostgresqlLedger, clock: Clock) -> None:
    """Takes that share windows, named in different orders, never block each other for good."""
    wanted = [Window(f"key:{n}:60", 60_000, 10**6, "minute") for n in range(5)]

    def work(number: int) -> int:
        chance = random.Random(number)  # noqa: S311  # a schedule, no secret
        for _ in range(40):
            some = chance.sample(wanted, 3)
            assert ledger.take(some, 2, 0).granted == 2
            ledger.give_back(some[::-1], 1, clock.now)
            ledger.enlist(str(number))
        return 3 * 40

    total = sum(in_threads(work, 6))
    assert sum(counter[1] for counter in stored(store).values()) == total


def test_processes_admit_exactly_the_limit(
    postgres_url: str, store: SqlStore, clock: Clock
) -> None:
    """What several processes are granted together is what the window holds, to the unit."""
    code = """
        import sys
        from keyrush.limiter.ledgers.postgresql import PostgresqlLedger
        from keyrush.sql.engine import Database
        from keyrush.store.sql import SqlStore
        from keyrush.core.sliding import Window

        url, number, now = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        store = SqlStore(Database(url))
        ledger = PostgresqlLedger(store.database, lambda: now)
        wanted = [Window("account:acct_a:60", 60_000, 900, "minute"),
                  Window(f"key:{number % 2}:60", 60_000, 1000, "minute")]
        print("ready", flush=True)
        sys.stdin.readline()
        print(sum(ledger.take(wanted[::-1 if number % 3 else 1], 1, 1).granted
                  for _ in range(350)))
        store.close()
        """
    granted = together(code, *((postgres_url, str(number), str(clock.now)) for number in range(3)))
    assert sum(map(int, granted)) == 900
    counters = stored(store)
    assert counters.pop("account:acct_a:60")[1] == 900
    assert sum(counter[1] for counter in counters.values()) == 900


def test_a_look_waits_for_nobody(store: SqlStore, ledger: PostgresqlLedger) -> None:
    """A look is answered while another process writes, with what was there before."""
    ledger.take([MINUTE], 1, 0)
    with holding(store) as other:
        other.exec_driver_sql("UPDATE keyrush_windows SET current = 9")
        assert ledger.take([MINUTE], 0, 0).counters[0][1] == 1


# --- time ----------------------------------------------------------------------------------------


def test_time_of_the_server(store: SqlStore) -> None:
    """Field 8: on PostgreSQL it is the server that says when it is, never a client's clock."""
    ledger = PostgresqlLedger(store.database)
    assert ledger.has_own_clock is True

    def server() -> int:
        with store.database.engine.connect() as connection:
            select = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
            now: int = connection.exec_driver_sql(select).scalar_one()
            return now

    for cost in (1, 0, 100):
        before = server()
        assert before <= ledger.take([MINUTE], cost, 0).now <= server()
    ledger.enlist("one")
    assert before <= rows(store, "workers")[0][1] <= server()


def test_a_clock_of_ones_own(ledger: PostgresqlLedger, clock: Clock) -> None:
    """A clock that is given is that of every instant, and the ledger's own no more."""
    assert ledger.has_own_clock is False
    assert ledger.take([MINUTE], 1, 0).now == clock.now


@pytest.mark.usefixtures("_patient")
def test_time_is_read_when_it_counts_on_postgresql(store: SqlStore) -> None:
    """A take that had to wait is of the time when it was its turn, so that time never runs back."""
    ledger = PostgresqlLedger(store.database)
    with ThreadPoolExecutor(1) as pool:
        with holding(store) as other:
            other.exec_driver_sql("SELECT keyrush_lock(%s)", ([MINUTE.key],))
            taking = pool.submit(ledger.take, [MINUTE], 1, 0)
            until(lambda: waiting(store) == 1)
            its_turn: int = other.exec_driver_sql("SELECT keyrush_now()").scalar_one()
        assert taking.result().now >= its_turn


# --- processes at work ---------------------------------------------------------------------------


def test_workers_after_a_clock_was_set_back(
    store: SqlStore, ledger: PostgresqlLedger, clock: Clock
) -> None:
    """A process that stopped does not count on until the clock has made up for being set back."""
    assert ledger.enlist("b") == (0, 1)
    assert ledger.enlist("a") == (0, 2)
    clock.advance(-int(WORKER_TTL * 1000))
    assert ledger.enlist("c") == (0, 1)
    assert [row[0] for row in rows(store, "workers")] == ["c"]


def test_workers_together(store: SqlStore, ledger: PostgresqlLedger, clock: Clock) -> None:
    """Processes that all return after a long pause remove each other's rows without a deadlock."""
    names = [str(number) for number in range(6)]
    for _ in range(10):
        for name in names:
            ledger.enlist(name)
        clock.advance(60_000)
        in_threads(lambda number: ledger.enlist(names[number]), len(names))
        assert [ledger.enlist(name) for name in names] == [(n, 6) for n in range(6)]


# --- connections ---------------------------------------------------------------------------------


def test_one_round_trip_each(store: SqlStore) -> None:
    """Field 5: each call is one message to PostgreSQL and its answer, transaction included."""
    ledger = PostgresqlLedger(store.database)
    calls: list[Callable[[], object]] = [
        lambda: ledger.take([MINUTE, HOUR], 1, 5),
        lambda: ledger.take([MINUTE, HOUR], 0, 0),
        lambda: ledger.take([MINUTE, HOUR], 1000, 0),
        lambda: ledger.give_back([MINUTE, HOUR], 1, NOW),
        lambda: ledger.enlist("one"),
        lambda: ledger.leave("one"),
    ]
    for call in calls * 10:  # until the driver has prepared its statements
        call()
    with tempfile.TemporaryFile("w+") as trace:
        pooled = store.database.engine.raw_connection()
        libpq = pooled.dbapi_connection.pgconn  # type: ignore[union-attr]  # it is psycopg's
        libpq.trace(trace.fileno())
        pooled.close()
        for call in calls:
            call()
        libpq.untrace()
        trace.seek(0)
        answers = [line for line in trace if "ReadyForQuery" in line]
    assert len(answers) == len(calls)


def test_the_store_goes_on_with_its_connections(store: SqlStore, ledger: PostgresqlLedger) -> None:
    """The store's transactions hold together after the ledger has used the same connection."""
    ledger.take([MINUTE], 1, 0)
    ledger.enlist("one")
    ledger.leave("one")
    with store.database.engine.connect() as connection:
        connection.exec_driver_sql("DELETE FROM keyrush_windows")
        connection.rollback()
    ledger.close()
    assert list(stored(store)) == [MINUTE.key]
    assert store.add_account(account())
    assert ledger.take([MINUTE], 1, 0).granted == 1


def test_failure_is_a_store_error(store: SqlStore, ledger: PostgresqlLedger) -> None:
    """O22: what fails in the database is a StoreError without values, and leaves nothing behind."""
    ledger.take([MINUTE], 1, 0)
    rename = "ALTER TABLE keyrush_{} RENAME TO keyrush_{}"
    for names in [("windows", "w"), ("workers", "k")]:
        with store.database.engine.begin() as connection:
            connection.exec_driver_sql(rename.format(*names))
    calls: list[Callable[[], object]] = [
        lambda: ledger.take([MINUTE], 1, 0),
        lambda: ledger.take([MINUTE], 0, 0),
        lambda: ledger.give_back([MINUTE], 1, NOW),
        lambda: ledger.enlist("one"),
        lambda: ledger.leave("one"),
    ]
    for call in calls:
        with pytest.raises(StoreError) as caught:
            call()
        cause = type(caught.value.__cause__).__name__
        assert str(caught.value).startswith(f"{cause} from {store.database.engine.dialect.name}: ")
        assert MINUTE.key not in str(caught.value)
    for names in [("w", "windows"), ("k", "workers")]:
        with store.database.engine.begin() as connection:
            connection.exec_driver_sql(rename.format(*names))
    with store.database.engine.connect() as connection:
        connection.exec_driver_sql("DELETE FROM keyrush_windows")
        connection.rollback()
    assert ledger.take([MINUTE], 1, 0).counters[0][1] == 2
    assert store.database.engine.pool.status().count("Current Checked out connections: 0") == 1


@pytest.mark.usefixtures("_patient")
def test_connections_that_the_server_has_ended(store: SqlStore, clock: Clock) -> None:
    """After a restart of the server the next take works; one under way says that it failed."""
    ledger = PostgresqlLedger(store.database, clock)
    ledger.take([MINUTE], 1, 0)
    end = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
    """
    url = store.database.engine.url.render_as_string(hide_password=False)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
        other.execute(end)
        until(lambda: sessions(other) == 0)
        assert ledger.take([MINUTE], 1, 0).granted == 1
        with ThreadPoolExecutor(1) as pool, other.transaction():
            other.execute("SELECT keyrush_lock(%s)", ([MINUTE.key],))
            taking: Future[Any] = pool.submit(ledger.take, [MINUTE], 1, 0)
            until(lambda: waiting(store) == 1)
            other.execute(end)
            with pytest.raises(StoreError, match="from postgresql"):
                taking.result()
        until(lambda: sessions(other) == 0)
        assert ledger.take([MINUTE], 1, 0).counters[0][1] == 3


def sessions(connection: psycopg.Connection[Any]) -> int:
    """How many others there are in the connection's database."""
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone()
    assert row is not None
    return int(row[0])


# --- upgrades -------------------------------------------------------------------------------------


def test_beside_an_older_keyrush(store: SqlStore, ledger: PostgresqlLedger, clock: Clock) -> None:
    """S35: processes of an older keyrush, which ask for one subject at a time, go on while others
    are upgraded: they take from the same windows, and are answered as they always were.
    """
    sent = "ARRAY[E'key:cred_a:60',E'key:cred_a:3600']::text[], '{60000,3600000}'::bigint[]"

    def take(cost: int, extra: int) -> Any:
        rest = f"'{{10,15}}'::bigint[], {cost}, {extra}, 100, {clock.now}"
        return store.database.call(f"SELECT keyrush_take({sent}, {rest})", ())

    minute, hour = clock.now // MINUTE.length, clock.now // HOUR.length
    ledger.take([MINUTE, HOUR], 3, 0)
    assert take(5, 0) == ([5, clock.now, minute, 8, 0, hour, 8, 0],)
    assert take(3, 1) == ([0, clock.now, minute, 8, 0, hour, 8, 0],)
    assert ledger.take([MINUTE, HOUR], 2, 0).granted == 2
    store.database.call(f"SELECT keyrush_give_back({sent}, 4, {clock.now})", ())
    assert take(0, 0) == ([0, clock.now, minute, 6, 0, hour, 6, 0],)
    assert ledger.take([MINUTE, HOUR], 0, 0).counters == [(minute, 6, 0), (hour, 6, 0)]
