"""A limiter whose server may be away: left alone then, and answered for by the outage policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keyrush.core import sliding
from keyrush.core.sliding import Tally, Window
from keyrush.limiter.protocol import Limiter, Outage
from keyrush.runtime.circuit import Away, Circuit


class GuardedLimiter:
    """Puts a circuit before a limiter that is no ledger.

    Nobody counts the processes that share it, so none knows its share of a limit: `local` is
    `closed` here. Open, requests pass as through windows that nothing was taken from.
    """

    is_local = False

    def __init__(self, inner: Limiter, outage: Outage, monotonic: Callable[[], float]) -> None:
        self._inner = inner
        self.outage: Outage = "open" if outage == "open" else "closed"
        self.circuit = Circuit("the limiter", monotonic)

    def __repr__(self) -> str:
        return repr(self._inner)

    def take_at_once(
        self,
        wanted: Sequence[Window],
        cost: int,  # noqa: ARG002  # as all limiters have it
        now: int,
    ) -> Tally | None:
        """The answer of an outage, while there is one; else None."""
        return self._without(wanted, now) if self.circuit.is_open else None

    def take(self, wanted: Sequence[Window], cost: int, now: int) -> Tally:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        try:
            return self.circuit.call(self._inner.take, wanted, cost, now)
        except Away:
            return self._without(wanted, now)

    def _without(self, wanted: Sequence[Window], now: int) -> Tally:
        if self.outage == "closed":
            raise Away("the limiter is away")
        return sliding.take(wanted, {}, 0, now)[0]

    def give_back(self, wanted: Sequence[Window], cost: int, taken_at: int) -> None:
        if self.circuit.is_closed:  # otherwise it may have passed uncounted
            self.circuit.call(self._inner.give_back, wanted, cost, taken_at)

    def close(self) -> None:
        self._inner.close()
