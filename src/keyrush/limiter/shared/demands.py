"""What a request demands of several subjects, on its way to a ledger and back."""

from __future__ import annotations

from collections.abc import Sequence

from keyrush.core import sliding
from keyrush.core.sliding import Demand, Part, Tally, Window
from keyrush.limiter.shared.ledger_clock import Answer


def limited(demands: Sequence[Demand]) -> Sequence[Demand]:
    """Those that something limits.

    Raises:
        ValueError: A cost is negative.
    """
    for demand in demands:
        if demand[1] < 0:
            raise ValueError(f"cost: {demand[1]} is negative")
    return [demand for demand in demands if demand[0]]


def tally_of(parts: Sequence[Part], answers: Sequence[Answer]) -> Tally:
    """The tally of what was asked for together, on the wall clock."""
    return sliding.together(
        [
            answer.tally(windows, cost)
            for (windows, cost, _), answer in zip(parts, answers, strict=True)
        ]
    )


def bounded(cost: int, windows: Sequence[Window]) -> int:
    """As many of the units as a counter of one of the windows can hold."""
    return min(cost, sliding.most(min(window.length for window in windows)))
