"""What is asked of slots: a place for what goes on, as long as it goes on.

A slot is a lease. A process renews all that it holds at once, in the background; one that is killed
or stopped loses its slots within 10 seconds, and nothing else ends one but giving it back. What a
process holds is what it says: where its lease has ended while it goes on, as after an outage, what
it holds counts again, beyond the maximum if need be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from keyrush.core.concurrency import Want
from keyrush.limiter.protocol import LimiterState
from keyrush.runtime.background import Background

#: Seconds for which a process's lease lasts, and seconds between two renewals of it: who is gone is
#: noticed with a renewal of another, so within the sum of both.
LEASE, RENEWAL = 7.0, 2.0

#: Seconds after which one who was refused may try again: nobody knows when a slot becomes free.
RETRY_AFTER = 1


class Slot:
    """What a take has taken: one slot of each subject. It is given back once; again, or after its
    process has lost it for good, means nothing.
    """

    __slots__ = ("life", "wants")

    def __init__(self, life: object, wants: Sequence[Want]) -> None:
        self.life = life  #: what it was taken in; None once it was given back
        self.wants = wants


class Slots(Protocol):
    """Takes slots of several subjects together or not at all. The keys of a take differ.

    Safe to use from any thread. What a parent process holds, its forked children don't.
    """

    def take_at_once(self, wants: Sequence[Want]) -> Slot | Want | None:
        """`take` from memory alone, without I/O; None where only I/O can tell."""
        ...

    def take(self, wants: Sequence[Want]) -> Slot | Want:
        """A slot, or the first of `wants` of which there is none left; blocks.

        Raises:
            Away: It can't be told, and the outage policy lets nothing pass.
        """
        ...

    def give_back(self, slot: Slot) -> None:
        """End it. Does no I/O, and never fails: what can't be told now is told later."""
        ...

    def start(self, background: Background) -> None:
        """Have the lease renewed in `background`, as it must be. Called once."""
        ...

    def state(self) -> LimiterState:
        """How it stands; does no I/O."""
        ...

    def flush(self) -> None:
        """Tell what has been given back; blocks."""
        ...

    def close(self) -> None:
        """End all that this process holds, and let go of files and connections."""
        ...


class AwaitedSlots(Slots, Protocol):
    """Those that are better awaited than called from a thread."""

    async def take_async(self, wants: Sequence[Want]) -> Slot | Want | None:
        """`take`, on the event loop; None where only what blocks can tell. What is taken for a task
        that is cancelled meanwhile is given back.
        """
        ...
