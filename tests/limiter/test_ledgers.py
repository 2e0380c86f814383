"""One suite for every ledger: PostgreSQL, Valkey, and a Cluster of it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import redis
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyrush.core import sliding
from keyrush.core.sliding import EXACT, Part, Taken, Window, WindowCount
from keyrush.limiter.ledgers.postgresql import PostgresqlLedger
from keyrush.limiter.ledgers.protocol import WORKER_TTL, Ledger, Place
from keyrush.limiter.ledgers.redis.ledger import RedisLedger
from keyrush.sql.engine import Database
from keyrush.sql.tables import WINDOWS
from tests.conftest import Clock

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

#: Real seconds of which no test needs as many: keys of Valkey live by them.
LENGTHS = [20_000, MINUTE, HOUR, DAY, 31 * DAY]

KINDS = ["postgresql", "valkey", "cluster"]

#: A ledger is used for all examples, each of which has a subject of its own.
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

_numbers = itertools.count()


@dataclass
class Where:
    """A place where windows are kept, empty at first."""

    open: Callable[[Clock | None], Ledger]  #: a ledger on it, by a clock or by its own
    stored: Callable[[], int]  #: how many counters are there


def in_database(url: str) -> Iterator[Where]:
    database = Database(url)

    def stored() -> int:
        with database.engine.connect() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(WINDOWS)).scalar_one()

    yield Where(lambda clock: PostgresqlLedger(database, clock), stored)
    database.close()


def on_valkey(url: str) -> Iterator[Where]:
    opened: list[RedisLedger] = []
    places, _, options = url.partition("://")[2].partition("?")
    prefix = options.partition("prefix=")[2]

    def make(clock: Clock | None) -> Ledger:
        opened.append(RedisLedger(url, clock))
        return opened[-1]

    def stored() -> int:
        count = 0
        for place in places.split(","):
            with redis.Redis.from_url(f"redis://{place}") as client:
                count += sum(1 for _ in client.scan_iter(f"{prefix}:{{*"))
        return count

    yield Where(make, stored)
    for ledger in opened:
        ledger.close()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Where]:
    """Each place."""
    match request.param:
        case "postgresql":
            yield from in_database(request.getfixturevalue("postgres_url"))
        case "valkey":
            yield from on_valkey(request.getfixturevalue("valkey_url"))
        case "cluster":
            yield from on_valkey(request.getfixturevalue("cluster_url"))


@pytest.fixture
def ledger(place: Where, clock: Clock) -> Ledger:
    """Each ledger, by a clock that the test moves."""
    return place.open(clock)


def window(amount: int, length: int = MINUTE, subject: str = "key:a") -> Window:
    """A window as the gate makes it: its key names subject and length."""
    return Window(f"{subject}:{length // 1000}", length, amount, "minute")


def counts(ledger: Ledger, *wanted: Window) -> list[tuple[int, int]]:
    """What is counted in the current period of each window and in the one before."""
    return [counter[1:] for counter in ledger.take(wanted, 0, 0).counters]


# --- taking ---------------------------------------------------------------------------------------


def test_takes_up_to_the_amount(ledger: Ledger, clock: Clock) -> None:
    """R6: requests pass until the amount is used up; each answer tells the count."""
    period = clock.now // MINUTE
    assert [ledger.take([window(3)], 1, 0) for _ in range(4)] == [
        Taken(1, clock.now, [(period, 1, 0)]),
        Taken(1, clock.now, [(period, 2, 0)]),
        Taken(1, clock.now, [(period, 3, 0)]),
        Taken(0, clock.now, [(period, 3, 0)]),
    ]


def test_called_by_keyword(ledger: Ledger, clock: Clock) -> None:
    """Every ledger can be called by the names of the protocol."""
    assert ledger.take(windows=[window(3)], cost=2, extra=0).granted == 2
    ledger.give_back(windows=[window(3)], cost=1, taken_at=clock.now)
    if isinstance(ledger, RedisLedger):
        answer = asyncio.run(ledger.take_async(windows=[window(3)], cost=2, extra=0))
        assert answer.granted == 2
    assert ledger.enlist(worker="one") == Place(0, 1)
    ledger.leave(worker="one")


def test_the_window_slides(ledger: Ledger, clock: Clock) -> None:
    """The previous period counts by the part of it that is still within the window."""
    ledger.take([window(10)], 10, 0)
    clock.advance(MINUTE + MINUTE // 4)
    assert ledger.take([window(10)], 4, 0).granted == 0  # 7 count
    assert ledger.take([window(10)], 3, 0).granted == 3
    assert counts(ledger, window(10)) == [(3, 10)]
    clock.advance(2 * MINUTE)
    assert counts(ledger, window(10)) == [(0, 0)]


def test_a_clock_that_steps_back(ledger: Ledger, clock: Clock) -> None:
    """Within one period it makes no room: a counter stays in the later period."""
    ledger.take([window(10)], 8, 0)
    clock.advance(MINUTE)
    assert ledger.take([window(10)], 1, 0).granted == 1
    clock.advance(-1)
    assert ledger.take([window(10)], 2, 0).granted == 0  # 8 of the period before count in full
    assert ledger.take([window(10)], 1, 0).counters == [(clock.now // MINUTE + 1, 2, 8)]


@settings(max_examples=25, deadline=None, suppress_health_check=SHARED)
@given(st.integers(1, 500), st.integers(0, MINUTE - 1), st.data())
def test_the_wait_is_exact(
    ledger: Ledger, clock: Clock, amount: int, moved: int, data: st.DataObject
) -> None:
    """R15: whoever is refused and waits as long as the answer says passes; a millisecond earlier
    they don't.
    """
    wanted = [window(amount, subject=f"key:{next(_numbers)}")]
    clock.now = 1_795_000_000_000
    ledger.take(wanted, amount, 0)
    clock.advance(MINUTE + moved)
    cost = data.draw(st.integers(1, amount))
    refused = ledger.take(wanted, cost, 0)
    if refused.granted:
        return
    clock.now = sliding.tally(wanted, refused, cost).ready_at - 1
    assert ledger.take(wanted, cost, 0).granted == 0
    clock.advance(1)
    assert ledger.take(wanted, cost, 0).granted == cost


def test_all_windows_or_none(ledger: Ledger) -> None:
    """O13: a request that one window refuses takes from no other."""
    short, long = window(2), window(100, HOUR)
    assert [ledger.take([short, long], 1, 0).granted for _ in range(4)] == [1, 1, 0, 0]
    assert counts(ledger, long, short) == [(2, 0), (2, 0)]


def test_extra_is_a_share_of_what_is_left(ledger: Ledger) -> None:
    """What is taken ahead is a hundredth of what is left in the tightest window, at most."""
    wanted = [window(1001), window(100_000, HOUR)]
    assert ledger.take(wanted, 1, 5).granted == 6
    assert ledger.take(wanted, 1, 50).granted == 1 + 9
    assert ledger.take(wanted, 0, 50).granted == 9
    assert ledger.take([window(99)], 0, 50).granted == 0
    assert ledger.take([window(100, subject="key:b")], 1, 50).granted == 1
    assert counts(ledger, *wanted) == [(25, 0), (25, 0)]


def test_zero_admits_nothing(ledger: Ledger) -> None:
    """Traps: 0 is a limit."""
    assert ledger.take([window(0)], 1, 100).granted == 0


def test_huge_cost(ledger: Ledger) -> None:
    """A cost above any limit is refused and takes nothing; so large an extra is cut."""
    assert ledger.take([window(200)], 2**60, 0).granted == 0
    assert ledger.take([window(200)], 0, 2**60).granted == 2


def test_nothing_is_written_where_nothing_is_granted(place: Where, ledger: Ledger) -> None:
    """S35, field 8: neither a look nor a refusal leaves anything behind."""
    for cost, extra in [(0, 0), (3, 0), (3, 100), (0, 100)]:
        assert ledger.take([window(2), window(500, HOUR)], cost, extra).granted == 0
    assert place.stored() == 0
    ledger.take([window(2), window(500, HOUR)], 1, 0)
    assert place.stored() == 2


def test_nothing_wanted(ledger: Ledger, clock: Clock) -> None:
    """Where there is no window there is nothing to take, but the time."""
    assert ledger.take([], 1, 1) == Taken(0, clock.now, [])


def test_changed_amount_keeps_the_count(ledger: Ledger) -> None:
    """Field 8: a plan change neither resets nor forgives what was used."""
    ledger.take([window(100)], 80, 0)
    assert ledger.take([window(50)], 1, 0).granted == 0
    assert ledger.take([window(200)], 120, 0).granted == 120


SUBJECTS = ["a", "{a}", "{}", "}{", "", "%", "%7Ba%7D", "a:b", "a:b:", "ключ", "a b\r\n", "{", "}"]
GROUPS = ["", "b", "{b}", "%7Bb%7D", "60", "b:60", ":", "b|c", "}", "slots"]
SUBJECTS += [f"{subject}|{group}" for subject in ["a", "{a}", ""] for group in GROUPS]


def test_subjects_are_apart(ledger: Ledger) -> None:
    """Field 3, 8: whatever they are called, no two subjects share a window, nor two lengths."""
    for subject in SUBJECTS:
        wanted = [window(1, subject=subject), window(1, HOUR, subject)]
        assert ledger.take(wanted[:1], 1, 0).granted == 1, subject
        assert ledger.take(wanted[1:], 1, 0).granted == 1, subject
        assert ledger.take(wanted, 1, 0).granted == 0, subject


def test_exact_under_threads(place: Where) -> None:
    """S35: of many at once, by two ledgers and the server's clock, exactly the amount passes."""
    wanted = [window(100, 31 * DAY), window(1000, 30 * DAY)]
    ledgers = [place.open(None), place.open(None)]
    barrier = threading.Barrier(8)

    def work(number: int) -> int:
        barrier.wait()
        return sum(ledgers[number % 2].take(wanted, 1, 1).granted for _ in range(25))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 100
    assert [current + previous for current, previous in counts(ledgers[0], *wanted)] == [100, 100]


def test_its_own_clock(place: Where) -> None:
    """Without a clock given, the ledger goes by that of its server, which here is the same."""
    ledger = place.open(None)
    before = time.time() * 1000
    taken = ledger.take([window(2, 31 * DAY)], 1, 0)
    assert before - 1 <= taken.now <= time.time() * 1000 + 1
    assert taken.counters == [(taken.now // (31 * DAY), 1, 0)]


def test_closed_and_used_again(ledger: Ledger) -> None:
    """`close` only lets go of connections."""
    ledger.take([window(2)], 1, 0)
    ledger.close()
    assert counts(ledger, window(2)) == [(1, 0)]


# --- several subjects together --------------------------------------------------------------------


def parts_of(*costs: int) -> list[Part]:
    """So much of two windows of a key, one of a rule for the key, and one of an address."""
    wanted = [
        [window(10), window(50, HOUR)],
        [window(4, subject="key:a|rule: 5")],
        [window(6, subject="address:2001:db8::")],
    ]
    return [Part(its, cost, 0) for its, cost in zip(wanted, costs, strict=False)]


def test_all_parts_or_none(place: Where, ledger: Ledger) -> None:
    """S35: each subject is taken from at its own cost; where one refuses, no other is."""
    taken = ledger.take_together(parts_of(1, 2, 3))
    assert [one.granted for one in taken] == [1, 2, 3]
    assert [[count for _, count, _ in one.counters] for one in taken] == [[1, 1], [2], [3]]
    for costs in ([1, 3, 1], [10, 1, 1], [1, 1, 4], [1, 9, 9]):
        refused = ledger.take_together(parts_of(*costs))
        assert [one.granted for one in refused] == [0, 0, 0]
        assert [[count for _, count, _ in one.counters] for one in refused] == [[1, 1], [2], [3]]
    assert [one.granted for one in ledger.take_together(parts_of(9, 2, 3))] == [9, 2, 3]
    assert place.stored() == 4


def test_a_part_that_only_looks(ledger: Ledger) -> None:
    """A cost of 0 is refused by nothing, and takes nothing."""
    ledger.take_together(parts_of(0, 4))
    taken = ledger.take_together(parts_of(1, 0))
    assert [one.granted for one in taken] == [1, 0]
    assert [one.counters[0][1] for one in taken] == [1, 4]
    assert [one.granted for one in ledger.take_together(parts_of(1, 1))] == [0, 0]


def test_extra_of_parts(ledger: Ledger) -> None:
    """Each part has its own share of what is left in its windows; none where another refuses."""
    parts = [Part([window(1001)], 1, 50), Part([window(301, subject="account:a")], 1, 2)]
    assert [one.granted for one in ledger.take_together(parts)] == [11, 3]
    parts.append(Part([window(0, subject="address:1")], 1, 9))
    assert [one.granted for one in ledger.take_together(parts)] == [0, 0, 0]
    assert [counts(ledger, *part.windows) for part in parts] == [[(11, 0)], [(3, 0)], [(0, 0)]]


@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "tasks"])
def test_parts_under_way_together(place: Where, *, is_async: bool) -> None:
    """S35: of many at once, by two ledgers and in any order, no subject has more than its limit,
    and who is refused has consumed nothing of any.
    """
    ledgers = [place.open(None), place.open(None)]
    month = 31 * DAY
    common = Part([window(60, month, "address:1")], 1, 0)
    keys = [Part([window(25, month, f"key:{number}")], 1, 0) for number in range(4)]

    def wanted(number: int) -> list[Part]:
        return [keys[number % 4], common][:: -1 if number % 3 else 1]

    async def ask(ledger: Ledger, numbers: range) -> int:
        asked = (ledger.take_together_async(wanted(number)) for number in numbers)  # type: ignore[attr-defined]  # each is one
        return sum(all(one.granted for one in taken) for taken in await asyncio.gather(*asked))

    def work(number: int) -> int:
        ledger = ledgers[number % 2]
        numbers = range(number, number + 30)
        if is_async:
            return asyncio.run(ask(ledger, numbers))
        taken = [ledger.take_together(wanted(number)) for number in numbers]
        return sum(all(one.granted for one in its) for its in taken)

    with ThreadPoolExecutor(2 if is_async else 4) as pool:  # a loop has connections of its own
        passed = sum(pool.map(work, range(4)))
    ends = [sum(counts(ledgers[0], *part.windows)[0]) for part in (common, *keys)]
    assert ends[0] == sum(ends[1:]) == passed
    assert max(ends[1:]) <= 25
    # In a Cluster what one refuses was another's for a moment, in which that one may refuse, too.
    assert passed == 60 or (passed < 60 and is_cluster(ledgers[0]))


def is_cluster(ledger: Ledger) -> bool:
    """Whether subjects are in several slots."""
    return isinstance(ledger, RedisLedger) and ledger.is_cluster


# --- giving back ----------------------------------------------------------------------------------


def test_given_back(ledger: Ledger, clock: Clock) -> None:
    """What a refused request took is there again, in its period and in the next."""
    wanted = [window(5), window(9, HOUR)]
    taken = ledger.take(wanted, 3, 0)
    ledger.give_back(wanted, 1, taken.now)
    assert counts(ledger, *wanted) == [(2, 0), (2, 0)]
    clock.advance(MINUTE)
    ledger.take(wanted, 1, 0)
    ledger.give_back(wanted, 1, taken.now)
    assert counts(ledger, *wanted) == [(1, 1), (2, 0)]


def test_given_back_too_late(ledger: Ledger, clock: Clock) -> None:
    """What no longer counts makes no room."""
    ledger.take([window(5)], 1, 0)
    ledger.give_back([window(5)], 5, clock.now - 2 * MINUTE)
    assert counts(ledger, window(5)) == [(1, 0)]


def test_more_given_back_than_taken(place: Where, ledger: Ledger, clock: Clock) -> None:
    """No count goes below nothing, and where there is no counter none comes to be."""
    ledger.give_back([window(5)], 5, clock.now)
    assert place.stored() == 0
    ledger.take([window(5)], 1, 0)
    ledger.give_back([window(5)], 2**60, clock.now)
    assert counts(ledger, window(5)) == [(0, 0)]


def test_added(ledger: Ledger, clock: Clock) -> None:
    """A negative cost adds what was taken elsewhere: in its own period, whatever is stored."""
    then = clock.now
    ledger.give_back([window(5)], -2, then)
    assert counts(ledger, window(5)) == [(2, 0)]
    clock.advance(MINUTE)
    ledger.give_back([window(5)], -1, clock.now)
    assert counts(ledger, window(5)) == [(1, 2)]
    ledger.give_back([window(5)], -2, then)
    assert counts(ledger, window(5)) == [(1, 4)]
    clock.advance(3 * MINUTE)
    ledger.give_back([window(5)], -7, clock.now)
    assert counts(ledger, window(5)) == [(7, 0)]


def test_added_without_end(ledger: Ledger, clock: Clock) -> None:
    """Whatever is added, a counter holds no more than can be counted with exactly."""
    start = clock.now
    for length in LENGTHS:
        wanted, most = [window(1, length)], EXACT // length
        clock.now = start
        ledger.give_back(wanted, -EXACT, start)
        clock.advance(length)
        for then in (clock.now, start):
            ledger.give_back(wanted, -EXACT // 3, then)
            ledger.give_back(wanted, -EXACT, then)
        assert counts(ledger, *wanted) == [(most, most)]
        assert ledger.take(wanted, 1, 1).granted == 0
        ledger.give_back(wanted, most, clock.now)
        assert counts(ledger, *wanted) == [(0, most)]


# --- processes ------------------------------------------------------------------------------------


def test_ranks(ledger: Ledger) -> None:
    """Each process has a rank of its own, which stays while nobody comes or goes."""
    assert ledger.enlist("b") == Place(0, 1)
    assert ledger.enlist("c") == Place(1, 2)
    assert ledger.enlist("a") == Place(0, 3)
    assert [ledger.enlist(worker) for worker in "cab"] == [Place(2, 3), Place(0, 3), Place(1, 3)]
    ledger.leave("a")
    ledger.leave("unknown")
    assert [ledger.enlist(worker) for worker in "cb"] == [Place(1, 2), Place(0, 2)]


def test_missed_processes(ledger: Ledger, clock: Clock) -> None:
    """A process that is not heard of counts no more after `WORKER_TTL`, whichever way the clock
    goes.
    """
    ttl = int(WORKER_TTL * 1000)
    ledger.enlist("a")
    clock.advance(ttl - 1)
    assert ledger.enlist("b") == Place(1, 2)
    clock.advance(1)
    assert ledger.enlist("b") == Place(0, 1)
    clock.advance(-ttl)
    assert ledger.enlist("c") == Place(0, 1)


# --- the same everywhere --------------------------------------------------------------------------


class Step(NamedTuple):
    """A call, after the clock has moved."""

    moved: int  #: milliseconds
    lengths: list[int]
    amounts: list[int]
    cost: int  #: of a take: -1 for exactly what is left, -2 for one more than that
    extra: int
    #: None for a take. For one that gives back: how long ago it was taken, in milliseconds.
    age: int | None


def steps() -> st.SearchStrategy[Step]:
    length = st.sampled_from(LENGTHS)
    moved = st.one_of(
        st.just(0),
        st.integers(-5, 5000),
        length.flatmap(lambda most: st.integers(-most // 4, most * 3)),
    )
    lengths = st.lists(length, min_size=1, max_size=3, unique=True)
    few = st.integers(0, 20)
    many = st.integers(0, 10**9)
    amounts = st.lists(st.one_of(few, st.integers(0, 2000), many), min_size=3, max_size=3)
    cost = st.one_of(st.sampled_from([0, 1, 1]), few, many)
    taking = st.builds(
        Step,
        moved,
        lengths,
        amounts,
        st.one_of(cost, st.sampled_from([-1, -2])),
        st.one_of(few, many),
        st.none(),
    )
    back = st.builds(
        Step, moved, lengths, amounts, cost, few, st.one_of(st.integers(0, 2 * MINUTE), length)
    )
    # Of what is added too late to count, a ledger need not keep anything.
    recently = st.integers(0, LENGTHS[0] - 1)
    adding = st.builds(Step, moved, lengths, amounts, st.integers(-1000, -1), few, recently)
    return st.one_of(taking, taking, taking, back, adding)


def left(wanted: list[Window], known: dict[str, WindowCount], now: int) -> int:
    """How much can be taken from all windows."""
    return min(
        one.amount - sliding.used(known.get(one.key, (0, 0, 0)), one.length, now) for one in wanted
    )


@settings(max_examples=50, deadline=None, suppress_health_check=SHARED)
@given(st.lists(steps(), min_size=2, max_size=12), st.integers(0, 31 * DAY))
def test_equal_to_the_arithmetic(
    ledger: Ledger, clock: Clock, schedule: list[Step], start: int
) -> None:
    """Whatever is asked, and however the clock goes, every ledger answers as `sliding` does."""
    clock.now = 1_795_000_000_000 + start
    subject = f"key:{next(_numbers)}"
    known: dict[str, WindowCount] = {}
    for step in schedule:
        clock.advance(step.moved)
        wanted = [
            window(min(amount, (EXACT - 1) // length), length, subject)
            for length, amount in zip(step.lengths, step.amounts, strict=False)
        ]
        if step.age is None:
            cost = step.cost
            if cost < 0:
                cost = max(0, left(wanted, known, clock.now)) - 1 - cost
            expected, changes = sliding.grant(wanted, known, cost, step.extra, clock.now)
            assert ledger.take(wanted, cost, step.extra) == expected
            known.update(changes)
            continue
        taken_at = clock.now - step.age
        ledger.give_back(wanted, step.cost, taken_at)
        for one in wanted:
            counter = sliding.give_back(known.get(one.key), one.length, step.cost, taken_at)
            if counter is not None:
                known[one.key] = counter
    every = [window(1, length, subject) for length in LENGTHS]
    assert ledger.take(every, 0, 0) == sliding.grant(every, known, 0, 0, clock.now)[0]


class Several(NamedTuple):
    """A take of several subjects, after the clock has moved."""

    moved: int  #: milliseconds
    #: Of each subject the lengths of its windows, their amounts, the cost and the extra.
    parts: list[tuple[list[int], list[int], int, int]]


def several() -> st.SearchStrategy[Several]:
    lengths = st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=2, unique=True)
    amounts = st.lists(st.one_of(st.integers(0, 20), st.integers(0, 2000)), min_size=2, max_size=2)
    cost = st.one_of(st.sampled_from([0, 1, 1]), st.integers(0, 20), st.integers(0, 10**9))
    part = st.tuples(lengths, amounts, cost, st.sampled_from([0, 0, 1, 10**9]))
    moved = st.one_of(st.just(0), st.integers(0, 5000), st.integers(0, 3 * MINUTE))
    return st.builds(Several, moved, st.lists(part, min_size=1, max_size=4))


@settings(max_examples=40, deadline=None, suppress_health_check=SHARED)
@given(st.lists(several(), min_size=1, max_size=8), st.integers(0, 31 * DAY))
def test_parts_equal_to_the_arithmetic(
    ledger: Ledger, clock: Clock, schedule: list[Several], start: int
) -> None:
    """Whatever is asked of several subjects, every ledger answers as `sliding` does."""
    clock.now = 1_795_000_000_000 + start
    example = next(_numbers)
    known: dict[str, WindowCount] = {}
    for step in schedule:
        clock.advance(step.moved)
        parts = [
            Part(
                [
                    window(amount, length, f"key:{example}-{number % 3}|{number}")
                    for length, amount in zip(lengths, amounts, strict=False)
                ],
                cost,
                extra,
            )
            for number, (lengths, amounts, cost, extra) in enumerate(step.parts)
        ]
        expected, changes = sliding.grant_together(parts, known, clock.now)
        assert ledger.take_together(parts) == expected
        known.update(changes)
