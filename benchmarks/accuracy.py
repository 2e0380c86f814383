"""`python -m benchmarks.accuracy [--quick] [--json]`: how exactly processes share a limit.

Real processes, each with a limiter of its own, ask for units of the same windows at real times.
What they admitted is then held against an oracle that knows the definition of the window alone:

- *used*: the most that was in use after any admission, as a part of the limit; never above
  100 %, or this ends with 1. A request counts at an instant between being asked and being
  answered; the reading most favourable to the limiter is taken (see `oracle.highest`).
- *accuracy*: what was admitted, as a part of what a single counter would have admitted of the
  same requests at the same times; again of when they were asked and when they were answered,
  whichever is more favourable. A little above 100 % can be: who refuses one too many early may
  admit two more later.
- *stranded*: units that are counted in the ledger and not used, when the requests of a subject
  end: what would be lost if all processes were killed then. In a file there are none.

Where the machine couldn't keep up with the load, and some request was answered later than due
by more than a fifth of the window, figures have a star.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby
from typing import Any

from benchmarks import oracle
from benchmarks.arrivals import Subject, plan
from benchmarks.asking import Asked, window_of
from benchmarks.servers import PLACES, Place
from keyrush.limiter.opening import open_limiter
from keyrush.limiter.protocol import Mode
from keyrush.runtime.clock import now_ms
from keyrush.sql.engine import Database

LIMITS = (10, 100, 1_000, 10_000)
LOADS = (0.5, 1, 3)
PROCESSES = (1, 2, 4, 8)
MODES: tuple[Mode, ...] = ("leased", "exact")

#: The same where there are fewer: a file is asked for every request.
FEWER: dict[str, tuple[Mode, ...]] = {"SQLite": ("exact",)}

#: Requests a second that two cores can make, decide and answer.
RATES = {"leased": 7_000, "exact": 5_000}

#: The same where it is less.
SLOWER = {("PostgreSQL", "exact"): 3_000}

#: Of a window: an answer later than this is too late to say anything.
LATE = 0.2

#: Milliseconds from the word to the start.
_HEAD_START = 200


@dataclass(frozen=True)
class Result:
    """What came of one load on one limit; where several subjects had it, of all together."""

    limit: int
    load: float
    pattern: str
    asked: int
    admitted: int
    allowed: int  #: what a single counter would have admitted
    used: float  #: the most that was in use, as a part of the limit
    stranded: int  #: units, of the worst subject
    late: int  #: milliseconds by which the latest answer was late
    kept_up: bool

    @property
    def accuracy(self) -> float:
        """What was admitted of what was allowed."""
        return self.admitted / self.allowed if self.allowed else 1.0


#: When the ledger had been looked at, the period, and what it had counted in it and before.
Look = tuple[int, int, int]


#: Starts a process, as `subprocess.Popen` does.
Popen = Callable[..., subprocess.Popen[str]]


def measure(
    place: Place,
    mode: Mode,
    processes: int,
    subjects: Sequence[Subject],
    popen: Popen = subprocess.Popen,
) -> list[Result]:
    """Have so many processes ask for the subjects' units, and judge what they admitted."""
    return _judge(subjects, *ask(place, mode, processes, subjects, popen))


def ask(
    place: Place,
    mode: Mode,
    processes: int,
    subjects: Sequence[Subject],
    popen: Popen = subprocess.Popen,
) -> tuple[list[list[Asked]], list[Look]]:
    """What came of the requests for each subject, and what the ledger had counted then."""
    command = [sys.executable, "-m", "benchmarks.asking"]
    order = {**place._asdict(), "mode": mode, "processes": processes, "subjects": subjects}
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={"PYTHONPATH": ":".join(sys.path)},
                )
            )
            for _ in range(processes)
        ]
        for rank, process in enumerate(running):
            _tell(process, json.dumps({**order, "rank": rank}))
        for process in running:
            if _hear(process) != "ready\n":
                raise SystemExit("a process did not start")
        start = time.time_ns() // 1_000_000 + _HEAD_START
        for process in running:
            _tell(process, str(start))
        looks = _look(place, start, subjects)
        asked: list[list[Asked]] = [[] for _ in subjects]
        for process in running:
            for values in json.loads(_hear(process)):
                asked[values[0]].append(Asked(*values))
    return asked, looks


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin  # noqa: S101  # it is a pipe
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout  # noqa: S101  # it is a pipe
    return process.stdout.readline()


def _look(place: Place, start: int, subjects: Sequence[Subject]) -> list[Look]:
    """What the ledger has counted when the requests of each subject end; nothing without one."""
    database = Database(place.store_url) if place.store_url else None
    opened = open_limiter(place.limiter_url, database, mode="exact")
    ledger: Any = opened.ledger
    if ledger is None:
        opened.limiter.close()
        return [(0, 0, 0)] * len(subjects)
    looks: dict[int, Look] = {}
    for number in sorted(range(len(subjects)), key=lambda number: subjects[number].ends):
        time.sleep(max(0, (start + subjects[number].ends) / 1000 - time.time()))
        taken = ledger.take(window_of(subjects[number]), 0, 0)
        ((period, current, previous),) = taken.counters
        looks[number] = (now_ms(), period, current + previous)
    opened.limiter.close()
    if database is not None:
        database.close()
    return [looks[number] for number in range(len(subjects))]


def _judge(
    subjects: Sequence[Subject], asked: Sequence[Sequence[Asked]], looks: Sequence[Look]
) -> list[Result]:
    """The results by limit, load and pattern, in the order of the subjects."""
    results = []
    each = zip(subjects, asked, looks, strict=True)
    for (limit, load, pattern), group in groupby(each, lambda one: one[0][1:4]):
        found = [_of_one(*one) for one in group]
        results.append(
            Result(
                limit,
                load,
                pattern,
                asked=sum(one.asked for one in found),
                admitted=sum(one.admitted for one in found),
                allowed=sum(one.allowed for one in found),
                used=max(one.used for one in found),
                stranded=max(one.stranded for one in found),
                late=max(one.late for one in found),
                kept_up=all(one.kept_up for one in found),
            )
        )
    return results


def _of_one(subject: Subject, asked: Sequence[Asked], look: Look) -> Result:
    limit, length = subject.limit, subject.length
    spans = [(one.before, one.after) for one in asked if one.admitted]
    at, period, counted = look
    # Those that may be in what the ledger had counted when it was looked at.
    known = sum(before <= at and after >= (period - 1) * length for before, after in spans)
    late = max((one.after - one.due for one in asked), default=0)
    return Result(
        limit,
        subject.load,
        subject.pattern,
        asked=len(asked),
        admitted=len(spans),
        allowed=min(
            oracle.admitted([one.before for one in asked], limit, length),
            oracle.admitted([one.after for one in asked], limit, length),
        ),
        used=oracle.highest(spans, limit, length) / limit,
        stranded=max(0, counted - known),
        late=late,
        kept_up=late <= LATE * length,
    )


# --- the table ------------------------------------------------------------------------------------

#: Results by backend, mode and processes.
Table = dict[tuple[str, Mode, int], list[Result]]


def _cell(results: Sequence[Result]) -> str:
    accuracy = min(result.accuracy for result in results)
    used = max(result.used for result in results)
    star = "" if all(result.kept_up for result in results) else " *"
    return f"{accuracy:.1%} / {used:.1%}{star}"


def render(table: Table, versions: Sequence[str]) -> str:
    """The table in Markdown: worst accuracy and highest use over all loads and patterns."""
    every = [result for results in table.values() for result in results]
    limits = sorted({result.limit for result in every})
    lines = [", ".join(versions), ""]
    lines.append("| accuracy / used | " + " | ".join(f"{limit:,}" for limit in limits) + " |")
    lines.append("|---|" + "---:|" * len(limits))
    for (backend, mode, processes), results in table.items():
        cells = [_cell([one for one in results if one.limit == limit]) for limit in limits]
        name = f"{backend}, {mode}, {processes} process{'es' if processes > 1 else ''}"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for mode in MODES:
        found = [one for (_, of, _), results in table.items() for one in results if of == mode]
        worst = [
            f"{max(one.stranded for one in found if one.limit == limit):,} of {limit:,}"
            for limit in limits
        ]
        lines += ["", f"Stranded at most, {mode}: {', '.join(worst)}."]
    if not all(result.kept_up for result in every):
        lines += ["", "\\* the machine could not keep up with some of the load"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and print the table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("--quick", action="store_true", help="under a minute: a look, no figures")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    limits: Sequence[int] = LIMITS[:3] if options.quick else LIMITS
    loads: Sequence[float] = LOADS[1:] if options.quick else LOADS
    processes: Sequence[int] = (4,) if options.quick else PROCESSES
    windows = 2.0 if options.quick else 2.25
    versions = [f"Python {platform.python_version()}", f"keyrush {version('keyrush')}"]
    table: Table = {}
    for backend, opened in PLACES.items():
        with opened() as place:
            versions.append(place.version)
            for mode in FEWER.get(backend, MODES):
                for count in processes:
                    subjects = plan(
                        limits,
                        loads,
                        windows=windows,
                        rate=SLOWER.get((backend, mode), RATES[mode]),
                        prefix=f"{mode}-{count}",
                    )
                    table[backend, mode, count] = measure(place, mode, count, subjects)
                    sys.stderr.write(f"{backend}, {mode}, {count}: done\n")
    if options.json:
        rows = [
            {"backend": backend, "mode": mode, "processes": count, **asdict(result)}
            | {"accuracy": result.accuracy}
            for (backend, mode, count), results in table.items()
            for result in results
        ]
        sys.stdout.write(json.dumps({"versions": versions, "results": rows}) + "\n")
    else:
        sys.stdout.write(render(table, versions))
    if any(result.used > 1 for results in table.values() for result in results):
        raise SystemExit("more was in use than the limit")


if __name__ == "__main__":
    main()
