"""The operations on activity: what may be asked, and what is answered."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from keyrush import Gate
from keyrush.core.activity import ALL, COARSE, FINE, Activity, Where
from keyrush.core.times import DAY
from keyrush.errors import InvalidArgument, NotFound
from keyrush.store.memory import MemoryStore
from tests.conftest import Clock, settings, still
from tests.runtime.test_bridge import own_class
from tests.store.test_activity import row

#: The methods of a store that keeps no activity.
WITHOUT = {
    name
    for name in vars(MemoryStore)
    if not name.startswith("_") and "activity" not in name and name != "is_ephemeral"
}


@pytest.fixture
def gate(clock: Clock) -> Iterator[Gate]:
    """A gate in memory with two accounts."""
    opened = still(Gate.open(settings(store_url="memory://"), clock=clock))
    for account_id in ("acct_a", "acct_b"):
        opened.accounts.create(account_id)
    yield opened
    opened.close()


def add(gate: Gate, *rows: Activity) -> None:
    """Have the store keep rows."""
    gate.store.add_activity(rows)


def test_pages_and_their_cursors(gate: Gate, clock: Clock) -> None:
    """O20: pages are newest first, and each names where the next begins."""
    rows = [row(at=clock() + number) for number in range(7)]
    add(gate, *rows, row(account_id="acct_b"))
    found: list[str] = []
    cursor = None
    for size in (3, 3, 1):
        page = gate.activity.page("acct_a", limit=3, cursor=cursor)
        assert len(page) == size
        found += [one.id for one in page]
        cursor = page.cursor
    assert cursor is None
    assert found == [one.id for one in reversed(rows)]


FILTERS = [
    Where(source="api"),
    Where(credential_id="cred_a"),
    Where(outcome="ok"),
    Where(rule="/articles"),
    Where(since=0),
    Where(until=10**14),
    Where("api", "cred_a", "ok", "/articles", 0, 10**14),
    ALL,
]


@pytest.mark.parametrize("where", FILTERS)
def test_no_other_account(gate: Gate, clock: Clock, where: Where) -> None:
    """O20: by no filter are rows or totals of another account to be had, nor by its cursor."""
    mine, other = row(at=clock()), [row(at=clock() - n, account_id="acct_b") for n in range(3)]
    add(gate, mine, *other)
    cursor = gate.activity.page("acct_b", where, limit=1).cursor
    assert list(gate.activity.page("acct_a", where)) == [mine]
    assert not [one for one in gate.activity.page("acct_a", where, cursor=cursor) if one != mine]
    assert gate.activity.count("acct_a", where) == 1
    asked = where._replace(since=clock() - DAY, until=clock() + DAY)
    assert sum(one.requests for one in gate.activity.summary("acct_a", asked, by="day")) == 1


def test_counts_have_an_end(gate: Gate, clock: Clock) -> None:
    """A total is counted to 1,001, which stands for more than a thousand."""
    add(gate, *(row(at=clock()) for _ in range(1200)))
    assert gate.activity.count("acct_a") == 1001
    assert gate.activity.count("acct_a", Where(source="mcp")) == 0


@pytest.mark.parametrize(
    ("where", "field"),
    [
        (Where(source="web"), "source"),  # type: ignore[arg-type]
        (Where(outcome="fine"), "outcome"),  # type: ignore[arg-type]
        (Where(since=-1), "since"),
        (Where(until=2**63), "until"),
        (Where(since="today"), "since"),  # type: ignore[arg-type]
        (Where(since=True), "since"),
        (Where(credential_id=7), "key"),  # type: ignore[arg-type]
        (Where(rule=["/"]), "rule"),  # type: ignore[arg-type]
    ],
)
def test_what_can_not_be_asked(gate: Gate, where: Where, field: str) -> None:
    """O15: what is wrong is named."""
    for call in (gate.activity.page, gate.activity.count, gate.activity.summary):
        with pytest.raises(InvalidArgument) as caught:
            call("acct_a", where)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"by": "week"}, "by"),
        ({"by": 90_000}, "by"),
        ({"by": 0}, "by"),
        ({"by": 10**15}, "by"),
        ({"by": ["day"]}, "by"),
        ({"group": "account"}, "group"),
    ],
)
def test_what_no_summary_is_of(gate: Gate, how: dict[str, Any], field: str) -> None:
    """O15: bins and groups that there are not are named."""
    with pytest.raises(InvalidArgument) as caught:
        gate.activity.summary("acct_a", **how)
    assert caught.value.field == field


@pytest.mark.parametrize("key", ["cred_x", "it's", "\0", "\ud800", "x" * 10_000, ""])
def test_keys_that_nobody_has(gate: Gate, clock: Clock, key: str) -> None:
    """Whatever is given as a key or a rule and is none finds nothing, and is no error."""
    add(gate, row(at=clock()))
    for where in (Where(credential_id=key), Where(rule=f"/{key}")):
        assert list(gate.activity.page("acct_a", where)) == []
        assert gate.activity.count("acct_a", where) == 0
        assert gate.activity.summary("acct_a", where) == []


def test_accounts_that_are_not_there(gate: Gate) -> None:
    """O15: an unknown account is not found, whatever its name."""
    for account_id in ("acct_x", "\0", "x" * 99):
        for call in (gate.activity.page, gate.activity.count, gate.activity.summary):
            with pytest.raises(NotFound):
                call(account_id)


def test_no_key_in_what_is_asked(gate: Gate) -> None:
    """O22: a key where an id belongs is refused, and not echoed."""
    text = gate.keys.create("acct_a", "k").text
    for where in (Where(credential_id=text), Where(rule=text)):
        with pytest.raises(InvalidArgument) as caught:
            gate.activity.page("acct_a", where)
        assert text not in str(caught.value)


# --- summaries ------------------------------------------------------------------------------------


def test_bins_are_whole(gate: Gate, clock: Clock) -> None:
    """A summary has whole bins: `since` goes back to the beginning of one, `until` to an end."""
    hour = clock() // COARSE * COARSE
    for at in (hour - 1, hour, hour + COARSE - 1, hour + COARSE):
        add(gate, row(at=at))
    where = Where(since=hour + 1, until=hour + 2)
    found = gate.activity.summary("acct_a", where, by="hour")
    assert [(one.at, one.requests) for one in found] == [(hour, 2)]
    assert gate.activity.summary("acct_a", Where(since=hour, until=hour)) == []


@pytest.mark.parametrize(("by", "length"), [("minute", 60), ("hour", 24), ("day", 30)])
def test_bins_unless_said_otherwise(gate: Gate, clock: Clock, by: Any, length: int) -> None:
    """Without `since` a summary is of the last 60 minutes, 24 hours or 30 days."""
    step = {"minute": FINE, "hour": COARSE, "day": DAY}[by]
    first = clock() // step * step - (length - 1) * step
    add(gate, row(at=first - 1), row(at=first), row(at=clock()))
    assert [one.at for one in gate.activity.summary("acct_a", by=by)] == [
        first,
        clock() // step * step,
    ]


def test_minutes_of_long_ago(gate: Gate, clock: Clock) -> None:
    """What is kept by the hour alone is not asked by the minute, nor more bins than 1,500."""
    old = Where(since=clock() - 2 * DAY - 2 * COARSE, until=clock() - 2 * DAY + COARSE)
    for by, field in ((FINE, "by"), (90 * FINE, "by")):
        with pytest.raises(InvalidArgument) as caught:
            gate.activity.summary("acct_a", old, by=by)
        assert caught.value.field == field
    assert gate.activity.summary("acct_a", old, by="hour") == []
    with pytest.raises(InvalidArgument) as caught:
        gate.activity.summary("acct_a", Where(since=clock() - 2 * DAY), by="minute")
    assert caught.value.field == "since"


def test_answers_have_an_end(gate: Gate, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bins times values are as many as an answer may have: the rest is together."""
    monkeypatch.setattr("keyrush.operations.activity.MAX_TOTALS", 48)
    add(gate, *(row(at=clock(), credential_id=f"cred_{n}") for n in range(9) for _ in range(n + 1)))
    found = gate.activity.summary("acct_a", by="hour", group="key")
    assert [(one.value, one.requests) for one in found] == [
        ("cred_7", 8),
        ("cred_8", 9),
        (None, 28),
    ]


def test_a_store_without_activity(clock: Clock) -> None:
    """With a store of one's own that keeps none, activity is kept in the process."""
    made = own_class(MemoryStore, WITHOUT, ())()
    gate = still(Gate.open(settings(pepper="p" * 32), store=made, clock=clock))
    gate.accounts.create("acct_a")
    assert list(gate.activity.page("acct_a")) == []
    assert list(itertools.chain(gate.activity.summary("acct_a"))) == []
    gate.close()
