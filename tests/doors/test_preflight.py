"""Preflights (S76): with CORS middleware outside a browser gets what it asks for; without it a
preflight is refused like any request without a key, and never shows what the app would serve.
"""
# Django brings no types.
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import flask_cors
import httpx2
import pytest
from a2wsgi import WSGIMiddleware
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from litestar.config.cors import CORSConfig
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from keyrush import Gate, KeyrushMiddleware, wsgi
from tests.conftest import settings
from tests.support.calls import Asgi, Reply, Sent, Wsgi, scope_of
from tests.support.frameworks import (
    SERVED,
    bare_asgi,
    django_set,
    fastapi,
    flask_app,
    litestar_app,
    quart_app,
    starlette,
)
from tests.support.serving import serve
from tests.support.targets import ORDINARY

ORIGIN = "https://app.example"

#: How CORS middleware is told; the rate-limit fields are shown to scripts too.
ALLOWED: dict[str, Any] = {
    "allow_origins": [ORIGIN],
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["authorization", "x-api-key"],
    "expose_headers": ["x-ratelimit-remaining", "retry-after"],
}


def preflight(header: str = "x-api-key", method: str = "GET") -> dict[str, str]:
    """What a browser asks before it sends the key."""
    return {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": header,
        "Sec-Fetch-Mode": "cors",
    }


# --- with CORS outside ----------------------------------------------------------------------------


def _added(app: Any, gate: Gate) -> Any:
    app.add_middleware(KeyrushMiddleware, gate=gate)
    app.add_middleware(CORSMiddleware, **ALLOWED)
    return app


def _wrapped(app: Any, gate: Gate) -> Any:
    return CORSMiddleware(KeyrushMiddleware(app, gate=gate), **ALLOWED)


def _on_asgi(app: Any, gate: Gate) -> Any:
    """A WSGI app on an ASGI server, because WSGI has no CORS middleware of its own."""
    gated: Any = wsgi.KeyrushMiddleware(app, gate=gate)
    on_asgi: Any = WSGIMiddleware(gated)
    return CORSMiddleware(on_asgi, **ALLOWED)


#: How CORS stands outside of each framework.
OUTSIDE: dict[str, Callable[[Gate], Any]] = {
    "bare ASGI": lambda gate: _wrapped(bare_asgi(), gate),
    "Starlette": lambda gate: _added(starlette(), gate),
    "FastAPI": lambda gate: _added(fastapi(), gate),
    "Litestar": lambda gate: _wrapped(litestar_app(), gate),
    "Quart": lambda gate: _wrapped(quart_app(), gate),
    "Flask": lambda gate: _on_asgi(flask_app(), gate),
    "Django ASGI": lambda gate: _wrapped(get_asgi_application(), gate),
    "Django WSGI": lambda gate: _on_asgi(get_wsgi_application(), gate),
}


@dataclass
class Served:
    """An app on a real server, and its gate."""

    client: httpx2.Client
    gate: Gate


@contextmanager
def _served(app: Any, gate: Gate) -> Iterator[Served]:
    with (
        serve(app, lifespan="off") as url,
        httpx2.Client(base_url=url) as client,
    ):
        yield Served(client, gate)


@pytest.fixture(params=OUTSIDE)
def browsed(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Each framework with CORS outside, on a real server."""
    gate = Gate.open(settings())
    gate.accounts.create("acct_a")
    with django_set(), _served(OUTSIDE[request.param](gate), gate) as served:
        yield served
    gate.close()


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_browser_gets_through(browsed: Served, header: str) -> None:
    """S76: the preflight is answered by the CORS middleware, without a key; the request that
    follows is served, and script may read it and its limits.
    """
    key = browsed.gate.keys.create("acct_a", "key").text
    asked = browsed.client.options("/v1/tools/audit", headers=preflight(header))
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert "GET" in asked.headers["access-control-allow-methods"]
    assert header in asked.headers["access-control-allow-headers"].lower()
    assert SERVED not in asked.headers
    value = f"Bearer {key}" if header == "authorization" else key
    reply = browsed.client.get("/v1/tools/audit", headers={"Origin": ORIGIN, header: value})
    assert reply.status_code == 200
    assert reply.headers[SERVED] == "audit"
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert "x-ratelimit-remaining" in reply.headers["access-control-expose-headers"].lower()
    assert reply.headers["x-ratelimit-remaining"] == "99"
    assert "Origin" in reply.headers["vary"]


def test_browser_reads_refusals(browsed: Served) -> None:
    """S76, R8, R10: 401 and 429 carry the CORS headers, so that script can tell what is wrong."""
    refused = browsed.client.get("/v1/tools/audit", headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    assert refused.json()["statusCode"] == 401
    key = browsed.gate.keys.create("acct_a", "tight", limits="0/minute").text
    limited = browsed.client.get("/v1/tools/audit", headers={"Origin": ORIGIN, "X-API-Key": key})
    assert limited.status_code == 429
    assert limited.headers["access-control-allow-origin"] == ORIGIN
    assert "retry-after" in limited.headers["access-control-expose-headers"].lower()
    assert limited.headers["retry-after"].isdecimal()


def test_preflight_of_another_origin(browsed: Served) -> None:
    """S76: an origin that is not allowed is told nothing, and nothing is served."""
    asked = browsed.client.options(
        "/v1/tools/audit", headers={**preflight(), "Origin": "https://other.example"}
    )
    assert "access-control-allow-origin" not in asked.headers
    assert SERVED not in asked.headers


# --- without it ----------------------------------------------------------------------------------


def _starlette_endpoint() -> Any:
    class Endpoint(HTTPEndpoint):
        async def options(self, _: Request) -> PlainTextResponse:
            return PlainTextResponse("", headers={SERVED: "audit"})

    return Starlette(routes=[Route("/v1/tools/audit", Endpoint)])


#: Apps that serve OPTIONS of `/v1/tools/audit`: each of them lets a stranger see it, bare.
SERVING: dict[str, tuple[Callable[[], Any], bool]] = {
    "bare ASGI": (bare_asgi, False),
    "HTTPEndpoint": (_starlette_endpoint, False),
    "Starlette": (starlette, False),
    "FastAPI": (fastapi, False),
    "Litestar": (litestar_app, False),
    "Quart": (quart_app, False),
    "Flask": (flask_app, True),
    "Django ASGI": (get_asgi_application, False),
    "Django WSGI": (get_wsgi_application, True),
}


@contextmanager
def _sending(make: Callable[[], Any], is_wsgi: bool, gate: Gate) -> Iterator[Asgi | Wsgi]:
    """What sends requests through the gate to the app, in process."""
    with django_set():
        yield Wsgi(gate, make()) if is_wsgi else Caller(gate, make())


class Caller(Asgi):
    """Sends to frameworks, which read requests."""

    def send(self, sent: Sent) -> Reply:
        return asyncio.run(self._call(scope_of(sent)))

    async def _call(self, scope: dict[str, Any]) -> Reply:
        bodies = [{"type": "http.request", "body": b"", "more_body": False}]
        messages: list[Any] = []

        async def receive() -> Any:
            if not bodies:
                await asyncio.get_running_loop().create_future()  # the client stays
            return bodies.pop()

        async def send(message: Any) -> None:
            messages.append(message)

        await self.middleware(scope, receive, send)
        start, *rest = messages
        headers = [(name.decode().lower(), value.decode()) for name, value in start["headers"]]
        return Reply(start["status"], headers, b"".join(one.get("body", b"") for one in rest))


def _asked(path: str) -> Sent:
    return Sent(path, list(preflight().items()), "OPTIONS")


@pytest.fixture
def open_gate() -> Iterator[Gate]:
    """A gate that was told to let preflights pass."""
    gate = Gate.open(settings(preflight="pass"))
    yield gate
    gate.close()


@pytest.mark.parametrize(("make", "is_wsgi"), SERVING.values(), ids=SERVING)
def test_preflight_reaches_no_handler(gate: Gate, make: Callable[[], Any], is_wsgi: bool) -> None:
    """S76: without a key a preflight is refused, to the byte like any other request without one, so
    that known and unknown routes, and methods that they have or lack, look the same.
    """
    with _sending(make, is_wsgi, gate) as app:
        expected = app.send(Sent("/v1/me"))
        assert expected.status == 401
        for path in [*ORDINARY.values(), "/", "/nothing", "/v1/nothing/", "/health/"]:
            if path != ORDINARY["health"]:
                assert app.send(_asked(path)) == expected, path
        plain = Sent("/v1/tools/audit", [("Origin", ORIGIN)], "OPTIONS")
        assert app.send(plain) == expected


@pytest.mark.parametrize(("make", "is_wsgi"), SERVING.values(), ids=SERVING)
def test_preflights_may_pass(open_gate: Gate, make: Callable[[], Any], is_wsgi: bool) -> None:
    """S76: with `PREFLIGHT=pass` they reach the app, whatever it does with them; an OPTIONS request
    that is no preflight needs a key all the same.
    """
    with _sending(make, is_wsgi, open_gate) as app:
        assert app.send(_asked("/v1/tools/audit"))[SERVED] == "audit"
        for missing in ("Origin", "Access-Control-Request-Method"):
            headers = [line for line in _asked("").headers if line[0] != missing]
            refused = app.send(Sent("/v1/tools/audit", headers, "OPTIONS"))
            assert refused.status == 401
            assert SERVED not in refused
        for method in ("GET", "POST", "HEAD"):
            headers = _asked("").headers
            assert app.send(Sent("/v1/tools/audit", headers, method)).status == 401


def _litestar_with_cors() -> Any:
    """Litestar's own CORS stands inside of a gate that is wrapped around the app."""
    cors = CORSConfig(allow_origins=[ORIGIN], allow_headers=["x-api-key"])
    return litestar_app(cors_config=cors)


def _flask_with_cors() -> Any:
    app = flask_app()
    flask_cors.CORS(app, origins=[ORIGIN], allow_headers=["x-api-key"])
    return app


#: Frameworks whose CORS is part of the app, so that the gate stands outside of it.
INSIDE: dict[str, tuple[Callable[[], Any], bool]] = {
    "Litestar": (_litestar_with_cors, False),
    "Flask": (_flask_with_cors, True),
}


@pytest.mark.parametrize(("make", "is_wsgi"), INSIDE.values(), ids=INSIDE)
def test_cors_inside(gate: Gate, open_gate: Gate, make: Any, is_wsgi: bool) -> None:
    """S76: CORS that stands inside answers preflights only where they pass, and adds nothing to
    what the gate refuses.
    """
    with _sending(make, is_wsgi, gate) as app:
        assert app.send(_asked("/v1/me")).status == 401
    with _sending(make, is_wsgi, open_gate) as app:
        asked = app.send(_asked("/v1/me"))
        assert asked.status < 300
        assert asked["access-control-allow-origin"] == ORIGIN
        assert "x-api-key" in asked["access-control-allow-headers"].lower()
        refused = app.send(Sent("/v1/me", [("Origin", ORIGIN)]))
        assert refused.status == 401
        assert "access-control-allow-origin" not in refused


def test_django_cors_headers_inside(gate: Gate, open_gate: Gate) -> None:
    """S76: so does django-cors-headers, which answers before any view is asked."""
    first = "corsheaders.middleware.CorsMiddleware"
    for make, is_wsgi in ((get_asgi_application, False), (get_wsgi_application, True)):
        with django_set(MIDDLEWARE=[first], CORS_ALLOWED_ORIGINS=[ORIGIN]):
            closed = Wsgi(gate, make()) if is_wsgi else Caller(gate, make())
            assert closed.send(_asked("/v1/tools/audit")).status == 401
            passing = Wsgi(open_gate, make()) if is_wsgi else Caller(open_gate, make())
            asked = passing.send(_asked("/v1/tools/audit"))
            assert (asked.status, asked["access-control-allow-origin"]) == (200, ORIGIN)
            assert SERVED not in asked
            refused = passing.send(Sent("/v1/tools/audit", [("Origin", ORIGIN)]))
            assert refused.status == 401
            assert "access-control-allow-origin" not in refused
