"""Thousands of random schedules, and whether the simulation would notice if something were wrong.

The long form is `python -m tests.long.simulation --schedules 1000000`.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest

from keyrush.core import sliding
from keyrush.core.sliding import Taken, Window
from keyrush.limiter.shared.client import LedgerClient
from keyrush.limiter.shared.lease import Lease
from keyrush.limiter.shared.leased import LeasedLimiter
from keyrush.limiter.shared.outage import Books
from keyrush.limiter.shared.owed import Owed
from tests.long import simulation
from tests.long.simulation import World, failures, main
from tests.support import oracle
from tests.support.ledgers import MemoryLedger
from tests.support.oracle import Oracle


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Outages are not worth a line here."""
    logger = logging.getLogger("keyrush")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.mark.parametrize("first", range(0, 2500, 500))
def test_schedules(first: int) -> None:
    """Whatever processes do, and whatever happens to them, their clocks and the ledger: never
    more is admitted than the limit, a refusal takes nothing, and counts are right in the end.
    """
    wrong, done = failures(range(first, first + 500))
    assert wrong == {}
    assert min(done[what] for what in ("ledger", "lease", "policy", "reconciled")) > 50


def test_a_schedule_is_its_seed() -> None:
    """A schedule that went wrong can be run again, step by step."""
    worlds = [World(7), World(7)]
    for world in worlds:
        world.run()
    first, second = worlds
    assert first.done == second.done
    assert first.ledger.counters == second.ledger.counters
    assert first.time == second.time


# --- the oracle -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instant", "expected"),
    [(0, 3), (999, 3), (1000, 3 + 10), (1001, 12), (1500, 11), (1999, 10), (2000, 10), (3000, 0)],
)
def test_oracle(instant: int, expected: int) -> None:
    """A period counts in full while it lasts, and fades during the next; in whole requests."""
    judge, window = Oracle(), Window("w", 1000, 5, "second")
    judge.add(window, 5, 999)
    judge.add(window, -2, 0)
    judge.add(window, 10, 1000)
    assert judge.used(window, instant) == expected


def test_oracle_agrees() -> None:
    """Two ways to work out the same: the oracle's and that of `keyrush.core.sliding`."""
    for now in range(7000, 8400, 7):
        found = oracle.used({10: 13, 11: 4}, 700, now)
        assert found == sliding.used((11, 4, 13), 700, max(now, 7700)) or now < 7700


# --- would it notice? -----------------------------------------------------------------------------


def units_that_outlive_their_period(patch: pytest.MonkeyPatch) -> None:
    absorb = LeasedLimiter._absorb  # noqa: SLF001  # this is sabotage

    def longer(self: LeasedLimiter, lease: Lease, *rest: Any) -> Any:
        answer = absorb(self, lease, *rest)
        lease.until += 400
        return answer

    patch.setattr(LeasedLimiter, "_absorb", longer)


def units_given_back_and_used(patch: pytest.MonkeyPatch) -> None:
    def kept(self: LeasedLimiter, lease: Lease) -> None:
        if lease.left:
            self.client.books.owe(tuple(lease.windows), -lease.left, lease.taken_at)

    patch.setattr(LeasedLimiter, "_let_go", kept)


def units_never_given_back(patch: pytest.MonkeyPatch) -> None:
    def dropped(self: LeasedLimiter, lease: Lease) -> None:
        lease.left = 0

    patch.setattr(LeasedLimiter, "_let_go", dropped)


def refusals_of_any_cost(patch: pytest.MonkeyPatch) -> None:
    class Whatever(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    absorb = LeasedLimiter._absorb  # noqa: SLF001  # this is sabotage

    def careless(self: LeasedLimiter, lease: Lease, *rest: Any) -> Any:
        answer = absorb(self, lease, *rest)
        lease.refused = Whatever()
        return answer

    patch.setattr(LeasedLimiter, "_absorb", careless)


def given_back_twice(patch: pytest.MonkeyPatch) -> None:
    tell = LedgerClient._tell  # noqa: SLF001  # this is sabotage

    def again(self: LedgerClient, slot: Any) -> None:
        owed = self.books._owed  # noqa: SLF001  # as above
        before = dict(owed)
        try:
            tell(self, slot)
        except Exception:
            owed.setdefault(slot, before.get(slot, (0, 0)))
            raise

    patch.setattr(LedgerClient, "_tell", again)


def never_added(patch: pytest.MonkeyPatch) -> None:
    owe = Owed.owe

    def less(self: Owed, windows: Any, units: int, taken_at: int) -> None:
        owe(self, windows, min(units, 0), taken_at)

    patch.setattr(Owed, "owe", less)


def what_passed_uncounted_given_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Books, "counts", lambda self, taken_at: True)


def a_refusal_that_takes(patch: pytest.MonkeyPatch) -> None:
    take = MemoryLedger.take

    def greedy(self: MemoryLedger, wanted: Sequence[Window], cost: int, extra: int) -> Taken:
        taken = take(self, wanted, cost, extra)
        if cost and not taken.granted:
            index, current, previous = taken.counters[0]
            self.counters[wanted[0].key] = (index, current + 1, previous)
        return taken

    patch.setattr(MemoryLedger, "take", greedy)


def one_too_many(patch: pytest.MonkeyPatch) -> None:
    take = MemoryLedger.take

    def generous(self: MemoryLedger, wanted: Sequence[Window], cost: int, extra: int) -> Taken:
        more = [window._replace(amount=window.amount + 1) for window in wanted]
        return take(self, more, cost, extra)

    patch.setattr(MemoryLedger, "take", generous)


@pytest.mark.parametrize(
    "sabotage",
    [
        units_that_outlive_their_period,
        units_given_back_and_used,
        units_never_given_back,
        refusals_of_any_cost,
        given_back_twice,
        never_added,
        what_passed_uncounted_given_back,
        a_refusal_that_takes,
        one_too_many,
    ],
)
def test_notices(
    monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """What could go wrong does not go unnoticed for more than some hundred schedules."""
    sabotage(monkeypatch)
    assert any(failures(range(first, first + 50))[0] for first in range(0, 1000, 50))


# --- the command ----------------------------------------------------------------------------------


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs as many schedules as it is told, and ends with 0 when all went well."""
    monkeypatch.setattr(sys, "argv", ["simulation", "--schedules", "6", "--first", "3"])
    monkeypatch.setattr(simulation, "_PART", 2)
    assert main() == 0
    out = capsys.readouterr().out
    assert "6 schedules" in out
    assert out.endswith("none failed\n")


def test_command_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the seeds of those that failed, and ends with 1."""
    one_too_many(monkeypatch)
    # In this process, for others don't know of the sabotage.
    monkeypatch.setattr(simulation, "cores", lambda: 1)
    monkeypatch.setattr(multiprocessing, "Pool", ThreadPool)
    monkeypatch.setattr(sys, "argv", ["simulation", "--schedules", "60"])
    assert main() == 1
    out = capsys.readouterr().out
    assert "Violation" in out
    assert "failed: [" in out
