"""What goes wrong with a PostgreSQL server: it says nothing any more, or ends connections."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import sqlalchemy as sa

PATIENCE = 90  # seconds until something that should happen is taken not to


def until(condition: Callable[[], Any]) -> Any:
    """What `condition` returns, once it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it has not come"
        time.sleep(0.001)  # leaves the core to whoever should do it
    return found


def outcome(call: Callable[[], object]) -> object:
    """What `call` returns or raises; a failed test if it does not end."""
    came: list[object] = []

    def run() -> None:
        try:
            came.append(call())
        except Exception as error:
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert came, "it hangs"
    return came[0]


def cut(url: str) -> None:
    """End all connections to a database, and wait until their processes are gone."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    end = sa.text(
        "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with engine.connect() as connection:
        pids = connection.execute(end).scalars().all()
    engine.dispose()
    assert pids
    until(lambda: not any(is_there(pid) for pid in pids))


def is_there(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Proxy:
    """Stands before a server's Unix socket, and can stop handing on what either side says.

    Then it is as with a frozen server: what is sent is accepted, and nothing comes back.
    """

    def __init__(self, url: str, folder: str) -> None:
        there = parse_qs(urlsplit(url).query)["host"][0]
        #: The server's URL, by way of here.
        self.url = url.replace(there, folder)
        self._server = f"{there}/.s.PGSQL.5432"
        self._flows = threading.Event()
        self._flows.set()
        self._mute_after = b""
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/.s.PGSQL.5432")
        self._listener.listen(64)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def freeze(self) -> None:
        """Hand nothing on until `thaw`, also of new connections."""
        self._flows.clear()

    def freeze_after(self, word: bytes) -> None:
        """Hand this word on to the server, and then nothing until `thaw`."""
        self._mute_after = word

    def thaw(self) -> None:
        """Hand on what has been held back, and what follows."""
        self._mute_after = b""
        self._flows.set()

    def close(self) -> None:
        """End all connections."""
        self.thaw()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for one in self._sockets:
            _shut(one)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                thread = threading.Thread(target=self._hand_on, args=(source, sink))
                self._threads.append(thread)
                thread.start()

    def _hand_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                if self._mute_after and self._mute_after in data:
                    self.freeze()
                sink.sendall(data)
        self._flows.wait()
        _shut(sink)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
