"""Limiters over a file of windows, for the tests of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyrush.limiter.mapped import MappedLimiter
from keyrush.limiter.protocol import Outage
from tests.conftest import Clock
from tests.support.mapped import NOW

Make = Callable[..., MappedLimiter]


@pytest.fixture
def clock() -> Clock:
    """A clock in the middle of a minute, and of an hour."""
    clock = Clock()
    clock.now = NOW
    return clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file of windows may be."""
    return tmp_path / "keyrush.windows"


@pytest.fixture
def make(path: Path, clock: Clock) -> Iterator[Make]:
    """Makes limiters over the file, which are closed in the end."""
    made: list[MappedLimiter] = []

    def make(outage: Outage = "closed", at: Path = path) -> MappedLimiter:
        made.append(MappedLimiter(str(at), outage, clock, lambda: clock() / 1000))
        return made[-1]

    yield make
    for one in made:
        one.close()
