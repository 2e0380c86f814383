"""Takes of several subjects from a limiter that knows only those of one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from keyrush.core import sliding
from keyrush.core.sliding import Demand, Tally
from keyrush.errors import Away
from keyrush.limiter.protocol import SmallLimiter


def one_by_one(limiter: SmallLimiter, demands: Sequence[Demand], now: int) -> Tally:
    """`Limiter.take_together`: one after the other. What was taken is given back where a later one
    is refused, or fails; meanwhile it counts. Of those after the one that is refused nothing is
    taken: they are looked at, for whether they would be refused for longer.
    """
    sliding.joined(demands)  # for costs that are wrong, before anything is taken
    tallies: list[Tally] = []
    with ExitStack() as undo:
        for windows, cost in demands:
            tallies.append(limiter.take(windows, cost, now))
            if not tallies[-1].admitted:
                break
            if cost:
                undo.callback(limiter.give_back, windows, cost, now)
        else:
            undo.pop_all()
            return sliding.together(tallies)
    return sliding.together([tallies[-1], *_refusals(limiter, demands[len(tallies) :], now)])


def _refusals(limiter: SmallLimiter, demands: Sequence[Demand], now: int) -> list[Tally]:
    """Of the demands that would be refused, as far as a look tells until when."""
    refusals: list[Tally] = []
    for windows, cost in demands:
        try:
            seen = limiter.take(windows, 0, now)
        except Away:  # then the one that was refused stands for all
            return refusals
        if seen.window is not None and seen.remaining < cost:
            refusals.append(seen._replace(admitted=False))
    return refusals
