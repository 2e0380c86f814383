"""What a ledger has yet to be told: how it is put together, when forgotten, how it is told."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from keyrush.core.sliding import Demand, Window
from keyrush.errors import Away
from keyrush.limiter.shared.client import LedgerClient
from keyrush.limiter.shared.exact import ExactLimiter
from keyrush.limiter.shared.owed import Owed
from keyrush.runtime.circuit import PAUSE
from tests.conftest import Clock
from tests.support.faults import PATIENCE
from tests.support.ledgers import MemoryLedger, client_of

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOW = 20_000 * DAY

MINUTELY = Window("a:60", MINUTE, 10, "minute")
HOURLY = Window("a:3600", HOUR, 100, "hour")
DAILY = Window("a:86400", DAY, 1000, "day")
OTHERS = Window("b:60", MINUTE, 10, "minute")


def units(owed: Owed) -> list[int]:
    """The units of its slots."""
    return [count for count, _ in owed.values()]


# --- slots ----------------------------------------------------------------------------------------


def test_put_together() -> None:
    """What was taken in the same periods of the same windows is one slot, as of the first."""
    owed = Owed()
    for count, after in ((3, 20), (-1, 10), (2, 59_999)):
        owed.owe((MINUTELY, HOURLY), count, NOW + after)
    assert list(owed.values()) == [(4, NOW + 10)]
    owed.owe((MINUTELY, HOURLY), 1, NOW + MINUTE)
    owed.owe((MINUTELY,), 1, NOW)
    assert units(owed) == [4, 1, 1]


def test_found_by_window() -> None:
    """What is owed of a window is found among much of others without a look at that, through
    whatever was told and put together meanwhile.
    """
    owed = Owed()
    owed.owe((MINUTELY, HOURLY), 2, NOW)
    for number in range(3000):
        owed.owe((Window(f"{number}:60", MINUTE, 10, "minute"),), 1, NOW)
    owed.owe((MINUTELY,), -1, NOW)
    assert sorted(owed[slot][0] for slot in owed.concerning([MINUTELY, OTHERS])) == [-1, 2]
    owed.owe((MINUTELY, HOURLY), -2, NOW)
    assert units(owed)[-1] == -1
    assert [slot[0] for slot in owed.concerning([MINUTELY, HOURLY])] == [(MINUTELY,)]
    assert not owed.adds_to([MINUTELY, HOURLY])
    owed.owe((MINUTELY, HOURLY), 5, NOW)
    owed.tidy(NOW + 10 * MINUTE)
    assert [owed[slot] for slot in owed.concerning([HOURLY])] == [(5, NOW)]
    assert owed.concerning([Window("7:60", MINUTE, 10, "minute")]) == []


def test_periods_that_do_not_nest() -> None:
    """Where periods of one window straddle those of another, each keeps its own."""
    seven, ten = Window("a:7", 7000, 10, "7s"), Window("a:10", 10_000, 10, "10s")
    owed = Owed()
    start = 70_000 * 20_000  # where both begin
    owed.owe((seven, ten), 1, start + 8000)
    owed.owe((seven, ten), 1, start + 12_000)
    assert sorted(at for _, at in owed.values()) == [start + 8000, start + 12_000]


def test_what_comes_to_nothing() -> None:
    """What is taken and given back is not owed."""
    owed = Owed()
    owed.owe((MINUTELY,), 2, NOW)
    owed.owe((MINUTELY,), -2, NOW + 1)
    assert not owed


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [
        (1, [MINUTELY], True),
        (1, [DAILY, HOURLY], True),
        (1, [OTHERS], False),
        (1, [MINUTELY._replace(amount=99)], True),
        (-1, [MINUTELY], False),
    ],
)
def test_adds_to(count: int, wanted: list[Window], expected: bool) -> None:
    """Only what is to be added concerns who asks next, by any of its windows, whatever limits."""
    owed = Owed()
    assert not owed.adds_to(wanted)
    owed.owe((MINUTELY, HOURLY), count, NOW)
    assert owed.adds_to(wanted) is expected


def test_tidy() -> None:
    """What counts in no window is forgotten; what counts in the same periods is put together."""
    owed = Owed()
    for minute in range(3 * 24 * 60):
        owed.owe((MINUTELY, DAILY), 1, NOW + minute * MINUTE)
    owed.tidy(NOW + 3 * DAY - 1)
    # The first day counts no more, the second in full, and of the third two minutes apart.
    assert sorted(units(owed)) == [1, 1, 1438, 1440]
    assert min(at for _, at in owed.values()) == NOW + DAY


def test_tidy_is_seldom() -> None:
    """It is looked through when it has doubled, so that a call costs nothing mostly."""
    owed = Owed()
    for number in range(1001):
        owed.owe((Window(f"{number}", DAY, 1, "day"),), 1, NOW)
    owed.tidy(NOW)
    owed.owe((MINUTELY,), 1, NOW - DAY)
    owed.tidy(NOW)
    assert len(owed) == 1002


# --- telling --------------------------------------------------------------------------------------


class Wanted:
    """A lock that tells when a second thread wants it."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if self._lock.locked():
            self.asked.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def away(client: LedgerClient) -> None:
    """Have its circuit open, as after a failure."""
    client.circuit.failed(ConnectionError("the ledger is away"))


def test_nothing_to_tell_says_nothing(clock: Clock) -> None:
    """What comes to nothing is no trial: the circuit stays as it is, and nobody waits."""
    ledger = MemoryLedger(clock)
    client = client_of(ledger, clock)
    client.membership.enlist()
    away(client)
    client.books.answer_in_outage([Demand([MINUTELY], 1)], clock())
    client.books.give_back([MINUTELY], 1, clock())
    clock.advance(int(PAUSE * 1000))
    client.settle()
    assert not client.circuit.is_closed
    assert not ledger.calls


def test_told_before_whoever_asks(clock: Clock) -> None:
    """Who asks while it is being told waits until it is counted: neither are more let in, nor is
    anybody refused for whom there is room.
    """

    class Slow(MemoryLedger):
        def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
            telling.set()
            assert goes_on.wait(PATIENCE)
            super().give_back(windows, cost, taken_at)

    telling, goes_on = threading.Event(), threading.Event()
    limiter, lock = ExactLimiter(client_of(Slow(clock), clock)), Wanted()
    limiter.client._telling = lock  # type: ignore[assignment]  # noqa: SLF001  # nothing else tells
    wanted = [MINUTELY]
    assert limiter.take(wanted, 10, clock()).admitted
    limiter.give_back(wanted, 1, clock())
    admitted: list[bool] = []
    teller = threading.Thread(target=limiter.client.settle)
    asker = threading.Thread(
        target=lambda: admitted.append(limiter.take(wanted, 1, clock()).admitted)
    )
    teller.start()
    assert telling.wait(PATIENCE)
    asker.start()
    assert lock.asked.wait(PATIENCE)
    assert not admitted
    goes_on.set()
    teller.join()
    asker.join()
    assert admitted == [True]


def test_more_comes_while_it_is_told(clock: Clock) -> None:
    """What is owed of the same slot while it is told is told next, and not lost."""

    class Busy(MemoryLedger):
        def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
            super().give_back(windows, cost, taken_at)
            if ledger.calls == 2:
                client.books.owe((MINUTELY,), -1, clock())

    ledger = Busy(clock)
    client = client_of(ledger, clock)
    ledger.take([MINUTELY], 3, 0)
    client.books.owe((MINUTELY,), 1, clock())
    client.settle()
    assert ledger.counters[MINUTELY.key][1] == 4
    client.settle()
    assert ledger.counters[MINUTELY.key][1] == 3


def test_a_changed_limit_in_an_outage(clock: Clock) -> None:
    """What was admitted under another amount is counted before the first request under the new."""
    ledger = MemoryLedger(clock)
    limiter = ExactLimiter(client_of(ledger, clock))
    limiter.client.membership.enlist()
    ledger.fault = "before"
    assert sum(limiter.take([MINUTELY], 1, clock()).admitted for _ in range(10)) == 10
    ledger.fault = None
    clock.advance(int(PAUSE * 1000))
    assert not limiter.take([MINUTELY._replace(amount=5)], 1, clock()).admitted


# --- by whose clock -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [-3 * HOUR, 0, 3 * HOUR])
@pytest.mark.parametrize("skew", [-5 * HOUR, 5 * HOUR])
def test_told_by_the_clock_of_the_server(clock: Clock, skew: int, step: int) -> None:
    """What was admitted in an outage is counted when it was by the server's clock, though this
    machine's is set meanwhile; in that one's future it would make the window begin anew.
    """
    steady = Clock()
    ledger = MemoryLedger(lambda: steady() + skew, has_own_clock=True)
    client = client_of(ledger, clock, monotonic=lambda: steady() / 1000)
    limiter = ExactLimiter(client)
    client.membership.enlist()
    assert limiter.take([HOURLY], 30, clock()).admitted
    away(client)
    clock.advance(step)
    assert limiter.take([HOURLY], 20, clock()).admitted
    for each in (clock, steady):
        each.advance(int(PAUSE * 1000))
    client.settle()
    assert ledger.counters[HOURLY.key][1:] == (50, 0)


def test_clock_of_the_server_unknown(clock: Clock) -> None:
    """A process that never heard the server's clock can't say when it admits: 503."""
    client = client_of(MemoryLedger(clock, has_own_clock=True), clock)
    client.membership.enlist()
    away(client)
    with pytest.raises(Away):
        client.books.answer_in_outage([Demand([MINUTELY], 1)], clock())


def test_a_slow_answer_tells_little_of_a_clock(clock: Clock) -> None:
    """What a quick answer told of the server's clock is not forgotten for a slow one; a clock
    that was set is.
    """

    class Slow(MemoryLedger):
        delay = 0

        def take(self, windows: Sequence[Window], cost: int, extra: int):  # type: ignore[no-untyped-def]  # noqa: ANN202  # as above
            taken = super().take(windows, cost, extra)
            clock.advance(self.delay)
            return taken

    offset = HOUR
    ledger = Slow(lambda: clock() + offset, has_own_clock=True)
    client = client_of(ledger, clock)
    client.ask([MINUTELY], 1, 0)
    known = client.clock.ledger_time(clock()) - clock()
    assert known == HOUR - 1
    ledger.delay = 2000
    client.ask([MINUTELY], 1, 0)
    assert client.clock.ledger_time(clock()) - clock() == known
    ledger.delay = 0
    for offset in (HOUR - 5000, HOUR + 5000):
        client.ask([MINUTELY], 1, 0)
        assert client.clock.ledger_time(clock()) - clock() == offset - 1
