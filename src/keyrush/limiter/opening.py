"""The limiter at a URL, or of a user's own: the one place that looks at what a class has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from keyrush.core.news import News
from keyrush.errors import ConfigurationError, Unreachable
from keyrush.limiter.ledgers.protocol import AsyncLedger, Ledger
from keyrush.limiter.protocol import AwaitedLimiter, Limiter, Mode, Outage, SmallLimiter
from keyrush.limiter.shared.client import SharedWindows
from keyrush.runtime.bridge import synchronous
from keyrush.runtime.clock import monotonic_of, now_ms, unless_real
from keyrush.runtime.plugins import load

#: Schemes of servers like Redis, before a "+".
_REDIS = ("redis", "rediss", "valkey", "valkeys", "unix")

_log = logging.getLogger("keyrush")


class Opened(NamedTuple):
    """A limiter, whole, and what else is known of it."""

    limiter: Limiter
    awaited: AwaitedLimiter | None = None  #: the same, where it is better awaited
    ledger: Ledger | None = None  #: what it is over, where many processes share that
    news: News | None = None  #: of changes, where the ledger's server passes them on
    is_shared: bool = True  #: False where each process counts by itself


def open_limiter(
    url: str,
    store: Any = None,
    *,
    mode: Mode = "leased",
    outage: Outage = "local",
    clock: Callable[[], int] = now_ms,
) -> Opened:
    """The limiter at a URL.

    `store` is in the database of the store where that is SQL, else in memory. `memory://`,
    `file:///…`, a file of all processes of this machine,
    `redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`, any storage of the `limits`
    library, or `package.module:Class`. `clock` gives Unix milliseconds; one other than the
    machine's stands in for those of servers, too.

    Raises:
        ConfigurationError: There is no such limiter.
    """
    scheme, separator, _ = url.partition("://")
    kind = scheme.partition("+")[0]
    if url == "store":
        if not hasattr(store, "engine"):
            return _in_memory(clock)
        from keyrush.limiter.ledgers.sql import SqlLedger

        return _over(SqlLedger(store.engine, unless_real(clock)), mode, outage, clock)
    if not separator:
        return given(load(url, "KEYRUSH_LIMITER_URL"), outage=outage, clock=clock)
    if scheme == "memory":
        return _in_memory(clock)
    if scheme == "file":
        return _in_file(url, outage, clock)
    if kind in _REDIS:
        from keyrush.limiter.ledgers.redis.ledger import RedisLedger

        ledger = RedisLedger(url, unless_real(clock))
        return _over(ledger, mode, outage, clock, ledger)._replace(news=ledger)
    from keyrush.limiter.limits_library.adapter import LimitsLimiter

    outside = LimitsLimiter(url.removeprefix("limits+"))
    return Opened(_guarded(outside, outage, clock))


def given(
    limiter: SmallLimiter, *, outage: Outage = "local", clock: Callable[[], int] = now_ms
) -> Opened:
    """A user's own limiter, made whole: one that is whole is taken at its word, any other is
    bridged where it has coroutines, and guarded.
    """
    front = synchronous(limiter)
    if front is limiter and isinstance(limiter, Limiter):  # none of it has to be awaited
        return Opened(limiter)
    is_local = front is limiter and bool(getattr(limiter, "is_local", False))
    return Opened(_guarded(front, outage, clock, is_local=is_local), is_shared=not is_local)


def _in_memory(clock: Callable[[], int]) -> Opened:
    from keyrush.limiter.memory import MemoryLimiter

    return Opened(MemoryLimiter(clock), is_shared=False)


def _in_file(url: str, outage: Outage, clock: Callable[[], int]) -> Opened:
    """In a file of this machine; where there are no such locks, as on Windows, in each process."""
    place = urlsplit(url)
    path = unquote(place.path)
    if place.netloc or not path.startswith("/") or place.query or place.fragment or "\0" in path:
        raise ConfigurationError(
            "KEYRUSH_LIMITER_URL: a file is named as file:///, and then its whole path, as in "
            "file:///run/app/keyrush.windows"
        )
    try:
        from keyrush.limiter.mapped import MappedLimiter
    except ModuleNotFoundError as error:
        if error.name != "fcntl":
            raise
        _log.warning("KEYRUSH_LIMITER_URL: processes can't share a file here; each counts alone")
        return _in_memory(clock)
    try:
        return Opened(MappedLimiter(path, outage, clock, monotonic_of(clock)))
    except Unreachable as error:
        raise Unreachable(f"KEYRUSH_LIMITER_URL: {error}") from error


def _guarded(
    limiter: SmallLimiter, outage: Outage, clock: Callable[[], int], *, is_local: bool = False
) -> Limiter:
    from keyrush.limiter.guarded import GuardedLimiter

    return GuardedLimiter(limiter, outage, monotonic_of(clock), is_local=is_local)


def _over(
    ledger: Ledger,
    mode: Mode,
    outage: Outage,
    clock: Callable[[], int],
    awaited: AsyncLedger | None = None,
) -> Opened:
    """What asks a ledger; `awaited` is the same, where event loops may await it."""
    from keyrush.limiter.shared.exact import AwaitedExactLimiter, ExactLimiter
    from keyrush.limiter.shared.leased import LeasedLimiter

    shared = SharedWindows(ledger, outage, clock, monotonic_of(clock))
    if mode == "leased":
        return Opened(LeasedLimiter(shared), ledger=ledger)
    if awaited is None:
        return Opened(ExactLimiter(shared), ledger=ledger)
    limiter = AwaitedExactLimiter(shared, awaited)
    return Opened(limiter, limiter, ledger)
