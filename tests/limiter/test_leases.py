"""Leases: units taken ahead of need, over a ledger in memory and clocks that only the test moves.

Instants are Unix milliseconds. A request a millisecond is a busy key: 1,000 a second.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest

from keyrush.core.sliding import SHARE, Demand, Part, Taken, Tally, Window
from keyrush.limiter.memory import MemoryLimiter
from keyrush.limiter.shared.lease import HORIZON
from keyrush.limiter.shared.leased import AwaitedLeasedLimiter, LeasedLimiter
from keyrush.runtime.background import Background, Job
from tests.conftest import Clock
from tests.support.faults import PATIENCE
from tests.support.ledgers import MemoryLedger, client_of
from tests.support.scripts import run

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


def window(amount: int, length: int = MINUTE, subject: str = "key:a") -> Window:
    """A window as the gate makes it: its key names subject and length."""
    return Window(f"{subject}:{length // 1000}", length, amount, "minute")


class Later(Background):
    """Keeps what is to be done soon until the test does it; what is to be repeated isn't."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job] = []

    def every(self, seconds: float, job: Job) -> None:
        """Nothing is repeated."""

    def soon(self, job: Job) -> None:
        self.jobs.append(job)

    def work(self) -> None:
        """Do what is queued."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


@dataclass(frozen=True)
class Asked:
    """A take that has come to the ledger, and what it came to."""

    cost: int
    granted: int
    room: int  #: units that were left before

    @property
    def ahead(self) -> int:
        """Units that were granted for requests to come."""
        return max(0, self.granted - self.cost)


class Recorder(MemoryLedger):
    """A ledger that remembers what it was asked, of a single window in its first period."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.asked: list[Asked] = []

    def take(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        taken = super().take(windows, cost, extra)
        left = windows[0].amount - taken.counters[0][1]
        self.asked.append(Asked(cost, taken.granted, left + taken.granted))
        return taken


def busy(
    limiter: LeasedLimiter,
    wanted: Sequence[Window],
    clock: Clock,
    requests: int,
    *,
    each: int = 1,
    before: Callable[[], object] = lambda: None,
) -> int:
    """How many of so many requests pass, one every `each` milliseconds."""
    passed = 0
    for _ in range(requests):
        before()
        passed += limiter.take(wanted, 1, clock()).admitted
        clock.advance(each)
    return passed


def counted(ledger: MemoryLedger, *wanted: Window) -> list[int]:
    """What the ledger counts in the last period of each window."""
    return [ledger.counters[one.key][1] for one in wanted]


def calls_of(ledger: MemoryLedger, work: Callable[[], object]) -> int:
    """How often the ledger is called by `work`."""
    before = ledger.calls
    work()
    return ledger.calls - before


@pytest.fixture
def ledger(clock: Clock) -> MemoryLedger:
    """A ledger that goes by `clock`."""
    return MemoryLedger(clock)


@pytest.fixture
def limiter(ledger: MemoryLedger, clock: Clock) -> LeasedLimiter:
    """A process's limiter without a background."""
    return LeasedLimiter(client_of(ledger, clock))


# --- how long units are good ----------------------------------------------------------------------


def test_units_end_with_the_first_period(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock
) -> None:
    """Units are good until the first of their windows turns, to the millisecond, and then are
    given back: they were taken in the period before, and used in none.
    """
    wanted = [window(10_000, 10 * SECOND), window(100_000, HOUR)]
    passed = busy(limiter, wanted, clock, 200)
    held = counted(ledger, wanted[0])[0] - passed
    assert held > 1
    end = (clock() // (10 * SECOND) + 1) * 10 * SECOND
    clock.now = end - 1
    assert limiter.take_at_once(wanted, 1, clock())
    clock.now = end
    assert limiter.take_at_once(wanted, 1, clock()) is None
    assert calls_of(ledger, lambda: limiter.take(wanted, 1, clock())) == 1
    limiter.flush()
    assert ledger.counters[wanted[0].key] == (end // (10 * SECOND), 1, passed + 1)
    assert counted(ledger, wanted[1]) == [passed + 2]


def test_never_more_than_the_limit_at_any_turn(ledger: MemoryLedger, clock: Clock) -> None:
    """Two processes that try all the time are granted no more than the window allows, period by
    period, and nearly all of it.
    """
    wanted = [window(2000, 2 * SECOND)]
    workers = [LeasedLimiter(client_of(ledger, clock)) for _ in range(2)]
    passed: dict[int, int] = {}
    for _ in range(5 * 2000):
        period = clock() // (2 * SECOND)
        for worker in workers:
            for _ in range(2):
                admitted = worker.take(wanted, 1, clock()).admitted
                passed[period] = passed.get(period, 0) + admitted
        elapsed = clock() % (2 * SECOND)
        before = passed.get(period - 1, 0) * (2 * SECOND - elapsed) // (2 * SECOND)
        assert passed[period] + before <= 2000
        clock.advance(1)
    assert sum(passed.values()) >= 0.99 * 5 * 2000


# --- how many are taken ---------------------------------------------------------------------------


@pytest.mark.parametrize("each", [2, 10, 40])
def test_blocks_follow_the_rate(clock: Clock, each: int) -> None:
    """A block is what the process itself uses in `HORIZON`, in the long run."""
    ledger = Recorder(clock)
    limiter = LeasedLimiter(client_of(ledger, clock))
    busy(limiter, [window(10**6, HOUR)], clock, 20 * HORIZON // each, each=each)
    assert {asked.ahead for asked in ledger.asked[-4:]} == {HORIZON // each}
    ledger.asked.clear()
    busy(limiter, [window(10**6, HOUR)], clock, 40 * HORIZON // each, each=4 * each)
    assert {asked.ahead for asked in ledger.asked[-4:]} == {HORIZON // each // 4}


def test_slow_keys(ledger: MemoryLedger, clock: Clock) -> None:
    """A key that comes by every second asks for a fifth of its requests, one on a plan of a hundred
    for each: its last hundred are taken one by one. Others, asked for in between, change nothing.
    """
    limiter = LeasedLimiter(client_of(ledger, clock))
    asked = {"key:pro": 0, "key:starter": 0}
    for number in range(300):
        for subject, amount in (("key:pro", 500), ("key:starter", 100)):
            wanted = [window(amount, subject=subject)]
            asked[subject] += calls_of(ledger, lambda: limiter.take(wanted, 1, clock()))  # noqa: B023  # called at once
        limiter.take([window(100, subject=f"key:{number}")], 1, clock())
        clock.advance(SECOND)
        limiter.tick()
    assert asked["key:starter"] == 300
    assert asked["key:pro"] <= 70


def test_short_windows_have_small_blocks(clock: Clock) -> None:
    """Of a window of a second a block lasts no longer than 0.2 s, of one of ten a twelfth."""
    for length, horizon in ((SECOND, 200), (10 * SECOND, 833)):
        ledger = Recorder(clock)
        limiter = LeasedLimiter(client_of(ledger, clock))
        clock.advance(-clock() % length)
        busy(limiter, [window(10**6, length)], clock, length // 2)
        assert max(asked.ahead for asked in ledger.asked) == horizon


def test_blocks_double_at_most(clock: Clock) -> None:
    """However fast requests come, a block is at most twice the last one, and one: a single pair
    of requests makes no large block.
    """
    ledger = Recorder(clock)
    limiter = LeasedLimiter(client_of(ledger, clock))
    busy(limiter, [window(10**7, HOUR)], clock, 5000, each=0)
    blocks = [asked.ahead for asked in ledger.asked]
    assert blocks[0] == 0
    assert all(block <= 2 * last + 1 for last, block in pairwise(blocks))
    assert max(blocks) > 1000


def test_blocks_shrink_near_the_limit(clock: Clock) -> None:
    """No block is more than 1/SHARE of what is left, and the last SHARE units are taken one by
    one; in the end exactly the limit has passed.
    """
    ledger = Recorder(clock)
    limiter = LeasedLimiter(client_of(ledger, clock))
    assert busy(limiter, [window(20_000, HOUR)], clock, 21_000, each=0) == 20_000
    assert max(asked.ahead for asked in ledger.asked) > 50
    for asked in ledger.asked:
        assert asked.ahead * SHARE <= max(0, asked.room - asked.cost)
    last = [asked for asked in ledger.asked if asked.granted][-SHARE:]
    assert [(asked.room, asked.granted) for asked in last] == [
        (room, 1) for room in range(SHARE, 0, -1)
    ]


@pytest.mark.parametrize("amount", [100, 1000, 7500, 50_000])
def test_what_a_crash_strands(ledger: MemoryLedger, clock: Clock, amount: int) -> None:
    """What a process holds at any moment, and would leave counted if it were killed then, is at
    most 1/75 of the limit: a block, and the quarter at which the next is asked for.
    """
    limiter, later = LeasedLimiter(client_of(ledger, clock)), Later()
    limiter.start(later)
    wanted = [window(amount, HOUR)]
    passed = most = 0
    for _ in range(amount):
        passed += limiter.take(wanted, 1, clock()).admitted
        later.work()
        most = max(most, counted(ledger, *wanted)[0] - passed)
    assert most * 75 <= amount
    assert most * 200 >= amount or amount <= SHARE  # it does hold something


def test_what_a_crash_strands_counts_as_used(ledger: MemoryLedger, clock: Clock) -> None:
    """Units of a killed process are used by nobody: the others get the rest, and no more."""
    wanted = [window(1000, HOUR)]
    killed, passed, stranded = LeasedLimiter(client_of(ledger, clock)), 0, 0
    while not stranded:
        passed += busy(killed, wanted, clock, 1)
        stranded = counted(ledger, *wanted)[0] - passed
    other = LeasedLimiter(client_of(ledger, clock))
    assert busy(other, wanted, clock, 2000) == 1000 - passed - stranded


# --- ahead of need --------------------------------------------------------------------------------


def test_refill_ahead(ledger: MemoryLedger, clock: Clock) -> None:
    """Another block is asked for in the background before the last one is used up: once a key is
    busy, none of its requests needs the ledger.
    """
    limiter, later = LeasedLimiter(client_of(ledger, clock)), Later()
    limiter.start(later)
    wanted = [window(10**6, HOUR), window(10**7, 24 * HOUR)]
    busy(limiter, wanted, clock, 500, before=later.work)
    before = ledger.calls
    for _ in range(2000):
        assert limiter.take_at_once(wanted, 1, clock())
        assert len(later.jobs) <= 1  # a block that is on its way is not asked for again
        clock.advance(1)
        later.work()
    assert ledger.calls > before


def test_calls_on_a_busy_key(ledger: MemoryLedger, clock: Clock) -> None:
    """A busy key needs at most 0.02 calls to the ledger a request, its first ones included."""
    limiter, later = LeasedLimiter(client_of(ledger, clock)), Later()
    limiter.start(later)
    wanted = [window(10**6, HOUR), window(10**7, 24 * HOUR)]
    assert busy(limiter, wanted, clock, 5000, before=later.work) == 5000
    assert ledger.calls <= 0.02 * 5000


def test_remaining_counts_down_by_one(ledger: MemoryLedger, clock: Clock) -> None:
    """R11: whether units are at hand, asked for, or refilled ahead, `remaining` is one less with
    each request.
    """
    limiter, later = LeasedLimiter(client_of(ledger, clock)), Later()
    limiter.start(later)
    wanted = [window(3000, HOUR)]
    for number in range(3000):
        tally = limiter.take(wanted, 1, clock())
        assert tally[:3] == (True, wanted[0], 2999 - number)
        later.work()
        clock.advance(1)
    assert limiter.take(wanted, 1, clock())[:3] == (False, wanted[0], 0)


def test_costs_of_several_units(ledger: MemoryLedger, clock: Clock) -> None:
    """A request that costs more than is at hand is admitted or refused as a whole, by what the
    windows have left; all that passes adds up to the limit.
    """
    limiter, later = LeasedLimiter(client_of(ledger, clock)), Later()
    limiter.start(later)
    wanted = [window(3000, HOUR)]
    passed = 0
    for number in range(3000):
        cost = (1, 2, 7, 0, 1, 40)[number % 6]
        tally = limiter.take(wanted, cost, clock())
        passed += cost * tally.admitted
        assert tally.remaining == 3000 - passed
        later.work()
        clock.advance(1)
    assert passed == 3000
    assert counted(ledger, *wanted) == [3000]


# --- refusals -------------------------------------------------------------------------------------


def test_refusals_cost_no_call(limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock) -> None:
    """Who is out is refused without a call until `ready_at`, when one call lets them pass."""
    wanted = [window(3), window(100, HOUR)]
    busy(limiter, wanted, clock, 3)
    refused = limiter.take(wanted, 1, clock())
    assert not refused.admitted
    before = ledger.calls
    for now in [*range(clock(), refused.ready_at, 997), refused.ready_at - 1]:
        clock.now = now
        assert limiter.take(wanted, 1, now) == refused
    assert ledger.calls == before
    clock.now = refused.ready_at
    assert limiter.take(wanted, 1, clock()).admitted
    assert ledger.calls == before + 1


def test_refusals_of_several_costs(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock
) -> None:
    """R15: where a cost is refused, so is a higher one, without a call and for as long as the
    ledger would say: who is out and asks now for this and now for that asks nobody.
    """
    wanted = [window(10), window(100, HOUR)]
    busy(limiter, wanted, clock, 10)
    costs = (1, 2, 7, 1, 11, 2)
    other = LeasedLimiter(client_of(ledger, clock))
    assert not limiter.take(wanted, 1, clock()).admitted
    before = ledger.calls
    found = [limiter.take(wanted, cost, clock()) for cost in costs]
    together = [limiter.take_together([Demand(wanted, cost)], clock()) for cost in costs]
    assert ledger.calls == before
    assert found == together == [other.take(wanted, cost, clock()) for cost in costs]
    clock.now = found[0].ready_at
    assert [limiter.take(wanted, cost, clock()).admitted for cost in (2, 1)] == [False, True]


def test_refused_again(limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock) -> None:
    """Where another process was quicker at `ready_at`, one call tells, and then none again."""
    wanted = [window(3)]
    busy(limiter, wanted, clock, 3)
    clock.now = limiter.take(wanted, 1, clock()).ready_at
    assert LeasedLimiter(client_of(ledger, clock)).take(wanted, 1, clock()).admitted
    assert calls_of(ledger, lambda: busy(limiter, wanted, clock, 100, each=0)) == 1
    assert counted(ledger, *wanted) == [1]


def test_given_back_after_a_refusal(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock
) -> None:
    """What is given back is there for the next request: an earlier refusal holds no more."""
    wanted = [window(3)]
    busy(limiter, wanted, clock, 3, each=0)
    assert not limiter.take(wanted, 1, clock()).admitted
    limiter.give_back(wanted, 1, clock())
    assert [limiter.take(wanted, 1, clock()).admitted for _ in range(2)] == [True, False]
    assert counted(ledger, *wanted) == [3]


def test_given_back_to_the_period_before(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock
) -> None:
    """So it is when what is given back was taken before the window turned."""
    wanted = [window(10)]
    taken_at = clock()
    limiter.take(wanted, 10, taken_at)
    clock.advance(MINUTE)
    assert not limiter.take(wanted, 1, clock()).admitted
    limiter.give_back(wanted, 10, taken_at)
    assert [limiter.take(wanted, 10, clock()).admitted for _ in range(2)] == [True, False]


# --- limits that change ---------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [5000, 20_000])
def test_a_changed_limit(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock, amount: int
) -> None:
    """A changed limit holds for the next request, keeps the count, and gives units back that
    were taken under the one before.
    """
    old, new = [window(10_000, HOUR)], [window(amount, HOUR)]
    passed = busy(limiter, old, clock, 500)
    assert counted(ledger, *old)[0] > passed
    assert limiter.take(new, 1, clock())[:3] == (True, new[0], amount - passed - 1)
    limiter.flush()
    assert counted(ledger, *new) == [passed + 1]
    assert limiter.take(new, amount - passed - 1, clock()).admitted
    assert not limiter.take(new, 1, clock()).admitted


def test_a_limit_below_the_count(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock
) -> None:
    """A limit below what was used refuses the very next request, whatever units are held."""
    wanted = [window(10_000, HOUR)]
    passed = busy(limiter, wanted, clock, 500)
    assert counted(ledger, *wanted)[0] > passed
    assert not limiter.take([window(400, HOUR)], 1, clock()).admitted


# --- giving back ----------------------------------------------------------------------------------


def test_idle_units_are_given_back(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock
) -> None:
    """What was not used for two fifths of what a block is meant to last is given back."""
    wanted = [window(10_000), window(100_000, HOUR)]
    passed = busy(limiter, wanted, clock, 500)
    held = counted(ledger, wanted[0])[0] - passed
    assert held
    limiter.tick()
    clock.advance(HORIZON * 2 // 5 - 1)
    limiter.tick()
    assert counted(ledger, *wanted) == [passed + held] * 2
    clock.advance(1)
    limiter.tick()
    assert counted(ledger, *wanted) == [passed] * 2
    assert limiter.take_at_once(wanted, 1, clock()) is None
    assert calls_of(ledger, limiter.tick) == 0


def test_units_in_use_are_kept(limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock) -> None:
    """A tick gives nothing back of what is being used."""
    wanted = [window(10_000)]
    passed = busy(limiter, wanted, clock, 500)
    held = counted(ledger, *wanted)[0] - passed
    assert held > 4
    for number in range(1, 4):
        limiter.tick()
        assert calls_of(ledger, lambda: limiter.take(wanted, 1, clock())) == 0
        assert counted(ledger, *wanted) == [passed + held], number


@pytest.mark.parametrize("end", [LeasedLimiter.flush, LeasedLimiter.close])
def test_a_stop_gives_everything_back(
    ledger: MemoryLedger, clock: Clock, end: Callable[[LeasedLimiter], None]
) -> None:
    """After a flush or a stop of all processes the ledger counts what was admitted, and that
    alone.
    """
    workers = [LeasedLimiter(client_of(ledger, clock)) for _ in range(3)]
    subjects = [
        [window(10_000, subject=f"key:{name}"), window(50_000, HOUR, f"key:{name}")]
        for name in "abc"
    ]
    passed = [0, 0, 0]
    for number in range(600):
        for place, wanted in enumerate(subjects):
            passed[place] += workers[number % (place + 1)].take(wanted, 1, clock()).admitted
        clock.advance(1)
    assert [counted(ledger, wanted[0])[0] > 600 for wanted in subjects] == [True] * 3
    for worker in workers:
        end(worker)
    assert [counted(ledger, *wanted) for wanted in subjects] == [[one, one] for one in passed]


@pytest.mark.parametrize("seed", range(60))
def test_one_process_alone_is_as_exact_as_memory(seed: int, clock: Clock) -> None:
    """R6: whatever one process takes, at whatever cost and of how many subjects, gives back and
    adds afterwards: it is let in and refused as if it held nothing ahead.
    """
    random = Random(seed)  # noqa: S311  # no secrets
    leased, memory = LeasedLimiter(client_of(MemoryLedger(clock), clock)), MemoryLimiter(clock)
    amount = random.choice([3, 10, 50])
    subjects = [
        (window(amount, subject=name), window(8 * amount, HOUR, name))
        for name in ("key:a", "key:b")
    ]
    taken: list[tuple[list[Demand], int]] = []
    for _ in range(120):
        clock.advance(random.choice([0, 0, 5, 200, 3 * SECOND, 20 * SECOND]))
        now = clock()
        match random.choice(["take"] * 8 + ["back", "add", "tick"]):
            case "take":
                demands = [
                    Demand(windows, random.choice([0, 1, 1, 2, 5, 9]))
                    for windows in random.sample(subjects, random.choice([1, 1, 2]))
                ]
                found, expected = (
                    each.take(*demands[0], now)
                    if len(demands) == 1
                    else each.take_together(demands, now)
                    for each in (leased, memory)
                )
                assert found.admitted == expected.admitted
                if found.admitted:
                    taken.append((demands, now))
            case "back" if taken:
                demands, at = taken.pop(random.randrange(len(taken)))
                for windows, cost in demands:
                    leased.give_back(windows, cost, at)
                    memory.give_back(windows, cost, at)
            case "add":
                leased.add(subjects[0], 3, now)
                memory.add(subjects[0], 3, now)
            case "tick":
                leased.tick()


def test_given_back_while_leased(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock
) -> None:
    """A refused request's unit goes back to the lease, without a call, and is counted once."""
    wanted = [window(10_000)]
    passed = busy(limiter, wanted, clock, 500)
    assert calls_of(ledger, lambda: limiter.give_back(wanted, 1, clock())) == 0
    limiter.flush()
    assert counted(ledger, *wanted) == [passed - 1]


def test_given_back_in_the_next_period(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock
) -> None:
    """What was taken before the turn goes back to the period before, not to the new units."""
    wanted = [window(10_000)]
    taken_at = clock()
    limiter.take(wanted, 7, taken_at)
    clock.advance(MINUTE)
    passed = busy(limiter, wanted, clock, 500)
    limiter.give_back(wanted, 7, taken_at)
    limiter.flush()
    assert ledger.counters[wanted[0].key] == (clock() // MINUTE, passed, 0)


# --- threads and forks ----------------------------------------------------------------------------


class Refilling(Background):
    """A background thread that does what is queued, and nothing by the clock."""

    def every(self, seconds: float, job: Job) -> None:
        """Nothing is repeated."""


@pytest.mark.parametrize("amount", [50, 3000])
def test_threads_on_one_lease(ledger: MemoryLedger, clock: Clock, amount: int) -> None:
    """S35: threads that share a lease, while it is refilled, get exactly the limit together."""
    limiter, background = LeasedLimiter(client_of(ledger, clock)), Refilling()
    limiter.start(background)
    wanted = [window(amount), window(10**6, HOUR)]
    barrier = threading.Barrier(8)

    def work() -> int:
        barrier.wait(PATIENCE)
        return sum(limiter.take(wanted, 1, clock()).admitted for _ in range(amount // 4))

    with ThreadPoolExecutor(8) as pool:
        passed = sum(done.result() for done in [pool.submit(work) for _ in range(8)])
    background.close()
    limiter.flush()
    assert passed == amount
    assert counted(ledger, *wanted) == [amount] * 2


class Awaited(MemoryLedger):
    """One that may be awaited, and answers when it is let."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.answers = asyncio.Event()

    async def take_async(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        await self.answers.wait()
        return self.take(windows, cost, extra)

    async def take_together_async(self, parts: Sequence[Part]) -> list[Taken]:
        await self.answers.wait()
        return self.take_together(parts)


def test_a_take_on_the_event_loop_itself(clock: Clock) -> None:
    """What is done on the event loop, because no thread can be started, waits for none of its
    tasks: they would wait for it.
    """
    answered: list[int | None] = []

    async def ask() -> None:
        ledger = Awaited(clock)
        limiter = AwaitedLeasedLimiter(client_of(ledger, clock), ledger)
        first = asyncio.create_task(limiter.take_async([window(50)], 1, clock()))
        await asyncio.sleep(0)  # it asks
        beside = limiter.take([window(50)], 1, clock())
        ledger.answers.set()
        answered.extend(tally and tally.remaining for tally in (beside, await first))

    asking = threading.Thread(target=asyncio.run, args=[ask()], daemon=True)
    asking.start()
    asking.join(PATIENCE)
    assert answered == [49, 48]


def test_threads_that_give_back(ledger: MemoryLedger, clock: Clock) -> None:
    """A refused request consumes nothing, also when others take and give back at once."""
    limiter, background = LeasedLimiter(client_of(ledger, clock)), Refilling()
    limiter.start(background)
    wanted = [window(10_000)]
    barrier = threading.Barrier(4)

    def work() -> int:
        barrier.wait(PATIENCE)
        kept = 0
        for number in range(1000):
            if limiter.take(wanted, 1, clock()).admitted:
                kept += number % 2
                if not number % 2:
                    limiter.give_back(wanted, 1, clock())
        return kept

    with ThreadPoolExecutor(4) as pool:
        kept = sum(done.result() for done in [pool.submit(work) for _ in range(4)])
    background.close()
    limiter.flush()
    assert kept == 2000
    assert counted(ledger, *wanted) == [kept]


def test_fork() -> None:
    """A child uses none of its parent's units, nor gives them back; the parent goes on with them,
    also when a thread holds the lock as it forks.
    """
    out = run(
        """
        from keyrush.limiter.shared.leased import AwaitedLeasedLimiter, LeasedLimiter
        from keyrush.core.sliding import Window
        from tests.support.ledgers import MemoryLedger, client_of
        from tests.support.scripts import fork_while_held

        now = 1_795_000_020_000
        clock = lambda: now
        ledger = MemoryLedger(clock)
        limiter = LeasedLimiter(client_of(ledger, clock))
        wanted = [Window("k", 60_000, 10_000, "minute")]
        for _ in range(500):
            limiter.take(wanted, 1, now)
        held = ledger.counters["k"][1] - 500
        assert held > 1

        def in_child():
            limiter.flush()
            assert ledger.counters["k"][1] == 500 + held  # which here is a copy
            before = ledger.calls
            assert limiter.take_at_once(wanted, 1, now) is None
            assert limiter.take(wanted, 1, now).admitted
            assert ledger.calls == before + 1
            limiter.close()
            assert ledger.counters["k"][1] == 500 + held + 1
            print("child", flush=True)

        fork_while_held(limiter._lock, in_child)
        assert limiter.take_at_once(wanted, 1, now).admitted
        limiter.close()
        print("parent", ledger.counters["k"][1])
        """
    )
    assert out == "child\nparent 501\n"


# --- clocks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Apart:
    """A ledger whose clock is that of a server, which this machine's is hours off."""

    wall: Clock
    steady: Clock  #: of which nobody steps
    server: Clock

    def advance(self, milliseconds: int) -> None:
        """Let time pass, on all clocks."""
        for clock in (self.wall, self.steady, self.server):
            clock.advance(milliseconds)

    def limiter(self) -> tuple[MemoryLedger, LeasedLimiter]:
        """A ledger by the server's clock, and a process."""
        ledger = MemoryLedger(self.server, has_own_clock=True)
        steady = self.steady
        client = client_of(ledger, self.wall, "closed", lambda: steady() / 1000)
        return ledger, LeasedLimiter(client)


@pytest.fixture(params=[5 * HOUR + 21_234, -7 * HOUR - 43_210], ids=["ahead", "behind"])
def apart(request: pytest.FixtureRequest) -> Apart:
    """Clocks apart, either way."""
    clocks = Apart(Clock(), Clock(), Clock())
    clocks.server.advance(request.param)
    clocks.steady.now = 123_456_000
    return clocks


def used_until_out(limiter: LeasedLimiter, wanted: Sequence[Window], clocks: Apart) -> Tally:
    """The first refusal, at a request a millisecond."""
    while (tally := limiter.take(wanted, 1, clocks.wall())).admitted:
        clocks.advance(1)
    return tally


def test_units_end_by_the_clock_of_the_server(apart: Apart) -> None:
    """Where a server's clock counts, units are good until its period ends, a millisecond less at
    most and none more, and not until that of this machine does.
    """
    ledger, limiter = apart.limiter()
    wanted = [window(10_000)]
    for _ in range(500):
        assert limiter.take(wanted, 1, apart.wall()).admitted
        apart.advance(1)
    assert counted(ledger, *wanted)[0] > 502
    end = (apart.server() // MINUTE + 1) * MINUTE
    apart.advance(end - apart.server() - 2)
    assert limiter.take_at_once(wanted, 1, apart.wall())
    apart.advance(2)
    assert limiter.take_at_once(wanted, 1, apart.wall()) is None


def test_ready_at_is_in_wall_time(apart: Apart) -> None:
    """R15: where the server's clock is hours off, who waits by their own until `ready_at`
    passes; a millisecond earlier they don't, and cost no call.
    """
    ledger, limiter = apart.limiter()
    wanted = [window(40)]
    refused = used_until_out(limiter, wanted, apart)
    wait = refused.ready_at - apart.wall()
    assert 0 < wait <= 2 * MINUTE
    before = ledger.calls
    apart.advance(wait - 1)
    assert limiter.take(wanted, 1, apart.wall()) == refused
    assert ledger.calls == before
    apart.advance(1)
    assert limiter.take(wanted, 1, apart.wall()).admitted
    assert ledger.calls == before + 1


def test_reset_is_in_wall_time(apart: Apart) -> None:
    """R11: while some remain, `ready_at` is when the server's period ends, by this machine's
    clock, of units at hand as of those just asked for.
    """
    _, limiter = apart.limiter()
    wanted = [window(10_000)]
    for _ in range(500):
        tally = limiter.take(wanted, 1, apart.wall())
        assert tally.ready_at - apart.wall() == MINUTE - apart.server() % MINUTE
        apart.advance(1)


@pytest.mark.parametrize("step", [3 * HOUR, -3 * HOUR])
def test_wall_clock_set_beside_a_server(apart: Apart, step: int) -> None:
    """Where a server's clock counts, setting this machine's neither ends units nor revives them,
    and refusals hold for as long as they should.
    """
    ledger, limiter = apart.limiter()
    wanted = [window(10_000)]
    for _ in range(500):
        limiter.take(wanted, 1, apart.wall())
        apart.advance(1)
    apart.wall.advance(step)
    assert limiter.take_at_once(wanted, 1, apart.wall())
    apart.advance(MINUTE)
    apart.wall.advance(-MINUTE)
    assert limiter.take_at_once(wanted, 1, apart.wall()) is None
    few = [window(5, subject="key:b")]
    refused = used_until_out(limiter, few, apart)
    wait = refused.ready_at - apart.wall()
    apart.wall.advance(step)
    before = ledger.calls
    apart.advance(wait - 1)
    assert not limiter.take(few, 1, apart.wall()).admitted
    assert ledger.calls == before
    apart.advance(1)
    assert limiter.take(few, 1, apart.wall()).admitted


@pytest.mark.parametrize("step", [MINUTE, -MINUTE, 3 * HOUR, -3 * HOUR])
def test_a_clock_that_is_set(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock, step: int
) -> None:
    """Where this machine's clock counts and is set to another period, units are not used there;
    they are given back, and what is taken then is counted where the clock is.
    """
    wanted = [window(10_000)]
    busy(limiter, wanted, clock, 500)
    clock.advance(step)
    assert limiter.take_at_once(wanted, 1, clock()) is None
    assert calls_of(ledger, lambda: limiter.take(wanted, 1, clock())) == 1


def test_a_clock_that_is_set_back_ends_refusals(limiter: LeasedLimiter, clock: Clock) -> None:
    """Nobody waits hours for an instant that was near before the clock was set back."""
    wanted = [window(3)]
    busy(limiter, wanted, clock, 3)
    assert not limiter.take(wanted, 1, clock()).admitted
    clock.advance(-3 * HOUR)
    assert limiter.take(wanted, 1, clock()).admitted


@pytest.mark.parametrize("step", [-1, -20_000, -MINUTE])
def test_a_clock_that_is_set_back_makes_no_room(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock, step: int
) -> None:
    """Set back by a period or less, the clock lets nothing more in than the limit."""
    wanted = [window(1000)]
    clock.advance(30_000)
    passed = busy(limiter, wanted, clock, 500)
    clock.advance(step)
    passed += busy(limiter, wanted, clock, 1000, each=0)
    assert passed == 1000
    assert counted(ledger, *wanted) == [1000]


# --- what must not be taken for something else ----------------------------------------------------


def test_a_refusal_is_for_its_cost(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock
) -> None:
    """Who asked for more than is left keeps nobody from what is; each cost has its own wait."""
    wanted = [window(10)]
    limiter.take(wanted, 8, clock())
    for cost in (3, 5, 2**40):
        assert not limiter.take(wanted, cost, clock()).admitted
    assert calls_of(ledger, lambda: limiter.take(wanted, 2**40, clock())) == 0
    assert [limiter.take(wanted, 1, clock()).remaining for _ in range(2)] == [1, 0]
    waits = [limiter.take(wanted, cost, clock()).ready_at for cost in (1, 4, 8)]
    assert waits == sorted(set(waits))


def test_units_that_lay_idle_are_no_use(clock: Clock) -> None:
    """What was given back unused does not count as used: the next request, long after, makes no
    block.
    """
    ledger = Recorder(clock)
    limiter = LeasedLimiter(client_of(ledger, clock))
    wanted = [window(10**6, HOUR)]
    busy(limiter, wanted, clock, 500)
    assert ledger.asked[-1].ahead > 100
    limiter.tick()
    clock.advance(HORIZON)
    limiter.tick()
    clock.advance(500 * HORIZON)
    ledger.asked.clear()
    limiter.take(wanted, 1, clock())
    assert [asked.ahead for asked in ledger.asked] == [0]


@pytest.mark.parametrize("back", [10, 20_000])
def test_a_clock_that_is_set_back_keeps_units_good(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock, back: int
) -> None:
    """Set back within a period or to the one before, which the ledger holds at the later one,
    the clock makes one more call, not one for each request.
    """
    wanted = [window(100_000)]
    clock.advance(MINUTE - 300)
    busy(limiter, wanted, clock, 500)
    clock.advance(-back)
    busy(limiter, wanted, clock, 5)
    assert calls_of(ledger, lambda: busy(limiter, wanted, clock, 100)) <= 2
    limiter.flush()
    before, now = ledger.counters[wanted[0].key][:0:-1]
    assert before + now == 500 + 105


def test_taken_before_the_clock_was_set_back(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock
) -> None:
    """What was taken in the period before is no unit of this one, though the clock is there now."""
    wanted = [window(3)]
    clock.advance(MINUTE - 10)
    taken_at = clock()
    limiter.take(wanted, 1, taken_at)
    clock.advance(10)
    other = LeasedLimiter(client_of(ledger, clock))
    assert other.take(wanted, 2, clock()).admitted
    clock.advance(-20)
    assert not limiter.take(wanted, 1, clock()).admitted
    limiter.give_back(wanted, 1, taken_at)
    clock.advance(20)
    assert [limiter.take(wanted, 1, clock()).admitted for _ in range(2)] == [True, False]
    assert counted(ledger, *wanted) == [3]


def test_a_look_after_giving_back(
    limiter: LeasedLimiter, ledger: MemoryLedger, clock: Clock
) -> None:
    """R11: a refused request is told what is left with what it took, in whichever period that was,
    and whatever lay idle.
    """
    wanted = [window(100_000)]
    taken_at = clock()
    limiter.take(wanted, 7, taken_at)
    clock.advance(MINUTE)
    passed = busy(limiter, wanted, clock, 500, each=0)
    limiter.give_back(wanted, 7, taken_at)
    assert limiter.take(wanted, 0, clock()).remaining == 100_000 - passed
    limiter.tick()
    limiter.tick()
    assert limiter.take(wanted, 0, clock()).remaining == 100_000 - passed


def test_a_server_asked_at_the_end_of_its_period() -> None:
    """No unit outlives its period by the fraction of a millisecond that clocks don't show: where
    they are cut in different places, units end a millisecond early.
    """
    time = 0.0  # true milliseconds

    ledger = MemoryLedger(lambda: int(time + 0.9), has_own_clock=True)
    limiter = LeasedLimiter(
        client_of(ledger, lambda: int(time), "closed", lambda: (time + 0.1) / 1000)
    )
    wanted = [window(10**6, SECOND)]
    for step in range(20_000):
        time = 10 * MINUTE + step * 0.1
        before = ledger.calls
        limiter.take(wanted, 1, int(time))
        if ledger.calls == before:  # a unit at hand
            assert ledger.counters[wanted[0].key][0] == int(time + 0.9) // SECOND
