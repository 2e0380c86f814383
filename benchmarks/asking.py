"""One process of the accuracy simulation: `python -m benchmarks.asking`, told what by a pipe.

It has a limiter of its own, as the gate of a worker has, and asks it as the gate does: at once
where that can tell, else in a thread. It asks when the plan says, whatever has been answered.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from benchmarks.arrivals import Subject, arrivals
from keyrush.core.sliding import Tally, Window
from keyrush.limiter.opening import open_limiter
from keyrush.runtime.background import Background
from keyrush.runtime.clock import now_ms
from keyrush.sql.engine import Database

#: Threads for calls that may block.
_THREADS = 8


class Asked(NamedTuple):
    """What came of a request. Instants are Unix milliseconds."""

    number: int  #: of the subject
    due: int  #: when it was to be asked
    before: int
    after: int
    admitted: bool


def window_of(subject: Subject) -> list[Window]:
    """The subject's windows, as a gate has them."""
    return [Window(subject.key, subject.length, subject.limit, "window")]


class Asking:
    """The limiter of one process, and what it has answered."""

    def __init__(self, store_url: str, limiter_url: str, mode: Any) -> None:
        self._database = Database(store_url) if store_url else None
        limiter: Any = open_limiter(limiter_url, self._database, mode=mode).limiter
        self._limiter = limiter
        self._background = Background()
        limiter.start(self._background)
        self._background.start()
        self._pool = ThreadPoolExecutor(_THREADS)
        self.asked: list[Asked] = []

    def connect(self) -> None:
        """Have all connections open before it begins."""
        barrier = threading.Barrier(_THREADS)

        def look(_: int) -> None:
            barrier.wait()
            self._limiter.take([Window("nobody:60", 60_000, 1, "minute")], 0, now_ms())

        list(self._pool.map(look, range(_THREADS)))

    def run(self, start: int, subjects: list[Subject], plan: list[tuple[float, int]]) -> None:
        """Ask for everything in the plan, and wait for the answers."""
        windows = [window_of(subject) for subject in subjects]
        take_at_once = self._limiter.take_at_once
        for at, number in plan:
            due = start + at
            wait = due / 1000 - time.time()
            if wait > 0:
                time.sleep(wait)
            before = now_ms()
            tally = take_at_once(windows[number], 1, before)
            if tally is None:
                self._pool.submit(self._take, windows[number], number, int(due))
            else:
                self._note(number, int(due), before, tally)
        self._pool.shutdown()

    def _take(self, wanted: list[Window], number: int, due: int) -> None:
        before = now_ms()
        self._note(number, due, before, self._limiter.take(wanted, 1, before))

    def _note(self, number: int, due: int, before: int, tally: Tally) -> None:
        self.asked.append(Asked(number, due, before, now_ms(), tally.admitted))

    def close(self) -> None:
        """Give back what is not used."""
        self._background.close()
        self._limiter.close()
        if self._database is not None:
            self._database.close()


def main() -> None:
    """Do what the first line of standard input says, from the instant that the second one says."""
    order = json.loads(sys.stdin.readline())
    asking = Asking(order["store_url"], order["limiter_url"], order["mode"])
    subjects = [Subject(*values) for values in order["subjects"]]
    plan = arrivals(subjects, order["rank"], order["processes"])
    asking.connect()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    asking.run(int(sys.stdin.readline()), subjects, plan)
    if len(asking.asked) != len(plan):
        raise SystemExit("some requests were not answered")
    sys.stdout.write(json.dumps(asking.asked) + "\n")
    sys.stdout.flush()
    asking.close()


if __name__ == "__main__":
    main()
