"""`KEYRUSH_LIMITER_MODE=exact`: the ledger is asked for every request."""

from __future__ import annotations

from collections.abc import Sequence

from keyrush.core.sliding import UNLIMITED, Tally, Window
from keyrush.limiter.shared.client import SIGN_OF_LIFE, SharedWindows
from keyrush.runtime.background import Background
from keyrush.runtime.circuit import Away


class ExactLimiter:
    """Exact to the request between all processes, at one round trip for each.

    Requests that are under way together share round trips where the ledger can do that.
    """

    is_local = False

    def __init__(self, shared: SharedWindows) -> None:
        self.shared = shared
        self.is_async = hasattr(shared.ledger, "take_async")

    def bind(self, background: Background) -> None:
        """Do what no request need wait for in `background`."""
        background.every(SIGN_OF_LIFE, self.shared.enlist)
        background.every(0.1, self.shared.settle)

    def take_at_once(self, wanted: Sequence[Window], cost: int, now: int) -> Tally | None:
        """`take` without I/O; None where only I/O can tell."""
        if not wanted:
            return UNLIMITED
        if self.shared.circuit.is_open:
            return self.shared.without(wanted, cost, now)
        return None

    def take(
        self,
        wanted: Sequence[Window],
        cost: int,
        now: int,  # noqa: ARG002  # the ledger knows better, and after a timeout it is past
    ) -> Tally:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        if not wanted:
            return UNLIMITED
        try:
            return self.shared.ask(wanted, cost, 0).tally(wanted, cost)
        except Away:
            return self.shared.without(wanted, cost, self.shared.clock())

    async def take_async(self, wanted: Sequence[Window], cost: int, now: int) -> Tally:
        """`take`, natively, where `is_async`."""
        if self.shared.owes(wanted):  # until that is counted, the outage is not over
            return self.shared.without(wanted, cost, now)
        try:
            return (await self.shared.ask_async(wanted, cost)).tally(wanted, cost)
        except Away:
            return self.shared.without(wanted, cost, self.shared.clock())

    def give_back(self, wanted: Sequence[Window], cost: int, taken_at: int) -> None:
        if wanted:
            self.shared.give_back(wanted, cost, taken_at)

    def flush(self) -> None:
        """Give back what is still to be given back; blocks."""
        self.shared.flush()

    def close(self) -> None:
        self.shared.close()
