"""News of what changes in accounts and keys, between the processes that keep them in memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class Changes(Protocol):
    """What has been changed, by whatever process: told, and learned.

    A store has one where it knows what others change in it, and so has a server that passes on
    what it is told. Published to by any thread; asked by one at a time, many times a second.

    A store's own may also have `lag`, in seconds: that a poll which succeeds has named all that had
    changed in the store until so long before it began. Then nothing is looked up again because
    time has passed. Without, as in a server that only passes on what it is told, whatever is
    known is looked up again when `CACHE_TTL` has passed.
    """

    def poll(self) -> Collection[str] | None:
        """The ids of accounts that have changed, with their keys, since the last call.

        None when anything may have: at the first call, and whenever news may have been missed.
        Does not wait for news. May raise anything when there is no answer, and works again later;
        `NotTold` where there is one, and no news are to be had.
        """
        ...

    def publish(self, account_id: str) -> None:
        """Tell all processes that something of an account has been changed in the store.

        Nothing to do for a store that notes it with the change itself. May raise anything.
        """
        ...

    def close(self) -> None:
        """Let go of connections. It may be asked again afterwards."""
        ...
