"""`max_concurrent` between real servers: shared exactly, and lost by those that are gone."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from socket import SHUT_RDWR
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.long.chaos import Place
from tests.support.faults import until
from tests.support.served import lasting
from tests.support.serving import serve, serve_process

MOST = 6

PLANS = {"starter": {"limits": "unlimited", "max_concurrent": MOST}}

uvicorn = partial(serve_process, "tests.support.served:lasting", "--factory", stop=signal.SIGTERM)


class Request:
    """A request that goes on until it is aborted; 0 is the status of one that was not answered."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self.status = 0
        with suppress(OSError, http.client.HTTPException):
            self._connection.request("GET", "/lasting", headers={"X-API-Key": key})
            self._response = self._connection.getresponse()
            self.status = self._response.status
        if self.status != 200:
            self.abort()

    def abort(self) -> None:
        """Leave, without another word."""
        self._connection.close()


class Client:
    """Sends to servers, and keeps what goes on."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.going: list[Request] = []

    def begin(self, url: str) -> int:
        """The status of one more."""
        request = Request(url, self.key)
        if request.status == 200:
            self.going.append(request)
        return request.status

    def fill(self, url: str, number: int) -> None:
        """Begin more until so many go on."""
        until(lambda: len(self.going) >= number or self.begin(url) < 0)

    def abort(self) -> None:
        """Leave all that goes on."""
        for request in self.going:
            request.abort()
        self.going.clear()


@pytest.fixture(params=["sqlite", "postgres", "valkey"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The default, and what machines share."""
    if request.param == "postgres":
        return Place(request.getfixturevalue("postgres_url"))
    limiter = request.getfixturevalue("valkey_url") if request.param == "valkey" else "store"
    return Place(f"sqlite:///{tmp_path}/keyrush.db", limiter)


@pytest.fixture
def own(place: Place) -> Iterator[str]:
    """A server in this process."""
    gate = place.gate(plans=PLANS, activity="off")
    with serve(lasting(gate)) as url:
        yield url


def test_servers_share_and_lose(place: Place, own: str) -> None:
    """R7: three servers let as many requests go on as one would. Clients that leave make room, and
    so do servers that are killed or stopped: others have their slots within 10 seconds.
    """
    client = Client(place.make_key())
    env = {**place.env, "KEYRUSH_PLANS": json.dumps(PLANS), "KEYRUSH_ACTIVITY": "off"}
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        one, two = pool.map(lambda _: stack.enter_context(uvicorn(env=env)), range(2))
        urls = [one.url, two.url, own]
        statuses = list(pool.map(lambda number: client.begin(urls[number % 3]), range(30)))
        assert sorted(statuses) == [200] * MOST + [429] * 24
        client.abort()
        client.fill(one.url, 3)
        client.fill(two.url, MOST)
        assert client.begin(own) == 429
        one.process.kill()
        two.process.send_signal(signal.SIGSTOP)
        gone, client.going = client.going, []
        try:
            client.fill(own, MOST)
            assert client.begin(own) == 429
        finally:
            two.process.send_signal(signal.SIGCONT)
        for request in gone:
            request.abort()
        client.abort()
        client.fill(two.url, MOST)
        client.abort()


def socket_of(url: str, key: str) -> ClientConnection | int:
    """An open WebSocket, or the status that it is refused with."""
    try:
        socket = connect(f"{url}/socket", additional_headers={"X-API-Key": key}, legacy=True)
    except InvalidStatus as refused:
        return refused.response.status_code
    socket.recv()
    return socket


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_sockets(place: Place, own: str) -> None:
    """R7: a WebSocket counts while it is open, however it ends."""
    key, url = place.make_key(), own.replace("http", "ws")
    opened = [socket_of(url, key) for _ in range(MOST + 2)]
    sockets = [it for it in opened if isinstance(it, ClientConnection)]
    assert opened[MOST:] == [429, 429]
    assert len(sockets) == MOST
    sockets[0].close()
    sockets[1].socket.shutdown(SHUT_RDWR)  # without a word

    def has_all_again() -> bool:
        again = socket_of(url, key)
        if isinstance(again, ClientConnection):
            sockets.append(again)
        return len(sockets) == MOST + 2

    until(has_all_again)
    for socket in sockets:
        socket.close()
