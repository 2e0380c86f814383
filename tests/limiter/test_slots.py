"""One suite for slots wherever they are kept; with processes that are killed and stopped."""

from __future__ import annotations

import itertools
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from keyrush.core.concurrency import Want
from keyrush.limiter.ledgers.postgresql_slots import PostgresqlSlots
from keyrush.limiter.ledgers.redis.slots import RedisSlots
from keyrush.limiter.slots.mapped import MappedSlots
from keyrush.limiter.slots.memory import MemorySlots
from keyrush.limiter.slots.protocol import LEASE, RENEWAL, Slot, Slots
from keyrush.limiter.slots.shared import AwaitedSharedSlots
from keyrush.runtime.clock import REAL
from keyrush.sql.engine import Database
from tests.support.mapped import in_children
from tests.support.slots import Make, Process, World, is_full, taken

KINDS = ["file", "postgresql", "valkey", "cluster"]

#: Milliseconds in which one who is gone must have lost its slots.
LOST = 10_000

_names = itertools.count()


def maker(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """What makes slots of a kind, in whatever process."""
    if kind == "file":
        return lambda clock: MappedSlots(
            str(tmp_path / "slots"), "closed", clock.now, clock.monotonic
        )
    if kind == "postgresql":
        url = request.getfixturevalue("postgres_url")
        return lambda clock: AwaitedSharedSlots(
            PostgresqlSlots(Database(url), None if clock.is_real else clock.now), "closed", clock
        )
    url = request.getfixturevalue("valkey_url" if kind == "valkey" else "cluster_url")
    return lambda clock: AwaitedSharedSlots(
        RedisSlots(url, None if clock.is_real else clock.now), "closed", clock
    )


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Each place where processes share slots."""
    return maker(request.param, request, tmp_path)


@pytest.fixture
def world(make: Make) -> Iterator[World]:
    """Processes that share slots."""
    world = World(make)
    yield world
    world.close()


@pytest.fixture(params=["memory", *KINDS])
def slots(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Slots]:
    """Each kind, in this process."""
    if request.param == "memory":
        yield MemorySlots()
        return
    slots = maker(request.param, request, tmp_path)(REAL)
    yield slots
    slots.close()


def want(most: int = 2, key: str = "cred_a:slots") -> Want:
    """A slot of a key's."""
    return Want(key, most)


def fresh(most: int) -> Want:
    """A slot of a subject that nobody knows yet."""
    return Want(f"cred_{next(_names)}:slots", most)


# --- one process ----------------------------------------------------------------------------------


def test_as_many_as_there_are(slots: Slots) -> None:
    """Slots pass until the maximum is held; one that is given back may be taken again."""
    one, two = slots.take([want()]), slots.take([want()])
    assert isinstance(one, Slot)
    assert isinstance(two, Slot)
    assert slots.take([want()]) == want()
    slots.give_back(one)
    assert isinstance(slots.take([want()]), Slot)
    assert slots.take([want()]) == want()


def test_given_back_twice(slots: Slots) -> None:
    """A slot is given back once, however often that is said."""
    one, _ = slots.take([want()]), slots.take([want()])
    assert isinstance(one, Slot)
    slots.give_back(one)
    slots.give_back(one)
    assert isinstance(slots.take([want()]), Slot)
    assert slots.take([want()]) == want()


def test_together_or_not_at_all(slots: Slots) -> None:
    """A request that one subject refuses holds nothing of another; the answer names the one."""
    of_key, of_rule = want(5), want(1, "cred_a:/export:slots")
    both = slots.take([of_key, of_rule])
    assert isinstance(both, Slot)
    assert [slots.take([of_key, of_rule]) for _ in range(9)] == [of_rule] * 9
    assert [isinstance(slots.take([of_key]), Slot) for _ in range(5)] == [True] * 4 + [False]
    slots.give_back(both)
    assert slots.take([of_rule, of_key])
    assert slots.take([of_key]) == of_key


def test_a_maximum_that_changes(slots: Slots) -> None:
    """0 admits none; a lower maximum counts what is held, a higher one makes room."""
    assert slots.take([want(0)]) == want(0)
    held = [slots.take([want(3)]) for _ in range(3)]
    assert slots.take([want(2)]) == want(2)
    assert isinstance(slots.take([want(4)]), Slot)
    for one in held[:2]:
        assert isinstance(one, Slot)
        slots.give_back(one)
    assert slots.take([want(2)]) == want(2)
    assert isinstance(slots.take([want(3)]), Slot)


def test_nothing_wanted(slots: Slots) -> None:
    """Who wants no slot has one, which is of nothing."""
    none = slots.take([])
    assert isinstance(none, Slot)
    slots.give_back(none)


def test_closed_and_used_again(slots: Slots) -> None:
    """Closing ends all that is held; what is given back afterwards means nothing."""
    one = slots.take([want(1)])
    assert isinstance(one, Slot)
    slots.close()
    again = slots.take([want(1)])
    assert isinstance(again, Slot)
    slots.give_back(one)
    assert slots.take([want(1)]) == want(1)


def test_a_forked_child_holds_nothing(slots: Slots) -> None:
    """What a parent holds is none of its child's to give back; both take of the same."""
    one = slots.take([want()])
    assert isinstance(one, Slot)

    def child() -> int:
        slots.give_back(one)
        return isinstance(slots.take([want(1)]), Slot) + 2 * isinstance(slots.take([want()]), Slot)

    is_shared = not isinstance(slots, MemorySlots)
    assert in_children(1, child) == (2 if is_shared else 3)
    slots.give_back(one)


# --- processes ------------------------------------------------------------------------------------


def test_exact_between_processes(world: World) -> None:
    """Processes hold no more together than the maximum, and each all that the others leave."""
    one, two, three = (world.process() for _ in range(3))
    first = taken(one, want(3))
    taken(two, want(3)), taken(two, want(3))
    assert is_full(three, want(3))
    assert is_full(one, want(3))
    one.give_back(first)
    taken(three, want(3))
    assert is_full(two, want(3))


def test_a_killed_process_loses_its_slots(world: World) -> None:
    """What a process held that was killed is free within 10 seconds; what others hold is not."""
    one, two = world.process(), world.process()
    for _ in range(3):
        taken(one, want(4), want(4, "cred_b:slots"))
    taken(two, want(4))
    assert is_full(two, want(4))
    one.kill()
    world.go_on(LOST)
    for _ in range(3):
        taken(two, want(4), want(4, "cred_b:slots"))
    assert is_full(two, want(4))


def test_a_stopped_process_loses_its_slots(world: World) -> None:
    """What a stopped process holds is free within 10 seconds, and counts again when it goes on,
    beyond the maximum; each is given back once.
    """
    one, two = world.process(), world.process()
    held = [taken(one, want()), taken(one, want())]
    one.stop()
    world.go_on(LOST, one)
    others = [taken(two, want()), taken(two, want())]
    assert is_full(two, want())
    one.go_on()
    world.go_on(1)
    assert is_full(one, want(4))
    two.give_back(others[0])
    one.give_back(held[0])
    assert is_full(two, want())
    one.give_back(held[0])
    assert is_full(two, want())
    one.give_back(held[1])
    taken(two, want())
    assert is_full(one, want())


def test_a_process_that_goes_on_loses_nothing(world: World) -> None:
    """Hours go by, and what is held is held; one that starts anew takes nothing of it."""
    one, two = world.process(), world.process()
    taken(one, want(1))
    world.go_on(20 * LOST)
    assert is_full(two, want(1))
    assert is_full(world.process(), want(1))


def test_a_normal_end(world: World) -> None:
    """A process that ends well gives back what it holds, at once."""
    one, two = world.process(), world.process()
    taken(one, want(1), want(1, "cred_b:slots"))
    one.close()
    taken(two, want(1), want(1, "cred_b:slots"))


def test_many_processes_come_and_go(world: World) -> None:
    """However many were killed while they held slots, the next ones find them all."""
    wanted = fresh(2)
    for _ in range(4):
        one = world.process()
        taken(one, wanted), taken(one, wanted)
        one.kill()
        watcher = world.process()
        world.go_on(LOST)
        watcher.close()


class Model:
    """What holds slots, plainly: by process, the subjects of each that was taken."""

    def __init__(self) -> None:
        self.held: dict[Process, dict[int, tuple[Want, ...]]] = {}

    def count(self, wanted: Want) -> int:
        """Slots of a subject that are held."""
        return sum(
            one.key == wanted.key
            for its in self.held.values()
            for wants in its.values()
            for one in wants
        )


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.generate],  # a shorter schedule would cost minutes of processes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_schedules(make: Make, data: st.DataObject) -> None:
    """Whatever processes take and give back, in whatever order, some killed meanwhile: a slot is
    granted where, and only where, there is one.
    """
    world, model = World(make), Model()
    keys = [fresh(2), fresh(3)]
    try:
        for _ in range(3):
            model.held[world.process()] = {}
        for _ in range(data.draw(st.integers(1, 20))):
            process = data.draw(st.sampled_from(sorted(model.held, key=lambda one: one.pid)))
            match data.draw(st.sampled_from(["take", "take", "take", "back", "wait", "kill"])):
                case "take":
                    wants = tuple(data.draw(st.permutations(keys))[: data.draw(st.integers(1, 2))])
                    found = process.take(*wants)
                    full = [one.key for one in wants if model.count(one) >= one.most]
                    assert (found in full) if full else isinstance(found, int)
                    if isinstance(found, int):
                        model.held[process][found] = wants
                case "back" if model.held[process]:
                    number = data.draw(st.sampled_from(sorted(model.held[process])))
                    process.give_back(number)
                    del model.held[process][number]
                case "wait":
                    world.go_on(data.draw(st.integers(1, 30_000)))
                case "kill":
                    process.kill()
                    del model.held[process]
                    model.held[world.process()] = {}
                    world.go_on(LOST)
    finally:
        world.close()


# --- at once --------------------------------------------------------------------------------------


def _hold(slots: Slots, wanted: Want, cells: mmap.mmap, cell: int, turns: int) -> int:
    """Hold a slot again and again; how often more were held than there are."""
    beyond = 0
    for _ in range(turns):
        one = slots.take_at_once([wanted]) or slots.take([wanted])
        if isinstance(one, Slot):
            cells[cell] = 1
            beyond += sum(cells[:]) > wanted.most
            cells[cell] = 0
            slots.give_back(one)
    return beyond


def test_never_above_the_maximum(make: Make, request: pytest.FixtureRequest) -> None:
    """8 processes by 8 threads that all want the same: never more than there are at a time, and
    none is missing afterwards.
    """
    wanted = fresh(5)
    turns = 300 if "file" in request.node.name else 15
    cells = mmap.mmap(-1, 64)
    read, write = os.pipe()
    os.write(write, bytes(range(8)))

    def work() -> int:
        slots, (mine,) = make(REAL), os.read(read, 1)
        found: list[int] = []

        def hold(thread: int) -> None:
            found.append(_hold(slots, wanted, cells, 8 * mine + thread, turns))

        threads = [threading.Thread(target=hold, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        slots.close()
        return sum(found) if len(found) == 8 else 10**6

    assert in_children(8, work) == 0
    os.close(read)
    os.close(write)
    slots = make(REAL)
    assert all(isinstance(slots.take([wanted]), Slot) for _ in range(5))
    assert slots.take([wanted]) == wanted
    slots.close()


def test_lease_and_renewal() -> None:
    """Who is gone is noticed with a renewal of another: both together are less than 10 seconds."""
    assert (LEASE + RENEWAL) * 1000 < LOST
