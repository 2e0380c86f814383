"""What stands before the app when a fleet calls: keyrush on each backend, and its peers.

Peers are set up as their READMEs say. They know no plans, so that all keys have the limits of
the largest one. Those that have no middleware are asked from ten lines of one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.apps import plain, receive, request, starlette

HEADER = b"x-api-key"

#: The largest documented plan, and a month's quota, for those who know no plans.
_LIMITS = "2000/minute;3000000/month"

#: Keys of fastapi-keygate: making one costs it a millisecond, and it looks up each anyway.
_KEYGATE_KEYS = 200


class Asked:
    """What was asked of others while requests waited."""

    def __init__(self) -> None:
        self.look_ups = 0  #: of keys, in the store
        self.trips = 0  #: to where windows are shared
        #: Who has to be asked once at least, or it is not counted where it should be.
        self.must: set[str] = set()

    def watch(self, target: Any, names: Sequence[str], what: str) -> None:
        """Count the calls of methods from now on."""
        self.must.add(what)
        for name in names:
            setattr(target, name, self._counted(getattr(target, name), what))

    def _counted(self, call: Callable[..., Any], what: str) -> Callable[..., Any]:
        def counting(*values: Any) -> Any:
            setattr(self, what, getattr(self, what) + 1)
            return call(*values)

        return counting


class Contender(NamedTuple):
    """An app with what stands before it, in this process."""

    app: Any
    keys: Sequence[bytes]  #: in headers, by their number
    asked: Asked
    write: Callable[[], object] = lambda: None  #: what is buffered


def keys() -> list[bytes]:
    """The keys that were made for this run."""
    return Path(os.environ["BENCH_KEYS"]).read_bytes().split()


def _contender(app: Any, asked: Asked | None = None, **more: Any) -> Contender:
    return Contender(app, keys(), asked or Asked(), **more)


def open_gate() -> Any:
    """A gate with default settings but for where things are, and how keys are proved the first
    time, which costs those nothing that are known.
    """
    from keyrush import Gate, Settings

    return Gate.open(
        Settings(
            store_url=os.environ["BENCH_STORE"],
            limiter_url=os.environ["BENCH_LIMITER"],
            verify="fingerprint",
            argon2_memory_cost=8,
            argon2_time_cost=1,
        )
    )


def _keyrush(inner: Any) -> Contender:
    from keyrush import KeyrushMiddleware
    from keyrush.limiter.shared.leased import LeasedLimiter

    gate = open_gate()
    asked = Asked()
    asked.watch(gate.store, ["find"], "look_ups")
    if isinstance(gate.limiter, LeasedLimiter):
        asked.watch(gate.limiter.client.ledger, ["message"], "trips")
    gate.background.start()
    while not gate.cache.good_until:  # the first news, after which nothing known is doubted
        time.sleep(0.01)
    return _contender(KeyrushMiddleware(inner, gate=gate), asked, write=gate.flush)


def bare() -> Contender:
    """The app alone."""
    return _contender(plain)


def starlette_route() -> Contender:
    """A route of Starlette."""
    return _contender(starlette()[0])


def keyrush() -> Contender:
    """keyrush, over what the environment names."""
    return _keyrush(plain)


def keyrush_on_starlette() -> Contender:
    """The same, before a route of Starlette."""
    return _keyrush(starlette()[0])


def slowapi() -> Contender:
    """slowapi's decorator on a route of Starlette, in memory; it authenticates nobody."""
    from slowapi import Limiter
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    limiter = Limiter(key_func=lambda request: request.headers["x-api-key"], headers_enabled=True)

    @limiter.limit(_LIMITS)
    async def ok(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/api/articles", ok)])
    app.state.limiter = limiter
    return _contender(app)


def _before(hit: Callable[[str], bool]) -> Contender:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        key = next(value for name, value in scope["headers"] if name == HEADER)
        if hit(key.decode()):
            await plain(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 429, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    return _contender(app)


def limits() -> Contender:
    """The library limits, in memory, by its sliding window counter; it authenticates nobody."""
    from limits import parse_many
    from limits.storage import MemoryStorage
    from limits.strategies import SlidingWindowCounterRateLimiter

    items = parse_many(_LIMITS)
    limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
    return _before(lambda key: all(limiter.hit(item, key) for item in items))


def throttled() -> Contender:
    """throttled-py, in memory, by its sliding window; it authenticates nobody."""
    from datetime import timedelta

    from throttled import MemoryStore, Throttled, rate_limiter

    store = MemoryStore()
    quotas = (
        rate_limiter.per_min(2_000),
        rate_limiter.per_duration(timedelta(days=30), limit=3_000_000),
    )
    both = [Throttled(using="sliding_window", quota=quota, store=store) for quota in quotas]

    def hit(key: str) -> bool:
        answers = [one.limit(f"{key}:{number}") for number, one in enumerate(both)]
        return not any(answer.limited for answer in answers)

    return _before(hit)


def fastapi_route() -> Contender:
    """A route of FastAPI, as fastapi-keygate's README has it."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/api/articles")
    def ok() -> str:
        return "ok"

    return _contender(app)


def keygate() -> Contender:
    """fastapi-keygate over SQLite: keys, a limit a minute, and a row of usage for each request."""
    from fastapi import Depends, FastAPI
    from keygate import KeyGate

    app = FastAPI()
    gate = KeyGate(app)

    @app.get("/api/articles")
    def ok(key: Any = Depends(gate.require)) -> str:  # noqa: B008, FAST002  # its README
        return "ok"

    few = [
        gate.create_key("bench", per_minute=10_000_000).key.encode() for _ in range(_KEYGATE_KEYS)
    ]
    return Contender(app, [few[number % len(few)] for number in range(len(keys()))], Asked())


class Standing(NamedTuple):
    """How a contender is made, and what it stands upon."""

    make: Callable[[], Contender]
    base: str = ""


#: In process. The contenders of keyrush are one, over several places (`measure.PLACES`).
IN_PROCESS: dict[str, Standing] = {
    "bare ASGI app": Standing(bare),
    "Starlette route": Standing(starlette_route),
    "FastAPI route": Standing(fastapi_route),
    "keyrush": Standing(keyrush, "bare ASGI app"),
    "slowapi": Standing(slowapi, "Starlette route"),
    "limits": Standing(limits, "bare ASGI app"),
    "throttled-py": Standing(throttled, "bare ASGI app"),
    "fastapi-keygate": Standing(keygate, "FastAPI route"),
}

#: Behind a server.
ON_SERVER: dict[str, Standing] = {
    "Starlette route": Standing(starlette_route),
    "keyrush": Standing(keyrush_on_starlette, "Starlette route"),
    "slowapi": Standing(slowapi, "Starlette route"),
}


async def warm(contender: Contender) -> None:
    """Have each key known: what comes later is its steady state."""

    async def send(message: Any) -> None:
        if message.get("status", 200) != 200:  # noqa: PLR2004  # OK
            raise SystemExit(f"a first request was answered {message['status']}")

    for key in dict.fromkeys(contender.keys):
        await contender.app(request([(HEADER, key)]), receive, send)
    for what in contender.asked.must:
        if not getattr(contender.asked, what):
            raise SystemExit(f"nothing has counted {what}, so that none says nothing")
