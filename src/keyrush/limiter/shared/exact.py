"""`KEYRUSH_LIMITER_MODE=exact`: the ledger is asked for every request."""

from __future__ import annotations

from collections.abc import Sequence

from keyrush.core.sliding import UNLIMITED, Demand, Part, Tally, Window
from keyrush.errors import Away
from keyrush.limiter.ledgers.protocol import AsyncLedger
from keyrush.limiter.protocol import LimiterState
from keyrush.limiter.shared.client import LedgerClient
from keyrush.limiter.shared.demands import bounded, limited, tally_of
from keyrush.limiter.shared.membership import SIGN_OF_LIFE
from keyrush.runtime.background import Background

#: Seconds between two looks at what the ledger is owed.
TICK = 0.1


class ExactLimiter:
    """Exact to the request between all processes, at one round trip for each.

    Requests that are under way together share round trips where the ledger can do that.
    """

    def __init__(self, client: LedgerClient) -> None:
        self.client = client

    def start(self, background: Background) -> None:
        background.every(SIGN_OF_LIFE, self.client.membership.enlist)
        background.every(TICK, self.client.settle)

    def take_at_once(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        if not windows:
            return UNLIMITED
        if self.client.circuit.is_open:
            return self.client.books.answer_in_outage([Demand(windows, cost)], now)
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
            return self.client.ask(windows, cost, 0).tally(windows, cost)
        except Away:
            return self._answer_in_outage([Demand(windows, cost)])

    def _answer_in_outage(self, demands: Sequence[Demand]) -> Tally:
        """The answer to a call that has failed just now."""
        return self.client.books.answer_in_outage(demands, self.client.clock.wall())

    def take_together_at_once(self, demands: Sequence[Demand], now: int) -> Tally | None:
        demands = limited(demands)
        if not demands:
            return UNLIMITED
        if self.client.circuit.is_open:
            return self.client.books.answer_in_outage(demands, now)
        return None

    def take_together(
        self,
        demands: Sequence[Demand],
        now: int,  # noqa: ARG002  # as in `take`
    ) -> Tally:
        demands = limited(demands)
        if not demands:
            return UNLIMITED
        parts = [Part(windows, cost, 0) for windows, cost in demands]
        try:
            return tally_of(parts, self.client.ask_together(parts))
        except Away:
            return self._answer_in_outage(demands)

    def add(self, windows: Sequence[Window], cost: int, now: int) -> None:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        if windows and cost:
            self.client.books.give_back(windows, -bounded(cost, windows), now)

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        if windows:
            self.client.books.give_back(windows, cost, taken_at)

    def state(self) -> LimiterState:
        return self.client.state()

    def flush(self) -> None:
        """Give back what is still to be given back; blocks."""
        self.client.flush()

    def close(self) -> None:
        self.client.close()


class AwaitedExactLimiter(ExactLimiter):
    """The same over a ledger that can be awaited."""

    def __init__(self, client: LedgerClient, ledger: AsyncLedger) -> None:
        super().__init__(client)
        self._ask = ledger.take_async
        self._ask_together = ledger.take_together_async

    async def take_async(
        self,
        windows: Sequence[Window],
        cost: int,
        now: int,  # noqa: ARG002  # as in `take`
    ) -> Tally | None:
        """`take`, on the event loop; None where the ledger has to be told of units before."""
        if self.client.books.owes(windows):
            return None
        try:
            answer = await self.client.ask_async(self._ask, windows, cost, 0)
            return answer.tally(windows, cost)
        except Away:
            return self._answer_in_outage([Demand(windows, cost)])

    async def take_together_async(
        self,
        demands: Sequence[Demand],
        now: int,  # noqa: ARG002  # as in `take`
    ) -> Tally | None:
        """`take_together`, on the event loop; None as of `take_async`."""
        demands = limited(demands)
        if not demands:
            return UNLIMITED
        if any(self.client.books.owes(windows) for windows, _ in demands):
            return None
        parts = [Part(windows, cost, 0) for windows, cost in demands]
        try:
            found = await self.client.ask_together_async(self._ask_together, parts)
            return tally_of(parts, found)
        except Away:
            return self._answer_in_outage(demands)
