"""The contenders: one app each, all answering the same two bytes, with what they put in front.

Every function returns an ASGI app and the headers of a request that it lets through. They run
in one process each (see `__main__`), so that none warms or slows another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Contender = tuple[Any, list[tuple[bytes, bytes]]]

LIMITS = "10000000/minute;100000000/hour"

#: What the path is limited to besides its callers' plans.
RULE = {"path": "/api/articles", "limits": "10000000/minute"}


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """The app that everybody answers with."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain"), (b"content-length", b"2")],
        }
    )
    await send({"type": "http.response.body", "body": b"ok"})


def bare() -> Contender:
    """The app alone."""
    return plain, []


def gate_over(limiter_url: str, limits: str = LIMITS, **settings: Any) -> Any:
    """A gate over a SQLite file in the current folder, with one plan."""
    from keyrush import Gate, Settings

    plans = {"only": {"limits": limits, "monthly_quota": 500_000}}
    where = {"store_url": "sqlite:///bench.db", "limiter_url": limiter_url}
    return Gate.open(Settings(**where, plans=plans, **settings))


def keyrush_over(gate: Any, key: str) -> Contender:
    """keyrush with a gate and a key of its store."""
    from keyrush import KeyrushMiddleware

    return KeyrushMiddleware(plain, gate=gate), [(b"x-api-key", key.encode())]


def _keyrush(
    limits: str, header: bytes, prefix: bytes, url: str = "memory://", **settings: Any
) -> Contender:
    from keyrush import KeyrushMiddleware

    gate = gate_over(url, limits, **settings)
    gate.accounts.create("acct_bench")
    key = gate.keys.create("acct_bench", "bench").text
    return KeyrushMiddleware(plain, gate=gate), [(header, prefix + key.encode())]


def keyrush_one() -> Contender:
    """keyrush over SQLite: key, scopes, one window, monthly quota, five header fields."""
    return _keyrush("10000000/minute", b"authorization", b"Bearer ")


def keyrush_two() -> Contender:
    """keyrush with two windows."""
    return _keyrush(LIMITS, b"x-api-key", b"")


def keyrush_rule() -> Contender:
    """keyrush with a window of the plan and one of the path's rule."""
    return _keyrush("10000000/minute", b"x-api-key", b"", rules=[RULE])


def keyrush_rule_in_file() -> Contender:
    """The same, with windows in the file of one machine, as by default."""
    return _keyrush("10000000/minute", b"x-api-key", b"", "store", rules=[RULE])


def starlette() -> Contender:
    """One route of Starlette, for scale."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def ok(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/api/articles", ok)]), []


def slowapi() -> Contender:
    """slowapi's two limits over one route of Starlette, in memory, without authentication."""
    from slowapi import Limiter
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    limiter = Limiter(key_func=lambda request: request.headers["x-api-key"], headers_enabled=True)

    @limiter.limit(LIMITS)
    async def ok(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/api/articles", ok)])
    app.state.limiter = limiter
    return app, [(b"x-api-key", b"bench")]


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "bare ASGI app": bare,
    "keyrush, one window": keyrush_one,
    "keyrush, two windows": keyrush_two,
    "keyrush, a plan's window and a rule's": keyrush_rule,
    "keyrush, the same in a file": keyrush_rule_in_file,
    "Starlette route": starlette,
    "Starlette route + slowapi, two limits": slowapi,
}

#: What each contender stands upon; its figure is the difference.
BASE = {
    "keyrush, one window": "bare ASGI app",
    "keyrush, two windows": "bare ASGI app",
    "keyrush, a plan's window and a rule's": "bare ASGI app",
    "keyrush, the same in a file": "bare ASGI app",
    "Starlette route": "bare ASGI app",
    "Starlette route + slowapi, two limits": "Starlette route",
}

HEADERS = [
    (b"host", b"api.example.com"),
    (b"user-agent", b"curl/8.5.0"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b"en"),
    (b"connection", b"keep-alive"),
    (b"cache-control", b"no-cache"),
    (b"x-request-id", b"0123456789abcdef"),
]


def request(headers: Any) -> dict[str, Any]:
    """The scope of a request with eight header fields and these."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/api/articles",
        "raw_path": b"/api/articles",
        "root_path": "",
        "query_string": b"",
        "headers": [*HEADERS, *headers],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
    }


async def receive() -> Any:
    """A request without a body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def play(
    app: Any, headers: Any, calls: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds per call of an app in process, over `calls` calls after a first one."""
    scope = request(headers)
    statuses = set()

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.add(message["status"])

    await app(dict(scope), receive, send)  # cold
    began = clock()
    for _ in range(calls):
        await app(dict(scope), receive, send)
    took = clock() - began
    if statuses != {200}:
        raise SystemExit(f"unexpected status: {statuses}")
    return took / calls
