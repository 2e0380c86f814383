"""The cache of verified keys: bounds, dropping, refused keys, single flight."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from keyrush.authentication.cache import _SPARED, NEGATIVE_SIZE, Cache, Entry, Lifetime
from keyrush.core.refusal import Refusal
from keyrush.wire.request import INVALID
from tests.support.scripts import run
from tests.support.values import NOW, verified

THREADS = 20

#: Entries say whose they are, and nobody here asks it.
AUTHENTICATOR: Any = None


def entry(key_id: str = "cred_a", account_id: str = "acct_a") -> Entry:
    """A fresh entry."""
    made = Entry(
        replace(verified(key_id=key_id), account_id=account_id),
        key_id.encode(),
        AUTHENTICATOR,
        "its evidence",
        Lifetime(NOW + 3000, NOW + 5000, NOW + 65_000),
    )
    made.schedule()
    return made


def filled(size: int, *digests: bytes) -> Cache:
    """A cache with an entry for each digest, put in this order."""
    cache = Cache(size, 5000)
    for digest in digests:
        assert cache.put(digest, entry(digest.decode()), cache.generation)
    return cache


# --- entries -------------------------------------------------------------------------------------


def test_get_what_was_put() -> None:
    """A verified key is found again, another is not."""
    cache = filled(3, b"a")
    found = cache.get(b"a")
    assert found is not None
    assert found.verified.key_id == "a"
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


def test_room_is_made_in_few_steps() -> None:
    """Where every key has been used, one goes all the same, and few are looked at for it."""
    digests = [b"%d" % number for number in range(1000)]
    cache = filled(1000, *digests)
    for digest in digests:
        cache.get(digest)
    put(cache, "new", "acct_a")
    assert len(cache) == 1000
    kept = [cache._entries.get(digest) for digest in digests]  # noqa: SLF001  # `get` is a use
    assert sum(one is not None and not one.is_used for one in kept) <= _SPARED


def test_nothing_is_left_of_keys_that_were_forgotten() -> None:
    """Keys that are forgotten before the cache is full take no memory, however many."""
    cache = Cache(100, 5000)
    for number in range(1000):
        put(cache, f"cred_{number}", "acct_a")
        cache.forget(f"cred_{number}".encode())
    assert len(cache) == 0
    assert len(cache._order) <= 100  # noqa: SLF001  # nothing else tells


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


def kept_of(cache: Cache, account_id: str) -> set[str]:
    """The ids of the keys that a change of an account concerns."""
    found, one = set(), cache._first.get(account_id)  # noqa: SLF001  # nothing else tells
    while one is not None:
        found.add(one.verified.key_id)
        one = one.next
    return found


def test_a_change_concerns_what_is_kept_of_its_account() -> None:
    """However keys come, go and take each other's place, those of an account are found without
    looking at others, and nothing is left of those that are gone.
    """
    cache = Cache(4, 5000)
    for number in range(5):  # the fifth evicts the first
        put(cache, f"cred_{number}", "acct_a" if number % 2 == 0 else "acct_b")
    assert kept_of(cache, "acct_a") == {"cred_2", "cred_4"}
    assert kept_of(cache, "acct_b") == {"cred_1", "cred_3"}
    put(cache, "cred_3", "acct_a")  # it is another's now
    put(cache, "cred_4", "acct_a")
    assert kept_of(cache, "acct_a") == {"cred_2", "cred_3", "cred_4"}
    cache.forget(b"cred_1")
    assert kept_of(cache, "acct_b") == set()
    cache.forget(b"cred_3")
    cache.drop({"acct_a", "acct_b", "acct_x"})
    assert [one.fresh_until for one in entries(cache)] == [0, 0]
    for digest in (b"cred_2", b"cred_4"):
        cache.forget(digest)
    assert not cache._first  # noqa: SLF001  # what must not grow


def put(cache: Cache, key_id: str, account_id: str) -> None:
    assert cache.put(key_id.encode(), entry(key_id, account_id), cache.generation)


def entries(cache: Cache) -> list[Entry]:
    return list(cache._entries.values())  # noqa: SLF001  # what is kept


def test_accounts_under_churn() -> None:
    """What is known of accounts is bounded by the keys that are kept."""
    cache = Cache(50, 5000)
    for number in range(2000):
        put(cache, f"cred_{number * 7 % 90}", f"acct_{number % 11}")
        if number % 3 == 0:
            cache.forget(b"cred_%d" % (number % 90))
    accounts = list(cache._first)  # noqa: SLF001  # what must not grow
    assert set().union(*(kept_of(cache, one) for one in accounts)) == {
        one.verified.key_id for one in entries(cache)
    }


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


def test_one_flight_for_all() -> None:
    """Concurrent first requests with one key make one look-up, and all get what it brings."""
    cache, found, barrier = Cache(10, 5000), entry(), threading.Barrier(THREADS)

    def ask(_: int) -> tuple[bool, object]:
        flight, is_mine = cache.flight(b"a")
        barrier.wait()  # all have asked before it lands
        if is_mine:
            cache.land(b"a", flight, found)
        return is_mine, flight.result(10)

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(ask, range(THREADS)))
    assert sum(is_mine for is_mine, _ in answers) == 1
    assert {outcome for _, outcome in answers} == {found}


@pytest.mark.parametrize("outcome", [entry(), INVALID], ids=["entry", "refusal"])
def test_after_landing_the_next_asks_anew(outcome: Entry | Refusal) -> None:
    """What one look-up brought is nothing that the next is told; a refusal is an answer, too."""
    cache = Cache(10, 5000)
    flight, _ = cache.flight(b"a")
    cache.land(b"a", flight, outcome)
    assert flight.result() is outcome
    following, is_mine = cache.flight(b"a")
    assert is_mine
    assert following is not flight


def test_who_waits_can_not_cancel_it_for_the_others() -> None:
    """A request that is cancelled while it waits leaves the look-up to those who go on waiting."""
    cache, found = Cache(10, 5000), entry()
    flight, _ = cache.flight(b"a")
    assert not flight.cancel()
    cache.land(b"a", flight, found)
    assert flight.result() is found


def test_different_keys_do_not_wait_for_each_other() -> None:
    """Two keys load at the same time."""
    cache = Cache(10, 5000)
    assert cache.flight(b"a")[1]
    assert cache.flight(b"b")[1]
    assert not cache.flight(b"a")[1]


def test_fork_while_something_is_kept() -> None:
    """Of a cache that a thread changes while its process forks the child uses nothing, for a
    revocation might not find what is half kept; otherwise it goes on with all.
    """
    out = run(
        """
        import os
        from keyrush.authentication.cache import Cache
        from tests.authentication.test_cache import entry
        from tests.support.scripts import fork_while_held

        cache = Cache(10, 5000)
        cache.put(b"a", entry("a"), cache.generation)
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            print(len(cache), flush=True)
            os._exit(0)
        cache._entries[b"b"] = entry("b")  # as `put` does first

        def in_child():
            cache.drop(["acct_a"])
            known = map(cache.get, (b"a", b"b"))
            print([one for one in known if one is not None and one.fresh_until], flush=True)

        fork_while_held(cache._lock, in_child)
        """
    )
    assert out == "1\n[]\n"


def test_fork_while_loading() -> None:
    """A child forked while a thread loads a key, or holds the lock, does not wait for it."""
    out = run(
        """
        import os
        from keyrush.authentication.cache import Cache
        from keyrush.wire.request import INVALID

        cache = Cache(10, 5000)
        flight, _ = cache.flight(b"a")
        with cache._lock:
            child = os.fork()
        if not child:
            cache.refuse(b"b", 0)
            flight, is_mine = cache.flight(b"a")
            assert is_mine
            cache.land(b"a", flight, INVALID)
            print("done", flush=True)
            os._exit(0)
        cache.land(b"a", flight, INVALID)
        assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert out == "done\n"
