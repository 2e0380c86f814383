"""Windows in this process's memory: exact between its threads, unknown to other processes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from keyrush.core import sliding
from keyrush.core.sliding import Tally, Window
from keyrush.limiter.counters import Counters
from keyrush.runtime.forks import after_fork


class MemoryLimiter:
    """`memory://`. Holds one counter for each window that counts, and few that no longer do."""

    is_local = True

    def __init__(self) -> None:
        self._counters = Counters()
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._counters)

    def take(self, wanted: Sequence[Window], cost: int, now: int) -> Tally:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        with self._lock:
            known = self._counters
            tally, changes = sliding.take(wanted, known, cost, now)
            for key, counter in changes:
                known[key] = counter
            if len(known) > len(known.lengths):  # here, because a call costs more
                known.sweep(wanted, now)
            return tally

    def give_back(self, wanted: Sequence[Window], cost: int, taken_at: int) -> None:
        with self._lock:
            for key, length, _, _ in wanted:
                counter = sliding.give_back(self._counters.get(key), length, cost, taken_at)
                if counter is not None:
                    self._counters[key] = counter

    def close(self) -> None:
        """Nothing to let go of."""
