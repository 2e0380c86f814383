"""What requests cost that wait for their turn: `python -m benchmarks.waiting [--waiting 10000]`.

In this process, over ASGI without sockets: what a server itself keeps of a connection comes beside
it. While they wait nothing runs; in the end all are answered at once.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from keyrush import Gate, KeyrushMiddleware, Settings
from keyrush.gate.lines import MOST_OF_ONE

#: Milliseconds at which the gate's clock stands still: 20 seconds before the end of a minute, in
#: which each key has had its one request.
_NOW = 1_795_000_060_000

#: Seconds for which it is watched what they cost while they wait.
_WATCHED = 2.0


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _scope(key: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/export",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"x-api-key", key.encode())],
        "client": ("127.0.0.1", 5000),
    }


async def _nothing() -> Any:
    """A client that waits."""
    await asyncio.get_running_loop().create_future()


async def _wait(app: Callable[..., Awaitable[None]], keys: list[str], waiting: int) -> None:
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    async def call(key: str) -> None:
        await app(_scope(key), _nothing, send)

    gate = app.gate  # type: ignore[attr-defined]  # it is the middleware
    for key in keys:
        await call(key)
    bare = [asyncio.create_task(_nothing()) for _ in range(waiting)]
    await asyncio.sleep(0.1)
    gc.collect()
    before = _resident()
    for task in bare:
        task.cancel()
    await asyncio.gather(*bare, return_exceptions=True)
    del bare
    began, used = time.perf_counter(), time.process_time()
    calls = [asyncio.create_task(call(keys[number % len(keys)])) for number in range(waiting)]
    while len(gate.finishing.waiting.lines) < waiting:  # noqa: ASYNC110  # nobody says so
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)  # until all listen for a client that leaves
    joined = time.process_time() - used
    gc.collect()
    _say(f"{waiting:,} wait: {(_resident() - before) / waiting / 1000:.1f} kB each beside a task,")
    _say(f"  {joined / waiting * 1e6:.0f} µs of CPU to begin,")
    used = time.process_time()
    await asyncio.sleep(_WATCHED)
    _say(f"  {(time.process_time() - used) / _WATCHED * 1000:.2f} ms of CPU a second meanwhile,")
    used = time.process_time()
    gate.finishing.waiting.release()
    await asyncio.gather(*calls)
    answered = time.process_time() - used
    _say(f"  {answered / waiting * 1e6:.0f} µs of CPU to be answered in the end,")
    _say(f"  {time.perf_counter() - began:.1f} s in all; {statuses.count(429):,} times 429")


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, default=10_000)
    waiting = parser.parse_args().waiting
    settings = Settings(
        store_url="memory://",
        verify="fingerprint",
        rules=[{"path": "/export", "limits": ["1/minute"], "wait": "30s"}],
    )
    gate = Gate.open(settings, clock=lambda: _NOW)
    keys = []
    for number in range(-(-waiting // MOST_OF_ONE)):
        gate.accounts.create(f"acct_{number}")
        keys.append(gate.keys.create(f"acct_{number}", "agent").text)
    asyncio.run(_wait(KeyrushMiddleware(_app, gate=gate), keys, waiting))
    gate.close()


if __name__ == "__main__":
    main()
