"""Counters of windows in memory, which are forgotten when they count no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from keyrush.core import sliding
from keyrush.core.sliding import Window, WindowCount

#: Counters looked at for each new one. Two, so that idle ones go faster than new ones come.
_SWEPT = 2

#: Counts nothing, at any time.
_IDLE = (0, 0, 0)


class WindowCounts(dict[str, WindowCount]):
    """Counters by window key. Not thread-safe. None is added but by `put`, or taken out at all."""

    def __init__(self) -> None:
        super().__init__()
        # The window swept least recently first; two queues, because a pair for each window would
        # take as much memory as all else of it.
        self._order: deque[str] = deque()
        self._lengths: deque[int] = deque()

    def put(
        self, changes: Iterable[tuple[str, WindowCount]], windows: Sequence[Window], now: int
    ) -> None:
        """Store counters of the windows. For each that is new, the oldest are forgotten where they
        are idle, and put last where they still count.
        """
        before = len(self)
        self.update(changes)
        if len(self) > before:
            self.sweep(len(self) - before, windows, now)

    def sweep(self, added: int, windows: Sequence[Window], now: int) -> None:
        """What `put` does once so many counters of the windows are new: those that were put last
        are queued, and for each the oldest looked at.
        """
        lengths = {key: length for key, length, _, _ in windows}
        for key in tuple(islice(reversed(self), added)):
            self._queue(key, lengths[key])
            for _ in range(min(_SWEPT, len(self._order))):
                oldest, length = self._order.popleft(), self._lengths.popleft()
                if sliding.is_idle(self[oldest], length, now):
                    del self[oldest]
                else:
                    self._queue(oldest, length)

    def _queue(self, key: str, length: int) -> None:
        self._order.append(key)
        self._lengths.append(length)

    def clear_of(self, windows: Iterable[Window]) -> None:
        """Have nothing counted in the windows; they are forgotten in their turn."""
        for window in windows:
            if window.key in self:
                self[window.key] = _IDLE
