"""The storages of the `limits` library, opened so that keyrush can rely on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

from limits.errors import ConfigurationError as WrongURI
from limits.storage import (  # type: ignore[attr-defined]  # SCHEMES is there, but in no __all__
    SCHEMES,
    MemcachedStorage,
    Storage,
)
from limits.typing import MemcachedClientP

from keyrush.core.urls import doubtful, is_plain
from keyrush.errors import ConfigurationError

#: Seconds to wait for a connection, or for an answer, where the URI doesn't say.
PATIENCE = 1.0

#: What memcached takes for an instant rather than for a time to live: more than 30 days.
_LONGEST_TTL = 30 * 24 * 3600


class _Driver(NamedTuple):
    """What `limits` needs for some of its own storages."""

    module: str
    install: str
    options: Mapping[str, Any]  #: so that a server that is away is soon found to be


_REDIS_PATIENCE = {"socket_connect_timeout": PATIENCE, "socket_timeout": PATIENCE}
_MONGODB_PATIENCE = {
    f"{name}MS": int(PATIENCE * 1000)
    for name in ("serverSelectionTimeout", "connectTimeout", "socketTimeout")
}

#: By how their schemes begin.
_DRIVERS = {
    "memcached": _Driver(
        "pymemcache", "limits[memcached]", {"connect_timeout": PATIENCE, "timeout": PATIENCE}
    ),
    "mongodb": _Driver("pymongo", "limits[mongodb]", _MONGODB_PATIENCE),
    # A request that is sent again may count twice.
    "redis": _Driver("redis", "keyrush[redis]", {**_REDIS_PATIENCE, "retry": None}),
    "valkey": _Driver("valkey", "limits[valkey]", {**_REDIS_PATIENCE, "retry": None}),
}


class _Memcached(MemcachedStorage):
    """Memcached with one pool of connections for all threads, which can be closed."""

    def __init__(self, uri: str, **options: Any) -> None:
        self._lock = threading.Lock()
        self._client: MemcachedClientP | None = None
        super().__init__(uri, **options)

    def get_client(
        self, module: ModuleType, hosts: list[tuple[str, int]], **kwargs: Any
    ) -> MemcachedClientP:
        with self._lock:
            if self._client is None:
                if len(hosts) > 1:
                    # With attempts of its own, the client says of a server that is away that
                    # nothing is there: everything would pass.
                    kwargs |= {"use_pooling": True, "retry_attempts": 0}
                self._client = super().get_client(module, hosts, **kwargs)
            return self._client

    def incr(
        self, key: str, expiry: float, amount: int = 1, set_expiration_key: bool = True
    ) -> int:
        if amount < 0:  # which memcached doesn't add
            return self.storage.decr(key, -amount, noreply=False) or 0
        if expiry > _LONGEST_TTL:
            expiry += time.time()
        return super().incr(key, expiry, amount, set_expiration_key)


class StorageAt:
    """What a URI of `limits` says.

    Raises:
        ConfigurationError: `limits` has no such storage, or its driver is not installed.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.scheme = uri.partition("://")[0].lower() if "://" in uri else ""
        self._storage_class = _storage_class(self.scheme)
        if "@" in uri and not is_plain(uri):  # drivers would tell parts of it in their errors
            raise doubtful("KEYRUSH_LIMITER_URL")
        self.is_of_limits = self._storage_class.__module__.startswith(("limits.", __name__))
        names = (name for name in _DRIVERS if self.is_of_limits and self.scheme.startswith(name))
        self.family = next(names, "")  #: "redis", "memcached", …, or nothing for others
        self.strategy = _strategy(self._storage_class)
        driver = _DRIVERS.get(self.family)
        if driver is not None and find_spec(driver.module) is None:
            raise ConfigurationError(
                f"KEYRUSH_LIMITER_URL: {self.scheme}:// needs {driver.module}: "
                f"pip install '{driver.install}'"
            )

    def open(self) -> Storage:
        """The storage.

        Raises:
            ConfigurationError: The URI is malformed. What the storage itself raises is not caught.
        """
        driver = _DRIVERS.get(self.family)
        options = dict(driver.options) if driver else {}
        if self.family == "mongodb":  # by whose driver options go before the URI
            query = self._uri.partition("?")[2].lower()
            options = {name: options[name] for name in options if f"{name.lower()}=" not in query}
        if self.scheme.endswith("+sentinel"):
            options["sentinel_kwargs"] = dict(_REDIS_PATIENCE)
        try:
            return self._storage_class(self._uri, **options)
        except (WrongURI, ValueError, TypeError, AttributeError):
            pass  # the message may hold the password
        raise ConfigurationError(
            f"KEYRUSH_LIMITER_URL: no {self.scheme}:// URI that the limits library can open"
        )


def _storage_class(scheme: str) -> type[Storage]:
    """The class of the storages of a scheme.

    Raises:
        ConfigurationError: There is none, or it is one for asyncio.
    """
    found = SCHEMES.get(scheme)
    if found is MemcachedStorage:
        return _Memcached
    if isinstance(found, type) and issubclass(found, Storage):
        return found
    known = ", ".join(sorted(name for name in SCHEMES if not name.startswith("async+")))
    raise ConfigurationError(
        "KEYRUSH_LIMITER_URL: may be store, file:///…, memory://, redis://… and its kin, or a URL "
        f"of the library limits, whose schemes are {known}"
    )


def _strategy(storage: type[Storage]) -> str:
    if hasattr(storage, "acquire_sliding_window_entry"):
        return "sliding-window-counter"
    return "moving-window" if hasattr(storage, "acquire_entry") else "fixed-window"
