"""Several subjects in one take, and what is added to windows: one suite for every limiter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import count, product
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from keyrush.core import sliding
from keyrush.core.sliding import UNLIMITED, Demand, Tally, Window, WindowCount
from keyrush.errors import Away
from keyrush.limiter.guarded import GuardedLimiter
from keyrush.limiter.mapped import MappedLimiter
from keyrush.limiter.memory import MemoryLimiter
from keyrush.limiter.protocol import Limiter, Outage
from keyrush.limiter.shared.exact import ExactLimiter
from keyrush.limiter.together import one_by_one
from tests.conftest import Clock
from tests.support import limiters
from tests.support.chores import Chores
from tests.support.ledgers import MemoryLedger, client_of
from tests.support.limiters import (
    MINUTE,
    OTHERS,
    OURS,
    DictLimiter,
    Timed,
    opened_limiter,
    window,
)
from tests.support.scripts import run

HOUR = 60 * MINUTE

#: The beginning of a minute, and of an hour, and a moment in both.
START = limiters.NOW
NOW = START + 10_000

#: Those in which nobody sees what a request has taken before it is refused.
AT_ONE_STROKE = {"memory", "mapped"}


@pytest.fixture(params=[*OURS, *OTHERS])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of limiter."""
    name: str = request.param
    return name


@pytest.fixture
def limiter(kind: str, request: pytest.FixtureRequest, clock: Clock) -> Iterator[Timed]:
    """Each limiter, empty."""
    clock.now = NOW
    with opened_limiter(kind, request, clock) as timed:
        yield timed


#: The windows of a plan, of a rule that counts by the same key, and of one that counts by account;
#: a group may be called anything.
PLAN = (window(20), window(30, HOUR))
RULE = (window(6, subject="key:a|GET /x|y:60"),)
ACCOUNT = (window(9, subject="account:b|export"),)
ADDRESS = (window(7, subject="address:2001:db8::"),)


def used(limiter: Timed, *each: Window, now: int = NOW) -> list[int]:
    """What counts in each of the windows."""
    return [one.amount - limiter.take([one], 0, now).remaining for one in each]


# --- all or none ----------------------------------------------------------------------------------


def test_each_demand_has_its_own_cost(limiter: Timed) -> None:
    """O13: a request takes of each subject what that is to cost."""
    tally = limiter.take_together([Demand(PLAN, 1), Demand(RULE, 2), Demand(ACCOUNT, 6)], NOW)
    assert tally[:3] == (True, ACCOUNT[0], 3)
    assert used(limiter, *PLAN, *RULE, *ACCOUNT) == [1, 1, 2, 6]


#: Instants at which nothing counts that was taken at any of the others; few databases do for all.
APART = [NOW + number * 3 * HOUR for number in range(6)]


def test_a_refusal_consumes_nothing(limiter: Timed) -> None:
    """O13: whichever demand is refused, of no window anything is taken, at one cost or several."""
    for now, (refusing, costs) in zip(
        APART, product(range(3), [(1, 1, 1), (1, 3, 2)]), strict=True
    ):
        demands = [Demand(*one) for one in zip((PLAN, RULE, ACCOUNT), costs, strict=True)]
        full = demands[refusing].windows[0]
        limiter.take([full], full.amount, now)
        before = used(limiter, *PLAN, *RULE, *ACCOUNT, now=now)
        tally = limiter.take_together(demands, now)
        assert (tally.admitted, tally.window, tally.remaining) == (False, full, 0)
        assert used(limiter, *PLAN, *RULE, *ACCOUNT, now=now) == before


def test_part_of_a_cost_is_not_taken(limiter: Timed) -> None:
    """O13: what is left is less than the cost of one: nothing is taken of any, all is shown."""
    limiter.take_together([Demand(RULE, 4), Demand(ADDRESS, 1)], NOW)
    tally = limiter.take_together([Demand(ADDRESS, 1), Demand(RULE, 3)], NOW)
    assert (tally.admitted, tally.window, tally.remaining) == (False, RULE[0], 2)
    assert used(limiter, *RULE, *ADDRESS) == [4, 1]


def test_the_same_windows_as_of_one(limiter: Timed) -> None:
    """R6: what is taken together and what is taken of one subject is counted in the same windows,
    and groups of one subject are apart.
    """
    other = window(6, subject="key:a|GET /x")
    limiter.take(PLAN, 2, NOW)
    limiter.take_together([Demand(PLAN, 1), Demand(RULE, 1)], NOW)
    limiter.take(RULE, 3, NOW)
    assert used(limiter, *PLAN, *RULE, other) == [3, 3, 4, 0]


def test_the_most_constrained_of_all(limiter: Timed) -> None:
    """O14: a request is told of the window of all its subjects that has least left."""
    demands = [Demand(PLAN, 1), Demand(ACCOUNT, 1), Demand(RULE, 1)]
    assert limiter.take_together(demands, NOW)[:3] == (True, RULE[0], 5)
    limiter.take(ACCOUNT, 6, NOW)
    assert limiter.take_together(demands, NOW)[:3] == (True, ACCOUNT[0], 1)
    tally = limiter.take_together(demands, NOW)
    assert tally[:3] == (True, ACCOUNT[0], 0)
    assert not limiter.take_together(demands, tally.ready_at - 1).admitted
    assert limiter.take_together(demands, tally.ready_at).admitted


def test_the_wait_is_exact(limiter: Timed) -> None:
    """R15: whoever waits until `ready_at` passes; a millisecond earlier they don't."""
    for now, (refusing, cost) in zip(APART, product(range(3), [1, 3]), strict=True):
        demands = [Demand(PLAN, 1), Demand(RULE, 1), Demand(ACCOUNT, 1)]
        demands[refusing] = demands[refusing]._replace(cost=cost)
        full = demands[refusing].windows[0]
        limiter.take([full], full.amount, now + 1000)
        refused = limiter.take_together(demands, now + 2000)
        assert not refused.admitted
        assert not limiter.take_together(demands, refused.ready_at - 1).admitted
        assert limiter.take_together(demands, refused.ready_at).admitted


def test_the_wait_where_two_refuse(limiter: Timed) -> None:
    """R15: then until neither does, in whatever order they are asked."""
    soon, late = window(4), window(4, HOUR, "account:b|export")
    for now, order in ((NOW, 1), (NOW + 6 * HOUR, -1)):
        limiter.take([soon], 4, now)
        limiter.take([late], 4, now)
        demands = [Demand([soon], 1), Demand([late], 1)][::order]
        refused = limiter.take_together(demands, now + 1000)
        assert (refused.admitted, refused.window) == (False, late)
        assert refused.ready_at > now + 2 * MINUTE
        assert not limiter.take_together(demands, refused.ready_at - 1).admitted
        assert limiter.take_together(demands, refused.ready_at).admitted


def test_a_look_among_others(limiter: Timed) -> None:
    """A cost of 0 takes nothing of its windows, and refuses nobody, whatever is left of them."""
    limiter.take(RULE, 6, NOW)
    tally = limiter.take_together([Demand(PLAN, 1), Demand(RULE, 0)], NOW)
    assert tally[:3] == (True, RULE[0], 0)
    assert limiter.take_together([Demand(RULE, 0), Demand(ACCOUNT, 0)], NOW).admitted
    assert used(limiter, *PLAN, *RULE, *ACCOUNT) == [1, 1, 6, 0]


def test_nothing_wanted(limiter: Timed) -> None:
    """Where nothing limits, everything passes; what has no windows stands in nobody's way."""
    assert limiter.take_together([], NOW) == UNLIMITED
    assert limiter.take_together([Demand((), 1), Demand((), 2)], NOW) == UNLIMITED
    assert limiter.take_together([Demand((), 5), Demand(RULE, 1)], NOW)[:3] == (True, RULE[0], 5)
    limiter.take_together([Demand((), 5), Demand(RULE, 5)], NOW)
    assert not limiter.take_together([Demand((), 5), Demand(RULE, 1)], NOW).admitted


def test_a_negative_cost(limiter: Timed) -> None:
    """A negative cost, which would add to what is left, is an error, and nothing is taken."""
    for at in range(3):
        demands = [Demand(PLAN, 1), Demand(RULE, 1), Demand(ACCOUNT, 1)]
        demands[at] = demands[at]._replace(cost=-1)
        with pytest.raises(ValueError, match="cost"):
            limiter.take_together(demands, NOW)
        with pytest.raises(ValueError, match="cost"):
            limiter.inner.take_together_at_once(demands, NOW) or limiter.take_together(demands, NOW)
    assert used(limiter, *PLAN, *RULE, *ACCOUNT) == [0, 0, 0, 0]


def test_given_back_by_demand(limiter: Timed) -> None:
    """What a request took is given back subject by subject, and counts no more."""
    demands = [Demand(PLAN, 1), Demand(RULE, 2), Demand(ACCOUNT, 5)]
    limiter.take_together(demands, NOW)
    for windows, cost in demands[1:]:
        limiter.give_back(windows, cost, NOW)
    limiter.flush()
    assert used(limiter, *PLAN, *RULE, *ACCOUNT) == [1, 1, 0, 0]


def test_at_once(limiter: Timed) -> None:
    """Whatever is told without I/O is what would be told with it."""
    demands = [Demand(PLAN, 1), Demand(RULE, 1)]
    for left in (5, 4, 3):
        tally = limiter.take_together_at_once(demands, NOW) or limiter.take_together(demands, NOW)
        assert tally[:3] == (True, RULE[0], left)


# --- what is added --------------------------------------------------------------------------------


def test_added_beyond_the_limit(limiter: Timed, kind: str) -> None:
    """R15: what was used without being taken counts, whatever the limit; then the next waits as
    the arithmetic says.
    """
    limiter.take(RULE, 2, NOW)
    limiter.add(RULE, 10, NOW)
    refused = limiter.take(RULE, 1, NOW)
    assert (refused.admitted, refused.remaining) == (False, 0)
    # 12 in one period: of the next, 5 of 6 may count; from 12 * left // 60,000 <= 5 on.
    late = kind == "limits"  # by the millisecond that it rounds up to
    assert refused.ready_at == START + MINUTE + 30_001 + late
    assert not limiter.take(RULE, 1, refused.ready_at - 1 - late).admitted
    assert limiter.take(RULE, 1, refused.ready_at).admitted


def test_added_to_what_is_not_known(limiter: Timed) -> None:
    """A window that nobody has taken from has what is added, and no other has."""
    limiter.add(PLAN, 7, NOW)
    assert used(limiter, *PLAN, *RULE) == [7, 7, 0]
    limiter.add(RULE, 0, NOW)
    limiter.add((), 5, NOW)
    assert used(limiter, *PLAN, *RULE) == [7, 7, 0]


def test_added_in_the_next_period(limiter: Timed) -> None:
    """What is added counts in the period in which it was used, beside what was before."""
    limiter.take(RULE, 4, NOW)
    later = START + MINUTE + MINUTE // 2
    limiter.add(RULE, 1, later)
    assert used(limiter, *RULE, now=later) == [3]
    assert used(limiter, *RULE, now=START + 2 * MINUTE) == [1]


def test_added_until_the_arithmetic_ends(limiter: Timed) -> None:
    """However much is added, no counter passes what all ledgers hold exactly, and in two periods
    all of it is over.
    """
    for _ in range(3):
        limiter.add(RULE, 2**52, NOW)
    refused = limiter.take(RULE, 1, NOW)
    assert not refused.admitted
    assert START + MINUTE < refused.ready_at <= START + 2 * MINUTE + 1
    assert limiter.take(RULE, 1, START + 2 * MINUTE + 1).admitted


@pytest.mark.parametrize("kind", ["memory", "mapped", *OTHERS])
def test_nothing_less_is_added(limiter: Timed) -> None:
    """What is added never makes room."""
    limiter.take(RULE, 3, NOW)
    with pytest.raises(ValueError, match="cost"):
        limiter.add(RULE, -1, NOW)
    assert used(limiter, *RULE) == [3]


@pytest.mark.parametrize("kind", ["memory", *(one for one in OURS if one.startswith("exact"))])
def test_what_is_added_to_many_is_forgotten(limiter: Timed, clock: Clock) -> None:
    """S35: who has used more than was taken takes no memory for longer than that counts."""
    inner = limiter.inner
    for number in range(400):
        clock.advance(MINUTE // 50)
        limiter.add([window(9, subject=f"key:{number}")], 2, clock.now)
        limiter.flush()
    own = inner.client.books._own if isinstance(inner, ExactLimiter) else inner  # noqa: SLF001  # to look at
    assert isinstance(own, Sized)
    assert 0 < len(own) < 200


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "rule GET /organisations/{organisation_id}/projects/{project_id}/exports/{export_id}" * 2,
        "x" * 65_536,
        "a\0b\nc",
        "\N{FIRE}|\N{FIRE}:60:",
        "{a}%7Da%|'\\",
        "",
    ],
    ids=["a long path", "64 KiB", "control characters", "emoji", "what is escaped", "none"],
)
def test_whatever_a_group_is_called(limiter: Timed, name: str) -> None:
    """S19: a rule's windows are counted under whatever name, apart from all others, and keep
    nobody else from being counted.
    """
    named = window(3, subject=f"key:a|{name}")
    like_it = window(9, subject=f"key:a|{name}x")
    demands = [Demand([named], 1), Demand([like_it], 2), Demand([window(9)], 1)]
    assert [limiter.take_together(demands, NOW).admitted for _ in range(4)] == [True] * 3 + [False]
    limiter.give_back([named], 1, NOW)
    limiter.flush()
    assert used(limiter, named, like_it, window(9)) == [2, 6, 3]


# --- at the same time -----------------------------------------------------------------------------


def test_threads(limiter: Timed, kind: str) -> None:
    """S35: 8 threads on plan, rule and account, in any order of subjects and at several costs:
    never more than any limit, and whoever was refused has left nothing.
    """
    account = (window(40, subject="account:b|export"),)
    rule = (window(50, subject="key:a|rule"),)
    plan = (window(30), window(500, HOUR))
    demands = [Demand(plan, 1), Demand(rule, 2), Demand(account, 1)]

    def work(turn: int) -> int:
        order = demands[turn % 3 :] + demands[: turn % 3]
        return sum(limiter.take_together(order, NOW).admitted for _ in range(6))

    with ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(work, range(8)))
    limiter.flush()
    assert passed <= 25
    assert used(limiter, *plan, *rule, *account) == [passed, passed, 2 * passed, passed]
    if kind in AT_ONE_STROKE:
        assert passed == 25


@pytest.mark.parametrize("place", ["mapped", "postgresql-exact", "valkey-exact", "valkey-leased"])
def test_processes(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """S35: 4 processes on plan, rule and account: never more than any limit, and whoever was
    refused has left nothing.
    """
    where, _, mode = place.partition("-")
    url = (
        f"file://{tmp_path}/windows"
        if where == "mapped"
        else request.getfixturevalue("postgres_url" if where == "postgresql" else "valkey_url")
    )
    out = run(
        """
        import sys
        from keyrush.core.sliding import Demand
        from keyrush.limiter.opening import open_limiter
        from keyrush.sql.engine import Database
        from tests.support.limiters import window
        from tests.support.mapped import in_children

        DAY = 86_400_000
        plan, rule = (window(300, DAY),), (window(250, DAY, "key:a|rule"),)
        account = (window(60, DAY, "account:b|rule"),)
        demands = [Demand(plan, 1), Demand(rule, 2), Demand(account, 1)]

        def opened():
            url, mode = sys.argv[1], sys.argv[2] or "exact"
            if url.startswith("postgresql"):
                return open_limiter("store", Database(url), mode=mode).limiter
            return open_limiter(url, mode=mode).limiter

        from keyrush.runtime.clock import now_ms

        def work():
            limiter = opened()
            passed = sum(limiter.take_together(demands, now_ms()).admitted for _ in range(20))
            limiter.close()
            return passed

        opened().close()  # so that what it imports is imported once
        print(in_children(4, work))
        limiter = opened()
        for windows in (plan, rule, account):
            print(windows[0].amount - limiter.take(windows, 0, now_ms()).remaining)
        limiter.close()
        """,
        url,
        mode,
    )
    passed, *counted = map(int, out.split())
    assert passed <= 60
    assert counted == [passed, 2 * passed, passed]
    if where in AT_ONE_STROKE:
        assert passed == 60


# --- as the model ---------------------------------------------------------------------------------


class Step(NamedTuple):
    """What is done next."""

    moved: int  #: of the clock, in milliseconds
    costs: tuple[int, int, int]
    order: int
    deed: str


def steps_of() -> st.SearchStrategy[list[Step]]:
    cost = st.integers(0, 3)
    moves = st.integers(0, 5) | st.integers(0, 2 * MINUTE) | st.sampled_from([HOUR, 3 * HOUR])
    deed = st.sampled_from(["take"] * 6 + ["give_back", "add"])
    step = st.builds(Step, moves, st.tuples(cost, cost, cost), st.integers(0, 2), deed)
    return st.lists(step, max_size=40)


class Model:
    """The arithmetic over a dictionary, and nothing else."""

    def __init__(self) -> None:
        self.counters: dict[str, WindowCount] = {}

    def take_together(self, demands: Sequence[Demand], now: int) -> Tally:
        tally, changes = sliding.take_together(demands, self.counters, now)
        self.counters.update(changes)
        return tally

    def give_back(self, windows: Sequence[Window], cost: int, at: int) -> None:
        for key, length, _, _ in windows:
            counter = sliding.give_back(self.counters.get(key), length, cost, at)
            if counter is not None:
                self.counters[key] = counter


_numbers = count()

#: What is compared: by itself, and whether the instants of refusals are the same to the last.
SORTS = ["memory", "mapped", "ledger", "own"]


@pytest.mark.parametrize("sort", SORTS)
@examples(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps_of())
def test_as_the_model(tmp_path: Path, sort: str, steps: list[Step]) -> None:
    """R6, O13: whatever is taken together, added and given back, each answer is the model's."""
    clock = Clock()
    clock.now = NOW
    made: dict[str, Limiter] = {
        "memory": MemoryLimiter(clock),
        "ledger": ExactLimiter(client_of(MemoryLedger(clock), clock)),
        "own": GuardedLimiter(DictLimiter(), "closed", lambda: 0.0, is_local=True),
    }
    if sort == "mapped":
        made[sort] = MappedLimiter(str(tmp_path / f"windows-{next(_numbers)}"), clock=clock)
    limiter, model = made[sort], Model()
    each = ((window(5), window(30, HOUR)), RULE, (window(8, HOUR, "account:b|x"),))
    taken: list[tuple[Sequence[Window], int, int]] = []
    for step in steps:
        clock.advance(step.moved)
        demands = [Demand(*one) for one in zip(each, step.costs, strict=True)]
        demands = demands[step.order :] + demands[: step.order]
        if step.deed == "take":
            tally = limiter.take_together(demands, clock.now)
            expected = model.take_together(demands, clock.now)
            assert tally.admitted == expected.admitted
            if tally.admitted or sort in AT_ONE_STROKE:
                assert tally == expected
            if tally.admitted:
                taken += [(*one, clock.now) for one in demands]
        elif step.deed == "add":
            for windows, cost in demands:
                limiter.add(windows, cost, clock.now)
                model.give_back(windows, -cost, clock.now)
                taken.append((windows, cost, clock.now))
        elif taken:  # nobody gives back what was not taken
            windows, cost, at = taken.pop(step.order % len(taken))
            limiter.give_back(windows, cost, at)
            model.give_back(windows, cost, at)
    for one in (one for windows in each for one in windows):
        looked = model.take_together([Demand([one], 0)], clock.now)
        assert limiter.take([one], 0, clock.now) == looked
    limiter.close()


# --- one by one -----------------------------------------------------------------------------------


class Failing(DictLimiter):
    """One that fails with the second take, and notes what it is given back."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error
        self.given_back: list[tuple[Sequence[Window], int]] = []
        self.takes = 0

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        self.takes += 1
        if self.takes == 2:
            raise self._error
        return super().take(windows, cost, now)

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        self.given_back.append((windows, cost))
        super().give_back(windows, cost, taken_at)


def test_a_failure_among_several() -> None:
    """S19: where a later subject has no answer, what was taken of those before is given back."""
    limiter = Failing(Away("away"))
    with pytest.raises(Away):
        one_by_one(limiter, [Demand(PLAN, 2), Demand(RULE, 1), Demand(ACCOUNT, 1)], NOW)
    assert limiter.given_back == [(PLAN, 2)]
    assert limiter.take([PLAN[0]], 0, NOW).remaining == PLAN[0].amount


def test_a_refusal_among_several_looks_at_the_rest() -> None:
    """O13: nothing is taken, however briefly, of those after the one that is refused."""
    limiter = DictLimiter()
    limiter.take(RULE, 6, NOW)
    asked: list[int] = []
    real = limiter.take

    def take(windows: Sequence[Window], cost: int, now: int) -> Tally:
        asked.append(cost)
        return real(windows, cost, now)

    limiter.take = take  # type: ignore[method-assign]  # to see what is asked
    demands = [Demand(PLAN, 2), Demand(RULE, 1), Demand(ACCOUNT, 3)]
    assert not one_by_one(limiter, demands, NOW).admitted
    assert asked == [2, 1, 0]


@pytest.mark.parametrize(("outage", "passes"), [("open", True), ("closed", False)])
def test_an_outage_of_one_s_own(clock: Clock, outage: Outage, passes: bool) -> None:
    """S19: while a limiter of one's own is away its policy answers at once for all subjects, and
    what is added meanwhile is told when it is back.
    """
    inner = Failing(ConnectionError("away"))
    limiter = GuardedLimiter(inner, outage, lambda: clock() / 1000)
    demands = [Demand(PLAN, 1), Demand(RULE, 1)]
    assert limiter.take_together_at_once(demands, NOW) is None
    inner.takes = 1
    for take in (limiter.take_together, limiter.take_together_at_once):
        if passes:
            assert take(demands, NOW) == Tally(True, RULE[0], 6, START + MINUTE)
        else:
            with pytest.raises(Away):
                take(demands, NOW)
    limiter.add(RULE, 9, NOW)
    assert inner.given_back == []
    clock.advance(1001)
    assert not limiter.take_together([Demand(RULE, 1)], NOW).admitted
    assert inner.given_back == [(RULE, -9)]


def test_what_is_added_blocks_nobody() -> None:
    """S19: of a limiter that does I/O, what is added is told in the background, once."""
    inner, background = Failing(ConnectionError("away")), Chores()
    limiter = GuardedLimiter(inner, "closed", lambda: 0.0)
    limiter.start(background)
    limiter.add(RULE, 4, NOW)
    limiter.add(RULE, 5, NOW)
    assert inner.given_back == []
    for job in background.jobs:
        job()
    assert inner.given_back == [(RULE, -4), (RULE, -5)]
    limiter.add(RULE, 1, NOW)
    limiter.flush()
    limiter.add(RULE, 2, NOW)
    limiter.close()
    assert [cost for _, cost in inner.given_back] == [-4, -5, -1, -2]
