"""The clock that instants are read from, and the one that measures what has passed."""

from __future__ import annotations

import time
from collections.abc import Callable


def now_ms() -> int:
    """The wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


def unless_real(clock: Callable[[], int]) -> Callable[[], int] | None:
    """None for the machine's clock, in whose place servers go by their own."""
    return None if clock is now_ms else clock


def monotonic_of(clock: Callable[[], int]) -> Callable[[], float]:
    """Seconds that go with `clock`, so that where it is not the machine's only it moves them."""
    return time.monotonic if clock is now_ms else lambda: clock() / 1000
