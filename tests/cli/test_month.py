"""The made-up month of the demo: as a gate would have written it, and the same each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from keyrush import Gate
from keyrush.cli.demo import month
from keyrush.core.activity import Activity, Where
from keyrush.core.identity import account_subject
from keyrush.core.ledger import EntryWhere
from keyrush.core.times import DAY, month_bounds, month_of
from keyrush.errors import InvalidArgument
from tests.conftest import Clock, still


def filled(url: str, clock: Clock) -> Gate:
    gate = still(Gate.open(month.settings(store_url=url, limiter_url="memory://"), clock=clock))
    month.fill(gate)
    return gate


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate whose store has the month, which takes a second to make: for tests that look at it."""
    opened = filled(f"sqlite:///{tmp_path_factory.mktemp('month')}/demo.db", Clock())
    yield opened
    opened.close()


def rows_of(gate: Gate) -> list[Activity]:
    rows: list[Activity] = []
    cursor = None
    while True:
        page = gate.activity.page(month.ACCOUNT, limit=100, cursor=cursor)
        rows += page
        cursor = page.cursor
        if cursor is None:
            return rows


def test_a_month_adds_up(gate: Gate) -> None:
    """O19, O20: rows, totals, counts and ledger of the month say the same, and it has everything
    that a page shows.
    """
    rows = rows_of(gate)
    now = gate.clock()
    assert 10_000 < len(rows) < 40_000
    assert now - 31 * DAY < rows[-1].at <= rows[0].at <= now
    outcomes = Counter(row.outcome for row in rows)
    assert set(outcomes) == {"ok", "error", "limited", "refused"}
    assert {row.source for row in rows} == {"api", "mcp"}
    assert len({row.credential_id for row in rows}) == 6
    since = now - 40 * DAY
    totals = gate.activity.summary(
        month.ACCOUNT, Where(since=since, until=now + 1), by="all", group="outcome"
    )
    assert {total.value: total.requests for total in totals} == outcomes
    checked = gate.credits.check()
    assert (checked.discrepancies, checked.is_complete) == ((), True)
    spent = -sum(
        entry.amount
        for entry in gate.store.entries(month.ACCOUNT, EntryWhere(("charge", "reversal")), 10**6)
    )
    assert spent == sum(row.credits for row in rows) > 100
    environments = {key.id: key.environment for key in gate.keys.list(month.ACCOUNT)}
    begin = month_bounds(now)[0]
    counted = sum(
        row.outcome in {"ok", "error"} and environments[row.credential_id] == "live"
        for row in rows
        if row.at >= begin
    )
    assert gate.store.usage(account_subject(month.ACCOUNT), month_of(now)) == counted
    used = {key.id: key.last_used_at for key in gate.keys.list(month.ACCOUNT)}
    assert used == {row.credential_id: row.at for row in reversed(rows)}
    for key in gate.keys.list(month.ACCOUNT):
        times = [row.at for row in rows if row.credential_id == key.id]
        assert key.created_at < min(times)
        assert key.revoked_at is None or max(times) <= key.revoked_at


def test_a_month_is_the_same_each_time(gate: Gate, clock: Clock) -> None:
    """The same seed makes the same month but for ids of keys, in any store."""
    other = filled("memory://", clock)
    names = [{key.id: key.name for key in one.keys.list(month.ACCOUNT)} for one in (gate, other)]
    assert [row._replace(credential_id=names[0][row.credential_id]) for row in rows_of(gate)] == [
        row._replace(credential_id=names[1][row.credential_id]) for row in rows_of(other)
    ]
    other.close()


def test_a_month_is_made_once(gate: Gate) -> None:
    """An account that is there is left as it is."""
    before = gate.activity.page(month.ACCOUNT)[0]
    with pytest.raises(InvalidArgument):
        month.fill(gate)
    assert gate.activity.page(month.ACCOUNT)[0] == before
