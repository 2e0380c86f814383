"""The scope of a request: what the gate reads in it, and what the app finds there."""

from __future__ import annotations

from collections.abc import Awaitable

from keyrush.asgi.messages import STARTS, Message, Scope, Send
from keyrush.gate.gate import GATE, Gate
from keyrush.gate.principal import Caller
from keyrush.wire.refusals import Asked
from keyrush.wire.request import Header

_FORWARDED_FOR = b"x-forwarded-for"

#: Where the scope of a WebSocket says with which subprotocol its key has come.
OFFERED = "keyrush.subprotocol"


def enter(scope: Scope, gate: Gate, caller: Caller) -> None:
    """Add what the app finds in the scope.

    It is the server's own, not a copy, so that what the app adds (`route`, `endpoint`, `state`)
    is seen by middleware outside (S66); but where credentials are hidden from the app alone.
    """
    scope[GATE] = gate
    scope["keyrush.caller"] = caller  # whoever it is, whatever the app makes of "user"
    scope["keyrush"] = caller if caller.is_authenticated else None
    scope["user"] = scope["auth"] = caller


def without_credentials(
    gate: Gate, scope: Scope, send: Send, also: bytes = b""
) -> tuple[Scope, Send]:
    """A scope without the headers that may hold a key, and a `send` that shows outside what the
    app has added to it by the start of its response. `also` is another header to leave out.
    """
    headers = gate.credential_headers.without(scope["headers"])
    if also:
        headers = [header for header in headers if header[0].lower() != also]
    inner = {**scope, "headers": headers}

    def sharing(message: Message) -> Awaitable[None]:
        if message["type"] in STARTS:
            share(inner, scope)
        return send(message)

    return inner, sharing


def share(inner: Scope, scope: Scope) -> None:
    """Put what the app has added to its scope into the one outside, whose headers stay (S66)."""
    headers = scope["headers"]
    scope.update(inner)
    scope["headers"] = headers


def with_keys(gate: Gate, scope: Scope) -> list[Header]:
    """The headers of a WebSocket's handshake, with the keys among its subprotocols. These are taken
    out of the scope: nobody else has a use for them, and who writes it down would write them down.
    """
    protocol = gate.key_protocol
    headers: list[Header] = scope["headers"]
    offer = protocol.offer(headers) if protocol else None
    if protocol is None or offer is None:
        return headers
    scope["headers"] = offer.headers
    scope["subprotocols"] = [name.decode("latin-1") for name in offer.subprotocols]
    scope[OFFERED] = protocol.name
    return offer.headers + offer.keys


def answering(name: str, send: Send) -> Send:
    """A `send` that accepts with the subprotocol `name` where the app chooses none: a client that
    has offered some goes away without one.
    """

    def answering(message: Message) -> Awaitable[None]:
        if message["type"] == "websocket.accept" and not message.get("subprotocol"):
            message = {**message, "subprotocol": name}
        return send(message)

    return answering


def asked(gate: Gate, scope: Scope, call_id: str | int | None = None) -> Asked | None:
    """What was asked of a resource, where it was, with the id of the request if it is known."""
    method, path = scope.get("method", "GET"), scope["path"] or "/"
    return gate.asked(method, path, scope.get("root_path", ""), call_id)


def sender(scope: Scope) -> tuple[str | None, list[bytes]]:
    """Who is at the other end, and for whom they say they ask."""
    peer = scope.get("client")
    forwarded = [value for name, value in scope["headers"] if name.lower() == _FORWARDED_FOR]
    return peer and peer[0], forwarded
