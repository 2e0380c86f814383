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
        # Length and counter by window key, least recently swept first.
        self._counters: OrderedDict[str, tuple[int, Counter]] = OrderedDict()
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
            stored = [found[1] if (found := known.get(w[0])) else None for w in wanted]
            tally, taken = windows.take(wanted, stored, cost, now)
            for window, before, counter in zip(wanted, stored, taken, strict=False):
                known[window[0]] = (window[1], counter)
                if before is None:
                    self._sweep(now)
            return tally

    def give_back(self, wanted: Sequence[Window], cost: int, taken_at: int) -> None:
        with self._lock:
            for window in wanted:
                found = self._counters.get(window.key)
                counter = windows.give_back(found and found[1], window.length, cost, taken_at)
                if counter is not None:
                    self._counters[window.key] = (window.length, counter)

    def _sweep(self, now: int) -> None:
        """Forget the oldest counters where they are idle; put them last where they still count."""
        for _ in range(_SWEPT):
            key, (length, counter) = next(iter(self._counters.items()))
            if windows.is_idle(counter, length, now):
                del self._counters[key]
            else:
                self._counters.move_to_end(key)

    def close(self) -> None:
        """Nothing to let go of."""
