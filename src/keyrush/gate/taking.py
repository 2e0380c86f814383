"""What a request takes of limits other than its plan's: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from keyrush.core.identity import Verified
from keyrush.core.policy import Needs
from keyrush.core.sliding import Demand, Tally
from keyrush.gate.principal import Principal, Taken
from keyrush.limiter.protocol import AwaitedLimiter, Limiter


class Took(NamedTuple):
    """What came of it."""

    tally: Tally
    demands: Sequence[Demand]  #: of all windows, those of the plan first


class Taking:
    """Takes for verified callers. Safe to use from any thread or event loop.

    `address` is the subject of the client's, by which limits may count. With `is_look` the request
    is refused already, and nothing is taken.
    """

    def __init__(self, limiter: Limiter, awaited: AwaitedLimiter | None) -> None:
        self._limiter = limiter
        self._awaited = awaited

    def at_once(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """From memory alone, or None where I/O is needed."""
        demands = _demands(verified, needs, address, is_look=is_look)
        tally = self._limiter.take_together_at_once(demands, now)
        return None if tally is None else Took(tally, demands)

    def take(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took:
        """The same; may block.

        Raises:
            Away: The limiter is away, and the outage policy lets nothing pass.
        """
        demands = _demands(verified, needs, address, is_look=is_look)
        return Took(self._limiter.take_together(demands, now), demands)

    async def take_async(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """`take`, awaited; None where only what blocks can tell."""
        assert self._awaited is not None  # noqa: S101  # else nobody awaits it
        demands = _demands(verified, needs, address, is_look=is_look)
        tally = await self._awaited.take_together_async(demands, now)
        return None if tally is None else Took(tally, demands)

    def give_back(self, taken: Taken) -> None:
        """Give back what was taken for a request that is refused after all; may block."""
        for windows, cost in taken.demands:
            if cost:
                self._limiter.give_back(windows, cost, taken.at)

    def undo(self, caller: Principal) -> None:
        """Give back all that a request has taken; may block."""
        for one in takes_of(caller):
            self.give_back(one)

    def look(self, caller: Principal, now: int) -> Took:
        """How the windows of a request stand; may block."""
        windows = dict.fromkeys(one.windows for demands, _ in takes_of(caller) for one in demands)
        looks = [Demand(one, 0) for one in windows]
        return Took(self._limiter.take_together(looks, now), looks)


def takes_of(caller: Principal) -> tuple[Taken, ...]:
    """All that a request has taken from windows."""
    if hasattr(caller, "takes"):
        return caller.takes
    plain = Demand(caller.verified.windows, caller.taken)
    return (Taken((plain,), caller.taken_at),)


def _demands(
    verified: Verified, needs: Needs, address: str, *, is_look: bool
) -> tuple[Demand, ...]:
    demands = [Demand(verified.windows, 0 if is_look else needs.cost)]
    for limits, cost in needs.limits:
        demands.append(Demand(limits.of(verified, address), 0 if is_look else cost))
    return tuple(one for one in demands if one.windows)
