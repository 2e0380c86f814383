"""Monthly counts: nothing lost, nothing counted twice, whatever the store and the clock do."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from keyrush.core.identity import Verified, account_subject, key_subject
from keyrush.core.model import Plan, Quota
from keyrush.core.times import month_of
from keyrush.runtime.background import Background
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.logs import faults
from keyrush.store.memory import MemoryStore
from keyrush.store.protocol import Batch
from keyrush.usage.counting import FLUSH_INTERVAL, PORTION, MonthlyCounts
from tests.support.scripts import run
from tests.support.values import MONTH, NOW, account, verified

KEY, ACCOUNT = key_subject("cred_a"), account_subject("acct_a")

#: The first millisecond of December 2026, UTC.
DECEMBER = 1_796_083_200_000
NEXT = "2026-12"


class FaultyStore(MemoryStore):
    """A store that fails when told to, and says what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = False
        self.meanwhile: Callable[[], object] | None = None  # called once, in `add_usage`
        self.afterwards: Callable[[], object] = int  # called there, too, when all is written
        self.flushed = threading.Event()
        self.touched: list[dict[str, int]] = []
        self.sizes: list[int] = []  # rows of each write
        self.add_account(account())

    def add_usage(
        self,
        month: str,
        increments: Mapping[str, int],
        batch: Batch | None = None,
        used: Mapping[str, int] | None = None,
    ) -> Mapping[str, int]:
        if self.meanwhile is not None:
            work, self.meanwhile = self.meanwhile, None
            work()
        if self.failing:
            raise OSError("away")
        totals = super().add_usage(month, increments, batch, used)
        self.sizes.append(len(increments) + len(used or {}))
        if used:
            self.touched.append(dict(used))
        self.afterwards()
        self.flushed.set()
        return totals


@pytest.fixture
def store() -> FaultyStore:
    """A store with one account."""
    return FaultyStore()


def impatient() -> Circuit:
    """A circuit that lets every call try, because time flies."""
    return Circuit("the store", itertools.count(0, 10).__next__)


@pytest.fixture
def usage(store: FaultyStore) -> MonthlyCounts:
    """Counts over that store, flushed by the tests alone."""
    return MonthlyCounts(store, impatient())


def caller(
    usage: MonthlyCounts,
    store: MemoryStore,
    key_id: str = "cred_a",
    *,
    plan: Plan | None = None,
    now: int = NOW,
) -> Verified:
    """A key, with counts as the store has them."""
    month = month_of(now)
    mark = usage.flushes
    subjects = key_subject(key_id), ACCOUNT
    found = store.usage(subjects[0], month), store.usage(ACCOUNT, month)
    return verified(key_id=key_id, plan=plan, counts=usage.counts_of(subjects, found, mark, now))


def stored(store: MemoryStore, month: str = MONTH) -> tuple[int, int]:
    """The key's and the account's count in the store."""
    return store.usage(KEY, month), store.usage(ACCOUNT, month)


def totals(who: Verified) -> tuple[int, ...]:
    """What the key's and the account's counts say in memory."""
    return tuple(count.total for count in who.counts)


def test_flush_interval() -> None:
    """Counts are in the store at most one second late."""
    assert FLUSH_INTERVAL <= 1


def test_counted_for_key_and_account(usage: MonthlyCounts, store: FaultyStore) -> None:
    """R6, O13: a request counts for its key and its account, at once and after the flush."""
    a, b = caller(usage, store), caller(usage, store, "cred_b")
    for who in (a, a, b):
        assert usage.add(who, NOW)
    assert (totals(a), totals(b)) == ((2, 3), (1, 3))
    assert stored(store) == (0, 0)
    usage.flush()
    assert (totals(a), totals(b)) == ((2, 3), (1, 3))
    assert stored(store) == (2, 3)
    usage.flush()
    assert stored(store) == (2, 3)


def test_unmetered_keys_count_nothing(usage: MonthlyCounts, store: FaultyStore) -> None:
    """R2: a sandbox key is not counted, and not blocked."""
    blocked = Plan("p", quota=Quota(0, "block"))
    who = verified(plan=blocked)
    assert usage.add(who, NOW)
    usage.take_back(who, NOW)
    usage.flush()
    assert stored(store) == (0, 0)


def test_counts_of_other_processes_are_seen(usage: MonthlyCounts, store: FaultyStore) -> None:
    """What others have counted shows after a flush, and after a look-up."""
    who = caller(usage, store)
    store.add_usage(MONTH, {KEY: 10, ACCOUNT: 20})
    usage.add(who, NOW)
    usage.flush()
    assert totals(who) == (11, 21)
    store.add_usage(MONTH, {KEY: 5})
    caller(usage, store)
    assert totals(who) == (16, 21)


# --- failures ------------------------------------------------------------------------------------


def test_failure_loses_nothing(usage: MonthlyCounts, store: FaultyStore) -> None:
    """Counts that can't be written are kept and written once, with those that came meanwhile."""
    who = caller(usage, store)
    usage.add(who, NOW)
    store.failing = True
    store.meanwhile = lambda: usage.add(who, NOW)
    usage.flush()
    usage.add(who, NOW)
    assert totals(who) == (3, 3)
    usage.flush()
    assert totals(who) == (3, 3)
    assert stored(store) == (0, 0)
    store.failing = False
    usage.flush()
    usage.flush()
    assert stored(store) == (3, 3)
    assert totals(who) == (3, 3)


def test_failure_is_logged_once(
    usage: MonthlyCounts, store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage is one line in the log, not one a second; the next outage is another."""
    who = caller(usage, store)
    usage.add(who, NOW)
    for _ in range(2):
        store.failing = True
        for _ in range(3):
            usage.flush()
        store.failing = False
        usage.flush()
        usage.add(who, NOW)
        faults.forget()  # as after a second
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in records] == ["the store is away: OSError: away"] * 2


def test_take_back_during_a_failing_flush(usage: MonthlyCounts, store: FaultyStore) -> None:
    """A request refused while its count is on its way is uncounted all the same."""
    who = caller(usage, store)
    usage.add(who, NOW)
    store.failing = True
    store.meanwhile = lambda: usage.take_back(who, NOW)
    usage.flush()
    assert totals(who) == (0, 0)
    store.failing = False
    usage.flush()
    assert stored(store) == (0, 0)


# --- portions ------------------------------------------------------------------------------------


@pytest.fixture
def fleet(usage: MonthlyCounts, store: FaultyStore) -> list[Verified]:
    """Keys of one account, as many as make six portions with when they were last used."""
    return [caller(usage, store, f"cred_{number}") for number in range(3 * PORTION - 1)]


def test_portions(usage: MonthlyCounts, store: FaultyStore, fleet: list[Verified]) -> None:
    """However much is due, no write has more than `PORTION` rows; and what comes meanwhile is
    counted at once, and written by the next flush at the latest.
    """
    for who in fleet:
        usage.add(who, NOW)
        usage.note_use(who.key_id, NOW)
    store.afterwards = lambda: usage.add(fleet[0], NOW)
    assert usage.flush()
    assert store.sizes == [PORTION] * 5 + [PORTION - 1]
    assert len(fleet) <= store.usage(ACCOUNT, MONTH) <= len(fleet) + 6
    assert totals(fleet[0])[1] == len(fleet) + 6
    assert len({key_id for some in store.touched for key_id in some}) == len(fleet)
    store.afterwards = int
    assert usage.flush()
    assert store.sizes[6:] == [2]
    assert store.usage(ACCOUNT, MONTH) == len(fleet) + 6


def test_portions_that_fail(
    usage: MonthlyCounts, store: FaultyStore, fleet: list[Verified]
) -> None:
    """Where one of several portions can't be written, it and those behind it are kept, and what
    comes meanwhile with them: each is counted once, in its own month.
    """
    for who in fleet:
        usage.add(who, NOW)

    def fail_the_third() -> None:
        store.failing = len(store.sizes) == 2

    store.afterwards = fail_the_third
    assert not usage.flush()
    assert store.sizes == [PORTION] * 2
    assert usage.unwritten + store.usage(ACCOUNT, MONTH) == len(fleet)
    for who in fleet:
        usage.add(who, DECEMBER)
    assert not usage.flush()
    assert usage.unwritten + store.usage(ACCOUNT, MONTH) == 2 * len(fleet)
    store.failing = False
    assert usage.flush()
    assert max(store.sizes) == PORTION
    assert usage.unwritten == 0
    for month in (MONTH, NEXT):
        counted = [store.usage(key_subject(who.key_id), month) for who in fleet]
        assert counted == [1] * len(fleet)
        assert store.usage(ACCOUNT, month) == len(fleet)


# --- taking back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("flushed", [False, True])
def test_take_back(usage: MonthlyCounts, store: FaultyStore, flushed: bool) -> None:
    """A request that is refused after all is uncounted, before or after a flush."""
    who = caller(usage, store)
    usage.add(who, NOW)
    usage.add(who, NOW)
    if flushed:
        usage.flush()
    usage.take_back(who, NOW)
    assert totals(who) == (1, 1)
    usage.flush()
    assert stored(store) == (1, 1)


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_take_back_across_months(
    usage: MonthlyCounts, store: FaultyStore, flushed: bool, turned: bool
) -> None:
    """R18: what was counted before midnight is uncounted there, whatever came between."""
    who = caller(usage, store)
    usage.add(who, DECEMBER - 1)
    if flushed:
        usage.flush()
    if turned:
        usage.add(who, DECEMBER)
    usage.take_back(who, DECEMBER - 1)
    usage.flush()
    assert stored(store) == (0, 0)
    assert stored(store, NEXT) == ((1, 1) if turned else (0, 0))


# --- months --------------------------------------------------------------------------------------


def test_month_turns_at_midnight_utc(usage: MonthlyCounts, store: FaultyStore) -> None:
    """R18: the count begins anew with the month; each request is stored in its own month."""
    who = caller(usage, store)
    usage.add(who, DECEMBER - 1)
    usage.add(who, DECEMBER - 1)
    assert totals(who) == (2, 2)
    usage.add(who, DECEMBER)
    assert totals(who) == (1, 1)
    usage.flush()
    assert (stored(store), stored(store, NEXT)) == ((2, 2), (1, 1))
    assert totals(who) == (1, 1)


@pytest.mark.parametrize("failing", [False, True])
def test_month_turns_during_a_flush(
    usage: MonthlyCounts, store: FaultyStore, failing: bool
) -> None:
    """R18: a flush that spans midnight writes each request once, in its own month."""
    who = caller(usage, store)
    usage.add(who, DECEMBER - 1)
    store.failing = failing
    store.meanwhile = lambda: usage.add(who, DECEMBER)
    usage.flush()
    assert totals(who) == (1, 1)
    store.failing = False
    usage.flush()
    usage.flush()
    assert (stored(store), stored(store, NEXT)) == ((1, 1), (1, 1))
    assert totals(who) == (1, 1)


def test_each_key_turns_the_account_once(usage: MonthlyCounts, store: FaultyStore) -> None:
    """R18: two keys of an account see one count of it, also as the month turns."""
    a, b = caller(usage, store), caller(usage, store, "cred_b")
    usage.add(a, DECEMBER - 1)
    usage.add(b, DECEMBER - 1)
    usage.add(a, DECEMBER)
    usage.add(b, DECEMBER)
    assert (totals(a), totals(b)) == ((1, 2), (1, 2))
    usage.flush()
    assert (stored(store), stored(store, NEXT)) == ((1, 2), (1, 2))


def test_each_key_begins_the_month_itself(usage: MonthlyCounts, store: FaultyStore) -> None:
    """R18: where the quota is the account's, a key whose account another has brought into the new
    month is counted in it, too.
    """
    a, b = (
        replace(who, quota_count=who.counts[1])
        for who in (caller(usage, store), caller(usage, store, "cred_b"))
    )
    for now in (DECEMBER - 1, DECEMBER):
        usage.add(a, now)
        usage.add(b, now)
    usage.flush()
    for month in (MONTH, NEXT):
        assert stored(store, month) == (1, 2)
        assert store.usage(key_subject("cred_b"), month) == 1


def test_look_up_in_the_new_month(usage: MonthlyCounts, store: FaultyStore) -> None:
    """R18: a look-up after midnight keeps what is pending from before it."""
    who = caller(usage, store)
    usage.add(who, DECEMBER - 1)
    store.add_usage(NEXT, {KEY: 7})
    assert totals(caller(usage, store, now=DECEMBER)) == (7, 0)
    usage.flush()
    assert (stored(store), stored(store, NEXT)) == ((1, 1), (7, 0))


@pytest.mark.parametrize("counted", [0, 4])
def test_look_up_from_before_midnight_that_ends_after_it(
    usage: MonthlyCounts, store: FaultyStore, counted: int
) -> None:
    """R18: totals of the old month that arrive late are not taken for the new month's."""
    store.add_usage(MONTH, {KEY: 100, ACCOUNT: 100})
    other = caller(usage, store, "cred_b", now=DECEMBER)
    for _ in range(counted):
        usage.add(other, DECEMBER)
    usage.flush()
    late = caller(usage, store, now=DECEMBER - 1)
    assert totals(late) == (0, counted)
    assert totals(other) == (counted, counted)


# --- quotas --------------------------------------------------------------------------------------


def test_blocking_quota_is_exact(usage: MonthlyCounts, store: FaultyStore) -> None:
    """R13: with `block`, of many concurrent requests exactly the quota passes."""
    plan = Plan("p", quota=Quota(100, "block"))
    who = caller(usage, store, plan=plan)
    barrier = threading.Barrier(8)

    def ask() -> int:
        barrier.wait()
        return sum(usage.add(who, NOW) for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert sum(done.result() for done in [pool.submit(ask) for _ in range(8)]) == 100
    usage.flush()
    assert stored(store) == (100, 100)
    assert not usage.add(who, NOW)
    usage.take_back(who, NOW)
    assert usage.add(who, NOW)
    assert not usage.add(who, NOW)
    assert usage.add(who, DECEMBER)


def test_overage_is_counted_and_never_blocks(usage: MonthlyCounts, store: FaultyStore) -> None:
    """R13, R14: with `overage`, the default, everything passes and counts."""
    who = caller(usage, store, plan=Plan("p", quota=Quota(2)))
    assert all(usage.add(who, NOW) for _ in range(10))
    assert totals(who) == (10, 10)


# --- look-ups and flushes that cross -------------------------------------------------------------


def test_totals_overtaken_by_a_flush(usage: MonthlyCounts, store: FaultyStore) -> None:
    """A total read before a flush is passed over: what was flushed would be missing or double."""
    who = caller(usage, store)
    usage.add(who, NOW)
    mark = usage.flushes
    before = stored(store)
    usage.flush()
    usage.counts_of((KEY, ACCOUNT), before, mark, NOW)
    assert totals(who) == (1, 1)


def test_totals_read_during_a_flush(usage: MonthlyCounts, store: FaultyStore) -> None:
    """A look-up while a flush is on its way neither loses nor doubles what is flushed."""
    who = caller(usage, store)
    usage.add(who, NOW)
    seen = []
    store.meanwhile = store.afterwards = lambda: seen.append(totals(caller(usage, store)))
    usage.flush()
    assert seen == [(1, 1), (1, 1)]
    assert totals(who) == (1, 1)
    assert stored(store) == (1, 1)


def test_a_subject_has_one_count(usage: MonthlyCounts, store: FaultyStore) -> None:
    """Keys that are loaded twice, or share an account, share its count."""
    a, again, b = (caller(usage, store, key) for key in ("cred_a", "cred_a", "cred_b"))
    assert a.counts[0] is again.counts[0]
    assert a.counts[1] is b.counts[1]
    assert a.counts[0] is not b.counts[0]


def test_counts_go_with_their_keys(usage: MonthlyCounts, store: FaultyStore) -> None:
    """Memory is bounded: a flushed count goes when no cached key holds it."""
    who = caller(usage, store)
    usage.add(who, NOW)
    counts = [weakref.ref(count) for count in who.counts]
    del who
    gc.collect()
    assert all(count() is not None for count in counts)
    usage.flush()
    gc.collect()
    assert all(count() is None for count in counts)
    assert stored(store) == (1, 1)


def test_concurrent_counts_and_flushes(usage: MonthlyCounts, store: FaultyStore) -> None:
    """Requests, refusals and flushes from many threads lose nothing."""
    who = caller(usage, store)
    barrier = threading.Barrier(6)

    def count() -> None:
        barrier.wait()
        for number in range(2000):
            usage.add(who, NOW)
            if number % 4 == 0:
                usage.take_back(who, NOW)

    def flush() -> None:
        barrier.wait()
        for number in range(100):
            store.failing = number % 5 == 0
            usage.flush()

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work) for work in (count, count, count, count, flush, flush)]:
            done.result()
    store.failing = False
    usage.flush()
    assert totals(who) == stored(store) == (6000, 6000)


# --- last use ------------------------------------------------------------------------------------


def test_last_use_is_written_with_the_flush(usage: MonthlyCounts, store: FaultyStore) -> None:
    """One write for all keys that were used, each with its latest use."""
    usage.note_use("cred_a", NOW)
    usage.note_use("cred_b", NOW + 1)
    usage.note_use("cred_a", NOW + 2)
    usage.flush()
    usage.flush()
    assert store.touched == [{"cred_a": NOW + 2, "cred_b": NOW + 1}]


def test_last_use_and_counts_are_one_write(usage: MonthlyCounts, store: FaultyStore) -> None:
    """Counts and uses are written together; where that fails, together again, each once."""
    who = caller(usage, store)
    usage.add(who, NOW)
    usage.note_use("cred_a", NOW)
    store.failing = True
    assert not usage.flush()
    store.failing = False
    assert usage.flush()
    assert usage.flush()
    assert store.sizes == [3]
    assert store.touched == [{"cred_a": NOW}]
    assert stored(store) == (1, 1)


def test_last_use_that_can_not_be_written(
    usage: MonthlyCounts, store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and costs no counts."""
    who = caller(usage, store)
    usage.note_use("cred_a", NOW)
    store.failing = True
    assert not usage.flush()
    assert "the store is away" in caplog.text
    store.failing = False
    usage.add(who, NOW)
    assert usage.flush()
    assert stored(store) == (1, 1)


# --- the thread ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["count", "use"])
def test_flushed_in_the_background(usage: MonthlyCounts, store: FaultyStore, what: str) -> None:
    """Nobody has to call `flush`: a thread does, again and again, until it is closed."""
    before = threading.enumerate()
    background = Background()
    background.every(0.01, usage.flush)
    background.start()
    who = caller(usage, store)
    for turn in range(3):
        store.flushed.clear()
        if what == "use":
            usage.note_use("cred_a", NOW + turn)
        else:
            usage.add(who, NOW)
        assert store.flushed.wait(10)
    background.close()
    assert threading.enumerate() == before
    assert len(store.touched) == (3 if what == "use" else 0)
    assert stored(store) == ((3, 3) if what == "count" else (0, 0))


def test_unwritten(usage: MonthlyCounts, store: FaultyStore) -> None:
    """What is counted and not written is known, each request once, also while it can't be."""
    who = caller(usage, store)
    for _ in range(3):
        usage.add(who, NOW)
    assert usage.unwritten == 3
    store.failing = True
    assert not usage.flush()
    usage.add(who, NOW)
    assert usage.unwritten == 4
    store.failing = False
    assert usage.flush()
    assert usage.unwritten == 0


def test_flush_may_be_followed_by_more(usage: MonthlyCounts, store: FaultyStore) -> None:
    """A normal stop loses nothing; what comes later is counted, too."""
    who = caller(usage, store)
    for total in (1, 2):
        usage.add(who, NOW)
        usage.flush()
        usage.flush()
        assert stored(store) == (total, total)


def test_fork_counts_once(tmp_path: Path) -> None:
    """What is pending at a fork is written by the parent alone; the child writes its own."""
    out = run(
        """
        import os, sys
        from keyrush.runtime.circuit import Circuit
        from keyrush.store.opening import open_store
        from keyrush.usage.counting import MonthlyCounts
        from tests.support.values import MONTH, NOW, account, verified

        store = open_store(sys.argv[1]).store
        store.add_account(account())
        usage = MonthlyCounts(store, Circuit("the store"))
        who = verified(counts=usage.counts_of(("key:cred_a", "account:acct_a"), (0, 0), 0, NOW))
        for _ in range(5):
            usage.add(who, NOW)
        child = os.fork()
        if not child:
            assert usage.add(who, NOW)
            assert usage.add(who, NOW)
            usage.flush()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(store.usage("key:cred_a", MONTH))
        usage.add(who, NOW)
        usage.flush()
        print(store.usage("key:cred_a", MONTH), store.usage("account:acct_a", MONTH))
        """,
        f"sqlite:///{tmp_path}/keyrush.db",
    )
    assert out.split() == ["2", "8", "8"]
