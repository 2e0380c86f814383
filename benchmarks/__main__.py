"""`python -m benchmarks [--quick] [--json]`: what a warm request costs, beside peers.

Written by the authors of keyrush, so read with that in mind. Each contender runs in a process
of its own, the processes by turns; the figure is the best round, in microseconds per call of
the ASGI app in process, without a socket. Requests have nine headers, as browsers and curl
send them. peers authenticate nobody; keyrush does all of its work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from typing import Any

from benchmarks.apps import BASE, CONTENDERS

_HEADERS = [
    (b"host", b"api.example.com"),
    (b"user-agent", b"curl/8.5.0"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b"en"),
    (b"connection", b"keep-alive"),
    (b"cache-control", b"no-cache"),
    (b"x-request-id", b"0123456789abcdef"),
]


async def _round(app: Any, headers: Any, calls: int) -> float:
    """Seconds per call over `calls` calls."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/api/articles",
        "raw_path": b"/api/articles",
        "root_path": "",
        "query_string": b"",
        "headers": [*_HEADERS, *headers],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
    }
    statuses = set()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.add(message["status"])

    await app(dict(scope), receive, send)  # cold
    began = time.perf_counter()
    for _ in range(calls):
        await app(dict(scope), receive, send)
    took = time.perf_counter() - began
    if statuses != {200}:
        raise SystemExit(f"unexpected status: {statuses}")
    return took / calls


def _serve(name: str, calls: int) -> None:
    """One contender: a round for each line on standard input."""
    app, headers = CONTENDERS[name]()
    for _ in sys.stdin:
        sys.stdout.write(f"{asyncio.run(_round(app, headers, calls))}\n")
        sys.stdout.flush()


def _measure(rounds: int, calls: int) -> dict[str, float]:
    """Microseconds per call by contender: the best of `rounds`, taken by turns."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks", "--calls", str(calls), "--contender"]
        running = {
            name: subprocess.Popen(  # noqa: S603  # this very module
                [*command, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={"PYTHONPATH": ":".join(sys.path), "KEYRUSH_PEPPER": "benchmarks" * 4},
                cwd=tempfile.mkdtemp(dir=folder),
            )
            for name in CONTENDERS
        }
        best = dict.fromkeys(running, float("inf"))
        for _ in range(rounds):
            for name, process in running.items():
                assert process.stdin and process.stdout  # noqa: S101, PT018  # both are pipes
                process.stdin.write("\n")
                process.stdin.flush()
                best[name] = min(best[name], float(process.stdout.readline()) * 1e6)
        for process in running.values():
            process.communicate()
    return best


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a figure")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--calls", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        _serve(options.contender, options.calls)
        return
    best = _measure(*((3, 3_000) if options.quick else (15, 20_000)))
    added = {name: best[name] - best[base] for name, base in BASE.items()}
    if options.json:
        sys.stdout.write(json.dumps({"microseconds": best, "added": added}) + "\n")
        return
    peers = ", ".join(f"{name} {version(name)}" for name in ("keyrush", "starlette", "slowapi"))
    lines = [f"Python {sys.version.split()[0]}, {peers}", ""]
    lines += ["| | µs per request | added |", "|---|---:|---:|"]
    for name, figure in best.items():
        more = f"{added[name]:.1f} µs" if name in added else ""
        lines.append(f"| {name} | {figure:.1f} | {more} |")
    ratio = added["Starlette route + slowapi, two limits"] / added["keyrush, two windows"]
    lines += ["", f"slowapi adds {ratio:.0f} times what keyrush does, with two limits each."]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
