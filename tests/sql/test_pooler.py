"""Behind a pooler that gives each transaction another session, all works without any setting."""

from __future__ import annotations

import asyncio
import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from keyrush import Gate
from keyrush.core.identity import account_subject
from keyrush.core.ledger import OPERATOR, Refill
from keyrush.core.sliding import Window
from keyrush.core.times import month_of
from keyrush.errors import ConfigurationError
from keyrush.limiter.ledgers.postgresql import PostgresqlLedger
from keyrush.sql.changes import LOOK, PostgresqlChanges
from keyrush.sql.engine import Database
from keyrush.sql.url import parse_url
from keyrush.store.protocol import Batch
from keyrush.store.sql import SqlStore
from tests.conftest import settings
from tests.support.calls import Asgi, Sent, asgi_call, scope_of
from tests.support.faults import until
from tests.support.pgbouncer import PgBouncer, pgbouncer
from tests.support.running import run_process
from tests.support.values import MONTH, NOW, account, api_key

__all__ = ["pgbouncer"]

PEPPER = "p" * 32

ACCOUNT = "acct_a"

MINUTE = Window("key:cred_a:60", 60_000, 100_000, "minute")


@pytest.fixture
def store(pgbouncer: PgBouncer) -> Iterator[SqlStore]:
    """A store behind the pooler, with an account and a key."""
    opened = SqlStore(Database(pgbouncer.url))
    opened.add_account(account())
    opened.add_keys([api_key()])
    yield opened
    opened.close()


@pytest.mark.parametrize("limiter", ["store", "memory://"])
def test_gate(pgbouncer: PgBouncer, limiter: str) -> None:
    """400 requests, many at a time, pass, are counted and paid for; changes are heard of."""
    rule = {"path": "/tools/{name}", "credits": 1}
    chosen = settings(
        store_url=pgbouncer.url,
        limiter_url=limiter,
        pepper=PEPPER,
        rules=[rule],
        limiter_mode="exact",
    )
    with_one, with_two = Gate.open(chosen), Gate.open(chosen)
    with_one.accounts.create(ACCOUNT, limits="100000/hour")
    with_one.credits.grant(ACCOUNT, 1000)
    made = [with_one.keys.create(ACCOUNT, str(number)) for number in range(8)]
    app = Asgi(with_two)

    async def send(text: str, path: str) -> int:
        sent = Sent(path, [("X-API-Key", text)])
        return (await asgi_call(app.middleware, scope_of(sent))).status

    async def scenario() -> Counter[int]:
        requests = [send(made[n % 8].text, ("/", "/tools/a")[n % 2]) for n in range(400)]
        return Counter(await asyncio.gather(*requests))

    assert asyncio.run(scenario()) == {200: 400}
    until(lambda: with_two.health().is_well and with_two.health().hears_changes)
    with_two.flush()
    month = month_of(with_two.clock())
    assert with_one.store.usage(account_subject(ACCOUNT), month) == 400
    assert with_one.accounts.get(ACCOUNT).balance == 800
    with_one.keys.revoke(made[0].key.id)
    until(lambda: app.send(Sent("/", [("X-API-Key", made[0].text)])).status == 401)
    with_one.close()
    with_two.close()


def test_store_and_ledger_in_threads(store: SqlStore) -> None:
    """Statements that are repeated, in transactions and alone, of many connections at once, are
    never taken for another session's.
    """
    ledger = PostgresqlLedger(store.database, lambda: NOW)

    def work(number: int) -> int:
        for turn in range(20):
            assert store.find([api_key().fingerprint], MONTH)
            store.add_usage(MONTH, {"key:cred_a": 1}, Batch(f"w{number}", turn + 1))
            store.add_usage(MONTH, {}, used={"cred_a": NOW + turn})
            assert ledger.take([MINUTE], 1, 0).granted == 1
            ledger.enlist(str(number))
        return 20

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(work, range(12))) == 240
    assert store.usage("key:cred_a", MONTH) == 240
    assert ledger.take([MINUTE], 0, 0).counters[0][1] == 240


def sessions(url: str, expression: str) -> list[Any]:
    """What the pooler's sessions on the server are said to have, each."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        return [connection.execute(expression.encode()).fetchone() for _ in range(8)]


def test_sessions_are_left_as_they_were(store: SqlStore, pgbouncer: PgBouncer) -> None:
    """Whoever has a session next finds no setting, statement or channel of keyrush's in it."""
    changes = store.changes()
    assert changes.poll() is None
    ledger = PostgresqlLedger(store.database)
    for _ in range(12):
        ledger.take([MINUTE], 1, 0)
        store.set_plan(ACCOUNT, "pro")
        store.find([api_key().fingerprint], MONTH)
    left = """
        SELECT current_setting('statement_timeout'),
            current_setting('idle_in_transaction_session_timeout'),
            (SELECT count(*) FROM pg_prepared_statements),
            (SELECT count(*) FROM pg_listening_channels())
    """
    assert set(sessions(pgbouncer.url, left)) == {("0", "0", 0, 0)}
    changes.close()


def test_news_read_the_table(pgbouncer: PgBouncer, store: SqlStore) -> None:
    """Where no notification would come, what has changed is read within a second."""
    seconds = 100.0
    changes = PostgresqlChanges(store.database, lambda: seconds)
    assert changes.poll() is None
    store.set_plan(ACCOUNT, "pro")
    seconds += LOOK
    assert changes.poll() == {ACCOUNT}
    changes.close()


@pytest.mark.parametrize("default", ["serializable", "repeatable read"])
def test_whatever_the_default_isolation_is(
    store: SqlStore, pgbouncer: PgBouncer, default: str
) -> None:
    """Takes at once are exact, and none fails, though the database has another default."""
    with psycopg.connect(pgbouncer.direct_url, autocommit=True) as admin:
        name = admin.info.dbname
        admin.execute(
            f"ALTER DATABASE {name} SET default_transaction_isolation = '{default}'".encode()
        )
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    fresh = SqlStore(Database(pgbouncer.direct_url))
    assert fresh.database.engine.dialect.default_isolation_level == default.upper()
    ledger = PostgresqlLedger(fresh.database, lambda: NOW)
    wanted = [Window("key:cred_b:60", 60_000, 50, "minute")]
    with ThreadPoolExecutor(8) as pool:
        granted = list(pool.map(lambda _: ledger.take(wanted, 1, 0).granted, range(200)))
    assert sum(granted) == 50
    fresh.close()


def test_doctor(pgbouncer: PgBouncer, tmp_path: Path) -> None:
    """`keyrush doctor` finds nothing wrong behind a pooler."""
    SqlStore(Database(pgbouncer.url)).close()  # or it would find none, and make none
    env = {
        "KEYRUSH_STORE_URL": pgbouncer.url,
        "KEYRUSH_LIMITER_URL": "store",
        "KEYRUSH_PEPPER": PEPPER,
    }
    assert run_process("doctor", folder=tmp_path, env=env).code == 0


def test_doctor_tries_often_enough(pgbouncer: PgBouncer, tmp_path: Path) -> None:
    """What goes wrong only once the driver has done it often is found, and said why."""
    with ExitStack() as others:  # so that the pooler has several sessions already
        for _ in range(4):
            others.enter_context(psycopg.connect(pgbouncer.url)).execute("SELECT 1")
    url = f"{pgbouncer.url}?prepare_threshold=2"
    env = {"KEYRUSH_STORE_URL": url, "KEYRUSH_PEPPER": PEPPER}
    SqlStore(Database(pgbouncer.url)).close()  # or the doctor would find none, and make none
    found = run_process("doctor", folder=tmp_path, env=env)
    assert found.code == 3
    # A statement that is not there, or is there already.
    said = " ".join(found.out.split())
    assert re.search(r"can't answer: StoreError: \w+ from postgresql: (26000|42P05) ", said)


# --- options of the URL --------------------------------------------------------------------------


def test_options_that_are_numbers(postgres_url: str) -> None:
    """Options of the URL are texts, and reach the driver as what it takes."""
    more = "&connect_timeout=5&prepare_threshold=3&keepalives_idle=60"
    store = SqlStore(Database(postgres_url + more))
    for _ in range(5):
        assert store.account(ACCOUNT) is None
    with store.database.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        assert driver.prepare_threshold == 3
        assert driver.info.get_parameters()["connect_timeout"] == "5"
    store.close()


@pytest.mark.parametrize(
    "option",
    ["prepare_threshold=soon", "autocommit=1", "client_encoding=latin1", "row_factory=x"],
)
def test_options_that_would_break_it(option: str) -> None:
    """What keyrush can't go on with is a setting that is wrong, named in the message."""
    with pytest.raises(ConfigurationError, match=option.partition("=")[0]):
        parse_url(f"postgresql://host/keys?{option}")


@pytest.mark.parametrize("option", ["prepare_threshold=none", "client_encoding=UTF-8"])
def test_options_that_are_the_default(postgres_url: str, option: str) -> None:
    """What keyrush does anyway may be said."""
    store = SqlStore(Database(f"{postgres_url}&{option}"))
    assert store.account(ACCOUNT) is None
    store.close()


# --- what it costs -------------------------------------------------------------------------------


ONE = Batch("one", 1)

numbers = itertools.count()


def refill() -> Refill:
    """What another month brings."""
    return Refill(f"{next(numbers):07}", 100, NOW * 2)


@pytest.mark.parametrize(
    ("call", "round_trips"),
    [
        (lambda store: store.find([api_key().fingerprint], MONTH), 1),
        (lambda store: store.charge(ACCOUNT, 1, f"{next(numbers)}", NOW), 1),
        (lambda store: store.charge(ACCOUNT, 1, f"{next(numbers)}", NOW, OPERATOR, refill()), 1),
        (lambda store: store.add_usage(MONTH, {}, used={"cred_a": NOW}), 3),
        (lambda store: store.add_usage(MONTH, {"key:cred_a": 1}, ONE, {"cred_a": NOW}), 5),
    ],
    ids=["alone", "a charge", "a month", "in a transaction", "a whole flush"],
)
def test_round_trips(
    postgres_url: str, call: Callable[[SqlStore], object], round_trips: int
) -> None:
    """O12: a statement alone is one round trip, and so is a charge, whatever is due and whatever it
    takes from; a transaction has one more at each end.
    """
    store = SqlStore(Database(postgres_url))
    store.add_account(account(balance=100))
    store.add_keys([api_key()])
    call(store)
    with tempfile.TemporaryFile("w+") as trace:
        pooled = store.database.engine.raw_connection()
        libpq = pooled.dbapi_connection.pgconn  # type: ignore[union-attr]  # it is psycopg's
        libpq.trace(trace.fileno())
        pooled.close()
        call(store)
        libpq.untrace()
        trace.seek(0)
        answers = [line for line in trace if "ReadyForQuery" in line]
    store.close()
    assert len(answers) == round_trips
