"""What was admitted, and what that comes to: written anew, apart from `keyrush.core.sliding`."""

from __future__ import annotations

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Mapping

from keyrush.core.sliding import Window


class Violation(BaseException):
    """Something happened that must not, whatever the schedule.

    No `Exception`: it is raised inside calls to a ledger, which may raise any of those.
    """


def used(counts: Mapping[int, int], length: int, instant: int) -> int:
    """What counts at an instant, of counts by period."""
    period = instant // length
    left = (period + 1) * length - instant
    return counts.get(period, 0) + counts.get(period - 1, 0) * left // length


class Oracle:
    """Counts by window key and period, of what was admitted and not given back."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counts[int]] = defaultdict(Counts)

    def add(self, window: Window, cost: int, at: int) -> None:
        """Note that `cost` was admitted, or with a minus given back, at `at`."""
        self.of(window)[at // window.length] += cost

    def of(self, window: Window) -> Counts[int]:
        """The counts of a window."""
        return self.counts[window.key]

    def used(self, window: Window, instant: int) -> int:
        """What counts at an instant."""
        return used(self.of(window), window.length, instant)

    def recent(self, window: Window, instant: int) -> int:
        """All that counts at an instant in full or in part."""
        period = instant // window.length
        return self.of(window)[period] + self.of(window)[period - 1]
