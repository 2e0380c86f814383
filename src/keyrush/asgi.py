"""The ASGI middleware: HTTP, WebSocket and lifespan, over the same gate as WSGI."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from keyrush.core.refusal import Refusal, refused_in
from keyrush.errors import ConfigurationError, KeyrushError, Unavailable
from keyrush.gate.admission import Pending
from keyrush.gate.gate import GATE, Gate
from keyrush.gate.opening import UNOPENED, Opening
from keyrush.gate.principal import Caller, Principal
from keyrush.runtime.bridge import call_soon, in_event_loop, is_bridged, is_cancellation, start_task
from keyrush.runtime.stopping import when_told_to_stop
from keyrush.settings.settings import Settings
from keyrush.wire.fields import foreign
from keyrush.wire.interfaces import is_wsgi
from keyrush.wire.refusals import Response
from keyrush.wire.request import Header

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: The messages that start a response, or accept a WebSocket.
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})

#: The messages that carry the body; without `more_body` they are its end.
_BODIES = frozenset({"http.response.body", "http.response.zerocopysend", "http.response.pathsend"})

#: Plain numbers: an enum's value is looked up anew each time.
_OK = HTTPStatus.OK.value
_REDIRECT = HTTPStatus.MULTIPLE_CHOICES.value

_DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})

_FORWARDED_FOR = b"x-forwarded-for"

#: Where the scope of a WebSocket says with which subprotocol its key has come.
_OFFERED = "keyrush.subprotocol"

#: RFC 6455 §7.4.1, for servers that can't send an HTTP response instead, and for keys that end.
POLICY_VIOLATION = 1008

#: What an app receives once the gate has ended its connection.
_LEFT: dict[str, Message] = {
    "http": {"type": "http.disconnect"},
    "websocket": {"type": "websocket.disconnect", "code": POLICY_VIOLATION},
}


class KeyrushMiddleware:
    """Puts a gate in front of an ASGI app.

    Configured by `KEYRUSH_*`, by `settings`, or by a `gate` that you made and share. The app
    finds the `Principal` in `scope["keyrush"]`, `scope["user"]` and `scope["auth"]`.

    Raises:
        ConfigurationError: A setting is wrong. When a framework makes the middleware only as
            it starts up, inside the event loop, the lifespan start-up fails with it instead;
            where the server sends no lifespan events, it is logged, and requests are 503.
        TypeError: The app is one of WSGI.
    """

    def __init__(
        self, app: App, settings: Settings | None = None, *, gate: Gate | None = None
    ) -> None:
        if is_wsgi(app):
            raise TypeError(
                f"{type(app).__name__} is a WSGI app: use KeyrushMiddleware from keyrush.wsgi"
            )
        self.app = app
        #: The gate, once it is known how it will learn of a stop; looked at by every request.
        self._begun: Gate | None = None
        self._gate: Gate | None = None
        self._wrong: KeyrushError | None = None
        try:
            self._gate = Gate.chosen(settings, gate)
        except (ConfigurationError, Unavailable) as error:
            # Servers take an exception before the lifespan for "no lifespan" and go on.
            if not in_event_loop():
                raise
            self._wrong = error
            self._opening = Opening(settings, error)

    @property
    def gate(self) -> Gate:
        """The gate: `gate.accounts` are its operations on accounts and keys.

        Raises:
            ConfigurationError: It could not be opened.
        """
        if self._gate is None:
            raise self._wrong or ConfigurationError("there is no gate")
        return self._gate

    async def __call__(  # noqa: C901, PLR0912  # one straight line, read from top to bottom
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        kind = scope["type"]
        if kind not in {"http", "websocket"}:
            await self._other(scope, receive, send)
            return
        gate = self._begun
        if gate is None:
            gate = self._begin()
            if gate is None:
                await _unavailable(scope, receive, send)
                return
        passed = scope.get(GATE)
        if passed is not None and passed.is_same(gate):
            caller = scope["keyrush.caller"]
            if caller.is_authenticated:
                await self._within(caller, scope, receive, send)
                return
        # The key is known in there, and not here, where the app runs.
        answer = gate.admission.begin(
            scope.get("method", "GET"),  # a WebSocket handshake is a GET
            scope["path"] or "/",
            scope.get("raw_path"),
            scope.get("root_path", ""),
            scope["headers"] if kind == "http" else _with_keys(gate, scope),
            scope.get("query_string", b""),
        )
        if isinstance(answer, Pending):
            answer = await answer.finish_async(lambda: gate.address(*_sender(scope)))
        if isinstance(answer, Refusal):
            await self._refuse(scope, receive, send, answer)
            return
        caller, headers = answer

        if _OFFERED in scope:
            send = _answering(scope[_OFFERED], send)
        inner = scope
        if gate.hides_credentials:
            inner, send = _without_credentials(gate, scope, send)
        _enter(inner, gate, caller)
        response = _Response(gate, scope, receive, send, caller, headers)
        try:
            await self.app(inner, response.receive, response.send)
        except BaseException as error:
            if not await response.failed(error):
                raise
        else:
            if caller.charges:
                await response.settle()
        finally:
            if inner is not scope:
                _share(inner, scope)
            # Who sends the same scope through once more has not passed this gate (S66).
            scope[GATE] = passed
            if response.is_open:
                gate.connections.remove(response)

    async def _within(self, caller: Principal, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that has passed this gate before, on its way to an app within the app."""
        gate = self.gate
        refusal, credits = gate.admission.within(
            caller,
            scope.get("method", "GET"),
            scope["path"] or "/",
            scope.get("raw_path"),
            scope.get("root_path", ""),
            scope.get("query_string", b""),
        )
        if refusal is not None:
            caller.refuse(refusal)  # which the outer gate answers
        if credits:
            await caller.charge_async(credits)
        await self.app(scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            # Passed inward it would be a way round the gate (S67).
            raise RuntimeError(f"keyrush does not know the ASGI scope type {scope['type']!r}")
        if self._wrong is not None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(self._wrong)})
            raise self._wrong
        self._begun = self.gate  # its stop is the end of the lifespan
        try:
            await self.app(scope, receive, send)
        finally:
            # Or this is an app without lifespan, and requests are still to come.
            self._begun = None
            await self._flush()

    def _begin(self) -> Gate | None:
        """The gate, at a request that no lifespan event has preceded; None where there is none."""
        if self._gate is None:
            self._gate = self._opening.gate()
        if self._gate is not None:
            when_told_to_stop(self._gate.prepare_to_stop)
            self._begun, self._wrong = self._gate, None
        return self._gate

    async def _flush(self) -> None:
        """Write the counts, now that the app has shut down.

        Without an await where that can be, because servers end the process at the next one.
        """
        gate = self.gate
        if is_bridged(gate.store):
            await gate.workers.run("io", gate.flush)
        else:
            gate.flush()

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
        """Answer a request that has not reached the app."""
        self.gate.log_refusal(refusal, *_sender(scope))
        if scope["type"] == "websocket":
            await receive()  # websocket.connect (S70)
        await _respond(scope, send, self.gate.refusals.response(refusal))


class _Response:
    """The `send` that the app gets: decorates its response, or replaces it by a refusal; and the
    `receive`, which is told of a client that leaves.

    Messages other than the start of the response pass as they are (S68). Once the first part of
    a stream is out, or a WebSocket is accepted, it is a `connections.Connection`.
    """

    # What most responses never change stands here: to set it for each would cost.
    _started: Message | None = None  #: the message that has started the response
    _is_shut = False  #: nothing that the app sends is sent any more
    _is_refused = False  #: because it has been refused
    _status = 0
    _is_complete = False  #: the app has said all
    _is_gone = False  #: the client has left
    _is_ended = False  #: by the gate, because the key has ended
    _is_connected = False  #: a WebSocket, with `websocket.connect`
    is_open = False

    def __init__(  # noqa: PLR0917  # made for every request
        self,
        gate: Gate,
        scope: Scope,
        receive: Receive,
        send: Send,
        caller: Caller,
        headers: list[Header],
    ) -> None:
        self._gate = gate
        self._scope = scope
        self._receive = receive
        self._send = send
        self._caller = caller
        self._headers = headers

    # --- what the app calls ---

    async def receive(self) -> Message:
        """The `receive` that the app gets."""
        if self._is_ended:
            return _LEFT[self._scope["type"]]
        message = await self._receive()
        kind = message["type"]
        if kind in _DISCONNECTS:
            self._is_gone = True
        elif kind == "websocket.connect":
            self._is_connected = True  # else a refusal has to receive it (S70)
        return message

    def send(self, message: Message) -> Awaitable[None]:  # noqa: C901  # a table of messages
        """The `send` that the app gets."""
        kind = message["type"]
        caller = self._caller
        if kind in _STARTS:
            status = message.get("status", _OK)  # a WebSocket is accepted without
            if caller.refusal is not None and (lost := caller.lost_refusal(status)):
                return self._replace(lost)
            self._status = status
            headers, added = message.get("headers", ()), self._headers
            if len(added) > 1:  # the last one is `vary`, before it are the rate-limit fields
                message = {**message, "headers": foreign(headers) + added}
            else:
                message = {**message, "headers": [*headers, *added]}
            self._started = message
            if kind == "websocket.accept":
                message["headers"] = [h for h in message["headers"] if h != self._gate.vary]
                return self._opening(message)
            if caller.charges and status >= _REDIRECT:
                return self._uncharge(message)
        elif self._is_shut:
            return self._shut()
        elif kind in _BODIES:
            if "more_body" not in message or not message["more_body"]:
                self._is_complete = True
            elif not self.is_open:
                return self._opening(message)
        elif kind == "websocket.close":
            self._is_complete = True
            if not self._started:  # the app's own refusal
                self._started = message
                return self._uncharge(message)
        return self._sending(message) if caller.charges else self._send(message)

    # Who hands it to threads, as asgiref does, asks whether it is a coroutine function, and may
    # call it in the thread. It is none, because a frame of its own would cost every request.
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(send)
    else:
        send._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # noqa: SLF001  # which is how it is marked there

    async def _shut(self) -> None:
        """In place of a message that is not sent.

        Raises:
            OSError: The gate has ended the connection, as if the client had.
        """
        if self._is_ended:
            raise OSError("the key has ended, and the connection with it")

    async def _opening(self, message: Message) -> None:
        """Send what makes it a `connections.Connection`; this runs in the event loop for sure."""
        self._open()
        await (self._sending(message) if self._caller.charges else self._send(message))

    async def _sending(self, message: Message) -> None:
        """Send a message of a response that is paid for, and learn if the client has left."""
        try:
            await self._send(message)
        except OSError:
            self._is_gone = True
            raise

    # --- how it ends ---

    def _is_kept(self, error: BaseException | None = None) -> bool:
        """Whether what was charged is kept: for an answer below 300 that came to its end, or that
        the client broke off. A WebSocket that was accepted is such an answer; an app that is
        cancelled in the middle of one, or ended by the gate, has been left by its client.
        """
        if self._started is None or self._status >= _REDIRECT:
            return False
        is_whole = self._is_complete or self._scope["type"] == "websocket"
        has_left = self._is_gone or self._is_ended or is_cancellation(error)
        return is_whole or has_left

    async def settle(self) -> None:
        """Give credits back where the app has returned without a whole answer."""
        if not self._is_kept():
            gate = self._gate
            await gate.workers.run("io", gate.charging.uncharge, self._caller, must=True)

    async def failed(self, error: BaseException) -> bool:
        """The app has raised: True where that is dealt with. A refusal is answered, unless the
        response has started; what fails because the gate has ended the connection is no fault.
        """
        refused = refused_in(error)
        if refused is not None and not self._started:
            if not self._is_refused:
                await self._replace(refused.refusal)
            return True
        if self._is_ended and isinstance(error, Exception):
            return True
        self._give_back(error)
        return False

    def _give_back(self, error: BaseException) -> None:
        """Give credits back, where the app has failed to answer; waits for nothing."""
        if self._caller.charges and not self._is_kept(error):
            gate = self._gate
            gate.workers.submit("io", gate.charging.uncharge, self._caller, must=True)

    async def _replace(self, refusal: Refusal) -> None:
        self._is_shut = self._is_refused = True
        gate = self._gate
        if isinstance(self._caller, Principal):
            refusal = await gate.workers.run(
                "io", gate.admission.refuse, self._caller, refusal, must=True
            )
        if self._scope["type"] == "websocket" and not self._is_connected:
            await self._receive()
        await _respond(self._scope, self._send, gate.refusals.response(refusal))

    async def _uncharge(self, message: Message) -> None:
        if self._caller.charges:
            gate = self._gate
            await gate.workers.run("io", gate.charging.uncharge, self._caller, must=True)
        await self._send(message)

    # --- as a connection that may outlive its key ---

    def _open(self) -> None:
        caller = self._caller
        self.is_open = True
        if isinstance(caller, Principal):
            self.key_id, self.account_id = caller.key_id, caller.account_id
            self.ends_at = caller.resolved.expires_at
            self._call_soon = call_soon()
            self._gate.connections.add(self)

    def end(self) -> None:
        """See `connections.Connection`."""
        self._call_soon(self._end_soon)

    def _end_soon(self) -> None:
        if not (self._is_ended or self._is_complete):
            self._is_shut = self._is_ended = True
            self._ending = start_task(self._end_quietly)

    async def _end_quietly(self) -> None:
        with contextlib.suppress(Exception):  # a server that has ended it meanwhile says so
            await self._end()

    async def _end(self) -> None:
        """End the connection towards the server, which then tells the app that it is gone.

        A body of a promised length can't end early: its next part fails, and the server sees.
        """
        if self._scope["type"] == "websocket":
            await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
        elif self._started and not _has_length(self._started["headers"]):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _unavailable(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that meets no gate, because there is none."""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect (S70)
    await _respond(scope, send, UNOPENED)


async def _respond(scope: Scope, send: Send, response: Response) -> None:
    """Send a whole response, on a WebSocket in the form that the server offers (S70)."""
    status, headers, body = response
    prefix = "http.response"
    if scope["type"] == "websocket":
        prefix = "websocket.http.response"
        if prefix not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
            return
    elif scope["method"] == "HEAD":
        body = b""  # S24
    await send({"type": f"{prefix}.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}.body", "body": body})


def _enter(scope: Scope, gate: Gate, caller: Caller) -> None:
    """Add what the app finds in the scope.

    It is the server's own, not a copy, so that what the app adds (`route`, `endpoint`, `state`)
    is seen by middleware outside (S66); but where credentials are hidden from the app alone.
    """
    scope[GATE] = gate
    scope["keyrush.caller"] = caller  # whoever it is, whatever the app makes of "user"
    scope["keyrush"] = caller if caller.is_authenticated else None
    scope["user"] = scope["auth"] = caller


def _without_credentials(gate: Gate, scope: Scope, send: Send) -> tuple[Scope, Send]:
    """A scope without the headers that may hold a key, and a `send` that shows outside what the
    app has added to it by the start of its response.
    """
    inner = {**scope, "headers": gate.credential_headers.without(scope["headers"])}

    def sharing(message: Message) -> Awaitable[None]:
        if message["type"] in _STARTS:
            _share(inner, scope)
        return send(message)

    return inner, sharing


def _share(inner: Scope, scope: Scope) -> None:
    """Put what the app has added to its scope into the one outside, whose headers stay (S66)."""
    headers = scope["headers"]
    scope.update(inner)
    scope["headers"] = headers


def _with_keys(gate: Gate, scope: Scope) -> list[Header]:
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
    scope[_OFFERED] = protocol.name
    return offer.headers + offer.keys


def _answering(name: str, send: Send) -> Send:
    """A `send` that accepts with the subprotocol `name` where the app chooses none: a client that
    has offered some goes away without one.
    """

    def answering(message: Message) -> Awaitable[None]:
        if message["type"] == "websocket.accept" and not message.get("subprotocol"):
            message = {**message, "subprotocol": name}
        return send(message)

    return answering


def _has_length(headers: list[Header]) -> bool:
    return any(name.lower() == b"content-length" for name, _ in headers)


def _sender(scope: Scope) -> tuple[str | None, list[bytes]]:
    """Who is at the other end, and for whom they say they ask."""
    peer = scope.get("client")
    forwarded = [value for name, value in scope["headers"] if name.lower() == _FORWARDED_FOR]
    return peer and peer[0], forwarded


__all__ = ["App", "KeyrushMiddleware"]
