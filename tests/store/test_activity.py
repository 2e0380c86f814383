"""Activity, in every store: rows, pages of them, totals, and what is kept no longer."""

from __future__ import annotations

import itertools
import re
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.core.activity import (
    ALL,
    BUCKETS,
    COARSE,
    FINE,
    MIDDLE,
    Activity,
    Group,
    Outcome,
    Source,
    Span,
    Total,
    Where,
    bucket_of,
)
from keyrush.core.paging import Place
from keyrush.core.times import DAY
from keyrush.errors import KeyrushError
from keyrush.store import activity_in_memory
from keyrush.store.activity import forgetting, pages, ranks, settling, totals
from keyrush.store.activity_in_memory import ActivityInMemory
from keyrush.store.opening import open_store
from keyrush.store.protocol import Batch, Store
from keyrush.store.sql import SqlStore
from tests.store.test_store_keys import FUZZ
from tests.support.stores import empty, in_threads, store
from tests.support.values import NOW

__all__ = ["empty", "store"]  # fixtures

#: At the beginning of a day.
MIDNIGHT = NOW // DAY * DAY

_numbers = itertools.count()


def row(**values: Any) -> Activity:
    """A row of `acct_a`, with an id of its own."""
    return Activity(
        **{
            "id": f"act_{next(_numbers):06}",
            "at": NOW,
            "account_id": "acct_a",
            "credential_id": "cred_a",
            "subject": None,
            "source": "api",
            "method": "GET",
            "path": "/articles",
            "rule": "/articles",
            "status": 200,
            "outcome": "ok",
            "reason": None,
            "credits": 0,
            "duration": 1500,
            "request_id": None,
            "address": None,
            "agent": None,
            **values,
        }
    )


#: Those of a database: rows in memory are where they are at once.
in_sql = pytest.mark.parametrize("empty", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def sql_store(store: Store) -> SqlStore:
    """A store of a database."""
    assert isinstance(store, SqlStore)
    return store


def agrees(where: Where, one: Activity) -> bool:
    """What `Where` says."""
    return (
        where.source in {None, one.source}
        and where.credential_id in {None, one.credential_id}
        and where.outcome in {None, one.outcome}
        and where.rule in {None, one.rule}
        and (where.since is None or where.since <= one.at)
        and (where.until is None or one.at < where.until)
    )


def newest(rows: Sequence[Activity], where: Where = ALL) -> list[Activity]:
    """The rows that are kept and agree, newest first."""
    found = [one for one in rows if one.is_kept and agrees(where, one)]
    return sorted(found, key=lambda one: (one.at, one.id), reverse=True)


def every_row(store: Store, account_id: str, where: Where = ALL, size: int = 3) -> list[Activity]:
    """All rows that agree, page by page."""
    found: list[Activity] = []
    after = None
    while page := store.activity(account_id, where, size, after):
        found += page
        after = Place(page[-1].at, page[-1].id)
    return found


def summed(rows: Sequence[Activity], where: Where, step: int, group: Group | None) -> list[Total]:
    """The totals of rows, of a plain list."""
    field = "credential_id" if group == "key" else group
    bins: dict[tuple[int, str], list[Activity]] = defaultdict(list)
    for one in rows:
        if agrees(where, one):
            bins[one.at // step * step, getattr(one, field) if field else ""].append(one)
    return [
        Total(
            at,
            named if group else None,
            len(found),
            sum(one.credits for one in found),
            sum(one.duration for one in found),
            max(one.duration for one in found),
            tuple(
                sum(bucket_of(one.duration) == bucket for one in found)
                for bucket in range(len(BUCKETS) + 1)
            ),
        )
        for (at, named), found in sorted(
            bins.items(), key=lambda item: (item[0][0], item[0][1] or "")
        )
    ]


def settle(store: Store) -> None:
    """Have rows where they are found by index, where they are not at once."""
    if isinstance(store, SqlStore):
        store.settle_activity()


def fold(store: Store) -> None:
    """Have the totals of minutes in those of hours, where they are kept so."""
    if isinstance(store, SqlStore):
        store.fold_activity()


# --- rows -----------------------------------------------------------------------------------------


def test_a_row_is_read_as_it_was_added(store: Store) -> None:
    """O20: a row has all that was said of it, whether by a rule or not."""
    full = row(
        subject="user_1",
        source="mcp",
        method="tools/call",
        path="inspect_page",
        rule="inspect_page",
        status=402,
        outcome="refused",
        reason="insufficient_credits",
        credits=-5,
        duration=2**40,
        request_id="a-1",
        address="203.0.113.0/24",
        agent="curl/8",
    )
    bare = row(at=NOW - 1, path="/elsewhere", rule="", status=0, outcome="error")
    store.add_activity([bare, full])
    assert list(store.activity("acct_a", ALL)) == [full, bare]
    assert list(store.activity("acct_b", ALL)) == []


def test_nothing_is_added(store: Store) -> None:
    """No rows are no error."""
    store.add_activity([], Batch("w", 1))
    assert store.count_activity("acct_a", ALL, 9) == 0


def test_a_batch_is_added_once(store: Store) -> None:
    """A batch that comes again adds neither rows nor to totals; the next one does."""
    for _ in range(3):
        store.add_activity([row(id="act_1")], Batch("w", 1))
    store.add_activity([row(id="act_2")], Batch("w", 2))
    store.add_activity([row(id="act_0")], Batch("w", 1))
    store.add_activity([row(id="act_3")], Batch("other", 1))
    assert [one.id for one in every_row(store, "acct_a")] == ["act_3", "act_2", "act_1"]
    where = Where(since=MIDNIGHT, until=MIDNIGHT + DAY)
    assert [one.requests for one in store.activity_totals("acct_a", where, DAY, None, 9)] == [3]


def test_batches_at_once(store: Store) -> None:
    """Many threads that add the same keys' rows, each batch twice, lose and double nothing."""

    def work(number: int) -> None:
        batch = Batch(f"w{number % 10}", number // 20 + 1)
        rows = [
            row(id=f"act_{batch.worker}_{batch.number}_{key}", credential_id=f"cred_{key}")
            for key in range(5)
        ]
        store.add_activity(rows, batch)
        if number % 7 == 0:
            fold(store)

    in_threads(work, 40, 10)
    assert len(every_row(store, "acct_a", size=99)) == 100
    for step in (FINE, COARSE):
        where = Where(since=MIDNIGHT, until=MIDNIGHT + DAY)
        found = store.activity_totals("acct_a", where, step, "key", 9)
        assert {one.value: one.requests for one in found} == {f"cred_{n}": 20 for n in range(5)}


def test_rows_that_are_not_kept(store: Store) -> None:
    """What is in no list is in totals all the same."""
    store.add_activity([row(is_kept=False), row(is_kept=False, outcome="limited"), row()])
    assert store.count_activity("acct_a", ALL, 9) == 1
    where = Where(since=MIDNIGHT, until=MIDNIGHT + DAY)
    found = store.activity_totals("acct_a", where, FINE, "outcome", 9)
    assert {one.value: one.requests for one in found} == {"ok": 2, "limited": 1}


ODD = [
    *("it's", 'a "quote"', "a\\b", "a\tb\n", "\u202eabc", "é 😀", "%s :rows ?1 {0}", "null", "0"),
    "",
]


@pytest.mark.parametrize("text", ODD)
def test_any_text(store: Store, text: str) -> None:
    """Whatever a client sends is a value, and comes back as it was."""
    odd = row(subject=text, path=f"/{text}", rule=text, request_id=text, agent=text)
    store.add_activity([odd, row(rule="else")])
    assert list(store.activity("acct_a", Where(rule=text))) == [odd]
    where = Where(since=MIDNIGHT, until=MIDNIGHT + DAY, rule=text)
    for step in (FINE, COARSE):
        (total,) = store.activity_totals("acct_a", where, step, "rule", 9)
        assert (total.value, total.requests) == (text, 1)


def test_text_that_no_database_holds(store: Store) -> None:
    """NUL and lone surrogates are replaced, and take nothing else of a batch along."""
    store.add_activity([row(path="/a\0b", rule="", agent="\ud800x"), row(at=NOW + 1)])
    first, second = store.activity("acct_a", ALL)
    assert (second.path, second.agent) == ("/a\ufffdb", "\ufffdx")
    assert first.path == "/articles"


# --- pages ----------------------------------------------------------------------------------------

keys = st.sampled_from(["cred_a", "cred_b", "cred_c"])
rules = st.sampled_from(["", "/articles", "/usage"])
instants = st.integers(0, 30).map(lambda n: MIDNIGHT + n * (DAY // 16))

rows_of_many = st.lists(
    st.builds(
        row,
        account_id=st.sampled_from(["acct_a", "acct_a", "acct_b"]),
        at=instants,
        credential_id=keys,
        rule=rules,
        source=st.sampled_from(get_args(Source)),
        outcome=st.sampled_from(get_args(Outcome)),
        credits=st.integers(-3, 9),
        duration=st.sampled_from([0, 999, 1000, 1001, 70_000, 6_000_000]),
        is_kept=st.sampled_from([True, True, True, False]),
    ),
    max_size=40,
    unique_by=lambda one: one.id,
)

wheres = st.builds(
    Where,
    source=st.none() | st.sampled_from(get_args(Source)),
    credential_id=st.none() | keys | st.just("cred_x"),
    outcome=st.none() | st.sampled_from(get_args(Outcome)),
    rule=st.none() | rules | st.just("/x"),
    since=st.none() | instants,
    until=st.none() | instants,
)


def renamed(rows: Sequence[Activity]) -> tuple[dict[str, str], list[Activity]]:
    """The rows, of accounts that no other example has."""
    names = {name: f"{name}_{next(_numbers)}" for name in ("acct_a", "acct_b")}
    new = [f"act_{next(_numbers):06}" for _ in rows]
    return names, [
        one._replace(id=id_, account_id=names[one.account_id])
        for id_, one in zip(new, rows, strict=True)
    ]


@FUZZ
@given(rows_of_many, st.lists(wheres, min_size=6, max_size=6), st.integers(1, 7))
def test_pages_of_every_filter(
    store: Store, rows: list[Activity], asked: list[Where], size: int
) -> None:
    """O20: pages are those of a plain list, by whatever filters, and of this account alone."""
    names, rows = renamed(rows)
    store.add_activity(rows[::2])
    settle(store)
    store.add_activity(rows[1::2])
    for name in names.values():
        own = [one for one in rows if one.account_id == name]
        for where in asked:
            expected = newest(own, where)
            assert every_row(store, name, where, size) == expected
            for most in (1, 3, 1001):
                assert store.count_activity(name, where, most) == min(most, len(expected))


@FUZZ
@given(
    rows_of_many,
    st.lists(wheres, min_size=4, max_size=4),
    st.sampled_from([FINE, 30 * FINE, COARSE, 6 * COARSE, DAY]),
)
def test_totals_of_every_filter(
    store: Store, rows: list[Activity], asked: list[Where], step: int
) -> None:
    """O20: totals are those of a plain list, by whatever filters and groups, before and after
    they are in the totals of hours.
    """
    names, rows = renamed(rows)
    store.add_activity(rows[::3])
    fold(store)
    store.add_activity(rows[1::3])
    settle(store)
    store.add_activity(rows[2::3])
    own = [one for one in rows if one.account_id == names["acct_a"]]
    groups: tuple[Group | None, ...] = (None, *get_args(Group))
    for where in asked:
        since = (MIDNIGHT if where.since is None else where.since) // step * step
        until = -(-(MIDNIGHT + 2 * DAY if where.until is None else where.until) // step) * step
        exact = where._replace(since=since, until=until)
        for group in groups:
            found = store.activity_totals(names["acct_a"], exact, step, group, 99)
            assert list(found) == (sums := summed(own, exact, step, group))
            plain = store.activity_totals(names["acct_a"], exact, step, group, 99, durations=False)
            assert [one._replace(duration=0, longest=0, buckets=()) for one in sums] == list(plain)


@FUZZ
@given(rows_of_many, st.lists(wheres, min_size=4, max_size=4), st.integers(1, 4))
def test_ranks_of_every_filter(
    store: Store, rows: list[Activity], asked: list[Where], at_most: int
) -> None:
    """O20: what had the most requests is so of a plain list, by whatever filters and spans, before
    and after it is in the totals of hours.
    """
    names, rows = renamed(rows)
    store.add_activity(rows[::3])
    fold(store)
    store.add_activity(rows[1::3])
    settle(store)
    store.add_activity(rows[2::3])
    begin, end = MIDNIGHT + 90 * FINE, MIDNIGHT + 2 * DAY
    edges = (begin, begin + 90 * FINE, begin + 270 * FINE, MIDNIGHT + DAY, end)
    units = (FINE, MIDDLE, COARSE, DAY)
    spans = [Span(*one) for one in zip(edges, edges[1:], units, strict=False)]
    for where in (ALL, *(one._replace(since=None, until=None) for one in asked)):
        exact = where._replace(since=begin, until=end)
        own = [one for one in rows if one.account_id == names["acct_a"] and agrees(exact, one)]
        for group in get_args(Group):
            field = "credential_id" if group == "key" else group
            most = Counter(getattr(one, field) for one in own).items()
            expected = sorted(most, key=lambda item: (-item[1], item[0]))[:at_most]
            found = store.activity_ranks(names["acct_a"], where, spans, group, at_most)
            assert list(found) == expected


def test_pages_while_rows_come(store: Store) -> None:
    """What is added meanwhile neither repeats nor hides what was there."""
    rows = [row(at=NOW + number // 3) for number in range(30)]  # three at once
    store.add_activity(rows)
    found: list[Activity] = []
    after = None
    while page := store.activity("acct_a", ALL, 4, after):
        found += page
        after = Place(page[-1].at, page[-1].id)
        store.add_activity([row(at=NOW + 99), row(at=page[-1].at, id=f"act_x{len(found)}")])
    assert [one for one in found if "x" not in one.id] == newest(rows)


def test_the_rest_of_values(store: Store) -> None:
    """Of more values than are wanted those with the most requests are told apart."""
    rows = [
        row(credential_id=f"cred_{key}", at=NOW + at * COARSE)
        for key in range(6)
        for at in range(2)
        for _ in range(key + 1)
    ]
    store.add_activity(rows)
    where = Where(since=NOW // COARSE * COARSE, until=NOW // COARSE * COARSE + 2 * COARSE)
    for _ in range(2):
        found = store.activity_totals("acct_a", where, COARSE, "key", 2)
        assert [(one.value, one.requests) for one in found] == [
            ("cred_4", 5), ("cred_5", 6), (None, 10),
        ] * 2  # fmt: skip
        fold(store)


# --- rows that are fresh, and settled ---------------------------------------------------------


def rows_in(store: SqlStore, table: str) -> int:
    """How many rows a table has."""
    with store.database.driver() as driver:
        return int(driver.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608  # of this module


@in_sql
def test_a_flush_writes_rows_alone(sql_store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """O20: what a flush adds is in no index and no total before some thousands are settled."""
    tables = "keyrush_activity_fresh", "keyrush_activity", "keyrush_activity_minutes"
    settle(sql_store)
    before = [rows_in(sql_store, table) for table in tables]
    monkeypatch.setattr(settling, "MOST", 10)

    def added() -> list[int]:
        return [rows_in(sql_store, table) - n for table, n in zip(tables, before, strict=True)]

    rows = [row() for _ in range(10)]
    for one in rows[:9]:
        sql_store.add_activity([one])
    assert added() == [9, 0, 0]
    sql_store.add_activity([rows[9]])
    assert added() == [0, 10, 1]
    assert every_row(sql_store, "acct_a") == newest(rows)


@in_sql
def test_few_rows_are_settled_by_and_by(
    sql_store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O20: after a minute rows are settled, however few, also where no more come: so that what is
    too old can be deleted.
    """
    sql_store.add_activity([row()])
    later = time.monotonic() + settling.INTERVAL + 1
    monkeypatch.setattr("keyrush.store.sql.monotonic", lambda: later)
    assert sql_store.forget_activity(NOW + 2 * DAY, 0, 0, 9) == 1
    assert every_row(sql_store, "acct_a") == []


@in_sql
def test_settling_is_seen_by_nobody(sql_store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """O20: while rows are settled, pages, counts and totals have each of them once."""
    rows = [row(at=NOW + n) for n in range(60)]
    sql_store.add_activity(rows)
    monkeypatch.setattr(settling, "MOST", 2)
    expected, where = newest(rows), Where(since=MIDNIGHT, until=MIDNIGHT + DAY)
    is_settled = threading.Event()

    def settle_all() -> None:
        try:
            sql_store.settle_activity()
        finally:
            is_settled.set()

    def read() -> None:
        while True:
            is_last = is_settled.is_set()
            assert list(sql_store.activity("acct_a", ALL, 99)) == expected
            assert sql_store.count_activity("acct_a", ALL, 99) == len(rows)
            for step in (FINE, DAY):
                (total,) = sql_store.activity_totals("acct_a", where, step, None, 9)
                assert total.requests == len(rows)
            if is_last:
                return

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(settle_all), threads.submit(read)]:
            done.result(timeout=30)


@in_sql
def test_settling_that_fails(sql_store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """O20: what fails in the middle has moved nothing, and nothing is in totals twice."""
    rows = [row(at=NOW + n) for n in range(9)]
    sql_store.add_activity(rows)
    whole = settling.statements(sql_store.database.dialect)
    for count in range(1, len(whole) + 1):
        failing = [*whole[:count], "SELECT nothing_of_that_name"]
        monkeypatch.setattr(settling, "statements", lambda _, failing=failing: failing)
        with pytest.raises(KeyrushError):
            sql_store.settle_activity()
    monkeypatch.undo()
    sql_store.add_activity([row(at=NOW + 9)])
    sql_store.settle_activity()
    where = Where(since=MIDNIGHT, until=MIDNIGHT + DAY)
    (total,) = sql_store.activity_totals("acct_a", where, DAY, None, 9)
    assert total.requests == sql_store.count_activity("acct_a", ALL, 99) == 10


# --- what is kept no longer -----------------------------------------------------------------------


def test_forgetting(store: Store) -> None:
    """Days of rows, minutes and hours go when they have ended, the oldest first, in portions, each
    for itself; what is left is as it was.
    """
    rows = [row(at=MIDNIGHT + number * DAY // 4) for number in range(10)]
    store.add_activity(rows)
    fold(store)
    noon = MIDNIGHT + DAY + DAY // 2
    whole = Where(since=MIDNIGHT, until=MIDNIGHT + 3 * DAY)

    def bins(step: int) -> list[int]:
        return [one.at for one in store.activity_totals("acct_a", whole, step, None, 9)]

    assert store.forget_activity(noon, 0, 0, 3) == 3
    assert store.forget_activity(noon, 0, 0, 3) == 1
    assert store.forget_activity(noon, 0, 0, 3) == 0
    assert every_row(store, "acct_a") == newest(rows[4:])
    assert bins(FINE) == bins(COARSE) == [one.at for one in rows]
    assert store.forget_activity(0, noon + FINE - 1, 0, 99)
    assert bins(FINE) == [one.at for one in rows[6:]]
    assert bins(MIDDLE) == [one.at for one in rows[6:]]
    assert bins(COARSE) == [one.at for one in rows]
    assert store.forget_activity(0, 0, noon + COARSE, 99)
    assert bins(COARSE) == [one.at for one in rows[7:]]
    assert store.forget_activity(noon, noon, noon, 99) == 0
    assert store.count_activity("acct_a", ALL, 99) == 6


def test_portions_get_everything(store: Store) -> None:
    """However small portions are, what is old is gone in the end, and nothing else."""
    store.add_activity([row(at=MIDNIGHT + n, credential_id=f"cred_{n}") for n in range(9)])
    store.add_activity([row(at=MIDNIGHT + DAY)])
    fold(store)
    day = MIDNIGHT + DAY
    while store.forget_activity(day, day, day, 2):
        pass
    whole = Where(since=MIDNIGHT, until=MIDNIGHT + 2 * DAY)
    assert store.count_activity("acct_a", ALL, 99) == 1
    for step in (FINE, COARSE, DAY):
        found = store.activity_totals("acct_a", whole, step, None, 9)
        assert [(one.at, one.requests) for one in found] == [(day, 1)]


def test_a_row_that_is_late(store: Store) -> None:
    """A row of hours ago, as of a request that took so long, stands where it belongs, and in the
    totals of its time.
    """
    store.add_activity([row(at=NOW)])
    fold(store)
    late = row(at=NOW - 5 * COARSE)
    store.add_activity([late])
    fold(store)
    assert every_row(store, "acct_a")[-1] == late
    where = Where(since=MIDNIGHT, until=MIDNIGHT + DAY)
    found = store.activity_totals("acct_a", where, COARSE, None, 9)
    assert [(one.at, one.requests) for one in found] == [
        (late.at // COARSE * COARSE, 1),
        (NOW // COARSE * COARSE, 1),
    ]


def test_memory_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory rows and bins are as many as fit; what came first goes first."""
    monkeypatch.setattr(activity_in_memory, "MOST", 10)
    kept = ActivityInMemory()
    rows = [row(at=NOW + number * FINE) for number in range(25)]
    kept.add_activity(rows)
    assert kept.activity("acct_a", ALL, 99) == newest(rows[15:])
    where = Where(since=NOW, until=NOW + 30 * FINE)
    found = kept.activity_totals("acct_a", where, FINE, None, 9)
    assert [one.at for one in found] == [one.at for one in rows[15:]]


def test_days_of_keys(store: Store) -> None:
    """O20: requests of the keys that are asked for by day and outcome, folded or fresh; no other
    account's, and no other day's.
    """
    hour = COARSE
    store.add_activity([row(at=MIDNIGHT + n * hour) for n in range(3)])
    store.add_activity([row(at=MIDNIGHT - 1), row(at=MIDNIGHT - 2 * DAY)])
    if isinstance(store, SqlStore):
        store.fold_activity()
    store.add_activity(
        [
            row(at=MIDNIGHT + 5),
            row(at=MIDNIGHT + 6, outcome="error", source="mcp"),
            row(at=MIDNIGHT + DAY),
            row(at=MIDNIGHT, credential_id="cred_b", rule="/other"),
            row(at=MIDNIGHT, credential_id="cred_c"),
            row(at=MIDNIGHT, account_id="acct_b"),
        ]
    )
    asked = ["cred_a", "cred_b", "cred_none", "'--"]
    found = store.days_of_keys("acct_a", asked, MIDNIGHT - DAY, MIDNIGHT + DAY)
    assert sorted(found) == [
        ("cred_a", MIDNIGHT - DAY, "ok", 1),
        ("cred_a", MIDNIGHT, "error", 1),
        ("cred_a", MIDNIGHT, "ok", 4),
        ("cred_b", MIDNIGHT, "ok", 1),
    ]
    assert not store.days_of_keys("acct_a", [], MIDNIGHT - DAY, MIDNIGHT + DAY)
    assert not store.days_of_keys("acct_x", asked, MIDNIGHT - DAY, MIDNIGHT + DAY)


# --- how it is looked for -------------------------------------------------------------------------


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("rule", [None, "/articles"])
@pytest.mark.parametrize("key", [None, "cred_a"])
def test_nothing_is_looked_through(
    tmp_path: Path, key: str | None, rule: str | None, is_after: bool
) -> None:
    """Pages, counts, totals and what is forgotten are found by index: no table is read in full."""
    url = f"sqlite:///{tmp_path}/keyrush.db"
    opened = open_store(url).store
    plans: list[str] = []
    asked = sqlite3.connect(tmp_path / "keyrush.db")

    def explain(text: str, values: Any) -> None:
        if "keyrush_activity" in text and not text.startswith("EXPLAIN"):
            plan = asked.execute(f"EXPLAIN QUERY PLAN {text}", values)
            plans.extend(line[3] for line in plan)

    class Explained:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def execute(self, text: str, values: Any) -> Any:
            explain(text, values)
            return self._connection.execute(text, values)

    where = Where(credential_id=key, rule=rule, since=MIDNIGHT, until=MIDNIGHT + DAY)
    after = Place(NOW, "act_1") if is_after else None
    assert isinstance(opened, SqlStore)
    with opened.database.driver() as driver:
        explained = Explained(driver)
        pages.page(explained, "sqlite", "acct_a", where, limit=9, after=after)
        pages.count(explained, "sqlite", "acct_a", where, 9)
        groups: tuple[Group | None, ...] = (None, *get_args(Group))
        for step, group in itertools.product((FINE, MIDDLE, COARSE, DAY), groups):
            for most in (0, 9):
                totals.totals(
                    explained, "sqlite", "acct_a", where, step=step, group=group, at_most=most
                )
        spans = [Span(NOW, NOW + unit, unit) for unit in (FINE, MIDDLE, COARSE, DAY)]
        for by in get_args(Group):
            ranks.ranks(explained, "sqlite", "acct_a", where, spans, group=by, at_most=9)
        forgetting.forget(
            explained,
            "sqlite",
            before_rows=NOW,
            before_minutes=NOW,
            before_hours=NOW,
            at_most=9,
        )
    asked.close()
    opened.close()
    assert len(plans) > 50
    tables = "x|y|cell|subject|whole|part|keyrush_.*"
    assert not [line for line in plans if re.match(rf"SCAN ({tables})\b", line)]


def test_an_account_of_many_keys(store: Store) -> None:
    """O20: what folding takes goes with how many totals there are, and not with how many keys the
    account has, for which a database would not wait.
    """
    rows = [row(credential_id=f"cred_{number}") for number in range(1500)]
    store.add_activity(rows)
    fold(store)
    days = Where(since=MIDNIGHT, until=MIDNIGHT + DAY)
    (total,) = store.activity_totals("acct_a", days, DAY, None, 1)
    assert total.requests == len(rows)


def test_a_chart_of_many_keys(store: Store) -> None:
    """O20: so does what a chart takes of totals that are not folded yet."""
    fold(store)
    store.add_activity([row(id="act_of_the_first", at=NOW - 2 * DAY)])  # after which none is due
    rows = [row(credential_id=f"cred_{number}") for number in range(4000)]
    store.add_activity(rows)
    asked = Where(since=MIDNIGHT, until=MIDNIGHT + DAY)
    for group in (None, *get_args(Group)):
        found = store.activity_totals("acct_a", asked, FINE, group, 10)
        assert sum(total.requests for total in found) == len(rows)
