"""Each kind of limiter, empty, by a clock that the test moves: for the suites of all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from limits.storage import MemoryStorage
from limits.storage import memory as limits_memory

from keyrush.core import sliding
from keyrush.core.sliding import Demand, Tally, Window, WindowCount
from keyrush.limiter.ledgers.postgresql import PostgresqlLedger
from keyrush.limiter.ledgers.protocol import Ledger
from keyrush.limiter.ledgers.redis.ledger import RedisLedger
from keyrush.limiter.limits_library import adapter
from keyrush.limiter.limits_library.adapter import LimitsLimiter
from keyrush.limiter.opening import given, open_limiter
from keyrush.limiter.protocol import Limiter, SmallLimiter
from keyrush.limiter.shared.client import LedgerClient
from keyrush.limiter.shared.exact import ExactLimiter
from keyrush.limiter.shared.leased import LeasedLimiter
from keyrush.runtime import clock as clocks
from keyrush.sql.engine import Database
from tests.conftest import Clock
from tests.support.ledgers import MemoryLedger

MINUTE = 60_000
NOW = 29_000_000 * MINUTE

#: Where windows of many machines are.
PLACES = ["ledger", "postgresql", "valkey"]

#: keyrush's own.
OURS = [
    "memory",
    "mapped",
    *(f"{mode}-{place}" for place in PLACES for mode in ("exact", "leased")),
]

#: What others have made, made whole.
OTHERS = ["limits", "own", "own-awaited"]


def window(amount: int, length: int = MINUTE, subject: str = "key:a") -> Window:
    """A window as the gate makes it: its key names subject and length."""
    return Window(f"{subject}:{length // 1000}", length, amount, "minute")


class Timed:
    """A limiter that goes by the same clock, which is at `now` during a take."""

    def __init__(self, inner: Limiter, clock: Clock) -> None:
        self.inner = inner
        self._clock = clock

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        self._clock.now = now
        return self.inner.take(windows=windows, cost=cost, now=now)

    def take_together(self, demands: Sequence[Demand], now: int) -> Tally:
        self._clock.now = now
        return self.inner.take_together(demands=demands, now=now)

    def take_together_at_once(self, demands: Sequence[Demand], now: int) -> Tally | None:
        self._clock.now = now
        return self.inner.take_together_at_once(demands=demands, now=now)

    def add(self, windows: Sequence[Window], cost: int, now: int) -> None:
        self._clock.now = now
        self.inner.add(windows=windows, cost=cost, now=now)

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        self.inner.give_back(windows=windows, cost=cost, taken_at=taken_at)

    def flush(self) -> None:
        self.inner.flush()

    def close(self) -> None:
        self.inner.close()


class DictLimiter:
    """What a user writes, over a dictionary."""

    def __init__(self) -> None:
        self.counters: dict[str, WindowCount] = {}
        self._lock = threading.Lock()

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        with self._lock:
            tally, changes = sliding.take(windows, self.counters, cost, now)
            self.counters.update(changes)
            return tally

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        with self._lock:
            for key, length, _, _ in windows:
                counter = sliding.give_back(self.counters.get(key), length, cost, taken_at)
                if counter is not None:
                    self.counters[key] = counter

    def close(self) -> None:
        self.counters.clear()


class AwaitedDictLimiter:
    """The same by coroutines."""

    def __init__(self) -> None:
        self._inner = DictLimiter()

    async def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        return self._inner.take(windows, cost, now)

    async def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        self._inner.give_back(windows, cost, taken_at)

    async def close(self) -> None:
        self._inner.close()


@contextmanager
def opened_ledger(place: str, request: pytest.FixtureRequest, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger of the kind, which goes by `clock`."""
    if place == "ledger":
        yield MemoryLedger(clock)
    elif place == "valkey":
        yield RedisLedger(request.getfixturevalue("valkey_url"), clock)
    else:
        database = Database(request.getfixturevalue("postgres_url"))
        yield PostgresqlLedger(database, clock)
        database.close()


@contextmanager
def opened_limiter(kind: str, request: pytest.FixtureRequest, clock: Clock) -> Iterator[Timed]:
    """An empty limiter of the kind, which goes by `clock`."""
    its_clock = clocks.Clock.of(clock)
    if kind == "memory":
        timed = Timed(open_limiter("memory://", clock=its_clock).limiter, clock)
    elif kind == "mapped":
        folder = request.getfixturevalue("tmp_path")
        timed = Timed(open_limiter(f"file://{folder}/windows", clock=its_clock).limiter, clock)
    elif kind == "limits":
        _wind(request.getfixturevalue("monkeypatch"), clock)
        timed = Timed(given(LimitsLimiter("memory://"), clock=its_clock).limiter, clock)
    elif kind in OTHERS:
        own: SmallLimiter = DictLimiter()
        if kind == "own-awaited":
            own = AwaitedDictLimiter()  # type: ignore[assignment]  # which a user may write
        timed = Timed(given(own, clock=its_clock).limiter, clock)
    else:
        mode, place = kind.split("-")
        with opened_ledger(place, request, clock) as ledger:
            client = LedgerClient(ledger, "local", its_clock)
            timed = Timed((ExactLimiter if mode == "exact" else LeasedLimiter)(client), clock)
            yield timed
            timed.close()
        return
    yield timed
    timed.close()


def _wind(patch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Have `limits` in memory go by the clock, a moment before whose milliseconds it asks."""
    time = SimpleNamespace(time=lambda: (clock() - 0.5) / 1000)
    for module in (adapter, limits_memory):
        patch.setattr(module, "time", time)
    # The clean-up thread looks at the same clock; expired counters are ignored without it.
    patch.setattr(MemoryStorage, "_MemoryStorage__schedule_expiry", lambda _: None)
