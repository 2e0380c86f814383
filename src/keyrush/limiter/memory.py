"""Windows in this process's memory: exact between its threads, unknown to other processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from keyrush.core import sliding
from keyrush.core.sliding import Demand, Tally, Window
from keyrush.limiter.counters import WindowCounts
from keyrush.limiter.protocol import WELL, LimiterState
from keyrush.runtime.background import Background
from keyrush.runtime.clock import now_ms
from keyrush.runtime.forks import after_fork


class MemoryLimiter:
    """`memory://`. Holds one counter for each window that counts, and few that no longer do.

    `clock` gives the Unix milliseconds that takes come with.
    """

    is_local = True

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._counters = WindowCounts()
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._counters)

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        with self._lock:
            known = self._counters
            tally, changes = sliding.take(windows, known, cost, now, self._clock)
            before = len(known)
            for key, counter in changes:  # `put`, written out because calls cost more
                known[key] = counter
            if len(known) > before:
                known.sweep(len(known) - before, windows, now)
            return tally

    take_at_once = take  # not by a call, which every warm request would pay for

    def take_together(self, demands: Sequence[Demand], now: int) -> Tally:
        with self._lock:
            known = self._counters
            tally, changes = sliding.take_together(demands, known, now, self._clock)
            before = len(known)
            for key, counter in changes:  # as above
                known[key] = counter
            if len(known) > before:
                known.sweep(len(known) - before, sliding.joined(demands)[0], now)
            return tally

    take_together_at_once = take_together  # as above

    def add(self, windows: Sequence[Window], cost: int, now: int) -> None:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        self.give_back(windows, -cost, now)

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        with self._lock:
            known = self._counters
            after = [
                (key, sliding.give_back(known.get(key), length, cost, taken_at))
                for key, length, _, _ in windows
            ]
            known.put([(key, it) for key, it in after if it is not None], windows, taken_at)

    def start(self, background: Background) -> None:
        """Nothing to be done."""

    def state(self) -> LimiterState:
        return WELL

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to let go of."""
