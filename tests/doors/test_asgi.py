"""What only the ASGI middleware has to do: messages, WebSockets, lifespan, frameworks, tasks."""

from __future__ import annotations

import inspect
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from asgiref.sync import iscoroutinefunction as asgiref_is_async
from asgiref.wsgi import WsgiToAsgi
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from keyrush import ConfigurationError, Gate, KeyrushMiddleware, Refusal, Refused, wsgi
from keyrush.authentication.keyring import Hashing
from keyrush.core.policy import Needs
from keyrush.gate import opening
from keyrush.runtime.cpus import cores
from keyrush.store.memory import MemoryStore
from tests.conftest import Clock, settings
from tests.support.calls import BACKENDS, Asgi, Sent, asgi_call, describe, run, scope_of, together
from tests.support.faults import until
from tests.support.serving import serve_process
from tests.support.stores import forget_proofs


@pytest.fixture
def key(gate: Gate) -> str:
    """A live key of acct_a, which has 5 credits."""
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 5)
    return gate.keys.create("acct_a", "first").text


def call(middleware: Any, key: str | bytes, path: str = "/", **more: Any) -> Any:
    return run(asgi_call(middleware, scope_of(Sent(path, [("X-API-Key", key)]), **more)))


pytestmark = pytest.mark.usefixtures("backend")


async def messages_of(app: Any, scope: dict[str, Any], received: list[Any]) -> list[Any]:
    """Everything that the app sends when it receives `received` in turn."""
    sent: list[Any] = []
    waiting = iter(received)

    async def receive() -> Any:
        return next(waiting)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


# --- HTTP messages ---


def test_only_the_start_is_touched(gate: Gate, key: str) -> None:
    """S68, S69: other messages pass as the same object; headers are appended to a new list."""
    own = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"vary", b"Origin")]
    rest = [
        {"type": "http.response.debug", "info": {}},
        {"type": "http.response.early_hint", "links": []},
        {"type": "http.response.push", "path": "/", "headers": []},
        {"type": "http.response.pathsend", "path": "/x"},
        {"type": "http.response.zerocopysend", "file": 1},
        {"type": "http.response.body", "body": b"one", "more_body": True},
        {"type": "http.response.trailers", "headers": []},
        {"type": "something.new"},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": own, "trailers": True})
        for message in rest:
            await send(message)

    scope = scope_of(Sent(headers=[("X-API-Key", key)]))
    start, *others = run(messages_of(KeyrushMiddleware(app, gate=gate), scope, []))
    assert all(got is sent for got, sent in zip(others, rest, strict=True))
    assert start["trailers"] is True
    assert start["headers"][:3] == own
    assert start["headers"][-1] == (b"vary", b"Authorization, X-API-Key")
    assert len(own) == 3


@pytest.mark.parametrize(
    "headers", [None, (), iter([(b"a", b"b")])], ids=["none", "tuple", "iterator"]
)
def test_headers_may_be_any_iterable(gate: Gate, key: str, headers: Any) -> None:
    """S69: an app may give its headers as any iterable, or leave them out."""
    given = {} if headers is None else {"headers": headers}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, **given})
        await send({"type": "http.response.body"})

    reply = call(KeyrushMiddleware(app, gate=gate), key)
    assert reply.status == 204
    assert reply["x-ratelimit-remaining"] == "99"
    assert "content-length" not in reply
    assert "content-type" not in reply


def test_send_is_a_coroutine_function(gate: Gate, key: str) -> None:
    """Frameworks that hand `send` to threads, as asgiref does, ask that of it, and warn else."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert asgiref_is_async(send)
        assert asgiref_is_async(receive)
        if sys.version_info >= (3, 12):
            assert inspect.iscoroutinefunction(send)
        await PlainTextResponse("ok")(scope, receive, send)

    assert call(KeyrushMiddleware(app, gate=gate), key).status == 200


@pytest.mark.parametrize("parts", [[b"whole"], [b"one ", b"two ", b"three"]], ids=len)
def test_wsgi_app_behind_the_gate(gate: Gate, key: str, parts: list[bytes]) -> None:
    """S71: asgiref's WsgiToAsgi, which sends from threads, is served, streamed bodies too, and
    warns of nothing. It is of asyncio alone.
    """

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield from parts

    wrapped = KeyrushMiddleware(WsgiToAsgi(app), gate=gate)  # type: ignore[no-untyped-call]  # asgiref has no types
    reply = TestClient(wrapped).get("/", headers={"X-API-Key": key})
    assert (reply.content, reply.headers["x-ratelimit-remaining"]) == (b"".join(parts), "99")
    assert not len(gate.connections)


def test_streaming_passes_item_by_item(gate: Gate, key: str) -> None:
    """S71: bodies are not buffered: each part is with the client before the next is made."""
    events: list[str] = []

    async def parts() -> Any:
        for part in ("a", "b"):
            events.append(f"made {part}")
            yield part

    async def send(message: Any) -> None:
        if message.get("body"):
            events.append(f"sent {message['body'].decode()}")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(parts())(scope, receive, send)

    async def receive() -> Any:
        await anyio.sleep_forever()

    scope = scope_of(Sent(headers=[("X-API-Key", key)]))
    run(KeyrushMiddleware(app, gate=gate)(scope, receive, send))
    assert events == ["made a", "sent a", "made b", "sent b"]


def test_what_the_app_adds_is_seen_outside(gate: Gate, key: str) -> None:
    """S66: what the app adds to the scope, and to `state`, is seen by middleware outside; what the
    gate adds does not change what an outer layer decides.
    """
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope))
        scope["route"] = "/articles/{id}"
        scope["state"]["mine"] = 1
        await PlainTextResponse("ok")(scope, receive, send)

    state = {"shared": 2}
    scope = scope_of(Sent(headers=[("X-API-Key", key)]), state=state)
    headers = scope["headers"]
    asgi = KeyrushMiddleware(app, gate=gate)
    for left in ("99", "98"):  # sent through once more, it is counted once more
        assert run(asgi_call(asgi, scope))["x-ratelimit-remaining"] == left
        assert scope["route"] == "/articles/{id}"
        assert scope["state"] is state
        assert scope["headers"] is headers
    assert state == {"shared": 2, "mine": 1}
    assert seen[0]["keyrush"] is seen[0]["user"] is seen[0]["auth"]


@pytest.mark.parametrize("hides", [False, True], ids=["shown", "hidden"])
def test_seen_outside_as_the_response_starts(clock: Clock, hides: bool) -> None:
    """S66: what the app adds is seen outside from the start of its response on, where credentials
    are hidden from it, too; for whoever decides outside these are still there.
    """
    gate = Gate.open(settings(hide_credentials=hides), clock=clock)
    gate.accounts.create("acct_a")
    made = gate.keys.create("acct_a", "k").text
    at_start: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert bool(scope["headers"]) is not hides
        scope["route"] = "/x"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope["late"] = 1
        await send({"type": "http.response.body"})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            at_start.append(dict(scope))

    scope = scope_of(Sent(headers=[("X-API-Key", made)]))
    before = dict(scope)
    run(KeyrushMiddleware(app, gate=gate)(scope, None, send))  # type: ignore[arg-type]  # never used
    assert "late" not in at_start[0]
    for seen, extra in ((at_start[0], {"route": "/x"}), (scope, {"route": "/x", "late": 1})):
        assert {**seen, **before, **extra} == seen
        assert seen["headers"] is before["headers"]
    gate.close()


OWN_FIELDS = [
    (b"X-RateLimit-Limit", b"7"),
    (b"x-ratelimit-remaining", b"6"),
    (b"RateLimit", b'"m";r=1;t=1'),
    (b"ratelimit-policy", b'"m";q=1;w=1'),
    (b"x-ratelimit-monthly-overage", b"1"),
    (b"x-request-id", b"1"),
    (b"retry-after", b"3"),
    (b"set-cookie", b"a=1"),
    (b"set-cookie", b"b=2"),
]


def test_one_set_of_fields(gate: Gate, key: str) -> None:
    """S69: of the rate-limit fields there is one set, this gate's, where the app is a proxy; all
    else is kept, duplicates too, and the app's list stays as it was.
    """
    own = list(OWN_FIELDS)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": own})
        await send({"type": "http.response.body"})

    scope = scope_of(Sent(headers=[("X-API-Key", key)]))
    start, _ = run(messages_of(KeyrushMiddleware(app, gate=gate), scope, []))
    names = [name.lower() for name, _ in start["headers"]]
    assert [n for n in names if b"ratelimit" in n] == [
        b"x-ratelimit-limit",
        b"x-ratelimit-remaining",
        b"x-ratelimit-reset",
        b"x-ratelimit-monthly-limit",
        b"x-ratelimit-monthly-remaining",
    ]
    assert dict(start["headers"])[b"x-ratelimit-limit"] == b"100"
    assert start["headers"][:4] == OWN_FIELDS[5:]
    assert own == OWN_FIELDS
    public, _ = run(messages_of(KeyrushMiddleware(app, gate=gate), scope_of(Sent("/health")), []))
    assert public["headers"] == OWN_FIELDS


def test_one_set_of_fields_of_two_gates(clock: Clock) -> None:
    """S69: of two gates that both count, the outermost one's fields are seen."""
    store = MemoryStore()
    outer, inner = (
        Gate.open(
            settings(pepper="p" * 32, plans={"starter": {"limits": limits}}),
            store=store,
            clock=clock,
        )
        for limits in ("9/minute", "5/minute")
    )
    outer.accounts.create("acct_a")
    key = outer.keys.create("acct_a", "k").text
    reply = call(KeyrushMiddleware(Asgi(inner).middleware, gate=outer), key)
    assert (reply.status, reply["x-ratelimit-limit"]) == (200, "9")
    outer.close()
    inner.close()


def test_root_path_is_not_part_of_the_path(gate: Gate, key: str) -> None:
    """Traps: `path` includes `root_path`; public paths and rules are those of the app."""
    asgi = Asgi(gate)
    assert call(asgi.middleware, "none", "/v1/health", root_path="/v1").body == b"nobody"
    assert call(asgi.middleware, "none", "/v1health", root_path="/v1").status == 401
    assert call(asgi.middleware, "none", "/v1/other", root_path="/v1").status == 401


@pytest.mark.parametrize("target", ["http://h/admin", "x:/admin", "admin", "*", "//h/admin"])
def test_absolute_target(clock: Clock, target: str) -> None:
    """Traps: what is no path in plain form is refused, whoever asks; its scheme and host are not
    stripped by anyone's idea of what is left.
    """
    gate = Gate.open(settings(rules=[{"path": "/admin", "scopes": ["admin"]}]), clock=clock)
    assert call(Asgi(gate).middleware, "none", target).status == 400
    gate.close()


def test_unknown_scope_type_is_refused(gate: Gate) -> None:
    """S67: a scope of an unknown type is not passed inward."""
    with pytest.raises(RuntimeError, match="'quic'"):
        run(Asgi(gate).middleware({"type": "quic"}, None, None))  # type: ignore[arg-type]  # never used


# --- lifespan ---


def test_lifespan_passes(gate: Gate) -> None:
    """S67: lifespan events reach the app with the same receive and send; usage is flushed after."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([scope, receive, send])

    async def receive() -> Any: ...

    async def send(message: Any) -> None: ...

    scope = {"type": "lifespan"}
    run(KeyrushMiddleware(app, gate=gate)(scope, receive, send))
    assert seen == [scope, receive, send]


def test_lifespan_error_is_not_swallowed(gate: Gate) -> None:
    """S67: what the app raises in its lifespan gets out."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(KeyrushMiddleware(app, gate=gate)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]  # never used


def test_wrong_setting_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong setting raises at once, or fails the lifespan where a framework delays the making."""
    monkeypatch.setenv("KEYRUSH_HEADERS", "nonsense")
    with pytest.raises(ConfigurationError, match="KEYRUSH_HEADERS: 'nonsense'"):
        KeyrushMiddleware(PlainTextResponse("ok"))
    app = Starlette()
    app.add_middleware(KeyrushMiddleware)
    with (
        pytest.raises(ConfigurationError, match="KEYRUSH_HEADERS"),
        TestClient(app, backend=BACKENDS[-1]),
    ):
        pass

    async def start() -> list[Any]:
        middleware = KeyrushMiddleware(PlainTextResponse("ok"))
        with pytest.raises(ConfigurationError):
            _ = middleware.gate
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            sent.append(message)

        with pytest.raises(ConfigurationError):
            await middleware({"type": "lifespan"}, receive, send)
        return sent

    (failed,) = run(start())
    assert failed["type"] == "lifespan.startup.failed"
    assert "KEYRUSH_HEADERS" in failed["message"]


# --- no lifespan, and no gate ---


def made_late(**values: Any) -> KeyrushMiddleware:
    """Middleware that a framework makes within the event loop."""

    async def make() -> KeyrushMiddleware:
        return KeyrushMiddleware(PlainTextResponse("ok"), settings(**values))

    return run(make())


def test_wrong_setting_without_lifespan(tmp_path: Path) -> None:
    """S19: where the server sends no lifespan events, a wrong setting is logged at CRITICAL, once,
    and every request is 503 in the documented form, to the public paths too.
    """
    (tmp_path / "app.py").write_text(
        "from keyrush import KeyrushMiddleware\n"
        "from starlette.applications import Starlette\n"
        "app = Starlette()\n"
        "app.add_middleware(KeyrushMiddleware)\n"
    )
    env = {"KEYRUSH_HEADERS": "nonsense"}
    with serve_process("app:app", "--lifespan", "off", env=env, folder=tmp_path) as server:
        for path in ("/health", "/", "/health"):
            reply = httpx2.get(server.url + path)
            assert reply.status_code == 503
            assert reply.json()["statusCode"] == 503
            assert reply.json()["success"] is False
            assert reply.headers["retry-after"] == "5"
            assert reply.headers["cache-control"] == "no-store"
    (line,) = (line for line in server.lines if "KEYRUSH_HEADERS" in line)
    assert "every request is answered 503: KEYRUSH_HEADERS: 'nonsense'" in line


@pytest.mark.parametrize("has_denial", [True, False])
def test_websocket_without_a_gate(has_denial: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """S70: without a gate a handshake is refused too, in the form that the server offers."""
    monkeypatch.setenv("KEYRUSH_HEADERS", "nonsense")

    async def make() -> KeyrushMiddleware:
        return KeyrushMiddleware(chat)

    extensions: dict[str, Any] = {"websocket.http.response": {}} if has_denial else {}
    scope = websocket_scope(None, extensions=extensions)
    connect = [{"type": "websocket.connect"}]
    sent = run(messages_of(run(make()), scope, connect))
    if has_denial:
        assert [message["type"] for message in sent] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert sent[0]["status"] == 503
    else:
        assert sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]


def test_store_that_was_away_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """S19: a store that was away as the first request came needs no restart."""
    monkeypatch.setattr(opening, "RETRY", 0.0)
    folder = tmp_path / "mounted later"
    middleware = made_late(store_url=f"sqlite:///{folder}/keyrush.db")
    statuses = [call(middleware, "no key", "/health").status for _ in range(3)]
    assert statuses == [503] * 3
    assert [one.levelname for one in caplog.records].count("CRITICAL") == 1
    folder.mkdir()
    until(lambda: call(middleware, "no key", "/health").status == 200)
    assert call(middleware, "no key").status == 401
    middleware.gate.close()


def test_want_of_threads_at_a_second_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: a moment without threads does not end the trying."""
    monkeypatch.setattr(opening, "RETRY", 0.0)
    folder = tmp_path / "mounted later"
    middleware = made_late(store_url=f"sqlite:///{folder}/keyrush.db")
    folder.mkdir()
    with monkeypatch.context() as no_threads:
        no_threads.setattr(threading.Thread, "start", raising)
        assert call(middleware, "no key", "/health").status == 503
    until(lambda: call(middleware, "no key", "/health").status == 200)
    middleware.gate.close()


def raising(thread: threading.Thread) -> None:
    """As `Thread.start` does where the machine has none left."""
    raise RuntimeError("can't start new thread")


# --- WebSocket ---


def websocket_scope(key: str | None, **more: Any) -> dict[str, Any]:
    scope = scope_of(Sent("/ws", [("X-API-Key", key)] if key else []), type="websocket", **more)
    del scope["method"]
    return scope


async def chat(scope: Any, receive: Any, send: Any) -> None:
    """Accepts, and says once who is there."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "bytes": describe(scope["keyrush"])})


def test_websocket_is_charged_once(gate: Gate, key: str) -> None:
    """S70: the handshake is decorated and counts once, however many messages follow."""
    connect = [{"type": "websocket.connect"}]
    accepted, said = run(
        messages_of(KeyrushMiddleware(chat, gate=gate), websocket_scope(key), connect)
    )
    assert accepted["type"] == "websocket.accept"
    assert (b"x-ratelimit-remaining", b"99") in accepted["headers"]
    assert b"vary" not in dict(accepted["headers"])
    assert said["bytes"] == b"acct_a live first"
    assert call(Asgi(gate).middleware, key)["x-ratelimit-remaining"] == "98"


def test_websocket_denial_response(gate: Gate) -> None:
    """S70: with the extension, a refused handshake gets the HTTP response, after the connect."""
    scope = websocket_scope(None, extensions={"websocket.http.response": {}})
    connect = [{"type": "websocket.connect"}]
    start, body = run(messages_of(KeyrushMiddleware(chat, gate=gate), scope, connect))
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert (b"www-authenticate", b'Bearer realm="api"') in start["headers"]
    assert body["type"] == "websocket.http.response.body"
    assert b"Invalid or missing API key" in body["body"]


def test_websocket_close_without_extension(gate: Gate) -> None:
    """S70: without the extension, a refused handshake is closed."""
    connect = [{"type": "websocket.connect"}]
    scope = websocket_scope(None)
    (close,) = run(messages_of(KeyrushMiddleware(chat, gate=gate), scope, connect))
    assert (close["type"], close["code"]) == ("websocket.close", 1008)


def test_websocket_refused_by_the_app(gate: Gate, key: str) -> None:
    """A refusal raised before the accept is a refused handshake."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        scope["keyrush"].require_module("scoring")

    scope = websocket_scope(key, extensions={"websocket.http.response": {}})
    connect = [{"type": "websocket.connect"}]
    start, _ = run(messages_of(KeyrushMiddleware(app, gate=gate), scope, connect))
    assert start["status"] == 403


def test_websocket_refused_before_connecting(gate: Gate, key: str) -> None:
    """S70: an app that refuses before it has received the connect has it received for it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["keyrush"].require_module("scoring")

    scope = websocket_scope(key, extensions={"websocket.http.response": {}})
    del scope["query_string"]  # which is optional
    received = iter([{"type": "websocket.connect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    run(KeyrushMiddleware(app, gate=gate)(scope, receive, send))
    assert [message.get("status") for message in sent] == [403, None]
    assert list(received) == []


@pytest.mark.parametrize("denial", [True, False], ids=["response", "close"])
def test_websocket_denied_by_the_app(gate: Gate, key: str, denial: bool) -> None:
    """R11, S70: a handshake that the app itself denies carries the fields, and costs no credits."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await scope["keyrush"].charge_async(3)
        if denial:
            await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"no"})
        else:
            await send({"type": "websocket.close", "code": 1000})

    connect = [{"type": "websocket.connect"}]
    sent = run(messages_of(KeyrushMiddleware(app, gate=gate), websocket_scope(key), connect))
    assert gate.accounts.get("acct_a").balance == 5
    assert len(sent) == (2 if denial else 1)
    if denial:
        assert (b"x-ratelimit-remaining", b"99") in sent[0]["headers"]


def test_websocket_refusal_after_a_close_gets_out(gate: Gate, key: str) -> None:
    """A refusal raised once the app has closed is the app's own error."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        scope["keyrush"].require_module("scoring")

    connect = [{"type": "websocket.connect"}]
    with pytest.raises(Refused):
        run(messages_of(KeyrushMiddleware(app, gate=gate), websocket_scope(key), connect))


# --- nesting ---


def test_nested_middleware_counts_once(gate: Gate, key: str) -> None:
    """Traps: the same gate twice in one request counts once."""
    inner = Asgi(gate).middleware
    outer = KeyrushMiddleware(inner, gate=gate)
    assert call(outer, key)["x-ratelimit-remaining"] == "99"


def test_mounted_app_with_equal_settings_counts_once(tmp_path: Any) -> None:
    """Traps: an app and an app mounted in it, both configured alike, count a request once."""
    same = settings(store_url=f"sqlite:///{tmp_path}/k.db")
    child = Starlette(routes=[Route("/", lambda _: PlainTextResponse("ok"))])
    child.add_middleware(KeyrushMiddleware, settings=same)
    gate = Gate.open(same)
    app = KeyrushMiddleware(Starlette(routes=[Mount("/child", child)]), gate=gate)
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k").text
    client = TestClient(app, headers={"X-API-Key": key}, backend=BACKENDS[-1])
    assert client.get("/child/").headers.get_list("x-ratelimit-remaining") == ["99"]
    gate.flush()
    assert gate.usage.this_month("acct_a").counted == 1
    gate.close()


@pytest.mark.parametrize("style", ["x-ratelimit", "ietf", "both"])
def test_one_set_of_rate_limit_fields(clock: Clock, style: str) -> None:
    """S69: what the app, or what it is a proxy of, sends of rate-limit fields goes, in whatever
    case; all else stays, in order and with its duplicates.
    """
    gate = Gate.open(settings(headers=style, optional_paths=["/open"]), clock=clock)
    gate.accounts.create("acct_a")
    made = gate.keys.create("acct_a", "k").text
    names = (b"X-RateLimit-Limit", b"x-rate-limit-reset", b"X-RATELIMIT-Used", b"RateLimit")
    kept = [(b"set-cookie", b"a=1"), (b"x-rate", b"1"), (b"set-cookie", b"b=2"), (b"", b"")]
    own = [kept[0], *((name, b"7") for name in names), *kept[1:], (b"ratelimit-policy", b"7")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": own})

    scope = scope_of(Sent(headers=[("X-API-Key", made)]))
    (start,) = run(messages_of(KeyrushMiddleware(app, gate=gate), scope, []))
    found = [name for name, _ in start["headers"]]
    assert start["headers"][:4] == kept
    assert len(own) == 9
    assert len(found) == len(set(found)) + 1  # set-cookie
    assert (b"x-ratelimit-limit" in found, b"ratelimit" in found) == {
        "x-ratelimit": (True, False),
        "ietf": (False, True),
        "both": (True, True),
    }[style]
    # Where the gate has none to tell, as to nobody, the app's stay.
    for path in ("/health", "/open"):
        (start,) = run(messages_of(KeyrushMiddleware(app, gate=gate), scope_of(Sent(path)), []))
        assert start["headers"][: len(own)] == own
    gate.close()


def test_the_outermost_gate_tells_the_limits(gate: Gate, key: str) -> None:
    """S69: of two gates that differ, the outermost one's fields are shown, on refusals too."""
    other = Gate.open(settings(plans={"tight": {"limits": "1/minute"}}, pepper="p" * 32))
    inner = KeyrushMiddleware(PlainTextResponse("ok"), gate=other)
    other.accounts.create("acct_b")
    second = other.keys.create("acct_b", "k").text

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["headers"] = [(b"x-api-key", second.encode())]
        await inner(scope, receive, send)

    outer = KeyrushMiddleware(app, gate=gate)
    replies = [call(outer, key) for _ in range(2)]
    assert [reply.status for reply in replies] == [200, 429]
    assert [reply["x-ratelimit-limit"] for reply in replies] == ["100", "100"]
    assert [reply["x-ratelimit-remaining"] for reply in replies] == ["99", "98"]
    other.close()


def test_nested_gates_that_differ_both_hold(gate: Gate, key: str) -> None:
    """A gate with other settings inside is not passed by the outer one's word."""
    stranger = Gate.open(settings(key_prefix="xy"))
    inner = KeyrushMiddleware(chat, gate=stranger)
    assert call(KeyrushMiddleware(inner, gate=gate), key).status == 401
    stranger.close()


# --- Starlette ---


def starlette_app(gate: Gate) -> TestClient:
    @requires("read:articles")
    async def articles(request: Any) -> JSONResponse:
        return JSONResponse({"name": request.user.display_name, "id": request.user.identity})

    async def charged(request: Any) -> PlainTextResponse:
        return PlainTextResponse(str(await request.user.charge_async(3)))

    def charged_in_thread(request: Any) -> PlainTextResponse:
        return PlainTextResponse(str(request.user.charge(3)))

    async def charged_then_refused(request: Any) -> PlainTextResponse:
        await request.user.charge_async(3)
        request.user.require_scope("write:articles")
        return PlainTextResponse("never")

    async def started(request: Any) -> StreamingResponse:
        async def parts() -> Any:
            yield "a"
            request.user.require_scope("write:articles")

        return StreamingResponse(parts())

    async def hello(request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"{request.user.is_authenticated} {request.user!r}")

    routes = [
        Route("/articles", articles),
        Route("/charged", charged),
        Route("/charged-in-thread", charged_in_thread),
        Route("/charged-then-refused", charged_then_refused),
        Route("/started", started),
        Route("/hello", hello),
        Route("/health", hello),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(KeyrushMiddleware, gate=gate)
    return TestClient(app, backend=BACKENDS[-1])


@pytest.mark.parametrize(
    ("scopes", "status"),
    [(["read:articles"], 200), (["read:*"], 200), (["*"], 200), ([], 200), (["read:x"], 403)],
)
def test_starlette_requires(gate: Gate, key: str, scopes: list[str], status: int) -> None:
    """R4: Starlette's `@requires` works over the principal, wildcards included."""
    made = gate.keys.create("acct_a", "mine", scopes=scopes)
    reply = starlette_app(gate).get("/articles", headers={"X-API-Key": made.text})
    assert reply.status_code == status
    if status == 200:
        assert reply.json() == {"name": "mine", "id": made.key.id}


def test_starlette_user(gate: Gate, key: str) -> None:
    """`request.user` is the principal, or on public paths someone who is nobody."""
    client = starlette_app(gate)
    assert client.get("/health").text == "False <Anonymous>"
    said = client.get("/hello", headers={"X-API-Key": key}).text
    assert said.startswith("True <Principal cred_")
    assert key not in said


def test_refusal_raised_in_a_handler(gate: Gate, key: str) -> None:
    """R8: a refusal raised in a handler is the documented body, and gives back what was taken."""
    writer = gate.keys.create("acct_a", "reader", scopes=["read:articles"]).text
    client = starlette_app(gate)
    reply = client.get("/charged-then-refused", headers={"X-API-Key": writer})
    assert reply.status_code == 403
    assert reply.json() == {
        "success": False,
        "error": "The API key lacks the scope write:articles.",
        "statusCode": 403,
    }
    assert reply.headers["x-ratelimit-remaining"] == "100"
    assert reply.headers["x-ratelimit-monthly-remaining"] == "500000"
    assert gate.accounts.get("acct_a").balance == 5


def _in_a_group(scope: Any) -> None:
    try:
        scope["keyrush"].require_scope("write:articles")
    except Refused as refused:
        raise ExceptionGroup("of a task group", [ExceptionGroup("within", [refused])]) from None


def _from_it(scope: Any) -> None:
    try:
        scope["keyrush"].require_scope("write:articles")
    except Refused as refused:
        raise ValueError("not permitted") from refused


async def _in_tasks(scope: Any) -> None:
    async def work() -> None:
        scope["keyrush"].require_scope("write:articles")

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        group.start_soon(anyio.sleep, 60)


@pytest.mark.parametrize("framework", ["bare", "Starlette"])
@pytest.mark.parametrize("way", [_in_a_group, _from_it, _in_tasks])
def test_refusal_in_disguise(gate: Gate, key: str, framework: str, way: Any) -> None:
    """R8: a refusal that a task group or another error carries is the refusal still."""
    reader = gate.keys.create("acct_a", "reader", scopes=["read:articles"]).text

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        done = way(scope)
        if done is not None:
            await done

    async def endpoint(request: Any) -> PlainTextResponse:
        done = way(request.scope)
        if done is not None:
            await done
        return PlainTextResponse("never")

    inner: Any = bare if framework == "bare" else Starlette(routes=[Route("/", endpoint)])
    app = KeyrushMiddleware(inner, gate=gate)
    client = TestClient(app, backend=BACKENDS[-1])
    reply = client.get("/", headers={"X-API-Key": reader})
    assert (reply.status_code, reply.headers["x-ratelimit-remaining"]) == (403, "100")
    assert reply.json()["error"] == "The API key lacks the scope write:articles."


@pytest.mark.parametrize(
    "error",
    [
        ExceptionGroup("mixed", [Refused(Refusal("not_found")), ZeroDivisionError()]),
        ExceptionGroup("another", [ZeroDivisionError()]),
        ValueError("its own"),
    ],
    ids=repr,
)
def test_other_errors_are_no_refusals(gate: Gate, key: str, error: Exception) -> None:
    """What is not a refusal alone is the app's own error, and gets out."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    with pytest.raises(type(error)):
        call(KeyrushMiddleware(app, gate=gate), key)


def test_refusal_after_the_start_gets_out(gate: Gate, key: str) -> None:
    """A refusal raised once the response has started is the app's own error."""
    reader = gate.keys.create("acct_a", "reader", scopes=["read:articles"]).text
    with pytest.raises(Exception, match="403 insufficient_scope"):
        starlette_app(gate).get("/started", headers={"X-API-Key": reader})


def test_charging_in_handlers(gate: Gate, key: str) -> None:
    """O11, O12: a handler charges, in a thread or a task, until the balance is short."""
    client = starlette_app(gate)
    assert client.get("/charged", headers={"X-API-Key": key}).text == "2"
    refused = client.get("/charged-in-thread", headers={"X-API-Key": key})
    assert (refused.status_code, refused.json()["error"]) == (402, "Not enough credits.")


@pytest.mark.parametrize(
    ("status", "balance"), [(200, 2), (204, 2), (303, 5), (404, 5), (422, 5), (503, 5)]
)
def test_credits_of_failed_requests(gate: Gate, key: str, status: int, balance: int) -> None:
    """O11, O15: what was charged is given back when the app answers with an error."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["keyrush"].charge_async(3)
        await PlainTextResponse("done", status)(scope, receive, send)

    reply = call(KeyrushMiddleware(app, gate=gate), key)
    assert (reply.status, reply.body) == (status, b"done")
    assert reply["x-ratelimit-remaining"] == "99"
    assert gate.accounts.get("acct_a").balance == balance


def test_credits_of_crashed_requests(gate: Gate, key: str) -> None:
    """O11: what was charged is given back when the app raises instead of answering."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["keyrush"].charge_async(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(KeyrushMiddleware(app, gate=gate), key)
    gate.workers.close()  # waits for what was begun
    assert gate.accounts.get("acct_a").balance == 5


def test_credits_are_given_back_once(gate: Gate, key: str) -> None:
    """O11: a charge that is undone, and whose request fails as well, is given back once."""
    charge = gate.store.charge
    entered, go = threading.Event(), threading.Event()

    def slow_charge(*args: Any, **named: Any) -> int | None:
        balance = charge(*args, **named)
        entered.set()
        assert go.wait(10)
        return balance

    gate.store.charge = slow_charge  # type: ignore[method-assign]  # a fault to inject

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as charging:
            charging.start_soon(scope["keyrush"].charge_async, 3)
            await anyio.to_thread.run_sync(entered.wait)
            charging.cancel_scope.cancel()
            go.set()
        await PlainTextResponse("no", 503)(scope, receive, send)

    assert call(KeyrushMiddleware(app, gate=gate), key).status == 503
    gate.workers.close()
    assert gate.accounts.get("acct_a").balance == 5


def test_local_limiter_that_fails(gate: Gate, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: a limiter that can't answer is 503 with Retry-After, never 500."""
    assert call(Asgi(gate).middleware, key).status == 200

    def broken(*_: Any) -> Any:
        raise ConnectionError("away")

    monkeypatch.setattr(gate.deciding, "_take_at_once", broken)
    reply = call(Asgi(gate).middleware, key)
    assert (reply.status, reply["retry-after"]) == (503, "5")


def test_settings_or_gate(gate: Gate) -> None:
    """Settings beside a gate, which has its own, are a mistake that is said."""
    for middleware in (KeyrushMiddleware, wsgi.KeyrushMiddleware):
        with pytest.raises(ConfigurationError, match="not both"):
            middleware(lambda *_: None, gate.settings, gate=gate)  # type: ignore[arg-type]  # never called


def test_refusal_on_a_public_path(gate: Gate) -> None:
    """R8: an app may refuse on a public path too, where there is nothing to give back."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["user"].refuse(Refusal("not_found"))

    assert call(KeyrushMiddleware(app, gate=gate), "none", "/health").status == 404
    wrapped = KeyrushMiddleware(Starlette(routes=[Route("/health", refusing)]), gate=gate)
    reply = TestClient(wrapped, raise_server_exceptions=False, backend=BACKENDS[-1]).get("/health")
    assert (reply.status_code, reply.json()["error"]) == (404, "Not found.")


def refusing(request: Any) -> None:
    request.user.refuse(Refusal("not_found"))


def test_frameworks_500_becomes_the_refusal(gate: Gate, key: str) -> None:
    """A framework inside that turns the refusal into a 500 does not hide it."""

    def handler(request: Any) -> PlainTextResponse:
        request.scope["keyrush"].refuse(Refusal("not_found"))
        return PlainTextResponse("never")

    app = KeyrushMiddleware(Starlette(routes=[Route("/", handler)]), gate=gate)
    reply = call_with_body(app, key)
    assert reply.status_code == 404
    assert reply.json()["error"] == "Not found."


def call_with_body(app: Any, key: str) -> httpx2.Response:
    return TestClient(app, backend=BACKENDS[-1]).get("/", headers={"X-API-Key": key})


# --- tasks and threads ---


class CountingHashing(Hashing):
    """Counts verifications, and how many run at once."""

    def __init__(self) -> None:
        super().__init__(1, 8, 1)
        self.verified = self.running = self.most = 0
        self.may_go = threading.Event()
        self.may_go.set()
        self._lock = threading.Lock()

    def verify(self, stored: str, text: bytes) -> bool:
        with self._lock:
            self.verified += 1
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            assert self.may_go.wait(10)
            return super().verify(stored, text)
        finally:
            with self._lock:
                self.running -= 1


class CountingStore(MemoryStore):
    """Counts look-ups."""

    finds = 0

    def find(self, *args: Any) -> Any:
        self.finds += 1
        return super().find(*args)


@pytest.fixture
def counted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A gate with its store and hashing counted."""
    store, hashing = CountingStore(), CountingHashing()
    monkeypatch.setattr("keyrush.gate.configured.Hashing", lambda *_: hashing)
    gate = Gate.open(settings(plans={"free": {"max_keys": 2000}}), store=store, clock=clock)
    gate.accounts.create("acct_a")
    yield gate, store, hashing
    gate.close()


def test_single_flight(counted: Any) -> None:
    """100 concurrent first requests with one key make one look-up and one argon2."""
    gate, store, hashing = counted
    key = gate.keys.create("acct_a", "k").text
    forget_proofs(store)
    middleware = Asgi(gate).middleware
    scope = scope_of(Sent(headers=[("X-API-Key", key)]))

    replies = run(together(lambda: asgi_call(middleware, dict(scope)), 100))
    assert {reply.status for reply in replies} == {200}
    assert (store.finds, hashing.verified) == (1, 1)


def test_refresh_does_not_repeat_argon2(counted: Any, clock: Clock) -> None:
    """A refresh that finds the same stored hash looks up again, and hashes no second time."""
    gate, store, hashing = counted
    key = gate.keys.create("acct_a", "k").text
    forget_proofs(store)
    for _ in range(3):
        assert call(Asgi(gate).middleware, key).status == 200
        clock.advance(5000)
    assert (store.finds, hashing.verified) == (3, 1)


@pytest.mark.parametrize("age", [0, 5000], ids=["fresh", "stale"])
def test_cold_storm_leaves_known_keys_alone(counted: Any, clock: Clock, age: int) -> None:
    """300 cold keys at once hash at most one per core; a known key overtakes them all, even one
    that has to be looked up again.
    """
    gate, _, hashing = counted
    keys = [gate.keys.create("acct_a", f"k{n}").text for n in range(300)]
    middleware = Asgi(gate).middleware
    scopes = [scope_of(Sent(headers=[("X-API-Key", key)])) for key in keys]
    warm = gate.keys.create("acct_a", "warm").text
    forget_proofs(gate.store)
    assert call(middleware, warm).status == 200
    before = hashing.verified
    clock.advance(age)

    waiting = iter(scopes)
    statuses: list[int] = []

    async def one() -> None:
        statuses.append((await asgi_call(middleware, next(waiting))).status)

    async def storm() -> None:
        hashing.may_go.clear()
        async with anyio.create_task_group() as group:
            for _ in scopes:
                group.start_soon(one)
            await anyio.lowlevel.checkpoint()  # each of them is now on its way to a thread
            scope = scope_of(Sent(headers=[("X-API-Key", warm)]))
            assert (await asgi_call(middleware, scope)).status == 200
            assert not statuses
            hashing.may_go.set()

    run(storm())
    assert statuses == [200] * 300
    assert hashing.verified - before == 300
    assert hashing.most <= cores()


def test_exactly_the_limit_passes_on_the_loop(gate: Gate, key: str) -> None:
    """S35: 50 concurrent requests at limit 10: exactly 10 pass."""
    tight = gate.keys.create("acct_a", "tight", limits="10/minute").text
    middleware = Asgi(gate).middleware

    scope = scope_of(Sent(headers=[("X-API-Key", tight)]))
    replies = run(together(lambda: asgi_call(middleware, dict(scope)), 50))
    statuses = [reply.status for reply in replies]
    assert (statuses.count(200), statuses.count(429)) == (10, 40)


def cancelled_while_charging(gate: Gate, key: str, app: Any) -> None:
    """Cancel a request as it charges, and let the charge be made all the same."""
    entered, go = threading.Event(), threading.Event()
    charge = gate.store.charge

    def slow_charge(*args: Any, **named: Any) -> int | None:
        entered.set()
        assert go.wait(10)
        return charge(*args, **named)

    gate.store.charge = slow_charge  # type: ignore[method-assign]  # a fault to inject

    async def cancelled() -> None:
        scope = scope_of(Sent(headers=[("X-API-Key", key)]))
        async with anyio.create_task_group() as group:
            group.start_soon(asgi_call, KeyrushMiddleware(app, gate=gate), scope)
            await anyio.to_thread.run_sync(entered.wait)
            group.cancel_scope.cancel()
        go.set()

    run(cancelled())
    gate.workers.close()


def test_cancelled_request_gives_back(gate: Gate, key: str) -> None:
    """A request cancelled while it is verified takes nothing, though the thread runs to its end."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("never reached")

    gate.policy.needs = lambda *_: Needs(credits=2)  # type: ignore[method-assign]  # a price for all
    cancelled_while_charging(gate, key, app)
    assert gate.accounts.get("acct_a").balance == 5


def test_cancelled_charge_is_given_back(gate: Gate, key: str) -> None:
    """O11: a handler cancelled while it charges is not charged: the work will not be done."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["keyrush"].charge_async(2)

    cancelled_while_charging(gate, key, app)
    assert gate.accounts.get("acct_a").balance == 5


def test_hostile_keys_stay_on_the_loop(gate: Gate, key: str) -> None:
    """S12: what can't be a key is refused without a thread: a flood of it stalls nothing."""
    before = threading.enumerate()
    for text in (b"\x00", b"kr_live_x", key.encode()[:-1] + b"-"):
        assert call(Asgi(gate).middleware, text).status == 401
    assert threading.enumerate() == before


def test_one_instance_under_many_loops(gate: Gate, key: str) -> None:
    """One middleware works under any number of event loops, one after the other or at once."""
    middleware = Asgi(gate).middleware
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(call(middleware, key).status))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 8
