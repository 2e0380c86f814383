"""Requests to a resource of MCP through both doors, to an app that says what it was given."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyrush import Gate, KeyrushMiddleware, wsgi
from tests.support.calls import Reply, Sent, environ_of, run, scope_of

RESOURCE = {
    "path": "/mcp",
    "resource": "https://api.openrush.io/mcp",
    "authorization_servers": ["https://login.openrush.io"],
    "scopes_supported": ["tools", "seo"],
}

METADATA = "https://api.openrush.io/.well-known/oauth-protected-resource/mcp"

#: What the tests' tools cost.
RULES: list[dict[str, Any]] = [
    {"path": "/mcp", "mcp": "tools/call", "tool": "audit_site", "credits": 10, "scopes": ["seo"]},
    {"path": "/mcp", "mcp": "tools/call", "tool": "inspect_page", "credits": 2},
    {"path": "/mcp", "mcp": "tools/call", "tool": "export", "credits": 0},
]


def message(method: str | None = None, number: Any = 1, **more: Any) -> dict[str, Any]:
    """A message of JSON-RPC; None as its `number` is a notification."""
    found: dict[str, Any] = {"jsonrpc": "2.0"}
    if number is not None:
        found["id"] = number
    return found | ({"method": method} if method else {}) | more


def call(tool: str, number: Any = 1) -> dict[str, Any]:
    """A call of a tool."""
    return message("tools/call", number, params={"name": tool, "arguments": {}})


def result(number: Any = 1, **more: Any) -> dict[str, Any]:
    """The answer of a tool that has done its work."""
    return message(None, number, result={"content": [], "isError": False} | more)


@dataclass
class App:
    """Answers with what it is told to, and notes what it was given. It is of both kinds."""

    status: int = 200
    chunks: Sequence[bytes] = (b"",)
    headers: list[tuple[str, str]] = field(
        default_factory=lambda: [("content-type", "application/json")]
    )
    bodies: list[bytes] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)
    during: Callable[[], object] = lambda: None
    before: Callable[[], object] = lambda: None

    def answers(self, *messages: Any, events: bool = False) -> App:
        """The app, which answers with these messages from now on."""
        texts = [json.dumps(one).encode() for one in messages]
        if events:
            self.headers = [("content-type", "text/event-stream")]
            self.chunks = [b"event: message\r\ndata: " + text + b"\r\n\r\n" for text in texts]
        else:
            self.headers = [("content-type", "application/json")]
            self.chunks = texts
        return self

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        """The app, as one of ASGI."""
        body, has_more = b"", scope["method"] == "POST"
        while has_more:
            received = await receive()
            body += received.get("body", b"")
            has_more = received.get("more_body", False)
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        self._note(body, headers)
        self.before()
        sent = [(name.encode(), value.encode()) for name, value in self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": sent})
        for chunk in self.chunks:
            self.during()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    def wsgi(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """The app, as one of WSGI."""
        body = environ["wsgi.input"].read() if environ["REQUEST_METHOD"] == "POST" else b""
        headers = {
            name[5:].lower().replace("_", "-"): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        self._note(body, headers)
        self.before()
        start_response(f"{self.status} Said", list(self.headers))
        for chunk in self.chunks:
            self.during()
            yield chunk

    def _note(self, body: bytes, headers: dict[str, str]) -> None:
        self.bodies.append(body)
        self.seen.append(headers)


class Door:
    """Sends to an app through the gate."""

    def __init__(self, gate: Gate, app: App) -> None:
        self.app = app
        self._open(gate)

    def _open(self, gate: Gate) -> None:
        raise NotImplementedError

    def post(self, body: Any, key: str | None = None, *headers: tuple[str, str]) -> Reply:
        """POST a message, or bytes as they are."""
        return self.send("POST", body, key, *headers)

    def send(
        self,
        method: str,
        body: Any = b"",
        key: str | None = None,
        *headers: tuple[str, str],
        path: str = "/mcp",
    ) -> Reply:
        """Send a request with any method and path."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given: list[tuple[str, str | bytes]] = [*headers]
        if key is not None:
            given.append(("authorization", f"Bearer {key}"))
        return self._send(Sent(path, given, method), content)

    def _send(self, sent: Sent, body: bytes) -> Reply:
        raise NotImplementedError


class AsgiDoor(Door):
    """Through the ASGI middleware."""

    def _open(self, gate: Gate) -> None:
        self.middleware = KeyrushMiddleware(self.app.asgi, gate=gate)

    def _send(self, sent: Sent, body: bytes) -> Reply:
        scope = scope_of(sent)
        half = len(body) // 2
        waiting = [
            {"type": "http.request", "body": body[:half], "more_body": True},
            {"type": "http.request", "more_body": True},
            {"type": "http.request", "body": body[half:]},
        ]
        messages: list[Any] = []

        async def receive() -> Any:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(sent: Any) -> None:
            messages.append(sent)

        run(self.middleware(scope, receive, send))
        start, *bodies = messages
        headers = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
        return Reply(start["status"], headers, b"".join(one.get("body", b"") for one in bodies))


class WsgiDoor(Door):
    """Through the WSGI middleware."""

    def _open(self, gate: Gate) -> None:
        self.middleware = wsgi.KeyrushMiddleware(self.app.wsgi, gate=gate)

    def _send(self, sent: Sent, body: bytes) -> Reply:
        environ = environ_of(sent)
        if "HTTP_CONTENT_TYPE" in environ:
            environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE")
        if body:
            environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = io.BytesIO(body)
        started: list[Any] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
            started[:] = [status, headers]

        items = self.middleware(environ, start_response)
        content = b"".join(items)
        getattr(items, "close", lambda: None)()
        status, headers = started
        return Reply(int(status[:3]), [(n.lower(), v) for n, v in headers], content)


DOORS = [AsgiDoor, WsgiDoor]
