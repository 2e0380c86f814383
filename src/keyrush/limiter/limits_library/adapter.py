"""Any storage of the `limits` library as a limiter: memcached, MongoDB, and others."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import SlidingWindowCounterSupport
from limits.strategies import STRATEGIES, RateLimiter

from keyrush.core import sliding
from keyrush.core.sliding import EXACT, UNLIMITED, Tally, Window, WindowCount
from keyrush.errors import ConfigurationError
from keyrush.limiter.limits_library.storages import StorageAt
from keyrush.runtime.forks import after_fork

#: A float of today holds an instant to a quarter of a microsecond; this much may be lost of a
#: period's end that was worked out from one. Milliseconds.
_FLOAT_ERROR = 0.002

#: What is the same key to every server, and no longer than memcached takes.
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.:@/-]{1,200}")


class _Item(RateLimitItemPerSecond):
    """A window as `limits` has it: so many per so many seconds."""

    def key_for(self, *identifiers: bytes | str | float) -> str:  # noqa: ARG002  # there are none
        """The window's key alone, without the amount: a changed limit keeps its count."""
        return self.namespace


def _item(window: Window, amount: int | None = None) -> RateLimitItem:
    key = window.key
    if not _PLAIN_KEY.fullmatch(key):
        key = hashlib.sha256(key.encode()).hexdigest()
    amount = window.amount if amount is None else amount
    return _Item(amount, window.length // 1000, f"keyrush:{key}")


class _Period(NamedTuple):
    """A window by the sliding window counter, as it was seen.

    Some storages begin a period with the first request and not with the clock; so it is told
    on a clock on which it is the period 0. `shift` turns that clock's instants into Unix ones.
    """

    window: Window
    counter: WindowCount
    at: int
    shift: int
    until: int  #: Unix milliseconds until when it stands; 0 where the first take begins it

    def tally(self, cost: int) -> Tally:
        """What a take of `cost` comes to."""
        tally, _ = sliding.take([self.window], {self.window.key: self.counter}, cost, self.at)
        return tally._replace(ready_at=tally.ready_at + self.shift)


class _Figures(NamedTuple):
    """A window by another strategy, as it was seen."""

    window: Window
    remaining: int
    reset: int
    until: int = 0  #: it doesn't show what it will be after a take

    def tally(self, cost: int) -> Tally:
        """What a take of `cost` comes to."""
        left = self.remaining - cost
        if cost and left < 0:
            return Tally(False, self.window, max(0, self.remaining), self.reset)
        return Tally(True, self.window, max(0, left), self.reset)


def _now() -> int:
    """The first whole Unix millisecond that is yet to come."""
    return int(time.time() * 1000) + 1


class LimitsLimiter:
    """The storage of `limits` at `uri`, exact: every request asks it. Safe to use in threads.

    `strategy` is the best that the storage has: "sliding-window-counter", with the arithmetic
    of `keyrush.core.sliding` and true of all that `limits` itself brings; else
    "moving-window", else "fixed-window", by which twice the amount passes around the end of a
    window.

    What it can't promise:

    - All windows or none. They are all looked at, and then taken from one by one. If another
      caller is faster in between, or the storage fails, what was taken before may stay taken.
      Under "fixed-window" whoever loses such a race has used up units although refused.
    - `give_back` of everything. It works by the sliding window counter, on the storages that
      `limits` brings, while the period of the take goes on; otherwise it does nothing. What is
      added (a negative cost) is counted there too, but as of now.
    - One clock. Redis and MongoDB count by the server's; all others, and the instants of every
      tally, go by this machine's. The `now` of a call counts for nothing.
    - Aligned windows. On Redis and MongoDB a period begins with the first request in it.
    - Never more than the amount on memcached, when several callers come at once: `limits` reads
      the counters, adds, and looks again, but then without the previous period. Nor does
      memcached keep counters that it needs the room of. In memory, callers that come at once
      may refuse each other instead.
    - On several memcached servers, any count when one is away: it is counted anew on the others.
    - On MongoDB, windows shorter than a minute: after a pause some more may pass, until the
      server's clean-up, once a minute, has come by.
    - On Redis Cluster, that a request counts once: its client repeats what got no answer.
    - `memory://` between processes: each counts on its own, and a forked one from 0.
    - By "moving-window", the wait for a cost above 1: it may have to be repeated.

    Raises:
        ConfigurationError: `limits` has no such storage, its driver is not installed, or the URI
            is malformed. What the storage itself raises is not caught anywhere.
    """

    def __init__(self, uri: str) -> None:
        self._storage = StorageAt(uri)
        self.strategy = self._storage.strategy
        self.is_shared = self._storage.scheme != "memory"  #: False where each process counts alone
        self._forget()
        after_fork(self._forget)
        # Looks at the URI, and connects only where limits can't do without. (For MongoDB, what
        # was made and never used would connect when it is dropped.)
        if self._storage.family != "mongodb":
            try:
                self._open()
            except ConfigurationError:
                raise
            except Exception:  # noqa: S110  # the server is away, which is no error of the URI
                pass

    def __repr__(self) -> str:
        return f"LimitsLimiter({self._storage.scheme}, {self.strategy})"

    def _forget(self) -> None:
        """As before the first request. A child shares no connection with its parent."""
        self._inherited = getattr(self, "_limiter", None)  # kept, or it would say good-bye
        self._limiter: RateLimiter | None = None
        self._lock = threading.Lock()

    def _open(self) -> RateLimiter:
        with self._lock:
            if self._limiter is None:
                self._limiter = STRATEGIES[self.strategy](self._storage.open())
            return self._limiter

    # --- taking ---

    def take(
        self,
        windows: Sequence[Window],
        cost: int,
        now: int,  # noqa: ARG002  # storages read their own clocks
    ) -> Tally:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        if not windows:
            return UNLIMITED
        seen = [self._look(window) for window in windows]
        foreseen = [one.tally(cost) for one in seen]
        if not cost or not all(tally.admitted for tally in foreseen):
            return sliding.together(foreseen)
        limiter, began = self._opened, _now() - 1
        for number, window in enumerate(windows):
            if not limiter.hit(_item(window), cost=cost):
                self.give_back(windows[:number], cost, began)
                return self._overtaken(window, cost)
        after = _now()
        return sliding.together(
            [
                tally if after < one.until else self._look(one.window).tally(0)
                for one, tally in zip(seen, foreseen, strict=True)
            ]
        )

    @property
    def _opened(self) -> RateLimiter:
        return self._limiter or self._open()

    def _look(self, window: Window) -> _Period | _Figures:
        limiter = self._opened
        item = _item(window)
        if self.strategy != "sliding-window-counter":
            stats = limiter.get_window_stats(item)
            reset = max(int(stats.reset_time * 1000) + 1, _now())
            return _Figures(window, stats.remaining, reset)
        storage = cast("SlidingWindowCounterSupport", limiter.storage)
        previous, _, current, ttl = storage.get_sliding_window(item.key_for(), item.get_expiry())
        return _period(window, previous, current, ttl)

    def _overtaken(self, window: Window, cost: int) -> Tally:
        """The tally of a take that others were faster than."""
        seen = self._look(window)
        tally = seen.tally(cost)
        return Tally(False, window, seen.tally(0).remaining, _now()) if tally.admitted else tally

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        if not self._storage.is_of_limits:
            return
        for window in windows:
            seen = self._look(window)
            if isinstance(seen, _Period):
                _, current, _ = seen.counter
                units = min(cost, _of_this_period(seen, taken_at)) if cost > 0 else cost
                units = max(units, current - sliding.most(window.length))
                if units:
                    self._opened.hit(_item(window, EXACT), cost=-units)

    def close(self) -> None:
        """Let go of connections. The limiter may be used again afterwards."""
        limiter, self._limiter = self._limiter, None
        client: Any = getattr(limiter.storage, "storage", None) if limiter else None
        if hasattr(client, "close"):
            client.close()


def _period(window: Window, previous: int, current: int, ttl: float) -> _Period:
    """The window of which `limits` says that the current count lives for `ttl` seconds more:
    to the end of this period, and through the next. 0 where no period has begun.
    """
    length, unix = window.length, _now()
    left = length
    if ttl > 0:
        # Rounded up: the storage must not see more of the previous period than we do.
        left = -int(-(ttl * 1000 - _FLOAT_ERROR) // 1) - length
        left = min(max(0, left), length)
    at = length - left
    return _Period(
        window,
        (0, current, previous),
        at,
        unix - at,
        unix + left if ttl > 0 else 0,
    )


def _of_this_period(seen: _Period, taken_at: int) -> int:
    """How much of what counts may have been taken at `taken_at`, in the current period."""
    _, current, previous = seen.counter
    since = seen.shift
    # A period that a request begins does so a little after the instant that the caller noted;
    # then there is no previous one that it could have been taken in.
    if taken_at >= since - 1 or (not previous and taken_at > since - seen.window.length):
        return current
    return 0


__all__ = ["LimitsLimiter"]
