"""WebSockets and streams that are open when their key is revoked or expires: they end, too."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from keyrush import Gate, KeyrushMiddleware, wsgi
from keyrush.core.identity import Session
from keyrush.core.times import SECOND
from keyrush.gate.connections import Connections
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.clock import now_ms
from tests.conftest import CHEAP, Clock, settings
from tests.support.calls import Asgi, Sent, environ_of
from tests.support.serving import serve
from tests.support.values import NOW, api_key

SOON = 30.0  # seconds; for a busy machine: the promise is one

# --- the watch -----------------------------------------------------------------------------------


class Open:
    """A connection that notes its end."""

    def __init__(self, key_id: str | None = "cred_a", ends_at: int = 2**62) -> None:
        self.key_id = key_id
        self.session: Session | None = None
        self.account_id = "acct_a"
        self.ends_at = ends_at
        self.ended = 0

    def end(self) -> None:
        self.ended += 1


class Keys:
    """A store of one key, whose look-ups are counted."""

    def __init__(self) -> None:
        self.found: Any = api_key()
        self.looked_up = 0
        self.is_away = False

    def key(self, _: str) -> Any:
        self.looked_up += 1
        if self.is_away:
            raise ConnectionError("away")
        return self.found


class Watched:
    """Connections over `Keys`, with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = NOW
        self.is_told = True
        self.store = Keys()
        self.connections = Connections(
            self.store,  # type: ignore[arg-type]  # all that is asked of it
            Circuit("the store", lambda: self.now / 1000),
            lambda: self.now,
            ttl=5000,
            is_told=lambda: self.is_told,
        )

    def look(self) -> None:
        self.connections.look()


def test_idle_connections_cost_nothing() -> None:
    """What is open is looked up once when it opens, and then only when its account has changed."""
    watched = Watched()
    many = [Open() for _ in range(100)]
    for one in many:
        watched.connections.add(one)
    for _ in range(100):
        watched.now += 1000
        watched.look()
    assert watched.store.looked_up == 1  # a key is looked up once, however much is open by it
    watched.connections.drop({"acct_b"})
    watched.look()
    assert watched.store.looked_up == 1
    watched.connections.drop({"acct_a"})
    watched.look()
    assert watched.store.looked_up == 2
    watched.connections.drop(None)
    watched.look()
    assert watched.store.looked_up == 3
    assert not any(one.ended for one in many)


def test_without_a_key_only_time_ends_it() -> None:
    """R5: what a caller without a key has opened is looked up nowhere, and ends when its time is
    over.
    """
    watched, one = Watched(), Open(key_id=None, ends_at=NOW + 500)
    watched.store.found = None
    watched.connections.add(one)
    watched.connections.drop(None)
    watched.look()
    assert (watched.store.looked_up, one.ended) == (0, 0)
    watched.now += 500
    watched.look()
    assert one.ended


@pytest.mark.parametrize("change", ["revoked", "gone", "expired", "retired"])
def test_it_ends_with_its_key(change: str) -> None:
    """R5, R7: a key that is revoked, gone, or has ended takes with it what is open."""
    watched, one, other = Watched(), Open(), Open("cred_b")
    watched.connections.add(one)
    watched.look()
    watched.store.found = {
        "revoked": api_key(revoked_at=NOW),
        "gone": None,
        "expired": api_key(expires_at=NOW + 500),
        "retired": api_key(retires_at=NOW + 500),
    }[change]
    watched.connections.drop({"acct_a"})
    watched.look()
    if change in {"expired", "retired"}:
        assert not one.ended
        watched.now += 500
        watched.look()
    assert one.ended
    assert not other.ended


def test_expiry_needs_no_look_up() -> None:
    """R5: a key that ends by itself ends what is open at its very millisecond."""
    watched, one = Watched(), Open(ends_at=NOW + 1000)
    watched.connections.add(one)
    watched.now += 999
    watched.look()
    assert not one.ended
    watched.now += 1
    watched.store.found = None
    looked_up = watched.store.looked_up
    watched.look()
    assert one.ended
    assert watched.store.looked_up == looked_up


def test_without_news_it_is_looked_up_now_and_then() -> None:
    """A store that tells of no changes is asked every CACHE_TTL, as for new requests."""
    watched, one = Watched(), Open()
    watched.is_told = False
    watched.connections.add(one)
    for _ in range(100):
        watched.now += 100
        watched.look()
    assert 2 <= watched.store.looked_up <= 4
    watched.store.found = None
    watched.now += 5000
    watched.look()
    assert one.ended


def test_an_outage_ends_nothing_and_is_made_up_for() -> None:
    """S19: while the store is away nothing is taken for revoked; afterwards it is looked up."""
    watched, one = Watched(), Open()
    watched.connections.add(one)
    watched.store.is_away = True
    watched.look()
    assert not one.ended
    watched.store.is_away, watched.store.found = False, api_key(revoked_at=NOW)
    watched.now += 1000
    watched.look()
    assert one.ended


def test_what_has_ended_is_forgotten() -> None:
    """A connection that is removed is neither ended nor kept."""
    watched, one = Watched(), Open()
    watched.connections.add(one)
    watched.connections.remove(one)
    watched.store.found = None
    watched.look()
    assert not one.ended
    assert len(watched.connections) == 0


# --- over sockets --------------------------------------------------------------------------------


async def idle_stream(request: Any) -> StreamingResponse:
    """One event, and then nothing for a long time."""

    async def events() -> Any:
        yield b"data: hello\n\n"
        await asyncio.sleep(60)
        yield b"data: too late\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def busy_download(request: Any) -> StreamingResponse:
    """A body of a promised length that takes its time."""

    async def parts() -> Any:
        for _ in range(6000):
            yield b"x" * 10
            await asyncio.sleep(0.01)

    return StreamingResponse(parts(), headers={"Content-Length": "60000"})


async def echo(socket: WebSocket) -> None:
    """Says hello, and repeats what it is told."""
    await socket.accept()
    await socket.send_text("hello")
    async for text in socket.iter_text():
        await socket.send_text(text)


async def mute(socket: WebSocket) -> None:
    """Says hello, and then neither listens nor speaks."""
    await socket.accept()
    await socket.send_text("hello")
    await asyncio.sleep(60)


def served(gate: Gate) -> Any:
    """The routes below behind the gate, by a server that waits for none of them when it stops."""
    app = KeyrushMiddleware(Starlette(routes=ROUTES), gate=gate)
    return serve(app, timeout_graceful_shutdown=1)


ROUTES = [
    Route("/stream", idle_stream),
    Route("/download", busy_download),
    WebSocketRoute("/echo", echo),
    WebSocketRoute("/mute", mute),
]


class Ahead:
    """The machine's clock, which a test may put forward."""

    by = 0  # milliseconds

    def __call__(self) -> int:
        return now_ms() + self.by


@pytest.fixture
def ahead() -> Ahead:
    """The clock of `gate`."""
    return Ahead()


@pytest.fixture
def gate(url: str, ahead: Ahead) -> Iterator[Gate]:
    """A gate over SQLite and PostgreSQL; the same database is open elsewhere, too."""
    values = {"store_url": url, "pepper": "p" * 32, **CHEAP}
    gate = Gate.open(settings(**values), clock=ahead)
    yield gate
    gate.close()


@pytest.fixture
def elsewhere(url: str, gate: Gate) -> Iterator[Gate]:
    """Another process's gate, over the same database."""
    other = Gate.open(settings(store_url=url, pepper="p" * 32))
    yield other
    other.close()


def made(gate: Gate, **options: Any) -> Any:
    gate.accounts.create("acct_a")
    return gate.keys.create("acct_a", "k", **options)


def end(key: Any, ending: str, gate: Gate, elsewhere: Gate, ahead: Ahead) -> None:
    """Have a key end that is in use."""
    if ending == "expired":
        ahead.by = 60 * SECOND
    else:
        (gate if ending == "revoked" else elsewhere).keys.revoke(key.key.id)


@pytest.mark.parametrize("ending", ["revoked", "revoked elsewhere", "expired"])
def test_an_idle_event_stream_ends(gate: Gate, elsewhere: Gate, ahead: Ahead, ending: str) -> None:
    """R5, R7: within a second of the end of its key a stream ends, though its app says nothing."""
    with served(gate) as url, httpx2.Client(timeout=SOON) as client:
        key = made(gate, expires_at=gate.clock() + 60 * SECOND)
        with client.stream("GET", f"{url}/stream", headers={"X-API-Key": key.text}) as reply:
            lines = reply.iter_lines()
            assert next(lines) == "data: hello"
            end(key, ending, gate, elsewhere, ahead)
            assert "data: too late" not in list(lines)
    assert len(gate.connections) == 0


@pytest.mark.parametrize("path", ["echo", "mute"])
@pytest.mark.parametrize("ending", ["revoked", "revoked elsewhere", "expired"])
def test_a_websocket_ends(
    gate: Gate, elsewhere: Gate, ahead: Ahead, ending: str, path: str
) -> None:
    """S70: within a second of the end of its key a WebSocket is closed with 1008."""
    with served(gate) as url:
        key = made(gate, expires_at=gate.clock() + 60 * SECOND)
        headers = {"X-API-Key": key.text}
        with connect(f"{url}/{path}".replace("http", "ws"), additional_headers=headers) as socket:
            assert socket.recv() == "hello"
            end(key, ending, gate, elsewhere, ahead)
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=SOON)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008


def test_a_body_of_promised_length_breaks_off(gate: Gate, elsewhere: Gate) -> None:
    """R7: a download by a key that is revoked meanwhile is cut, as it can't end early."""
    key = made(gate)
    with (
        served(gate) as url,
        httpx2.Client(timeout=SOON) as client,
        client.stream("GET", f"{url}/download", headers={"X-API-Key": key.text}) as reply,
    ):
        parts = reply.iter_raw()
        next(parts)
        gate.keys.revoke(key.key.id)
        with pytest.raises(httpx2.RemoteProtocolError):
            list(parts)


def test_other_keys_go_on(gate: Gate, elsewhere: Gate) -> None:
    """A change to the account, or to another key of it, ends nothing."""
    key = made(gate)
    other = gate.keys.create("acct_a", "other")
    with served(gate) as url:
        headers = {"X-API-Key": key.text}
        with connect(f"{url}/echo".replace("http", "ws"), additional_headers=headers) as socket:
            assert socket.recv() == "hello"
            elsewhere.keys.revoke(other.key.id)
            elsewhere.accounts.set_plan("acct_a", "pro")
            with pytest.raises(TimeoutError):
                socket.recv(timeout=1)
            socket.send("still there")
            assert socket.recv(timeout=SOON) == "still there"


# --- what is no stream ---------------------------------------------------------------------------


def test_plain_answers_are_not_watched(clock: Clock) -> None:
    """An answer in one piece is never entered among what is open."""
    gate = Gate.open(settings(), clock=clock)
    key = made(gate).text
    entered: list[object] = []
    gate.connections.add = entered.append  # type: ignore[method-assign, assignment]  # counts

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    Asgi(gate, app).send(Sent(headers=[("X-API-Key", key)]))
    assert not entered
    gate.close()


# --- WSGI ----------------------------------------------------------------------------------------


def test_a_wsgi_stream_ends_with_its_next_item(clock: Clock) -> None:
    """R7: a stream of a WSGI app ends before the next item once its key has ended."""
    gate = Gate.open(settings(), clock=clock)
    key = made(gate)
    closed = threading.Event()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        try:
            while True:
                yield b"data: hello\n\n"
        finally:
            closed.set()

    environ = environ_of(Sent(headers=[("X-API-Key", key.text)]))
    passage = wsgi.KeyrushMiddleware(app, gate=gate)(environ, lambda *_: lambda _: None)
    items = iter(passage)
    for _ in range(10):
        assert next(items)
    gate.connections.look()
    assert next(items)
    gate.keys.revoke(key.key.id)
    gate.connections.look()
    assert list(items) == []
    passage.close()  # type: ignore[attr-defined]  # as servers do
    assert closed.is_set()
    assert len(gate.connections) == 0
    gate.close()


def test_a_forked_child_watches_over_nothing_of_its_parent() -> None:
    """What a parent has open is the parent's to end."""
    watched = Watched()
    watched.connections.add(Open())
    watched.connections._forget()  # noqa: SLF001  # as in the child
    assert len(watched.connections) == 0
