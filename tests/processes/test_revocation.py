"""What one process changes reaches all others: three processes, each with a gate of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrush import Gate
from keyrush.authentication.cache import Entry
from keyrush.core.times import NEVER
from tests.conftest import Clock
from tests.long.chaos import ACCOUNT, Members, Place, revoked
from tests.support.faults import until
from tests.support.member import Member
from tests.support.stores import forget_proofs
from tests.support.valkey import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

TRIALS = 10


@pytest.fixture(params=["sqlite", "postgres", "valkey"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A store that tells of changes, or one that does not, beside a Valkey that does. What is
    cached is trusted for so long that only news can be why it changes.
    """
    more = {"cache_ttl": "600"}
    if request.param == "postgres":
        return Place(request.getfixturevalue("postgres_url"), more=more)
    file = f"sqlite:///{tmp_path}/keyrush.db"
    if request.param == "valkey":
        return Place(file, request.getfixturevalue("valkey_url"), more=more)
    return Place(file, more=more)


@pytest.fixture
def gate(place: Place) -> Iterator[Gate]:
    """The gate in which things are changed."""
    opened = place.gate()
    opened.accounts.create(ACCOUNT, limits="1000000/day")
    yield opened
    opened.close()


@pytest.fixture
def members(place: Place, gate: Gate) -> Iterator[Members]:
    """Three processes."""
    options = ["no-news"] if "redis" in place.limiter_url else []
    with Members(place, 3, *options) as opened:
        yield opened


def test_changes_reach_all_processes(members: Members, gate: Gate) -> None:
    """O6, R17: a revoked or retired key is refused by every process; limits, plan and rotation
    hold in every process; and none waits for the cache entry to end.
    """
    revoked(members, gate, TRIALS)
    made = gate.keys.create(ACCOUNT, "long-lived")
    members.tell("watch", made.text)
    members.until_all(made.text, lambda told: told == (200, 1_000_000))
    gate.accounts.set_limits(ACCOUNT, "2000000/day")
    members.until_all(made.text, lambda told: told == (200, 2_000_000))
    gate.keys.set_limits(made.key.id, "3000000/day")
    members.until_all(made.text, lambda told: told == (200, 3_000_000))
    gate.keys.set_limits(made.key.id, None)
    gate.accounts.set_limits(ACCOUNT, None)
    gate.accounts.set_plan(ACCOUNT, "business")
    members.until_all(made.text, lambda told: told.limit == 2_000)
    successor = gate.keys.rotate(made.key.id, grace=0)
    members.tell("watch", successor.text)
    members.until_all(made.text, lambda told: told.status == 401)
    members.until_all(successor.text, lambda told: told.limit == 2_000)


def test_ceiling_without_news(tmp_path: Path) -> None:
    """Where nothing brings news a revoked key is refused once the cache entry has ended."""
    place = Place(f"sqlite:///{tmp_path}/keyrush.db", "memory://", more={"cache_ttl": "0.5"})
    gate = place.gate()
    gate.accounts.create(ACCOUNT, limits="1000000/day")
    with Members(place, 2, "no-news") as members:
        revoked(members, gate, TRIALS, together=TRIALS)
    gate.close()


def test_busy_key_waits_for_no_refresh(tmp_path: Path, clock: Clock) -> None:
    """A key in use is looked up ahead of need: its requests find it in memory, for as long as it
    is used; argon2 is run once.
    """
    place = Place(f"sqlite:///{tmp_path}/keyrush.db", "memory://")
    gate = place.gate(clock)
    gate.accounts.create(ACCOUNT, limits="1000000/day")
    key = gate.keys.create(ACCOUNT, "busy").text
    forget_proofs(gate.store)
    gate.watch.poll()  # the first drops everything
    member = Member(gate)
    member.watch(key)
    member.ask()
    for _ in range(100):  # each a quarter of a second, together five times CACHE_TTL
        clock.advance(250)
        member.ask()
        until(lambda: all(entry.refresh_at != NEVER for entry in entries(gate)))
    assert (member.cold, member.proofs) == (1, 1)
    gate.close()


def entries(gate: Gate) -> list[Entry]:
    """The verified keys in memory."""
    return list(gate.cache._entries.values())  # noqa: SLF001  # there is no other way to see them
