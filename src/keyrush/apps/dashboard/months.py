"""A month of requests: where it has got to, and where it may go."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from keyrush.core.times import DAY, month_bounds


def projected(counted: int, now: int) -> int | None:
    """How many requests a month will have at the pace it has had; None on its first day, when
    nobody knows.
    """
    begin, end = month_bounds(now)
    if now - begin < DAY:
        return None
    return counted * (end - begin) // (now - begin)


def so_far(counted: int, by_day: Sequence[int]) -> list[int]:
    """How many requests there were at the end of each day; the last one is today, at `counted`.

    Counted back from now, so that the line ends where the month's count stands, also where days
    lack activity because none was kept.
    """
    later = accumulate(reversed(by_day), initial=0)
    return [max(0, counted - after) for after in list(later)[:-1]][::-1]
