"""Sliding windows: tables, properties of any schedule, and agreement with the `limits` library."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate, pairwise
from math import floor
from types import SimpleNamespace
from typing import Self

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.storage import memory as limits_memory
from limits.strategies import SlidingWindowCounterRateLimiter

from keyrush.core import sliding
from keyrush.core.sliding import UNLIMITED, Tally, Window, WindowCount

MINUTE = 60_000
START = 29_000_000 * MINUTE


class Stored:
    """Counters that are kept between takes, as a limiter keeps them."""

    def __init__(self, **counters: WindowCount) -> None:
        self.counters = counters

    def take(self, wanted: list[Window], now: int, cost: int = 1) -> Tally:
        tally, changes = sliding.take(wanted, self.counters, cost, now)
        self.counters.update(changes)
        return tally

    def admits(self, wanted: list[Window], now: int, cost: int = 1) -> bool:
        """Whether a take would be admitted; nothing is taken."""
        return sliding.take(wanted, self.counters, cost, now)[0].admitted


def window(amount: int, length: int = MINUTE, key: str = "w") -> Window:
    return Window(key, length, amount, f"{length}ms")


lengths = st.sampled_from([1, 2, 7, 1000, 60_000])
several = st.lists(
    st.tuples(lengths, st.integers(1, 12)), min_size=1, max_size=3, unique_by=lambda pair: pair[0]
).map(lambda pairs: [window(amount, length, f"w{length}") for length, amount in pairs])


steps = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 5), st.integers(0, 2 * MINUTE), st.just(MINUTE)),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=25,
)


def _instants(drawn: list[tuple[int, int]]) -> list[tuple[int, int]]:
    instants = accumulate((step for step, _ in drawn), initial=START)
    return list(zip(instants, (cost for _, cost in drawn), strict=False))


#: Instants, which rise, and costs.
schedules = steps.map(_instants)

#: The same with a clock that also steps back.
wandering = st.tuples(schedules, st.lists(st.integers(-MINUTE, 0), min_size=25, max_size=25)).map(
    lambda both: [(now + back, cost) for (now, cost), back in zip(*both, strict=False)]
)


def held(schedule: list[tuple[int, int]], wanted: list[Window]) -> list[tuple[int, int]]:
    """The schedule with no step back by more than the shortest window, which starts afresh."""
    most = min(w.length for w in wanted)
    latest = accumulate((now for now, _ in schedule), max)
    return [
        (max(now, last - most), cost) for (now, cost), last in zip(schedule, latest, strict=True)
    ]


def counted(taken: list[tuple[int, int]], length: int, now: int) -> int:
    """What counts at `now`, worked out anew from every take, in exact fractions."""
    period = now // length
    current = sum(cost for at, cost in taken if at // length == period)
    previous = sum(cost for at, cost in taken if at // length == period - 1)
    return current + floor(previous * Fraction(length - now % length, length))


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "now", "expected"),
    [
        pytest.param((0, 3, 10), 0, 13, id="all of the previous period at the beginning"),
        pytest.param((0, 3, 10), 500, 8, id="half of it in the middle"),
        pytest.param((0, 3, 10), 999, 3, id="rounded down"),
        pytest.param((0, 3, 10), 1000, 3, id="the current one becomes the previous one"),
        pytest.param((0, 3, 10), 1999, 0, id="and fades"),
        pytest.param((0, 3, 10), 2000, 0, id="then nothing counts"),
        pytest.param((1, 3, 10), 999, 13, id="a clock one period back: as at the beginning"),
        pytest.param((2, 3, 10), 999, 0, id="a clock further back: afresh"),
    ],
)
def test_used(counter: WindowCount, now: int, expected: int) -> None:
    """The previous period weighs by what is left of it in the sliding window."""
    assert sliding.used(counter, 1000, now) == expected


@pytest.mark.parametrize("cost", [1, 5])
def test_zero_admits_nothing(cost: int) -> None:
    """A limit of 0 is not "no limit": nothing is admitted, and the wait ends in the future."""
    tally = Stored().take([window(0)], START, cost)
    assert not tally.admitted
    assert tally.remaining == 0
    assert tally.ready_at > START


def test_no_window_is_unlimited() -> None:
    """Where there is no window, everything is admitted and there is nothing to show."""
    assert Stored().take([], START, 10**9) == UNLIMITED
    assert UNLIMITED.admitted
    assert UNLIMITED.window is None


def test_amount_plus_one() -> None:
    """R6: of 101 requests at once against 100/minute, 100 pass and remaining counts down."""
    stored, wanted = Stored(), [window(100)]
    tallies = [stored.take(wanted, START) for _ in range(101)]
    assert [tally.admitted for tally in tallies] == [True] * 100 + [False]
    assert [tally.remaining for tally in tallies] == [*range(99, -1, -1), 0]


def test_cost_above_amount_never_passes() -> None:
    """A cost above the amount is refused even when nothing was taken, with a finite wait."""
    tally = Stored().take([window(3)], START, 4)
    assert not tally.admitted
    assert tally.remaining == 3
    assert START < tally.ready_at <= START + 2 * MINUTE


def test_refusals_do_not_lengthen_the_wait() -> None:
    """S35: however often a caller is refused, the wait stays what it was."""
    stored, wanted = Stored(), [window(2)]
    stored.take(wanted, START, 2)
    first = stored.take(wanted, START + 1)
    assert not first.admitted
    assert {stored.take(wanted, START + 1 + i).ready_at for i in range(50)} == {first.ready_at}


def test_most_constrained_window() -> None:
    """O14: the window with the least left is shown; the longer one where two have the same."""
    minute, hour = window(60, MINUTE, "m"), window(100, 60 * MINUTE, "h")
    stored = Stored()
    assert stored.take([minute, hour], START).window == minute
    stored.take([hour], START, 60)
    assert stored.take([minute, hour], START).window == hour
    assert Stored().take([window(5, 1000, "s"), window(5, MINUTE, "m")], START).window == window(
        5, MINUTE, "m"
    )


def test_reset_with_something_left_is_the_end_of_the_period() -> None:
    """R11: while requests remain, Reset is the end of the current period."""
    tally = Stored().take([window(10)], START + 1234)
    assert tally.ready_at == START + MINUTE


def test_amount_is_not_part_of_the_counter() -> None:
    """A plan change keeps the count: what was taken under 10 counts under 5 and under 20."""
    stored = Stored()
    stored.take([window(10)], START, 8)
    assert not stored.admits([window(5)], START)
    assert stored.take([window(20)], START).remaining == 11


def test_look_takes_nothing() -> None:
    """A cost of 0 looks: admitted even when nothing remains, and nothing changes."""
    stored = Stored()
    wanted = [window(2)]
    assert stored.take(wanted, START, 0) == Tally(True, window(2), 2, START + MINUTE)
    stored.take(wanted, START, 2)
    before = dict(stored.counters)
    tally = stored.take(wanted, START, 0)
    assert (tally.admitted, tally.remaining) == (True, 0)
    assert stored.counters == before


@pytest.mark.parametrize("back", [1, 30_000, MINUTE])
def test_clock_back_makes_no_room(back: int) -> None:
    """A clock set back by up to a period does not take the previous period for faded."""
    stored, wanted = Stored(w=(START // MINUTE, 2, 8)), [window(10)]
    refused = stored.take(wanted, START - back)
    assert not refused.admitted
    assert stored.take(wanted, START - back, 0).remaining == 0
    assert not stored.admits(wanted, START)
    assert refused.ready_at > START
    assert stored.take(wanted, refused.ready_at).admitted


def test_clock_far_back_starts_afresh() -> None:
    """A clock set back by more than a period does not lock anyone out until it catches up."""
    stored, wanted = Stored(), [window(1)]
    assert stored.take(wanted, START).admitted
    assert stored.take(wanted, START - 2 * MINUTE).admitted


def test_a_stale_now_does_not_start_afresh() -> None:
    """R6: who read the clock before the lock, and comes two periods late, is counted as of now."""
    wanted, counters = [window(5, 1000)], dict[str, WindowCount]()

    def passed(now: int, tries: int) -> int:
        admitted = 0
        for _ in range(tries):
            tally, changes = sliding.take(wanted, counters, 1, now, lambda: START + 3100)
            counters.update(changes)
            admitted += tally.admitted
        return admitted

    assert passed(START + 3100, 3) == 3
    assert [passed(START, 9), passed(START + 3100, 9)] == [2, 0]
    assert counters["w"] == ((START + 3100) // 1000, 5, 0)


def test_a_clock_that_is_set_back_is_read_again_in_vain() -> None:
    """A counter that is still ahead of the clock, read again, is one of before it was set back."""
    tally, changes = sliding.take([window(1)], {"w": (START // MINUTE, 1, 0)}, 1, 0, lambda: 5)
    assert tally.admitted
    assert changes == [("w", (0, 1, 0))]


# --- properties ----------------------------------------------------------------------------------


@given(several, schedules)
def test_never_above_the_limit(wanted: list[Window], schedule: list[tuple[int, int]]) -> None:
    """Whatever the schedule, a request passes exactly when what counts leaves room for it."""
    stored = Stored()
    taken: list[tuple[int, int]] = []
    for now, cost in schedule:
        room = all(counted(taken, w.length, now) + cost <= w.amount for w in wanted)
        assert stored.take(wanted, now, cost).admitted is room
        if room:
            taken.append((now, cost))
        for _, length, amount, _ in wanted:
            assert counted(taken, length, now) <= amount
            periods = {at // length for at, _ in taken}
            totals = [sum(c for at, c in taken if at // length == p) for p in periods]
            assert all(total <= amount for total in totals)


@given(several, wandering)
def test_never_above_the_limit_with_a_wandering_clock(
    wanted: list[Window], schedule: list[tuple[int, int]]
) -> None:
    """However the clock steps, what counts after a take is never above the limit."""
    stored = Stored()
    for now, cost in schedule:
        tally = stored.take(wanted, now, cost)
        if tally.admitted:
            for key, length, amount, _ in wanted:
                assert sliding.used(stored.counters[key], length, now) <= amount


@given(lengths, st.integers(0, 50), st.integers(0, 50), st.data())
def test_monotone_in_time(length: int, current: int, previous: int, data: st.DataObject) -> None:
    """Without takes what counts only falls, also while the clock is behind the counter."""
    index = 1000
    counter = (index, current, previous)
    instants = sorted(
        data.draw(st.lists(st.integers((index - 1) * length, (index + 3) * length), min_size=2))
    )
    counts = [sliding.used(counter, length, now) for now in instants]
    assert all(later <= earlier for earlier, later in pairwise(counts))
    assert sliding.used(counter, length, (index + 2) * length) == 0


@given(several, wandering, st.integers(1, 4))
def test_wait_is_exact_when_refused(
    wanted: list[Window], schedule: list[tuple[int, int]], cost: int
) -> None:
    """R15: a refused take passes at `ready_at` and not one millisecond earlier."""
    assume(all(w.amount >= cost for w in wanted))
    stored = Stored()
    for now, spent in held(schedule, wanted):
        stored.take(wanted, now, spent)
        tally = sliding.take(wanted, stored.counters, cost, now)[0]
        if not tally.admitted:
            assert tally.ready_at > now
            assert not stored.admits(wanted, tally.ready_at - 1, cost)
            assert stored.admits(wanted, tally.ready_at, cost)


@given(several, wandering)
def test_reset_is_exact_when_nothing_remains(
    wanted: list[Window], schedule: list[tuple[int, int]]
) -> None:
    """With 0 remaining, `ready_at` is the millisecond from which one more request passes."""
    stored = Stored()
    for now, cost in held(schedule, wanted):
        stored.take(wanted, now, cost)
        tally = sliding.take(wanted, stored.counters, 0, now)[0]
        if tally.remaining == 0:
            assert not stored.admits(wanted, tally.ready_at - 1)
            assert stored.admits(wanted, tally.ready_at)


@pytest.mark.parametrize("offset", [0, 17_000, 43_000])
def test_reset_of_two_exhausted_windows_is_the_later_one(offset: int) -> None:
    """With two windows used up by one take, `ready_at` is when both have room again."""
    hour = 60 * MINUTE
    now = 1000 * hour + 1_920_637 + offset
    used = 11 * (hour - now % hour) // hour
    wanted = [window(1, MINUTE, "m"), window(used + 1, hour, "h")]
    stored = Stored(h=(1000, 0, 11))
    tally = stored.take(wanted, now)
    assert (tally.admitted, tally.remaining) == (True, 0)
    assert not stored.admits(wanted, tally.ready_at - 1)
    assert stored.admits(wanted, tally.ready_at)


@given(several, schedules)
def test_remaining_is_exact(wanted: list[Window], schedule: list[tuple[int, int]]) -> None:
    """Exactly `remaining` more requests pass at the same instant."""
    stored = Stored()
    for now, cost in schedule:
        stored.take(wanted, now, cost)
        remaining = stored.take(wanted, now, 0).remaining
        trial = Stored(**stored.counters)
        assert [trial.take(wanted, now).admitted for _ in range(remaining + 1)] == [
            *[True] * remaining,
            False,
        ]


@given(several, wandering)
def test_all_or_none(wanted: list[Window], schedule: list[tuple[int, int]]) -> None:
    """A take changes every window by its cost, or none at all."""
    stored = Stored()
    for now, cost in schedule:
        before = {
            w.key: sliding.roll(stored.counters.get(w.key), now // w.length)[1] for w in wanted
        }
        kept = dict(stored.counters)
        tally = stored.take(wanted, now, cost)
        if tally.admitted:
            after = {w.key: stored.counters[w.key][1] for w in wanted}
            assert after == {key: current + cost for key, current in before.items()}
        else:
            assert stored.counters == kept


@given(lengths, schedules, st.integers(1, 9), st.integers(0, 40))
def test_give_back_undoes(
    length: int, schedule: list[tuple[int, int]], cost: int, position: int
) -> None:
    """A take that is given back, however much later, counts as if it had never been."""
    wanted = [window(10**6, length)]
    with_it, without = Stored(), Stored()
    taken_at = schedule[min(position, len(schedule) - 1)][0]
    for step, (now, spent) in enumerate(schedule):
        with_it.take(wanted, now, spent)
        without.take(wanted, now, spent)
        if step == min(position, len(schedule) - 1):
            with_it.take(wanted, taken_at, cost)
    given_back = sliding.give_back(with_it.counters["w"], length, cost, taken_at)
    end = schedule[-1][0]
    assert given_back is not None
    for now in (end, end + length // 2, end + length, end + 2 * length):
        assert sliding.used(given_back, length, now) == sliding.used(
            without.counters["w"], length, now
        )


@pytest.mark.parametrize(
    ("counter", "taken_at", "expected"),
    [
        (None, 5000, None),
        ((5, 3, 2), 5999, (5, 2, 2)),
        ((5, 3, 2), 4999, (5, 3, 1)),
        ((5, 3, 2), 3999, (5, 3, 2)),
        ((5, 3, 2), 6000, (5, 2, 2)),
        ((5, 0, 0), 5000, (5, 0, 0)),
        ((5, 0, 0), 4000, (5, 0, 0)),
    ],
)
def test_give_back(
    counter: WindowCount | None, taken_at: int, expected: WindowCount | None
) -> None:
    """What is given back leaves the period it was taken in, and no count becomes negative."""
    assert sliding.give_back(counter, 1000, 1, taken_at) == expected


@given(lengths, st.integers(0, 9), st.integers(0, 9), st.integers(-3, 5), st.integers(0, 100))
def test_forgetting_an_idle_counter_changes_nothing(
    length: int, current: int, previous: int, periods: int, more: int
) -> None:
    """An idle counter counts for nothing, now or later; one that counts is not idle."""
    counter = (1000, current, previous)
    now = (1000 + periods) * length
    if sliding.is_idle(counter, length, now):
        assert sliding.used(counter, length, now + more) == 0
        assert sliding.roll(counter, (now + more) // length) == sliding.roll(
            None, (now + more) // length
        )
    else:
        assert now < 1002 * length


# --- agreement with limits -----------------------------------------------------------------------


class Reference:
    """`limits`' sliding window counter, on a clock of the test's own."""

    def __init__(self, amount: int, seconds: int) -> None:
        self.clock = SimpleNamespace(now=0.0)
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(limits_memory, "time", SimpleNamespace(time=lambda: self.clock.now))
        storage = MemoryStorage()
        # Its clean-up thread looks at the same clock; expired counters are ignored without it.
        self._patch.setattr(storage, "_MemoryStorage__schedule_expiry", lambda: None)
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._item = RateLimitItemPerSecond(amount, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def admits(self, now: int, cost: int) -> bool:
        """Take `cost` at `now`, Unix milliseconds."""
        self.clock.now = now / 1000
        return self._limiter.hit(self._item, cost=cost)


@given(
    st.integers(0, 10),
    st.lists(st.tuples(st.integers(0, 1100), st.integers(1, 3)), min_size=1, max_size=60),
)
def test_decides_as_limits_does(amount: int, steps: list[tuple[int, int]]) -> None:
    """The same schedule passes here and in `limits`, at instants that floats hold exactly."""
    stored = Stored()
    wanted = [window(amount, 64_000)]
    now = 64_000 * 27_000_000
    with Reference(amount, 64) as reference:
        for eighths, cost in steps:
            now += eighths * 125
            assert stored.take(wanted, now, cost).admitted is reference.admits(now, cost)


@given(
    st.integers(1, 20),
    st.sampled_from([1, 7, 60, 3600]),
    st.lists(st.tuples(st.floats(0, 1.5), st.integers(1, 3)), min_size=1, max_size=60),
)
def test_decides_as_limits_does_at_any_instant(
    amount: int, seconds: int, steps: list[tuple[float, int]]
) -> None:
    """Also at instants and lengths that floats don't hold, but for those on the very edge."""
    stored = Stored()
    wanted = [window(amount, seconds * 1000)]
    now = START
    with Reference(amount, seconds) as reference:
        for step, cost in steps:
            now += round(step * seconds * 1000)
            _, current, previous = sliding.roll(stored.counters.get("w"), now // wanted[0].length)
            weighted = previous * Fraction(wanted[0].length - now % wanted[0].length)
            weighted = weighted / wanted[0].length + current
            if abs(weighted - round(weighted)) < Fraction(1, 10**6) and previous:
                continue  # floats may round this to either side
            assert stored.take(wanted, now, cost).admitted is reference.admits(now, cost)
