"""A PostgreSQL whose primary becomes another: the old one stays up, and refuses every write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from keyrush import Gate
from keyrush.core.identity import account_subject
from keyrush.core.times import month_of
from keyrush.errors import StoreError
from keyrush.runtime.clock import now_ms
from keyrush.sql.engine import Database
from keyrush.sql.states import ends_connections
from keyrush.store.sql import SqlStore
from tests.conftest import settings
from tests.support.calls import Asgi, Sent
from tests.support.faults import until
from tests.support.values import account

#: Seconds until all must be well again, without anybody's help; for a busy machine: it takes two.
SOON = 60.0


def run(url: str, *statements: str) -> None:
    """Run statements, each by itself."""
    engine = sa.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.fixture
def failing_over(postgres_url: str) -> Iterator[Any]:
    """Makes what is connected read-only for good, and lets what connects anew write."""
    name = sa.engine.make_url(postgres_url).database

    def fail_over() -> None:
        run(
            postgres_url,
            f'ALTER DATABASE "{name}" SET default_transaction_read_only = off',
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "SELECT pg_reload_conf()",
        )

    yield fail_over
    run(postgres_url, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("limiter", "mode"), [("store", "leased"), ("store", "exact"), ("memory://", "leased")]
)
def test_all_is_well_soon_after_a_failover(
    postgres_url: str, failing_over: Any, limiter: str, mode: str
) -> None:
    """S19: whatever counts the windows, charges are made and counts are written again within
    seconds, nothing is lost, and what other processes revoke is heard of.
    """
    values: dict[str, Any] = {
        "store_url": postgres_url,
        "limiter_url": limiter,
        "limiter_mode": mode,
        "pepper": "p" * 32,
        "rules": [{"path": "/paid", "credits": 1}],
    }
    gate = Gate.open(settings(**values))
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 1000)
    made = gate.keys.create("acct_a", "k")
    sender = Asgi(gate)

    def ask(path: str) -> int:
        return sender.send(Sent(path, [("X-API-Key", made.text)])).status

    passed = sum(ask(path) == 200 for path in ("/paid", "/free") * 10)
    assert passed == 20
    failing_over()
    deadline = time.monotonic() + SOON
    while ask("/paid") != 200:
        assert time.monotonic() < deadline, "it is not well again"
        time.sleep(0.05)  # as clients do that try again
    passed += 1
    paid = 10 + 1 + 10
    passed += sum(ask(path) == 200 for path in ("/paid", "/free") * 10)
    while not gate.health().is_well or gate.health().unwritten or not gate.health().hears_changes:
        assert time.monotonic() < deadline, gate.health()
        time.sleep(0.05)  # leaves the core to the background
    gate.flush()
    assert gate.store.usage(account_subject("acct_a"), month_of(now_ms())) == passed
    assert gate.credits.balance("acct_a") == 1000 - paid
    assert gate.credits.check().discrepancies == ()
    elsewhere = Gate.open(settings(**values))
    elsewhere.keys.revoke(made.key.id)
    elsewhere.close()
    while ask("/free") != 401:
        assert time.monotonic() < deadline + SOON, "the revocation is not heard of"
        time.sleep(0.05)  # as above
    gate.close()


def test_who_only_reads_moves_too(postgres_url: str, failing_over: Any) -> None:
    """The old server can be read from for ever, and nothing changes there: what asks for news
    finds out, and with it whoever else reads.
    """
    store = SqlStore(Database(postgres_url))
    store.add_account(account())
    changes = store.changes()
    until(lambda: changes.poll() is None)
    before = session(store)
    failing_over()
    with pytest.raises(StoreError):
        until(lambda: changes.poll() is None)
    assert session(store) != before
    assert changes.poll() is None
    changes.close()
    store.close()


def session(store: SqlStore) -> int:
    """Which of the server's processes a connection of the store's leads to."""
    with store.database.engine.connect() as connection:
        pid: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        return pid


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("25006", True),  # read-only transaction
        ("57P01", True),  # the server shuts down
        ("57P03", True),  # it can't connect now
        ("08006", True),
        ("53300", True),  # too many connections
        ("3D000", True),  # no such database any more
        ("28000", True),  # no such login any more
        ("42501", True),  # no right any more
        ("XX000", True),
        ("22003", False),
        ("23505", False),
        ("42P01", False),
        ("40P01", False),  # a deadlock
        ("55P03", False),  # a lock
        ("57014", False),  # a statement that took too long
    ],
)
def test_which_errors_end_connections(state: str, expected: bool) -> None:
    """Whatever is not about the data, the statement or the moment is about the server."""
    error = psycopg.errors.lookup(state)("a message")
    assert error.sqlstate == state
    assert ends_connections(error) is expected


def test_the_drivers_own_errors_are_its_to_judge() -> None:
    """An error without SQLSTATE is the driver's: it knows itself what it has closed."""
    assert not ends_connections(psycopg.OperationalError("the connection is lost"))
    assert not ends_connections(None)
