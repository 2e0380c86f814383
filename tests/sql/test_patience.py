"""A database that says nothing holds nobody for long, and is used again when it is back."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keyrush.errors import ConfigurationError, StoreError
from keyrush.sql import patience
from keyrush.sql.changes import LOOK, PostgresqlChanges
from keyrush.sql.engine import Database
from keyrush.store.opening import open_store
from keyrush.store.protocol import Batch
from keyrush.store.sql import SqlStore
from tests.support.faults import Proxy, cut, outcome, until
from tests.support.scripts import run
from tests.support.values import MONTH, NOW, account, api_key


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    """A way to an empty database that can be blocked."""
    with tempfile.TemporaryDirectory(prefix="keyrush-") as folder:  # short, as a socket's path
        made = Proxy(postgres_url, folder)
        yield made
        made.close()


@pytest.fixture
def store(proxy: Proxy) -> Iterator[SqlStore]:
    """A store behind the proxy, with the accounts `acct_a` and `acct_b`."""
    made = SqlStore(Database(proxy.url))
    made.add_account(account("acct_a"))
    made.add_account(account("acct_b", created_at=NOW + 1))
    yield made
    made.close()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits longer than the test needs."""
    monkeypatch.setattr(patience, "ANSWER", 0.2)


def is_silence(failed: object) -> bool:
    """Whether a call has ended because no answer came."""
    cause = failed.__cause__ if isinstance(failed, StoreError) else None
    return isinstance(getattr(cause, "orig", cause), patience.ServerSilent)


@pytest.mark.usefixtures("_impatient")
def test_frozen_server(store: SqlStore, proxy: Proxy) -> None:
    """Outages: a call without an answer ends as an error; later ones get their own answers."""
    assert store.account("acct_a") == account("acct_a")
    proxy.freeze()
    assert is_silence(outcome(lambda: store.account("acct_a")))
    proxy.thaw()
    assert store.account("acct_b") == account("acct_b", created_at=NOW + 1)
    assert store.account("acct_a") == account("acct_a")


@pytest.mark.usefixtures("_impatient")
def test_frozen_in_a_transaction(store: SqlStore, proxy: Proxy) -> None:
    """Outages: what did not get to its end is undone, and holds no lock afterwards."""
    store.add_keys([api_key()])
    proxy.freeze_after(b"pg_advisory_xact_lock")
    assert is_silence(outcome(lambda: store.revoke("cred_a", NOW)))
    proxy.thaw()
    until(lambda: not isinstance(outcome(lambda: store.revoke("cred_a", NOW + 5)), Exception))
    assert store.key("cred_a") == api_key(revoked_at=NOW + 5)


def test_frozen_while_it_connects(store: SqlStore, proxy: Proxy) -> None:
    """Outages: nor is a new connection waited for without end, by a store that is open or new."""
    store.close()
    proxy.freeze()
    assert isinstance(outcome(lambda: store.account("acct_a")), StoreError)
    assert isinstance(outcome(lambda: open_store(proxy.url).store), ConfigurationError)
    proxy.thaw()
    assert store.account("acct_a") == account("acct_a")


@pytest.mark.usefixtures("_impatient")
def test_commit_without_an_answer(store: SqlStore, proxy: Proxy) -> None:
    """Usage: a flush that was committed, but not confirmed, is repeated and counted once."""
    subject = "key:cred_a"
    assert store.add_usage(MONTH, {subject: 3}, Batch("one", 1)) == {subject: 3}
    proxy.freeze_after(b"COMMIT\0")
    assert is_silence(outcome(lambda: store.add_usage(MONTH, {subject: 4}, Batch("one", 2))))
    proxy.thaw()
    until(lambda: store.usage(subject, MONTH) == 7)
    assert store.add_usage(MONTH, {subject: 4}, Batch("one", 2)) == {subject: 7}
    assert store.add_usage(MONTH, {subject: 5}, Batch("one", 3)) == {subject: 12}


@pytest.mark.usefixtures("_impatient")
def test_news_of_a_frozen_server(store: SqlStore, proxy: Proxy) -> None:
    """Outages: news of a server that says nothing say so, and are there again afterwards."""
    seconds = 100.0
    changes = PostgresqlChanges(store.database, lambda: seconds)
    assert changes.poll() is None
    proxy.freeze()
    assert changes.poll() == ()
    seconds += LOOK
    assert is_silence(outcome(changes.poll))
    proxy.thaw()
    assert changes.poll() is None
    changes.close()


def test_connections_that_the_server_has_ended(store: SqlStore, postgres_url: str) -> None:
    """Outages: after a restart of the server the first call already succeeds."""
    assert store.account("acct_a")
    cut(postgres_url)
    pool: Any = store.database.engine.pool
    until(lambda: pool.checkedin() and all_ended(store))
    assert store.account("acct_a") == account("acct_a")


def all_ended(store: SqlStore) -> bool:
    """Whether the news that a connection has ended has come through."""
    pool: Any = store.database.engine.pool
    waiting = list(pool._pool.queue)  # noqa: SLF001  # asking for one would renew it
    return all(
        record.dbapi_connection is None or record.dbapi_connection.has_unread()
        for record in waiting
    )


def test_long_statement_on_a_server_that_is_well(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server itself ends what takes too long, and the connection goes on."""
    monkeypatch.setattr(patience, "ANSWER", 60.0)
    with store.database.engine.connect() as connection:
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar()
        with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
            connection.execute(sa.text("SELECT pg_sleep(60)"))
        connection.rollback()
        assert connection.execute(sa.text("SELECT pg_backend_pid()")).scalar() == pid


def test_who_stops_in_a_transaction(store: SqlStore) -> None:
    """A process that stands still in a transaction does not keep its locks."""
    store.add_keys([api_key()])
    with store.database.engine.connect() as stopped:
        stopped.execute(sa.text("UPDATE keyrush_keys SET revoked_at = 1"))
        until(lambda: not isinstance(outcome(lambda: store.revoke("cred_a", NOW)), Exception))
        with pytest.raises(sa.exc.DBAPIError):
            stopped.execute(sa.text("SELECT 1"))
    assert store.key("cred_a") == api_key(revoked_at=NOW)


def test_sqlite_waits_no_longer(tmp_path: Path) -> None:
    """SQLite waits 2 seconds for a lock that another process holds, and then says so."""
    store = SqlStore(Database(f"sqlite:///{tmp_path}/keyrush.db"))
    with store.database.engine.begin() as other:
        assert other.exec_driver_sql("PRAGMA busy_timeout").scalar() == 2000
        assert isinstance(outcome(lambda: store.add_account(account())), StoreError)
    assert store.add_account(account())
    store.close()


def test_forked_child_leaves_connections_alone(postgres_url: str) -> None:
    """A child says nothing of, and nothing over, connections that it has inherited."""
    out = run(
        """
        import gc, os, sys
        from keyrush.store.opening import open_store

        store = open_store(sys.argv[1]).store
        kept = store.accounts()
        os.dup2(1, 2)  # a warning would be seen
        child = os.fork()
        if not child:
            gc.collect()
            assert store.accounts() == kept
            store.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert store.accounts() == kept
        store.close()
        """,
        postgres_url,
    )
    assert out == ""


# --- the time that is kept -----------------------------------------------------------------------


class Seconds:
    """Stands for the module `time`; only the test moves it."""

    def __init__(self) -> None:
        self.now = 5.0

    def monotonic(self) -> float:
        return self.now


def dialogue() -> Generator[Any, Any, str]:
    """What psycopg does: it waits, until more than a sign of life has come."""
    while (yield 1) != 2:
        pass
    return "answer"


def test_silence_is_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that takes its time is waited for as long as something comes."""
    seconds = Seconds()
    monkeypatch.setattr(patience, "time", seconds)
    steps = patience._watched(dialogue())  # noqa: SLF001  # the rule, without a server
    next(steps)
    for ready in (0, 1, 0, 1, 1):
        seconds.now += patience.ANSWER
        steps.send(ready)
    seconds.now += patience.ANSWER * 5
    with pytest.raises(StopIteration, match="answer"):
        steps.send(2)


def test_silence_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before the time, and soon after it."""
    seconds = Seconds()
    monkeypatch.setattr(patience, "time", seconds)
    steps = patience._watched(dialogue())  # noqa: SLF001  # the rule, without a server
    next(steps)
    seconds.now += patience.ANSWER
    steps.send(0)
    seconds.now += 0.001
    with pytest.raises(patience.ServerSilent, match=r"for 2\.0 seconds"):
        steps.send(0)
