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
from keyrush.core.sliding import Demand, Tally, Window
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
    nth: int  #: of the process's requests for the subject


class Begun(NamedTuple):
    """A request that is under way."""

    number: int
    due: int
    before: int
    nth: int


def window_of(subject: Subject) -> list[Window]:
    """The subject's windows, as a gate has them."""
    return [Window(subject.key, subject.length, subject.limit, "window")]


def demands_of(subject: Subject, nth: int) -> list[Demand]:
    """What a process's nth request for the subject takes, by its sort: of its plan alone, in two of
    three also of a rule's limit by the same key, also of one that all subjects of the same load
    have in common, or of a rule's with weights from 1 to 5.
    """
    key, _, seconds = subject.key.rpartition(":")
    of_plan = Demand(window_of(subject), 1)
    limit = subject.limit

    def of_rule(whose: str, amount: int, cost: int) -> Demand:
        window = Window(f"{whose}|rule:{seconds}", subject.length, max(1, amount), "rule")
        return Demand([window], cost)

    if subject.sort == "rule":
        return [of_plan, of_rule(key, limit // 2, 1)] if nth % 3 else [of_plan]
    if subject.sort == "account":
        account, _, _ = key.rpartition("-")
        return [of_plan, of_rule(account, max(limit, 300) * 3 // 4, 1)]
    if subject.sort == "weighted":
        return [of_plan, of_rule(key, 2 * limit, 1 + nth % 5)]
    return [of_plan]


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
        counts = [0] * len(subjects)
        known = [[demands_of(subject, nth) for nth in range(15)] for subject in subjects]
        for at, number in plan:
            due = start + at
            wait = due / 1000 - time.time()
            if wait > 0:
                time.sleep(wait)
            nth = counts[number]
            counts[number] += 1
            demands = known[number][nth % 15]
            begun = Begun(number, int(due), now_ms(), nth)
            tally = self._ask(demands, begun.before, is_at_once=True)
            if tally is None:
                self._pool.submit(self._take, demands, begun)
            else:
                self._note(begun, tally)
        self._pool.shutdown()

    def _ask(self, demands: list[Demand], now: int, *, is_at_once: bool) -> Tally | None:
        """As the gate does: what is of one subject alone is asked for alone."""
        limiter = self._limiter
        tally: Tally | None
        if len(demands) == 1:
            take = limiter.take_at_once if is_at_once else limiter.take
            tally = take(demands[0].windows, demands[0].cost, now)
        else:
            take = limiter.take_together_at_once if is_at_once else limiter.take_together
            tally = take(demands, now)
        return tally

    def _take(self, demands: list[Demand], begun: Begun) -> None:
        begun = begun._replace(before=now_ms())
        tally = self._ask(demands, begun.before, is_at_once=False)
        assert tally is not None  # noqa: S101  # who may wait is answered
        self._note(begun, tally)

    def _note(self, begun: Begun, tally: Tally) -> None:
        number, due, before, nth = begun
        self.asked.append(Asked(number, due, before, now_ms(), tally.admitted, nth))

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
