"""One contender in process: `python -m benchmarks.fleet.playing NAME`, a round for each line.

Requests come one after another in one event loop. CPU is that of all threads of the process, the
writing of what was buffered in the round included; the loop that plays is in it, for all alike.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from benchmarks.apps import receive, request
from benchmarks.fleet.contenders import HEADER, IN_PROCESS, Contender, warm
from benchmarks.fleet.workload import Load
from benchmarks.turns import serve

#: Seconds: a wait that is shorter is not worth a sleep, which takes about as long.
_SHORTEST = 0.0005

#: How much longer than its pace a round may take, and seconds for one as fast as possible.
_LATE, _LONGEST = 1.5, 3.0

MICROSECONDS = 1e6


def summary(latencies: list[float]) -> dict[str, float]:
    """Of latencies in seconds: microseconds."""
    ordered = sorted(latencies)
    return {
        "p50": ordered[len(ordered) // 2] * MICROSECONDS,
        "p99": ordered[len(ordered) * 99 // 100] * MICROSECONDS,
        "max": ordered[-1] * MICROSECONDS,
    }


async def play(contender: Contender, load: Load, seed: int) -> dict[str, float]:
    """What a round costs, by request."""
    app, asked = contender.app, contender.asked
    order = load.order(seed)
    scopes = {number: request([(HEADER, contender.keys[number])]) for number in set(order)}
    statuses: set[int] = set()
    latencies: list[float] = []

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.add(message["status"])

    look_ups, trips = asked.look_ups, asked.trips
    cpu = time.process_time()
    began = time.perf_counter()
    last = began + (load.requests * load.gap * _LATE or _LONGEST)
    for place, number in enumerate(order):
        now = time.perf_counter()
        wait = began + place * load.gap - now
        if load.gap and wait > _SHORTEST:
            await asyncio.sleep(wait)
            now = time.perf_counter()
        scope = dict(scopes[number])
        await app(scope, receive, send)
        done = time.perf_counter()
        latencies.append(done - now)
        if done > last:
            break
    contender.write()
    cpu = time.process_time() - cpu
    if statuses != {200}:
        raise SystemExit(f"unexpected status: {statuses}")
    count = len(latencies)
    return {
        "cpu": cpu / count * MICROSECONDS,
        **summary(latencies),
        "look_ups": (asked.look_ups - look_ups) / count,
        "trips": (asked.trips - trips) / count,
    }


def main() -> None:
    """Make the contender, have it know all keys, and play."""
    contender = IN_PROCESS[sys.argv[1]].make()
    runner = asyncio.Runner()
    runner.run(warm(contender))

    def round_(line: str) -> dict[str, float]:
        load, seed = json.loads(line)
        return runner.run(play(contender, Load(*load), seed))

    serve(round_)


if __name__ == "__main__":
    main()
