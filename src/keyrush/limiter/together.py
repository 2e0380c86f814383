"""Takes of several subjects from a limiter that knows only those of one."""

from __future__ import annotations

from collections.abc import Sequence

from keyrush.core import sliding
from keyrush.core.sliding import Demand, Tally
from keyrush.limiter.protocol import SmallLimiter


def one_by_one(limiter: SmallLimiter, demands: Sequence[Demand], now: int) -> Tally:
    """`Limiter.take_together`: one after the other. What was taken is given back where a later one
    is refused, or fails; meanwhile it counts.
    """
    tallies: list[Tally] = []
    is_taken = False
    try:
        for windows, cost in demands:
            tally = limiter.take(windows, cost, now)
            if not tally.admitted:
                return tally
            tallies.append(tally)
        is_taken = True
    finally:
        if not is_taken:
            for windows, cost in demands[: len(tallies)]:
                if cost:
                    limiter.give_back(windows, cost, now)
    return sliding.together(tallies)
