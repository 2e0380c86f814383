"""The store at a URL, or of a user's own: the one place that looks at what a class has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from keyrush.core.changes import Changes
from keyrush.errors import ConfigurationError, KeyrushError, StoreError
from keyrush.runtime.bridge import synchronous
from keyrush.store.activity_in_memory import ActivityInMemory
from keyrush.store.bindings_in_memory import Bindings
from keyrush.store.protocol import (
    ActivityStore,
    BindingStore,
    EditStore,
    LinkStore,
    PortalStore,
    Store,
)

if TYPE_CHECKING:  # a store in memory needs no database
    from keyrush.sql.engine import Database


class Opened(NamedTuple):
    """A store, whole, and what else is known of it."""

    store: Store  #: with plain methods, whatever the user's own are
    database: Database | None = None  #: what it is kept in, where that is SQL
    changes: Changes | None = None  #: news of what other processes change, where it has some
    lag: float | None = None  #: seconds within which these are complete; None: they need not be
    is_ephemeral: bool = False  #: its keys are gone with the process
    is_async: bool = False  #: it has coroutines, which the app's event loop runs


def open_store(url: str) -> Opened:
    """The store at a URL: `memory://`, any SQLAlchemy URL, or `package.module:Class`.

    Raises:
        ConfigurationError: The URL is malformed, or the store can't be opened; says which.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "memory":
        from keyrush.store.memory import MemoryStore

        return given(MemoryStore())
    if separator:
        from keyrush.sql.engine import Database
        from keyrush.store.sql import SqlStore

        return given(SqlStore(Database(url)))
    from keyrush.runtime.plugins import load

    allowed = "a URL, such as sqlite:///keyrush.db, or package.module:Class"
    return given(load(url, "KEYRUSH_STORE_URL", allowed))


def given(store: Store) -> Opened:
    """A store with what it has, bridged where its methods are coroutines.

    Raises:
        StoreError: It can't say now whether there are news.
        ConfigurationError: It is no store at all, as a URL is none, or a class.
    """
    if isinstance(store, type):
        raise ConfigurationError(f"store: must be a store, not the class {store.__name__}")
    if not callable(getattr(store, "add_account", None)):
        kind = type(store).__name__
        raise ConfigurationError(
            f"store: {kind} is no store; it lacks the methods of keyrush.store.protocol.Store"
        )
    front = synchronous(store)
    changes = _changes_of(store)
    return Opened(
        front,
        _database_of(store),
        changes,
        getattr(changes, "lag", None),
        is_ephemeral=bool(getattr(store, "is_ephemeral", False)),
        is_async=front is not store,
    )


def keeps_links(store: Store) -> bool:
    """Whether the store knows whom tokens stand for, as all but some of a user's own do."""
    return _has(store, LinkStore)


def keeps_edits(store: Store) -> bool:
    """Whether the store can edit keys, and knows what was done to them, as all but some of a
    user's own do.
    """
    return _has(store, EditStore)


def bindings_of(store: Store) -> BindingStore:
    """Where the sessions of MCP servers are bound to accounts: in the store, but with one of a
    user's own that can't do it, in this process.
    """
    return store if _has(store, BindingStore) else Bindings()


def activity_of(store: Store) -> ActivityStore:
    """Where activity is kept: in the store, but with one of a user's own that can't do it, in
    this process.
    """
    return store if _has(store, ActivityStore) else ActivityInMemory()


def portal_of(store: Store) -> PortalStore | None:
    """Where links to the dashboard are kept: in the store, with one of a user's own that can't do
    it nowhere.
    """
    kept: Any = store
    return kept if _has(store, PortalStore) else None


def _has(store: object, protocol: type) -> bool:
    named = [name for name in vars(protocol) if not name.startswith("_")]
    return all(callable(getattr(store, name, None)) for name in named)


def _changes_of(store: Store) -> Changes | None:
    changes = getattr(store, "changes", None)
    if not callable(changes):  # a user's own may mean something else
        return None
    try:
        found: Changes | None = changes()
    except KeyrushError:
        raise
    except Exception as error:  # a user's own may raise anything
        raise StoreError(f"the store can't answer: {type(error).__name__}") from error
    return found


def _database_of(store: Store) -> Database | None:
    found: object = getattr(store, "database", None)
    if found is None:
        return None
    from keyrush.sql.engine import Database

    return found if isinstance(found, Database) else None  # a user's own may mean another


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
