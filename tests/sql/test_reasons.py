"""Why a database could not answer is said in one line, for a log, and no value with it (O22)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from keyrush.errors import DataError, StoreError
from keyrush.runtime.logs import log_fault
from keyrush.sql.engine import Database
from keyrush.store.sql import SqlStore
from tests.support.faults import cut, outcome
from tests.support.values import NOW, account


@contextmanager
def administered(url: str, *statements: str) -> Iterator[None]:
    """Do something to a server by way of another database."""
    elsewhere = sa.make_url(url).set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(elsewhere, autocommit=True) as admin:
        for statement in statements:
            admin.execute(statement.encode())
    yield


def test_causes_are_told_from_each_other(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A full server, a login that is forbidden, a database that was renamed and a statement that
    took too long are each said, in one line.
    """
    store = SqlStore(Database(postgres_url))
    name = store.database.engine.url.database
    with store.database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE guest LOGIN")
        connection.exec_driver_sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO guest")
    as_guest = store.database.engine.url.set(username="guest")
    guest = SqlStore(Database(as_guest.render_as_string(hide_password=False)))
    said: dict[str, object] = {}
    with administered(postgres_url, f"ALTER DATABASE {name} CONNECTION LIMIT 0"):
        said["too many connections"] = outcome(lambda: guest.account("acct_a"))
    with administered(
        postgres_url, f"ALTER DATABASE {name} CONNECTION LIMIT -1", "ALTER ROLE guest NOLOGIN"
    ):
        said["not permitted to log in"] = outcome(lambda: guest.account("acct_a"))
    cut(postgres_url)  # or it could not be renamed
    with administered(postgres_url, f"ALTER DATABASE {name} RENAME TO other"):
        said["does not exist"] = outcome(lambda: store.account("acct_a"))
    with administered(postgres_url, f"ALTER DATABASE other RENAME TO {name}"):
        assert store.account("acct_a") is None
    with store.database.engine.begin() as other:
        other.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        other.exec_driver_sql("LOCK TABLE keyrush_accounts")
        said["57014 canceling statement due to statement timeout"] = outcome(
            lambda: store.charge("acct_a", 1, "one", NOW)
        )
    for words, error in said.items():
        assert isinstance(error, StoreError)
        assert words in str(error)
        log_fault(words, error)
        assert words in caplog.messages[-1]
        assert "\n" not in caplog.messages[-1]
    with store.database.engine.begin() as connection:
        connection.exec_driver_sql("DROP OWNED BY guest")
        connection.exec_driver_sql("DROP ROLE guest")
    guest.close()
    store.close()


def test_sqlite_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """So it is with a file of SQLite: locked by another, or without a table."""
    caplog.set_level(logging.ERROR)
    store = SqlStore(Database(f"sqlite:///{tmp_path}/keyrush.db"))
    with store.database.engine.begin():
        failed = outcome(lambda: store.add_account(account()))
    assert str(failed) == "OperationalError from sqlite: SQLITE_BUSY database is locked"
    with store.database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE keyrush_usage")
    failed = outcome(lambda: store.usage("key:cred_a", "2026-11"))
    assert "SQLITE_ERROR no such table: keyrush_usage" in str(failed)
    store.close()


def test_no_values_are_said(postgres_url: str) -> None:
    """O22: what was given is in no message, though the server's own quotes it."""
    store = SqlStore(Database(postgres_url))
    store.add_account(account("acct_secret"))
    with store.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$"
            "BEGIN RAISE EXCEPTION 'secret %%', NEW.id; END $$; "
            "CREATE TRIGGER say BEFORE INSERT ON keyrush_accounts "
            "FOR EACH ROW EXECUTE FUNCTION say()"
        )
    failed = outcome(lambda: store.add_account(account("acct_b", created_at=NOW)))
    assert "P0001 RaiseException" in str(failed)
    assert "secret" not in str(failed)
    with pytest.raises(DataError) as caught:
        store.set_plan("acct_secret", "secret" * 12)
    assert "22001" in str(caught.value)
    assert "secret" not in str(caught.value)
    store.close()


def test_nothing_of_a_url_that_may_hold_a_secret(postgres_url: str) -> None:
    """O22: where an option of the URL may be a secret, the driver's words are left out."""
    store = SqlStore(Database(f"{postgres_url}&sslpassword=geheim"))
    name = store.database.engine.url.database
    with administered(postgres_url, f"ALTER DATABASE {name} RENAME TO other"):
        failed = outcome(lambda: store.account("acct_a"))
    with administered(postgres_url, f"ALTER DATABASE other RENAME TO {name}"):
        assert store.account("acct_a") is None
    assert str(failed) == "OperationalError from postgresql"
    store.close()
