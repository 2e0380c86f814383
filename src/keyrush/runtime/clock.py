"""The clock that instants are read from, and the one that measures what has passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


def now_ms() -> int:
    """The wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Clock(NamedTuple):
    """Two clocks that go together."""

    now: Callable[[], int]  #: Unix milliseconds
    monotonic: Callable[[], float]  #: seconds, from anywhere; nobody sets it
    is_real: bool = False  #: the machine's, beside which servers go by their own

    @classmethod
    def of(cls, now: Callable[[], int] | None) -> Clock:
        """The clock of which `now` alone moves both; the machine's, where there is none."""
        return REAL if now is None else cls(now, lambda: now() / 1000)


#: The machine's.
REAL = Clock(now_ms, time.monotonic, is_real=True)
