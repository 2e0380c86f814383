"""How long activity is kept, whatever is recorded now, and whatever clocks say meanwhile."""

from __future__ import annotations

import threading
from typing import Literal

import pytest

from keyrush import Gate
from keyrush.core.activity import Where
from keyrush.core.times import DAY
from keyrush.runtime.circuit import Circuit
from keyrush.store.memory import MemoryStore
from keyrush.usage.retention import OLD, Retention
from tests.conftest import Clock, settings
from tests.support.activity import row


class Kept:
    """A store with a row, and how long it is kept, by a clock that somebody may set."""

    def __init__(self, clock: Clock) -> None:
        self.store, self.passed = MemoryStore(), 1000.0
        self.retention = Retention(
            self.store,
            Circuit("the store", lambda: self.passed),
            (30 * DAY, 2 * DAY, 400 * DAY),
            clock=clock,
            monotonic=lambda: self.passed,
        )
        self.store.add_activity([row(at=clock())])

    def forgets(self) -> bool:
        """Whether the row has gone."""
        self.retention.forget()
        return not self.store.activity("acct_a", Where())


@pytest.fixture
def kept(clock: Clock) -> Kept:
    """A store with a row."""
    return Kept(clock)


class Watched(MemoryStore):
    """A store that says when nothing is too old any more."""

    def __init__(self) -> None:
        super().__init__()
        self.is_clean = threading.Event()

    def forget_activity(self, *befores_and_most: int) -> int:
        """As the protocol says."""
        forgotten = super().forget_activity(*befores_and_most)
        if not forgotten:
            self.is_clean.set()
        return forgotten


@pytest.mark.parametrize("recorded", ["all", "refusals", "off"])
def test_what_is_too_old_goes(clock: Clock, recorded: Literal["all", "refusals", "off"]) -> None:
    """O20: rows are kept for 30 days, and their totals longer; also where no more are recorded than
    refusals, or nothing.
    """
    store = Watched()
    gate = Gate.open(settings(activity=recorded), store=store, clock=clock)
    gate.accounts.create("acct_a")
    days = [0, 29, 31, 60]
    store.add_activity([row(number, at=clock() - days[number] * DAY) for number in range(4)])
    gate.background.start()
    assert store.is_clean.wait(10)
    assert gate.activity.count("acct_a") == 2
    totals = gate.activity.summary("acct_a", Where(since=clock() - 90 * DAY), by="day")
    assert sum(one.requests for one in totals) == 4
    gate.close()


def test_a_look_is_bounded(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """O20: where millions of rows are too old, a turn deletes but a portion of them, and no more
    than twice as many as came.
    """
    asked: list[int] = []

    def forget(*befores_and_most: int) -> int:
        asked.append(befores_and_most[-1])
        return befores_and_most[-1]

    monkeypatch.setattr(kept.store, "forget_activity", forget)
    kept.retention.forget()
    kept.retention.forget()
    assert asked == [OLD, OLD]
    kept.retention.note(OLD)
    kept.retention.forget()
    assert asked[2:] == [OLD] * 3


def test_a_clock_that_is_ahead_for_a_while(kept: Kept, clock: Clock) -> None:
    """O20: nothing is deleted by a clock that has been set, until it has held for an hour: what is
    deleted does not come back.
    """
    assert not kept.forgets()
    clock.advance(1000 * DAY)
    assert not kept.forgets()
    clock.advance(-1000 * DAY)
    kept.passed += 1
    assert not kept.forgets()
    clock.advance(1000 * DAY)
    assert not kept.forgets()
    clock.advance(3_600_000)
    kept.passed += 3600
    assert kept.forgets()
