"""What callers want of a ledger, as values: those who wait at the same time go in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from keyrush.core.sliding import Taken, Window, WindowCount
from keyrush.errors import LimiterError


class Call(NamedTuple):
    """What one caller wants."""

    operation: str  #: "take" or "give"
    windows: Sequence[Window]
    cost: int
    other: int  #: of "take": extra; of "give": taken_at


def taken_of(call: Call, now: int, numbers: Iterator[int]) -> Taken:
    """The answer to a take: the next of the numbers are granted, and for each window index, current
    and previous.
    """
    granted = next(numbers)
    counters: list[WindowCount] = [
        (next(numbers), next(numbers), next(numbers)) for _ in call.windows
    ]
    return Taken(granted, now, counters)


def undoing(call: Call, taken: Taken) -> Call | None:
    """What gives back that was granted to a call."""
    return Call("give", call.windows, taken.granted, taken.now) if taken.granted else None


class NoReply(LimiterError):
    """Nothing was heard for as long as there is patience."""


def again(error: Exception) -> Exception:
    """What has failed for all, to be raised once more for one of them."""
    return type(error)(*error.args)
