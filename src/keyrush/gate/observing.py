"""Limits that are tried out: they count as if they held, and what they would refuse is told."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from keyrush.core.identity import Verified
from keyrush.core.times import SECOND, month_bounds
from keyrush.events.protocol import WouldLimit
from keyrush.gate.windows import Took
from keyrush.runtime.forks import after_fork
from keyrush.usage.counting import MonthlyCounts
from keyrush.wire.fields import WOULD_LIMIT
from keyrush.wire.request import Header

#: Spells that are remembered; where there are more, those that were told of first are told anew.
MOST = 10_000

#: A key is over a window no more once it has not been for so many milliseconds at least.
_QUIET = 60 * SECOND

#: The name of the month as a window, as in header fields.
MONTH = "month"


class Observing:
    """Tells what would have been refused: an event once for each key, window and spell of it.
    Safe to use from any thread.
    """

    def __init__(self, usage: MonthlyCounts, tell: Callable[[WouldLimit], object]) -> None:
        self._usage = usage
        self._tell = tell
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._until: OrderedDict[tuple[str, str], int] = OrderedDict()

    def over(self, verified: Verified, took: Took, now: int) -> str:
        """The name of what would have refused an admitted request; empty where nothing would."""
        if took.told is None and not took.held.would_limit and not verified.plan.is_observed:
            return ""
        name, length = "", 0
        if took.told is not None and took.told.window is not None:
            name, length = took.told.window.name, took.told.window.length
        elif took.held.would_limit:
            name = took.held.would_limit
        elif self._usage.would_exceed(verified):
            first, following = month_bounds(now)
            name, length = MONTH, following - first
        if name and self._is_new(verified, name, length, now):
            self._tell(WouldLimit(verified.key_id, verified.account_id, name))
        return name

    def _is_new(self, verified: Verified, name: str, length: int, now: int) -> bool:
        """Whether a spell begins. It ends when the window's length has passed without another."""
        spell = verified.key_id, name
        with self._lock:
            is_new = now >= self._until.get(spell, 0)
            self._until[spell] = now + max(length, _QUIET)
            if is_new:
                self._until.move_to_end(spell)
                if len(self._until) > MOST:
                    self._until.popitem(last=False)
        return is_new


def header(name: str) -> Header:
    """The field that says by which window a request would have been refused."""
    return WOULD_LIMIT, name.encode("ascii")
