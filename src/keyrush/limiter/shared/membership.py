"""This process among those that share a ledger: by their number a limit is divided in an outage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from keyrush.limiter.ledgers.protocol import WORKER_TTL, Ledger, Place
from keyrush.runtime.circuit import Away, Circuit
from keyrush.runtime.forks import after_fork, process_name

#: Seconds between two signs of life to the ledger.
SIGN_OF_LIFE = 2.0


class Membership:
    """Gives signs of life, and knows how many others do. `monotonic` gives seconds."""

    def __init__(self, ledger: Ledger, circuit: Circuit, monotonic: Callable[[], float]) -> None:
        self._ledger = ledger
        self._circuit = circuit
        self._monotonic = monotonic
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        """As in a new process: under a name of its own, which nobody has heard of yet."""
        self._name = process_name()
        self._missed_at = -WORKER_TTL  # when the ledger did not answer a sign of life
        self.place: Place | None = None  #: as last heard

    def enlist(self) -> None:
        """Give a sign of life, and hear how many others do.

        After an outage those that are slow to speak up are not missing, for a while.
        """
        now = self._monotonic()
        try:
            place = self._circuit.call(self._ledger.enlist, self._name)
        except Away:
            self._missed_at = now
            return
        known = self.place
        if known is None or place.workers >= known.workers or now - self._missed_at >= WORKER_TTL:
            self.place = place

    def leave(self) -> None:
        """Be one of those at work no more, until the next sign of life."""
        if self.place is not None:
            with suppress(Away):  # it will be missed soon enough
                self._circuit.call(self._ledger.leave, self._name)
