"""What a request takes of limits other than its plan's windows: all of it, or nothing.

Slots come first, for they can be given back at any time without a trace; windows next.
"""

from __future__ import annotations

from keyrush.core.concurrency import NO_WANTS, Wants
from keyrush.core.identity import Verified
from keyrush.core.policy import Needs
from keyrush.core.sliding import Demand
from keyrush.gate.concurrency import NOTHING, Concurrency, Held, wants_of
from keyrush.gate.principal import Principal, Taken
from keyrush.gate.windows import Demands, Took, Windows
from keyrush.limiter.protocol import AwaitedLimiter, Limiter


class Taking:
    """Takes for verified callers. Safe to use from any thread or event loop.

    `address` is the subject of the client's, by which limits may count. With `is_look` the request
    is refused already, and nothing is taken.
    """

    def __init__(
        self, limiter: Limiter, awaited: AwaitedLimiter | None, concurrency: Concurrency
    ) -> None:
        self._limiter = limiter
        self._windows = Windows(limiter, awaited)
        self._concurrency = concurrency

    def at_once(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """From memory alone, or None where I/O is needed, and nothing is taken."""
        wants = NO_WANTS if is_look else wants_of(verified, needs, address)
        if needs.has_limits or verified.is_observed:
            demands = _demands(verified, needs, address, is_look=is_look)
            return self.at_once_of(wants, demands, now)
        # No windows but the plan's, and they are enforced: what every request of a plan with
        # `max_concurrent` does.
        held = self._concurrency.at_once(wants)
        if held is None:
            return None
        try:
            cost = 0 if is_look or held.full else needs.cost
            tally = self._limiter.take_at_once(verified.windows, cost, now)
        except BaseException:
            self._concurrency.give_back(held.slots)
            raise
        return self._with(held, None if tally is None else Took(tally, None, held=held))

    def take(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took:
        """The same; may block.

        Raises:
            Away: The limiter is away, and the outage policy lets nothing pass.
        """
        wants = NO_WANTS if is_look else wants_of(verified, needs, address)
        return self.take_of(wants, _demands(verified, needs, address, is_look=is_look), now)

    async def take_async(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """`take`, awaited; None where only what blocks can tell."""
        wants = NO_WANTS if is_look else wants_of(verified, needs, address)
        demands = _demands(verified, needs, address, is_look=is_look)
        return await self.take_async_of(wants, demands, now)

    # --- of whomever ---

    def at_once_of(self, wants: Wants, demands: Demands, now: int) -> Took | None:
        """`at_once`, of what somebody wants."""
        held = self._concurrency.at_once(wants)
        if held is None:
            return None
        try:
            took = self._windows.at_once(demands.looks() if held.full else demands, now)
        except BaseException:
            self._concurrency.give_back(held.slots)
            raise
        return self._with(held, took)

    def take_of(self, wants: Wants, demands: Demands, now: int) -> Took:
        """`take`, of what somebody wants."""
        held = self._concurrency.take(wants)
        try:
            took = self._windows.take(demands.looks() if held.full else demands, now)
        except BaseException:
            self._concurrency.give_back(held.slots)
            raise
        return self._with(held, took) or took

    async def take_async_of(self, wants: Wants, demands: Demands, now: int) -> Took | None:
        """`take_async`, of what somebody wants."""
        held = await self._concurrency.take_async(wants)
        if held is None:
            return None
        try:
            took = await self._windows.take_async(demands.looks() if held.full else demands, now)
        except BaseException:  # the task is cancelled, too
            self._concurrency.give_back(held.slots)
            raise
        return self._with(held, took)

    def _with(self, held: Held, took: Took | None) -> Took | None:
        """What came of both: no slot is held where windows refuse, or can't tell."""
        if took is None or not took.tally.admitted:
            self._concurrency.give_back(held.slots)
            return took and took._replace(held=NOTHING)
        if took.held is held:
            return took
        return Took(took.tally, took.demands, took.shown, took.told, held)

    def let_go(self, took: Took | None) -> None:
        """Give back the slots of a request that is refused after all."""
        if took is not None:
            self._concurrency.give_back(took.held.slots)

    def looks(self, verified: Verified, needs: Needs, address: str) -> Demands:
        """The windows of a request, of which nothing is taken."""
        return _demands(verified, needs, address, is_look=True)

    def give_back(self, taken: Taken) -> None:
        """Give back what was taken from windows for a request that is refused after all; may
        block.
        """
        for windows, cost in taken.demands:
            if cost:
                self._limiter.give_back(windows, cost, taken.at)

    def undo(self, caller: Principal) -> None:
        """Give back all that a request has taken from windows; may block."""
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


def _demands(verified: Verified, needs: Needs, address: str, *, is_look: bool) -> Demands:
    cost = 0 if is_look else needs.cost
    if not (verified.is_observed or needs.is_observed):  # as nearly all
        enforced = [Demand(verified.windows, cost)] if verified.windows else []
        for limits, units in needs.limits:
            if windows := limits.of(verified, address):
                enforced.append(Demand(windows, 0 if is_look else units))
        return Demands(tuple(enforced))
    wanted = [(verified.is_observed, Demand(verified.windows, cost))]
    for limits, units in needs.limits:
        demand = Demand(limits.of(verified, address), 0 if is_look else units)
        wanted.append((limits.is_observed, demand))
    return Demands.of(wanted)
