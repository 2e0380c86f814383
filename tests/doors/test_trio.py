"""On trio: by anyio's test client, and behind hypercorn with its trio workers."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
import httpx2
import hypercorn.config
import hypercorn.trio
import pytest
import trio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from keyrush import Gate, KeyrushMiddleware
from keyrush.runtime.bridge import call_soon, in_event_loop, is_cancellation, result_of, start_task
from keyrush.runtime.workers import Workers
from tests.conftest import Clock, settings
from tests.runtime.test_bridge import AsyncLimiter, AsyncStore, MixedStore
from tests.support.calls import Asgi, Sent, asgi_call, scope_of

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

PLANS = {"only": {"limits": ["3/minute", "100/hour"], "monthly_quota": 100}}
SOON = 5.0  # seconds; for a busy machine: the promise is one

RULES = [{"path": "/paid", "credits": 3}]
PEPPER = "0123456789abcdef0123456789abcdef"


@pytest.fixture(
    params=["memory", "sqlite", "sqlite exact", "redis", "redis exact", "limits", "own"]
)
def opened(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Gate]:
    """A gate with each kind of limiter, and an account with 5 credits."""
    kind, _, mode = request.param.partition(" ")
    limiter: Any = None
    url = {"redis": "", "limits": "limits+memory://", "memory": "memory://"}.get(kind, "store")
    if kind == "redis":
        url = request.getfixturevalue("valkey_url")
    if kind == "own":
        limiter = AsyncLimiter()
    values = {"store_url": f"sqlite:///{tmp_path}/k.db", "limiter_url": url, "plans": PLANS}
    gate = Gate.open(
        settings(**values, rules=RULES, pepper=PEPPER, limiter_mode=mode or "leased"),
        limiter=limiter,
    )
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 5)
    yield gate
    gate.close()


def on_trio(function: Callable[..., Any], *values: Any) -> Any:
    """What the coroutine function brings, in an event loop of trio's."""
    return anyio.run(function, *values, backend="trio")


def test_every_limiter(opened: Gate) -> None:
    """A cold key, a warm one, a price, a limit and a revocation, whatever limits."""
    made = opened.keys.create("acct_a", "k")
    middleware = Asgi(opened).middleware

    async def get(path: str = "/") -> int:
        scope = scope_of(Sent(path, [("X-API-Key", made.text)]))
        return (await asgi_call(middleware, scope)).status

    async def run() -> None:
        assert await get() == 200
        assert await get("/paid") == 200
        assert await get("/paid") == 402
        assert await get() == 200
        assert await get() == 429
        opened.keys.revoke(made.key.id)
        assert await get() == 401

    on_trio(run)
    assert opened.accounts.get("acct_a").balance == 2


def test_many_cold_keys_at_once(opened: Gate) -> None:
    """S35: requests in flight together pass exactly as often as the limit allows."""
    made = opened.keys.create("acct_a", "k").text
    middleware = Asgi(opened).middleware
    statuses: list[int] = []

    async def get() -> None:
        scope = scope_of(Sent("/", [("X-API-Key", made)]))
        statuses.append((await asgi_call(middleware, scope)).status)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(get)

    on_trio(run)
    assert (statuses.count(200), statuses.count(429)) == (3, 17)


@pytest.mark.parametrize("store", [AsyncStore, MixedStore], ids=["async", "mixed"])
def test_own_store(store: Any, clock: Clock) -> None:
    """Coroutines of a store of one's own run in a loop of asyncio's, off trio's thread."""
    gate = Gate.open(settings(pepper=PEPPER), store=store(), clock=clock)
    gate.accounts.create("acct_a")
    made = gate.keys.create("acct_a", "k").text

    async def run() -> int:
        scope = scope_of(Sent("/", [("X-API-Key", made)]))
        with pytest.raises(RuntimeError, match="block the event loop"):
            gate.store.find(("x",), "2026-11")
        return (await asgi_call(Asgi(gate).middleware, scope)).status

    assert on_trio(run) == 200
    gate.close()


@BACKENDS
@pytest.mark.parametrize(("begins", "balance"), [(True, 2), (False, 5)])
def test_cancelled_in_the_app(backend: str, gate: Gate, begins: bool, balance: int) -> None:
    """O11: what a request was charged is kept where its client leaves in the middle of the
    answer, and given back where it leaves before.
    """
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 5)
    made = gate.keys.create("acct_a", "k").text

    async def run() -> None:
        waits = anyio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await scope["keyrush"].charge_async(3)
            if begins:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
            waits.set()
            await anyio.sleep_forever()

        scope = scope_of(Sent("/", [("X-API-Key", made)]))
        async with anyio.create_task_group() as group:
            group.start_soon(asgi_call, KeyrushMiddleware(app, gate=gate), scope)
            await waits.wait()
            group.cancel_scope.cancel()

    anyio.run(run, backend=backend)
    gate.workers.close()  # waits for what was begun
    assert gate.accounts.get("acct_a").balance == balance


# --- threads and loops ---------------------------------------------------------------------------


@BACKENDS
def test_cancelled_while_a_thread_works(backend: str) -> None:
    """What a thread has done for a task that is cancelled is undone; what must be, is done."""
    workers = Workers()
    done: list[str] = []
    go = threading.Event()

    async def run() -> None:
        begun, soon = anyio.Event(), call_soon()

        def work() -> str:
            soon(begun.set)
            assert go.wait(10)
            return "work"

        async with anyio.create_task_group() as group:
            group.start_soon(partial(workers.run, "io", work, undo=done.append))
            await begun.wait()
            group.cancel_scope.cancel()
        go.set()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await workers.run("io", done.append, "must", must=True)

    anyio.run(run, backend=backend)
    workers.close()
    assert sorted(done) == ["must", "work"]


@BACKENDS
def test_what_a_thread_brings(backend: str) -> None:
    """A future of a thread is awaited, its error raised, and without a task it is forgotten."""
    workers = Workers()

    async def run() -> None:
        assert in_event_loop()
        assert await workers.run("io", lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await workers.run("io", lambda: 1 / 0)
        assert await result_of(workers.submit("io", lambda: 8)) == 8

    anyio.run(run, backend=backend)
    assert not in_event_loop()
    workers.close()


@BACKENDS
def test_called_by_threads(backend: str) -> None:
    """Other threads have a loop call functions and start tasks; once it has ended nothing is
    called.
    """
    kept: list[Any] = []

    async def run() -> None:
        soon, called = call_soon(), anyio.Event()
        kept.append(soon)

        async def task() -> None:
            called.set()

        threading.Thread(target=soon, args=[lambda: kept.append(start_task(task))]).start()
        await called.wait()

    anyio.run(run, backend=backend)
    kept[0](lambda: pytest.fail("called"))


def test_what_a_cancellation_is() -> None:
    """One of asyncio or of trio, or a group of them, and nothing else."""

    async def cancelled() -> BaseException:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except BaseException as error:
                found = error
                raise
        return found

    one = on_trio(cancelled)
    assert is_cancellation(one)
    assert is_cancellation(asyncio.CancelledError())
    assert is_cancellation(BaseExceptionGroup("tasks", [one, BaseExceptionGroup("", [one])]))
    assert not is_cancellation(BaseExceptionGroup("tasks", [one, ValueError()]))
    assert not is_cancellation(KeyboardInterrupt())


# --- hypercorn -----------------------------------------------------------------------------------


@contextmanager
def hypercorn_on_trio(app: Any) -> Iterator[str]:
    """Serve `app` in a thread; gives host and port."""
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 1
    bound: queue.Queue[Any] = queue.Queue()

    async def main() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            serve: Any = partial(hypercorn.trio.serve, shutdown_trigger=stop.wait)
            (url,) = await nursery.start(serve, app, config)
            bound.put((url, trio.lowlevel.current_trio_token(), stop))

    thread = threading.Thread(target=trio.run, args=[main])
    thread.start()
    url, token, stop = bound.get(timeout=SOON)
    try:
        yield url.partition("://")[2]
    finally:
        token.run_sync_soon(stop.set)
        thread.join()


async def echo(socket: WebSocket) -> None:
    """Says hello, and repeats what it is told."""
    await socket.accept()
    await socket.send_text("hello")
    async for text in socket.iter_text():
        await socket.send_text(text)


async def stream(_: Any) -> StreamingResponse:
    """One event, and then nothing for a long time."""

    async def events() -> Any:
        yield b"data: hello\n\n"
        await anyio.sleep(60)
        yield b"data: too late\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def charged(request: Any) -> PlainTextResponse:
    """Three credits."""
    return PlainTextResponse(str(await request.user.charge_async(3)))


ROUTES = [WebSocketRoute("/echo", echo), Route("/stream", stream), Route("/charged", charged)]


@pytest.fixture
def served(tmp_path: Any) -> Iterator[tuple[Gate, Any, str]]:
    """A gate over SQLite, a key of it with 5 credits, and where it serves on trio."""
    gate = Gate.open(settings(store_url=f"sqlite:///{tmp_path}/k.db", pepper=PEPPER))
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 5)
    made = gate.keys.create("acct_a", "k")
    with hypercorn_on_trio(KeyrushMiddleware(Starlette(routes=ROUTES), gate=gate)) as where:
        yield gate, made, where
    gate.close()


def test_hypercorn_serves(served: Any) -> None:
    """R7, O11, O12: cold and warm requests, charges and refusals."""
    gate, made, where = served
    with httpx2.Client(base_url=f"http://{where}", headers={"X-API-Key": made.text}) as client:
        replies = [client.get("/charged") for _ in range(2)]
        assert [reply.status_code for reply in replies] == [200, 402]
        assert client.get("/charged", headers={"X-API-Key": "no"}).status_code == 401
    assert gate.accounts.get("acct_a").balance == 2


def test_hypercorn_streams_end_with_their_key(served: Any) -> None:
    """R7: a stream ends within a second of its key."""
    gate, made, where = served
    headers = {"X-API-Key": made.text}
    with (
        httpx2.Client(timeout=SOON) as client,
        client.stream("GET", f"http://{where}/stream", headers=headers) as reply,
    ):
        parts = reply.iter_bytes()
        assert next(parts) == b"data: hello\n\n"
        gate.keys.revoke(made.key.id)
        assert list(parts) == []


def test_hypercorn_websockets_end_with_their_key(served: Any) -> None:
    """R7, S70: a WebSocket is closed within a second of its key, and is served until then."""
    gate, made, where = served
    headers = {"X-API-Key": made.text}
    with connect(f"ws://{where}/echo", additional_headers=headers) as socket:
        assert socket.recv(timeout=SOON) == "hello"
        socket.send("there?")
        assert socket.recv(timeout=SOON) == "there?"
        gate.keys.revoke(made.key.id)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=SOON)
        assert socket.close_code == 1008
    with pytest.raises(InvalidStatus, match="401"):
        connect(f"ws://{where}/echo", additional_headers=headers)
