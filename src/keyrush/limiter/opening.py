"""The limiter at a URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keyrush.limiter.ledgers.protocol import Ledger
from keyrush.limiter.protocol import Limiter, Mode, Outage
from keyrush.limiter.shared.client import SharedWindows
from keyrush.runtime.clock import _unless_real, monotonic_of, now_ms
from keyrush.runtime.plugins import load

#: Schemes of servers like Redis, before a "+".
_REDIS = ("redis", "rediss", "valkey", "valkeys", "unix")


def open_limiter(
    url: str,
    store: Any = None,
    *,
    mode: Mode = "leased",
    outage: Outage = "local",
    clock: Callable[[], int] = now_ms,
) -> Limiter:
    """The limiter at a URL.

    `store` is in the database of the store where that is SQL, else in memory. `memory://`,
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
            return _in_memory()
        return _over(_in_database(store.engine, clock), mode, outage, clock)
    if not separator:
        limiter: Limiter = load(url, "KEYRUSH_LIMITER_URL")
        return limiter
    if scheme == "memory":
        return _in_memory()
    if kind in _REDIS:
        from keyrush.limiter.ledgers.redis.ledger import RedisLedger

        return _over(RedisLedger(url, _unless_real(clock)), mode, outage, clock)
    from keyrush.limiter.guarded import GuardedLimiter
    from keyrush.limiter.limits_library.adapter import LimitsLimiter

    outside = LimitsLimiter(url.removeprefix("limits+"))
    return GuardedLimiter(outside, outage, monotonic_of(clock))


def _in_memory() -> Limiter:
    from keyrush.limiter.memory import MemoryLimiter

    return MemoryLimiter()


def _in_database(engine: Any, clock: Callable[[], int]) -> Ledger:
    from keyrush.limiter.ledgers.sql import SqlLedger

    return SqlLedger(engine, _unless_real(clock))


def _over(ledger: Ledger, mode: Mode, outage: Outage, clock: Callable[[], int]) -> Limiter:
    from keyrush.limiter.shared.exact import ExactLimiter
    from keyrush.limiter.shared.leased import LeasedLimiter

    shared = SharedWindows(ledger, outage, clock, monotonic_of(clock))
    return LeasedLimiter(shared) if mode == "leased" else ExactLimiter(shared)
