"""The ledger of slots that many machines share, as `limiter.slots.shared` asks it.

It knows processes by name: when each was last heard of, and how many slots it holds of each
subject. Each call is atomic and one round trip. Every method may raise anything where the ledger
can't answer; then whether the call had its effect is unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from keyrush.core.concurrency import Want


class SlotCall(NamedTuple):
    """What one process wants, in this order."""

    worker: str  #: its name
    gone: Sequence[str]  #: others, that have ended: what they hold of what is wanted is void
    changes: Sequence[
        tuple[str, int]
    ]  #: what it holds more of subjects, or less, whatever there is
    wants: Sequence[Want]  #: a slot of each, together or not at all


class SlotAnswer(NamedTuple):
    """What a call came to."""

    full: int  #: which of the wants there was no slot for; -1 where they were taken
    holders: Collection[
        str
    ] = ()  #: then, who holds them, where the ledger can't tell who has ended


class Standing(NamedTuple):
    """How a process stands with the ledger."""

    was_there: bool  #: False where its lease had ended, or it is new: it held nothing
    alive: Sequence[str]  #: all that are at work, this one included


class SlotLedger(Protocol):
    """Where slots are kept. All instants are by the ledger's own clock."""

    def renew(self, worker: str, retired: Sequence[str]) -> Standing:
        """Begin or renew a process's lease; those of the retired end, and so do old ones."""
        ...

    def parts(self, wants: Sequence[Want]) -> Sequence[Sequence[Want]]:
        """What can be taken in one call each."""
        ...

    def portions(self, keys: Sequence[str]) -> Sequence[Sequence[str]]:
        """Subjects of which changes can be told in one call each."""
        ...

    def ask(self, call: SlotCall) -> SlotAnswer:
        """Make a call."""
        ...

    def close(self) -> None:
        """Let go of connections. The ledger may be used again afterwards."""
        ...


class AsyncSlotLedger(SlotLedger, Protocol):
    """One that event loops may await."""

    async def ask_soon(self, call: SlotCall) -> asyncio.Future[SlotAnswer]:
        """What will have the answer, on the running event loop."""
        ...


#: Subjects whose changes are told in one call at most.
TOGETHER = 100
