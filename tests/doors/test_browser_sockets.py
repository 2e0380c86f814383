"""WebSockets of browsers, whose script can set no header: the key comes as a subprotocol."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from keyrush import ConfigurationError, Gate, KeyrushMiddleware
from keyrush.wire.request import CREDENTIAL_HEADERS, CredentialHeaders
from keyrush.wire.subprotocol import KeyProtocol
from tests.conftest import Clock, settings
from tests.contract.test_secrecy import keys_in_frames
from tests.support.calls import Sent, run, scope_of
from tests.support.faults import until
from tests.support.serving import serve


@pytest.fixture
def gate(clock: Clock) -> Iterator[Gate]:
    """A gate that takes keys after the subprotocol `keyrush`."""
    opened = Gate.open(settings(websocket_protocol="keyrush", public_paths=["/open"]), clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def key(gate: Gate) -> str:
    """A key of acct_a."""
    gate.accounts.create("acct_a")
    return gate.keys.create("acct_a", "first").text


def handshake(gate: Gate, path: str, *headers: tuple[str, str], accept: Any = None) -> Any:
    """What the app sees of a handshake, None if it is refused, and what is sent; with what is
    seen outside once it is over.
    """
    offered = [value for name, value in headers if name == "Sec-WebSocket-Protocol"]
    scope = scope_of(
        Sent(path, list(headers)),
        type="websocket",
        subprotocols=[token.strip() for value in offered for token in value.split(",")],
        extensions={"websocket.http.response": {}},
    )
    del scope["method"]
    seen: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope))
        await receive()
        await send({"type": "websocket.accept", **(accept or {})})

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def call() -> None:
        await KeyrushMiddleware(app, gate=gate)(scope, receive, send)

    run(call())
    return (seen[0] if seen else None), sent, scope


def protocol(*tokens: str) -> tuple[str, str]:
    return ("Sec-WebSocket-Protocol", ", ".join(tokens))


@pytest.mark.usefixtures("backend")
def test_the_key_follows_the_name(gate: Gate, key: str) -> None:
    """`new WebSocket(url, ["keyrush", key])` is let in and answered with that subprotocol; the
    app sees neither.
    """
    scope, (accepted,), outside = handshake(gate, "/", protocol("keyrush", key))
    assert scope["keyrush"].account_id == "acct_a"
    assert scope["subprotocols"] == []
    assert scope["headers"] == []
    assert accepted["subprotocol"] == "keyrush"
    assert b"vary" not in dict(accepted["headers"])
    assert key not in str(scope)
    assert key not in str(outside)  # which layers outside may write down


@pytest.mark.parametrize("hides", [False, True], ids=["shown", "hidden"])
def test_no_frame_keeps_it(clock: Clock, hides: bool) -> None:
    """S82: while the app runs, no frame of keyrush has the key in a local, once the thread that has
    looked it up has returned.
    """
    own = settings(websocket_protocol="keyrush", hide_credentials=hides)
    gate = Gate.open(own, clock=clock)
    gate.accounts.create("acct_a")
    made = gate.keys.create("acct_a", "first").text
    reached = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        until(lambda: not keys_in_frames(made))
        reached.append(True)

    sent = Sent("/", [protocol("keyrush", made)])
    run(KeyrushMiddleware(app, gate=gate)(scope_of(sent, type="websocket"), None, None))  # type: ignore[arg-type]  # never used
    assert reached
    gate.close()


def test_the_apps_own_subprotocols_stay(gate: Gate, key: str) -> None:
    """What else is offered the app sees, in one header or several, and may choose."""
    accept = {"subprotocol": "chat.v2"}
    lines = [protocol("chat.v1", "keyrush", key), protocol("chat.v2")]
    for headers in (lines, [protocol("chat.v1", "chat.v2", "keyrush", key)]):
        scope, (accepted,), _ = handshake(gate, "/", *headers, accept=accept)
        assert scope["subprotocols"] == ["chat.v1", "chat.v2"]
        assert scope["headers"] == [(b"sec-websocket-protocol", b"chat.v1, chat.v2")]
        assert accepted["subprotocol"] == "chat.v2"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([protocol("keyrush")], 401),
        ([protocol("keyrush", "kr_live_nobody")], 401),
        ([protocol("chat", "{key}")], 401),
        ([protocol("keyrush", "{key}", "keyrush", "kr_live_other")], 400),
        ([protocol("keyrush", "{key}"), ("X-API-Key", "kr_live_other")], 400),
        ([protocol("keyrush", "{key}"), ("Authorization", "Bearer kr_live_other")], 400),
        ([protocol("keyrush", "x" * 5000)], 401),
    ],
)
def test_refused(gate: Gate, key: str, headers: Any, status: int) -> None:
    """S7, S8, S12, S26: no key, a wrong one, or several that differ, are refused as in headers."""
    filled = [(name, value.replace("{key}", key)) for name, value in headers]
    scope, (start, _), outside = handshake(gate, "/", *filled)
    assert scope is None
    assert start["status"] == status
    assert f"keyrush, {key}" not in str(outside["headers"])


def test_the_same_key_twice(gate: Gate, key: str) -> None:
    """S7: the same key in a header, too, is one credential; another scheme is none."""
    for other in (("X-API-Key", key), ("Authorization", f"Bearer {key}"), ("Authorization", "x y")):
        scope, _, _ = handshake(gate, "/", protocol("keyrush", key), other)
        assert scope["keyrush"].account_id == "acct_a"


def test_hidden_on_public_paths_too(gate: Gate, key: str) -> None:
    """Where nobody need be known, the key is hidden all the same, and the client is answered."""
    scope, (accepted,), _ = handshake(gate, "/open", protocol("keyrush", key))
    assert scope["keyrush"] is None
    assert scope["subprotocols"] == []
    assert accepted["subprotocol"] == "keyrush"


def test_off_unless_set(clock: Clock) -> None:
    """Without the setting no subprotocol is a key, and the app sees them all."""
    gate = Gate.open(settings(public_paths=["/open"]), clock=clock)
    gate.accounts.create("acct_a")
    made = gate.keys.create("acct_a", "k").text
    scope, _, _ = handshake(gate, "/", protocol("keyrush", made))
    assert scope is None
    scope, (accepted,), _ = handshake(gate, "/open", protocol("keyrush", made))
    assert scope["subprotocols"] == ["keyrush", made]
    assert not accepted.get("subprotocol")
    gate.close()


def test_only_on_websockets(gate: Gate, key: str) -> None:
    """On HTTP the header is no credential."""
    begun = gate.admission.begin(
        "GET", "/", None, "", [(b"sec-websocket-protocol", f"keyrush, {key}".encode())], b""
    )
    assert getattr(begun, "status", None) == 401


def test_taken_as_a_header_that_may_hold_keys() -> None:
    """The key is read as in the first header that holds nothing else, or after `Bearer`."""
    for names, header in [
        (CREDENTIAL_HEADERS, (b"x-api-key", b"k")),
        (["authorization"], (b"authorization", b"Bearer k")),
        (["x-mine", "x-other"], (b"x-mine", b"k")),
    ]:
        offer = KeyProtocol("keyrush", CredentialHeaders(names)).offer(
            [(b"Sec-WebSocket-Protocol", b"keyrush ,\tk")]
        )
        assert offer == ([header], [], [])


@pytest.mark.parametrize("name", ["key rush", "a,b", "é", "x" * 65])
def test_no_subprotocol(name: str) -> None:
    """What can't be the name of one is refused at the start."""
    with pytest.raises(ConfigurationError, match="KEYRUSH_WEBSOCKET_PROTOCOL"):
        settings(websocket_protocol=name)


def test_over_a_socket(gate: Gate, key: str, caplog: Any) -> None:
    """A client as strict as browsers are is served, and no log shows the key."""
    caplog.set_level(logging.DEBUG, "keyrush")
    caplog.set_level(logging.INFO, "uvicorn")

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.user.account_id)
        await socket.close()

    app = KeyrushMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), gate=gate)
    with serve(app) as url:
        where = url.replace("http", "ws")
        offered: list[Any] = ["keyrush", key]
        with connect(where, subprotocols=offered) as socket:
            assert socket.subprotocol == "keyrush"
            assert socket.recv(timeout=5) == "acct_a"
        wrong: list[Any] = ["keyrush", f"{key[:-1]}-"]
        with pytest.raises(InvalidStatus, match="401"):
            connect(where, subprotocols=wrong)
    assert "401 invalid_credential" in caplog.text
    assert key[:-1] not in "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("keyrush")
    )
    assert key not in "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")
    )
