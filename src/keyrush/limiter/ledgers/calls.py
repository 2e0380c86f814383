"""What callers want of a ledger, as values: those who wait at the same time go in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from keyrush.core.sliding import Taken, Window, WindowCount
from keyrush.errors import LimiterError


class Call(NamedTuple):
    """What one caller wants: to take all of its parts or none, or to give back each."""

    operation: str  #: "take" or "give"
    #: Of each the windows, units, and of "take" the extra; of "give" the instant of the take.
    parts: Sequence[tuple[Sequence[Window], int, int]]

    @property
    def windows(self) -> list[Window]:
        """Those of all parts."""
        return [window for windows, _, _ in self.parts for window in windows]

    def is_refused(self, taken: Sequence[Taken]) -> bool:
        """True where it is a take that was granted nothing, and asked for something."""
        return any(one.granted < cost for (_, cost, _), one in zip(self.parts, taken, strict=True))

    def looking(self) -> Call:
        """The same take without taking."""
        return Call(self.operation, [(windows, 0, 0) for windows, _, _ in self.parts])


def taken_of(call: Call, now: int, numbers: Iterator[int]) -> list[Taken]:
    """The answer to a take: the next of the numbers are, for each part, granted, and for each of
    its windows index, current and previous. That to a "give" is nothing.
    """
    return [
        Taken(next(numbers), now, [_counter(numbers) for _ in windows])
        for windows, _, _ in (call.parts if call.operation == "take" else ())
    ]


def _counter(numbers: Iterator[int]) -> WindowCount:
    return next(numbers), next(numbers), next(numbers)


def undoing(call: Call, taken: Sequence[Taken]) -> Call | None:
    """What gives back that was granted to a call."""
    back = [
        (part[0], one.granted, one.now)
        for part, one in zip(call.parts, taken, strict=False)
        if one.granted
    ]
    return Call("give", back) if back else None


def without(taken: Taken) -> Taken:
    """The same, had nothing been granted."""
    counters = [
        (index, current - taken.granted, previous) for index, current, previous in taken.counters
    ]
    return Taken(0, taken.now, counters)


class NoReply(LimiterError):
    """Nothing was heard for as long as there is patience."""


def again(error: Exception) -> Exception:
    """What has failed for all, to be raised once more for one of them."""
    return type(error)(*error.args)
