"""What a request takes beside one unit of its plan's windows: all of it, or nothing.

Slots come first, for they are given back at any time without a trace; windows next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from keyrush.core.concurrency import Want
from keyrush.core.identity import Verified
from keyrush.core.policy import Needs
from keyrush.core.sliding import Demand, Tally
from keyrush.gate.concurrency import Concurrency, wants_of
from keyrush.gate.principal import Principal, Taken
from keyrush.limiter.protocol import AwaitedLimiter, Limiter
from keyrush.limiter.slots.protocol import Slot


class Took(NamedTuple):
    """What came of it."""

    tally: Tally
    #: Of all windows, those of the plan first; None where they are those of the plan alone.
    demands: Sequence[Demand] | None
    slot: Slot | None = None  #: until the request is over
    full: Want | None = None  #: of what no slot was left: then nothing was taken


class Taking:
    """Takes for verified callers. Safe to use from any thread or event loop.

    `address` is the subject of the client's, by which limits may count. With `is_look` the request
    is refused already, and nothing is taken.
    """

    def __init__(
        self, limiter: Limiter, awaited: AwaitedLimiter | None, concurrency: Concurrency
    ) -> None:
        self._limiter = limiter
        self._awaited = awaited
        self._concurrency = concurrency

    def at_once(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """From memory alone, or None where I/O is needed."""
        slot: Slot | None = None
        full: Want | None = None
        if not is_look and (wants := wants_of(verified, needs, address)):
            found = self._concurrency.take_at_once(wants)
            if found is None:
                return None
            slot, full = _told(found)
        try:
            is_look = is_look or full is not None
            demands = _demands(verified, needs, address, is_look=is_look)
            if demands is None:
                cost = 0 if is_look else needs.cost
                tally = self._limiter.take_at_once(verified.windows, cost, now)
            else:
                tally = self._limiter.take_together_at_once(demands, now)
        except BaseException:
            self._concurrency.give_back(slot)
            raise
        if tally is None:
            self._concurrency.give_back(slot)
            return None
        return self._took(tally, demands, slot, full)

    def take(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took:
        """The same; may block.

        Raises:
            Away: The limiter is away, and the outage policy lets nothing pass.
        """
        slot: Slot | None = None
        full: Want | None = None
        if not is_look and (wants := wants_of(verified, needs, address)):
            slot, full = _told(self._concurrency.take(wants))
        try:
            is_look = is_look or full is not None
            demands = _demands(verified, needs, address, is_look=is_look)
            if demands is None:
                tally = self._limiter.take(verified.windows, 0 if is_look else needs.cost, now)
            else:
                tally = self._limiter.take_together(demands, now)
        except BaseException:
            self._concurrency.give_back(slot)
            raise
        return self._took(tally, demands, slot, full)

    async def take_async(
        self, verified: Verified, needs: Needs, address: str, now: int, *, is_look: bool
    ) -> Took | None:
        """`take`, awaited; None where only what blocks can tell."""
        assert self._awaited is not None  # noqa: S101  # else nobody awaits it
        slot: Slot | None = None
        full: Want | None = None
        if not is_look and (wants := wants_of(verified, needs, address)):
            found = await self._concurrency.take_async(wants)
            if found is None:
                return None
            slot, full = _told(found)
        try:
            is_look = is_look or full is not None
            demands = _demands(verified, needs, address, is_look=is_look)
            if demands is None:
                cost = 0 if is_look else needs.cost
                tally = await self._awaited.take_async(verified.windows, cost, now)
            else:
                tally = await self._awaited.take_together_async(demands, now)
        except BaseException:  # a task that is cancelled, too
            self._concurrency.give_back(slot)
            raise
        if tally is None:
            self._concurrency.give_back(slot)
            return None
        return self._took(tally, demands, slot, full)

    def _took(
        self,
        tally: Tally,
        demands: Sequence[Demand] | None,
        slot: Slot | None,
        full: Want | None,
    ) -> Took:
        if slot is not None and not tally.admitted:
            self._concurrency.give_back(slot)
            slot = None
        return Took(tally, demands, slot, full)

    def let_go(self, took: Took | None) -> None:
        """Give back the slot of a request that is refused after all."""
        if took is not None:
            self._concurrency.give_back(took.slot)

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


def _told(found: Slot | Want) -> tuple[Slot | None, Want | None]:
    """The slot that was taken, or of what there is none left."""
    return (found, None) if isinstance(found, Slot) else (None, found)


def _demands(
    verified: Verified, needs: Needs, address: str, *, is_look: bool
) -> tuple[Demand, ...] | None:
    if not needs.has_limits:
        return None
    demands = [Demand(verified.windows, 0 if is_look else needs.cost)]
    for limits, cost in needs.limits:
        demands.append(Demand(limits.of(verified, address), 0 if is_look else cost))
    return tuple(one for one in demands if one.windows)
