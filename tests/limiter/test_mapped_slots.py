"""Slots in a file that all workers of a machine map: whatever becomes of workers and the file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from keyrush.core.concurrency import Want
from keyrush.errors import Away
from keyrush.limiter import over_file
from keyrush.limiter.ledgers.mapped import slots as records
from keyrush.limiter.ledgers.mapped.file import Unusable
from keyrush.limiter.ledgers.mapped.slots import LAYOUT, SLOT_TABLES
from keyrush.limiter.mapped import MappedLimiter
from keyrush.limiter.protocol import WELL, Outage
from keyrush.limiter.slots.mapped import MappedSlots
from keyrush.limiter.slots.protocol import RENEWAL, Slot
from keyrush.runtime.background import Job
from keyrush.runtime.clock import Clock
from tests.support.mapped import holding_byte
from tests.support.slots import START, World, is_full, outcome, taken


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "slots"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first segment of 16 records, all of one bucket."""
    monkeypatch.setattr(records, "LAYOUT", LAYOUT._replace(stripes=1))


def opened(path: Path, clock: Clock | None = None, outage: Outage = "closed") -> MappedSlots:
    """Slots in the file, by a clock that stands still unless one is given."""
    clock = clock or Clock.of(lambda: START)
    return MappedSlots(str(path), outage, clock.now, clock.monotonic)


@pytest.fixture
def slots(path: Path) -> Iterator[MappedSlots]:
    """Those of this process."""
    slots = opened(path)
    yield slots
    slots.close()


@pytest.fixture
def world(path: Path) -> Iterator[World]:
    """Other processes."""
    world = World(lambda clock: opened(path, clock))
    yield world
    world.close()


A = Want("cred_a:slots", 2)


def held(slots: MappedSlots, *wants: Want) -> Slot:
    """What is taken, which must be there."""
    found = slots.take(wants)
    assert isinstance(found, Slot)
    return found


def test_taken_at_once(slots: MappedSlots) -> None:
    """The first take of a process finds it a number, which may block; the others don't."""
    assert slots.take_at_once([A]) is None
    slots.give_back(held(slots, A))
    assert isinstance(slots.take_at_once([A]), Slot)
    assert isinstance(slots.take_at_once([A, A._replace(key="cred_b:slots")]), Slot)
    assert slots.take_at_once([A]) == A
    assert slots.state() == WELL


@pytest.mark.usefixtures("small")
def test_killed_between_any_two_steps(path: Path) -> None:
    """Wherever a process is killed in a take or as it gives back, nothing of it stays."""
    wanted = [A, A._replace(key="cred_b:slots")]
    keeper = opened(path)
    held(keeper, *wanted)

    def child(step: int) -> bool:
        """True where it was not killed."""
        if pid := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        count = 0

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal count
            if frame.f_code.co_filename == records.__file__:
                count += event == "line"
                if count > step:
                    os._exit(1)
            return trace

        its = opened(path)
        sys.settrace(trace)
        for wants in (wanted[:1], wanted[1:]):
            its.give_back(held(its, *wants))
        its.give_back(held(its, *wanted))
        os._exit(0)

    step = 0
    while not child(step):
        keeper.renew()
        one = held(keeper, *wanted)
        assert keeper.take_at_once(wanted) == A
        keeper.give_back(one)
        step += 3
    assert step > 100
    keeper.close()


def test_its_own_locks_are_lost(slots: MappedSlots, path: Path, world: World) -> None:
    """Where somebody opens and closes the file in this process, and it is taken for ended, what it
    holds counts again with its next renewal.
    """
    one = held(slots, A, A._replace(key="cred_b:slots"))
    os.close(os.open(path, os.O_RDWR))
    other = world.process()
    number = taken(other, A)  # it has the number of this one now, and its counts are cleared
    other.give_back(number)
    slots.renew()
    taken(other, A)
    assert is_full(other, A)
    slots.give_back(one)
    taken(other, A)
    assert is_full(other, A)


def test_stood_still(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A process that stood still says so, once, when it goes on; not one that holds nothing."""
    now = [START]
    slots = opened(path, Clock.of(lambda: now[0]))
    with caplog.at_level(logging.ERROR):
        one = held(slots, A)
        for step in (2_000, 2_000, 20_000, 2_000):
            now[0] += step
            slots.renew()
        (said,) = [record.getMessage() for record in caplog.records]
        assert said.startswith("its slots did not count, and do so again: TimeoutError: ")
        assert said.endswith("this process stood still for 20.0 s")
        slots.give_back(one)
        now[0] += 20_000
        slots.renew()
    assert len(caplog.records) == 1
    slots.close()


@pytest.mark.usefixtures("small")
def test_it_grows(path: Path, world: World) -> None:
    """There is a record for each subject of which slots are held, however many there are; one that
    another process has made is found.
    """
    slots = opened(path)
    subjects = [Want(f"cred_{number}:slots", 1) for number in range(100)]
    all_held = [held(slots, one) for one in subjects]
    other = world.process()
    assert all(is_full(other, one) for one in subjects)
    for slot in all_held:
        slots.give_back(slot)
    for one in subjects:
        taken(other, one)
    assert [slots.take([one]) for one in subjects] == subjects
    slots.close()


@pytest.mark.usefixtures("small")
def test_records_are_used_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subjects that come and go need no more records than are held at a time; where they take each
    other's again and again, there are more for comfort, up to a bound.
    """
    slots = opened(path)
    for number in range(500):
        slots.give_back(held(slots, Want(f"cred_{number}:slots", 1)))
    size = path.stat().st_size
    assert size == 2 * 4096
    monkeypatch.setattr(records, "RECORDS", 16)

    class Chores:
        """Does what is to be done soon at once."""

        def every(self, seconds: float, job: Job) -> None:
            """Nothing."""

        def soon(self, job: Job) -> None:
            """As it says."""
            job()

    slots.start(Chores())  # type: ignore[arg-type]  # it is asked for no more
    for number in range(5_000):
        slots.give_back(held(slots, Want(f"cred_{number}:slots", 1)))
    assert path.stat().st_size == 4096 + 15 * 4096
    slots.close()


def test_too_many_processes(
    path: Path, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More processes than there are numbers get the outage policy, and say so."""
    monkeypatch.setattr(records, "WORKERS", 1)
    one = world.process()
    taken(one, A)
    two = opened(path)
    assert outcome(lambda: two.take([A])) is Away
    assert "processes want slots" in caplog.text
    one.kill()
    held(two, A)
    two.close()


def test_a_file_that_is_deleted(slots: MappedSlots, path: Path, world: World) -> None:
    """The slots of all begin anew in another file; those of the old one mean nothing there."""
    one = held(slots, A)
    path.unlink()
    slots.look()
    two, _ = held(slots, A), held(slots, A)
    slots.give_back(one)
    assert is_full(world.process(), A)
    slots.give_back(two)


@pytest.mark.parametrize("outage", ["closed", "open"])
def test_a_lock_that_is_held(path: Path, outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: where a process was stopped as it had the lock of a subject, the outage policy holds for
    that until it goes on; what is given back needs no lock.
    """
    monkeypatch.setattr(over_file, "PATIENCE", 0.0)
    slots = opened(path, outage=outage)
    one = held(slots, A)
    table = SLOT_TABLES.open(str(path))
    stripe = table.stripe(A.key)
    SLOT_TABLES.close(table)
    apart = next(
        Want(f"cred_{n}:slots", 1) for n in range(9) if table.stripe(f"cred_{n}:slots") != stripe
    )
    with holding_byte(path, stripe):
        for _ in range(3):
            found = outcome(lambda: slots.take([A]))
            assert found is Away if outage == "closed" else isinstance(found, Slot)
        assert slots.state().is_away
        held(slots, apart)
        slots.give_back(one)
        if isinstance(found, Slot):
            slots.give_back(found)  # which nothing has counted
    slots.look()
    assert slots.state() == WELL
    held(slots, A), held(slots, A)
    assert slots.take([A]) == A
    slots.close()


def test_what_the_file_is(path: Path) -> None:
    """It is its owner's alone, and no file of windows, which is said."""
    slots = opened(path)
    assert path.stat().st_mode & 0o777 == 0o600
    slots.close()
    MappedLimiter(f"{path}-2").close()
    with pytest.raises(Unusable, match=r"the file of slots .* holds something else"):
        opened(Path(f"{path}-2"))


def test_renewed_in_the_background(slots: MappedSlots) -> None:
    """The lease is renewed by whatever does the work in the background."""

    class Chores(dict[Any, float]):
        """Notes what is to be done how often."""

        def every(self, seconds: float, job: Job) -> None:
            """As it says."""
            self[job] = seconds

    chores = Chores()
    slots.start(chores)  # type: ignore[arg-type]  # it is asked for no more
    assert chores[slots.renew] == RENEWAL
