"""News of what changes in accounts and keys, between the processes that keep them in memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class Feed(Protocol):
    """News of what has been changed in a store, by whatever process.

    Asked by one thread at a time, many times a second.
    """

    def poll(self) -> Collection[str] | None:
        """The ids of accounts that have changed, with their keys, since the last call.

        None when anything may have: at the first call, and whenever news may have been missed.
        Does not wait for news. May raise anything when the store can't answer, and works
        again later.
        """
        ...

    def close(self) -> None:
        """Let go of connections. The feed may be asked again afterwards."""
        ...


class News(Protocol):
    """A server that passes on what is told, besides the store."""

    def publish(self, account_id: str) -> None:
        """Tell the feeds of all processes that something of an account has changed."""
        ...

    def feed(self) -> Feed:
        """What is told by whatever process, from now on."""
        ...

    def advice(self) -> str | None:
        """What to do where it is not used as it is meant to be; asks the server."""
        ...
