"""Who takes part in a simulation: processes, their ledger, and what course things may take."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Literal

from keyrush.core.sliding import Demand, Taken, Tally, Window
from keyrush.limiter.ledgers.protocol import Place
from keyrush.limiter.protocol import Mode, Outage
from keyrush.limiter.shared.client import LedgerClient
from keyrush.limiter.shared.exact import ExactLimiter
from keyrush.limiter.shared.leased import LeasedLimiter
from keyrush.limiter.shared.outage import Books
from keyrush.runtime.background import Background, Job
from keyrush.runtime.clock import Clock
from tests.support.ledgers import MemoryLedger
from tests.support.oracle import Violation

if TYPE_CHECKING:
    from tests.long.simulation import World

#: By whose leave something was admitted: the ledger's, asked for it; that of units taken ahead;
#: that of the outage policy.
Source = Literal["ledger", "lease", "policy"]


class Course:
    """What may happen in a schedule, and by which settings."""

    def __init__(self, random: Random) -> None:
        self.mode: Mode = random.choice(["leased", "leased", "exact"])
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
        self.is_varied = random.random() < 0.2  # different windows of a subject in a request
        self.pace = random.choice([0.1, 0.3, 1])  # how often time leaps

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in vars(self).items())


class Chores(Background):
    """Work in the background, done when the schedule says so."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Job] = []

    def soon(self, job: Job) -> None:
        self.queue.append(job)


class Watched(Books):
    """Books that tell what they admit without the ledger."""

    def __init__(self, world: World, client: LedgerClient) -> None:
        super().__init__(world.course.outage, client.clock, client.membership)
        self._world = world

    def answer_in_outage(self, demands: Sequence[Demand], now: int) -> Tally:
        tally = super().answer_in_outage(demands, now)
        if tally.admitted and any(cost for _, cost in demands):
            self._world.admitted_without()
        return tally


class Process:
    """One that counts in the shared windows."""

    def __init__(self, world: World) -> None:
        clock = Clock(world.wall, world.monotonic)
        self.client = LedgerClient(world.ledger, world.course.outage, clock)
        self.client.books = Watched(world, self.client)
        limiter = LeasedLimiter if world.course.mode == "leased" else ExactLimiter
        self.limiter = limiter(self.client)
        self.chores = Chores()
        self.limiter.start(self.chores)
        self.taken: list[Taking] = []
        self.refused: list[tuple[tuple[Window, ...], int, int]] = []
        self.is_settling = False
        self.is_calling = 0
        self.is_closing = False

    def is_asking(self, key: str) -> bool:
        """True while one of its threads asks the ledger about windows, and others would wait."""
        if not isinstance(self.limiter, LeasedLimiter):
            return False
        lease = self.limiter._leases.get(key)  # noqa: SLF001  # nothing else tells
        return lease is not None and lease.asking.locked()


class Taking:
    """A take under way, and what became of it."""

    def __init__(self, process: Process, wanted: tuple[Window, ...], cost: int, now: int) -> None:
        self.process = process
        self.wanted = wanted
        self.cost = cost
        self.now = now  # on the wall clock
        self.source: Source | None = None
        self.at = 0  # on the ledger's clock, when it was admitted
        self.asked = False
        self.is_lasting = False  # never given back


class DistantLedger(MemoryLedger):
    """A ledger to which calls take time, during which others go on, and which may fail."""

    def __init__(self, world: World) -> None:
        super().__init__(world.ledger_clock, has_own_clock=world.course.has_own_clock)
        self._world = world

    def take(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        world = self._world
        world.travel()
        self.fault = world.draw_fault()
        before = dict(self.counters)
        taken = super().take(windows, cost, extra)
        if not taken.granted and self.counters != before:
            raise Violation("a refused take has changed the ledger")
        if cost:
            world.answered(windows, cost, taken)
        world.travel()
        return taken

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        world, process = self._world, self._world.acting
        process.is_settling = True
        try:
            world.travel()
            self.fault = world.draw_fault()
            if self.fault and (cost > 0 or self.fault == "after"):
                world.is_exact = False  # lost, or added twice
            super().give_back(windows, cost, taken_at)
            world.travel()
        finally:
            process.is_settling = False

    def enlist(self, worker: str) -> Place:
        self.fault = self._world.draw_fault()
        return super().enlist(worker)

    def leave(self, worker: str) -> None:
        self.fault = self._world.draw_fault()
        super().leave(worker)
