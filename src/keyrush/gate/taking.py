"""What a request takes of limits other than its plan's windows: all of it, or nothing.

Slots come first, for they can be given back at any time without a trace; windows next. But where a
server would have to be asked for a slot, and it is known that a window refuses, that is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from keyrush.core.concurrency import NO_WANTS, Wants
from keyrush.core.identity import Verified
from keyrush.core.policy import Needs
from keyrush.core.sliding import Demand
from keyrush.gate.concurrency import NOTHING, Concurrency, Held, wants_of
from keyrush.gate.principal import Principal, Taken
from keyrush.gate.windows import Demands, Took, Windows, made
from keyrush.limiter.protocol import AwaitedLimiter, Limiter

#: `Demand._make` and `Taken._make`, without a call of Python's own.
_demand, _taken = partial(tuple.__new__, Demand), partial(tuple.__new__, Taken)


class Together:
    """Takes slots and units of windows. Safe to use from any thread or event loop."""

    def __init__(
        self, limiter: Limiter, awaited: AwaitedLimiter | None, concurrency: Concurrency
    ) -> None:
        self._limiter = limiter
        self._windows = Windows(limiter, awaited)
        self._concurrency = concurrency

    def at_once(self, wants: Wants, demands: Demands | Demand, now: int) -> Took | None:
        """From memory alone, or None where I/O is needed. Where no slot is left windows are only
        looked at. One demand alone is of the plan's.
        """
        if wants is NO_WANTS and isinstance(demands, Demands):  # as of a rule's limits alone
            return self._windows.at_once(demands, now)
        held = self._concurrency.at_once(wants)
        if held is None:
            if not isinstance(demands, Demands):
                demands = Demands((demands,) if demands.windows else ())
            return self._refused_at_once(demands, now)
        try:
            if isinstance(demands, Demands):
                took = self._windows.at_once(demands.looks() if held.full else demands, now)
            else:
                windows, cost = demands
                tally = self._limiter.take_at_once(windows, 0 if held.full else cost, now)
                took = None if tally is None else made((tally, None, None, None, 0, NOTHING))
        except BaseException:
            self._concurrency.give_back(held.slots)
            raise
        return self._with_if_told(held, took)

    def take(self, wants: Wants, demands: Demands, now: int) -> Took:
        """The same; may block.

        Raises:
            Away: It can't be told, and the outage policy lets nothing pass.
        """
        held = self._concurrency.at_once(wants)
        if held is None:
            if (refused := self._refused_at_once(demands, now)) is not None:
                return refused
            held = self._concurrency.take(wants)
        try:
            took = self._windows.take(demands.looks() if held.full else demands, now)
        except BaseException:
            self._concurrency.give_back(held.slots)
            raise
        return self._with(held, took)

    def _refused_at_once(self, demands: Demands, now: int) -> Took | None:
        """What windows refuse, as far as memory alone can tell: then nobody is asked for a slot,
        or whoever is out would have that done with each request.
        """
        took = self._windows.at_once(demands, now)
        if took is not None and took.tally.admitted:
            self._windows.undo(took, now)
            return None
        return took

    async def take_async(self, wants: Wants, demands: Demands, now: int) -> Took | None:
        """`take`, awaited; None where only what blocks can tell."""
        held = await self._concurrency.take_async(wants)
        if held is None:
            return None
        try:
            took = await self._windows.take_async(demands.looks() if held.full else demands, now)
        except BaseException:  # the task is cancelled, too
            self._concurrency.give_back(held.slots)
            raise
        return self._with_if_told(held, took)

    def _with_if_told(self, held: Held, took: Took | None) -> Took | None:
        """The same, where it may be that nothing came of windows."""
        if took is None:
            self._concurrency.give_back(held.slots)
            return None
        return took if held is NOTHING else self._with(held, took)

    def _with(self, held: Held, took: Took) -> Took:
        """What came of both: no slot is held where windows refuse."""
        if held.slots and not took.tally.admitted:
            self._concurrency.give_back(held.slots)
            return took
        tally, demands, shown, told, observed, _ = took
        return made((tally, demands, shown, told, observed, held))

    def let_go(self, took: Took | None) -> None:
        """Give back the slots of a request that is refused after all."""
        if took is not None:
            self._concurrency.give_back(took.held.slots)


class Taking:
    """Takes for verified callers, and gives back. Safe to use from any thread or event loop.

    `address` is the subject of the client's, by which limits may count. With `is_look` the request
    is refused already, and nothing is taken.
    """

    def __init__(
        self, limiter: Limiter, awaited: AwaitedLimiter | None, concurrency: Concurrency
    ) -> None:
        self._limiter = limiter
        self._together = Together(limiter, awaited, concurrency)
        self.let_go = self._together.let_go

    def at_once(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """From memory alone, or None where I/O is needed."""
        wants = NO_WANTS if is_look else wants_of(verified, needs, address)
        if needs.has_limits or verified.is_observed:
            demands = _demands(verified, needs, address, is_look=is_look)
            return self._together.at_once(wants, demands, now)
        # As where there is no limit but the plan's: it may be a plan that has brought us here.
        plain = Demand(verified.windows, 0 if is_look else needs.cost)
        return self._together.at_once(wants, plain, now)

    def take(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took:
        """The same; may block.

        Raises:
            Away: The limiter is away, and the outage policy lets nothing pass.
        """
        wants = NO_WANTS if is_look else wants_of(verified, needs, address)
        return self._together.take(wants, _demands(verified, needs, address, is_look=is_look), now)

    async def take_async(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """`take`, awaited; None where only what blocks can tell."""
        wants = NO_WANTS if is_look else wants_of(verified, needs, address)
        demands = _demands(verified, needs, address, is_look=is_look)
        return await self._together.take_async(wants, demands, now)

    def looks(self, verified: Verified, needs: Needs, address: str) -> Demands:
        """The windows of a request, of which nothing is taken."""
        return _demands(verified, needs, address, is_look=True)

    def give_back(self, taken: Taken) -> None:
        """Give back what was taken from windows for a request that is refused after all; may
        block.
        """
        for windows, cost in demands_of(taken):
            if cost:
                self._limiter.give_back(windows, cost, taken.at)

    def undo(self, caller: Principal) -> tuple[Taken, ...]:
        """Give back all that a request has taken from windows, and say what that was; may block.
        From now on it has taken nothing, whatever the app says of its cost.
        """
        takes, caller.takes = takes_of(caller), ()
        for one in takes:
            self.give_back(one)
        return takes

    def look(self, takes: Sequence[Taken], now: int) -> Took:
        """How windows stand of which something was taken; may block."""
        windows = dict.fromkeys(one.windows for taken in takes for one in demands_of(taken))
        looks = [Demand(one, 0) for one in windows]
        return Took(self._limiter.take_together(looks, now), looks)


def takes_of(caller: Principal) -> tuple[Taken, ...]:
    """All that a request has taken from windows."""
    if hasattr(caller, "takes"):
        return caller.takes
    plain = Demand(caller.verified.windows, caller.taken)
    return (Taken((plain,), caller.taken_at),)


def demands_of(taken: Taken) -> tuple[Demand, ...]:
    """All of it, be it enforced or only observed."""
    return (*taken.demands, *taken.observed)


def note(caller: Principal, took: Took, at: int) -> None:
    """Note on the caller what its request has taken."""
    if (demands := took.demands) is not None:
        enforced = len(demands) - took.observed
        caller.takes = (_taken((demands[:enforced], at, demands[enforced:], False)),)
    if took.held.slots:
        caller.slots = took.held.slots


def _demands(verified: Verified, needs: Needs, address: str, *, is_look: bool) -> Demands:
    cost = 0 if is_look else needs.cost
    if not (verified.is_observed or needs.is_observed):  # as nearly all
        enforced = [_demand((verified.windows, cost))] if verified.windows else []
        for limits, units in needs.limits:
            if windows := limits.of(verified, address):
                enforced.append(_demand((windows, 0 if is_look else units)))
        return Demands(tuple(enforced))
    wanted = [(verified.is_observed, Demand(verified.windows, cost))]
    for limits, units in needs.limits:
        demand = Demand(limits.of(verified, address), 0 if is_look else units)
        wanted.append((limits.is_observed, demand))
    return Demands.of(wanted)
