"""`python -m benchmarks [--quick] [--json]`: what keyrush costs, beside peers.

Written by the authors of keyrush, so read with that in mind. First a fleet of keys, which is the
load that users have: see `fleet`; `python -m benchmarks fleet` is that alone. It ends with 1
where keyrush is not as it must be.

Then one hot key under boundless limits, which is the best case. Each contender runs in a process
of its own, the processes by turns; the figure is the best round, in microseconds per call of
the ASGI app in process, without a socket. Requests have nine headers, as browsers and curl
send them. peers authenticate nobody; keyrush does all of its work.

Then limits that processes share, beside those who do that too: see `shared`.

`python -m benchmarks attacks` is of something else: see `attacks`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from importlib.metadata import version

from benchmarks import attacks, shared
from benchmarks.apps import BASE, CONTENDERS, play
from benchmarks.fleet import measure as fleet
from benchmarks.fleet import report
from benchmarks.turns import serve, take_turns


def _serve(name: str, calls: int) -> None:
    """One contender: a round for each line on standard input."""
    app, headers = CONTENDERS[name]()
    serve(lambda _: asyncio.run(play(app, headers, calls)))


def _measure(rounds: int, calls: int) -> dict[str, float]:
    """Microseconds per call by contender: the best of `rounds`, taken by turns."""
    command = ["benchmarks", "--calls", str(calls), "--contender"]
    answers = take_turns(command, CONTENDERS, rounds=rounds)
    return {name: min(found) * 1e6 for name, found in answers.items()}


def main() -> None:
    """Measure, and print a table or JSON."""
    if sys.argv[1:] == ["attacks"]:
        attacks.main()
        return
    if sys.argv[1:2] == ["fleet"]:
        report.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a figure")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--calls", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        _serve(options.contender, options.calls)
        return
    of_a_fleet = fleet.measure(fleet.QUICK if options.quick else fleet.WHOLE)
    best = _measure(*((3, 3_000) if options.quick else (15, 20_000)))
    added = {name: best[name] - best[base] for name, base in BASE.items()}
    over_servers = shared.measure(quick=options.quick)
    if options.json:
        figures = {"microseconds": best, "added": added, "shared": over_servers}
        sys.stdout.write(json.dumps({"fleet": of_a_fleet, **figures}) + "\n")
    else:
        lines = [*report.render(of_a_fleet), "", *_render(best, added)]
        sys.stdout.write("\n".join([*lines, "", *shared.render(over_servers)]) + "\n")
    report.judge(of_a_fleet)


def _render(best: dict[str, float], added: dict[str, float]) -> list[str]:
    peers = ", ".join(f"{name} {version(name)}" for name in ("keyrush", "starlette", "slowapi"))
    lines = [f"Python {sys.version.split()[0]}, {peers}", ""]
    lines += ["| one hot key | µs per request | added |", "|---|---:|---:|"]
    for name, figure in best.items():
        more = f"{added[name]:.1f} µs" if name in added else ""
        lines.append(f"| {name} | {figure:.1f} | {more} |")
    ratio = added["Starlette route + slowapi, two limits"] / added["keyrush, two windows"]
    return [*lines, "", f"slowapi adds {ratio:.0f} times what keyrush does, with two limits each."]


if __name__ == "__main__":
    main()
