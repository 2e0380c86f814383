"""The ledger: windows that many processes count in together, each by single, atomic calls.

What is particular to Redis or to SQL ends here; who asks a ledger, how often, and what holds
when it can't answer is the same for all (`limiter.shared`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from keyrush.core.sliding import Part, Taken, Window


class Place(NamedTuple):
    """Where one of several processes stands among those that are at work."""

    rank: int  #: 0 for the first
    workers: int  #: how many there are, this one included


class Ledger(Protocol):
    """What shared windows do. Each call is atomic and is one round trip.

    All instants are Unix milliseconds by the ledger's own clock, which for a server is the
    server's. Every method may raise anything when the ledger can't answer; then whether the
    call had its effect is unknown.
    """

    @property
    def has_own_clock(self) -> bool:
        """True for a server's clock, which this machine's may differ from; False where the
        ledger goes by the clock of whoever calls.
        """
        ...

    def take(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        """`sliding.grant`, on what is stored. Nothing is written where nothing is granted."""
        ...

    def take_together(self, parts: Sequence[Part]) -> list[Taken]:
        """`sliding.grant_together`, on what is stored. Where not all keys are on one server, what
        has been granted of some and is refused of others is given back at once.
        """
        ...

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        """`sliding.give_back` for each window. A negative cost adds what was taken elsewhere."""
        ...

    def enlist(self, worker: str) -> Place:
        """Note that a process is at work. It counts until `WORKER_TTL` after the last call."""
        ...

    def leave(self, worker: str) -> None:
        """Note that a process has stopped."""
        ...

    def advice(self) -> str | None:
        """What to do where its server is not used as it is meant to be; asks the server."""
        ...

    def close(self) -> None:
        """Let go of connections. The ledger may be used again afterwards."""
        ...


class AsyncLedger(Ledger, Protocol):
    """One that event loops may await."""

    async def take_async(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        """`take`, on the running event loop."""
        ...

    async def take_together_async(self, parts: Sequence[Part]) -> list[Taken]:
        """`take_together`, on the running event loop."""
        ...


#: Seconds after which a process that was not enlisted again counts no more.
WORKER_TTL = 10.0
