"""What a loop feels while its file of windows becomes larger, to a million live windows.

    python -m tests.long.mapped_growth [--folder FOLDER] [--pace 20000] [--windows 1000000]

One process, as a gate is one: an event loop takes from new subjects, and from one that is known,
and what can't be answered at once goes to a thread. Prints microseconds (median, 99 in 100, most),
by how many segments the file had; a pace of 0 is as fast as possible. The exit code is 1 where a
known subject's takes were slow, or many new ones had to wait.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from pathlib import Path

from keyrush.core.sliding import Window
from keyrush.limiter.ledgers.mapped.tables import close_table, open_table
from keyrush.limiter.mapped import MappedLimiter
from keyrush.runtime.background import Background
from tests.support.mapped import NOW, of

#: New subjects between two turns of the loop.
BURST = 20

#: Of a known subject's takes, in seconds (p99).
BOUND = 0.001

#: New subjects of a million windows that may have to wait, as where a bucket is unlucky.
WAITING = 50


class Collector:
    """How long Python's garbage collector has run, which is the app's matter and told apart."""

    def __init__(self) -> None:
        self.seconds = self.longest = 0.0
        self._begun = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _: object) -> None:
        if phase == "start":
            self._begun = time.perf_counter()
        else:
            lasted = time.perf_counter() - self._begun
            self.seconds += lasted
            self.longest = max(self.longest, lasted)

    def now(self) -> float:
        """Seconds in which it did not run."""
        return time.perf_counter() - self.seconds


class Phase:
    """What lasted how long, in seconds, while there were so many segments."""

    def __init__(self) -> None:
        self.new: list[float] = []  #: takes from new subjects
        self.known: list[float] = []  #: takes from one that is known
        self.turns: list[float] = []  #: of the loop, beyond what it had to do
        self.waited: list[float] = []  #: takes that a thread had to answer

    def __str__(self) -> str:
        return (
            f"{len(self.new):,} new {_spread(self.new)}; known {_spread(self.known)}; "
            f"turns {_spread(self.turns)}; {len(self.waited)} waited {_spread(self.waited)}"
        )


def _spread(durations: list[float]) -> str:
    if not durations:
        return ""
    ordered = sorted(durations)
    found = (ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1])
    return " / ".join(f"{1e6 * one:,.0f}" for one in found)


class Growing:
    """A loop that takes until so many windows are live."""

    def __init__(self, path: str, pace: int, windows: int) -> None:
        self._limiter = MappedLimiter(path, clock=lambda: NOW)
        self._background = Background()
        self._limiter.start(self._background)
        self._background.start()
        self._table = open_table(path)
        self._pace, self._subjects = pace, windows // 2
        self._waiting: set[asyncio.Task[None]] = set()
        self.collector = Collector()
        self.phases: dict[int, Phase] = {}
        self.seconds = 0.0

    async def run(self) -> None:
        """Take; then `phases` has what was seen."""
        now, begun = self.collector.now, time.perf_counter()
        for number in range(0, self._subjects, BURST):
            phase = self.phases.setdefault(len(self._table.file.segments), Phase())
            for subject in range(number, number + BURST):
                self._take(of(f"key:{subject}"), phase, phase.new)
            self._take(of("key:known"), phase, phase.known)
            rest = begun + (number + BURST) / self._pace - time.perf_counter() if self._pace else 0
            before = now()
            await asyncio.sleep(max(0.0, rest))
            phase.turns.append(now() - before - max(0.0, rest))
        while self._waiting:
            await asyncio.wait(self._waiting)
        self.seconds = time.perf_counter() - begun

    def _take(self, windows: tuple[Window, ...], phase: Phase, durations: list[float]) -> None:
        before = self.collector.now()
        tally = self._limiter.take_at_once(windows, 1, NOW)
        durations.append(self.collector.now() - before)
        if tally is None:
            waiting = asyncio.create_task(self._wait(windows, phase))
            self._waiting.add(waiting)
            waiting.add_done_callback(self._waiting.discard)

    async def _wait(self, windows: tuple[Window, ...], phase: Phase) -> None:
        before = self.collector.now()
        await asyncio.to_thread(self._limiter.take, windows, 1, NOW)
        phase.waited.append(self.collector.now() - before)

    def close(self) -> None:
        """Let go of the file."""
        self._background.close()
        self._limiter.close()
        close_table(self._table)


def main() -> int:
    """Print what was seen; 1 where it was too slow."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.mapped_growth", description=__doc__)
    parser.add_argument("--folder", help="where the file is; by default a new one")
    parser.add_argument("--pace", type=int, default=20_000, help="new subjects a second")
    parser.add_argument("--windows", type=int, default=1_000_000, help="live ones in the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "windows"
        growing = Growing(str(path), options.pace, options.windows)
        asyncio.run(growing.run())
        size = path.stat().st_size / options.windows
        growing.close()
    lines = [f"{growing.seconds:.1f} s, {size:.1f} bytes a window"]
    lines += [f"{number} segments: {phase}" for number, phase in growing.phases.items()]
    lines += [f"the garbage collector: {1e3 * growing.collector.longest:.1f} ms at most"]
    print("\n".join(lines))  # noqa: T201  # a command
    phases = growing.phases.values()
    known = sorted(one for phase in phases for one in phase.known)
    waited = sum(len(phase.waited) for phase in phases)
    return int(known[len(known) * 99 // 100] > BOUND or waited > WAITING)


if __name__ == "__main__":
    sys.exit(main())
