"""Windows that are enforced and windows that are only observed, taken for one request.

What is enforced is taken together, all of it or nothing. Then what is observed, each demand by
itself: one that would be refused takes nothing, so that it counts as if it were enforced.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from keyrush.core import sliding
from keyrush.core.sliding import UNLIMITED, Demand, Tally, Window
from keyrush.errors import Away
from keyrush.gate.concurrency import NOTHING, Held
from keyrush.limiter.protocol import AwaitedLimiter, Limiter


class Demands(NamedTuple):
    """What a request takes, by what becomes of it where that is too much."""

    enforced: tuple[Demand, ...]
    observed: tuple[Demand, ...] = ()

    @classmethod
    def of(cls, wanted: Sequence[tuple[bool, Demand]]) -> Demands:
        """Demands, each with whether it is only observed; one without windows is none."""
        enforced, observed = (
            tuple(
                demand for is_observed, demand in wanted if demand.windows and is_observed is which
            )
            for which in (False, True)
        )
        return cls(enforced, observed)

    def looks(self) -> Demands:
        """The same windows, of which nothing is taken."""
        return Demands(
            tuple(Demand(one.windows, 0) for one in self.enforced),
            tuple(Demand(one.windows, 0) for one in self.observed),
        )


class Took(NamedTuple):
    """What came of it."""

    tally: Tally  #: of what is enforced
    #: Of all windows, those that are enforced first; where nothing was taken their cost is 0. None
    #: where they are those of the plan alone.
    demands: Sequence[Demand] | None
    shown: Tally | None = None  #: of the most constrained window, where some are observed
    told: Tally | None = None  #: of what is observed and would have refused it
    observed: int = 0  #: how many of the demands, the last ones, are only observed
    held: Held = NOTHING  #: slots, until the request is over


#: `Took._make`, without a call of Python's own.
made = partial(tuple.__new__, Took)


class Windows:
    """Takes from a limiter. Safe to use from any thread or event loop."""

    def __init__(self, limiter: Limiter, awaited: AwaitedLimiter | None) -> None:
        self._limiter = limiter
        self._awaited = awaited

    def at_once(self, demands: Demands, now: int) -> Took | None:
        """From memory alone, or None where I/O is needed, and nothing is taken."""
        enforced, observed = demands
        tally: Tally | None = UNLIMITED
        if len(enforced) == 1:
            ((windows, cost),) = enforced
            tally = self._limiter.take_at_once(windows, cost, now)
        elif enforced:
            tally = self._limiter.take_together_at_once(enforced, now)
        if tally is None:
            return None
        if not observed:  # as nearly all
            return made((tally, enforced, None, None, 0, NOTHING))
        if not tally.admitted:
            return _refused(tally, demands)
        tallies: list[Tally] = []
        for windows, cost in observed:
            one: Tally | None = UNLIMITED
            with suppress(Away):  # which refuses nothing that nobody enforces
                one = self._limiter.take_at_once(windows, cost, now)
            if one is None:
                self.undo(_took(tally, demands, tallies), now)
                return None
            tallies.append(one)
        return _took(tally, demands, tallies)

    def take(self, demands: Demands, now: int) -> Took:
        """The same; may block.

        Raises:
            Away: The limiter is away, and the outage policy lets nothing pass.
        """
        enforced, observed = demands
        tally = self._limiter.take_together(enforced, now) if enforced else UNLIMITED
        if not observed or not tally.admitted:
            return _refused(tally, demands)
        tallies: list[Tally] = []
        for windows, cost in observed:
            try:
                tallies.append(self._limiter.take(windows, cost, now))
            except Away:  # as above
                tallies.append(UNLIMITED)
        return _took(tally, demands, tallies)

    async def take_async(self, demands: Demands, now: int) -> Took | None:
        """`take`, awaited; None where only what blocks can tell, and nothing is taken."""
        assert self._awaited is not None  # noqa: S101  # else nobody awaits it
        enforced, observed = demands
        tally: Tally | None = UNLIMITED
        if enforced:
            tally = await self._awaited.take_together_async(enforced, now)
        if tally is None or not observed or not tally.admitted:
            return None if tally is None else _refused(tally, demands)
        tallies: list[Tally] = []
        is_whole = False
        try:
            for windows, cost in observed:
                one = await self._observed_async(windows, cost, now)
                if one is None:
                    return None
                tallies.append(one)
            is_whole = True
        finally:
            if not is_whole:  # the task is cancelled, or a thread is to do it
                self.undo(_took(tally, demands, tallies), now)
        return _took(tally, demands, tallies)

    async def _observed_async(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        assert self._awaited is not None  # noqa: S101  # as above
        try:
            return await self._awaited.take_async(windows, cost, now)
        except Away:
            return UNLIMITED

    def undo(self, took: Took, now: int) -> None:
        """Give back what was taken from memory, or can be owed: waits for nothing."""
        for windows, cost in took.demands or ():
            if cost:
                self._limiter.give_back(windows, cost, now)


def _refused(tally: Tally, demands: Demands) -> Took:
    """What came of a take of which nothing that is observed was taken."""
    enforced, observed = demands
    if not observed:
        return Took(tally, enforced)
    all_of_them = (*enforced, *(Demand(windows, 0) for windows, _ in observed))
    return Took(tally, all_of_them, observed=len(observed))


def _took(tally: Tally, demands: Demands, observed: Sequence[Tally]) -> Took:
    """What came of a take; what is observed and not among its tallies was not taken."""
    taken = list(demands.enforced)
    for place, (windows, cost) in enumerate(demands.observed):
        is_taken = place < len(observed) and observed[place].admitted
        taken.append(Demand(windows, cost if is_taken else 0))
    refused = [one for one in observed if not one.admitted]
    return Took(
        tally,
        taken,
        sliding.together([tally, *observed]),
        sliding.together(refused) if refused else None,
        len(demands.observed),
    )
