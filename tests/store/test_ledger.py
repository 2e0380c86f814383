"""The ledger of every store: one arithmetic, whoever keeps it, and nothing that does not add up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyrush.core import ledger
from keyrush.core.ledger import (
    By,
    Entry,
    EntryPlace,
    EntryWhere,
    Lot,
    Posting,
    Reason,
    Refill,
    Source,
)
from keyrush.core.model import Link
from keyrush.core.times import DAY, SECOND
from keyrush.store import memory_ledger
from keyrush.store.memory import MemoryStore
from keyrush.store.opening import open_store
from keyrush.store.protocol import Store
from keyrush.store.sql import SqlStore
from tests.support.stores import empty, grant, in_threads, store
from tests.support.values import NOW, account

__all__ = ["empty", "store"]  # fixtures

WHO = By("mcp", "sub_1", "auth0|ä", "audit_site", "req-1")

numbers = itertools.count()

HOUR = 3600 * SECOND


def everything(store: Store, account_id: str = "acct_a") -> list[Entry]:
    """All entries, oldest first, but for those of nothing."""
    return list(reversed(store.entries(account_id, limit=100_000)))


def assert_adds_up(store: Store) -> None:
    """Each balance is the sum of its entries, and so is each that an entry says."""
    assert store.audit_entries(None, 100_000).wrong == []
    assert store.audit_balances(None, 100_000).wrong == []
    for one in store.accounts(limit=1000):
        entries = everything(store, one.id)
        running = list(itertools.accumulate(entry.amount for entry in entries))
        assert [entry.balance for entry in entries] == running
        assert one.balance == (running[-1] if running else 0)


# --- entries -------------------------------------------------------------------------------------


def test_what_entries_say(store: Store) -> None:
    """O3, O19, O20: each change is an entry: when, how much, why, of whom and for what."""
    posting = Posting(100, "top_up", NOW, "inv_42", "für ✓", NOW + DAY)
    added = store.post("acct_a", posting)
    assert store.charge("acct_a", 30, "one", NOW + 1, WHO) == 70
    assert store.reverse("acct_a", "one", NOW + 2, 10) == 80
    assert everything(store) == [
        Entry(
            *("acct_a", 1, NOW, 100, 100, "top_up", "inv_42"),
            note="für ✓",
            expires_at=NOW + DAY,
        ),
        Entry(*("acct_a", 2, NOW + 1, -30, 70, "charge", "one"), by=WHO, taken=((1, 30),)),
        Entry(*("acct_a", 3, NOW + 2, 10, 80, "reversal", None, "one"), by=WHO),
    ]
    assert everything(store)[0] == added
    assert everything(store, "acct_b") == everything(store, "acct_x") == []
    assert_adds_up(store)


def test_an_account_with_a_balance(empty: Store) -> None:
    """O3: what an account is added with is its first entry."""
    empty.add_account(account(balance=7))
    empty.add_account(account(balance=9))
    [entry] = everything(empty)
    assert (entry.amount, entry.reason, entry.reference) == (7, "adjustment", ledger.OPENING)
    assert_adds_up(empty)


def test_an_account_that_comes_with_a_link(empty: Store) -> None:
    """O3, O8: what the account of a new session is added with is its first entry, too."""
    made = Link("sub_a", "acct_a", "https://issuer", "user-1", NOW)
    assert empty.add_link(made, account(balance=7)) == "done"
    assert [one.reference for one in everything(empty)] == [ledger.OPENING]
    assert_adds_up(empty)


def test_additions_are_made_once(store: Store) -> None:
    """O19: what has the same reference gives the first entry again, and adds nothing; of another
    account it is another.
    """
    first = store.post("acct_a", Posting(100, "top_up", NOW, "inv_42"))
    again = store.post("acct_a", Posting(7, "grant", NOW + 5, "inv_42", "other"))
    assert first == again
    came = in_threads(
        lambda _: store.post("acct_b", Posting(5, "top_up", NOW, "inv_42", expires_at=NOW + 9)), 32
    )
    assert set(came) == {Entry("acct_b", 1, NOW, 5, 5, "top_up", "inv_42", expires_at=NOW + 9)}
    assert_adds_up(store)


def test_adjustments(store: Store) -> None:
    """O12: one may take, but no more than there is."""
    grant(store, "acct_a", 10)
    assert store.post("acct_a", Posting(-11, "adjustment", NOW)) is None
    taken = store.post("acct_a", Posting(-10, "adjustment", NOW))
    assert taken is not None
    assert taken.balance == 0
    assert store.post("acct_x", Posting(5, "grant", NOW)) is None
    assert_adds_up(store)


def test_a_charge_of_nothing_is_no_entry(store: Store) -> None:
    """O3: to charge 0 asks for the balance."""
    grant(store, "acct_a", 10)
    assert store.charge("acct_a", 0, "one", NOW) == 10
    assert len(everything(store)) == 1
    assert store.reverse("acct_a", "one", NOW) is None
    assert store.charge("acct_a", 0, "one", NOW) == 10


def test_only_charges_are_reversed(store: Store) -> None:
    """O11: neither what was added nor what another account was charged, and no more than it was."""
    store.post("acct_a", Posting(100, "top_up", NOW, "inv_42"))
    store.charge("acct_a", 30, "one", NOW)
    assert store.reverse("acct_a", "inv_42", NOW) is None
    assert store.reverse("acct_b", "one", NOW) is None
    assert store.reverse("acct_x", "one", NOW) is None
    assert store.reverse("acct_a", "one", NOW, 99) == 100
    assert store.reverse("acct_a", "one", NOW, 5) is None
    assert_adds_up(store)


def test_pages_of_entries(store: Store) -> None:
    """O3: newest first, of some reasons or of all, without those of nothing, whatever comes
    meanwhile.
    """
    store.reverse("acct_a", "early", NOW)  # leaves an entry of nothing
    grant(store, "acct_a", 100)
    for number in range(5):
        store.charge("acct_a", 1, f"c{number}", NOW)
    store.reverse("acct_a", "c0", NOW)
    store.post("acct_a", Posting(5, "top_up", NOW, "inv_1"))

    def page(*reasons: Reason, limit: int = 50, before: int | None = None) -> list[int]:
        found = store.entries("acct_a", EntryWhere(reasons), limit, before)
        return [one.number for one in found]

    assert page() == [9, 8, 7, 6, 5, 4, 3, 2]
    assert page(limit=3) == [9, 8, 7]
    grant(store, "acct_a", 1)
    assert page(limit=3, before=7) == [6, 5, 4]
    assert page("charge") == [7, 6, 5, 4, 3]
    assert page("charge", "reversal", limit=2, before=8) == [7, 6]
    assert page("top_up", "grant") == [10, 9, 2]
    assert page("top_up", before=9) == []
    assert page("reversal", "grant", "top_up") == [10, 9, 8, 2]
    assert page("reversal", "charge", "grant", limit=3, before=9) == [8, 7, 6]
    assert page("expiry") == []


def test_entries_by_door_and_time(store: Store) -> None:
    """O3, O20: of some reasons, some doors and some time, one without the others or all of them;
    also where processes whose clocks differ by minutes have written.
    """
    doors: list[Source] = ["api", "mcp", "dashboard"]
    grant(store, "acct_a", 1000)
    for number in range(60):
        at = NOW + number * HOUR - number % 3 * 180_000
        by = By(doors[number % 3], "key_1")
        store.charge("acct_a", 1, f"c{number}", at, by)
        if number % 10 == 0:
            store.reverse("acct_a", f"c{number}", at + 1)
    store.post("acct_a", Posting(5, "top_up", NOW + 60 * HOUR))
    every = everything(store)[::-1]
    times = [None, NOW - DAY, NOW, NOW + 7 * HOUR + 1, NOW + 30 * HOUR, NOW + 99 * HOUR]
    reasons: list[tuple[Reason, ...]] = [(), ("charge",), ("reversal", "top_up"), ("expiry",)]
    sources: list[tuple[Source, ...]] = [(), ("mcp",), ("api", "operator"), ("system",)]
    for where in itertools.starmap(EntryWhere, itertools.product(reasons, sources, times, times)):
        wanted = [
            one
            for one in every
            if (not where.reasons or one.reason in where.reasons)
            and (not where.sources or one.by.source in where.sources)
            and (where.since is None or where.since <= one.at)
            and (where.until is None or one.at < where.until)
        ]
        assert store.entries("acct_a", where, 100) == wanted
        if len(wanted) > 2:
            assert store.entries("acct_a", where, 2, wanted[0].number) == wanted[1:3]
    assert store.entries("acct_x", EntryWhere(since=NOW, until=NOW + 1)) == []


@pytest.mark.parametrize("leap", [400 * DAY, -400 * DAY])
@pytest.mark.parametrize("wrong", [range(26, 33), range(0, 60, 2), range(8), range(53, 60)])
def test_entries_by_time_whatever_a_clock_says(store: Store, wrong: range, leap: int) -> None:
    """O3: a clock that was wrong, for a while or in one of two processes, hides no entry of those
    that were right.
    """
    for number in range(60):
        at = NOW + number * HOUR + (leap if number in wrong else 0)
        store.post("acct_a", Posting(1, "grant", at))
    every = everything(store)[::-1]
    for since, until in ((NOW, None), (None, NOW + 60 * HOUR), (NOW, NOW + 60 * HOUR)):
        wanted = [
            one for one in every if (since or 0) <= one.at and (until is None or one.at < until)
        ]
        where = EntryWhere(since=since, until=until)
        assert store.entries("acct_a", where, 100) == wanted
        assert store.entries("acct_a", where, 9, wanted[9].number) == wanted[10:19]


@pytest.mark.parametrize(("first", "count", "hours"), [(130, 95, -100), (62, 19, 9600)])
def test_entries_beside_those_of_a_wrong_clock(
    store: Store, first: int, count: int, hours: int
) -> None:
    """O3: nor does it where the time that is asked for is one that the wrong clock told, too."""
    wrong = range(first, first + count)
    for number in range(300):
        at = NOW + (number + (hours if number in wrong else 0)) * HOUR
        store.post("acct_a", Posting(1, "grant", at))
    every = everything(store)[::-1]
    for number in (83, 122, 257):
        at = NOW + number * HOUR
        later = [one for one in every if one.at >= at]
        earlier = [one for one in every if one.at < at]
        assert store.entries("acct_a", EntryWhere(since=at), 300) == later
        assert store.entries("acct_a", EntryWhere(until=at), 300) == earlier


# --- what time brings ----------------------------------------------------------------------------


def test_balance_with_what_is_due(store: Store) -> None:
    """O3: who asks for a balance is given the month's credits, once, and nothing that has ended."""
    refill = Refill("2026-11", 50, NOW + DAY)
    assert store.balance("acct_x", NOW, refill) is None
    assert store.balance("acct_a", NOW) == 0
    assert {*in_threads(lambda _: store.balance("acct_a", NOW, refill), 32)} == {50}
    assert store.charge("acct_a", 20, "one", NOW + 5, refill=refill) == 30
    assert store.balance("acct_a", NOW + DAY - 1, refill) == 30
    assert store.balance("acct_a", NOW + DAY, refill) == 0
    assert [one.amount for one in everything(store)] == [50, -20, -30]
    assert_adds_up(store)


def test_a_month_is_given_once_by_whoever_comes_first(store: Store) -> None:
    """O3: of charges at once, which all find that the month has begun, one gives its credits."""
    refill = Refill("2026-11", 50, None)
    came = in_threads(lambda number: store.charge("acct_a", 1, f"c{number}", NOW, WHO, refill), 60)
    assert sorted(one for one in came if one is not None) == list(range(50))
    assert [one.reason for one in everything(store)] == ["refill"] + ["charge"] * 50
    assert_adds_up(store)


def test_who_is_short_has_been_given_the_month(store: Store) -> None:
    """O12: a charge that is refused for want of credits leaves the month's there."""
    assert store.charge("acct_a", 99, "one", NOW, WHO, Refill("2026-11", 50)) is None
    assert store.balance("acct_a", NOW) == 50


def test_a_thousand_charges_of_what_expires(store: Store) -> None:
    """O12: exact where several grants are spent at once, in the order in which they end."""
    for number, credits in enumerate((100, 200, 300)):
        posting = Posting(credits, "grant", NOW, expires_at=NOW + 1000 - number)
        store.post("acct_a", posting)
    in_threads(lambda number: store.charge("acct_a", 1, f"c{number}", NOW), 1000)
    charges = [one for one in everything(store) if one.reason == "charge"]
    assert [one.taken for one in charges] == [((3, 1),)] * 300 + [((2, 1),)] * 200 + [
        ((1, 1),)
    ] * 100
    assert store.balance("acct_a", NOW) == 0
    assert_adds_up(store)


def test_what_is_left_of_grants(store: Store) -> None:
    """O12: what is left of grants that expire is told in the order in which it is spent."""
    for number, credits in enumerate((100, 200), 1):
        store.post("acct_a", Posting(credits, "grant", NOW, expires_at=NOW + 1000 - number))
    store.post("acct_a", Posting(5, "grant", NOW))
    store.charge("acct_a", 50, "one", NOW)
    assert [*store.lots("acct_a")] == [Lot(NOW + 998, 2, 150), Lot(NOW + 999, 1, 100)]
    store.balance("acct_a", NOW + 998)
    assert [*store.lots("acct_a")] == [Lot(NOW + 999, 1, 100)]
    assert not [*store.lots("acct_b"), *store.lots("acct_x")]


# --- all stores are one --------------------------------------------------------------------------


class Step(NamedTuple):
    """One call of a store."""

    kind: str
    credits: int
    name: int
    later: int
    part: int | None
    refill: Refill | None


REFERENCES = [None, "a", "b", "c", "d"]

steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["charge"] * 4 + ["reverse", "reverse", "post", "take", "lot", "balance"]),
        st.integers(0, 12),
        st.integers(1, 4),
        st.integers(0, 4),
        st.none() | st.integers(0, 12),
        st.none()
        | st.builds(
            lambda month, amount, ends: Refill(f"2026-{month}", amount, NOW + ends),
            st.integers(10, 12),
            st.integers(1, 9),
            st.integers(0, 20),
        )
        | st.just(Refill("2026-11", 5)),
    ),
    max_size=25,
)


def done(store: Store, account_id: str, step: Step, at: int) -> Any:
    """What a step gives."""
    name = REFERENCES[step.name]
    assert name is not None
    if step.kind == "charge":
        return store.charge(account_id, step.credits, name, at, WHO, step.refill)
    if step.kind == "reverse":
        return store.reverse(account_id, name, at, step.part)
    if step.kind == "balance":
        return store.balance(account_id, at, step.refill)
    reason: Reason = "adjustment" if step.kind == "take" else "grant"
    amount = -step.credits - 1 if step.kind == "take" else step.credits + 1
    expires_at = at + step.name * 2 if step.kind == "lot" else None
    reference = None if step.part is None else f"p{step.part % 4}"
    posting = Posting(amount, reason, at, reference, expires_at=expires_at)
    return store.post(account_id, posting, step.refill)


@pytest.fixture
def all_stores(tmp_path: Path, postgres_url: str) -> Iterator[list[Store]]:
    """One of each kind."""
    urls = ["memory://", f"sqlite:///{tmp_path}/keyrush.db", postgres_url]
    opened = [open_store(url).store for url in urls]
    yield opened
    for one in opened:
        one.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_all_stores_are_one(all_stores: list[Store], sequence: list[Step]) -> None:
    """O3, O11, O12, O19: whatever is done, each store answers the same, has the same entries, and
    they add up; PostgreSQL restates in its own language what the others share.
    """
    account_id = f"acct_s{next(numbers)}"
    for one in all_stores:
        one.add_account(account(account_id))
    at = NOW
    for step in sequence:
        at += step.later
        given = [done(one, account_id, step, at) for one in all_stores]
        assert given == [given[0]] * 3
        assert all(
            one.account(account_id) == all_stores[0].account(account_id) for one in all_stores
        )
    entries = [everything(one, account_id) for one in all_stores]
    assert entries == [entries[0]] * 3
    running = list(itertools.accumulate(entry.amount for entry in entries[0]))
    assert [entry.balance for entry in entries[0]] == running
    assert all(balance >= 0 for balance in running)
    for one in all_stores:
        assert one.audit_entries(EntryPlace(account_id, 0), 100).wrong == []
        assert one.audit_balances(None, 100_000).wrong == []
    grants = sum(one.amount for one in entries[0] if one.expires_at)
    ended = -sum(one.amount for one in entries[0] if one.reason == "expiry")
    assert ended <= grants


# --- whether it adds up --------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def sql_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """A store in each database, with ledgers."""
    url = f"sqlite:///{tmp_path}/keyrush.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    made = open_store(url).store
    assert isinstance(made, SqlStore)
    for number in range(6):
        made.add_account(account(f"acct_{number}"))
        made.post(f"acct_{number}", Posting(10, "grant", NOW, expires_at=NOW + DAY))
        for charge in range(4):
            made.charge(f"acct_{number}", 1, f"c{charge}", NOW)
    yield made
    made.close()


WRONG: dict[str, tuple[str, set[tuple[int | None, str]]]] = {
    "a balance": (
        """
        UPDATE keyrush_accounts SET balance = 7, entries = 6 WHERE id = 'acct_2';
        UPDATE keyrush_accounts SET entries = 5 WHERE id = 'acct_2'
        """,
        {(None, ledger.NOT_ITS_SUM)},
    ),
    "an amount": (
        "UPDATE keyrush_ledger SET amount = -2 WHERE account_id = 'acct_2' AND number = 3",
        {(3, ledger.NOT_CARRIED)},
    ),
    "a balance on the way": (
        "UPDATE keyrush_ledger SET balance = 5 WHERE account_id = 'acct_2' AND number = 3",
        {(3, ledger.NOT_CARRIED), (4, ledger.NOT_CARRIED)},
    ),
    "a gap": (
        "DELETE FROM keyrush_ledger WHERE account_id = 'acct_2' AND number = 3",
        {(4, ledger.NOT_CARRIED)},
    ),
    "the first is missing": (
        "DELETE FROM keyrush_ledger WHERE account_id = 'acct_2' AND number = 1",
        {(2, ledger.NOT_CARRIED)},
    ),
    "the last is missing": (
        "DELETE FROM keyrush_ledger WHERE account_id = 'acct_2' AND number = 5",
        {(None, ledger.NOT_ITS_SUM)},
    ),
    "all are missing": (
        "DELETE FROM keyrush_ledger WHERE account_id = 'acct_2'",
        {(None, ledger.NOT_ITS_SUM)},
    ),
    "one more": (
        """
        INSERT INTO keyrush_ledger (account_id, number, at, amount, balance, reason, source)
        VALUES ('acct_2', 6, 1, 5, 11, 'grant', 'operator')
        """,
        {(None, ledger.NOT_ITS_SUM)},
    ),
    "a lot": (
        "UPDATE keyrush_lots SET remaining = 7 WHERE account_id = 'acct_2'",
        {(None, ledger.MORE_LOTS)},
    ),
    "an expiry": (
        "UPDATE keyrush_accounts SET next_expiry = NULL WHERE id = 'acct_2'",
        {(None, ledger.WRONG_EXPIRY)},
    ),
}


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 29, 30, 31])
@pytest.mark.parametrize("wrong", WRONG)
def test_audit(sql_store: SqlStore, wrong: str, limit: int) -> None:
    """O3: what does not add up is found where it is, and nothing else is, by whatever portions."""
    statement, expected = WRONG[wrong]
    with sql_store.database.engine.begin() as connection:
        if limit > 1:
            for one in statement.split(";"):
                connection.execute(sa.text(one))
    found: list[ledger.Discrepancy] = []
    seen = []
    audits: list[Callable[[Any, int], ledger.Audited[Any]]]
    audits = [sql_store.audit_entries, sql_store.audit_balances]
    for audit in audits:
        after, count = None, 0
        while True:
            audited = audit(after, limit)
            found += audited.wrong
            count += audited.seen
            after = audited.last
            if after is None:
                break
        seen.append(count)
    expected = expected if limit > 1 else set()
    assert {(one.number, one.what) for one in found} == expected
    assert {one.account_id for one in found} <= {"acct_2"}
    with sql_store.database.engine.begin() as connection:
        rows = connection.execute(sa.text("SELECT count(*) FROM keyrush_ledger")).scalar_one()
    assert seen == [rows, 6]


def test_balances_change_with_their_ledger(sql_store: SqlStore) -> None:
    """O3: who changes a balance alone, as a keyrush without a ledger does that goes on beside this
    one, is refused; all else of an account changes.
    """
    update = "UPDATE keyrush_accounts SET {} WHERE id = 'acct_2'"
    with (
        pytest.raises(sa.exc.IntegrityError, match="a balance changes with its ledger"),
        sql_store.database.engine.begin() as connection,
    ):
        connection.exec_driver_sql(update.format("balance = balance + 5"))
    with sql_store.database.engine.begin() as connection:
        connection.exec_driver_sql(update.format("balance = balance, plan = 'pro'"))
    assert sql_store.charge("acct_2", 1, "next", NOW) == 5
    assert_adds_up(sql_store)


# --- what it costs -------------------------------------------------------------------------------


def test_memory_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """O11: in memory the last 100,000 entries are kept, and their charges can be reversed; what
    the balance is does not depend on it.
    """
    assert memory_ledger.KEPT == 100_000
    monkeypatch.setattr(memory_ledger, "KEPT", 100)
    store = MemoryStore()
    store.add_account(account(balance=1000))
    store.add_account(account("acct_b", balance=5))
    for number in range(150):
        store.charge("acct_a", 1, f"c{number}", NOW)
    assert len(everything(store)) == 100
    assert store.reverse("acct_a", "c49", NOW) is None  # it is not known any more
    assert store.reverse("acct_a", "c149", NOW) == 851
    assert store.balance("acct_b", NOW) == 5
    assert store.audit_entries(None, 1000).wrong == store.audit_balances(None, 9).wrong == []


def test_plans_of_queries(tmp_path: Path) -> None:
    """O3: on SQLite a page of the ledger reads no more than it shows, by an index; also where
    what is looked for is rare. PostgreSQL chooses by the size of its tables.
    """
    sql_store = open_store(f"sqlite:///{tmp_path}/keyrush.db").store
    assert isinstance(sql_store, SqlStore)
    asked: list[str] = []
    with sql_store.database.driver() as driver:
        driver.set_trace_callback(asked.append)
    sql_store.entries("acct_1", limit=5, before=9)
    sql_store.entries("acct_1", EntryWhere(("top_up", "grant")), 5)
    sql_store.entries("acct_1", EntryWhere(("reversal",)), 5)
    sql_store.entries("acct_1", EntryWhere(("reversal", "expiry")), 5)
    sql_store.entries("acct_1", EntryWhere(sources=("mcp",)), 5, 9)
    sql_store.entries("acct_1", EntryWhere(("charge",), ("mcp", "api")), 5)
    sql_store.entries("acct_1", EntryWhere(("reversal", "grant"), ("mcp",)), 5)
    sql_store.entries("acct_1", EntryWhere((), ("mcp",), NOW), 5)
    sql_store.entries("acct_1", EntryWhere(until=NOW), 5)
    with sql_store.database.driver() as driver:
        driver.set_trace_callback(None)
        plans = [driver.execute(f"EXPLAIN QUERY PLAN {text}").fetchall() for text in asked]
    used = [" ".join(row[-1] for row in plan) for plan in plans]
    assert "(account_id=? AND number<?)" in used[0]
    assert "ix_keyrush_ledger_added" in used[1]
    assert "ix_keyrush_ledger_reversals" in used[2]
    assert all(f"ix_keyrush_ledger_{name}" in used[3] for name in ("added", "reversals"))
    by_source = "ix_keyrush_ledger_source (account_id=? AND source=?"
    assert f"{by_source} AND number<?)" in used[4]
    assert used[5].count(f"{by_source})") == 2
    assert all(f"ix_keyrush_ledger_{name}" in used[6] for name in ("added", "reversals"))
    by_number = "SEARCH middle USING INDEX sqlite_autoindex_keyrush_ledger_1"
    assert f"{by_number} (account_id=? AND number=?)" in used[7]
    assert f"{by_source} AND number>?)" in used[8]
    assert "(account_id=? AND number>? AND number<?)" in used[10]
    assert "(account_id=? AND number=?)" in used[11]
    assert not [text for text in used if "SCAN keyrush" in text]
    assert not [text for text in used[:3] if "TEMP B-TREE" in text]
    sql_store.close()
