"""A TCP proxy before a real server: it counts round trips, and can be slow, silent or gone."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


class Proxy:
    """Hands on what clients and the server say, and counts in `round_trips` how often a client
    speaks after the server did, or first; in `connections` those of clients.

    `port` is where it listens, `target` where the server does, a port or the path of a Unix
    socket, which may be changed; `delay` is how many seconds it keeps what clients say.
    """

    def __init__(self, target: int | str) -> None:
        self.target = target
        self.delay = 0.0
        self.round_trips = 0
        self.connections = 0
        self._flows = threading.Event()
        self._flows.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def freeze(self) -> None:
        """Hand nothing on until `thaw`; what is sent is accepted, as by a frozen server."""
        self._flows.clear()

    def thaw(self) -> None:
        """Hand on what has been held back, and what follows."""
        self._flows.set()

    def cut(self) -> None:
        """End all connections there are; new ones are accepted."""
        for one in [one for pair in self._pairs for one in pair]:
            _shut(one)

    def close(self) -> None:
        """End all connections, and accept none."""
        self.thaw()
        _shut(self._listener)
        self._threads[0].join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()
        for one in [one for pair in self._pairs for one in pair]:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            self.connections += 1
            try:
                server = _connect(self.target)
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            link = _Link(self, client, server)
            for work in (link.ask, link.answer):
                self._threads.append(threading.Thread(target=work))
                self._threads[-1].start()

    def wait(self) -> None:
        """Return when something may be handed on."""
        self._flows.wait()


class _Link:
    """A client's connection, and the one to the server that goes with it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._has_server_spoken = True
        for one in (client, server):
            if one.family != socket.AF_UNIX:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(65536):
                self._proxy.wait()
                if self._has_server_spoken:
                    self._has_server_spoken = False
                    self._proxy.round_trips += 1
                if self._proxy.delay:
                    time.sleep(self._proxy.delay)  # a slow network, not a wait for something
                self._server.sendall(data)
        _shut(self._server)

    def answer(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(65536):
                self._proxy.wait()
                self._has_server_spoken = True
                self._client.sendall(data)
        _shut(self._client)


def _connect(target: int | str) -> socket.socket:
    if isinstance(target, int):
        return socket.create_connection(("127.0.0.1", target))
    server = socket.socket(socket.AF_UNIX)
    server.connect(target)
    return server


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(target: int | str) -> Iterator[Proxy]:
    """A proxy before the server at a port, or at a Unix socket."""
    opened = Proxy(target)
    try:
        yield opened
    finally:
        opened.close()
