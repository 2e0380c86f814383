"""What a request takes beside one unit of its plan's windows: all of it, or nothing.

Slots come first, for they are given back at any time without a trace; windows next.
"""

from __future__ import annotations

from keyrush.core.concurrency import Want
from keyrush.core.identity import Verified
from keyrush.core.policy import Needs
from keyrush.core.sliding import Demand
from keyrush.gate.concurrency import Concurrency, wants_of
from keyrush.gate.principal import Principal, Taken
from keyrush.gate.windows import Demands, Took, Windows
from keyrush.limiter.protocol import AwaitedLimiter, Limiter
from keyrush.limiter.slots.protocol import Slot


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
        """From memory alone, or None where I/O is needed."""
        found: Slot | Want | None = None
        if not is_look and (wants := wants_of(verified, needs, address)):
            found = self._concurrency.take_at_once(wants)
            if found is None:
                return None
        try:
            demands = _demands(verified, needs, address, is_look=is_look or _is_full(found))
            return self._with_slot(self._windows.at_once(demands, now), found)
        except BaseException:
            self._let_go(found)
            raise

    def take(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took:
        """The same; may block.

        Raises:
            Away: The limiter is away, and the outage policy lets nothing pass.
        """
        found: Slot | Want | None = None
        if not is_look and (wants := wants_of(verified, needs, address)):
            found = self._concurrency.take(wants)
        try:
            demands = _demands(verified, needs, address, is_look=is_look or _is_full(found))
            took = self._with_slot(self._windows.take(demands, now), found)
        except BaseException:
            self._let_go(found)
            raise
        assert took is not None  # noqa: S101  # who may block is told
        return took

    async def take_async(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """`take`, awaited; None where only what blocks can tell."""
        found: Slot | Want | None = None
        if not is_look and (wants := wants_of(verified, needs, address)):
            found = await self._concurrency.take_async(wants)
            if found is None:
                return None
        try:
            demands = _demands(verified, needs, address, is_look=is_look or _is_full(found))
            return self._with_slot(await self._windows.take_async(demands, now), found)
        except BaseException:  # a task that is cancelled, too
            self._let_go(found)
            raise

    def _with_slot(self, took: Took | None, found: Slot | Want | None) -> Took | None:
        """What came of it, with the slot as long as it is needed."""
        if took is None or not took.tally.admitted:
            self._let_go(found)
            return took
        if isinstance(found, Slot):
            return took._replace(slot=found)
        return took if found is None else took._replace(full=found)

    def _let_go(self, found: Slot | Want | None) -> None:
        if isinstance(found, Slot):
            self._concurrency.give_back(found)

    def let_go(self, took: Took | None) -> None:
        """Give back the slot of a request that is refused after all."""
        if took is not None:
            self._concurrency.give_back(took.slot)

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


def _is_full(found: Slot | Want | None) -> bool:
    return isinstance(found, Want)


def _demands(verified: Verified, needs: Needs, address: str, *, is_look: bool) -> Demands:
    cost = 0 if is_look else needs.cost
    wanted = [(verified.is_observed, Demand(verified.windows, cost))]
    for limits, units in needs.limits:
        demand = Demand(limits.of(verified, address), 0 if is_look else units)
        wanted.append((limits.is_observed, demand))
    return Demands.of(wanted)
