"""One suite for every limiter, and what is particular to the one in memory."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush import Gate
from keyrush.core import sliding
from keyrush.core.sliding import UNLIMITED, Tally, Window
from keyrush.errors import ConfigurationError, DataError
from keyrush.limiter.counters import WindowCounts
from keyrush.limiter.guarded import GuardedLimiter
from keyrush.limiter.ledgers.postgresql import PostgresqlLedger
from keyrush.limiter.ledgers.protocol import AsyncLedger
from keyrush.limiter.ledgers.redis.ledger import RedisLedger
from keyrush.limiter.limits_library.adapter import LimitsLimiter
from keyrush.limiter.mapped import MappedLimiter
from keyrush.limiter.memory import MemoryLimiter
from keyrush.limiter.opening import open_limiter
from keyrush.limiter.protocol import AwaitedLimiter, Limiter, SmallLimiter
from keyrush.limiter.shared.exact import AwaitedExactLimiter, ExactLimiter
from keyrush.limiter.shared.leased import LeasedLimiter
from keyrush.runtime import clock as clocks
from tests.conftest import Clock, settings
from tests.support.calls import Asgi, Sent, Wsgi
from tests.support.ledgers import MemoryLedger
from tests.support.limiters import MINUTE, NOW, OURS, Timed, opened_limiter, window
from tests.support.scripts import run
from tests.support.valkey import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]


@pytest.fixture(params=OURS)
def limiter(request: pytest.FixtureRequest, clock: Clock) -> Iterator[SmallLimiter]:
    """Each limiter, empty."""
    clock.now = NOW
    with opened_limiter(request.param, request, clock) as timed:
        yield timed.inner if request.param == "memory" else timed


def in_threads(threads: int, work: Callable[[], int]) -> int:
    """The sum of what `work` returns in threads that begin together."""
    barrier = threading.Barrier(threads)

    def begin() -> int:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(threads) as pool:
        return sum(done.result() for done in [pool.submit(begin) for _ in range(threads)])


# --- every limiter -------------------------------------------------------------------------------


def test_takes_up_to_the_limit(limiter: SmallLimiter) -> None:
    """R6, R11: requests pass until the amount is used up; remaining counts down."""
    wanted = [window(3)]
    assert [limiter.take(wanted, 1, NOW)[0:3:2] for _ in range(4)] == [
        (True, 2),
        (True, 1),
        (True, 0),
        (False, 0),
    ]


def test_wait_is_exact(limiter: SmallLimiter) -> None:
    """R15: whoever waits until `ready_at` passes; a millisecond earlier they don't."""
    wanted = [window(3)]
    limiter.take(wanted, 3, NOW + 1000)
    refused = limiter.take(wanted, 1, NOW + 2000)
    assert not refused.admitted
    assert not limiter.take(wanted, 1, refused.ready_at - 1).admitted
    assert limiter.take(wanted, 1, refused.ready_at).admitted


def test_all_windows_or_none(limiter: SmallLimiter) -> None:
    """O13: a request that one window refuses takes from no other."""
    short, long = window(2), window(100, 3_600_000)
    for _ in range(5):
        limiter.take([short, long], 1, NOW)
    assert limiter.take([long], 0, NOW).remaining == 98
    assert limiter.take([long, short], 1, NOW).window == short


def test_subjects_are_apart(limiter: SmallLimiter) -> None:
    """No two callers share a window, nor do two lengths of one caller."""
    limiter.take([window(1)], 1, NOW)
    assert limiter.take([window(1, subject="key:b")], 1, NOW).admitted
    assert limiter.take([window(1, 3_600_000)], 1, NOW).admitted
    assert not limiter.take([window(1)], 1, NOW).admitted


def test_changed_amount_keeps_the_count(limiter: SmallLimiter) -> None:
    """A plan change neither resets nor forgives what was used."""
    limiter.take([window(100)], 80, NOW)
    assert not limiter.take([window(50)], 1, NOW).admitted
    assert limiter.take([window(200)], 1, NOW).remaining == 119


def test_nothing_wanted(limiter: SmallLimiter) -> None:
    """Where nothing limits, everything passes."""
    assert limiter.take([], 1, NOW) == Tally(True, None, 0, 0)


def test_zero_admits_nothing(limiter: SmallLimiter) -> None:
    """Traps: 0 is a limit."""
    assert not limiter.take([window(0)], 1, NOW).admitted


def test_look_takes_nothing(limiter: SmallLimiter) -> None:
    """A cost of 0 shows what is left, and is let through even when nothing is."""
    assert limiter.take([window(2)], 0, NOW).remaining == 2
    limiter.take([window(2)], 2, NOW)
    looked = limiter.take([window(2)], 0, NOW)
    assert (looked.admitted, looked.remaining) == (True, 0)


@pytest.mark.parametrize("cost", [-1, -(10**9)])
def test_negative_cost(limiter: SmallLimiter, cost: int) -> None:
    """A negative cost, which would add to what is left, is an error."""
    limiter.take([window(2)], 1, NOW)
    with pytest.raises(ValueError, match="cost"):
        limiter.take([window(2)], cost, NOW)
    assert limiter.take([window(2)], 0, NOW).remaining == 1


def test_huge_cost(limiter: SmallLimiter) -> None:
    """A cost above any limit is refused and takes nothing."""
    assert not limiter.take([window(2)], 2**60, NOW).admitted
    assert limiter.take([window(2)], 0, NOW).remaining == 2


def test_give_back(limiter: SmallLimiter) -> None:
    """What a refused request took is there again, also in the next period."""
    wanted = [window(5), window(9, 3_600_000)]
    limiter.take(wanted, 3, NOW)
    limiter.give_back(wanted, 2, NOW)
    assert limiter.take([wanted[0]], 0, NOW).remaining == 4
    assert limiter.take([wanted[1]], 0, NOW).remaining == 8
    later = NOW + MINUTE
    limiter.take([wanted[0]], 1, later)
    limiter.give_back([wanted[0]], 1, NOW)
    assert limiter.take([wanted[0]], 0, later).remaining == 4


def test_give_back_of_nothing(limiter: SmallLimiter) -> None:
    """To give back to a window that is not known makes no room."""
    limiter.give_back([window(2)], 5, NOW)
    assert limiter.take([window(2)], 0, NOW).remaining == 2
    limiter.take([window(2)], 1, NOW)
    limiter.give_back([window(2)], 5, NOW - 10 * MINUTE)
    assert limiter.take([window(2)], 0, NOW).remaining == 1


def test_exact_under_threads(limiter: SmallLimiter) -> None:
    """S35: 50 concurrent requests at limit 10: exactly 10 pass."""
    wanted = [window(10), window(1000, 3_600_000)]
    assert in_threads(50, lambda: limiter.take(wanted, 1, NOW).admitted) == 10
    assert limiter.take([wanted[1]], 0, NOW).remaining == 990


def test_exact_under_threads_with_returns(limiter: SmallLimiter) -> None:
    """S35: also while others give back."""
    wanted = [window(100)]

    def work() -> int:
        kept = 0
        for number in range(200):
            if limiter.take(wanted, 1, NOW).admitted:
                if number % 2:
                    limiter.give_back(wanted, 1, NOW)
                else:
                    kept += 1
        return kept

    assert in_threads(8, work) == 100
    assert limiter.take(wanted, 0, NOW).remaining == 0


def test_stale_now(limiter: SmallLimiter, clock: Clock) -> None:
    """R6: whoever reads the clock and then waits for a lock through two periods takes as of when
    it has the lock, and does not have the count begin anew.
    """
    wanted, late = [window(5, 1000)], NOW + 3100

    def passed(now: int) -> int:
        admitted = 0
        for _ in range(9):
            clock.now = late
            admitted += inner.take(wanted, 1, now).admitted
        return admitted

    inner = limiter.inner if isinstance(limiter, Timed) else limiter
    assert [passed(late), passed(NOW), passed(late)] == [5, 0, 0]


# --- in memory -----------------------------------------------------------------------------------


def test_memory_is_bounded_under_churn() -> None:
    """100,000 keys that come once each leave about two periods' worth of windows."""
    limiter = MemoryLimiter()
    most = 0
    for number in range(100_000):
        limiter.take([window(5, 1000, f"key:{number}")], 1, NOW + number)
        most = max(most, len(limiter))
    assert most <= 2100  # 1,000 keys a second, each of which counts for at most two


def test_counting_windows_stay() -> None:
    """A window that counts is not forgotten while 100,000 others pass, nor do these pile up."""
    limiter = MemoryLimiter()
    kept = [window(2, 3_600_000, f"key:{number}") for number in range(1000)]
    for one in kept:
        limiter.take([one], 2, NOW)
    for number in range(100_000):
        limiter.take([window(5, 1000, f"other:{number}")], 1, NOW + number)
        assert len(limiter) <= 4000
    assert not any(limiter.take([one], 1, NOW + 100_000).admitted for one in kept)


def test_refused_strangers_take_no_memory() -> None:
    """A window that has never admitted anything is not kept."""
    limiter = MemoryLimiter()
    for number in range(100):
        limiter.take([window(0, subject=f"key:{number}")], 1, NOW)
        limiter.take([window(5, subject=f"key:{number}")], 0, NOW)
    assert len(limiter) == 0


def test_what_is_cleared_goes_in_its_turn() -> None:
    """A window that is cleared counts nothing, and however often that is done it is kept once."""
    known = WindowCounts()
    one, other = Window("one", 60_000, 5, "minute"), Window("other", 60_000, 5, "minute")
    for _ in range(100):
        known.put([("one", (NOW // 60_000, 3, 0))], [one], NOW)
        known.clear_of([one, other])
    assert sliding.take([one], known, 0, NOW)[0].remaining == 5
    known.put([("other", (NOW // 60_000, 1, 0))], [other], NOW)
    assert list(known) == ["other"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 90_000)), max_size=200))
def test_forgetting_never_resets(requests: list[tuple[int, int]]) -> None:
    """However callers come and go, each is limited as if it were alone."""
    limiter = MemoryLimiter()
    alone = {subject: MemoryLimiter() for subject in range(4)}
    now = NOW
    for number, (subject, step) in enumerate(requests):
        now += step
        limiter.take([window(9, 1000, f"key:passing-{number}")], 1, now)
        wanted = [window(3, MINUTE, f"key:{subject}"), window(2, 10_000, f"key:{subject}")]
        assert limiter.take(wanted, 1, now) == alone[subject].take(wanted, 1, now)


def test_taken_at_once() -> None:
    """The event loop may call it: it does no I/O."""
    assert MemoryLimiter().take_at_once([window(2)], 1, NOW).remaining == 1


def test_fork_while_taking() -> None:
    """A child forked while a thread holds the lock takes without waiting, and keeps the counts."""
    out = run(
        """
        from keyrush.limiter.memory import MemoryLimiter
        from keyrush.core.sliding import Window
        from tests.support.scripts import fork_while_held

        limiter = MemoryLimiter()
        wanted = [Window("k", 60_000, 3, "minute")]
        limiter.take(wanted, 1, 0)
        fork_while_held(
            limiter._lock, lambda: print(limiter.take(wanted, 1, 0).remaining, flush=True)
        )
        """
    )
    assert out == "1\n"


# --- opening -------------------------------------------------------------------------------------


class OwnLimiter(MemoryLimiter):
    """A limiter of a user's own."""


def test_limiter_by_name() -> None:
    """A limiter of one's own is named as package.module:Class."""
    assert isinstance(open_limiter(f"{__name__}:OwnLimiter").limiter, OwnLimiter)


class OwnElsewhere(OwnLimiter):
    """One that says that its processes count together."""

    is_local = False


class OwnHere:
    """All that a user writes, and that it does no I/O."""

    is_local = True

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        return UNLIMITED

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        """Nothing was taken."""

    def close(self) -> None:
        """Nothing to let go of."""


@pytest.mark.parametrize(
    ("url", "is_shared"),
    [
        ("memory://", False),
        (f"{__name__}:OwnLimiter", False),
        (f"{__name__}:OwnElsewhere", True),
        (f"{__name__}:OwnHere", False),
        (f"{__name__}:Failing", True),
        ("limits+memory://", False),
        ("limits+redis://127.0.0.1:1", True),
        ("redis://127.0.0.1:1", True),
    ],
)
def test_who_counts_together(url: str, is_shared: bool) -> None:
    """Of each limiter it is known whether processes share its windows, of one's own by `is_local`,
    whole or not.
    """
    assert open_limiter(url).is_shared is is_shared


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://:hunter2@localhost/first",
        "redis://:hunter2@localhost:port",
        "redis+sentinel://:hunter2@localhost",
        "redis+nothing://:hunter2@localhost",
        "redis:/:hunter2@localhost",
        "hunter2",
        "hunter2:",
        ":hunter2",
        "no.such.module:Limiter",
        "json:NoSuchLimiter",
    ],
)
def test_no_such_limiter(url: str) -> None:
    """What is no limiter is refused at start-up; the message shows no password."""
    with pytest.raises(ConfigurationError, match="KEYRUSH_LIMITER_URL") as caught:
        open_limiter(url)
    assert "hunter2" not in str(caught.value)


# --- whole protocols ------------------------------------------------------------------------------


WHOLE = [
    MemoryLimiter,
    MappedLimiter,
    GuardedLimiter,
    ExactLimiter,
    AwaitedExactLimiter,
    LeasedLimiter,
]


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        *((kind, AwaitedLimiter) for kind in [*WHOLE, LimitsLimiter]),
        *((kind, AsyncLedger) for kind in [PostgresqlLedger, RedisLedger, MemoryLedger]),
    ],
)
def test_parameters_have_the_names_of_the_protocol(kind: type, protocol: type) -> None:
    """Every limiter and every ledger can be called by keyword, by the names of its protocol."""
    for name in {name for name in dir(protocol) if not name.startswith("_")} & set(dir(kind)):
        if inspect.isfunction(method := getattr(kind, name)):
            said = inspect.signature(getattr(protocol, name))
            assert list(inspect.signature(method).parameters) == list(said.parameters), name


def test_called_by_keyword(limiter: SmallLimiter) -> None:
    """Every limiter can be called by keyword."""
    wanted = [window(2)]
    assert limiter.take(windows=wanted, cost=2, now=NOW).remaining == 0
    limiter.give_back(windows=wanted, cost=1, taken_at=NOW)
    assert limiter.take(windows=wanted, cost=1, now=NOW).admitted


@pytest.mark.parametrize(
    "limiter",
    [
        GuardedLimiter(MemoryLimiter(), "closed", lambda: 0.0, is_local=True),
        LimitsLimiter("memory://"),
        MemoryLimiter(),
    ],
)
def test_others_called_by_keyword(limiter: SmallLimiter) -> None:
    """So can those that are over no ledger, and from memory alone."""
    wanted = [window(2)]
    limiter.take(windows=wanted, cost=1, now=NOW)
    limiter.give_back(windows=wanted, cost=1, taken_at=NOW)
    if isinstance(limiter, Limiter):
        tally = limiter.take_at_once(windows=wanted, cost=2, now=NOW)
        assert tally is not None
        assert tally.admitted


def test_awaited_by_keyword(valkey_url: str) -> None:
    """So can the one that is awaited."""
    opened = open_limiter(valkey_url, mode="exact", clock=clocks.Clock.of(lambda: NOW))
    assert opened.awaited is not None
    tally = asyncio.run(opened.awaited.take_async(windows=[window(2)], cost=1, now=NOW))
    assert tally is not None
    assert tally.remaining == 1
    opened.limiter.close()


@pytest.mark.parametrize("kind", WHOLE)
def test_whole(kind: type) -> None:
    """What stands behind the gate has all that a limiter has, so that nobody need look."""
    names = {name for name in dir(Limiter) if not name.startswith("_")}
    assert names <= set(dir(kind))


class Failing:
    """All that a user writes; the server is away."""

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        raise ConnectionError("away")

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        raise ConnectionError("away")

    def close(self) -> None:
        """Nothing to let go of."""


class FailingAwaited:
    """The same by coroutines."""

    async def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        raise ConnectionError("away")

    async def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        raise ConnectionError("away")

    async def close(self) -> None:
        """Nothing to let go of."""


class AwaitedInMemory(MemoryLimiter):
    """One of ours with a coroutine in place of a method."""

    async def take(  # type: ignore[override]  # which is what is tried
        self, windows: Sequence[Window], cost: int, now: int
    ) -> Tally:
        return super().take(windows, cost, now)


@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
def test_one_of_ours_with_a_coroutine(adapter: Any) -> None:
    """R6: a limiter that is whole but for a coroutine is bridged like any."""
    limiter: Any = AwaitedInMemory()
    gate = Gate.open(settings(), limiter=limiter)
    gate.accounts.create("acct_a", limits="1/day")
    sent = Sent("/", [("X-API-Key", gate.keys.create("acct_a", "k").text)])
    assert [adapter(gate).send(sent).status for _ in range(2)] == [200, 429]
    gate.close()


class Silent(Failing):
    """One that answers, but not with a tally."""

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Any:
        return None


class Fussy(Failing):
    """One that says that the values are at fault, as only a store may."""

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        raise DataError("what is this?")


@pytest.mark.parametrize("kind", [Failing, FailingAwaited, Silent, Fussy])
@pytest.mark.parametrize("is_named", [True, False], ids=["by url", "instance"])
@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
@pytest.mark.parametrize(("outage", "status"), [("open", 200), ("closed", 503), ("local", 503)])
def test_own_limiter_is_guarded(
    kind: Any, adapter: Any, outage: Any, status: int, *, is_named: bool
) -> None:
    """S19: a limiter of a user's own that fails is an outage like any: its policy holds, it is
    left alone for a while, and `health()` says so.
    """
    named = {"limiter_url": f"{__name__}:{kind.__name__}"} if is_named else {}
    gate = Gate.open(settings(limiter_outage=outage, **named), limiter=None if is_named else kind())
    gate.accounts.create("acct_a")
    sent = Sent("/", [("X-API-Key", gate.keys.create("acct_a", "k").text)])
    assert [adapter(gate).send(sent).status for _ in range(2)] == [status] * 2
    health = gate.health()
    assert not health.is_well
    assert health.limits_meanwhile == ("open" if outage == "open" else "closed")
    gate.close()


class Keeping(MemoryLimiter):
    """One that takes, and gives nothing back."""

    async def give_back(  # type: ignore[override]  # so that it is bridged and guarded
        self, windows: Sequence[Window], cost: int, taken_at: int
    ) -> None:
        raise ConnectionError("away")


@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
@pytest.mark.parametrize(("outage", "status"), [("open", 429), ("closed", 503)])
def test_own_limiter_that_gives_nothing_back(adapter: Any, outage: Any, status: int) -> None:
    """R13, S19: open, a quota is exceeded also where its request can't be given back to windows."""
    plans = {"starter": {"limits": "9/day", "monthly_quota": 1, "on_exceed": "block"}}
    limiter: Any = Keeping()
    gate = Gate.open(settings(limiter_outage=outage, plans=plans), limiter=limiter)
    gate.accounts.create("acct_a")
    sent = Sent("/", [("X-API-Key", gate.keys.create("acct_a", "k").text)])
    assert [adapter(gate).send(sent).status for _ in range(2)] == [200, status]
    assert not gate.health().is_well
    gate.close()
