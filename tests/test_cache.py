"""The cache of verified keys: bounds, dropping, refused keys, single flight."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

import pytest

from keyrush.cache import NEGATIVE_SIZE, Cache, Entry
from tests.scripts import run
from tests.values import NOW, identity

THREADS = 20


def entry(key_id: str = "cred_a", account_id: str = "acct_a") -> Entry:
    """A fresh entry."""
    made = Entry(
        replace(identity(key_id=key_id), account_id=account_id),
        key_id.encode(),
        "$argon2id$",
        ["f1"],
        refresh_at=NOW + 3000,
        fresh_until=NOW + 5000,
        stale_until=NOW + 65_000,
    )
    made.schedule()
    return made


def filled(size: int, *digests: bytes) -> Cache:
    """A cache with an entry for each digest, put in this order."""
    cache = Cache(size, 5000)
    for digest in digests:
        assert cache.put(digest, entry(digest.decode()), cache.generation)
    return cache


class CountingLock:
    """A lock that tells when it has been taken `times` times."""

    def __init__(self, times: int) -> None:
        self._lock = threading.Lock()
        self._left = times
        self.reached = threading.Event()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._left -= 1
        if self._left == 0:
            self.reached.set()

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._lock.release()


# --- entries -------------------------------------------------------------------------------------


def test_get_what_was_put() -> None:
    """A verified key is found again, another is not."""
    cache = filled(3, b"a")
    found = cache.get(b"a")
    assert found is not None
    assert found.identity.key_id == "a"
    assert cache.get(b"b") is None


def test_least_recently_used_goes_first() -> None:
    """At most `size` keys are kept; one that is used stays."""
    cache = filled(3, b"a", b"b", b"c")
    cache.get(b"a")
    cache.put(b"d", entry(), cache.generation)
    assert len(cache) == 3
    assert [cache.get(digest) is not None for digest in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]


def test_bounded_under_churn() -> None:
    """However many keys come by, memory is bounded."""
    cache = filled(100, *(b"%d" % number for number in range(10_000)))
    assert len(cache) == 100


def test_refreshing_an_entry_does_not_evict_another() -> None:
    """A key that is looked up anew takes the place it has."""
    cache = filled(2, b"a", b"b")
    again = entry("again")
    cache.put(b"a", again, cache.generation)
    assert cache.get(b"a") is again
    assert cache.get(b"b") is not None


def test_size_zero_keeps_nothing() -> None:
    """A cache of size 0 is no cache."""
    cache = filled(0, b"a", b"b")
    assert cache.get(b"a") is None
    assert len(cache) == 0


def test_forget() -> None:
    """A key found to be no longer valid goes; to forget it twice is no error."""
    cache = filled(2, b"a")
    cache.forget(b"a")
    cache.forget(b"a")
    assert cache.get(b"a") is None


@pytest.mark.parametrize(
    ("accounts", "kept"), [({"acct_a"}, {b"b"}), (set(), {b"a", b"b"}), (None, set())]
)
def test_drop_distrusts_what_it_concerns(accounts: set[str] | None, kept: set[bytes]) -> None:
    """After a change nothing is let in by an entry of the account, not even while the store is
    away; where it is not known what has changed, by none.
    """
    cache = Cache(2, 5000)
    for digest, account_id in ((b"a", "acct_a"), (b"b", "acct_b")):
        cache.put(digest, entry(account_id=account_id), cache.generation)
    cache.drop(accounts)
    for digest in (b"a", b"b"):
        known = cache.get(digest)
        assert known is not None
        times = (known.due, known.fresh_until, known.stale_until)
        assert times == ((0, NOW + 5000, NOW + 65_000) if digest in kept else (0, 0, 0))


def test_dropped_while_it_is_scheduled() -> None:
    """An entry that one thread drops while another sets when it is next due stays dropped."""
    cache = filled(1, b"a")
    known = cache.get(b"a")
    assert known is not None
    cache.drop(None)
    known.schedule()
    cache.prolong(known, NOW + 10_000)
    assert (known.due, known.fresh_until) == (0, 0)


def test_look_up_from_before_a_drop_is_not_kept() -> None:
    """A look-up that was under way while its key was revoked does not bring it back."""
    cache = filled(2)
    before = cache.generation
    cache.drop(set())
    assert not cache.put(b"a", entry(), before)
    assert cache.get(b"a") is None
    assert cache.put(b"a", entry(), cache.generation)


def test_threads_do_not_trip_over_each_other() -> None:
    """Hits, which take no lock, go on while others put, drop and forget."""
    cache = filled(50, *(b"%d" % number for number in range(50)))
    barrier = threading.Barrier(4)

    def hit() -> None:
        for number in range(20_000):
            cache.get(b"%d" % (number % 100))

    def churn() -> None:
        for number in range(5000):
            cache.put(b"%d" % (number % 100), entry(), cache.generation)
            cache.forget(b"%d" % (number % 70))

    def drop() -> None:
        for _ in range(500):
            cache.drop({"acct_a"})

    def together(work: Callable[[], None]) -> None:
        barrier.wait()
        work()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(together, work) for work in (hit, hit, churn, drop)]:
            done.result()
    assert len(cache) <= 50


# --- refused keys --------------------------------------------------------------------------------


def test_refused_for_a_while() -> None:
    """A key that is not valid is not looked up again for `ttl`."""
    cache = Cache(10, 5000)
    cache.refuse(b"a", NOW)
    assert cache.is_refused(b"a", NOW)
    assert cache.is_refused(b"a", NOW + 4999)
    assert not cache.is_refused(b"a", NOW + 5000)
    assert not cache.is_refused(b"b", NOW)


def test_ttl_zero_refuses_nothing_from_memory() -> None:
    """Without a time to live every key is looked up each time."""
    cache = Cache(10, 0)
    cache.refuse(b"a", NOW)
    assert not cache.is_refused(b"a", NOW)


def test_refused_keys_are_bounded() -> None:
    """A flood of invented keys takes bounded memory; the latest are remembered."""
    cache = Cache(10, 5000)
    for digest in (b"first", b"second", b"first"):
        cache.refuse(digest, NOW)
    for number in range(NEGATIVE_SIZE - 1):
        cache.refuse(b"%d" % number, NOW)
    assert cache.is_refused(b"first", NOW)
    assert not cache.is_refused(b"second", NOW)
    cache.refuse(b"one more", NOW)
    assert not cache.is_refused(b"first", NOW)
    assert cache.is_refused(b"one more", NOW)
    assert len(cache._refused) == NEGATIVE_SIZE  # noqa: SLF001  # what must not grow
    assert len(cache) == 0


# --- single flight -------------------------------------------------------------------------------


def together(cache: Cache, load: Callable[[], Entry | None]) -> list[object]:
    """What each of many threads gets that ask for one key while `load` runs, errors as values."""
    lock = CountingLock(THREADS)
    cache._lock = lock  # type: ignore[assignment]  # noqa: SLF001  # tells when all have asked

    def slow() -> Entry | None:
        assert lock.reached.wait(10)
        return load()

    def ask() -> object:
        try:
            return cache.single_flight(b"a", slow)
        except OSError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return [asked.result() for asked in [pool.submit(ask) for _ in range(THREADS)]]


def test_one_load_for_all() -> None:
    """Concurrent first requests with one key make one look-up, and all get what it brings."""
    loads: list[Entry] = []

    def load() -> Entry:
        loads.append(entry())
        return loads[-1]

    assert together(Cache(10, 5000), load) == [*loads] * THREADS
    assert len(loads) == 1


def test_no_such_key_for_all() -> None:
    """None is an answer like others."""
    assert together(Cache(10, 5000), lambda: None) == [None] * THREADS


def test_error_reaches_all() -> None:
    """When the store fails, every waiting request learns of it, and the next asks anew."""
    cache = Cache(10, 5000)
    failure = OSError("away")

    def load() -> Entry:
        raise failure

    assert together(cache, load) == [failure] * THREADS
    found = entry()
    assert cache.single_flight(b"a", lambda: found) is found


def test_interruption_does_not_hang_the_others() -> None:
    """Even what ends a thread is passed on, so that nobody waits for ever."""
    cache = Cache(10, 5000)

    def load() -> Entry:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.single_flight(b"a", load)
    assert cache.single_flight(b"a", lambda: None) is None


def test_different_keys_do_not_wait_for_each_other() -> None:
    """Two keys load at the same time."""
    cache = Cache(10, 5000)
    barrier = threading.Barrier(2, timeout=10)

    def load() -> None:
        barrier.wait()

    with ThreadPoolExecutor(2) as pool:
        for asked in [pool.submit(cache.single_flight, key, load) for key in (b"a", b"b")]:
            assert asked.result() is None


def test_fork_while_loading() -> None:
    """A child forked while a thread loads a key, or holds the lock, does not wait for it."""
    out = run(
        """
        import os, threading
        from keyrush.cache import Cache

        cache = Cache(10, 5000)
        loading, forked = threading.Event(), threading.Event()

        def load():
            with cache._lock:
                loading.set()
                assert forked.wait(10)

        thread = threading.Thread(target=cache.single_flight, args=(b"a", load))
        thread.start()
        assert loading.wait(10)
        child = os.fork()
        if not child:
            cache.refuse(b"b", 0)
            assert cache.single_flight(b"a", lambda: None) is None
            print("done", flush=True)
            os._exit(0)
        forked.set()
        thread.join()
        assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert out == "done\n"
