"""A ledger in memory, on which several limiters of one process act as if they were processes.

It is `sliding.grant` over a dict, and can be made to fail before or after a call has its effect.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Literal

from keyrush.core import sliding
from keyrush.core.sliding import Part, Taken, Window, WindowCount
from keyrush.limiter.ledgers.protocol import Place
from keyrush.limiter.protocol import Outage
from keyrush.limiter.shared.client import LedgerClient
from keyrush.runtime.clock import Clock

Fault = Literal["before", "after"]


class MemoryLedger:
    """Counts its calls in `calls`; with `fault` set, each fails before or after its effect."""

    def __init__(self, clock: Callable[[], int], *, has_own_clock: bool = False) -> None:
        self.clock = clock
        self.has_own_clock = has_own_clock
        self.counters: dict[str, WindowCount] = {}
        self.calls = 0
        self.fault: Fault | None = None
        self._lock = threading.Lock()
        self._workers: dict[str, None] = {}

    def _fail(self, when: Fault) -> None:
        if self.fault == when:
            raise ConnectionError("the ledger is away")

    def take(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        with self._lock:
            self.calls += 1
            self._fail("before")
            taken, changes = sliding.grant(windows, self.counters, cost, extra, self.clock())
            self.counters.update(changes)
            self._fail("after")
            return taken

    def take_together(self, parts: Sequence[Part]) -> list[Taken]:
        with self._lock:
            self.calls += 1
            self._fail("before")
            taken, changes = sliding.grant_together(parts, self.counters, self.clock())
            self.counters.update(changes)
            self._fail("after")
            return taken

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        with self._lock:
            self.calls += 1
            self._fail("before")
            for window in windows:
                known = self.counters.get(window.key)
                counter = sliding.give_back(known, window.length, cost, taken_at)
                if counter is not None:
                    self.counters[window.key] = counter
            self._fail("after")

    def lose_all(self) -> None:
        """Forget what it knew, and answer again: as a server that has been started anew."""
        self.fault = None
        self.counters.clear()
        self._workers.clear()

    def enlist(self, worker: str) -> Place:
        self._fail("before")
        self._workers[worker] = None
        return Place(list(self._workers).index(worker), len(self._workers))

    def leave(self, worker: str) -> None:
        self._fail("before")
        self._workers.pop(worker, None)

    def advice(self) -> str | None:
        """None: there is no server."""
        return None

    def close(self) -> None:
        """Nothing to let go of."""


def client_of(
    ledger: MemoryLedger,
    now: Callable[[], int],
    outage: Outage = "local",
    monotonic: Callable[[], float] | None = None,
) -> LedgerClient:
    """What one process asks the ledger by, its clock moved by `now` alone unless told apart."""
    clock = Clock.of(now) if monotonic is None else Clock(now, monotonic)
    return LedgerClient(ledger, outage, clock)
