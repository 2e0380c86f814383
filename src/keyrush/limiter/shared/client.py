"""A ledger as one process uses it: asked while it answers, told afterwards what it has missed."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence

from keyrush.core.sliding import Part, Taken, Window
from keyrush.errors import Away
from keyrush.limiter.ledgers.protocol import Ledger
from keyrush.limiter.protocol import LimiterState, Outage
from keyrush.limiter.shared.ledger_clock import Answer, LedgerClock
from keyrush.limiter.shared.membership import Membership
from keyrush.limiter.shared.outage import Books
from keyrush.limiter.shared.owed import Slot
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.clock import Clock
from keyrush.runtime.forks import after_fork


class LedgerClient:
    """What the limiters over a ledger have in common. Safe to use from any thread."""

    def __init__(self, ledger: Ledger, outage: Outage, clock: Clock) -> None:
        self.ledger = ledger
        self.circuit = Circuit("the limiter", clock.monotonic)
        self.clock = LedgerClock(clock, is_own=ledger.has_own_clock)
        self.membership = Membership(ledger, self.circuit, clock.monotonic)
        self.books = Books(outage, self.clock, self.membership)
        self._monotonic = clock.monotonic
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._telling = threading.Lock()  # held by whoever tells the ledger what it is owed

    # --- asking ---

    def ask(self, windows: Sequence[Window], cost: int, extra: int) -> Answer:
        """`Ledger.take`.

        Raises:
            Away: The ledger can't answer, or has not been asked because it couldn't before.
        """
        self.circuit.enter()
        try:
            for slot in self.books.slots(windows):
                self._tell(slot)
            asked_at = self._monotonic()
            taken = self.ledger.take(windows, cost, extra)
        except Exception as error:
            raise self._lost(error) from error
        return self._heard(windows, taken, asked_at)

    def ask_together(self, parts: Sequence[Part]) -> list[Answer]:
        """`Ledger.take_together`.

        Raises:
            Away: As of `ask`.
        """
        self.circuit.enter()
        try:
            for slot in self.books.slots([one for part in parts for one in part.windows]):
                self._tell(slot)
            asked_at = self._monotonic()
            found = self.ledger.take_together(parts)
        except Exception as error:
            raise self._lost(error) from error
        return self._heard_together(parts, found, asked_at)

    async def ask_async(
        self,
        take: Callable[[Sequence[Window], int, int], Awaitable[Taken]],
        windows: Sequence[Window],
        cost: int,
        extra: int,
    ) -> Answer:
        """`ask`, by the ledger's own `take_async`; it is told nothing that it is owed."""
        self.circuit.enter()
        try:
            asked_at = self._monotonic()
            taken = await take(windows, cost, extra)
        except Exception as error:
            raise self._lost(error) from error
        return self._heard(windows, taken, asked_at)

    async def ask_together_async(
        self, take: Callable[[Sequence[Part]], Awaitable[list[Taken]]], parts: Sequence[Part]
    ) -> list[Answer]:
        """`ask_together`, by the ledger's own `take_together_async`; see `ask_async`."""
        self.circuit.enter()
        try:
            asked_at = self._monotonic()
            found = await take(parts)
        except Exception as error:
            raise self._lost(error) from error
        return self._heard_together(parts, found, asked_at)

    def _lost(self, error: Exception) -> Away:
        self.circuit.failed(error)
        return Away("the limiter is away")

    def _heard(self, windows: Sequence[Window], taken: Taken, asked_at: float) -> Answer:
        self.circuit.succeeded()
        answer = self.clock.heard(taken, asked_at)
        self.books.heard(windows, taken)
        return answer

    def _heard_together(
        self, parts: Sequence[Part], found: Sequence[Taken], asked_at: float
    ) -> list[Answer]:
        return [
            self._heard(part.windows, taken, asked_at)
            for part, taken in zip(parts, found, strict=True)
        ]

    # --- telling ---

    def settle(self) -> None:
        """Tell the ledger what it is owed; what can't be told waits."""
        slots = self.books.slots()
        if not slots:
            return
        try:
            self.circuit.enter()
        except Away:
            with self._telling:
                self.books.tidy()
            return
        try:
            for slot in slots:
                self._tell(slot)
        except Exception as error:
            self.circuit.failed(error)
        else:
            self.circuit.succeeded()

    def _tell(self, slot: Slot) -> None:
        """Tell what is owed of a slot; whoever else is concerned waits until it is counted.

        Whether a call that fails had its effect is unknown. Adding twice admits no more than the
        limit; giving back twice would.
        """
        with self._telling:
            units, taken_at = self.books.owed(slot)
            if not units:
                return
            is_told = units < 0
            try:
                self.ledger.give_back(slot[0], -units, taken_at)
                is_told = True
            finally:
                if is_told:
                    self.books.told(slot, units, taken_at)

    # --- state and end ---

    def state(self) -> LimiterState:
        """How the ledger stands, and among how many processes; does no I/O."""
        place = self.membership.place
        workers = place.workers if place else None
        if self.circuit.is_closed:
            return LimiterState(workers=workers)
        return LimiterState(True, self.circuit.seconds_away, self.books.outage, workers)

    def flush(self) -> None:
        """Settle, and be one of those at work no more, until the next sign of life."""
        self.settle()
        self.membership.leave()

    def close(self) -> None:
        """`flush`, and let go of connections."""
        self.flush()
        self.membership.place = None
        self.ledger.close()
