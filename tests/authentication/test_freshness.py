"""Freshness is proved for all keys at once: while the store's news are complete, nothing is looked
up because time has passed; and what they name, or when they are away, is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from keyrush import Gate
from keyrush.authentication.cache import Entry
from keyrush.core.refusal import Refusal
from keyrush.errors import StoreError
from keyrush.sql.changes import LOOK
from keyrush.wire.request import Credential
from tests.conftest import Clock, settings, still

TTL = 5000  # milliseconds
FLEET = 20


class Fleet:
    """Keys, each of an account of its own, that come again and again; and what it costs."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.gate = still(Gate.open(settings(store_url=url, pepper="x" * 32), clock=clock))
        self.clock = clock
        for number in range(FLEET):
            self.gate.accounts.create(f"acct_{number}")
        self.keys = [self.gate.keys.create(f"acct_{number}", "k") for number in range(FLEET)]
        self.look_ups = 0
        find = self.gate.store.find

        def counted(*asked: Any) -> Any:
            self.look_ups += 1
            return find(*asked)

        self.gate.store.find = counted  # type: ignore[method-assign,assignment]  # to be counted

    def come(self, among: Sequence[int] = range(FLEET)) -> list[int]:
        """Have keys come once; those that are let in."""
        verify = self.gate.finishing.verification.verify
        found = {number: verify(Credential(self.keys[number].text.encode())) for number in among}
        assert all(isinstance(one, Entry | Refusal) for one in found.values())
        return [number for number, one in found.items() if isinstance(one, Entry)]

    def spend(self, milliseconds: int, *, is_polled: bool = True) -> None:
        """Let time pass, with the news asked for as often as every second."""
        for _ in range(milliseconds // 1000):
            self.clock.advance(1000)
            if is_polled:
                self.gate.watch.poll()
            self.come()

    def news_fail(self) -> None:
        """From now on the news can't be had."""
        changes = self.gate.watch._changes[0]  # noqa: SLF001  # a fault to inject

        def poll() -> None:
            raise StoreError("away")

        changes.poll = poll  # type: ignore[method-assign]  # a fault


@pytest.fixture
def fleet(url: str, clock: Clock) -> Iterator[Fleet]:
    """A fleet whose keys are all known, over SQLite and PostgreSQL."""
    made = Fleet(url, clock)
    made.gate.watch.poll()
    assert made.come() == list(range(FLEET))
    assert made.look_ups == FLEET
    yield made
    made.gate.close()


def test_steady_state_asks_nothing(fleet: Fleet) -> None:
    """A fleet in use makes no look-up in three times to live."""
    fleet.spend(3 * TTL)
    assert fleet.look_ups == FLEET
    assert not fleet.gate.background._queue  # noqa: SLF001  # nor is any to be made


def test_idle_keys_are_good_when_they_come_again(fleet: Fleet) -> None:
    """A key that nobody has used for long needs no look-up either."""
    for _ in range(100):
        fleet.clock.advance(1000)
        fleet.gate.watch.poll()
    assert len(fleet.come()) == FLEET
    assert fleet.look_ups == FLEET


def test_what_is_named_is_looked_up(fleet: Fleet) -> None:
    """A key that another process revokes is refused once the news are heard, and nobody else is
    looked up.
    """
    other = Gate.open(settings(store_url=fleet.gate.settings.store_url, pepper="x" * 32))
    other.keys.revoke(fleet.keys[3].key.id)
    other.close()
    fleet.clock.advance(int(LOOK * 1000))
    fleet.spend(TTL)
    assert 3 not in fleet.come()
    assert fleet.look_ups == FLEET + 1


def test_without_news_each_key_has_its_own_time(fleet: Fleet) -> None:
    """Where the news are away, keys are looked up as they were without news: each once in its
    time, and those that are in use ahead of need.
    """
    fleet.spend(2 * TTL)
    assert fleet.look_ups == FLEET
    fleet.news_fail()
    fleet.clock.advance(TTL + 1)
    fleet.gate.watch.poll()
    fleet.come()
    assert fleet.look_ups == 2 * FLEET
    fleet.come()
    assert fleet.look_ups == 2 * FLEET
    fleet.clock.advance(TTL + 1)
    fleet.come()
    assert fleet.look_ups == 3 * FLEET


def test_news_that_stand_still(fleet: Fleet) -> None:
    """S19: where nobody asks for news any more, or the asking hangs, nothing is good for longer
    than the time to live.
    """
    fleet.spend(2 * TTL)
    fleet.gate.store.revoke(fleet.keys[0].key.id, fleet.clock.now)  # as another process does
    fleet.clock.advance(TTL)
    assert 0 not in fleet.come()


def test_dropped_is_not_brought_back(fleet: Fleet) -> None:
    """An entry that was dropped is good for nothing, whatever the news say afterwards."""
    fleet.gate.cache.drop({"acct_0"})
    fleet.clock.advance(TTL - 1)
    fleet.gate.watch.poll()
    fleet.come()
    assert fleet.look_ups == FLEET + 1


def test_last_use_of_a_key_that_came_once(fleet: Fleet) -> None:
    """O4: `last_used_at` is that of the first request, too, though no other follows."""
    fleet.gate.flush()
    kept = [fleet.gate.keys.get(made.key.id) for made in fleet.keys]
    assert {key.last_used_at for key in kept} == {fleet.clock.now}


def test_last_use_of_a_fleet(fleet: Fleet) -> None:
    """O4: of a key in use `last_used_at` is written every 30 to 60 seconds, not with each flush;
    and of keys that have begun together not all together.
    """
    written: list[int] = []
    add = fleet.gate.store.add_usage

    def seen(month: str, increments: Any, batch: Any, used: Any) -> Any:
        written.append(len(used))
        return add(month, increments, batch, used)

    fleet.gate.flush()
    fleet.gate.store.add_usage = seen  # type: ignore[method-assign,assignment]  # to be counted
    for _ in range(120):
        fleet.spend(1000)
        fleet.gate.flush()
    assert 2 * FLEET <= sum(written) <= 4 * FLEET
    assert max(written) < FLEET / 2
    kept = [fleet.gate.keys.get(made.key.id) for made in fleet.keys]
    assert max(fleet.clock.now - (key.last_used_at or 0) for key in kept) < 60_000


def test_an_idle_fleet_costs_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no request comes the store is asked nothing but for news, and now and then for activity
    that is too old, however many keys are known; and when there was one, one write follows.
    """
    fleet.gate.flush()
    asked: list[str] = []
    store = fleet.gate.store
    for name in [name for name in dir(type(store)) if not name.startswith("_")]:
        method = getattr(store, name)
        if callable(method):

            def counted(*args: Any, name: str = name, method: Any = method) -> Any:
                asked.append(name)
                return method(*args)

            monkeypatch.setattr(store, name, counted)
    jobs = [job for _, job in fleet.gate.background._jobs]  # noqa: SLF001  # as its thread does
    for _ in range(3):
        fleet.clock.advance(1000)
        for job in jobs:
            job()
    assert asked == ["forget_activity"]  # once a minute, of all keys together
    asked.clear()
    fleet.clock.advance(60_000)
    fleet.gate.watch.poll()
    fleet.come()
    for job in jobs:
        job()
    assert sorted(asked) == ["add_usage", "forget_activity"]


def test_end_of_a_key_needs_no_news(fleet: Fleet) -> None:
    """O4: a key that expires is refused from that instant on, however fresh it is."""
    ends = fleet.clock.now + 3000
    made = fleet.gate.keys.create("acct_0", "short", expires_at=ends)
    verify = fleet.gate.finishing.verification.verify
    assert isinstance(verify(Credential(made.text.encode())), Entry)
    fleet.clock.advance(2999)
    fleet.gate.watch.poll()
    entry = verify(Credential(made.text.encode()))
    assert isinstance(entry, Entry)
    fleet.clock.advance(1)
    assert not fleet.gate.finishing.verification.note_use(entry, fleet.clock.now)


def test_stores_without_complete_news(clock: Clock) -> None:
    """A store whose news need not be complete, or that has none, is asked each time to live."""
    fleet = Fleet("memory://", clock)
    fleet.come()
    fleet.clock.advance(TTL)
    fleet.gate.watch.poll()
    fleet.come()
    assert fleet.look_ups == 2 * FLEET
    fleet.gate.close()
