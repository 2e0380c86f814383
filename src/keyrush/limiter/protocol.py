"""Where windows are counted: what keyrush asks of a limiter, and the little that a user writes.

A limiter of your own is one class with the methods of `SmallLimiter`, plain or coroutines. Pass
an instance to `Gate.open`, or name the class in `KEYRUSH_LIMITER_URL` as `package.module:Class`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from keyrush.core.sliding import Demand, Tally, Window
from keyrush.runtime.background import Background

#: Units taken ahead in blocks, or one by one.
Mode = Literal["leased", "exact"]

#: What a request gets while windows can't be asked: its process's share of the limit, everything,
#: or 503.
Outage = Literal["local", "open", "closed"]


class LimiterState(NamedTuple):
    """How a limiter stands, from what is known."""

    is_away: bool = False
    away_for: float = 0.0  #: seconds
    meanwhile: Outage | None = None  #: what holds while it is away
    workers: int | None = None  #: processes that share its windows, where they are known


#: One that is never away, and shared by nobody.
WELL = LimiterState()


class SmallLimiter(Protocol):
    """All that a user writes; each method may be a coroutine. Instants are Unix milliseconds.

    One with an attribute `is_local` that is true does no I/O in `take`, so that the event loop
    may call it; each process then counts by itself. Whatever it raises is an outage:
    `KEYRUSH_LIMITER_OUTAGE` says what holds.
    """

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        """Take `cost` from all windows, which are of one subject, or from none. A cost of 0 only
        looks.
        """
        ...

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        """Undo a take made at `taken_at`, as far as it still counts. A negative cost adds to what
        is taken, whatever the limit.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


@runtime_checkable
class Limiter(SmallLimiter, Protocol):
    """What stands behind the gate, whole; `opening` makes it of whatever it is given.

    Raises `Away` where it can't answer and the outage policy lets nothing pass.
    """

    def take_at_once(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        """`take` from memory alone, without I/O; None where only I/O can tell."""
        ...

    def take_together(self, demands: Sequence[Demand], now: int) -> Tally:
        """`take` of several subjects, or of several costs: all demands or none."""
        ...

    def take_together_at_once(self, demands: Sequence[Demand], now: int) -> Tally | None:
        """`take_together` from memory alone; None where only I/O can tell."""
        ...

    def add(self, windows: Sequence[Window], cost: int, now: int) -> None:
        """Count `cost` units that were used without being taken, whatever the limit: whoever takes
        next waits as the arithmetic says. Does no I/O: what can't be told now is told with the
        next take, or in the background.
        """
        ...

    def start(self, background: Background) -> None:
        """Have done in `background` what no request need wait for. Called once."""
        ...

    def state(self) -> LimiterState:
        """How it stands; does no I/O."""
        ...

    def flush(self) -> None:
        """Write or give back what is held back; blocks."""
        ...


class AwaitedLimiter(Limiter, Protocol):
    """One that is better awaited than called from a thread."""

    async def take_async(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        """`take`, on the event loop; None where only what blocks can tell."""
        ...

    async def take_together_async(self, demands: Sequence[Demand], now: int) -> Tally | None:
        """`take_together`, on the event loop; None where only what blocks can tell."""
        ...
