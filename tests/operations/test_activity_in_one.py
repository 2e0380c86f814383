"""Totals of activity in one bin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrush import Gate
from keyrush.core.activity import Activity, Total, Where
from keyrush.core.times import DAY
from keyrush.store.opening import activity_of
from tests.conftest import Clock, settings, still

MINUTE, HOUR = 60_000, 3_600_000


@pytest.fixture(params=["memory", "sqlite"])
def gate(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Iterator[Gate]:
    """A gate with an account that asks every ten minutes for three days, by two keys."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"
    opened = still(Gate.open(settings(store_url=url, limiter_url="memory://"), clock=clock))
    opened.accounts.create("acct_a")
    rows = [
        Activity(
            f"act_{n}", clock.now - n * 10 * MINUTE, "acct_a", f"cred_{n % 3 > 0}", None, "api",
            "GET", "/", "/", 200, "ok", None, 2, 1000, None, None, None,
        )
        for n in range(3 * 24 * 6)
    ]  # fmt: skip
    activity_of(opened.store).add_activity(rows)
    yield opened
    opened.close()


@pytest.mark.parametrize("ago", [20 * MINUTE, 90 * MINUTE, 7 * HOUR, 2 * DAY - 1, 2 * DAY + 1])
@pytest.mark.parametrize("until", [None, HOUR])
def test_all_in_one_bin(gate: Gate, clock: Clock, ago: int, until: int | None) -> None:
    """O20: one bin has what rows of whole minutes, or hours, come to, and begins with them."""
    where = Where(since=clock.now - ago, until=None if until is None else clock.now - until)
    unit = HOUR if ago > 2 * DAY else MINUTE
    begin = (clock.now - ago) // unit * unit
    end = -(-(clock.now + 1 if until is None else clock.now - until) // unit) * unit
    times = {n: clock.now - n * 10 * MINUTE for n in range(3 * 24 * 6)}
    bins = Counter(f"cred_{n % 3 > 0}" for n, at in times.items() if begin <= at < end)
    found = gate.activity.summary("acct_a", where, by="all", group="key")
    assert {total.value: total.requests for total in found} == bins
    assert {total.at for total in found} <= {begin}
    assert {total.credits for total in found} == {2 * count for count in bins.values()}
    for at_most in (1, 2):
        most = gate.activity.most("acct_a", where, group="key", at_most=at_most)
        assert most == bins.most_common(at_most)


def test_whole_days_in_one_bin(gate: Gate, clock: Clock) -> None:
    """O20: of whole days it is the same, and begins with the first."""
    today = clock.now // DAY * DAY
    where = Where(since=today - DAY, until=today + DAY)
    (total,) = gate.activity.summary("acct_a", where, by="all")
    times = [clock.now - n * 10 * MINUTE for n in range(3 * 24 * 6)]
    assert (total.at, total.requests) == (today - DAY, sum(at >= today - DAY for at in times))


def test_without_a_beginning(gate: Gate) -> None:
    """O20: without `since` it is all that is kept; of nobody it is nothing."""
    (total,) = gate.activity.summary("acct_a", by="all")
    assert isinstance(total, Total)
    assert (total.requests, total.value) == (3 * 24 * 6, None)
    nobody = Where(credential_id="cred_x")
    assert gate.activity.summary("acct_a", nobody, by="all") == []
    assert gate.activity.most("acct_a", nobody, group="key", at_most=5) == []
    never = Where(since=9 * DAY, until=8 * DAY)
    assert gate.activity.most("acct_a", never, group="key", at_most=5) == []
