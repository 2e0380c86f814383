"""Floods of keys that nobody knows: what they may cost, and whom they must not hold up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from keyrush import Gate
from keyrush.core.key_text import KeyFormat
from keyrush.gate.strangers import AT_ONCE, TOLERATED
from keyrush.runtime import workers
from keyrush.store.memory import MemoryStore
from tests.conftest import Clock, settings
from tests.support.calls import Asgi, Reply, Sent, Wsgi, asgi_call, scope_of
from tests.support.stores import forget_proofs

FORMAT = KeyFormat("kr", ("live", "test"))


class SlowStore(MemoryStore):
    """Look-ups wait while `may_go` is not set; their number is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = threading.Event()
        self.may_go.set()
        self.finds = 0

    def find(self, *args: Any) -> Any:
        self.finds += 1
        assert self.may_go.wait(10)
        return super().find(*args)


class World:
    """A gate over a store that may be slow, with a key that is good and has not been used."""

    def __init__(self, clock: Clock) -> None:
        self.store = SlowStore()
        self.gate = Gate.open(
            settings(trusted_proxies="127.0.0.1", rules=[{"path": "/x", "scopes": ["a"]}]),
            store=self.store,
            clock=clock,
        )
        self.gate.accounts.create("acct_a")
        self.good = self.gate.keys.create("acct_a", "k").text

    def send(self, adapter: Any, key: str, address: str = "9.9.9.9") -> Reply:
        reply: Reply = adapter(self.gate).send(sent(key, address))
        return reply

    def flood(self, adapter: Any, number: int, address: str = "9.9.9.9") -> None:
        """So many unknown keys, one after the other."""
        for _ in range(number):
            assert self.send(adapter, unknown(), address).status == 401


def unknown() -> str:
    """A well-formed key that was never given to anybody: the checksum is public (S80)."""
    return FORMAT.mint("live").text.decode()


def sent(key: str, address: str = "9.9.9.9") -> Sent:
    return Sent("/y", [("X-API-Key", key), ("X-Forwarded-For", address)])


@pytest.fixture
def world(clock: Clock) -> Iterator[World]:
    made = World(clock)
    yield made
    made.store.may_go.set()
    made.gate.close()


both = pytest.mark.parametrize("adapter", [Asgi, Wsgi])


def test_unknown_keys_take_no_thread_from_proofs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S80: look-ups run in the I/O threads; only a key that is found is proved in the others."""
    pools: list[str] = []
    submit = world.gate.workers.submit

    def counted(pool: Any, *args: Any, **options: Any) -> Any:
        pools.append(pool)
        return submit(pool, *args, **options)

    monkeypatch.setattr(world.gate.workers, "submit", counted)
    world.flood(Asgi, 10)
    assert set(pools) == {"io"}
    pools.clear()
    forget_proofs(world.store)
    assert world.send(Asgi, world.good).status == 200
    assert pools == ["io", "hash"]


@both
def test_the_key_is_verified_before_rules_are_looked_for(
    world: World, monkeypatch: pytest.MonkeyPatch, adapter: Any
) -> None:
    """No pattern is matched for whoever has no valid key."""

    def never(*_: Any) -> Any:
        raise AssertionError("a rule was looked for")

    monkeypatch.setattr(world.gate.policy, "needs", never)
    world.flood(adapter, 3)
    assert world.send(adapter, "rubbish").status == 401


def together(world: World, keys: list[tuple[str, str]]) -> list[Reply]:
    """The answers to keys from addresses, sent at once; look-ups wait until all have been begun."""
    world.store.may_go.clear()

    async def run() -> list[Reply]:
        middleware = Asgi(world.gate).middleware
        scopes = [scope_of(sent(key, address)) for key, address in keys]
        tasks = [asyncio.create_task(asgi_call(middleware, scope)) for scope in scopes]
        await asyncio.sleep(0)  # each is now on its way to a thread, or refused
        world.store.may_go.set()
        return list(await asyncio.gather(*tasks))

    return asyncio.run(run())


def test_of_one_address_only_so_many_at_once(world: World) -> None:
    """S21, S80: of an address that has sent unknown keys only some are looked up at once; the
    rest is 429 with Retry-After, without a look-up. Others are not concerned.
    """
    world.flood(Asgi, TOLERATED + 1)
    before = world.store.finds
    replies = together(world, [(unknown(), "9.9.9.9") for _ in range(30)])
    statuses = [reply.status for reply in replies]
    assert (statuses.count(401), statuses.count(429)) == (AT_ONCE, 30 - AT_ONCE)
    assert world.store.finds - before == AT_ONCE
    refused = next(reply for reply in replies if reply.status == 429)
    assert refused["retry-after"] == "1"
    assert "x-ratelimit-limit" not in refused
    assert "www-authenticate" not in refused
    replies = together(world, [(world.good, "8.8.8.8")])
    assert [reply.status for reply in replies] == [200]


def test_a_fleet_that_starts_anew_is_not_held_up(world: World) -> None:
    """Good keys of one address are looked up all at once: only unknown ones make it suspect."""
    world.gate.accounts.create("acct_b")
    keys = [world.gate.keys.create("acct_b", f"k{n}").text for n in range(50)]
    replies = together(world, [(key, "9.9.9.9") for key in keys])
    assert {reply.status for reply in replies} == {200}


@both
def test_known_keys_are_never_strangers(world: World, clock: Clock, adapter: Any) -> None:
    """A key that was verified before is looked up again whatever its address has sent since."""
    assert world.send(adapter, world.good).status == 200
    world.flood(adapter, TOLERATED + 1)
    for _ in range(AT_ONCE):
        assert world.gate.finishing.strangers.enter("9.9.9.9")
    assert world.send(adapter, unknown()).status == 429
    clock.advance(6000)  # past CACHE_TTL
    assert world.send(adapter, world.good).status == 200


def test_queues_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: where too many calls wait for a thread, one more is 503 with Retry-After, at once; what
    gives back is done all the same.
    """
    monkeypatch.setattr(workers, "MAX_CALLS", 5)
    replies = together(world, [(unknown(), f"9.9.9.{n}") for n in range(20)])
    statuses = [reply.status for reply in replies]
    assert (statuses.count(401), statuses.count(503)) == (5, 15)
    assert next(reply for reply in replies if reply.status == 503)["retry-after"] == "1"
    monkeypatch.setattr(workers, "MAX_CALLS", 0)
    done = world.gate.workers.submit("io", lambda: "done", must=True)
    assert done.result(10) == "done"


@both
def test_unknown_keys_are_remembered_within_bounds(world: World, adapter: Any) -> None:
    """An unknown key that comes again costs no look-up, for CACHE_TTL."""
    key = unknown()
    for _ in range(5):
        assert world.send(adapter, key).status == 401
    assert world.store.finds == 1


@both
def test_the_address_is_looked_for_only_where_it_matters(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch, adapter: Any
) -> None:
    """X-Forwarded-For is read for a key that was never seen here, and for the log, and else not."""
    assert world.send(adapter, world.good).status == 200

    def never(*_: Any) -> Any:
        raise AssertionError("the address was looked for")

    monkeypatch.setattr(world.gate, "address", never)
    assert world.send(adapter, world.good).status == 200
    clock.advance(6000)  # past CACHE_TTL
    assert world.send(adapter, world.good).status == 200
