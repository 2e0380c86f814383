"""Where windows are counted: the protocol, and `open_limiter`, which chooses by URL.

A limiter of your own is one class with these methods, plain or coroutines. Pass an instance
to `Gate`, or name the class in `KEYRUSH_LIMITER_URL` as `package.module:Class`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from keyrush.limiter.ledger import Ledger
from keyrush.limiter.shared import Outage, SharedWindows
from keyrush.model import now_ms
from keyrush.plugins import load
from keyrush.windows import Tally, Window

#: Units taken ahead in blocks, or one by one.
Mode = Literal["leased", "exact"]

#: Schemes of servers like Redis, before a "+".
_REDIS = ("redis", "rediss", "valkey", "valkeys", "unix")


class Limiter(Protocol):
    """What keyrush asks of a limiter. Instants are Unix milliseconds.

    One that is not local may have more, which the gate uses where it is there:
    `take_at_once(windows, cost, now)`, which is `take` without I/O, or gives None where it can't
    tell without; a coroutine `take_async` with `is_async` true; `bind(background)`, called once,
    to have work done in the background; `flush()`, to write what it holds back.
    """

    @property
    def is_local(self) -> bool:
        """True when `take` does no I/O, so that the event loop may call it."""
        ...

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        """Take `cost` from all windows or from none. A cost of 0 only looks."""
        ...

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        """Undo a take made at `taken_at`, as far as it still counts."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


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
        from keyrush.limiter.redis import RedisLedger

        return _over(RedisLedger(url, _unless_real(clock)), mode, outage, clock)
    from keyrush.limiter.guarded import GuardedLimiter
    from keyrush.limiter.limits import LimitsLimiter

    outside = LimitsLimiter(url.removeprefix("limits+"))
    return GuardedLimiter(outside, outage, monotonic_of(clock))


def _in_memory() -> Limiter:
    from keyrush.limiter.memory import MemoryLimiter

    return MemoryLimiter()


def _in_database(engine: Any, clock: Callable[[], int]) -> Ledger:
    from keyrush.limiter.sql import SqlLedger

    return SqlLedger(engine, _unless_real(clock))


def _unless_real(clock: Callable[[], int]) -> Callable[[], int] | None:
    """None for the machine's clock, in whose place servers go by their own."""
    return None if clock is now_ms else clock


def _over(ledger: Ledger, mode: Mode, outage: Outage, clock: Callable[[], int]) -> Limiter:
    from keyrush.limiter.exact import ExactLimiter
    from keyrush.limiter.leases import LeasedLimiter

    shared = SharedWindows(ledger, outage, clock, monotonic_of(clock))
    return LeasedLimiter(shared) if mode == "leased" else ExactLimiter(shared)


def monotonic_of(clock: Callable[[], int]) -> Callable[[], float]:
    """Seconds that go with `clock`, so that where it is not the machine's only it moves them."""
    return time.monotonic if clock is now_ms else lambda: clock() / 1000


__all__ = ["Limiter", "Mode", "monotonic_of", "open_limiter"]
