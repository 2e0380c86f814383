"""Random schedules of several processes that share windows.

    python -m tests.simulation --schedules 1000000

Nothing here waits or runs in threads: time is a number, and what other threads and processes do
while a call to the ledger is on its way is done inside that call. A schedule is its seed.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Literal

import pytest

from keyrush import windows
from keyrush.background import Background, Job
from keyrush.circuit import PAUSE, Away
from keyrush.limiter.exact import ExactLimiter
from keyrush.limiter.leases import LeasedLimiter
from keyrush.limiter.ledger import Place
from keyrush.limiter.shared import Outage, SharedWindows
from keyrush.windows import Taken, Tally, Window
from tests import oracle
from tests.ledgers import Fault, MemoryLedger
from tests.oracle import Oracle, Violation

#: Operations in a schedule.
STEPS = 90

#: True microseconds since 1970 when schedules begin; periods of every length begin there, too.
BEGINNING = 1_795_024_800_000_000

#: What happens, and how often.
DEEDS = {
    "take": 104,
    "give_back": 18,
    "tick": 16,
    "job": 16,
    "wait": 28,
    "settle": 4,
    "enlist": 2,
    "weather": 6,
    "limits": 2,
    "step": 2,
    "crash": 1,
    "stop": 1,
}


class Course:
    """What may happen in a schedule, and by which settings."""

    def __init__(self, random: Random) -> None:
        self.mode: Literal["leased", "exact"] = random.choice(["leased", "leased", "exact"])
        self.outage: Outage = random.choice(["closed", "closed", "local", "open"])
        self.has_own_clock = random.random() < 0.4
        self.has_latency = random.random() < 0.5
        self.has_faults = self.outage != "closed" or random.random() < 0.3
        self.has_crashes = random.random() < 0.3
        self.has_steps = random.random() < 0.3
        self.share = random.choice([1, 2, 5, 20])  # for `windows.SHARE`: blocks at small limits
        self.lengths = random.choice([(1000, 10_000), (700, 1000), (1000, 7000), (500, 500)])
        self.processes = random.randint(1, 4)
        self.subjects = random.randint(1, 2)
        self.is_varied = random.random() < 0.3  # different windows of a subject in a request


class Chores(Background):
    """Work in the background, done when the schedule says so."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Job] = []

    def soon(self, job: Job) -> None:
        self.queue.append(job)


class Watched(SharedWindows):
    """Shared windows that tell what they admit without the ledger."""

    def __init__(self, world: World) -> None:
        super().__init__(world.ledger, world.course.outage, world.wall, world.monotonic)
        self._world = world

    def without(self, wanted: Sequence[Window], cost: int, now: int) -> Tally:
        tally = super().without(wanted, cost, now)
        if cost and tally.admitted:
            self._world.admitted_without(wanted, cost)
        return tally


class Process:
    """One that counts in the shared windows."""

    def __init__(self, world: World) -> None:
        self.shared = Watched(world)
        limiter = LeasedLimiter if world.course.mode == "leased" else ExactLimiter
        self.limiter = limiter(self.shared)
        self.chores = Chores()
        self.limiter.bind(self.chores)
        self.taken: list[Taking] = []
        self.refused: list[tuple[tuple[Window, ...], int, int]] = []
        self.asking: set[str] = set()
        self.is_settling = False
        self.is_calling = 0


class Taking:
    """A take under way, and what became of it."""

    def __init__(self, process: Process, wanted: tuple[Window, ...], cost: int, now: int) -> None:
        self.process = process
        self.wanted = wanted
        self.cost = cost
        self.now = now  # on the wall clock
        self.source: Literal["ledger", "policy", "lease", None] = None
        self.at = 0  # on the ledger's clock, when it was admitted
        self.asked = False


class DistantLedger(MemoryLedger):
    """A ledger to which calls take time, during which others go on, and which may fail."""

    def __init__(self, world: World) -> None:
        super().__init__(world.ledger_clock, has_own_clock=world.course.has_own_clock)
        self._world = world

    def take(self, wanted: Sequence[Window], cost: int, extra: int) -> Taken:
        world = self._world
        world.travel()
        self.fault = world.draw_fault()
        before = dict(self.counters)
        taken = super().take(wanted, cost, extra)
        if not taken.granted and self.counters != before:
            raise Violation("a refused take has changed the ledger")
        if cost:
            world.answered(wanted, cost, taken)
        world.travel()
        return taken

    def give_back(self, wanted: Sequence[Window], cost: int, taken_at: int) -> None:
        world, process = self._world, self._world.acting
        process.is_settling = True
        try:
            world.travel()
            self.fault = world.draw_fault()
            if self.fault and (cost > 0 or self.fault == "after"):
                world.is_exact = False  # lost, or added twice
            super().give_back(wanted, cost, taken_at)
            world.travel()
        finally:
            process.is_settling = False

    def enlist(self, worker: str) -> Place:
        self.fault = self._world.draw_fault()
        return super().enlist(worker)

    def leave(self, worker: str) -> None:
        self.fault = self._world.draw_fault()
        super().leave(worker)


class World:
    """One schedule."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.course = Course(self.random)
        self.time = BEGINNING + self.random.randrange(3_000_000)
        self.step = 0  # milliseconds by which the wall clock is ahead of true time
        self.skew = self.random.randint(-10_000_000, 10_000_000)  # and the ledger's
        self.latest = 0  # on the ledger's clock
        self.ledger = DistantLedger(self)
        self.weather = 0.0
        self.subjects = [self._subject(number) for number in range(self.course.subjects)]
        self.most: dict[str, int] = {}
        self._note_amounts()
        self.oracle, self.policy = Oracle(), Oracle()
        self.shares: dict[Process, int] = {}  # the fewest workers each has known of
        self.takings: list[Taking] = []
        self.is_exact = self.is_counted = True
        self.depth = 0
        self.is_over = False
        self.done: Counts[str] = Counts()
        self.processes = [Process(self) for _ in range(self.course.processes)]
        self.acting = self.processes[0]
        for process in self.processes:
            process.shared.enlist()
            process.shared.enlist()

    def _subject(self, number: int) -> tuple[Window, ...]:
        amounts = self.random.choice([(3, 9), (12, 40), (60, 90)])
        return tuple(
            Window(f"{number}:{place}", length, self.random.randint(1, amount), f"w{place}")
            for place, (length, amount) in enumerate(zip(self.course.lengths, amounts, strict=True))
        )

    def _note_amounts(self) -> None:
        for window in (window for subject in self.subjects for window in subject):
            self.most[window.key] = max(self.most.get(window.key, 0), window.amount)

    # --- clocks ---

    def wall(self) -> int:
        return self.time // 1000 + self.step

    def monotonic(self) -> float:
        return (self.time - BEGINNING) / 1_000_000 + 1000

    def ledger_clock(self) -> int:
        now = self.time // 1000 + self.skew if self.course.has_own_clock else self.wall()
        self.latest = max(self.latest, now)
        return now

    def effective(self, window: Window) -> int:
        """Now; or where the clock has stepped back into an earlier period, the end of that."""
        now = self.ledger_clock()
        return max(now, self.latest // window.length * window.length)

    # --- what the ledger tells ---

    def travel(self) -> None:
        """A call, or its answer, is on the way."""
        if self.is_over:
            return
        if self.course.has_latency:
            self.time += int(self.random.expovariate(1 / 2000))
            if self.random.random() < 0.03:
                self._wait()
        if self.depth < 2 and self.random.random() < 0.25:
            acting, acting.is_calling = self.acting, self.acting.is_calling + 1
            self.depth += 1
            for _ in range(self.random.randint(1, 4)):
                self.do_something()
            self.depth -= 1
            acting.is_calling -= 1
            self.acting = acting

    def draw_fault(self) -> Fault | None:
        if self.is_over or self.random.random() >= self.weather:
            return None
        if self.weather == 1 or self.random.random() < 0.5:
            return "before"
        self.is_exact = False
        return "after"

    def answered(self, wanted: Sequence[Window], cost: int, taken: Taken) -> None:
        taking = self.takings[-1]
        taking.asked = True
        if taken.granted:
            self._admit(taking, "ledger", taken.now)
            return
        for window in wanted:
            if self._counted(window, taken.now) + cost > window.amount:
                return
        raise Violation("refused, though there is room")

    def admitted_without(self, wanted: Sequence[Window], cost: int) -> None:
        self._admit(self.takings[-1], "policy", self.ledger_clock())

    def _counted(self, window: Window, instant: int) -> int:
        """What the ledger counts, worked out here."""
        index, current, previous = self.ledger.counters.get(window.key, (0, 0, 0))
        instant = max(instant, index * window.length)
        return oracle.used({index: current, index - 1: previous}, window.length, instant)

    def _admit(
        self, taking: Taking, source: Literal["ledger", "policy", "lease"], at: int
    ) -> None:
        taking.source, taking.at = source, at
        self.done[source] += 1
        if source == "policy":
            place = taking.process.shared.place
            known = self.shares.get(taking.process, 1000)
            self.shares[taking.process] = min(known, place.workers if place else 1000)
        for window in taking.wanted:
            if source == "policy":
                self.policy.add(window, taking.cost, at)
            self.oracle.add(window, taking.cost, at)
            used = self.oracle.used(window, self.effective(window))
            if used > self._allowed(window, source):
                raise Violation(f"{used} of {window.amount} by {source}")

    def _allowed(self, window: Window, source: str) -> int:
        recent = self.policy.recent(window, self.effective(window))
        if self.course.outage == "local" and self.shares:
            most = self.most[window.key]
            return most + sum(-(-most // workers) for workers in self.shares.values())
        if self.course.outage == "open" and source == "policy":
            return 2**60
        return window.amount + recent

    # --- what happens ---

    def do_something(self) -> None:
        self.acting = self.random.choice(self.processes)
        [deed] = self.random.choices(list(DEEDS), list(DEEDS.values()))
        getattr(self, f"_{deed}")()
        if self.course.outage == "closed":
            self._compare()

    def _compare(self) -> None:
        """Whatever was admitted is counted."""
        for window in (window for subject in self.subjects for window in subject):
            for at in (self.effective(window), (self.latest // window.length + 1) * window.length):
                if self._counted(window, at) < self.oracle.used(window, at):
                    raise Violation(f"not counted: {self._counted(window, at)} of "
                                    f"{self.oracle.used(window, at)}")

    def _take(self) -> None:
        process = self.acting
        if process.is_settling:
            return
        wanted = self.random.choice(self.subjects)
        if self.course.is_varied:
            wanted = self.random.choice([wanted, wanted[:1], wanted[1:]])
        cost = self.random.choice([0, 1, 1, 1, 1, 1, 2, 3])
        key = wanted[0].key
        taking = Taking(process, wanted, cost, self.wall())
        gate_at = self.ledger_clock()
        self.takings.append(taking)
        tally: Tally | None
        try:
            if key in process.asking:
                tally = process.limiter.take_at_once(wanted, cost, taking.now)
            else:
                with self._asking(process, key):
                    tally = process.limiter.take(wanted, cost, taking.now)
        except Away:
            tally = None
        self.takings.pop()
        if tally is None or not tally.admitted:
            if taking.source:
                raise Violation("taken, and refused")
            self._check_refusal(taking, tally)
        elif cost:
            if not taking.source:
                if self.course.mode == "exact":
                    raise Violation("admitted unasked")
                self._admit(taking, "lease", self.ledger_clock())
            if any(gate_at // w.length != taking.at // w.length for w in wanted):
                taking.at = -taking.at  # given back, it may be taken for one of another period
            process.taken.append(taking)
        if tally and not 0 <= tally.remaining <= max(self.most.values()):
            raise Violation(f"remaining: {tally.remaining}")

    def _check_refusal(self, taking: Taking, tally: Tally | None) -> None:
        """A refusal without a call stands for an earlier one, of no more, that still holds."""
        process = taking.process
        if tally is None or self.course.outage != "closed":
            return
        if taking.asked:
            process.refused.append((taking.wanted, taking.cost, tally.ready_at))
        elif not self.course.has_steps and not any(
            wanted == taking.wanted and cost <= taking.cost and taking.now < ready_at
            for wanted, cost, ready_at in process.refused
        ):
            raise Violation("refused unasked")

    @contextmanager
    def _asking(self, process: Process, key: str) -> Iterator[None]:
        process.asking.add(key)
        try:
            yield
        finally:
            process.asking.discard(key)

    def _give_back(self) -> None:
        if not self.acting.taken:
            return
        taking = self.acting.taken.pop(self.random.randrange(len(self.acting.taken)))
        if taking.at < 0 or self.course.has_own_clock:
            self.is_exact = False
        for window in taking.wanted:
            self.oracle.add(window, -taking.cost, abs(taking.at))
            if taking.source == "policy":
                self.policy.add(window, -taking.cost, abs(taking.at))
        self.acting.limiter.give_back(taking.wanted, taking.cost, taking.now)

    def _tick(self) -> None:
        if not self.acting.is_settling:
            if isinstance(self.acting.limiter, LeasedLimiter):
                self.acting.limiter.tick()
            else:
                self.acting.shared.settle()

    def _settle(self) -> None:
        if not self.acting.is_settling:
            self.acting.shared.settle()

    def _job(self) -> None:
        queue = self.acting.chores.queue
        if queue and not self.acting.is_settling:
            queue.pop(self.random.randrange(len(queue)))()

    def _enlist(self) -> None:
        self.acting.shared.enlist()

    def _wait(self) -> None:
        length = self.random.choice(self.course.lengths)
        offset = self.skew if self.course.has_own_clock else self.step
        to_end = length * 1000 - (self.time + offset * 1000) % (length * 1000)
        self.time += self.random.choice(
            [
                *(self.random.randrange(bound) for bound in (2000, 20_000, 300_000)),
                max(0, to_end + self.random.choice([-1000, -400, -1, 0, 1, 400, 1000])),
                self.random.randrange(length * 2000),
            ]
        )

    def _weather(self) -> None:
        if self.course.has_faults:
            self.weather = self.random.choice([0, 0, 0.4, 1])

    def _limits(self) -> None:
        """New amounts, none of them one that was before: a lease of old would be good again."""
        subject = self.random.randrange(len(self.subjects))
        known = self.most  # rises, so that amounts may fall only below what they began with
        self.subjects[subject] = tuple(
            window._replace(amount=self.random.randint(1, 90)) for window in self.subjects[subject]
        )
        del known
        self._note_amounts()

    def _step(self) -> None:
        if not self.course.has_steps:
            return
        shortest = min(self.course.lengths)
        before = self.ledger_clock()
        back = min(shortest - 1 - (self.latest - before), shortest - 1)
        if self.random.random() < 0.5 and back > 0:
            self.step -= self.random.randint(1, back)
        else:
            self.step += self.random.choice([1, 50, 400, 2500, 10_000_000])
        now = self.ledger_clock()
        if self.course.has_own_clock:  # nobody can tell when they were taken
            for process in self.processes:
                process.taken.clear()
        elif any(now // length < self.latest // length for length in self.course.lengths):
            self.is_exact = False

    def _crash(self) -> None:
        if self.course.has_crashes and not self.acting.is_calling:
            self.is_exact = False
            self._lose(self.acting)

    def _stop(self) -> None:
        if not self.acting.is_calling:
            self.acting.is_calling += 1
            self.acting.limiter.close()
            self.acting.is_calling -= 1
            self._lose(self.acting)

    def _lose(self, process: Process) -> None:
        """Put a new process in the place of one that ends."""
        owed = process.shared._owed.values()  # noqa: SLF001  # what ends with it
        self.is_exact &= not owed
        self.is_counted &= all(units <= 0 for units, _ in owed)
        self.processes[self.processes.index(process)] = Process(self)

    # --- the end ---

    def run(self) -> None:
        for _ in range(STEPS):
            self.do_something()
        self.is_over = True
        self.time += int(PAUSE * 1_000_000) + 1
        for process in self.processes:
            process.limiter.close()
            if process.shared._owed:  # noqa: SLF001  # as above
                raise Violation("still owed")
        if self.is_counted and self.course.outage == "closed":
            self._compare()
        if self.is_exact and self.is_counted:
            self._reconcile()

    def _reconcile(self) -> None:
        """What is counted is what was admitted, period by period."""
        self.done["reconciled"] += 1
        for key, counts in self.oracle.counts.items():
            index, current, previous = self.ledger.counters.get(key, (0, 0, 0))
            counted = {index: current, index - 1: previous}
            net = {period: count for period, count in counts.items() if period >= index - 1}
            for period in {*counted, *net}:
                if counted.get(period, 0) != net.get(period, 0):
                    raise Violation(f"{counted} counted, {net} admitted")
