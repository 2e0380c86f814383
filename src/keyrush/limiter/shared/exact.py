"""`KEYRUSH_LIMITER_MODE=exact`: the ledger is asked for every request."""

from __future__ import annotations

from collections.abc import Sequence

from keyrush.core.sliding import UNLIMITED, Tally, Window
from keyrush.errors import Away
from keyrush.limiter.ledgers.protocol import AsyncLedger
from keyrush.limiter.protocol import LimiterState
from keyrush.limiter.shared.client import SIGN_OF_LIFE, SharedWindows
from keyrush.runtime.background import Background


class ExactLimiter:
    """Exact to the request between all processes, at one round trip for each.

    Requests that are under way together share round trips where the ledger can do that.
    """

    def __init__(self, shared: SharedWindows) -> None:
        self.shared = shared

    def start(self, background: Background) -> None:
        background.every(SIGN_OF_LIFE, self.shared.enlist)
        background.every(0.1, self.shared.settle)

    def take_at_once(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        if not windows:
            return UNLIMITED
        if self.shared.circuit.is_open:
            return self.shared.without(windows, cost, now)
        return None

    def take(
        self,
        windows: Sequence[Window],
        cost: int,
        now: int,  # noqa: ARG002  # the ledger knows better, and after a timeout it is past
    ) -> Tally:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        if not windows:
            return UNLIMITED
        try:
            return self.shared.ask(windows, cost, 0).tally(windows, cost)
        except Away:
            return self.shared.without(windows, cost, self.shared.clock())

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        if windows:
            self.shared.give_back(windows, cost, taken_at)

    def state(self) -> LimiterState:
        return self.shared.state()

    def flush(self) -> None:
        """Give back what is still to be given back; blocks."""
        self.shared.flush()

    def close(self) -> None:
        self.shared.close()


class AwaitedExactLimiter(ExactLimiter):
    """The same over a ledger that can be awaited."""

    def __init__(self, shared: SharedWindows, ledger: AsyncLedger) -> None:
        super().__init__(shared)
        self._ask = ledger.take_async

    async def take_async(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        if self.shared.owes(windows):  # until that is counted, the outage is not over
            return self.shared.without(windows, cost, now)
        try:
            return (await self.shared.ask_async(self._ask, windows, cost)).tally(windows, cost)
        except Away:
            return self.shared.without(windows, cost, self.shared.clock())
