"""Several subjects of a file of windows: their locks, their records, and what is added to them."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from keyrush.core.sliding import Demand, Tally, Window
from keyrush.errors import Away
from keyrush.limiter import over_file
from keyrush.limiter.ledgers.mapped import file, kernel_lock, table
from keyrush.limiter.ledgers.mapped.file import STRIPE, STRIPES
from keyrush.limiter.ledgers.mapped.records import TRIES
from keyrush.limiter.ledgers.mapped.table import Table
from keyrush.limiter.ledgers.mapped.tables import close_table, open_table
from keyrush.limiter.protocol import WELL, Outage
from tests.conftest import Clock
from tests.support.chores import Chores
from tests.support.mapped import (
    HOUR,
    MINUTE,
    NOW,
    Counted,
    content,
    holding,
    of,
    subject_apart,
    subjects_together,
    used,
    written,
)
from tests.support.mapped_limiters import Make, clock, make, path
from tests.support.scripts import run

#: Fixtures.
__all__ = ["clock", "make", "path"]


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """The locks of files that are opened from now on."""
    made: list[Counted] = []
    real = kernel_lock.kernel_lock

    def counted(descriptor: int, proof: int) -> Counted:
        made.append(Counted(real(descriptor, proof)))
        return made[-1]

    monkeypatch.setattr(file, "kernel_lock", counted)
    return made


@pytest.fixture
def opened(path: Path, locks: list[Counted]) -> Iterator[Table]:
    """The table that all limiters over the file in this process use, its locks counted."""
    found = open_table(str(path))
    yield found
    close_table(found)


def grouped(subject: str, group: str, amount: int = 10**6) -> tuple[Window, ...]:
    """The window of a rule's limit."""
    return (Window(f"{subject}|{group}:60", MINUTE, amount, "minute"),)


# --- locks and places -----------------------------------------------------------------------------


def test_groups_of_a_subject_share_its_lock(opened: Table) -> None:
    """O13: whatever a group is called, its windows go with the lock of their subject, each group in
    a bucket of its own as soon as there are several.
    """
    names = ["r", "GET /x", "a|b", "a:b", "|", ":60", ""]
    windows = [*of("key:a"), *(grouped("key:a", name)[0] for name in names)]
    assert opened.stripes(windows) == opened.stripes(of("key:a"))
    homes = {home for home, _ in opened._hashes(windows)}  # noqa: SLF001  # as below
    assert len(homes) == 1 + len(names)
    assert {STRIPE + home % STRIPES for home in homes} == set(opened.stripes(windows))
    assert len({home // STRIPES % 2**20 for home in homes}) == len(homes)


def test_a_subject_with_many_groups(make: Make, opened: Table) -> None:
    """S19: a hundred groups of one key need no more of a file than three segments, all count, and
    growth comes to an end.
    """
    limiter = make()
    for _ in range(3):
        for number in range(100):
            demands = [Demand(of("key:a"), 1), Demand(grouped("key:a", f"rule {number}"), 2)]
            limiter.take_together(demands, NOW)
    assert len(opened.file.segments) <= 4
    assert used(limiter, of("key:a"), NOW) == [300, 300]
    assert all(
        used(limiter, grouped("key:a", f"rule {number}"), NOW) == [6] for number in range(100)
    )


@pytest.mark.parametrize("order", [1, -1])
def test_locks_in_one_order(make: Make, opened: Table, locks: list[Counted], order: int) -> None:
    """O13: in whatever order subjects are asked for, their locks are taken in one, each once, when
    records have to be looked for and when they are known.
    """
    limiter = make()
    other = subject_apart(opened, "key:a")
    same = subjects_together(opened, 2)
    demands = [Demand(of(name), 1) for name in ("key:a", other, *same)][::order]
    windows = [window for demand in demands for window in demand.windows]
    (lock,) = locks
    for _ in range(2):
        lock.tried.clear()
        assert limiter.take_together(demands, NOW).admitted
        assert lock.tried == list(opened.stripes(windows))
    assert used(limiter, windows, NOW) == [2] * 8


def test_where_all_is_known_nothing_is_looked_for(
    make: Make, opened: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19: a request whose windows are known costs no hash, whatever subjects and costs it has."""
    limiter = make()
    several = [
        [Demand(of("key:a"), 1), Demand(grouped("key:a", "r"), 1)],
        [Demand(of("key:a"), 1), Demand(grouped("key:a", "r"), 5)],
        [Demand(of("key:a"), 1), Demand(grouped("account:b", "r"), 1), Demand(of("address:c"), 0)],
    ]
    for demands in several:
        limiter.take_together([demand._replace(cost=1) for demand in demands], NOW)
    monkeypatch.setattr(opened, "_hashes", None)
    for demands in several:
        assert limiter.take_together_at_once(demands, NOW)
    monkeypatch.undo()
    assert used(limiter, [*of("key:a"), *grouped("key:a", "r")], NOW) == [6, 6, 8]
    assert used(limiter, [*grouped("account:b", "r"), *of("address:c")], NOW) == [2, 1, 1]


def test_a_record_that_was_given_on(make: Make, opened: Table, clock: Clock) -> None:
    """R6: where one subject's idle record is another's by now, it is made anew beside the rest."""
    limiter = make()
    other = of(subject_apart(opened, "first"))[:1]
    subjects = subjects_together(opened, 33)
    first = of(subjects[0], 5)[:1]
    for subject in subjects[:32]:
        limiter.take(of(subject)[:1], 1, NOW)
    demands = [Demand(other, 1), Demand(first, 2)]
    limiter.take_together(demands, NOW)
    clock.advance(3 * MINUTE)
    for subject in subjects[1:]:
        limiter.take(of(subject)[:1], 1, clock.now)
    limiter.take(other, 1, clock.now)
    assert limiter.take_together_at_once(demands, clock.now) is None  # its bucket is full
    assert limiter.take_together(demands, clock.now).admitted
    assert used(limiter, [*other, *first], clock.now) == [2, 2]


# --- a kill between any two writes ----------------------------------------------------------------

#: What has been taken before, when after NOW, and then a take at this instant after NOW.
SCENES: dict[str, tuple[list[int], int]] = {
    "new subjects": ([], 0),
    "the same period": ([0], 100),
    "one period on": ([0, MINUTE], 2 * MINUTE),
    "long past": ([0], 5 * HOUR),
}


@pytest.mark.parametrize("deed", ["one cost", "several costs", "add"])
@pytest.mark.parametrize("scene", SCENES)
def test_killed_between_any_two_writes(  # noqa: PLR0917  # fixtures
    make: Make, opened: Table, clock: Clock, tmp_path: Path, scene: str, deed: str
) -> None:
    """A process may die anywhere in a take of several subjects: each window counts as before, or
    as after it, and in the end all as after it.
    """
    limiter = make()
    other = subject_apart(opened, "key:a")
    costs = (2, 2, 2) if deed != "several costs" else (1, 3, 2)
    subjects = (of("key:a"), grouped("key:a", "r"), of(other)[:1])
    demands = [Demand(*one) for one in zip(subjects, costs, strict=True)]
    windows = [window for its in subjects for window in its]
    before, at = SCENES[scene]
    for after in before:
        clock.now = NOW + after
        limiter.take_together(demands, clock.now)
    clock.now = NOW + at
    counted = used(limiter, windows, clock.now)
    homes = {home % STRIPES for home, _ in opened._hashes(windows)}  # noqa: SLF001  # to look at
    size = file.BUCKET * file.RECORD
    parts = [opened.file.segments[0][home * size : (home + 1) * size] for home in homes]
    states, last = [content(opened)], b"".join(part.tobytes() for part in parts)

    def look(frame: FrameType, event: str, arg: Any) -> Any:
        """Before every instruction: no write is of more than one."""
        nonlocal last
        if frame.f_globals["__name__"] != table.__name__:
            return None
        frame.f_trace_opcodes = True
        if (now := b"".join(part.tobytes() for part in parts)) != last:
            changed = [at for at in range(0, len(now), 8) if now[at : at + 8] != last[at : at + 8]]
            assert len(changed) == 1, "a write of more than a word"
            last = now
            states.append(content(opened))
        return look

    tracing = sys.gettrace()
    sys.settrace(look)
    try:
        if deed == "add":
            limiter.add(windows, 2, clock.now)
        else:
            assert limiter.take_together(demands, clock.now).admitted
    finally:
        sys.settrace(tracing)
    states.append(content(opened))
    each = [cost for its, cost in zip(subjects, costs, strict=True) for _ in its]
    wanted = [one + cost for one, cost in zip(counted, each, strict=True)]
    assert len(states) > len(windows)
    for number, state in enumerate(states):
        left = make(at=written(tmp_path / f"left-{number}", state))
        found = used(left, windows, clock.now)
        assert all(pair[0] in pair[1:] for pair in zip(found, counted, wanted, strict=True))
        assert left.take_together(demands, clock.now).admitted
        if number == len(states) - 1:
            assert found == wanted


# --- a lock that is held --------------------------------------------------------------------------


@pytest.mark.parametrize("is_first", [True, False], ids=["the first lock", "the last"])
@pytest.mark.parametrize(("outage", "status"), [("open", 200), ("closed", 503)])
def test_held_by_one_that_was_stopped(  # noqa: PLR0917  # fixtures
    make: Make,
    opened: Table,
    path: Path,
    locks: list[Counted],
    monkeypatch: pytest.MonkeyPatch,
    outage: Outage,
    status: int,
    *,
    is_first: bool,
) -> None:
    """S19: where the lock of one subject is held for long, the outage policy answers for the whole
    request, and nothing is taken of the others, whose own requests go on.
    """
    monkeypatch.setattr(over_file, "PATIENCE", 0.02)
    limiter = make(outage)
    names = sorted(
        ("key:a", subject_apart(opened, "key:a")), key=lambda one: opened.stripes(of(one))
    )
    held, free = names if is_first else names[::-1]
    demands = [Demand(of(held), 2), Demand(of(free), 2)]
    limiter.take_together(demands, NOW - 1)

    def answer(take: Callable[[Sequence[Demand], int], Tally | None]) -> int | None:
        try:
            tally = take(demands, NOW)
        except Away:
            return 503
        return None if tally is None else 200 if tally.admitted else 429

    (lock,) = locks
    with holding(path, held) as holder:
        lock.tried.clear()
        assert answer(limiter.take_together_at_once) is None
        assert lock.tried.count(*opened.stripes(of(held))) == TRIES
        assert answer(limiter.take_together) == status
        assert answer(limiter.take_together_at_once) == status
        assert list(opened.stuck) == list(opened.stripes(of(held)))
        assert used(limiter, of(free), NOW) == [2, 2]
        assert limiter.take_at_once(of(free), 1, NOW)
        if outage == "open":  # what passed uncounted is given back to nobody
            for windows, cost in demands:
                limiter.give_back(windows, cost, NOW)
            limiter.flush()
        holder.signal(signal.SIGKILL)
    assert limiter.take_together_at_once(demands, NOW) is not None
    assert limiter.state() == WELL
    limiter.flush()
    assert used(limiter, [*of(held), *of(free)], NOW) == [4, 4, 5, 5]


def test_waited_for_by_lock(
    make: Make, opened: Table, locks: list[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19: a process that is found to hold one lock and then another goes on, and is not taken to
    be stopped.
    """
    monkeypatch.setattr(over_file, "PATIENCE", 0.0)
    limiter, (lock,), tried = make(), locks, count()
    demands = [Demand(of("key:a"), 1), Demand(of(subject_apart(opened, "key:a")), 1)]
    first, second = opened.stripes([window for demand in demands for window in demand.windows])

    def in_turn(at: int) -> bool:
        turn = next(tried) // TRIES
        return turn >= 4 or at != (first, second)[turn % 2]

    monkeypatch.setattr(lock, "holder", lambda at: 7)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(lock, "lock", in_turn)
    assert limiter.take_together(demands, NOW).admitted
    assert limiter.state() == WELL


def test_what_is_added_while_a_lock_is_held(make: Make, path: Path) -> None:
    """S19: it waits for nothing, and is told with the next look, once."""
    limiter = make()
    limiter.take(of("key:a", 5), 1, NOW)
    with holding(path, "key:a") as holder:
        limiter.add(of("key:a", 5), 7, NOW)
        limiter.look()
        holder.signal(signal.SIGKILL)
    assert used(limiter, of("key:a"), NOW) == [1, 1]
    limiter.look()
    limiter.look()
    assert used(limiter, of("key:a"), NOW) == [8, 8]
    assert not limiter.take(of("key:a", 5), 1, NOW).admitted


# --- what is added --------------------------------------------------------------------------------


def test_added_where_there_is_no_room(
    make: Make, opened: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19: who adds waits for no larger file: one is made in the background, or as soon as there is
    room, and then it counts.
    """
    limiter, background = make(), Chores()
    limiter.start(background)
    *others, subject = subjects_together(opened, 33)
    for other in others:
        limiter.take(of(other)[:1], 1, NOW)
    background.jobs.clear()
    real = os.posix_fallocate

    def full(descriptor: int, at: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    limiter.add(of(subject)[:1], 9, NOW)
    limiter.look()
    assert [len(opened.file.segments), limiter.state()] == [1, WELL]
    monkeypatch.setattr(os, "posix_fallocate", real)
    while len(opened.file.segments) == 1:
        limiter.look()
    limiter.look()
    assert used(limiter, of(subject)[:1], NOW) == [9]


def test_added_while_there_is_no_file(make: Make, clock: Clock) -> None:
    """What is added when the file is closed is told when it is open again."""
    limiter = make()
    limiter.close()
    limiter.add(of("key:a"), 3, NOW)
    limiter.take(of("key:b"), 1, NOW)
    limiter.flush()
    assert used(limiter, of("key:a"), NOW) == [3, 3]


def test_added_too_late(make: Make, opened: Table, clock: Clock) -> None:
    """What counts no more when it is told leaves no record behind."""
    limiter = make()
    before = content(opened)
    clock.advance(2 * HOUR)
    limiter.add(of("key:a"), 3, NOW)
    assert content(opened) == before


def test_added_and_given_back_in_the_period_before(make: Make, clock: Clock) -> None:
    """R6: both go to the period that they are of, and leave the one that goes on as it is."""
    limiter = make()
    (minute, _) = of("key:a")
    limiter.take([minute], 10, NOW)
    later = NOW + MINUTE
    clock.now = later
    limiter.take([minute], 1, later)
    limiter.add([minute], 6, NOW)
    assert used(limiter, [minute], later) == [1 + 16 // 2]
    limiter.give_back([minute], 12, NOW)
    assert used(limiter, [minute], later) == [1 + 4 // 2]


def test_what_a_parent_owes(path: Path) -> None:
    """S35: a child tells nothing of what its parent has yet to tell."""
    out = run(
        """
        import os, sys
        from keyrush.limiter.mapped import MappedLimiter
        from tests.support.mapped import NOW, of, used

        limiter = MappedLimiter(sys.argv[1], clock=lambda: NOW)
        limiter.take(of("key:a"), 5, NOW)
        limiter._owed.append((of("key:a"), 2, NOW))
        limiter._owed.append((of("key:b"), -2, NOW))
        if not os.fork():
            limiter.flush()
            os._exit(0)
        os.wait()
        limiter.flush()
        print(used(limiter, of("key:a"), NOW), used(limiter, of("key:b"), NOW))
        """,
        str(path),
    )
    assert out == "[3, 3] [2, 2]\n"
