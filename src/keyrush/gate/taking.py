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
from keyrush.core.sliding import Demand, Window
from keyrush.gate.concurrency import NOTHING, Concurrency, Held, wants_of
from keyrush.gate.principal import Anonymous, Principal, Taken
from keyrush.gate.windows import Demands, Took, Windows, made
from keyrush.limiter.protocol import AwaitedLimiter, Limiter

#: `Taken._make`, without a call of Python's own.
_taken = partial(tuple.__new__, Taken)

#: Callers and rules for which it is kept made what their requests take: about 16 MB, with windows.
_KEPT = 16_384

#: A caller, needs of a request, and what that takes.
_Known = tuple[Verified, Needs, tuple[Wants, Demands]]


class Together:
    """Takes slots and units of windows. Safe to use from any thread or event loop."""

    def __init__(
        self, limiter: Limiter, awaited: AwaitedLimiter | None, concurrency: Concurrency
    ) -> None:
        self._limiter = limiter
        self._windows = Windows(limiter, awaited)
        self.windows_at_once = self._windows.at_once
        self._concurrency = concurrency

    def at_once(self, wants: Wants, demands: Demands, now: int) -> Took | None:
        """From memory alone, or None where I/O is needed. Where no slot is left windows are only
        looked at.
        """
        held = self._concurrency.at_once(wants)
        if held is None:
            return self._refused_at_once(demands, now)
        try:
            took = self._windows.at_once(demands if held.full is None else demands.looks(), now)
        except BaseException:
            self._concurrency.give_back(held.slots)
            raise
        return self._with_if_told(held, took)

    def of_plan_at_once(
        self, wants: Wants, windows: Sequence[Window], cost: int, now: int
    ) -> Took | None:
        """The same where the plan's windows are all that there are, and enforced."""
        held = NOTHING if wants is NO_WANTS else self._concurrency.at_once(wants)
        if held is None:
            demands = Demands((Demand(windows, cost),) if windows else ())
            return self._refused_at_once(demands, now)
        slots, full, _ = held
        try:
            tally = self._limiter.take_at_once(windows, cost if full is None else 0, now)
        except BaseException:
            self._concurrency.give_back(slots)
            raise
        if slots and (tally is None or not tally.admitted):
            self._concurrency.give_back(slots)
            held = NOTHING
        return None if tally is None else made((tally, None, None, None, 0, held))

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
        self._windows_at_once = self._together.windows_at_once
        self._known: dict[tuple[int, str], _Known] = {}

    def at_once(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """From memory alone, or None where I/O is needed."""
        if needs.has_limits or verified.is_observed:
            known = self._known.get((id(needs), verified.subject))  # `_of`, without a call
            if known is not None and known[0] is verified and known[1] is needs:
                wants, demands = known[2]
            else:
                wants, demands = self._of(verified, needs, address)
            if is_look:
                wants, demands = NO_WANTS, demands.looks()
            if wants is NO_WANTS:
                return self._windows_at_once(demands, now)
            return self._together.at_once(wants, demands, now)
        # As where there is no limit but the plan's: it may be a plan that has brought us here.
        if is_look:
            return self._together.of_plan_at_once(NO_WANTS, verified.windows, 0, now)
        return self._together.of_plan_at_once(verified.wants, verified.windows, needs.cost, now)

    def take(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took:
        """The same; may block.

        Raises:
            Away: The limiter is away, and the outage policy lets nothing pass.
        """
        wants, demands = self._asked(verified, needs, address, is_look=is_look)
        return self._together.take(wants, demands, now)

    async def take_async(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """`take`, awaited; None where only what blocks can tell."""
        wants, demands = self._asked(verified, needs, address, is_look=is_look)
        return await self._together.take_async(wants, demands, now)

    def looks(self, verified: Verified, needs: Needs, address: str) -> Demands:
        """The windows of a request, of which nothing is taken."""
        return self._of(verified, needs, address)[1].looks()

    def _asked(
        self, verified: Verified, needs: Needs, address: str, *, is_look: bool
    ) -> tuple[Wants, Demands]:
        wants, demands = self._of(verified, needs, address)
        return (NO_WANTS, demands.looks()) if is_look else (wants, demands)

    def _of(self, verified: Verified, needs: Needs, address: str) -> tuple[Wants, Demands]:
        """What a request takes. It is made once for each caller and rule: a caller that has changed
        is another object, and so are needs that were put together for one request.
        """
        if needs.is_by_address or needs.resource is not None:  # of which there are any number
            return wants_of(verified, needs, address), _demands(verified, needs, address)
        place = id(needs), verified.subject
        known = self._known.get(place)
        if known is None or known[0] is not verified or known[1] is not needs:
            wants, demands = wants_of(verified, needs, ""), _demands(verified, needs, "")
            if len(self._known) >= _KEPT:
                self._known.clear()
            known = self._known[place] = verified, needs, (wants, demands)
        return known[2]

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


def takes_of(caller: Principal | Anonymous) -> tuple[Taken, ...]:
    """All that a request has taken from windows."""
    if isinstance(caller, Anonymous) or hasattr(caller, "takes"):
        return caller.takes
    plain = Demand(caller.verified.windows, caller.taken)
    return (Taken((plain,), caller.taken_at),)


def demands_of(taken: Taken) -> tuple[Demand, ...]:
    """All of it, be it enforced or only observed."""
    return (*taken.demands, *taken.observed)


def note(caller: Principal, took: Took, at: int) -> None:
    """Note on the caller what its request has taken."""
    _, demands, _, _, observed, held = took
    if demands is not None:
        if observed:
            enforced = len(demands) - observed
            caller.takes = (Taken(demands[:enforced], at, demands[enforced:]),)
        else:
            caller.takes = (_taken((demands, at, (), False)),)
    if held.slots:
        caller.slots = held.slots


def _demands(verified: Verified, needs: Needs, address: str) -> Demands:
    wanted = [(verified.is_observed, Demand(verified.windows, needs.cost))]
    for limits, units in needs.limits:
        wanted.append((limits.is_observed, Demand(limits.of(verified, address), units)))
    return Demands.of(wanted)
