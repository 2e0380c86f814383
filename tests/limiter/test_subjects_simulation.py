"""Random schedules of requests that take of several subjects, held against an oracle that remembers
every request that was admitted, and knows the definition of a window alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from keyrush.core.sliding import Demand, Window
from keyrush.limiter.mapped import MappedLimiter
from keyrush.limiter.memory import MemoryLimiter
from keyrush.limiter.protocol import Limiter
from keyrush.limiter.shared.exact import ExactLimiter
from keyrush.limiter.shared.leased import LeasedLimiter
from tests.conftest import Clock
from tests.support.ledgers import MemoryLedger, client_of

SECOND = 1000
MINUTE = 60 * SECOND
NOW = 29_000_000 * MINUTE + 17 * SECOND

#: Requests of a schedule, and schedules of each kind.
REQUESTS, SCHEDULES = 150, 6


class Admitted(NamedTuple):
    """What one request took of one window, or what was added to it."""

    key: str
    at: int
    cost: int


class Remembering:
    """Every admission, as it was."""

    def __init__(self) -> None:
        self.admitted: list[Admitted] = []

    def used(self, window: Window, now: int) -> int:
        """What counts at `now`: this period in full, of the one before what is left of it."""
        period, length = now // window.length, window.length
        mine = [one for one in self.admitted if one.key == window.key]
        current = sum(one.cost for one in mine if one.at // length == period)
        previous = sum(one.cost for one in mine if one.at // length == period - 1)
        return current + previous * (length - now % length) // length

    def fits(self, demands: Sequence[Demand], now: int) -> bool:
        """Whether all demands are within all their limits."""
        return all(
            self.used(window, now) + demand.cost <= window.amount
            for demand in demands
            if demand.cost
            for window in demand.windows
        )

    def add(self, demands: Sequence[Demand], now: int, sign: int = 1) -> None:
        """Remember what they took, or that it was given back."""
        self.admitted += [
            Admitted(window.key, now, sign * demand.cost)
            for demand in demands
            for window in demand.windows
        ]


class Callers:
    """Keys of accounts, on a plan, with rules that count by key, by account and by address, at
    several prices.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self.plans = [
            (self._window(f"key:{key}", SECOND, 9), self._window(f"key:{key}", MINUTE, 60))
            for key in range(4)
        ]
        rules = [
            *(self._window(f"key:{key}|GET /export|x:", SECOND, 4) for key in range(4)),
            *(self._window(f"account:{key % 2}|tools", SECOND, 12) for key in range(2)),
            self._window("address:2001:db8::", MINUTE, 80),
        ]
        self.rules = [(rule,) for rule in rules]

    def _window(self, subject: str, length: int, most: int) -> Window:
        amount = self._random.randint(1, most)
        return Window(f"{subject}:{length // 1000}", length, amount, "any")

    def request(self) -> list[Demand]:
        """What one asks for."""
        random = self._random
        chosen = random.sample(self.rules, random.randint(0, 3))
        demands = [Demand(random.choice(self.plans), random.choice([0, 1, 1, 1, 2]))]
        demands += [Demand(rule, random.choice([0, 1, 1, 3])) for rule in chosen]
        random.shuffle(demands)
        return demands


def _in_file(clock: Clock, folder: Path) -> list[Limiter]:
    return [MappedLimiter(str(folder / "windows"), clock=clock) for _ in range(3)]


def _in_memory(clock: Clock, folder: Path) -> list[Limiter]:
    return [MemoryLimiter(clock)]


def _exact(clock: Clock, folder: Path) -> list[Limiter]:
    ledger = MemoryLedger(clock)
    return [ExactLimiter(client_of(ledger, clock)) for _ in range(3)]


def _leased(clock: Clock, folder: Path) -> list[Limiter]:
    ledger = MemoryLedger(clock)
    return [LeasedLimiter(client_of(ledger, clock)) for _ in range(3)]


@pytest.mark.parametrize("seed", range(SCHEDULES))
@pytest.mark.parametrize("make", [_in_memory, _in_file, _exact, _leased])
def test_schedules(tmp_path: Path, make: Callable[[Clock, Path], list[Limiter]], seed: int) -> None:
    """R6, O13: whatever is asked of several subjects, by whichever process, never is more in use
    than a limit; who fits is admitted, who doesn't leaves nothing; what is added counts whatever
    the limit; and who is told to wait until an instant fits then, and no sooner.
    """
    random = Random(seed)  # noqa: S311  # a schedule is its seed
    clock = Clock()
    clock.now = NOW
    limiters, callers, known = make(clock, tmp_path), Callers(random), Remembering()
    passed = refused = 0
    for _ in range(REQUESTS):
        clock.advance(random.choice([0, 0, 0, 1, 7, 90, 400, 1500, 70_000]))
        limiter, demands = random.choice(limiters), callers.request()
        if random.random() < 0.05:
            late = random.choice(callers.rules)
            limiter.add(late, 3, clock.now)
            known.add([Demand(late, 3)], clock.now)
            limiter.flush()
        fits = known.fits(demands, clock.now)
        tally = limiter.take_together(demands, clock.now)
        assert tally.admitted is fits
        if tally.admitted:
            passed += 1
            known.add(demands, clock.now)
            if random.random() < 0.1:
                for windows, cost in demands:
                    limiter.give_back(windows, cost, clock.now)
                known.add(demands, clock.now, -1)
                limiter.flush()
        else:
            refused += 1
            assert not known.fits(demands, tally.ready_at - 1)
            if all(demand.cost <= window.amount for demand in demands for window in demand.windows):
                assert known.fits(demands, tally.ready_at)
    assert passed > 10
    assert refused > 10
    for limiter in limiters:
        limiter.close()
