"""What a request takes of limits other than its plan's: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

from keyrush.core.identity import Verified
from keyrush.core.policy import Needs
from keyrush.core.sliding import Demand, Tally
from keyrush.gate.principal import Principal, Taken
from keyrush.gate.windows import Demands, Took, Windows
from keyrush.limiter.protocol import AwaitedLimiter, Limiter


class Taking:
    """Takes for verified callers. Safe to use from any thread or event loop.

    `address` is the subject of the client's, by which limits may count. With `is_look` the request
    is refused already, and nothing is taken.
    """

    def __init__(self, limiter: Limiter, awaited: AwaitedLimiter | None) -> None:
        self._limiter = limiter
        self._windows = Windows(limiter, awaited)

    def at_once(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """From memory alone, or None where I/O is needed."""
        return self._windows.at_once(_demands(verified, needs, address, is_look=is_look), now)

    def take(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took:
        """The same; may block.

        Raises:
            Away: The limiter is away, and the outage policy lets nothing pass.
        """
        return self._windows.take(_demands(verified, needs, address, is_look=is_look), now)

    async def take_async(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """`take`, awaited; None where only what blocks can tell."""
        demands = _demands(verified, needs, address, is_look=is_look)
        return await self._windows.take_async(demands, now)

    def looks(self, verified: Verified, needs: Needs, address: str) -> Demands:
        """The windows of a request, of which nothing is taken."""
        return _demands(verified, needs, address, is_look=True)

    def give_back(self, taken: Taken) -> None:
        """Give back what was taken for a request that is refused after all; may block."""
        for windows, cost in taken.demands:
            if cost:
                self._limiter.give_back(windows, cost, taken.at)

    def undo(self, caller: Principal, now: int) -> tuple[Tally, Sequence[Demand]]:
        """Give back all that a caller has taken; how its windows stand then. May block."""
        taken = takes_of(caller)
        for one in taken:
            self.give_back(one)
        looks = {demand.windows: Demand(demand.windows, 0) for one in taken for demand in one[0]}
        demands = tuple(looks.values())
        return self._limiter.take_together(demands, now), demands


def takes_of(caller: Principal) -> tuple[Taken, ...]:
    """All that a request has taken from windows."""
    if hasattr(caller, "takes"):
        return caller.takes
    plain = Demand(caller.verified.windows, caller.taken)
    return (Taken((plain,), caller.taken_at),)


def _demands(verified: Verified, needs: Needs, address: str, *, is_look: bool) -> Demands:
    wanted = [(verified.windows, needs.cost, verified.is_observed)]
    for limits, cost in needs.limits:
        wanted.append((limits.of(verified, address), cost, limits.is_observed))
    enforced, observed = (
        tuple(
            Demand(windows, 0 if is_look else cost)
            for windows, cost, is_observed in wanted
            if windows and is_observed is which
        )
        for which in (False, True)
    )
    return Demands(enforced, observed)
