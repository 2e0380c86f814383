"""What only ASGI has: messages in parts, clients that leave, sockets, apps within apps, trio."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from keyrush import Gate, KeyrushMiddleware
from tests.conftest import Clock
from tests.support.calls import Sent, run, scope_of
from tests.support.resources import App, AsgiDoor, call, message, result

pytestmark = pytest.mark.usefixtures("backend")


def sent(key: str | None = None, **more: Any) -> dict[str, Any]:
    """The scope of a POST to the resource."""
    headers: list[Any] = [("authorization", f"Bearer {key}")] if key else []
    return scope_of(Sent("/mcp", headers, "POST"), **more)


def through(gate: Gate, app: Any, scope: dict[str, Any], *received: Any) -> list[Any]:
    """What the server is sent, where it says these things, and then waits for ever."""
    waiting, messages = list(received), []

    async def receive() -> Any:
        if not waiting:
            await anyio.sleep_forever()
        return waiting.pop(0)

    async def send(sent: Any) -> None:
        messages.append(sent)

    run(KeyrushMiddleware(app, gate=gate)(scope, receive, send))
    return messages


def part(body: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    """A part of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


def test_replayed_as_it_came(mcp_gate: Gate, key: str) -> None:
    """S71: the app gets the messages that the server has sent, unchanged, and then the server's."""
    body = json.dumps(call("export")).encode()
    own = {"type": "http.request", "body": body[5:9], "more_body": True, "extra": 1}
    messages = [part(body[:5], more=True), own, {"type": "http.request", "more_body": True}]
    messages.append({"type": "http.request", "body": body[9:]})
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.extend([await receive() for _ in range(5)])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    left = {"type": "http.disconnect"}
    through(mcp_gate, app, sent(key), *messages, left)
    assert found == [*messages, left]
    assert all(one is other for one, other in zip(found, messages, strict=False))


def test_many_parts_are_few(mcp_gate: Gate, key: str) -> None:
    """S71: a body that comes byte by byte is not held byte by byte, and stays the same."""
    body = json.dumps(call("export")).encode().ljust(2000)
    app = App().answers(result())
    parts = [part(body[at : at + 1], more=at < 1999) for at in range(2000)]
    received: list[Any] = []

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        async def counted() -> Any:
            received.append(await receive())
            return received[-1]

        await app.asgi(scope, counted, send)

    through(mcp_gate, counting, sent(key), *parts)
    assert app.bodies == [body]
    assert len(received) < 100


@pytest.mark.parametrize("after", [0, 1])
def test_the_client_leaves_before_the_end(mcp_gate: Gate, key: str, after: int) -> None:
    """S71: who leaves before the end of a body is answered by nobody, and pays nothing."""
    app = App()
    parts = [part(b"{", more=True)] * after
    assert through(mcp_gate, app.asgi, sent(key), *parts, {"type": "http.disconnect"}) == []
    assert not app.bodies
    assert mcp_gate.credits.balance("acct_a") == 100


def test_refused_unread(mcp_gate: Gate) -> None:
    """S71: nothing is received of a request whose headers say enough."""
    app = App()
    start, _ = through(mcp_gate, app.asgi, sent())
    assert start["status"] == 401
    start, _ = through(mcp_gate, app.asgi, sent("nonsense"))
    assert start["status"] == 401


def test_the_client_leaves_during_the_answer(mcp_gate: Gate, key: str) -> None:
    """O11: who leaves in the middle of an answer pays for it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    body = part(json.dumps(call("audit_site")).encode())
    through(mcp_gate, app, sent(key), body, {"type": "http.disconnect"})
    assert mcp_gate.credits.balance("acct_a") == 90


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_the_client_leaves_before_the_answer(mcp_gate: Gate, key: str, is_cancelled: bool) -> None:
    """O11: who leaves while the call is at work, of which nothing has been said, pays for it,
    whether the server says so to the app or cancels it.
    """
    waiting = [part(json.dumps(call("audit_site")).encode()), {"type": "http.disconnect"}]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if is_cancelled:
            scope["server"].cancel()
            await anyio.sleep_forever()
        assert (await receive())["type"] == "http.disconnect"

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(_: Any) -> None:
        raise AssertionError

    async def serve() -> None:
        with anyio.CancelScope() as server:
            scope = {**sent(key), "server": server}
            await KeyrushMiddleware(app, gate=mcp_gate)(scope, receive, send)

    run(serve())
    mcp_gate.close()  # what is to be given back is done
    assert mcp_gate.credits.balance("acct_a") == 90


@pytest.mark.parametrize("is_known", [False, True])
def test_the_key_ends_during_the_body(mcp_gate: Gate, clock: Clock, is_known: bool) -> None:
    """S60, S71: whose key has ended by the end of the body calls nothing, however long it took."""
    app = App().answers(result())
    made = mcp_gate.keys.create("acct_a", "ends")
    if is_known:
        assert AsgiDoor(mcp_gate, app).post(message("ping"), made.text).status == 200
    body = json.dumps(call("audit_site")).encode()
    for end, status, bodies in ((False, 200, 1), (True, 401, 0)):
        app.bodies.clear()
        waiting, messages = [part(body[:9], more=True), part(body[9:])], list[Any]()

        async def receive() -> Any:
            if len(waiting) == 1:  # noqa: B023  # it is called in this very turn
                clock.advance(2000)
                if end:  # noqa: B023
                    mcp_gate.keys.revoke(made.key.id)
            return waiting.pop(0)  # noqa: B023

        async def send(sent: Any) -> None:
            messages.append(sent)  # noqa: B023

        run(KeyrushMiddleware(app.asgi, gate=mcp_gate)(sent(made.text), receive, send))
        assert (messages[0]["status"], len(app.bodies)) == (status, bodies)
    assert mcp_gate.credits.balance("acct_a") == 90


def test_the_app_fails(mcp_gate: Gate, key: str) -> None:
    """O11: where the app breaks down before its answer is whole, nothing is charged."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise RuntimeError

    body = part(json.dumps(call("audit_site")).encode())
    with pytest.raises(RuntimeError):
        through(mcp_gate, app, sent(key), body)
    mcp_gate.close()  # what is to be given back is done
    assert mcp_gate.credits.balance("acct_a") == 100


def test_sockets(mcp_gate: Gate, key: str) -> None:
    """S70, S84: a WebSocket at a resource is refused, because nobody reads there what is called."""
    scope = {
        **sent(key),
        "type": "websocket",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    del scope["method"]
    start, _ = through(mcp_gate, App().asgi, scope, {"type": "websocket.connect"})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)


def test_an_app_within_the_app(mcp_gate: Gate, key: str) -> None:
    """O11: behind a second middleware of the same gate a call is read and charged once; what is no
    resource outside does not become one inside.
    """
    app = App().answers(result())
    twice = KeyrushMiddleware(app.asgi, gate=mcp_gate)

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await twice({**scope, "root_path": "/mcp"}, receive, send)

    body = json.dumps(call("audit_site")).encode()
    start, *_ = through(mcp_gate, mounted, sent(key), part(body))
    assert (start["status"], app.bodies) == (200, [body])
    assert mcp_gate.credits.balance("acct_a") == 90

    async def moved(scope: Any, receive: Any, send: Any) -> None:
        await twice({**scope, "path": "/mcp", "raw_path": b"/mcp"}, receive, send)

    outside = {**sent(key), "path": "/other", "raw_path": b"/other"}
    start, *_ = through(mcp_gate, moved, outside, part(body))
    assert start["status"] == 403
    assert len(app.bodies) == 1


def test_what_the_app_refuses(mcp_gate: Gate, key: str) -> None:
    """R8, O11: a refusal that the app raises is an error of JSON-RPC, too, with the call's id."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        scope["keyrush"].require_scope("never")

    narrow = mcp_gate.keys.create("acct_a", "narrow", scopes=["seo"]).text
    body = part(json.dumps(call("audit_site", "id-1")).encode())
    start, answer = through(mcp_gate, app, sent(narrow), body)
    said = json.loads(answer["body"])
    assert (start["status"], said["id"], said["error"]["code"]) == (403, "id-1", -32003)
    assert mcp_gate.credits.balance("acct_a") == 100


def test_ways_to_lie_about_the_length(mcp_gate: Gate, key: str) -> None:
    """S84: a body is counted, whatever its length is said to be."""
    mcp_gate.settings.__dict__["mcp_max_body"] = 1024  # the least that it may be
    for length, size, status in (("1025", 10, 413), ("9" * 30, 10, 413), ("10", 1025, 413)):
        scope = sent(key)
        scope["headers"].append((b"Content-Length", length.encode()))
        start, _ = through(mcp_gate, App().asgi, scope, part(b" " * size))
        assert start["status"] == status
    door = AsgiDoor(mcp_gate, App().answers(result()))
    assert door.post(message("ping"), key).status == 200
