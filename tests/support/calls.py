"""One way to send a request through the ASGI and the WSGI middleware, without a socket."""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from urllib.parse import unquote_to_bytes
from wsgiref.validate import validator

import anyio

from keyrush import Gate, KeyrushMiddleware, Refusal, wsgi
from keyrush.gate.deciding import Admitted
from keyrush.gate.finishing import Pending
from keyrush.gate.principal import Principal

Headers = list[tuple[str, str | bytes]]

T = TypeVar("T")

#: Whose event loop tests run in, where nothing else is said; the fixture `backend` changes it.
BACKENDS: list[Literal["asyncio", "trio"]] = ["asyncio"]


def run(coroutine: Coroutine[Any, Any, T], backend: Literal["asyncio", "trio"] | None = None) -> T:
    """What a coroutine brings, in an event loop of its own."""

    async def main() -> T:
        return await coroutine

    return anyio.run(main, backend=backend or BACKENDS[-1])


async def together(function: Callable[[], Awaitable[T]], times: int) -> list[T]:
    """What as many calls bring, all under way at once; in the order in which they end."""
    found: list[T] = []

    async def one() -> None:
        found.append(await function())

    async with anyio.create_task_group() as group:
        for _ in range(times):
            group.start_soon(one)
    return found


@dataclass
class Reply:
    """A response as a client sees it; header names in lower case, duplicates kept."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str:
        values = [value for found, value in self.headers if found == name]
        assert len(values) == 1, f"{name}: {values}"
        return values[0]

    def __contains__(self, name: str) -> bool:
        return any(found == name for found, _ in self.headers)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Sent:
    """A request. `path` is as sent, quoted, with its query."""

    path: str = "/api/articles"
    headers: Headers = field(default_factory=list)
    method: str = "GET"


def describe(principal: Principal | None) -> bytes:
    """What the test apps answer with: who they were told is calling."""
    if principal is None:
        return b"nobody"
    return f"{principal.account_id} {principal.environment} {principal.name}".encode()


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the principal."""
    body = describe(scope["keyrush"])
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    """Answers with the principal."""
    body = describe(environ["keyrush.principal"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]


def scope_of(sent: Sent, **more: Any) -> dict[str, Any]:
    """The ASGI scope of a request."""
    path, _, query = sent.path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": sent.method,
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
            for name, value in sent.headers
        ],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 80),
        **more,
    }


async def asgi_call(app: Any, scope: dict[str, Any]) -> Reply:
    """Run an ASGI app to its end; fails if it reads the request or breaks the order of messages."""
    messages: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the gate must not read the request (S10, S71)")

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    start, *bodies = messages
    assert start["type"] == "http.response.start"
    assert all(name == name.lower() for name, _ in start["headers"])
    assert all(message["type"] == "http.response.body" for message in bodies)
    return Reply(
        start["status"],
        [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]],
        b"".join(message.get("body", b"") for message in bodies),
    )


def environ_of(sent: Sent) -> dict[str, Any]:
    """The WSGI environ of a request, with duplicate headers joined as wsgiref does."""
    path, _, query = sent.path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": sent.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "REQUEST_URI": sent.path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in sent.headers:
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        variable = "HTTP_" + name.upper().replace("-", "_")
        environ[variable] = f"{environ[variable]},{text}" if variable in environ else text
    return environ


def wsgi_call(app: Any, environ: dict[str, Any]) -> Reply:
    """Run a WSGI app to its end, under wsgiref's validator (S74)."""
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if started and exc_info is None:
            raise AssertionError("start_response called twice")
        started[:] = [status, headers]
        return lambda _: None

    items: Iterable[bytes] = validator(app)(environ, start_response)
    try:
        body = b"".join(items)
    finally:
        items.close()  # type: ignore[attr-defined]  # wsgiref's validator always has it
    status, headers = started
    return Reply(int(status[:3]), [(name.lower(), value) for name, value in headers], body)


def begin(gate: Gate, key: str, path: str = "/", method: str = "GET") -> Any:
    """What the gate can say at once to a request with the key: see `Admission.begin`."""
    return gate.admission.begin(method, path, None, "", [(b"x-api-key", key.encode())], b"")


def decide(gate: Gate, key: str, path: str = "/", method: str = "GET") -> Admitted | Refusal:
    """What the gate says to a request with the key, whatever it takes."""
    answer: Any = begin(gate, key, path, method)
    decided: Admitted | Refusal = (
        answer.finish(lambda: "127.0.0.1") if isinstance(answer, Pending) else answer
    )
    return decided


class Asgi:
    """Sends through the ASGI middleware."""

    backend: Literal["asyncio", "trio"] | None = None

    def __init__(self, gate: Gate, app: Any = asgi_app) -> None:
        self.middleware = KeyrushMiddleware(app, gate=gate)

    def send(self, sent: Sent) -> Reply:
        return run(asgi_call(self.middleware, scope_of(sent)), self.backend)


class Trio(Asgi):
    """The same, in an event loop of trio's."""

    backend = "trio"


class Wsgi:
    """Sends through the WSGI middleware, with wsgiref's validator on both of its sides."""

    def __init__(self, gate: Gate, app: Any = wsgi_app) -> None:
        self.middleware = wsgi.KeyrushMiddleware(validator(app), gate=gate)

    def send(self, sent: Sent) -> Reply:
        return wsgi_call(self.middleware, environ_of(sent))
