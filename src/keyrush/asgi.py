"""The ASGI middleware: HTTP, WebSocket and lifespan, over the same gate as WSGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from http.client import BAD_REQUEST
from typing import Any

from keyrush import http
from keyrush.bridge import is_bridged, running_loop
from keyrush.errors import ConfigurationError, KeyrushError, Refused, StoreError
from keyrush.gate import GATE, Gate
from keyrush.http import Header
from keyrush.model import Refusal
from keyrush.principal import Anonymous, Caller, Principal
from keyrush.responses import Response
from keyrush.settings import Settings
from keyrush.stopping import when_told_to_stop

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: The messages that start a response, or accept a WebSocket.
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})

_FORWARDED_FOR = b"x-forwarded-for"

#: RFC 6455 §7.4.1, for servers that can't send an HTTP response instead.
POLICY_VIOLATION = 1008


class KeyrushMiddleware:
    """Puts a gate in front of an ASGI app.

    Configured by `KEYRUSH_*`, by `settings`, or by a `gate` that you made and share. The app
    finds the `Principal` in `scope["keyrush"]`, `scope["user"]` and `scope["auth"]`.

    Raises:
        ConfigurationError: A setting is wrong. When a framework makes the middleware only as
            it starts up, inside the event loop, the lifespan start-up fails with it instead.
    """

    def __init__(
        self, app: App, settings: Settings | None = None, *, gate: Gate | None = None
    ) -> None:
        self.app = app
        self._gate: Gate | None = None
        self._wrong: KeyrushError | None = None
        try:
            self._gate = Gate.chosen(settings, gate)
        except (ConfigurationError, StoreError) as error:
            # Servers take an exception before the lifespan for "no lifespan" and go on.
            if running_loop() is None:
                raise
            self._wrong = error

    @property
    def gate(self) -> Gate:
        """The gate: `gate.accounts` are its operations on accounts and keys.

        Raises:
            ConfigurationError: It could not be opened.
        """
        if self._gate is None:
            raise self._wrong or ConfigurationError("there is no gate")
        return self._gate

    async def __call__(  # noqa: C901  # one straight line, read from top to bottom
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        kind = scope["type"]
        if kind not in {"http", "websocket"}:
            await self._other(scope, receive, send)
            return
        gate = self._gate or self.gate
        passed = scope.get(GATE)
        if passed is not None and passed.is_same(gate):
            await self.app(scope, receive, send)
            return
        method = scope.get("method", "GET")  # a WebSocket handshake is a GET
        path = scope["path"]
        if scope.get("root_path"):
            path = _within_root(path, scope["root_path"])
        policy = gate.policy
        if policy.is_public(method, path, scope.get("raw_path")) or (
            method == "OPTIONS" and http.is_preflight(scope["headers"])
        ):
            caller: Caller = Anonymous()
            headers: list[Header] = []
        else:
            credential = http.credential(scope["headers"])
            if isinstance(credential, Refusal):
                await self._refuse(scope, receive, send, credential)
                return
            rule = policy.rule(method, path)
            query = scope.get("query_string") or b""
            admission = gate.admission
            answer = admission.warm(credential, rule, query)
            if answer is None and admission.is_async:
                answer = await admission.warm_async(credential, rule, query)
            if answer is None:
                pool = admission.pool(credential)
                answer = await gate.workers.run(
                    pool, admission.cold, credential, rule, query, undo=admission.undo
                )
            if isinstance(answer, Refusal):
                await self._refuse(scope, receive, send, answer)
                return
            caller, headers = answer

        response = _Response(gate, scope, send, caller, headers)
        if kind == "websocket":
            receive = response.connecting(receive)
        try:
            await self.app(_inner(scope, gate, caller), receive, response.send)
        except Refused as raised:
            await response.refuse(raised)
        except BaseException:
            response.fail()
            raise

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            # Passed inward it would be a way round the gate (S67).
            raise RuntimeError(f"keyrush does not know the ASGI scope type {scope['type']!r}")
        if self._wrong is not None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(self._wrong)})
            raise self._wrong
        try:
            await self.app(scope, receive, send)
        except Exception:  # an app without lifespan
            when_told_to_stop(self.gate.prepare_to_stop)
            raise
        finally:
            await self._flush()

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
        hops = [v.decode("latin-1") for n, v in scope["headers"] if n.lower() == _FORWARDED_FOR]
        peer = scope.get("client")
        self.gate.log_refusal(refusal, peer and peer[0], hops)
        if scope["type"] == "websocket":
            await receive()  # websocket.connect (S70)
        await _respond(scope, send, self.gate.refusals.response(refusal))


class _Response:
    """The `send` that the app gets: decorates its response, or replaces it by a refusal.

    Messages other than the start of the response pass as they are (S68).
    """

    __slots__ = (
        "_caller",
        "_connect",
        "_gate",
        "_headers",
        "_refused",
        "_scope",
        "_send",
        "_started",
    )

    def __init__(
        self, gate: Gate, scope: Scope, send: Send, caller: Caller, headers: list[Header]
    ) -> None:
        self._gate = gate
        self._scope = scope
        self._send = send
        self._caller = caller
        self._headers = headers
        self._started = self._refused = False
        self._connect: Receive | None = None  # while websocket.connect has not been received

    def send(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind in _STARTS:
            caller = self._caller
            status = message.get("status", 0)
            if caller.refusal is not None and (lost := caller.lost_refusal(status)):
                return self._replace(lost)
            self._started = True
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            if caller.charged and status >= BAD_REQUEST:
                return self._uncharge(message)
        elif self._refused:
            return _nothing()
        elif kind == "websocket.close" and not self._started:  # the app's own refusal
            self._started = True
            return self._uncharge(message)
        return self._send(message)

    def connecting(self, receive: Receive) -> Receive:
        """A WebSocket's `receive`, so that a refusal knows whether the app has connected (S70)."""
        self._connect = receive

        async def received() -> Message:
            message = await receive()
            self._connect = None
            return message

        return received

    async def refuse(self, raised: Refused) -> None:
        """Answer with what the app raised, unless its response has started.

        Raises:
            Refused: It has.
        """
        if self._started:
            raise raised
        if not self._refused:
            await self._replace(raised.refusal)

    def fail(self) -> None:
        """Give credits back, because the app has failed before it answered; waits for nothing."""
        if not self._started and self._caller.charged:
            self._gate.workers.submit("io", self._gate.credits.uncharge, self._caller)

    async def _replace(self, refusal: Refusal) -> None:
        self._refused = True
        gate = self._gate
        if isinstance(self._caller, Principal):
            refusal = await gate.workers.run("io", gate.admission.refuse, self._caller, refusal)
        if self._connect is not None:
            await self._connect()
        await _respond(self._scope, self._send, gate.refusals.response(refusal))

    async def _uncharge(self, message: Message) -> None:
        if self._caller.charged:
            gate = self._gate
            await gate.workers.run("io", gate.credits.uncharge, self._caller)
        await self._send(message)


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


async def _nothing() -> None:
    """In place of a message that is not sent."""


def _inner(scope: Scope, gate: Gate, caller: Caller) -> Scope:
    """The scope that the app sees: a copy, never the server's own (S66)."""
    inner = dict(scope)
    if "state" in inner:
        inner["state"] = inner["state"].copy()
    inner[GATE] = gate
    inner["keyrush.caller"] = caller  # whoever it is, whatever the app makes of "user"
    inner["keyrush"] = caller if caller.is_authenticated else None
    inner["user"] = inner["auth"] = caller
    return inner


def _within_root(path: str, root: str) -> str:
    """The path within the app: without `root_path`, which `path` includes."""
    if path == root or path.startswith(f"{root}/"):
        return path[len(root) :] or "/"
    return path


__all__ = ["App", "KeyrushMiddleware"]
