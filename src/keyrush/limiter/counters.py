"""Counters of windows in memory, which are forgotten when they count no more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from keyrush.core import sliding
from keyrush.core.sliding import Counter, Window

#: Counters looked at for each new one. Two, so that idle ones go faster than new ones come.
_SWEPT = 2


class WindowCounts(dict[str, Counter]):
    """Counters by window key. Not thread-safe. After adding some, call `sweep`."""

    def __init__(self) -> None:
        super().__init__()
        #: Of the windows, by key, the one swept least recently first.
        self.lengths: OrderedDict[str, int] = OrderedDict()

    def sweep(self, added: Sequence[Window], now: int) -> None:
        """Forget the oldest counters where they are idle; put them last where they still count.

        Needed only when there are more counters than `lengths`: one of `added` is new.
        """
        for key, length, _, _ in added:
            if key in self.lengths:
                continue
            self.lengths[key] = length
            for _ in range(_SWEPT):
                oldest, its_length = next(iter(self.lengths.items()))
                if oldest not in self or sliding.is_idle(self[oldest], its_length, now):
                    self.pop(oldest, None)
                    del self.lengths[oldest]
                else:
                    self.lengths.move_to_end(oldest)
