"""The contenders for decisions on a Valkey server: each takes one from two windows of a subject.

Every function returns what decides for a subject, given by its number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.apps import LIMITS

#: Decides for one of several subjects.
Decide = Callable[[int], object]
DecideAsync = Callable[[int], Awaitable[object]]

#: Decisions in flight at once, each for a subject of its own.
IN_FLIGHT = 64


def _windows(number: int) -> Any:
    from keyrush.core.sliding import Window

    amounts = ((60, 10_000_000, "minute"), (3600, 100_000_000, "hour"))
    return [
        Window(f"key:{number}:{length}", length * 1000, amount, name)
        for length, amount, name in amounts
    ]


SUBJECTS = [_windows(number) for number in range(IN_FLIGHT)]


# --- one after another ----------------------------------------------------------------------------


def incrby(url: str) -> Decide:
    """One INCRBY, for scale: what a round trip costs."""
    import redis

    client = redis.Redis.from_url(url)
    return lambda number: client.incrby(f"scale:{number}", 1)


def keyrush(url: str) -> Decide:
    """keyrush, exact."""
    from keyrush.limiter.opening import open_limiter
    from keyrush.runtime.clock import now_ms

    limiter = open_limiter(url, mode="exact").limiter
    return lambda number: limiter.take(SUBJECTS[number], 1, now_ms())


def limits(url: str) -> Decide:
    """limits' sliding window counter, once for each window."""
    from limits import parse_many
    from limits.storage import storage_from_string
    from limits.strategies import SlidingWindowCounterRateLimiter

    items = parse_many(LIMITS)
    limiter = SlidingWindowCounterRateLimiter(storage_from_string(url))
    return lambda number: [limiter.hit(item, f"key:{number}") for item in items]


def throttled(url: str) -> Decide:
    """throttled-py's sliding window, once for each window."""
    from throttled import RedisStore, Throttled, rate_limiter

    store = RedisStore(server=url)
    minute = rate_limiter.per_min(10_000_000)
    hour = rate_limiter.per_hour(100_000_000)
    both = [Throttled(using="sliding_window", quota=quota, store=store) for quota in (minute, hour)]
    return lambda number: [one.limit(f"key:{number}:{index}") for index, one in enumerate(both)]


# --- in an event loop -----------------------------------------------------------------------------


def incrby_async(url: str) -> DecideAsync:
    """One INCRBY, for scale."""
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(url)
    return lambda number: client.incrby(f"scale:{number}", 1)


def keyrush_async(url: str) -> DecideAsync:
    """keyrush, exact, natively."""
    from keyrush.limiter.opening import open_limiter
    from keyrush.runtime.clock import now_ms

    limiter: Any = open_limiter(url, mode="exact").limiter
    return lambda number: limiter.take_async(SUBJECTS[number], 1, now_ms())


def limits_async(url: str) -> DecideAsync:
    """limits.aio's sliding window counter over redis-py, once for each window."""
    from limits import parse_many
    from limits.aio.strategies import SlidingWindowCounterRateLimiter
    from limits.storage import storage_from_string

    items = parse_many(LIMITS)
    storage: Any = storage_from_string(f"async+{url}", implementation="redispy")
    limiter = SlidingWindowCounterRateLimiter(storage)

    async def decide(number: int) -> object:
        return [await limiter.hit(item, f"key:{number}") for item in items]

    return decide


def throttled_async(url: str) -> DecideAsync:
    """throttled.asyncio's sliding window, once for each window."""
    from throttled.asyncio import RedisStore, Throttled, rate_limiter

    store = RedisStore(server=url)
    minute = rate_limiter.per_min(10_000_000)
    hour = rate_limiter.per_hour(100_000_000)
    both = [Throttled(using="sliding_window", quota=quota, store=store) for quota in (minute, hour)]

    async def decide(number: int) -> object:
        return [await one.limit(f"key:{number}:{index}") for index, one in enumerate(both)]

    return decide


#: What decides, by its name; the first is what others are held against.
CONTENDERS: dict[str, Callable[[str], Decide]] = {
    "INCRBY": incrby,
    "keyrush, exact": keyrush,
    "limits": limits,
    "throttled-py": throttled,
}
ASYNC_CONTENDERS: dict[str, Callable[[str], DecideAsync]] = {
    "INCRBY": incrby_async,
    "keyrush, exact": keyrush_async,
    "limits": limits_async,
    "throttled-py": throttled_async,
}
