"""The ASGI middleware: HTTP, WebSocket and lifespan, over the same gate as WSGI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from keyrush import http
from keyrush.errors import ConfigurationError, Refused
from keyrush.gate import Admitted, Gate
from keyrush.http import Header, Request, Response
from keyrush.model import Refusal
from keyrush.principal import ANONYMOUS, Principal
from keyrush.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Where the scope says which gate a request has passed, so that it counts once (traps).
GATE = "keyrush.gate"

_log = logging.getLogger("keyrush")


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
        self._gate = gate
        self._wrong: ConfigurationError | None = None
        try:
            self._gate = gate or Gate.open(settings)
        except ConfigurationError as error:
            # Servers take an exception before the lifespan for "no lifespan" and go on.
            if not _in_event_loop():
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif kind in ("http", "websocket"):
            await self._request(scope, receive, send)
        else:
            # Passed inward it would be a way round the gate (S67).
            raise RuntimeError(f"keyrush does not know the ASGI scope type {kind!r}")

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._wrong is not None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(self._wrong)})
            raise self._wrong
        try:
            await self.app(scope, receive, send)
        finally:
            await self.gate.workers.run("io", self.gate.flush, undo=None)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        gate = self.gate
        passed = scope.get(GATE)
        if passed is not None and passed.is_same(gate):
            await self.app(scope, receive, send)
            return
        method = scope.get("method", "GET")  # a WebSocket handshake is a GET
        path = _path(scope)
        if gate.policy.is_public(method, path, scope.get("raw_path")) or _is_preflight(scope):
            await self.app(_inner(scope, gate, None), receive, send)
            return

        credential = http.credential(scope["headers"])
        if isinstance(credential, Refusal):
            await self._refuse(scope, receive, send, credential)
            return
        request = Request(method, path, scope["query_string"], credential)
        rule = gate.policy.rule(method, path)
        answer = gate.warm(request, rule)
        if answer is None:
            pool = gate.pool(credential)
            answer = await gate.workers.run(pool, gate.cold, request, rule, undo=gate.undo)
        if isinstance(answer, Refusal):
            await self._refuse(scope, receive, send, answer)
            return
        await self._pass(_inner(scope, gate, answer.principal), receive, send, answer)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, admitted: Admitted) -> None:
        """Run the app; refuse the request after all where the app raises `Refused`."""
        principal, headers = admitted
        started = refused = False

        def decorated(message: Message) -> Awaitable[None]:
            nonlocal started, refused
            kind = message["type"]
            if kind == "http.response.start" or kind == "websocket.accept":
                if principal.refusal is not None and message.get("status") == 500:
                    # A framework has made an internal error of the `Refused` that was raised.
                    refused = True
                    return self._refuse_late(scope, receive, send, principal)
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            elif refused:
                return _nothing()
            return send(message)

        try:
            await self.app(scope, receive, decorated)
        except Refused as raised:
            if refused:
                return
            if started:
                raise
            principal.refusal = raised.refusal
            await self._refuse_late(scope, receive, send, principal)

    async def _refuse_late(
        self, scope: Scope, receive: Receive, send: Send, principal: Principal
    ) -> None:
        assert principal.refusal is not None  # noqa: S101  # both callers have just seen it
        gate = self.gate
        refusal = await gate.workers.run("io", gate.refuse, principal, principal.refusal, undo=None)
        await self._refuse(scope, None, send, refusal)

    async def _refuse(
        self, scope: Scope, receive: Receive | None, send: Send, refusal: Refusal
    ) -> None:
        """Send the refusal; `receive` is given where a WebSocket has not been connected yet."""
        response = self.gate.refusals.response(refusal)
        if refusal.status in (400, 401):
            _log_refusal(scope, refusal, self.gate.settings)
        if scope["type"] == "http":
            await _respond(send, response, "http.response", scope["method"] == "HEAD")
            return
        if receive is not None:
            await receive()  # websocket.connect (S70)
        if "websocket.http.response" in (scope.get("extensions") or {}):
            await _respond(send, response, "websocket.http.response", False)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": ""})


async def _respond(send: Send, response: Response, prefix: str, without_body: bool) -> None:
    status, headers, body = response
    await send({"type": f"{prefix}.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}.body", "body": b"" if without_body else body})


async def _nothing() -> None:
    """In place of a message that is not sent."""


def _inner(scope: Scope, gate: Gate, principal: Principal | None) -> Scope:
    """The scope that the app sees: a copy, never the server's own (S66)."""
    inner = dict(scope)
    if "state" in inner:
        inner["state"] = inner["state"].copy()
    inner[GATE] = gate
    inner["keyrush"] = principal
    inner["user"] = inner["auth"] = principal or ANONYMOUS
    return inner


def _path(scope: Scope) -> str:
    """The path within the app: without `root_path`, which `path` includes."""
    path: str = scope["path"]
    root = scope.get("root_path")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def _is_preflight(scope: Scope) -> bool:
    """A CORS preflight carries no credentials, so it passes, uncharged (S76)."""
    if scope["type"] != "http" or scope["method"] != "OPTIONS":
        return False
    return http.is_preflight(scope["headers"])


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _log_refusal(scope: Scope, refusal: Refusal, settings: Settings) -> None:
    peer = scope.get("client")
    hops = [v.decode("latin-1") for n, v in scope["headers"] if n.lower() == b"x-forwarded-for"]
    address = http.client_address(peer and peer[0], hops, settings.networks)
    _log.info("%d %s from %s", refusal.status, refusal.reason, address)


__all__ = ["App", "Header", "KeyrushMiddleware"]
