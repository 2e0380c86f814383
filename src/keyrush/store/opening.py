"""The store at a URL."""

from __future__ import annotations

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
