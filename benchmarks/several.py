"""`python -m benchmarks.several [--json]`: how exactly processes share limits of several subjects.

As `benchmarks.accuracy`, whose load and whose words these are, for requests that take of more than
their plan (see `asking.demands_of`). Each request is admitted by all its windows, or by none: used
is the most that was in use of any of them, accuracy what was admitted as a part of what single
counters of all windows would have admitted, asked for the same in the same order.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

from benchmarks import oracle
from benchmarks.accuracy import FEWER, LATE, MODES, Popen, Result, ask
from benchmarks.arrivals import Subject, plan
from benchmarks.asking import Asked, demands_of
from benchmarks.servers import PLACES, Place
from keyrush.limiter.protocol import Mode

#: What requests take besides their plan's, and how that is called in the table.
SORTS = {
    "rule": "plan and rule by key",
    "account": "plan by key, rule by account",
    "weighted": "plan, and rule with weights 1 to 5",
}

LIMITS, LOADS, PROCESSES = (100, 500), (3.0,), 4

#: Requests a second of one sort, of two cores that make, decide and answer those of all.
_RATE = 1_000


def measure(
    place: Place,
    mode: Mode,
    processes: int,
    subjects: Sequence[Subject],
    popen: Popen = subprocess.Popen,
) -> dict[str, Result]:
    """Have so many processes ask, and judge what they admitted, by sort."""
    asked, _ = ask(place, mode, processes, subjects, popen)
    found: dict[str, Result] = {}
    for sort in {subject.sort: None for subject in subjects}:
        its = [one for one in zip(subjects, asked, strict=True) if one[0].sort == sort]
        found[sort] = judge([subject for subject, _ in its], [answers for _, answers in its])
    return found


def judge(subjects: Sequence[Subject], asked: Sequence[Sequence[Asked]]) -> Result:
    """What came of requests for the subjects, whatever windows these have in common."""
    early: list[tuple[int, list[oracle.Want]]] = []
    late: list[tuple[int, list[oracle.Want]]] = []
    spans: dict[str, list[oracle.Span]] = {}
    known: dict[str, tuple[int, int]] = {}
    admitted = latest = 0
    kept_up = True
    for subject, its in zip(subjects, asked, strict=True):
        for one in its:
            wants: list[oracle.Want] = [
                (window.key, window.amount, window.length, demand.cost)
                for demand in demands_of(subject, one.nth)
                for window in demand.windows
            ]
            early.append((one.before, wants))
            late.append((one.after, wants))
            latest = max(latest, one.after - one.due)
            kept_up &= one.after - one.due <= LATE * subject.length
            if one.admitted:
                admitted += 1
                for name, limit, length, cost in wants:
                    known[name] = limit, length
                    spans.setdefault(name, []).extend([(one.before, one.after)] * cost)
    return Result(
        subjects[0].limit,
        subjects[0].load,
        subjects[0].sort,
        asked=len(early),
        admitted=admitted,
        allowed=min(oracle.admitted_together(early), oracle.admitted_together(late)),
        used=max(oracle.highest(its, *known[name]) / known[name][0] for name, its in spans.items()),
        stranded=0,
        late=latest,
        kept_up=kept_up,
    )


def _cell(results: Sequence[Result]) -> str:
    accuracy = sum(one.admitted for one in results) / sum(one.allowed for one in results)
    star = "" if all(one.kept_up for one in results) else " *"
    return f"{accuracy:.1%} / {max(one.used for one in results):.1%}{star}"


def main() -> None:
    """Measure, and print the table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.several")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    versions = [f"Python {platform.python_version()}", f"keyrush {version('keyrush')}"]
    table: dict[tuple[str, Mode], dict[str, list[Result]]] = {}
    for backend, opened in PLACES.items():
        with opened() as place:
            versions.append(place.version)
            for mode in FEWER.get(backend, MODES):
                row: dict[str, list[Result]] = {sort: [] for sort in SORTS}
                for limit in LIMITS:
                    found = measure(place, mode, PROCESSES, _load(mode, limit))
                    for sort, result in found.items():
                        row[sort].append(result)
                table[backend, mode] = row
                sys.stderr.write(f"{backend}, {mode}: done\n")
    if options.json:
        rows = [
            {"backend": backend, "mode": mode, **asdict(one), "accuracy": one.accuracy}
            for (backend, mode), row in table.items()
            for results in row.values()
            for one in results
        ]
        sys.stdout.write(json.dumps({"versions": versions, "results": rows}) + "\n")
    else:
        lines = [", ".join(versions), ""]
        lines.append("| accuracy / used | " + " | ".join(SORTS.values()) + " |")
        lines.append("|---|" + "---:|" * len(SORTS))
        for (backend, mode), row in table.items():
            cells = " | ".join(_cell(results) for results in row.values())
            lines.append(f"| {backend}, {mode} | {cells} |")
        sys.stdout.write("\n".join(lines) + "\n")
    if any(one.used > 1 for row in table.values() for results in row.values() for one in results):
        raise SystemExit("more was in use than the limit")


def _load(mode: Mode, limit: int) -> list[Subject]:
    return [
        subject
        for sort in SORTS
        for subject in plan(
            [limit], LOADS, windows=2.0, rate=_RATE, prefix=f"{mode}-{sort}", sort=sort
        )
    ]


if __name__ == "__main__":
    main()
