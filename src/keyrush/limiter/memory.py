"""Windows in this process's memory: exact between its threads, unknown to other processes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from keyrush import windows
from keyrush.forks import after_fork
from keyrush.windows import Counter, Tally, Window

#: Counters looked at for each new one. Two, so that idle ones go faster than new ones come.
_SWEPT = 2


class MemoryLimiter:
    """`memory://`. Holds one counter for each window that counts, and few that no longer do."""

    is_local = True

    def __init__(self) -> None:
        self._counters: dict[str, Counter] = {}
        self._lengths: OrderedDict[str, int] = OrderedDict()  # by key, least recently swept first
        self._lock = threading.Lock()
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
            tally, changes = windows.take(wanted, known, cost, now)
            for key, counter in changes:
                known[key] = counter
            if len(known) > len(self._lengths):
                self._sweep(wanted, now)
            return tally

    def give_back(self, wanted: Sequence[Window], cost: int, taken_at: int) -> None:
        with self._lock:
            for key, length, _, _ in wanted:
                counter = windows.give_back(self._counters.get(key), length, cost, taken_at)
                if counter is not None:
                    self._counters[key] = counter

    def _sweep(self, taken: Sequence[Window], now: int) -> None:
        """Forget the oldest counters where they are idle; put them last where they still count."""
        for key, length, _, _ in taken:
            if key in self._lengths:
                continue
            self._lengths[key] = length
            for _ in range(_SWEPT):
                oldest, its_length = next(iter(self._lengths.items()))
                if windows.is_idle(self._counters[oldest], its_length, now):
                    del self._counters[oldest], self._lengths[oldest]
                else:
                    self._lengths.move_to_end(oldest)

    def close(self) -> None:
        """Nothing to let go of."""
