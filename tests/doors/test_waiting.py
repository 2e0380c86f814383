"""Requests that wait for their turn, and clients that leave or send meanwhile: over ASGI by hand,
and over real servers.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from keyrush import Gate, KeyrushMiddleware
from keyrush.asgi.listening import Listening
from tests.conftest import Clock, settings
from tests.gate.test_waiting import LEFT, PATIENCE, Watched
from tests.support.calls import Sent, run, scope_of
from tests.support.serving import serve, serve_hypercorn, serve_process

RULES = [{"path": "/export", "limits": ["1/minute"], "wait": "30s"}]

Message = dict[str, Any]

#: Serves an app, at a URL.
Server = Callable[[Any], AbstractContextManager[str]]


class Door:
    """The middleware over a gate whose clock stands still, and an app that notes what it gets."""

    def __init__(self, gate: Gate, clock: Clock, reads: int = 0) -> None:
        gate.accounts.create("acct_a")
        self.key = gate.keys.create("acct_a", "agent").text
        self.gate, self.clock = gate, clock
        self.lines = gate.finishing.waiting.lines
        self.got: list[Message] = []
        self.sent: list[Message] = []
        self._reads = reads
        self.middleware: Any = KeyrushMiddleware(self._app, gate=gate)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.got += [await receive() for _ in range(self._reads)]
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            self.got.append(await receive())
            await send({"type": "websocket.close", "code": 1000})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    def scope(self, **more: Any) -> dict[str, Any]:
        sent = Sent("/export", headers=[("x-api-key", self.key)])
        return scope_of(sent, **more)

    async def call(self, receive: Any, **more: Any) -> None:
        async def send(message: Any) -> None:
            self.sent.append(message)

        await self.middleware(self.scope(**more), receive, send)

    async def use_up(self) -> None:
        """Take the one request of the minute, a third of it before its end."""
        reads, self._reads = self._reads, 0
        await self.call(nothing)
        self._reads = reads
        self.sent.clear()
        self.clock.advance(60_000 - LEFT)

    async def until_waiting(self) -> None:
        while not len(self.lines):
            await anyio.lowlevel.checkpoint()

    async def until_left(self, call: Awaitable[None]) -> None:
        """Make a call that waits, until it does not any more."""
        entered = self.lines._number  # noqa: SLF001  # how many there have been
        await call
        assert self.lines._number == entered + 1  # noqa: SLF001  # as above
        assert not len(self.lines)

    def pass_time(self) -> None:
        self.clock.advance(LEFT + 1)
        self.lines.ring()


async def nothing() -> Message:
    """A client that sends nothing more."""
    await anyio.sleep_forever()
    raise AssertionError


def coming(*messages: Message) -> Callable[[], Awaitable[Message]]:
    """A client that sends these, one each time that somebody receives, and then nothing."""
    left = list(messages)

    async def receive() -> Message:
        return left.pop(0) if left else await nothing()

    return receive


@pytest.fixture
def waiting_gate(clock: Clock) -> Iterator[Gate]:
    """A gate that lets requests wait."""
    gate = Gate.open(settings(rules=RULES), clock=clock)
    yield gate
    gate.close()


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


@pytest.mark.usefixtures("backend")
def test_a_client_that_leaves(waiting_gate: Gate, clock: Clock) -> None:
    """A client that leaves frees its place at once: nobody is answered, the app does not run, and
    whoever is next in the line has its turn.
    """
    door = Door(waiting_gate, clock)

    async def main() -> None:
        await door.use_up()
        await door.until_left(door.call(coming(part(b"", more=False), GONE)))
        assert door.sent == []
        async with anyio.create_task_group() as group:
            # Cancelled, as some servers do, it is the same.
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(door.call, coming(part(b"", more=False)))
                    await door.until_waiting()
                    scope.cancel()
            assert not len(door.lines)
            group.start_soon(door.call, nothing)
            await door.until_waiting()
            door.pass_time()
        assert door.sent[0]["status"] == 200

    run(main())


@pytest.mark.usefixtures("backend")
def test_the_body_is_handed_on(waiting_gate: Gate, clock: Clock) -> None:
    """S71: what a client sends while its request waits the app gets as it came, in its order, and
    then what comes later.
    """
    messages = [part(b"one"), part(b"two"), part(b"three", more=False), GONE]
    door = Door(waiting_gate, clock, reads=4)

    async def main() -> None:
        await door.use_up()
        later = anyio.Event()
        left = list(messages)

        async def receive() -> Message:
            if len(left) == 2:  # what comes after its turn has come
                await later.wait()
            return left.pop(0)

        async with anyio.create_task_group() as group:
            group.start_soon(door.call, receive)
            await door.until_waiting()
            while len(left) != 2:
                await anyio.lowlevel.checkpoint()
            door.pass_time()
            while len(door.lines):
                await anyio.lowlevel.checkpoint()
            later.set()
        assert door.got == messages
        assert door.sent[0]["status"] == 200

    run(main())


@pytest.mark.usefixtures("backend")
def test_little_is_held(waiting_gate: Gate, clock: Clock) -> None:
    """Of a body that comes while its request waits no more is held than a server reads ahead, in
    large parts or in small ones.
    """
    for size in (40_000, 1):
        door_of = {"count": 0}

        async def receive(size: int = size, count: dict[str, int] = door_of) -> Message:
            count["count"] += 1
            await anyio.lowlevel.checkpoint()
            return part(b"x" * size)

        async def main(receive: Any = receive) -> None:
            listening = Listening(scope_of(Sent()), receive)
            listening.watch(lambda: None)
            while listening._is_listening:  # noqa: SLF001  # until it has had enough
                await anyio.lowlevel.checkpoint()
            handed_on = listening.handed_on()
            for _ in range(100):
                assert (await handed_on())["type"] == "http.request"
            listening.end()

        run(main())
        assert door_of["count"] == 100
    del waiting_gate, clock


@pytest.mark.usefixtures("backend")
def test_who_waits_to_be_asked(waiting_gate: Gate, clock: Clock) -> None:
    """RFC 9110 §10.1.1: a client that expects 100 Continue is not asked for its body by waiting."""
    door = Door(waiting_gate, clock)

    async def forbidden() -> Message:
        raise AssertionError("nobody has asked for it")

    async def main() -> None:
        await door.use_up()
        headers = [*door.scope()["headers"], (b"expect", b"100-continue")]
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: door.call(forbidden, headers=headers))
            await door.until_waiting()
            door.pass_time()
        assert door.sent[0]["status"] == 200

    run(main())


@pytest.mark.usefixtures("backend")
def test_what_receive_raises(waiting_gate: Gate, clock: Clock) -> None:
    """What a server's `receive` raises meanwhile the app gets, when it receives."""
    door = Door(waiting_gate, clock, reads=1)

    async def failing() -> Message:
        raise ConnectionResetError("as a server says")

    async def pass_time() -> None:
        await door.until_waiting()
        door.pass_time()

    async def main() -> None:
        await door.use_up()
        async with anyio.create_task_group() as group:
            group.start_soon(pass_time)
            with pytest.raises(ConnectionResetError):
                await door.call(failing)

    run(main())


@pytest.mark.usefixtures("backend")
def test_websockets(waiting_gate: Gate, clock: Clock) -> None:
    """S70: a handshake waits, too; the app then receives `websocket.connect` and what follows, and
    one whose client leaves is over.
    """
    door = Door(waiting_gate, clock, reads=1)
    connect, text = {"type": "websocket.connect"}, {"type": "websocket.receive", "text": "a"}
    left = {"type": "websocket.disconnect", "code": 1006}

    async def main() -> None:
        await door.use_up()
        await door.until_left(door.call(coming(connect, left), type="websocket"))
        assert door.sent == []
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: door.call(coming(connect, text), type="websocket"))
            await door.until_waiting()
            door.pass_time()
        assert door.got == [connect, text]
        assert [message["type"] for message in door.sent] == ["websocket.accept", "websocket.close"]

    run(main())


def test_a_websocket_that_is_refused_in_the_end(waiting_gate: Gate, clock: Clock) -> None:
    """S70: of a handshake that has waited in vain `websocket.connect` is received first."""
    door = Door(waiting_gate, clock)

    async def main() -> None:
        await door.use_up()
        async with anyio.create_task_group() as group:
            scope = {"type": "websocket", "extensions": {"websocket.http.response": {}}}
            group.start_soon(lambda: door.call(coming({"type": "websocket.connect"}), **scope))
            await door.until_waiting()
            waiting_gate.finishing.waiting.release()
        assert door.sent[0]["status"] == 429

    run(main())


# --- over real servers ---


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


@pytest.mark.parametrize("server", [serve, serve_hypercorn])
def test_a_client_that_hangs_up(waiting_gate: Gate, clock: Clock, server: Server) -> None:
    """Over real servers: a client that hangs up in the middle of its body, while its request waits,
    frees its place, and no app runs for it; who waits beside it is answered.
    """
    door = Door(waiting_gate, clock)
    lines = waiting_gate.finishing.waiting.lines = Watched()
    door.lines = lines
    run(door.use_up())
    seen: list[str] = []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(scope["query_string"].decode())
        await app(scope, receive, send)

    with server(KeyrushMiddleware(noting, gate=waiting_gate)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as leaving:
            about = ["POST /export?a HTTP/1.1", "Host: x", f"X-API-Key: {door.key}"]
            leaving.sendall("\r\n".join([*about, "Content-Length: 9", "", "ab"]).encode())
            assert lines.stood.acquire(timeout=PATIENCE)
        assert lines.left.acquire(timeout=PATIENCE)
        with ThreadPoolExecutor() as pool, httpx.Client() as client:
            headers = {"x-api-key": door.key}
            reply = pool.submit(client.post, f"{url}/export?b", headers=headers, content=b"abc")
            assert lines.stood.acquire(timeout=PATIENCE)
            door.pass_time()
            assert reply.result(PATIENCE).status_code == 200
    assert seen == ["b"]


@pytest.mark.parametrize(
    ("server", "place"),
    [
        (serve, None),
        (serve, "postgres_url"),
        (serve, "valkey_url"),
        (serve_hypercorn, None),
        (serve_hypercorn, "valkey_url"),
    ],
)
def test_by_the_clock(server: Server, place: str | None, request: pytest.FixtureRequest) -> None:
    """R15: over real servers, wherever windows are counted, each request on one connection comes
    when its window is ready, and no earlier.
    """
    where: dict[str, Any] = {}
    if place is not None:
        url = request.getfixturevalue(place)
        where = {"store_url": url} if place == "postgres_url" else {"limiter_url": url}
    rules = [{"path": "/export", "limits": ["1/second"], "wait": "10s"}]
    gate = Gate.open(settings(rules=rules, pepper="p" * 32, **where))
    gate.accounts.create("acct_a")
    headers = {"x-api-key": gate.keys.create("acct_a", "agent").text}
    with server(KeyrushMiddleware(app, gate=gate)) as url, httpx.Client() as client:
        client.get(f"{url}/export", headers=headers)
        replies = [client.get(f"{url}/export", headers=headers) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [200, 200]
    waited = [float(reply.headers["x-ratelimit-waited"]) for reply in replies]
    assert all(0 < seconds < 10 for seconds in waited)
    gate.close()


def test_a_server_that_is_stopped(tmp_path: Path) -> None:
    """Over uvicorn, told to stop by SIGTERM: who waits is answered there and then, and the server
    ends without waiting for them.
    """
    (tmp_path / "service.py").write_text(SERVICE)
    url = f"sqlite:///{tmp_path}/keyrush.db"
    gate = Gate.open(settings(store_url=url))
    gate.accounts.create("acct_a")
    headers = {"x-api-key": gate.keys.create("acct_a", "agent").text}
    gate.close()
    env = {"KEYRUSH_STORE_URL": url}
    with (
        serve_process("service:app", env=env, folder=tmp_path, stop=signal.SIGTERM) as server,
        ThreadPoolExecutor() as pool,
        httpx.Client(timeout=PATIENCE) as client,
    ):
        get = partial(client.get, f"{server.url}/export", headers=headers)
        replies = [pool.submit(get) for _ in range(3)]
        while client.get(f"{server.url}/waiting").text != "2":
            pass
        server.process.send_signal(signal.SIGTERM)
        found = [reply.result(PATIENCE) for reply in replies]
    assert sorted(reply.status_code for reply in found) == [200, 429, 429]
    assert all(int(r.headers["retry-after"]) >= 1 for r in found if r.status_code == 429)


#: A service whose clock stands still, so that requests wait for 20 seconds; it tells how many do.
SERVICE = """
from keyrush import Gate, KeyrushMiddleware, Settings

settings = Settings(
    public_paths=["/waiting"],
    rules=[{"path": "/export", "limits": ["1/minute"], "wait": "30s"}],
)


async def answer(scope, receive, send):
    if scope["type"] == "http":
        body = b"%d" % len(app.gate.finishing.waiting.lines)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


app = KeyrushMiddleware(answer, gate=Gate.open(settings, clock=lambda: 1_795_000_060_000))
"""
