"""`python -m benchmarks attacks`: what someone with a cheap key, or with none, can do to others.

In process, over SQLite in a temporary folder, with the default settings; each attack for some
seconds beside a request that should not notice. Figures, not verdicts: what must hold is in the
tests, by counts.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from keyrush import Gate, KeyrushMiddleware, Settings
from keyrush.core.key_text import KeyFormat

#: Seconds that an attack lasts, and unknown keys a second in it.
SECONDS, UNKNOWN_KEYS = 5.0, 409

MEGABYTE = 1_000_000

RULES = [
    {"path": "/paid", "credits": 3},
    {"path": "/files/{name}.json/{rest:path}", "scopes": ["files"]},
    {"path": "/{rest:path}/versions/{version}", "scopes": ["versions"]},
]
PLANS = {
    "starter": {"limits": "100000/minute", "max_keys": 1000},
    "tight": {"limits": "5/minute"},
}

Header = tuple[bytes, bytes]


async def _app(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def _receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


class Target:
    """A gate with a key that is warm, and a way to ask it."""

    def __init__(self, **values: Any) -> None:
        self.gate = Gate.open(Settings(rules=RULES, plans=PLANS, scopes="read", **values))
        self.app = KeyrushMiddleware(_app, gate=self.gate)
        self.gate.accounts.create("acct_a")
        self.gate.accounts.create("acct_tight", plan="tight")
        self.warm = self.key()
        self.statuses: Counter[int] = Counter()

    def key(self, account: str = "acct_a") -> bytes:
        """A new key, not used yet."""
        return self.gate.keys.create(account, "k", scopes=["read"]).text.encode()

    async def ask(self, headers: Iterable[Header], path: str = "/x") -> float:
        """Milliseconds of one request; its status is counted."""

        async def send(message: Any) -> None:
            if "status" in message:
                self.statuses[message["status"]] += 1

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"h"), *headers],
            "client": ("127.0.0.1", 5000),
        }
        began = time.perf_counter()
        await self.app(scope, _receive, send)
        return (time.perf_counter() - began) * 1000

    async def ask_warm(self) -> float:
        """Milliseconds of a request with the warm key."""
        return await self.ask([(b"x-api-key", self.warm)])


def _millis(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} / {max(values):.1f}"


async def _headers(target: Target) -> list[tuple[str, str]]:
    rows = []
    for size in (MEGABYTE, 10 * MEGABYTE):
        for name, filling in (("x-api-key", b","), ("authorization", b"Bearer a,")):
            value = filling * (size // len(filling))
            took = [await target.ask([(name.encode(), value)]) for _ in range(20)]
            rows.append((f"{name} of {size // MEGABYTE} MB, {filling!r} repeated", _millis(took)))
        forwarded = (b"x-forwarded-for", b"1.1.1.1," * (size // 8))
        took = [await target.ask([forwarded]) for _ in range(20)]
        rows.append((f"x-forwarded-for of {size // MEGABYTE} MB", _millis(took)))
    return rows


async def _paths(target: Target) -> list[tuple[str, str]]:
    rows = []
    for path in ("/a" * 30_000, "/files/" + "x.json" * 10_000, "/versions" * 7_000):
        took = [await target.ask([(b"x-api-key", target.warm)], path) for _ in range(20)]
        rows.append(
            (f"a path of {len(path) // 1000} kB with a valid key, {path[:14]}…", _millis(took))
        )
    return rows


async def _during(
    attack: Callable[[], Awaitable[object]], rate: float, look: Callable[[], Awaitable[None]]
) -> None:
    """Repeat `attack`, `rate` times a second and without waiting for its end, beside `look`."""
    ends = time.monotonic() + SECONDS
    under_way: set[asyncio.Task[object]] = set()

    async def flood() -> None:
        began, sent = time.monotonic(), 0
        while time.monotonic() < ends:
            while sent < (time.monotonic() - began) * rate:
                task = asyncio.ensure_future(attack())
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                sent += 1
            await asyncio.sleep(0.001)

    async def watch() -> None:
        while time.monotonic() < ends:
            await look()
            await asyncio.sleep(0.05)

    await asyncio.gather(flood(), watch())
    await asyncio.gather(*under_way)


async def _unknown_keys(target: Target) -> list[tuple[str, str]]:
    settings = target.gate.settings
    minted = KeyFormat(settings.key_prefix, settings.key_environments)
    cold = [target.key() for _ in range(100)]
    quiet = [await target.ask([(b"x-api-key", cold.pop())]) for _ in range(10)]
    warm_quiet = [await target.ask_warm() for _ in range(100)]
    loud: list[float] = []
    warm: list[float] = []

    async def attack() -> object:
        return await target.ask([(b"x-api-key", minted.mint("live").text)])

    async def look() -> None:
        warm.append(await target.ask_warm())
        if cold and len(warm) % 2:
            loud.append(await target.ask([(b"x-api-key", cold.pop())]))

    target.statuses.clear()
    await _during(attack, UNKNOWN_KEYS, look)
    return [
        ("a good cold key, in peace", _millis(quiet)),
        (f"… beside {UNKNOWN_KEYS} unknown keys a second of its own address", _millis(loud)),
        ("a warm key, in peace", _millis(warm_quiet)),
        ("… beside them", _millis(warm)),
        (
            "answers",
            ", ".join(f"{n:,} times {code}" for code, n in sorted(target.statuses.items())),
        ),
    ]


async def _refusals(target: Target) -> list[tuple[str, str]]:
    poor = target.key("acct_tight")
    others: list[float] = []

    async def attack() -> object:
        return await target.ask([(b"x-api-key", poor)], "/paid")

    async def look() -> None:
        others.append(await target.ask_warm())

    target.statuses.clear()
    await _during(attack, 1500, look)
    return [
        (
            "a warm key beside 1,500 requests for 402 a second from a key of 5/minute",
            _millis(others),
        ),
        (
            "answers",
            ", ".join(f"{n:,} times {code}" for code, n in sorted(target.statuses.items())),
        ),
    ]


async def _measure() -> list[tuple[str, str]]:
    target = Target(pepper="p" * 32)
    await target.ask_warm()
    await asyncio.sleep(0.2)  # until the first news has been read
    await target.ask_warm()
    rows = await _headers(target) + await _paths(target)
    rows += await _unknown_keys(target) + await _refusals(target)
    target.gate.close()
    return rows


def main() -> None:
    """Attack, and print a table."""
    with tempfile.TemporaryDirectory(prefix="keyrush-") as folder:
        os.chdir(folder)
        rows = asyncio.run(_measure())
        os.chdir("/")
    lines = ["| attack | ms, median / worst |", "|---|---:|"]
    lines += [f"| {what} | {figure} |" for what, figure in rows]
    sys.stdout.write("\n".join(lines) + "\n")
