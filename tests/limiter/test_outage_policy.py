"""What limiters do while the ledger is away, and how they make up for it afterwards.

The ledger is one in memory that can be made to fail, before or after a call has its effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyrush.core.sliding import Part, Taken, Tally, Window
from keyrush.errors import Away
from keyrush.limiter.guarded import GuardedLimiter
from keyrush.limiter.memory import MemoryLimiter
from keyrush.limiter.protocol import Outage
from keyrush.limiter.shared.exact import AwaitedExactLimiter, ExactLimiter
from keyrush.limiter.shared.leased import LeasedLimiter
from keyrush.runtime.circuit import PAUSE
from tests.conftest import Clock
from tests.support.ledgers import Fault, MemoryLedger, client_of
from tests.support.oracle import Oracle

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

#: Milliseconds after which the ledger is tried again.
AGAIN = int(PAUSE * 1000)

Limiter = ExactLimiter | LeasedLimiter
Make = Callable[[MemoryLedger, Clock, Outage], Limiter]


def window(amount: int, length: int = MINUTE, subject: str = "key:a") -> Window:
    """A window as the gate makes it: its key names subject and length."""
    return Window(f"{subject}:{length // 1000}", length, amount, "minute")


@pytest.fixture(params=[ExactLimiter, LeasedLimiter])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a process's limiter, in either mode."""
    return lambda ledger, clock, outage: request.param(client_of(ledger, clock, outage))


@pytest.fixture
def ledger(clock: Clock) -> MemoryLedger:
    """A ledger that goes by `clock`."""
    return MemoryLedger(clock)


def team(make: Make, ledger: MemoryLedger, clock: Clock, size: int) -> list[Limiter]:
    """Processes that know of each other."""
    limiters = [make(ledger, clock, "local") for _ in range(size)]
    for _ in range(2):
        for limiter in limiters:
            limiter.client.membership.enlist()
    return limiters


def passed(limiter: Limiter, wanted: Sequence[Window], clock: Clock, requests: int) -> int:
    """How many of so many requests pass at once; 503 is none."""
    count = 0
    for _ in range(requests):
        try:
            count += limiter.take(wanted, 1, clock()).admitted
        except Away:
            continue
    return count


def recover(limiters: Sequence[Limiter], ledger: MemoryLedger, clock: Clock) -> None:
    """The ledger answers again, and each process has the next look at it."""
    ledger.fault = None
    clock.advance(AGAIN)
    for limiter in limiters:
        limiter.client.settle()


def counted(ledger: MemoryLedger, wanted: Window) -> int:
    """What the ledger counts in the last period of a window."""
    return ledger.counters[wanted.key][1]


# --- local: each process goes on with its share ---------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "shares"),
    [
        (10, [10]),
        (10, [5, 5]),
        (10, [4, 3, 3]),
        (3, [1, 1, 1, 0]),
        (2, [1, 1, 0, 0, 0]),
        (0, [0, 0, 0]),
    ],
)
def test_shares(
    make: Make, ledger: MemoryLedger, clock: Clock, amount: int, shares: list[int]
) -> None:
    """The limit is divided among the processes; those that come first have the remainder."""
    limiters = team(make, ledger, clock, len(shares))
    ledger.fault = "before"
    wanted = [window(amount)]
    assert [passed(limiter, wanted, clock, 20) for limiter in limiters] == shares


def test_share_of_nothing(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """S19: where a limit is too small to be divided, those without a part answer 503, not 429;
    who has used up a part answers 429.
    """
    limiters = team(make, ledger, clock, 3)
    wanted = (window(2),)
    ledger.fault = "before"
    for limiter in limiters[:2]:
        assert limiter.take(wanted, 1, clock()).admitted
        assert not limiter.take(wanted, 1, clock()).admitted
    with pytest.raises(Away):
        limiters[2].take(wanted, 1, clock())


def test_shares_of_what_was_left(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """What is divided is what was left when the processes last heard of the window, and of all
    windows the one that leaves least.
    """
    limiters = team(make, ledger, clock, 3)
    wanted = [window(20), window(50, HOUR)]
    assert passed(limiters[0], wanted, clock, 9) == 9
    for limiter in limiters:
        limiter.client.ask(wanted, 0, 0)
    ledger.fault = "before"
    assert [passed(limiter, wanted, clock, 20) for limiter in limiters] == [4, 4, 3]


def test_tally_of_a_share(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """O14: a tally names the whole limit, and counts down what the process has left of it.
    Who comes again when told to passes, or is told once more: a share is rounded as time goes on.
    """
    limiter, _ = team(make, ledger, clock, 2)
    ledger.fault = "before"
    wanted = [window(4), window(1000, HOUR)]
    assert [limiter.take(wanted, 1, clock())[:3] for _ in range(3)] == [
        (True, wanted[0], 1),
        (True, wanted[0], 0),
        (False, wanted[0], 0),
    ]
    waits = 0
    while not (tally := limiter.take(wanted, 1, clock())).admitted:
        assert tally.ready_at > clock()
        clock.now = tally.ready_at
        waits += 1
    assert waits <= 2
    assert clock() < tally.ready_at <= clock() + 2 * MINUTE


@pytest.mark.parametrize(("size", "amount"), [(1, 7), (2, 10), (3, 10), (4, 3), (8, 50)])
def test_shares_do_not_multiply_at_a_turn(
    make: Make, ledger: MemoryLedger, clock: Clock, size: int, amount: int
) -> None:
    """All shares together never exceed the limit, at any moment of an outage over many periods
    in which every process takes whatever it can get; but for what N roundings lose, they use it.
    """
    limiters = team(make, ledger, clock, size)
    ledger.fault = "before"
    wanted, oracle = window(amount, 10 * SECOND), Oracle()
    clock.advance(3210)
    for number in range(600):
        for limiter in limiters[number % size :] + limiters[: number % size]:
            for _ in range(1 + number % 3):
                oracle.add(wanted, passed(limiter, [wanted], clock, 1), clock())
                assert oracle.used(wanted, clock()) <= amount
        clock.advance(97)
    assert oracle.of(wanted).total() >= 4 * (amount - 2 * size)


def test_shares_after_a_part_was_used(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """Nor do they at a turn when part of the window was used before the outage."""
    limiters = team(make, ledger, clock, 3)
    wanted, oracle = window(30, 10 * SECOND), Oracle()
    oracle.add(wanted, passed(limiters[1], [wanted], clock, 17), clock())
    for limiter in limiters:
        limiter.client.ask([wanted], 0, 0)
    ledger.fault = "before"
    for _ in range(400):
        for limiter in limiters:
            oracle.add(wanted, passed(limiter, [wanted], clock, 2), clock())
        assert oracle.used(wanted, clock()) <= 30
        clock.advance(83)


def test_workers_missing_after_an_outage(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """Who is the first to speak up after an outage doesn't take itself for the only one."""
    limiters = team(make, ledger, clock, 4)
    ledger.fault = "before"
    for limiter in limiters:
        limiter.client.membership.enlist()
    ledger.lose_all()  # the server has come back without what it knew
    clock.advance(AGAIN)
    limiters[0].client.membership.enlist()
    ledger.fault = "before"
    wanted = [window(8)]
    assert [passed(limiter, wanted, clock, 8) for limiter in limiters] == [2, 2, 2, 2]


def test_place_unknown(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """A process that never heard how many there are has no share: 503."""
    limiter = make(ledger, clock, "local")
    ledger.fault = "before"
    limiter.client.membership.enlist()
    for _ in range(2):
        with pytest.raises(Away):
            limiter.take([window(10)], 1, clock())
    recover([limiter], ledger, clock)
    assert limiter.take([window(10)], 1, clock()).remaining == 9


def test_stale_now_in_an_outage(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """R6: whoever read the clock two periods before it has the lock is counted as of now."""
    (limiter,) = team(make, ledger, clock, 1)
    ledger.fault = "before"
    stale, wanted = clock(), [window(5, SECOND)]
    clock.advance(3100)

    def admitted(now: int) -> int:
        return sum(limiter.take(wanted, 1, now).admitted for _ in range(9))

    assert [admitted(clock()), admitted(stale), admitted(clock())] == [5, 0, 0]


# --- open and closed ------------------------------------------------------------------------------


def test_open(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """`open`: everything passes, with the tally last heard of; nothing is counted later, nor
    given back.
    """
    limiter = make(ledger, clock, "open")
    wanted = [window(3)]
    assert passed(limiter, wanted, clock, 5) == 3
    clock.advance(10)
    ledger.fault = "before"
    tallies = [limiter.take([window(4)], 1, clock()) for _ in range(20)]
    assert {(tally.admitted, tally.remaining) for tally in tallies} == {(True, 1)}
    limiter.give_back([window(4)], 1, clock())
    recover([limiter], ledger, clock)
    assert counted(ledger, wanted[0]) == 3
    assert passed(limiter, [window(4)], clock, 5) == 1


def test_closed(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """`closed`: nothing passes, at once or after asking, and nothing of it is counted."""
    limiter = make(ledger, clock, "closed")
    limiter.client.membership.enlist()
    wanted = [window(3)]
    limiter.take(wanted, 1, clock())
    ledger.fault = "before"
    for take in (limiter.take, limiter.take_at_once, limiter.take):
        with pytest.raises(Away):
            take(wanted, 1, clock())
        limiter.client.circuit.failed(ConnectionError("the ledger is away"))
    recover([limiter], ledger, clock)
    assert counted(ledger, wanted[0]) == 1
    assert passed(limiter, wanted, clock, 5) == 2


def test_units_at_hand_outlast_the_ledger(ledger: MemoryLedger, clock: Clock) -> None:
    """Units that a process holds already are the ledger's own: they pass under any policy."""
    limiter = LeasedLimiter(client_of(ledger, clock, "closed"))
    wanted = [window(100_000)]
    for _ in range(500):
        limiter.take(wanted, 1, clock())
        clock.advance(1)
    held = counted(ledger, wanted[0]) - 500
    ledger.fault = "before"
    assert held > 1
    assert passed(limiter, wanted, clock, 2 * held) == held
    recover([limiter], ledger, clock)
    assert counted(ledger, wanted[0]) == 500 + held


# --- leaving the ledger alone ---------------------------------------------------------------------


@pytest.mark.parametrize("outage", ["local", "open", "closed"])
def test_one_trial_in_a_pause(
    make: Make, ledger: MemoryLedger, clock: Clock, outage: Outage
) -> None:
    """While the circuit is open the ledger is not called, but for one trial per `PAUSE`, whatever
    is asked, given back or settled.
    """
    limiter = make(ledger, clock, outage)
    limiter.client.membership.enlist()
    wanted = [window(10**6)]
    limiter.take(wanted, 1, clock())
    ledger.fault = "before"
    for _ in range(5):
        before = ledger.calls
        for subject in "abcdefghij":
            passed(limiter, [window(10, subject=subject)], clock, 3)
            passed(limiter, [window(20), window(30, HOUR)], clock, 3)
            limiter.give_back(wanted, 1, clock())
            limiter.client.settle()
            clock.advance(AGAIN // 10 - 1)
        assert ledger.calls == before + 1
        clock.advance(10)


def test_recovers_without_restart(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """Once a trial has succeeded, every request is counted by the ledger again."""
    limiter = make(ledger, clock, "closed")
    ledger.fault = "before"
    assert passed(limiter, [window(10)], clock, 20) == 0
    ledger.fault = None
    assert passed(limiter, [window(10)], clock, 20) == 0
    clock.advance(AGAIN)
    assert passed(limiter, [window(10)], clock, 20) == 10
    assert counted(ledger, window(10)) == 10
    assert limiter.client.circuit.is_closed


# --- making up for it -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["settle", "take"])
def test_admitted_locally_is_added_once(
    make: Make, ledger: MemoryLedger, clock: Clock, how: str
) -> None:
    """After an outage all that was admitted in it is counted, once, whether a request or the
    background comes first; the limit goes on from there.
    """
    limiters = team(make, ledger, clock, 3)
    wanted = [window(30), window(300, HOUR)]
    before = passed(limiters[0], wanted, clock, 6)
    for limiter in limiters:
        limiter.client.ask(wanted, 0, 0)
    ledger.fault = "before"
    during = sum(passed(limiter, wanted, clock, 4) for limiter in limiters)
    assert (before, during) == (6, 12)
    ledger.fault = None
    clock.advance(AGAIN)
    if how == "settle":
        recover(limiters, ledger, clock)
    else:
        during += sum(passed(limiter, wanted, clock, 1) for limiter in limiters)
    assert [counted(ledger, one) for one in wanted] == [before + during] * 2
    recover(limiters, ledger, clock)
    assert [counted(ledger, one) for one in wanted] == [before + during] * 2
    after = sum(passed(limiter, wanted, clock, 30) for limiter in limiters)
    assert before + during + after == 30


def test_a_second_outage(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """A share that was used up in one outage is not there again in the next."""
    limiters = team(make, ledger, clock, 2)
    wanted = [window(10)]
    total = 0
    for _ in range(4):
        ledger.fault = "before"
        total += sum(passed(limiter, wanted, clock, 10) for limiter in limiters)
        recover(limiters, ledger, clock)
        for limiter in limiters:
            limiter.client.ask(wanted, 0, 0)
    assert total == 10
    assert counted(ledger, wanted[0]) == 10


def test_shares_anew(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """What was admitted in one outage and is counted since lessens what is left to divide in the
    next, and no share of it besides.
    """
    limiters = team(make, ledger, clock, 2)
    wanted = [window(20)]
    ledger.fault = "before"
    assert [passed(limiter, wanted, clock, 4) for limiter in limiters] == [4, 4]
    recover(limiters, ledger, clock)
    for limiter in limiters:
        limiter.client.ask(wanted, 0, 0)
    ledger.fault = "before"
    assert [passed(limiter, wanted, clock, 20) for limiter in limiters] == [6, 6]


def test_admitted_in_an_earlier_period(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """What was admitted before the window turned is added to the period it belongs to."""
    (limiter,) = team(make, ledger, clock, 1)
    wanted = window(10)
    ledger.fault = "before"
    assert passed(limiter, [wanted], clock, 8) == 8
    clock.advance(MINUTE + MINUTE // 2)
    during = passed(limiter, [wanted], clock, 10)
    recover([limiter], ledger, clock)
    assert ledger.counters[wanted.key] == (clock() // MINUTE, during, 8)


def test_given_back_in_an_outage(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """What is given back while the ledger is away is given back when it answers again."""
    limiter = make(ledger, clock, "closed")
    wanted = [window(10), window(100, HOUR)]
    assert passed(limiter, wanted, clock, 5) == 5
    taken_at = clock()
    ledger.fault = "before"
    assert passed(limiter, [window(10, subject="key:b")], clock, 1) == 0
    limiter.give_back(wanted, 1, taken_at)
    limiter.give_back(wanted, 2, taken_at)
    limiter.flush()
    assert [counted(ledger, one) for one in wanted] == [5, 5]
    recover([limiter], ledger, clock)
    limiter.flush()
    assert [counted(ledger, one) for one in wanted] == [2, 2]


def test_given_back_of_a_share(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """A refused request consumes nothing of a share either, nor of the ledger afterwards."""
    limiter, _ = team(make, ledger, clock, 2)
    ledger.fault = "before"
    wanted = [window(6)]
    assert passed(limiter, wanted, clock, 4) == 3
    limiter.give_back(wanted, 1, clock())
    assert passed(limiter, wanted, clock, 4) == 1
    limiter.give_back(wanted, 2, clock())
    recover([limiter], ledger, clock)
    limiter.flush()
    assert limiter.client.ask(wanted, 0, 0).taken.counters[0][1] == 1


def test_what_is_owed_is_bounded(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """In a long outage what has to be told does not grow with its length: what counts no more is
    forgotten, and the rest put together.
    """
    (limiter,) = team(make, ledger, clock, 1)
    ledger.fault = "before"
    wanted = [window(10, SECOND), window(10**6, 24 * HOUR)]
    total = 0
    for _ in range(3000):
        total += passed(limiter, wanted, clock, 1)
        limiter.client.settle()
        clock.advance(SECOND)
    assert total == 3000
    before = ledger.calls
    recover([limiter], ledger, clock)
    assert ledger.calls - before <= 1500
    assert counted(ledger, wanted[1]) == 3000


# --- calls of which nobody knows whether they had their effect ------------------------------------

#: What `make` returns holds nothing that an example could leave behind.
MAKE_IS_SHARED = [HealthCheck.function_scoped_fixture]

_DEEDS = st.tuples(
    st.sampled_from(["take", "take", "take", "give_back", "settle", "tick", "wait"]),
    st.sampled_from([None, None, "before", "after", "after"]),
)


@pytest.mark.parametrize("outage", ["local", "closed"])
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(deeds=st.lists(_DEEDS, max_size=60))
def test_unknown_outcomes(
    make: Make, outage: Outage, deeds: list[tuple[str, Fault | None]]
) -> None:
    """However calls fail, before or after their effect, what passes and is not given back stays
    within the limit, and the ledger counts no less.
    """
    clock = Clock()
    ledger = MemoryLedger(clock)
    limiter = make(ledger, clock, outage)
    limiter.client.membership.enlist()
    wanted = [window(5, HOUR)]
    kept = 0
    for deed, fault in deeds:
        ledger.fault = fault
        if deed == "take":
            kept += passed(limiter, wanted, clock, 1)
        elif deed == "give_back" and kept:
            limiter.give_back(wanted, 1, clock())
            kept -= 1
        elif deed == "settle":
            limiter.client.settle()
        elif deed == "tick" and isinstance(limiter, LeasedLimiter):
            limiter.tick()
        clock.advance(AGAIN if deed == "wait" else 1)
        assert kept <= 5
    recover([limiter], ledger, clock)
    limiter.flush()
    assert kept <= limiter.client.ask(wanted, 0, 0).taken.counters[0][1]
    assert kept + passed(limiter, wanted, clock, 10) <= 5


def test_unknown_outcome_of_a_take(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """A take whose answer is lost may count for nobody; it lets nobody in beyond the limit."""
    limiter = make(ledger, clock, "closed")
    wanted = [window(10)]
    count = 0
    for fault in (None, "after", None, "after", None):
        ledger.fault = fault
        count += passed(limiter, wanted, clock, 2)
        clock.advance(AGAIN)
    assert count == 6
    assert count + passed(limiter, wanted, clock, 10) == 8


def test_unknown_outcome_of_giving_back(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """What may have been given back is not given back again: that could let in too many."""
    limiter = make(ledger, clock, "closed")
    wanted = [window(10)]
    assert passed(limiter, wanted, clock, 10) == 10
    limiter.give_back(wanted, 3, clock())
    ledger.fault = "after"
    limiter.flush()
    assert counted(ledger, wanted[0]) == 7
    recover([limiter], ledger, clock)
    limiter.flush()
    assert counted(ledger, wanted[0]) == 7


def test_unknown_outcome_of_adding(make: Make, ledger: MemoryLedger, clock: Clock) -> None:
    """What may not have been added is added again: too much rather than too little."""
    (limiter,) = team(make, ledger, clock, 1)
    wanted = [window(10)]
    ledger.fault = "before"
    assert passed(limiter, wanted, clock, 4) == 4
    ledger.fault = "after"
    clock.advance(AGAIN)
    limiter.client.settle()
    recover([limiter], ledger, clock)
    assert counted(ledger, wanted[0]) == 8


# --- natively async -------------------------------------------------------------------------------


class AsyncLedger(MemoryLedger):
    """A ledger that can be awaited."""

    async def take_async(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        return self.take(windows, cost, extra)

    async def take_together_async(self, parts: Sequence[Part]) -> list[Taken]:
        return self.take_together(parts)


def test_awaited(clock: Clock) -> None:
    """What is awaited fares alike: a share in an outage, which is counted before it is over."""
    ledger = AsyncLedger(clock)
    limiter = AwaitedExactLimiter(client_of(ledger, clock), ledger)
    limiter.client.membership.enlist()
    wanted = [window(10)]

    def take() -> Tally:
        tally = asyncio.run(limiter.take_async(wanted, 1, clock()))
        return limiter.take(wanted, 1, clock()) if tally is None else tally

    assert take().remaining == 9
    ledger.fault = "before"
    assert [take().remaining for _ in range(3)] == [8, 7, 6]
    ledger.fault = None
    clock.advance(AGAIN)
    assert asyncio.run(limiter.take_async(wanted, 1, clock())) is None  # it is to be told before
    assert counted(ledger, wanted[0]) == 1
    assert take().remaining == 5
    assert counted(ledger, wanted[0]) == 5
    assert take().remaining == 4
    assert counted(ledger, wanted[0]) == 6


# --- limiters that are no ledgers -----------------------------------------------------------------


class Fragile(MemoryLimiter):
    """Fails while `is_away`, and counts its calls."""

    is_away = False
    calls = 0

    def _come(self) -> None:
        self.calls += 1
        if self.is_away:
            raise ConnectionError("the server is away")

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        self._come()
        return super().take(windows, cost, now)

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        self._come()
        super().give_back(windows, cost, taken_at)


def guarded(clock: Clock, outage: Outage) -> tuple[Fragile, GuardedLimiter]:
    """A limiter that may be away, and its guard."""
    inner = Fragile()
    return inner, GuardedLimiter(inner, outage, lambda: clock() / 1000)


def test_guarded_while_all_is_well(clock: Clock) -> None:
    """A guard hands on every call, and needs I/O for each."""
    inner, limiter = guarded(clock, "closed")
    assert limiter.take_at_once([window(2)], 1, clock()) is None
    assert limiter.take([window(2)], 1, clock()) == Tally(True, window(2), 1, clock() + MINUTE)
    limiter.give_back([window(2)], 1, clock())
    assert [limiter.take([window(2)], 1, clock()).admitted for _ in range(3)] == [True, True, False]
    assert inner.calls == 5


@pytest.mark.parametrize("cost", [-1, -(10**9)])
def test_guarded_negative_cost(clock: Clock, cost: int) -> None:
    """A negative cost is an error of the caller's, not an outage."""
    inner, limiter = guarded(clock, "open")
    with pytest.raises(ValueError, match="cost"):
        limiter.take([window(2)], cost, clock())
    assert not limiter.state().is_away
    assert not inner.calls


@pytest.mark.parametrize("outage", ["closed", "local"])
def test_guarded_closed(clock: Clock, outage: Outage) -> None:
    """Nothing passes without the server; `local` is `closed`, for nobody knows their share."""
    inner, limiter = guarded(clock, outage)
    inner.is_away = True
    with pytest.raises(Away):
        limiter.take([window(2)], 1, clock())
    assert limiter.state().meanwhile == "closed"
    for take in (limiter.take, limiter.take_at_once):
        with pytest.raises(Away):
            take([window(2)], 1, clock())
    limiter.give_back([window(2)], 1, clock())  # what may have passed uncounted
    assert inner.calls == 1


def test_guarded_open(clock: Clock) -> None:
    """Everything passes, as through windows that nothing was taken from."""
    inner, limiter = guarded(clock, "open")
    wanted = [window(2), window(100, HOUR)]
    limiter.take(wanted, 2, clock())
    inner.is_away = True
    tallies = {limiter.take(wanted, 1, clock()) for _ in range(10)}
    assert tallies == {Tally(True, wanted[0], 2, clock() + MINUTE)}
    assert limiter.take_at_once(wanted, 1, clock()) in tallies
    assert inner.calls == 2


@pytest.mark.parametrize("outage", ["local", "open", "closed"])
def test_guarded_recovery(clock: Clock, outage: Outage) -> None:
    """One call per `PAUSE` tries the server; when one succeeds, it counts again from where it
    was.
    """
    inner, limiter = guarded(clock, outage)
    wanted = [window(3)]
    limiter.take(wanted, 2, clock())
    inner.is_away = True
    for number in range(1, 4):
        for _ in range(5):
            try:
                assert limiter.take(wanted, 1, clock()).admitted
            except Away:
                assert outage != "open"
        assert inner.calls == 1 + number
        clock.advance(AGAIN)
    inner.is_away = False
    assert [limiter.take(wanted, 1, clock()).admitted for _ in range(2)] == [True, False]
    assert not limiter.state().is_away
    assert limiter.take_at_once(wanted, 1, clock()) is None
