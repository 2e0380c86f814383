"""The long forms of what mapped windows must stand.

    python -m tests.long.mapped [--folder FOLDER] [part ...]

In all about four minutes on two cores. Prints a table; the exit code is 1 where something did not
hold. What an instruction is, `steps` asks the kernel (ptrace, on Linux alone).
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import mmap
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from keyrush.core.sliding import Window
from keyrush.errors import Away
from keyrush.limiter.ledgers.mapped.table import Table
from keyrush.limiter.ledgers.mapped.tables import close_table, open_table
from keyrush.limiter.mapped import MappedLimiter
from keyrush.runtime.clock import now_ms
from tests.support.mapped import (
    HOUR,
    MINUTE,
    NOW,
    bucket,
    by_lockf,
    compete,
    content,
    holding,
    in_children,
    of,
    subject_apart,
    used,
    written,
)

#: Seconds that processes are killed for.
KILLED_FOR = 30

#: Live windows at a time.
MANY = 1_000_000

#: Seconds that takes are timed for, beside busy threads.
TIMED_FOR = 5

#: Of a take beside busy threads, in seconds (p99).
BOUND = 0.001

#: How late a loop may be at most beside a process that was stopped, in seconds, beyond the most
#: that the machine made of it without one.
STALL = 0.005

_PTRACE_TRACEME, _PTRACE_SINGLESTEP = 0, 9


class Row(NamedTuple):
    """What came out of one part."""

    part: str
    figures: str
    holds: bool


# --- exact ----------------------------------------------------------------------------------------


def exact(folder: Path) -> list[Row]:
    """8 processes by 8 threads on one key, each way to lock and to come by the file."""
    rows = []
    for lock in ("kept", "lockf"):
        for is_inherited in (False, True):
            path = folder / f"exact-{lock}-{is_inherited}"

            def apart(path: Path = path, lock: str = lock, *, inherits: bool = is_inherited) -> int:
                if lock == "lockf":
                    by_lockf()
                return compete(str(path), 50_000, 1500, is_inherited=inherits)

            passed = in_children(1, apart)
            how = f"{lock}, {'inherited' if is_inherited else 'own'}"
            rows.append(Row(f"exact, {how}", f"{passed:,} of 96,000 pass", passed == 50_000))
    return rows


# --- kills ----------------------------------------------------------------------------------------


def kills(folder: Path) -> list[Row]:
    """Takers are killed at random; what each has admitted is noted in memory that outlives it, so
    that a kill between the two can only make it one too few: never more than the limit in a period.
    """
    length, limit, takers = 20, 40, 3
    path = str(folder / "kills")
    close_table(open_table(path))
    windows = [Window("key:a:0", length, limit, "20ms"), Window("key:a:1", 1000, 10**6, "second")]
    periods = KILLED_FOR * 1000 // length + 1000
    noted = memoryview(mmap.mmap(-1, periods * takers * 8)).cast("Q")
    begun = now_ms() // length
    chance = random.Random(1)  # noqa: S311  # a schedule

    def taker(row: int) -> None:
        now = 0

        def clock() -> int:
            nonlocal now  # the last one read is the one that counts
            now = now_ms()
            return now

        limiter = MappedLimiter(path, clock=clock)
        while True:
            try:
                if limiter.take(windows, 1, clock()).admitted:
                    noted[row * periods + now // length - begun] += 1
            except Away:
                continue

    def start(row: int) -> int:
        if pid := os.fork():
            return pid
        taker(row)
        return 0

    living = [start(row) for row in range(takers)]
    killed = 0
    ends = time.monotonic() + KILLED_FOR
    while time.monotonic() < ends:
        time.sleep(chance.random() * 0.005)
        row = chance.randrange(takers)
        _kill(living[row])
        living[row] = start(row)
        killed += 1
    for pid in living:
        _kill(pid)
    sums = [sum(noted[row * periods + at] for row in range(takers)) for at in range(periods)]
    most, taken = max(sums), sum(1 for one in sums if one)
    figures = (
        f"{killed:,} kills, {sum(sums):,} admitted in {taken:,} periods, {most} in one at most"
    )
    limiter = MappedLimiter(path)
    goes_on = limiter.take([windows[0]._replace(amount=10**6)], 1, now_ms()).admitted
    limiter.close()
    return [Row("kills", figures, most <= limit and goes_on)]


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# --- every instruction ----------------------------------------------------------------------------


class Scene(NamedTuple):
    """What was taken, and then a take that is gone through an instruction at a time."""

    name: str
    before: list[tuple[int, int]]  #: when, after NOW, and how much
    at: int  #: after NOW


SCENES = [
    Scene("a new subject", [], 0),
    Scene("the same period", [(0, 5)], 100),
    Scene("one period on", [(0, 5), (MINUTE, 3)], 2 * MINUTE),
    Scene("two periods on", [(0, 5), (MINUTE, 3)], 3 * MINUTE),
    Scene("the hour too", [(0, 5), (MINUTE, 3)], HOUR),
    Scene("all long past", [(0, 5)], 5 * HOUR),
]


def steps(folder: Path) -> list[Row]:
    """A take in a child, stopped after each machine instruction: what a kill there would leave."""
    return [_stepped(folder / scene.name.replace(" ", "-"), scene) for scene in SCENES]


def _stepped(path: Path, scene: Scene) -> Row:
    windows, when = of("key:a"), NOW + scene.at
    clock = [when]
    limiter = MappedLimiter(str(path), clock=lambda: clock[0])
    for after, cost in scene.before:
        clock[0] = NOW + after
        limiter.take(windows, cost, clock[0])
    clock[0] = when
    before = used(limiter, windows, when)
    table = open_table(str(path))
    words = bucket(table, "key:a")
    trace = ctypes.CDLL(None).ptrace
    trace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    pid = os.fork()
    if not pid:
        trace(_PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        limiter.take_at_once(windows, 1, when)
        os.kill(os.getpid(), signal.SIGSTOP)
    os.waitpid(pid, 0)
    states, last, instructions = [content(table)], words.tobytes(), 0
    while True:
        trace(_PTRACE_SINGLESTEP, pid, None, None)
        _, status = os.waitpid(pid, 0)
        instructions += 1
        if (now := words.tobytes()) != last:
            last = now
            states.append(content(table))
        if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != signal.SIGTRAP:
            break
    _kill(pid)
    found = []
    for number, state in enumerate(states):
        left = MappedLimiter(str(written(Path(f"{path}-{number}"), state)), clock=lambda: when)
        found.append(used(left, windows, when))
        left.close()
    close_table(table)
    limiter.close()
    holds = found[-1] == [one + 1 for one in before] and all(
        was <= one <= was + 1 for each in found for one, was in zip(each, before, strict=True)
    )
    figures = f"{instructions:,} instructions, {len(states)} states, counted {found}"
    return Row(f"steps, {scene.name}", figures, holds)


# --- large ----------------------------------------------------------------------------------------


class Shared:
    """What processes that make the file larger tell of themselves."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_over = memoryview(mmap.mmap(-1, 4096))
        self.again = memoryview(mmap.mmap(-1, 4096)).cast("Q")  # takes without an answer
        self.times = memoryview(mmap.mmap(-1, 4096)).cast("d")  # p99 and maximum, in seconds

    def fill(self, part: int) -> None:
        """Make a quarter of the windows."""
        limiter = MappedLimiter(self.path, clock=lambda: NOW)
        for number in range(part * MANY // 4, (part + 1) * MANY // 4):
            while True:
                try:
                    limiter.take(_one(number), 1, NOW)
                except Away:
                    self.again[part] += 1
                else:
                    break

    def hot(self) -> None:
        """Take from one key, as an event loop does, until it is over."""
        limiter, times = MappedLimiter(self.path, clock=lambda: NOW), []
        while not self.is_over[0]:
            begun = time.perf_counter()
            with suppress(Away):
                limiter.take_at_once(of("key:hot"), 1, NOW)
            times.append(time.perf_counter() - begun)
            time.sleep(0.001)
        times.sort()
        self.times[0], self.times[1] = times[len(times) * 99 // 100], times[-1]


def _one(number: int) -> list[Window]:
    return [Window(f"key:{number}:3600", HOUR, 100, "hour")]


def _forked(work: Callable[[], None]) -> int:
    if not (pid := os.fork()):
        work()
        os._exit(0)
    return pid


def grow(folder: Path) -> list[Row]:
    """Four processes make a million windows, while a fifth takes from one, and never waits."""
    path = str(folder / "grow")
    shared = Shared(path)
    few = _time_of_a_take(path)
    begun = time.monotonic()
    hot = _forked(shared.hot)
    for pid in [_forked(partial(shared.fill, part)) for part in range(4)]:
        os.waitpid(pid, 0)
    shared.is_over[0] = 1
    os.waitpid(hot, 0)
    seconds = time.monotonic() - begun
    size = Path(path).stat().st_size / MANY
    many = _time_of_a_take(path)
    limiter = MappedLimiter(path, clock=lambda: NOW)
    sample = range(0, MANY, 997)
    known = sum(limiter.take(_one(number), 0, NOW).remaining == 99 for number in sample)
    limiter.close()
    p99, most = (f"{one * 1e6:.0f} us" for one in shared.times[:2])
    meanwhile = f"{p99}, {most}; {sum(shared.again[:4])} takes had no answer"
    return [
        Row("grow, bytes of a window", f"{size:.1f} in {seconds:.0f} s", size <= 80),
        Row("grow, take beside few", f"{few * 1e6:.2f} us, {many * 1e6:.2f} us", many < 1.5 * few),
        Row("grow, p99 and max meanwhile", meanwhile, shared.times[0] < BOUND),
        Row("grow, found again", f"{known} of {len(sample)}", known == len(sample)),
    ]


def _time_of_a_take(path: str) -> float:
    """Seconds of CPU, the best of several."""
    limiter = MappedLimiter(path, clock=lambda: NOW)
    windows = of("key:hot")
    best = 1.0
    for _ in range(50):
        begun = time.thread_time()
        for _ in range(1000):
            limiter.take(windows, 1, NOW)
        best = min(best, time.thread_time() - begun)
    limiter.close()
    return best / 1000


# --- busy -----------------------------------------------------------------------------------------


def busy(folder: Path) -> list[Row]:
    """Takes beside threads that never rest, in one process and in two."""
    rows = []
    for processes, threads in ((1, 1), (2, 1), (2, 4)):
        path = str(folder / f"busy-{processes}-{threads}")
        found = memoryview(mmap.mmap(-1, 4096)).cast("d")

        def work(path: str = path, threads: int = threads, found: memoryview[float] = found) -> int:
            is_over = threading.Event()
            for _ in range(threads):
                threading.Thread(target=_burn, args=(is_over,), daemon=True).start()
            limiter, times = MappedLimiter(path, clock=lambda: NOW), []
            ends = time.monotonic() + TIMED_FOR
            while time.monotonic() < ends:
                begun = time.perf_counter()
                limiter.take_at_once(of("key:hot"), 1, NOW)
                times.append(time.perf_counter() - begun)
                if len(times) % 20 == 0:
                    time.sleep(0.001)  # as a loop does, between requests
            is_over.set()
            times.sort()
            found[0] = max(found[0], times[len(times) * 99 // 100])
            return 0

        in_children(processes, work)
        part = f"busy, {processes} processes, {threads} threads"
        rows.append(Row(part, f"p99 {found[0] * 1e6:.0f} us", found[0] < BOUND))
    return rows


def _burn(is_over: threading.Event) -> None:
    number = 0
    while not is_over.is_set():
        number = (number * 31 + 7) % 1_000_003


# --- stopped --------------------------------------------------------------------------------------


class Ticks:
    """A loop that serves one key whose lock may be held and one that has another, and how late it
    comes to what it wanted to do every half millisecond.
    """

    def __init__(self, path: str) -> None:
        self._limiter = MappedLimiter(path, clock=lambda: NOW)
        self._others = of(subject_apart(self._table(path), "key:a"))
        self.unanswered = 0

    @staticmethod
    def _table(path: str) -> Table:
        table = open_table(path)
        close_table(table)
        return table

    async def late(self, seconds: float) -> list[float]:
        """In seconds, in order."""
        late: list[float] = []
        waiting: set[asyncio.Task[None]] = set()
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            before = time.perf_counter()
            for windows in (of("key:a"), self._others):
                with suppress(Away):
                    if self._limiter.take_at_once(windows, 1, NOW) is None and len(waiting) < 4:
                        waiting.add(asyncio.create_task(self._wait(windows)))
            await asyncio.sleep(0.0005)
            late.append(time.perf_counter() - before - 0.0005)
            waiting = {task for task in waiting if not task.done()}
        await asyncio.gather(*waiting)
        return sorted(late)

    async def _wait(self, windows: Sequence[Window]) -> None:
        try:
            await asyncio.to_thread(self._limiter.take, windows, 1, NOW)
        except Away:
            self.unanswered += 1


def stopped(folder: Path) -> list[Row]:
    """An event loop beside a process that was stopped while it had a lock, then killed."""
    path, rows = folder / "stopped", []
    ticks = Ticks(str(path))

    def row(part: str, least: float) -> float:
        late = asyncio.run(ticks.late(TIMED_FOR / 2))
        p99, most = late[len(late) * 99 // 100], late[-1]
        figures = f"late p99 {p99 * 1e6:.0f} us, max {most * 1e6:.0f} us; {ticks.unanswered} away"
        rows.append(Row(f"stopped, {part}", figures, p99 < STALL and most < STALL + least))
        return most

    alone = row("nobody", 1.0)
    for is_forked in (False, True):
        how = "with a child" if is_forked else "alone"
        with holding(path, "key:a", is_forked=is_forked) as holder:
            row(f"{how}, stopped", alone)
            holder.signal(signal.SIGKILL)
            row(f"{how}, killed", alone)
    return rows


# --- all ------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Path], list[Row]]] = {
    "exact": exact,
    "kills": kills,
    "steps": steps,
    "grow": grow,
    "busy": busy,
    "stopped": stopped,
}


def main() -> int:
    """Run the parts; print what came out. 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.mapped", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--folder", help="where the files are; by default a new one")
    options = parser.parse_args()
    holds = True
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for row in PARTS[name](Path(folder)):
                print(f"{'ok' if row.holds else 'WRONG':6}{row.part}: {row.figures}", flush=True)  # noqa: T201  # a command
                holds &= row.holds
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
