"""Storages of the `limits` library as limiters: Valkey, memcached's protocol, memory."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import limits.storage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits.storage import MemoryStorage, MovingWindowSupport, Storage
from limits.storage import memcached as limits_memcached
from limits.storage import memory as limits_memory
from pymemcache.exceptions import (  # type: ignore[import-untyped]  # it has no types
    MemcacheUnexpectedCloseError,
)

from keyrush.core.sliding import UNLIMITED, Window
from keyrush.errors import ConfigurationError
from keyrush.limiter.limits_library import adapter, storages
from keyrush.limiter.limits_library.adapter import LimitsLimiter
from keyrush.limiter.memory import MemoryLimiter
from tests.support.scripts import run
from tests.support.valkey import Valkey, free_port, running

HOUR = 3_600_000
START = 480_000 * HOUR


def window(amount: int, length: int = HOUR, subject: str = "key:a") -> Window:
    """A window as the gate makes it: its key names subject and length."""
    return Window(f"{subject}:{length // 1000}", length, amount, "hour")


# --- servers -------------------------------------------------------------------------------------


class Memcached(socketserver.ThreadingTCPServer):
    """A stand-in for memcached, for want of one that pip installs: as much of its text protocol
    as `limits` speaks, over TCP, with its rules for counters and times to live. It goes by the
    clock that it is given, in seconds.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # threads that begin together also connect together

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.clock = clock
        self.lock = threading.Lock()
        self.items: dict[str, tuple[bytes, float]] = {}  # value, and the instant of its end
        self.connections: list[socket.socket] = []
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, command: str, words: list[str], value: bytes) -> bytes:
        """What the server says to a command."""
        now = self.clock()
        self.items = {key: item for key, item in self.items.items() if item[1] > now}
        if command == "get":
            found = [(key, self.items[key][0]) for key in words if key in self.items]
            lines = [f"VALUE {key} 0 {len(value)}\r\n{value.decode()}\r\n" for key, value in found]
            return "".join([*lines, "END\r\n"]).encode()
        key = words[0]
        if command == "add":
            if key in self.items:
                return b"NOT_STORED\r\n"
            lifetime = int(words[2])  # above 30 days it is an instant
            self.items[key] = (value, lifetime if lifetime > 30 * 86_400 else now + lifetime)
            return b"STORED\r\n"
        if not words[1].isdigit():
            return b"CLIENT_ERROR invalid numeric delta argument\r\n"
        if key not in self.items:
            return b"NOT_FOUND\r\n"
        old, end = self.items[key]
        delta = int(words[1]) if command == "incr" else -int(words[1])
        new = b"%d" % max(0, int(old) + delta)
        self.items[key] = (new.ljust(len(old)), end)  # it grows no shorter
        return new + b"\r\n"

    def hang_up(self) -> None:
        """Close all connections; new ones are welcome."""
        for connection in self.connections:
            with suppress(OSError):  # long gone
                connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Be away from now on."""
        self.shutdown()
        self.server_close()
        self.hang_up()


class _Conversation(socketserver.StreamRequestHandler):
    """One connection to a `Memcached`."""

    server: Memcached

    def handle(self) -> None:
        self.server.connections.append(self.connection)
        with suppress(ConnectionError):
            for line in self.rfile:
                command, *words = line.decode().split()
                value = self.rfile.read(int(words[3]) + 2)[:-2] if command == "add" else b""
                with self.server.lock:
                    answer = self.server.answer(command, words, value)
                if words[-1] != "noreply":
                    self.wfile.write(answer)


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    """A real Valkey server for these tests alone, which empty it."""
    with running() as server:
        yield server


# --- clocks --------------------------------------------------------------------------------------


class Clock:
    """A clock that only the test moves. Unix milliseconds."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def seconds(self) -> float:
        return self.now / 1000

    def advance(self, milliseconds: int) -> None:
        self.now += milliseconds

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put it in the place of this machine's clock."""
        for module in (adapter, limits_memory, limits_memcached):
            patch.setattr(module, "time", SimpleNamespace(time=self.seconds))
        # The clean-up thread looks at the same clock; expired counters are ignored without it.
        patch.setattr(MemoryStorage, "_MemoryStorage__schedule_expiry", lambda _: None)


class WoundClock:
    """The clock of a Valkey server, which is wound forward by making all of its keys older."""

    def __init__(self, server: Valkey) -> None:
        self._server = server
        self._ahead = 0

    @property
    def now(self) -> int:
        return int(self.seconds() * 1000)

    def seconds(self) -> float:
        return time.time() + self._ahead / 1000

    def advance(self, milliseconds: int) -> None:
        self._ahead += milliseconds
        with self._server.client() as client:
            for key in client.scan_iter():
                # By instants: what is left would grow by the time that passes in between.
                client.pexpireat(key, client.pexpiretime(key) - milliseconds)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Have the adapter go by it."""
        patch.setattr(adapter, "time", SimpleNamespace(time=self.seconds))


@pytest.fixture(params=["memory", "memcached", "valkey"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each storage that is tested."""
    name: str = request.param
    return name


@pytest.fixture
def clock(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Clock | WoundClock:
    """The clock that the storage goes by."""
    chosen: Clock | WoundClock = Clock()
    if kind == "valkey":
        chosen = WoundClock(request.getfixturevalue("valkey"))
    chosen.install(monkeypatch)
    return chosen


@pytest.fixture
def uri(kind: str, clock: Clock | WoundClock, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URI of an empty storage."""
    if kind == "memory":
        yield "memory://"
    elif kind == "valkey":
        server: Valkey = request.getfixturevalue("valkey")
        server.run("FLUSHALL")
        yield server.url
    else:
        memcached = Memcached(clock.seconds)
        yield f"memcached://{memcached.address}"
        memcached.stop()


@pytest.fixture
def limiter(uri: str) -> Iterator[LimitsLimiter]:
    """A limiter over an empty storage."""
    opened = LimitsLimiter(uri)
    yield opened
    opened.close()


@pytest.fixture
def memcached(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memcached]:
    """A memcached server on a clock that stands still."""
    stopped = Clock()
    stopped.install(monkeypatch)
    server = Memcached(stopped.seconds)
    yield server
    server.stop()


def in_threads(threads: int, work: Callable[[], int]) -> int:
    """The sum of what `work` returns in threads that begin together."""
    barrier = threading.Barrier(threads)

    def begin() -> int:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(threads) as pool:
        return sum(done.result() for done in [pool.submit(begin) for _ in range(threads)])


# --- every storage -------------------------------------------------------------------------------


def test_takes_up_to_the_limit(limiter: LimitsLimiter) -> None:
    """R6, R11: requests pass until the amount is used up; remaining counts down."""
    wanted = [window(3)]
    assert [limiter.take(wanted, 1, 0)[0:3:2] for _ in range(4)] == [
        (True, 2),
        (True, 1),
        (True, 0),
        (False, 0),
    ]


def test_reset_is_the_end_of_the_period(
    limiter: LimitsLimiter, clock: Clock | WoundClock, kind: str
) -> None:
    """R11: while requests remain, the tally shows the end of the period: on Valkey of one that
    the first request began, elsewhere of the hour.
    """
    clock.advance(600_000)
    before = clock.now
    tallies = [limiter.take([window(9)], 1, 0) for _ in range(3)]
    after = clock.now
    if kind == "valkey":
        assert all(before + HOUR <= tally.ready_at <= after + HOUR + 2 for tally in tallies)
    else:
        assert all(0 <= tally.ready_at - (START + HOUR) <= 1 for tally in tallies)


def test_wait_ends_as_told(limiter: LimitsLimiter, clock: Clock | WoundClock) -> None:
    """R15: whoever is refused waits until `ready_at` and passes; well before they don't."""
    wanted = [window(60)]
    limiter.take(wanted, 20, 0)
    clock.advance(600_000)
    limiter.take(wanted, 40, 0)
    for cost in (1, 20, 33):
        refused = limiter.take(wanted, cost, 0)
        assert (refused.admitted, refused.window) == (False, wanted[0])
        clock.advance(refused.ready_at - 5000 - clock.now)
        assert not limiter.take(wanted, cost, 0).admitted
        clock.advance(refused.ready_at - clock.now)
        assert limiter.take(wanted, cost, 0).admitted


def test_wait_with_nothing_left(limiter: LimitsLimiter, clock: Clock | WoundClock) -> None:
    """R15: with 0 remaining, `ready_at` is when one more request passes, also when the very
    first request took everything.
    """
    wanted = [window(6)]
    for _ in range(3):
        last = limiter.take(wanted, limiter.take(wanted, 0, 0).remaining, 0)
        assert (last.admitted, last.remaining) == (True, 0)
        clock.advance(last.ready_at - 5000 - clock.now)
        assert not limiter.take(wanted, 1, 0).admitted
        clock.advance(last.ready_at - clock.now)
        assert limiter.take(wanted, 1, 0).admitted


def test_all_windows_or_none(limiter: LimitsLimiter) -> None:
    """O13: a request that one window refuses takes from no other."""
    short, long = window(2), window(100, 24 * HOUR)
    for _ in range(5):
        limiter.take([long, short], 1, 0)
    assert limiter.take([long], 0, 0).remaining == 98
    assert limiter.take([long, short], 1, 0).window == short


def test_most_constrained_window(limiter: LimitsLimiter) -> None:
    """O14: the window with the least left is shown; of full ones, the one that is for longest."""
    short, long = window(3), window(5, 24 * HOUR)
    assert limiter.take([short, long], 1, 0).window == short
    limiter.take([long], 2, 0)
    assert limiter.take([short, long], 1, 0)[1:3] == (long, 1)
    limiter.take([short, long], 1, 0)
    assert limiter.take([short, long], 0, 0)[:3] == (True, long, 0)
    assert limiter.take([short, long], 1, 0)[:3] == (False, long, 0)


def test_subjects_are_apart(limiter: LimitsLimiter) -> None:
    """No two callers share a window, whatever their names, nor do two lengths of one caller."""
    names = ["key:a", "key:b", "key:a b", "key:\u00e9", "key:{a}", "key:" + "a" * 300]
    for name in names:
        assert limiter.take([window(1, subject=name)], 1, 0).admitted
        assert limiter.take([window(1, 24 * HOUR, subject=name)], 1, 0).admitted
        assert not limiter.take([window(1, subject=name)], 1, 0).admitted


def test_changed_amount_keeps_the_count(limiter: LimitsLimiter) -> None:
    """Field 8: a plan change neither resets nor forgives what was used."""
    limiter.take([window(100)], 80, 0)
    assert not limiter.take([window(50)], 1, 0).admitted
    assert limiter.take([window(50)], 0, 0)[::2] == (True, 0)
    assert limiter.take([window(200)], 1, 0).remaining == 119


def test_nothing_wanted(limiter: LimitsLimiter) -> None:
    """Where nothing limits, everything passes."""
    assert limiter.take([], 1, 0) == UNLIMITED


@pytest.mark.parametrize("cost", [1, 5])
def test_zero_admits_nothing(limiter: LimitsLimiter, clock: Clock | WoundClock, cost: int) -> None:
    """Field 6: 0 is a limit, and the wait ends in the future."""
    refused = limiter.take([window(0)], cost, 0)
    assert (refused.admitted, refused.remaining) == (False, 0)
    assert refused.ready_at > clock.now


def test_look_takes_nothing(limiter: LimitsLimiter) -> None:
    """A cost of 0 shows what is left, and is let through even when nothing is."""
    assert limiter.take([window(2)], 0, 0)[:3] == (True, window(2), 2)
    limiter.take([window(2)], 2, 0)
    assert limiter.take([window(2)], 0, 0)[::2] == (True, 0)


def test_negative_cost(limiter: LimitsLimiter) -> None:
    """A negative cost, which would add to what is left, is an error."""
    limiter.take([window(2)], 1, 0)
    with pytest.raises(ValueError, match="cost: -1 is negative"):
        limiter.take([window(2)], -1, 0)
    assert limiter.take([window(2)], 0, 0).remaining == 1


def test_huge_cost(limiter: LimitsLimiter) -> None:
    """A cost above any limit is refused and takes nothing."""
    assert not limiter.take([window(2)], 2**70, 0).admitted
    assert limiter.take([window(2)], 0, 0).remaining == 2


@pytest.mark.parametrize("days", [1, 15, 16, 30, 360])
def test_long_windows(limiter: LimitsLimiter, clock: Clock | WoundClock, days: int) -> None:
    """A window counts for its whole length, also where that is more than memcached's 30 days."""
    wanted = [window(4, days * 24 * HOUR)]
    assert limiter.take(wanted, 3, 0).remaining == 1
    clock.advance(HOUR)
    assert limiter.take(wanted, 0, 0).remaining == 1
    assert not limiter.take(wanted, 2, 0).admitted


# --- giving back ---------------------------------------------------------------------------------


def test_give_back(limiter: LimitsLimiter, clock: Clock | WoundClock) -> None:
    """What a request took that was refused afterwards is there again, in every window."""
    wanted = [window(5), window(12, 24 * HOUR)]
    now = clock.now
    limiter.take(wanted, 3, now)
    limiter.give_back(wanted, 2, now)
    assert limiter.take([wanted[0]], 0, 0).remaining == 4
    assert limiter.take([wanted[1]], 0, 0).remaining == 11
    assert limiter.take([wanted[0]], 4, 0).admitted
    assert not limiter.take([wanted[0]], 1, 0).admitted


def test_give_back_under_a_lower_amount(limiter: LimitsLimiter, clock: Clock | WoundClock) -> None:
    """Also when the limit has become less than what was used."""
    now = clock.now
    limiter.take([window(10)], 8, now)
    limiter.give_back([window(5)], 2, now)
    assert limiter.take([window(10)], 0, 0).remaining == 4


def test_give_back_of_nothing(limiter: LimitsLimiter, clock: Clock | WoundClock) -> None:
    """To give back what was never taken makes no room."""
    limiter.give_back([window(2)], 5, clock.now)
    assert limiter.take([window(2)], 0, 0).remaining == 2
    limiter.take([window(2)], 1, clock.now)
    limiter.give_back([window(2)], 5, clock.now)
    assert limiter.take([window(2)], 0, 0).remaining == 2


def test_give_back_too_late(limiter: LimitsLimiter, clock: Clock | WoundClock) -> None:
    """What was taken in an earlier period stays taken, and the later one loses nothing by it."""
    wanted = [window(8)]
    then = clock.now
    limiter.take(wanted, 4, then)
    clock.advance(HOUR + HOUR // 2 - 60_000)  # two of the four still count
    limiter.take(wanted, 2, clock.now)
    limiter.give_back(wanted, 2, then)
    assert limiter.take(wanted, 0, 0).remaining == 4


def test_overtaken(limiter: LimitsLimiter, clock: Clock | WoundClock, uri: str) -> None:
    """S35: who loses a race for one window is refused, and what others gave is given back."""
    hour, day = window(10), window(5, 24 * HOUR)
    limiter.take([hour, day], 1, 0)
    hit = limiter._opened.hit  # noqa: SLF001  # to come in between is hard otherwise

    def hit_after_a_rival(item: Any, **values: int) -> bool:
        if "86400" in item.key_for() and values["cost"] > 0:
            hit(item, cost=4)
        return hit(item, **values)

    setattr(limiter._opened, "hit", hit_after_a_rival)  # noqa: B010, SLF001  # as above
    refused = limiter.take([hour, day], 1, 0)
    assert refused[:3] == (False, day, 0)
    assert refused.ready_at > clock.now + HOUR
    assert limiter.take([hour], 0, 0).remaining == 9


def test_overtaken_and_left_again(limiter: LimitsLimiter, clock: Clock | WoundClock) -> None:
    """Who loses a race is refused also when there is room again by then: at once, for the wait."""
    setattr(limiter._opened, "hit", lambda *_, **__: False)  # noqa: B010, SLF001  # a fault
    refused = limiter.take([window(5)], 1, 0)
    assert refused[:3] == (False, window(5), 5)
    assert 0 < refused.ready_at - clock.now <= 1000


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
def test_period_ends_meanwhile(limiter: LimitsLimiter, clock: Clock) -> None:
    """R11: the reset is right also when a period ends between the look and the take."""
    own, wanted = MemoryLimiter(), [window(9)]
    limiter.take(wanted, 2, 0)
    own.take(wanted, 2, START)
    clock.advance(HOUR - 1)
    hit = limiter._opened.hit  # noqa: SLF001  # to come in between is hard otherwise

    def hit_later(item: Any, **values: int) -> bool:
        clock.advance(1)
        return hit(item, **values)

    setattr(limiter._opened, "hit", hit_later)  # noqa: B010, SLF001  # as above
    tally, expected = limiter.take(wanted, 2, 0), own.take(wanted, 2, START + HOUR)
    assert tally[:3] == expected[:3]
    assert 0 <= tally.ready_at - expected.ready_at <= 1


# --- threads and processes -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memcached", "valkey"], indirect=True)
def test_exact_under_threads(limiter: LimitsLimiter) -> None:
    """S35: 50 concurrent requests at limit 10 of a new window: exactly 10 pass."""
    wanted = [window(10), window(1000, 24 * HOUR)]
    assert in_threads(50, lambda: limiter.take(wanted, 1, 0).admitted) == 10
    assert limiter.take([wanted[1]], 0, 0).remaining == 990


def test_never_above_the_limit_under_threads(limiter: LimitsLimiter) -> None:
    """S35: in memory, where rivals may refuse each other, no more than the limit pass."""
    assert 0 < in_threads(20, lambda: limiter.take([window(10)], 1, 0).admitted) <= 10


@pytest.mark.parametrize("kind", ["memcached", "valkey"], indirect=True)
def test_two_processes_share_windows(limiter: LimitsLimiter, uri: str) -> None:
    """What one process takes is missing in another."""
    other = LimitsLimiter(uri)
    limiter.take([window(5)], 3, 0)
    assert other.take([window(5)], 1, 0).remaining == 1
    other.close()


@pytest.mark.parametrize("kind", ["memcached", "valkey"], indirect=True)
def test_fork(uri: str) -> None:
    """After a fork neither process talks over the other's connections: each gets its answers."""
    out = run(
        """
        import os, sys
        from keyrush.limiter.limits_library.adapter import LimitsLimiter
        from keyrush.core.sliding import Window

        limiter = LimitsLimiter(sys.argv[1])
        wanted = [Window("k:3600000", 3_600_000_000, 1_000_000, "long")]
        limiter.take(wanted, 1, 0)
        children = []
        for _ in range(3):
            child = os.fork()
            if not child:
                passed = sum(limiter.take(wanted, 1, 0).admitted for _ in range(100))
                limiter.close()
                os._exit(0 if passed == 100 else 1)
            children.append(child)
        assert all(limiter.take(wanted, 1, 0).admitted for _ in range(100))
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        print(limiter.take(wanted, 0, 0).remaining)
        limiter.close()
        """,
        uri,
    )
    assert out == f"{1_000_000 - 401}\n"


def test_usable_after_close(limiter: LimitsLimiter) -> None:
    """A limiter that was closed opens itself again; closing twice does no harm."""
    limiter.take([window(5)], 1, 0)
    limiter.close()
    limiter.close()
    assert limiter.take([window(5)], 1, 0).admitted


# --- agreement with keyrush's own ----------------------------------------------------------------

costs = st.integers(0, 3)
schedules = st.lists(st.tuples(st.integers(0, 5000), costs), min_size=1, max_size=40)


@contextmanager
def aligned(kind: str) -> Iterator[tuple[LimitsLimiter, Clock]]:
    """A limiter over an empty storage whose periods are the clock's, and that clock."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        clock.install(patch)
        memcached = Memcached(clock.seconds) if kind == "memcached" else None
        limiter = LimitsLimiter(f"memcached://{memcached.address}" if memcached else "memory://")
        yield limiter, clock
        limiter.close()
        if memcached:
            memcached.stop()


def agree(kind: str, amounts: tuple[int, int], schedule: list[tuple[int, int]]) -> None:
    """Check that a schedule comes to the same here as with `keyrush.limiter.memory`."""
    # 4 and 32 seconds, and steps of eighths of a second, which floats hold exactly.
    wanted = [window(amounts[0], 4000), window(amounts[1], 32_000)]
    own = MemoryLimiter()
    with aligned(kind) as (limiter, clock):
        for step, cost in schedule:
            clock.advance(step * 125 // 40)
            clock.now -= clock.now % 125
            expected = own.take(wanted, cost, clock.now)
            tally = limiter.take(wanted, cost, clock.now)
            assert tally[:3] == expected[:3]
            assert 0 <= tally.ready_at - expected.ready_at <= 1


@settings(deadline=None)  # the storage starts a thread
@given(st.tuples(st.integers(0, 9), st.integers(0, 25)), schedules)
def test_decides_as_keyrush_does_in_memory(
    amounts: tuple[int, int], schedule: list[tuple[int, int]]
) -> None:
    """The same schedule passes here and in memory, with the same tallies to a millisecond."""
    agree("memory", amounts, schedule)


@settings(max_examples=12, deadline=None)  # servers come and go
@given(st.tuples(st.integers(0, 9), st.integers(0, 25)), schedules)
def test_decides_as_keyrush_does_on_memcached(
    amounts: tuple[int, int], schedule: list[tuple[int, int]]
) -> None:
    """Also on memcached."""
    agree("memcached", amounts, schedule)


@settings(deadline=None)  # the storage starts a thread
@given(
    st.integers(1, 12),
    st.sampled_from([1, 7, 60, 86_400]),
    st.lists(st.tuples(st.floats(0, 1.5), st.integers(1, 4)), min_size=1, max_size=25),
)
def test_a_lone_client_that_waits_passes(
    amount: int, seconds: int, steps: list[tuple[float, int]]
) -> None:
    """R15: at any instant, whoever is refused passes at `ready_at`, if its cost ever can."""
    wanted = [window(amount, seconds * 1000)]
    with aligned("memory") as (limiter, clock):
        for step, cost in steps:
            clock.advance(round(step * seconds * 1000))
            tally = limiter.take(wanted, cost, clock.now)
            if not tally.admitted and cost <= amount:
                assert tally.ready_at > clock.now
                clock.now = tally.ready_at
                assert limiter.take(wanted, cost, clock.now).admitted


# --- other strategies ----------------------------------------------------------------------------


class FixedOnly(Storage):
    """A storage of a user's own that has counters and nothing else."""

    STORAGE_SCHEME = ["fixed-only"]  # noqa: RUF012  # as limits has it

    def __init__(self, uri: str | None = None, **_: Any) -> None:
        super().__init__(uri)
        self.inner = MemoryStorage()

    base_exceptions = OSError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self.inner.incr(key, expiry, amount)

    def get(self, key: str) -> int:
        return self.inner.get(key)

    def get_expiry(self, key: str) -> float:
        return self.inner.get_expiry(key)

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        return self.inner.reset()

    def clear(self, key: str) -> None:
        self.inner.clear(key)


class MovingOnly(FixedOnly, MovingWindowSupport):
    """One that also keeps the instants of requests."""

    STORAGE_SCHEME = ["moving-only"]  # noqa: RUF012  # as limits has it

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return self.inner.acquire_entry(key, limit, expiry, amount)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        return self.inner.get_moving_window(key, limit, expiry)


@pytest.fixture(params=["fixed", "moving"])
def other(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[LimitsLimiter, Clock]:
    """A limiter whose storage has no sliding window counter, and its clock."""
    clock = Clock(START + 1000)
    clock.install(monkeypatch)
    return LimitsLimiter(f"{request.param}-only://"), clock


def test_other_strategies(other: tuple[LimitsLimiter, Clock]) -> None:
    """A storage without the sliding window counter limits by the best that it has, all the
    windows or none, and R15: who waits as told passes.
    """
    limiter, clock = other
    hour, day = window(3), window(100, 24 * HOUR)
    assert limiter.take([hour], 0, 0)[::2] == (True, 3)
    assert [limiter.take([hour, day], 1, 0)[:3] for _ in range(4)] == [
        (True, hour, 2),
        (True, hour, 1),
        (True, hour, 0),
        (False, hour, 0),
    ]
    refused = limiter.take([hour, day], 1, 0)
    assert 0 < refused.ready_at - (clock.now + HOUR) <= 1
    assert limiter.take([day], 0, 0).remaining == 97
    clock.now = refused.ready_at
    assert limiter.take([hour, day], 3, 0).admitted


def test_other_strategies_at_the_edges(other: tuple[LimitsLimiter, Clock]) -> None:
    """Field 6, 8: 0 admits nothing, a huge cost takes nothing, a changed amount keeps the count."""
    limiter, clock = other
    assert not limiter.take([window(0)], 1, 0).admitted
    assert not limiter.take([window(5)], 2**60, 0).admitted
    limiter.take([window(5)], 4, 0)
    assert limiter.take([window(6)], 0, 0).remaining == 2
    assert limiter.take([window(2)], 0, 0).remaining == 0
    assert not limiter.take([window(2)], 1, 0).admitted
    limiter.give_back([window(5)], 4, clock.now)
    assert limiter.take([window(5)], 0, 0).remaining == 1


def test_strategy_is_readable(other: tuple[LimitsLimiter, Clock]) -> None:
    """The strategy can be read, and stands in the repr."""
    limiter, _ = other
    assert limiter.strategy in ("fixed-window", "moving-window")
    assert repr(limiter) == f"LimitsLimiter({limiter.strategy[:-7]}-only, {limiter.strategy})"
    assert LimitsLimiter("memory://").strategy == "sliding-window-counter"


def test_limits_is_left_as_it_was() -> None:
    """What an app itself does with `limits` is not changed by ours."""
    assert type(limits.parse("5/second")) is limits.RateLimitItemPerSecond
    assert limits.storage.storage_from_string("memory://").__class__ is MemoryStorage
    uri = "memcached://127.0.0.1:1"
    assert type(limits.storage.storage_from_string(uri)) is limits.storage.MemcachedStorage


# --- outages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "redis://:hunter2@{}",
        "redis+cluster://:hunter2@{}",
        "redis+sentinel://:hunter2@{}/main",
        "memcached://{}",
    ],
)
def test_server_away(uri: str) -> None:
    """S19, O22: a server that is away at the start is no wrong URI; takes raise what its driver
    does, without the password.
    """
    limiter = LimitsLimiter(uri.format(f"127.0.0.1:{free_port()}"))
    with pytest.raises(Exception, match=r"refused|connect|No master") as caught:
        limiter.take([window(5)], 1, 0)
    assert not isinstance(caught.value, ConfigurationError)
    assert "hunter2" not in str(caught.value) + repr(limiter)
    limiter.close()


@pytest.mark.parametrize("scheme", ["redis", "valkey", "memcached"])
def test_server_frozen(scheme: str) -> None:
    """S19: a server that never answers holds nobody up for long."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        limiter = LimitsLimiter(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(Exception, match=r"(?i)timed? ?out"):
            limiter.take([window(5)], 1, 0)
        limiter.close()


def test_server_comes_back(memcached: Memcached) -> None:
    """An outage needs no restart: when the server answers again, so does the limiter."""
    limiter = LimitsLimiter(f"memcached://{memcached.address}")
    limiter.take([window(5)], 1, 0)
    memcached.hang_up()
    with pytest.raises((MemcacheUnexpectedCloseError, ConnectionError)):
        limiter.take([window(5)], 1, 0)
    assert limiter.take([window(5)], 1, 0).remaining == 3
    limiter.close()


def test_several_memcached_servers(memcached: Memcached) -> None:
    """Keys are spread; when a server is away, that is an error first, and never a free pass."""
    second = Memcached(memcached.clock)
    limiter = LimitsLimiter(f"memcached://{memcached.address},{second.address}")
    subjects = [window(1, subject=f"key:{number}") for number in range(20)]
    assert all(limiter.take([one], 1, 0).admitted for one in subjects)
    assert not any(limiter.take([one], 1, 0).admitted for one in subjects)
    assert memcached.items
    assert second.items
    second.stop()
    errors = passed = 0
    for one in subjects * 3:
        try:
            passed += limiter.take([one], 1, 0).admitted
        except Exception:
            errors += 1
    assert errors
    assert passed <= len(subjects)  # counted anew where the server was lost, and then refused
    assert not any(limiter.take([one], 1, 0).admitted for one in subjects)
    limiter.close()


# --- opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "hunter2",
        "nosuch://:hunter2@localhost",
        "async+memory://",
        "async+redis://:hunter2@localhost",
        "memcached://me:hunter2@localhost",
        "memcached://me:hunter2/2@localhost:1",
        "redis://:hunter2@localhost:port",
        "redis+sentinel://:hunter2@localhost/service",
    ],
)
def test_no_such_storage(uri: str) -> None:
    """O22: what `limits` can't open is refused at start-up; no message shows a password."""
    with pytest.raises(ConfigurationError, match="KEYRUSH_LIMITER_URL") as caught:
        LimitsLimiter(uri)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("scheme", "driver", "install"),
    [
        ("memcached", "pymemcache", "limits[memcached]"),
        ("mongodb+srv", "pymongo", "limits[mongodb]"),
        ("rediss", "redis", "keyrush[redis]"),
        ("valkeys", "valkey", "limits[valkey]"),
    ],
)
def test_missing_driver(
    monkeypatch: pytest.MonkeyPatch, scheme: str, driver: str, install: str
) -> None:
    """A driver that is not installed is named, with how to install it, and no password."""
    monkeypatch.setattr(storages, "find_spec", {driver: None}.get)
    with pytest.raises(ConfigurationError) as caught:
        LimitsLimiter(f"{scheme}://me:hunter2@localhost:1")
    assert str(caught.value) == (
        f"KEYRUSH_LIMITER_URL: {scheme}:// needs {driver}: pip install '{install}'"
    )


def test_the_uri_decides(valkey: Valkey) -> None:
    """A time-out in the URI goes before keyrush's own; nothing is sent twice."""
    limiter = LimitsLimiter(f"{valkey.url}?socket_timeout=7.5")
    limiter.take([window(5)], 0, 0)
    client: Any = limiter._opened.storage  # noqa: SLF001  # it shows its settings nowhere else
    connection = client.storage.connection_pool.make_connection()
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (7.5, 1.0)
    assert connection.retry.get_retries() == 0
    limiter.close()
