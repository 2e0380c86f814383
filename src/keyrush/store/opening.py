"""The store at a URL, or of a user's own: the one place that looks at what a class has."""

from __future__ import annotations

from typing import NamedTuple

from keyrush.core.news import Feed
from keyrush.runtime.bridge import synchronous
from keyrush.store.protocol import Store


def open_store(url: str) -> Store:
    """The store at a URL: `memory://`, any SQLAlchemy URL, or `package.module:Class`.

    Raises:
        ConfigurationError: The URL is malformed, or the store can't be opened; says which.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "memory":
        from keyrush.store.memory import MemoryStore

        return MemoryStore()
    if separator:
        from keyrush.store.sql import SqlStore

        return SqlStore(url)
    from keyrush.runtime.plugins import load

    store: Store = load(url, "KEYRUSH_STORE_URL")
    return store


def is_made(url: str) -> bool:
    """False where `open_store` would make a store that is not there yet; makes nothing.

    Raises:
        ConfigurationError: The URL is malformed.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "memory":
        return True
    from keyrush.sql import presence

    return presence.is_made(url)


class Opened(NamedTuple):
    """A store, and what else is known of it."""

    store: Store  #: with plain methods, whatever the user's own are
    feed: Feed | None = None  #: its news, where it has some
    is_ephemeral: bool = False  #: its keys are gone with the process


def opened(store: Store) -> Opened:
    """A store with what it has: the methods of a user's own may be coroutines."""
    feed = getattr(store, "feed", None)
    return Opened(
        synchronous(store), feed() if feed else None, bool(getattr(store, "is_ephemeral", False))
    )
