"""Windows in a file that all workers of a machine map: exact whatever becomes of any of them.

What every limiter does is tried in test_limiters; the long forms are in `tests.long.mapped`.
"""

from __future__ import annotations

import builtins
import errno
import logging
import mmap
import os
import signal
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from keyrush import Gate
from keyrush.core.sliding import UNLIMITED, Tally, Window
from keyrush.errors import Away, ConfigurationError
from keyrush.limiter import over_file
from keyrush.limiter.ledgers.mapped import file, kernel_lock, records, table
from keyrush.limiter.ledgers.mapped.file import PAGE, STRIPES, MappedFile, Unusable
from keyrush.limiter.ledgers.mapped.kernel_lock import HoldingGil, KernelLock, Lockf
from keyrush.limiter.ledgers.mapped.records import FEW_TRIES, TRIES
from keyrush.limiter.ledgers.mapped.table import Table
from keyrush.limiter.ledgers.mapped.tables import close_table, open_table
from keyrush.limiter.mapped import MappedLimiter
from keyrush.limiter.memory import MemoryLimiter
from keyrush.limiter.opening import open_limiter
from keyrush.limiter.protocol import WELL, Outage
from keyrush.sql.engine import Database
from tests.conftest import Clock, settings
from tests.support.calls import Asgi, Sent, Wsgi, asgi_call, scope_of
from tests.support.calls import run as call
from tests.support.chores import Chores
from tests.support.mapped import (
    HOUR,
    MINUTE,
    NOW,
    Counted,
    bucket,
    content,
    holding,
    is_free,
    of,
    subject_apart,
    subjects_together,
    used,
    word,
    written,
)
from tests.support.mapped_limiters import Make, clock, make, path
from tests.support.running import Runner
from tests.support.scripts import run

#: Fixtures.
__all__ = ["clock", "make", "path"]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the GIL is kept on Linux alone")


@pytest.fixture
def background() -> Chores:
    """Work that waits for the test."""
    return Chores()


@pytest.fixture
def opened(path: Path) -> Iterator[Table]:
    """The table that all limiters over the file in this process use."""
    found = open_table(str(path))
    yield found
    close_table(found)


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """The locks of files that are opened from now on."""
    made: list[Counted] = []
    real = kernel_lock.kernel_lock

    def counted(descriptor: int, proof: int) -> KernelLock:
        made.append(Counted(real(descriptor, proof)))
        return made[-1]

    monkeypatch.setattr(file, "kernel_lock", counted)
    return made


# --- exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", ["kept", "lockf"])
def test_processes_and_threads(path: Path, lock: str) -> None:
    """S35: of 8 processes by 8 threads on one key exactly the limit passes, by either way to lock,
    whether each opens the file or all are forked from one that has.
    """
    out = run(
        """
        import sys
        from tests.support.mapped import by_lockf, compete

        if sys.argv[2] == "lockf":
            by_lockf()
        print(compete(sys.argv[1] + "-own", 1500, 30, is_inherited=False))
        print(compete(sys.argv[1] + "-inherited", 1500, 30, is_inherited=True))
        """,
        str(path),
        lock,
    )
    assert out == "1500\n1500\n"


class Step(NamedTuple):
    """What is done next."""

    moved: int  #: of the clock, in milliseconds
    subject: int
    amounts: tuple[int, int]
    cost: int
    given_back: int | None  #: how long ago it was taken, where it is given back


def steps_of(moves: st.SearchStrategy[int]) -> st.SearchStrategy[list[Step]]:
    amounts = st.tuples(st.integers(0, 9), st.integers(0, 30))
    ago = st.none() | st.integers(0, 3 * MINUTE)
    step = st.builds(Step, moves, st.integers(0, 2), amounts, st.integers(0, 3), ago)
    return st.lists(step, max_size=60)


@examples(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps_of(
        st.integers(0, 5)
        | st.integers(0, 2 * MINUTE)
        | st.integers(-MINUTE // 2, 0)
        | st.sampled_from([HOUR, 3 * HOUR, -3 * MINUTE])
    )
)
def test_as_in_memory(tmp_path: Path, steps: list[Step]) -> None:
    """R6: whatever is taken and given back, by whatever clock, each answer is as in memory."""
    clock = Clock()
    path = tmp_path / f"windows-{next(_numbers)}"
    limiter, expected = MappedLimiter(str(path), clock=clock), MemoryLimiter(clock)
    for step in steps:
        clock.advance(step.moved)
        minute, hour = step.amounts
        windows = of(f"key:{step.subject}", minute, hour)
        if step.given_back is None:
            assert limiter.take(windows, step.cost, clock.now) == expected.take(
                windows, step.cost, clock.now
            )
        elif limiter.counts(clock.now - step.given_back):
            limiter.give_back(windows, step.cost, clock.now - step.given_back)
            expected.give_back(windows, step.cost, clock.now - step.given_back)
    limiter.close()


_numbers = count()


def test_two_new_windows_in_one_take(make: Make, opened: Table) -> None:
    """O13: each has a record of its own, though neither had one when the other looked for it."""
    limiter = make()
    limiter.take(of("key:a"), 1, NOW)
    limiter.take(of("key:a")[:1], 2, NOW)
    assert used(limiter, of("key:a"), NOW) == [3, 1]
    assert sum(1 for tag in bucket(opened, "key:a")[::4].tolist() if tag) == 2


def test_a_new_window_leaves_an_idle_one_its_record(make: Make, clock: Clock) -> None:
    """A record that counts no more is free, but not where it is of another window of the take."""
    limiter = make()
    minute, hour = of("key:a")
    limiter.take([minute], 1, NOW)
    clock.advance(3 * MINUTE)
    limiter.take([hour, minute], 1, clock.now)
    limiter.take([hour], 1, clock.now)
    assert used(limiter, [minute, hour], clock.now) == [1, 2]


def test_windows_of_several_subjects(make: Make, opened: Table, locks: list[Counted]) -> None:
    """O13: all their locks are held, in one order, and all or none is taken."""
    limiter = make()
    other = subject_apart(opened, "key:a")
    windows = [*of("key:a", 5), *of(other, 2)]
    assert [limiter.take(windows, 1, NOW).admitted for _ in range(3)] == [True, True, False]
    assert used(limiter, windows, NOW) == [2, 2, 2, 2]
    assert list(opened.stripes(windows)) == sorted(set(opened.stripes(windows)))
    assert len(opened.stripes(windows)) == 2


def test_nothing_is_written_where_nothing_is_taken(make: Make, opened: Table) -> None:
    """S35: neither a look nor a refusal leaves a record behind."""
    limiter = make()
    before = content(opened)
    limiter.take(of("key:a", 5), 0, NOW)
    limiter.take(of("key:a", 5), 6, NOW)
    limiter.give_back(of("key:a"), 1, NOW)
    assert content(opened) == before


def test_nobody_is_named(make: Make, opened: Table) -> None:
    """O22: of a key there is a hash under a seed of the file's own, unlike that of any other."""
    make().take(of("key:cred_abc"), 1, NOW)
    assert b"cred_abc" not in content(opened)
    other = make(at=Path(f"{opened.file.path}-2"))
    assert open_table(f"{opened.file.path}-2").file.seed != opened.file.seed
    other.close()


def test_a_record_that_was_given_on(make: Make, opened: Table, clock: Clock) -> None:
    """R6: where another's idle record was given to a new window, its own is made anew, and who
    comes late with its `now` is counted as of now.
    """
    limiter = make()
    subjects = subjects_together(opened, 33)
    for subject in subjects[:32]:
        limiter.take(of(subject)[:1], 1, NOW)
    clock.advance(3 * MINUTE)
    for subject in subjects[1:]:
        limiter.take(of(subject)[:1], 1, clock.now)
    first = of(subjects[0], 5)[:1]
    assert [limiter.take(first, 5, NOW).admitted, limiter.take(first, 5, clock.now).admitted] == [
        True,
        False,
    ]
    assert len(opened.file.segments) == 2


# --- a kill between any two writes ----------------------------------------------------------------


class Scene(NamedTuple):
    """What was taken, and then a take that may be interrupted."""

    before: list[tuple[int, int]]  #: when, after NOW, and how much
    at: int  #: after NOW


#: Of windows of a minute and an hour.
SCENES = {
    "a new subject": Scene([], 0),
    "the same period": Scene([(0, 5)], 100),
    "one period on": Scene([(0, 5)], MINUTE),
    "one period on, with two before": Scene([(0, 5), (MINUTE, 3)], 2 * MINUTE),
    "two periods on": Scene([(0, 5), (MINUTE, 3)], 3 * MINUTE),
    "the hour too": Scene([(0, 5), (MINUTE, 3)], HOUR),
    "all long past": Scene([(0, 5)], 5 * HOUR),
    "the clock set back": Scene([(10 * MINUTE, 5)], 0),
}


@pytest.mark.parametrize("scene", SCENES)
def test_killed_between_any_two_writes(
    make: Make, opened: Table, clock: Clock, tmp_path: Path, scene: str
) -> None:
    """A process may die anywhere in a take: each window counts as before, or one more, and in the
    end one more in each.
    """
    limiter = make()
    windows = of("key:a")
    for after, cost in SCENES[scene].before:
        clock.now = NOW + after
        limiter.take(windows, cost, clock.now)
    clock.now = NOW + SCENES[scene].at
    before = used(limiter, windows, clock.now)
    states = [content(opened)]
    words = bucket(opened, "key:a")
    last = words.tobytes()

    def look(frame: FrameType, event: str, arg: Any) -> Any:
        """Before every instruction: no write is of more than one."""
        nonlocal last
        if frame.f_globals["__name__"] != table.__name__:
            return None
        frame.f_trace_opcodes = True
        if (now := words.tobytes()) != last:
            changed = [
                one for one in range(0, len(now), 8) if now[one : one + 8] != last[one : one + 8]
            ]
            assert len(changed) == 1, "a write of more than a word"
            last = now
            states.append(content(opened))
        return look

    tracing = sys.gettrace()
    sys.settrace(look)
    try:
        assert limiter.take(windows, 1, clock.now).admitted
    finally:
        sys.settrace(tracing)
    states.append(content(opened))
    found = []
    for number, state in enumerate(states):
        left = make(at=written(tmp_path / f"left-{number}", state))
        found.append(used(left, windows, clock.now))
        assert left.take(windows, 1, clock.now).admitted
        assert used(left, windows, clock.now) == [count + 1 for count in found[-1]]
    assert len(found) > 3
    assert found[0] == before
    assert found[-1] == [one + 1 for one in before]
    assert all(
        one in ([a, b], [a + 1, b], [a, b + 1], [a + 1, b + 1])
        for one in found
        for a, b in [before]
    )


# --- a lock that is held --------------------------------------------------------------------------


@pytest.mark.parametrize(("outage", "status"), [("open", 200), ("closed", 503), ("local", 503)])
def test_held_by_one_that_was_stopped(  # noqa: PLR0917  # fixtures
    make: Make,
    path: Path,
    locks: list[Counted],
    monkeypatch: pytest.MonkeyPatch,
    outage: Outage,
    status: int,
) -> None:
    """S19: the loop tries a lock a few times and waits for nothing; whoever may wait does, for a
    moment; then the outage policy holds for the subjects of that lock alone, until it is free.
    """
    limiter = make(outage)
    opened = open_table(str(path))
    windows, others = of("key:a", 5), of(subject_apart(opened, "key:a"))
    limiter.take(windows, 2, NOW)

    def answer(take: Callable[[Sequence[Window], int, int], Tally | None]) -> int | None:
        try:
            tally = take(windows, 1, NOW)
        except Away:
            return 503
        return None if tally is None else 200 if tally.admitted else 429

    monkeypatch.setattr(over_file, "PATIENCE", 0.02)
    with holding(path, "key:a") as holder:
        (lock,) = locks
        lock.tried.clear()
        assert answer(limiter.take_at_once) is None
        assert len(lock.tried) == TRIES
        limiter.give_back(windows, 1, NOW)
        assert limiter.state() == WELL
        assert answer(limiter.take) == status
        assert limiter.state().is_away
        lock.tried.clear()
        assert [answer(limiter.take_at_once) for _ in range(9)] == [status] * 9
        assert answer(limiter.take) == status
        assert len(lock.tried) == 10 * FEW_TRIES
        assert limiter.take_at_once(others, 1, NOW)
        limiter.look()
        assert limiter.state().meanwhile == ("open" if outage == "open" else "closed")
        holder.signal(signal.SIGKILL)
    assert limiter.take_at_once(windows, 0, NOW) is not None
    assert limiter.state() == WELL
    limiter.flush()
    assert used(limiter, windows, NOW) == [1, 1]
    close_table(opened)


def test_the_loop_goes_on_beside_one_that_was_stopped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19: a request whose lock is held waits in a thread, and the loop serves others meanwhile."""
    monkeypatch.setattr(over_file, "PATIENCE", 60.0)
    monkeypatch.setattr(over_file, "LONGEST", 60.0)
    subjects: list[str] = []
    waited: set[threading.Thread] = set()
    real_take, real_sleep = MappedLimiter.take_at_once, time.sleep

    def take(self: MappedLimiter, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        subjects.append(windows[0].key.rpartition(":")[0])
        return real_take(self, windows, cost, now)

    def sleep(seconds: float) -> None:
        waited.add(threading.current_thread())
        real_sleep(seconds)

    monkeypatch.setattr(MappedLimiter, "take_at_once", take)
    gate = Gate.open(settings(limiter_url=f"file://{path}"))
    middleware = Asgi(gate).middleware
    sent = []
    for account in ("acct_a", "acct_b"):
        gate.accounts.create(account, limits="1000000/day")
        sent.append(Sent("/", [("X-API-Key", gate.keys.create(account, "k").text)]))

    async def ask(which: int) -> int:
        return (await asgi_call(middleware, scope_of(sent[which]))).status

    async def main() -> None:
        for which in (0, 1, 0, 1):  # so that both are known
            assert await ask(which) == 200
        monkeypatch.setattr(time, "sleep", sleep)
        with holding(path, subjects[-2]) as holder:
            statuses: list[int] = []

            async def held() -> None:
                statuses.append(await ask(0))

            async with anyio.create_task_group() as group:
                group.start_soon(held)
                while not waited:
                    assert await ask(1) == 200
                    await anyio.lowlevel.checkpoint()  # a warm request lets nobody else go on
                assert statuses == []
                holder.signal(signal.SIGKILL)
            assert statuses == [200]

    call(main())
    assert threading.current_thread() not in waited
    gate.close()


@pytest.mark.parametrize("is_forked", [False, True], ids=["alone", "with a child"])
def test_killed_while_it_held_a_lock(make: Make, path: Path, *, is_forked: bool) -> None:
    """The lock goes with the process, also where a child of it lives on."""
    limiter = make()
    with holding(path, "key:a", is_forked=is_forked) as holder:
        assert limiter.take_at_once(of("key:a"), 1, NOW) is None
        holder.signal(signal.SIGKILL)
        assert limiter.take_at_once(of("key:a"), 1, NOW)


def test_found_free_in_the_background(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that nobody asks for any more is looked at, so that `health` tells the truth."""
    monkeypatch.setattr(over_file, "PATIENCE", 0.0)
    limiter = make()
    with holding(path, "key:a") as holder:
        with pytest.raises(Away):
            limiter.take(of("key:a"), 1, NOW)
        limiter.look()
        assert limiter.state().is_away
        holder.signal(signal.SIGKILL)
    limiter.look()
    assert limiter.state() == WELL


def test_waited_for(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A take that may wait is answered as soon as the lock is free."""
    limiter = make()
    with holding(path, "key:a") as holder:
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                holder.signal(signal.SIGKILL)

        monkeypatch.setattr(time, "sleep", pause)
        assert limiter.take(of("key:a"), 1, NOW).admitted
    assert pauses == sorted(pauses)
    assert limiter.state() == WELL


def test_passed_on(make: Make, locks: list[Counted], monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: a lock that busy processes pass on to each other is waited for longer, and when that
    takes too long, nobody is taken to be stopped.
    """
    monkeypatch.setattr(over_file, "PATIENCE", 0.0)
    limiter, (lock,), seen, tried = make(), locks, count(), count()
    monkeypatch.setattr(lock, "holder", lambda at: next(seen) % 2)
    monkeypatch.setattr(lock, "lock", lambda at: next(tried) > 5 * TRIES)
    assert limiter.take(of("key:a"), 1, NOW).admitted
    monkeypatch.setattr(lock, "lock", lambda at: False)
    monkeypatch.setattr(over_file, "LONGEST", 0.0)
    with pytest.raises(Away):
        limiter.take(of("key:a"), 1, NOW)
    assert limiter.state() == WELL


def test_who_holds_a_lock(path: Path, opened: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says which process has a lock; where that can't be asked it may be any."""
    (stripe,) = opened.stripes(of("key:a"))
    assert opened.file.lock.holder(stripe) is None
    with holding(path, "key:a") as holder:
        assert opened.file.lock.holder(stripe) == holder.pid
        monkeypatch.setattr(kernel_lock, "_IS_KNOWN", False)
        assert opened.file.lock.holder(stripe) == 0


def test_what_passed_uncounted_is_not_given_back(
    make: Make, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S35: what the outage policy let pass was taken from nothing, so none of it comes back."""
    monkeypatch.setattr(over_file, "PATIENCE", 0.0)
    limiter = make("open")
    limiter.take(of("key:a"), 2, NOW)
    clock.advance(1)
    with holding(path, "key:a"):
        limiter.take(of("key:a"), 1, clock.now)
    limiter.give_back(of("key:a"), 1, clock.now)
    assert used(limiter, of("key:a"), clock.now) == [2, 2]


@on_linux
def test_the_gil_is_kept(path: Path) -> None:
    """S35: a take lets no other thread in, which would keep the machine's lock for milliseconds."""
    out = run(
        """
        import sys, threading
        from keyrush.limiter.mapped import MappedLimiter
        from tests.support.mapped import NOW, of

        limiter = MappedLimiter(sys.argv[1])
        limiter.take(of("key:a"), 1, NOW)
        begin, count = threading.Event(), 0

        def busy():
            global count
            begin.wait()
            while count < 100_000:
                count += 1

        thread = threading.Thread(target=busy)
        thread.start()
        sys.setswitchinterval(60)  # nobody is asked to let others in
        begin.set()
        before = count
        for _ in range(500):
            limiter.take_at_once(of("key:a"), 1, NOW)
        print(count - before)
        thread.join()
        """,
        str(path),
    )
    assert out == "0\n"


@on_linux
def test_locks_are_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The faster way to lock is used where the kernel says that it locks; else the plain one."""
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert isinstance(kernel_lock.kernel_lock(descriptor, 7), HoldingGil)
    monkeypatch.setattr(HoldingGil, "lock", lambda self, at: True)
    assert isinstance(kernel_lock.kernel_lock(descriptor, 7), Lockf)
    monkeypatch.undo()
    monkeypatch.setattr(HoldingGil, "unlock", lambda self, at: None)
    assert isinstance(kernel_lock.kernel_lock(descriptor, 7), Lockf)
    monkeypatch.undo()
    monkeypatch.setattr(kernel_lock, "_IS_KNOWN", False)
    assert isinstance(kernel_lock.kernel_lock(descriptor, 7), Lockf)
    os.close(descriptor)


# --- one file in a process ------------------------------------------------------------------------


def test_two_gates_and_doctor_in_one_process(
    path: Path, opened: Table, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    """S35: the locks of a process last while others in it open and close the same file."""
    url = f"file://{path}"
    gates = [Gate.open(settings(limiter_url=url)) for _ in range(2)]
    assert opened.file.lock.lock(*opened.stripes(of("key:a")))
    monkeypatch.setenv("KEYRUSH_LIMITER_URL", url)
    command = Runner(monkeypatch, capsys, tmp_path)
    found = command("doctor", "--json").json["findings"]
    assert [one["level"] for one in found if one["about"] == "limits"] == ["ok"]
    gates[0].close()
    assert not is_free(path, "key:a")
    opened.file.lock.unlock(*opened.stripes(of("key:a")))
    assert is_free(path, "key:a")
    gates[1].close()


@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
def test_gates_share_the_windows(path: Path, tmp_path: Path, adapter: Any) -> None:
    """R6: what one gate has admitted counts in another; `health` says that all is well."""
    values = {"limiter_url": f"file://{path}", "store_url": f"sqlite:///{tmp_path}/keyrush.db"}
    gates = [Gate.open(settings(**values)) for _ in range(2)]
    gates[0].accounts.create("acct_a", limits="3/day")
    sent = Sent("/", [("X-API-Key", gates[0].keys.create("acct_a", "k").text)])
    statuses = [adapter(gate).send(sent).status for _ in range(3) for gate in gates]
    assert statuses == [200, 200, 200, 429, 429, 429]
    assert gates[0].health().is_well
    for gate in gates:
        gate.close()


@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
def test_windows_beside_the_store(tmp_path: Path, adapter: Any) -> None:
    """R6: by default the windows of a SQLite store are in a file beside it, its owner's alone; one
    file, whatever link leads to the store.
    """
    Gate.open(settings(store_url=f"sqlite:///{tmp_path}/keyrush.db")).close()
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(tmp_path / "keyrush.db")
    pepper = (tmp_path / "keyrush.pepper").read_text().strip()
    gates = [
        Gate.open(settings(store_url=f"sqlite:///{name}", pepper=pepper))
        for name in (tmp_path / "keyrush.db", link)
    ]
    gates[0].accounts.create("acct_a", limits="3/day")
    sent = Sent("/", [("X-API-Key", gates[0].keys.create("acct_a", "k").text)])
    statuses = [adapter(gate).send(sent).status for _ in range(3) for gate in gates]
    assert statuses == [200, 200, 200, 429, 429, 429]
    (found,) = tmp_path.rglob("*-windows")
    assert found.name == "keyrush.db-windows"
    assert found.stat().st_mode & 0o777 == 0o600
    for gate in gates:
        gate.close()


def test_a_store_without_a_file() -> None:
    """Where SQLite has no file, each process counts by itself."""
    found = open_limiter("store", Database("sqlite:///file::memory:?uri=true"))
    assert isinstance(found.limiter, MemoryLimiter)
    assert not found.is_shared


def test_closed_and_used_again(make: Make) -> None:
    """`close` lets go of the file; the next take that may wait opens it again."""
    limiter = make()
    limiter.take(of("key:a"), 2, NOW)
    limiter.close()
    limiter.close()
    assert limiter.take_at_once(of("key:a"), 1, NOW) is None
    assert limiter.take(of("key:a"), 1, NOW).admitted
    assert used(limiter, of("key:a"), NOW) == [3, 3]


def test_closed_by_one_of_two(make: Make) -> None:
    """The file is open for as long as somebody uses it."""
    first, second = make(), make()
    first.take(of("key:a"), 1, NOW)
    first.close()
    assert second.take_at_once(of("key:a"), 1, NOW)
    assert used(second, of("key:a"), NOW) == [2, 2]


def test_whoever_takes_from_a_closed_table(make: Make) -> None:
    """A take that was about to begin as the file was closed touches nothing, and is begun anew."""
    limiter = make()
    opened = open_table(limiter.path)
    limiter.close()
    close_table(opened)
    with pytest.raises(records.Held):
        opened.take(of("key:a"), 1, NOW, lambda: NOW)
    with pytest.raises(file.NoRoom):
        opened.enlarge(1)


# --- larger ---------------------------------------------------------------------------------------


def test_it_grows(make: Make, opened: Table) -> None:
    """A full bucket sends whoever can't wait away, and is no more than a segment for who can."""
    limiter = make()
    subjects = subjects_together(opened, 40)
    for subject in subjects:
        at_once = limiter.take_at_once(of(subject)[:1], 1, NOW)
        assert (at_once is None) is (subject == subjects[32])
        if at_once is None:
            assert limiter.take(of(subject)[:1], 1, NOW).admitted
    assert len(opened.file.segments) == 2
    assert [used(limiter, of(subject)[:1], NOW) for subject in subjects] == [[1]] * 40


class Calls:
    """What was called that reserves, extends or maps, and by which thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[threading.Thread] = []
        for module, name in ((os, "posix_fallocate"), (os, "pwrite"), (os, "ftruncate")):
            monkeypatch.setattr(module, name, self._noting(getattr(module, name)))
        monkeypatch.setattr(mmap, "mmap", self._noting(mmap.mmap))

    def _noting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any, **named: Any) -> Any:
            self.threads.append(threading.current_thread())
            return real(*arguments, **named)

        return noting


def test_it_grows_ahead_of_need(
    make: Make, opened: Table, monkeypatch: pytest.MonkeyPatch, background: Chores
) -> None:
    """S19: the next segment is made in the background, a megabyte at a time and by turns with what
    else is done there, before a take needs it: none waits for it, or makes any of it.
    """
    limiter = make()
    limiter.start(background)
    calls = Calls(monkeypatch)
    subjects = subjects_together(opened, 40)
    for subject in subjects[:28]:
        assert limiter.take_at_once(of(subject)[:1], 1, NOW)
    assert not background.jobs
    for subject in subjects[28:32]:
        assert limiter.take_at_once(of(subject)[:1], 1, NOW)
    assert calls.threads == []
    assert len(background.jobs) == 1
    background.work()
    assert [len(opened.file.segments), len(background.jobs)] == [1, 1]
    background.work()
    assert [len(opened.file.segments), len(background.jobs)] == [2, 0]
    made = len(calls.threads)
    for subject in subjects[32:]:
        assert limiter.take_at_once(of(subject)[:1], 1, NOW)
    assert made == len(calls.threads) == 5  # two megabytes are reserved and written, one map
    assert not background.jobs


def test_grown_by_who_needed_it(make: Make, opened: Table, background: Chores) -> None:
    """What a take had to make by itself is not made once more ahead of the next need."""
    limiter = make()
    limiter.start(background)
    for subject in subjects_together(opened, 33):
        limiter.take_at_once(of(subject)[:1], 1, NOW) or limiter.take(of(subject)[:1], 1, NOW)
    assert len(opened.file.segments) == 2
    background.work()
    assert [len(opened.file.segments), len(background.jobs)] == [2, 0]


def test_growth_ahead_that_fails(
    make: Make, opened: Table, monkeypatch: pytest.MonkeyPatch, background: Chores
) -> None:
    """S19: where there is no room yet, nobody is told, for nothing is wrong; it is tried again with
    each look, and what was begun is gone on with.
    """
    limiter = make()
    limiter.start(background)
    real, calls = os.posix_fallocate, count()

    def full(descriptor: int, at: int, size: int) -> None:
        if next(calls) in {1, 2}:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, at, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    for subject in subjects_together(opened, 32):
        limiter.take_at_once(of(subject)[:1], 1, NOW)
    background.work()
    background.work()
    assert not background.jobs
    limiter.look()
    assert [len(opened.file.segments), limiter.state()] == [1, WELL]
    limiter.look()
    assert len(opened.file.segments) == 2
    assert next(calls) == 4


def test_grown_by_another_process(make: Make, opened: Table, path: Path) -> None:
    """S19: a segment that another process has added is mapped by who may wait, and what has its
    records there is found.
    """
    limiter = make()
    subjects = subjects_together(opened, 33)
    for subject in subjects[:32]:
        limiter.take_at_once(of(subject)[:1], 1, NOW)
    code = """
        import sys
        from keyrush.limiter.mapped import MappedLimiter
        from tests.support.mapped import NOW, of

        MappedLimiter(sys.argv[1], clock=lambda: NOW).take(of(sys.argv[2])[:1], 2, NOW)
        """
    run(code, str(path), subjects[32])
    assert len(opened.file.segments) == 1
    assert limiter.take_at_once(of(subjects[0])[:1], 1, NOW)
    assert limiter.take_at_once(of(subjects[32])[:1], 1, NOW) is None
    assert used(limiter, of(subjects[32])[:1], NOW) == [2]
    assert limiter.take_at_once(of(subjects[32])[:1], 1, NOW)


def test_a_segment_mapped_while_a_window_is_looked_for(
    make: Make, opened: Table, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O13: a window that another process has in a segment that a thread maps just now is not begun
    once more where a record has become free before that.
    """
    limiter = make()
    *others, subject = subjects_together(opened, 33)
    clock.now = NOW - 2 * MINUTE
    for other in others:
        limiter.take_at_once(of(other)[:1], 1, clock.now)
    code = """
        import sys
        from keyrush.limiter.mapped import MappedLimiter
        from tests.support.mapped import MINUTE, NOW, of

        MappedLimiter(sys.argv[1], clock=lambda: NOW - MINUTE).take(
            of(sys.argv[2])[:1], 4, NOW - MINUTE
        )
        """
    run(code, str(path), subject)
    clock.now = NOW
    find = Table._find  # noqa: SLF001  # between it and what follows is what this is about

    def find_and_map(its: Table, *wanted: Any) -> Any:
        found = find(its, *wanted)
        its.file.enlarge(1, threading.Lock())
        return found

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Table, "_find", find_and_map)
        assert limiter.take_at_once(of(subject)[:1], 1, NOW) is None
    limiter.take(of(subject)[:1], 1, NOW)
    assert used(limiter, of(subject)[:1], NOW) == [4 // 2 + 1]


def test_nothing_in_the_background_waits_for_who_enlarges_it(
    make: Make, opened: Table, clock: Clock, background: Chores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19: where another process was stopped, or a thread waits, as it made the file larger, what
    else is done in the background goes on.
    """
    limiter = make()
    limiter.start(background)
    subjects = subjects_together(opened, 33)
    for subject in subjects[:32]:
        limiter.take_at_once(of(subject)[:1], 1, NOW)
    monkeypatch.setattr(opened.file.lock, "lock", lambda at: at != file.ENLARGING)
    with monkeypatch.context() as at_once:
        at_once.setattr(file, "PATIENCE", 0.0)
        with pytest.raises(Away):
            limiter.take(of(subjects[32])[:1], 1, NOW)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    background.work()
    limiter.look()
    clock.advance(1001)  # when whoever could not be served is thought of again
    limiter.look()
    assert limiter.state().is_away
    assert waits == []


def test_a_part_that_was_left(opened: Table) -> None:
    """Who was killed as it made the file larger leaves a part, which the next one goes on with."""
    opened.filling = 1
    assert not opened.enlarge_ahead()
    half = Path(opened.file.path).stat().st_size
    assert half == PAGE + 2 * 1024 * STRIPES
    opened.file.check_whole()
    opened.enlarge(1)
    assert Path(opened.file.path).stat().st_size == PAGE + 3 * 1024 * STRIPES
    assert not any(opened.file.segments[1])


def test_processes_that_grow_it_together(path: Path) -> None:
    """Each subject is counted once and for all, whoever makes the file larger meanwhile."""
    out = run(
        """
        import sys
        from keyrush.limiter.ledgers.mapped.tables import open_table
        from keyrush.limiter.mapped import MappedLimiter
        from tests.support.mapped import NOW, in_children, of, subjects_together, used

        subjects = subjects_together(open_table(sys.argv[1]), 90)

        def work():
            limiter = MappedLimiter(sys.argv[1], clock=lambda: NOW)
            return sum(limiter.take(of(one, 3), 1, NOW).admitted for one in subjects)

        print(in_children(4, work), len(open_table(sys.argv[1]).file.segments))
        limiter = MappedLimiter(sys.argv[1], clock=lambda: NOW)
        print(sum(used(limiter, of(one, 3), NOW) == [3, 3] for one in subjects))
        print(len(open_table(sys.argv[1]).file.segments))
        """,
        str(path),
    )
    taken, mapped_before, found, segments = out.split()
    assert (taken, mapped_before, found) == ("270", "1", "90")
    assert int(segments) > 1


def test_threads_that_grow_it_together(opened: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks know no threads, so that of these one enlarges the file and the others wait."""
    real, begun = os.posix_fallocate, threading.Event()
    threads: list[threading.Thread] = []
    calls: list[int] = []

    def other() -> None:
        begun.set()
        opened.enlarge(1)

    def reserve(descriptor: int, at: int, size: int) -> None:
        calls.append(at)
        if not threads:
            threads.append(threading.Thread(target=other))
            threads[0].start()
            assert begun.wait(10)
        real(descriptor, at, size)

    monkeypatch.setattr(os, "posix_fallocate", reserve)
    opened.enlarge(1)
    threads[0].join()
    assert calls == [PAGE + 1024 * STRIPES, PAGE + 2 * 1024 * STRIPES]


def test_churn_leaves_it_bounded(make: Make, opened: Table, clock: Clock) -> None:
    """10,000 keys that come once each, 500 of which count at a time, need one segment."""
    limiter = make()
    for number in range(10_000):
        clock.advance(4)
        limiter.take([Window(f"key:{number}:1", 1000, 5, "second")], 1, clock.now)
    assert len(opened.file.segments) == 1


def test_what_is_remembered_is_bounded(
    make: Make, monkeypatch: pytest.MonkeyPatch, opened: Table
) -> None:
    """Where records are is remembered of so many subjects; the others are found again."""
    monkeypatch.setattr(table, "REMEMBERED", 3)
    monkeypatch.setattr(table, "FORGOTTEN", 1)
    limiter = make()
    subjects = [f"key:{number}" for number in range(10)]
    for subject in subjects * 2:
        limiter.take_at_once(of(subject), 1, NOW)
    assert [used(limiter, of(subject), NOW) for subject in subjects] == [[2, 2]] * 10


def test_who_comes_once_is_not_remembered(
    make: Make, monkeypatch: pytest.MonkeyPatch, opened: Table
) -> None:
    """S19: a flood of addresses that come once has no known window forgotten, and takes no memory;
    one that comes again is remembered.
    """
    monkeypatch.setattr(table, "REMEMBERED", 8)
    limiter = make()
    for _ in range(2):
        limiter.take(of("key:a"), 1, NOW)
    for number in range(100):
        limiter.take(of(f"address:{number}")[:1], 1, NOW)
    known = opened._places  # noqa: SLF001  # it alone
    assert len(known) == 4
    assert "key:a:60" in known
    limiter.take(of("address:99")[:1], 1, NOW)
    assert "address:99:60" in known


def test_to_forget_the_oldest_costs_little(opened: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that is one too many costs no more where many have been forgotten before it."""
    monkeypatch.setattr(table, "REMEMBERED", 20_000)
    numbers = count()
    spent = []
    for _ in range(60):
        began = time.thread_time()
        for number in islice(numbers, 1_000):
            opened._remember({f"key:{number}:60": (1, 0, 0, 0)})  # noqa: SLF001  # it alone
        spent.append(time.thread_time() - began)
    typical = sorted(spent[:20])[10]  # while there is room
    assert sorted(spent[20:])[20] < 5 * typical


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_window_takes_in_the_process(make: Make, opened: Table, count: int) -> None:
    """Of a window that is known, no more than 80 bytes are kept: its text is the key's own."""
    limiter = make()
    fleet = [of(f"key:{number}")[:count] for number in range(2000)]
    limiter.take(fleet[0], 1, NOW)
    tracemalloc.start()
    for windows in fleet:
        limiter.take(windows, 1, NOW)
    # What other threads and modules hold on to meanwhile is no window's.
    here = tracemalloc.Filter(inclusive=True, filename_pattern=table.__file__)
    kept = tracemalloc.take_snapshot().filter_traces([here]).statistics("filename")
    tracemalloc.stop()
    assert 40 <= sum(one.size for one in kept) / (2000 * count) <= 80
    assert len(opened.file.segments) == 1


def test_a_subject_beside_another_than_before(
    locks: list[Counted], make: Make, opened: Table
) -> None:
    """O13: though places of both are remembered, the locks of both are held, not the first's."""
    limiter = make()
    (minute, hour), (other, _) = of("key:a"), of(subject_apart(opened, "key:a"))
    for windows in ([minute, hour], [minute, hour], [other]):
        limiter.take(windows, 1, NOW)
    tried = locks[-1].tried
    tried.clear()
    limiter.take([minute, other], 1, NOW)
    assert tried[-2:] == list(opened.stripes([minute, other]))
    assert used(limiter, [minute, hour, other], NOW) == [3, 2, 2]


def test_other_windows_of_a_subject(make: Make) -> None:
    """R6: where a key's limits change, each of its windows is counted where it was."""
    limiter = make()
    minute, hour = of("key:a")
    day = Window("key:a:86400", 24 * HOUR, 10**6, "day")
    for windows in ([minute, hour], [minute], [hour, minute], [minute, day], [minute, hour]):
        limiter.take(windows, 1, NOW)
    assert used(limiter, [minute, hour, day], NOW) == [5, 3, 1]


@pytest.mark.parametrize(("outage", "passes"), [("open", True), ("closed", False)])
def test_a_full_disk(  # noqa: PLR0917  # fixtures
    make: Make,
    opened: Table,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    outage: Outage,
    passes: bool,
) -> None:
    """S19: where the file can't grow, known subjects go on, new ones get the outage policy at once,
    and growth is tried again.
    """
    limiter = make(outage)
    subjects = subjects_together(opened, 34)
    real = os.posix_fallocate
    calls: list[int] = []

    def full(descriptor: int, at: int, size: int) -> None:
        calls.append(at)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for subject in subjects[:32]:
        assert limiter.take_at_once(of(subject)[:1], 1, NOW)
    new = of(subjects[32], 1)[:1]
    for take in (limiter.take, limiter.take_at_once, limiter.take):
        if passes:
            assert take(new, 1, NOW) == Tally(True, new[0], 1, NOW + 30_000)
        else:
            with pytest.raises(Away):
                take(new, 1, NOW)
    assert len(calls) == 1
    assert limiter.take_at_once(of(subjects[0])[:1], 1, NOW)
    assert limiter.state().is_away
    clock.advance(1001)
    assert limiter.take_at_once(new, 1, NOW) is None
    limiter.look()
    assert limiter.state().is_away
    monkeypatch.setattr(os, "posix_fallocate", real)
    clock.advance(1001)
    limiter.look()
    assert limiter.state() == WELL
    assert limiter.take_at_once(of(subjects[33])[:1], 1, clock.now)


def test_a_limit_of_the_file_size(path: Path) -> None:
    """S19: what the system refuses is an outage for new subjects, and no signal that kills."""
    out = run(
        """
        import resource, sys
        from keyrush.limiter.ledgers.mapped.file import Unusable
        from keyrush.limiter.ledgers.mapped.tables import open_table
        from keyrush.limiter.mapped import MappedLimiter
        from keyrush.errors import Away
        from tests.support.mapped import NOW, of, subjects_together

        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, most))
        try:
            MappedLimiter(sys.argv[1])
        except Unusable as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, most))
        limiter = MappedLimiter(sys.argv[1], clock=lambda: NOW)
        admitted = 0
        for subject in subjects_together(open_table(sys.argv[1]), 33):
            try:
                admitted += limiter.take(of(subject)[:1], 1, NOW).admitted
            except Away:
                print(admitted, "of them, then", limiter.state().meanwhile)
        """,
        str(path),
    )
    assert out.splitlines() == [
        f"the file of windows {path} can't be used: File too large",
        "32 of them, then closed",
    ]


def test_as_large_as_it_can_be(make: Make, opened: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: beyond the last segment new subjects get the outage policy."""
    monkeypatch.setattr(file, "MOST", 1)
    limiter = make()
    for subject in subjects_together(opened, 33):
        windows = of(subject)[:1]
        if limiter.take_at_once(windows, 1, NOW) is None:
            with pytest.raises(Away):
                limiter.take(windows, 1, NOW)
    assert limiter.state().is_away


def test_another_is_growing_it(
    make: Make, opened: Table, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19: who finds another process at it for too long, as one that was stopped, gives up; and so
    does one that starts.
    """
    monkeypatch.setattr(file, "PATIENCE", 0.0)
    monkeypatch.setattr(opened.file.lock, "lock", lambda at: at != file.ENLARGING)
    with pytest.raises(file.NoRoom, match="too long"):
        opened.enlarge(1)

    def held(*arguments: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "held")

    monkeypatch.setattr("fcntl.lockf", held)
    with pytest.raises(Unusable, match="too long"):
        MappedFile(f"{path}-2")


# --- files ----------------------------------------------------------------------------------------


def whole(path: Path) -> bytes:
    """What is in a new file."""
    close_table(open_table(str(path)))
    data = path.read_bytes()
    path.unlink()
    return data


def foreign(path: Path) -> None:
    written(path, b"\0" * 8 + b"something else" * 1000)


def of_another_format(path: Path) -> None:
    data = whole(path)
    written(path, data[:8] + word(99) + data[16:])


def cut_short(path: Path) -> None:
    written(path, whole(path)[:100_000])


def cut_to_nearly_nothing(path: Path) -> None:
    written(path, whole(path)[:100])


def with_a_wild_count(path: Path) -> None:
    data = whole(path)
    written(path, data[:32] + word(2**60) + data[40:])


def readable_by_others(path: Path) -> None:
    written(path, whole(path)).chmod(0o640)


def a_link(path: Path) -> None:
    target = path.with_name("target")
    close_table(open_table(str(target)))
    path.symlink_to(target)


def a_pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


WRONG = {
    foreign: "something else",
    of_another_format: "another format",
    cut_short: "cut short",
    cut_to_nearly_nothing: "cut short",
    with_a_wild_count: "cut short",
    readable_by_others: "0600",
    a_link: "symbolic link",
    a_pipe: "no regular file",
    Path.mkdir: "it is a folder",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda made: made.__name__)
def test_a_file_that_can_not_be_used(path: Path, wrong: Callable[[Path], None]) -> None:
    """Start-up says what is wrong with a file, and leaves it as it is."""
    wrong(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(ConfigurationError, match=WRONG[wrong]) as caught:
        open_limiter(f"file://{path}")
    assert f"KEYRUSH_LIMITER_URL: the file of windows {path}" in str(caught.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_no_folder(path: Path) -> None:
    """Start-up says that a folder is missing."""
    with pytest.raises(Unusable, match="its folder does not exist"):
        open_table(f"{path}/file")


def test_a_file_of_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody counts in a file that somebody else may write, or has laid there."""
    whole(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Unusable, match=r"another user.*file:///"):
        open_table(str(path))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EMFILE])
def test_a_file_that_can_not_be_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A read-only folder, a missing right: start-up says what the system says."""

    def refuse(*arguments: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Unusable, match=os.strerror(number)):
        open_table(str(path))


def test_no_locks_on_the_file_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start-up says that a file system has no locks."""

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.raises(Unusable, match=os.strerror(errno.ENOLCK)):
        open_table(str(path))


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: bytes(5000), id="a part of it reserved"),
        pytest.param(lambda data: bytes(len(data)), id="all of it reserved"),
        pytest.param(lambda data: bytes(8) + data[8:], id="no magic yet"),
        pytest.param(lambda data: bytes(8) + data[8:PAGE], id="a header alone"),
    ],
)
def test_killed_while_it_made_the_file(
    path: Path, make: Make, left: Callable[[bytes], bytes]
) -> None:
    """What a process left that was killed as it made the file is made anew."""
    written(path, left(whole(path)))
    assert make().take(of("key:a"), 1, NOW).admitted
    assert path.stat().st_size == PAGE + STRIPES * 1024
    assert path.stat().st_mode & 0o777 == 0o600


def test_processes_that_make_it_together(path: Path) -> None:
    """S35: of many that start at once one makes the file, and all count in the same."""
    out = run(
        """
        import sys
        from keyrush.limiter.mapped import MappedLimiter
        from tests.support.mapped import NOW, admitted, in_children, of

        def work():
            limiter = MappedLimiter(sys.argv[1], clock=lambda: NOW)
            return admitted(limiter, 1, 2, of("key:a", 9))

        print(in_children(8, work))
        """,
        str(path),
    )
    assert out == "9\n"


# --- a file that goes -----------------------------------------------------------------------------


def test_deleted(make: Make, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that was deleted is made anew, and the log says that all begins anew."""
    limiter = make()
    limiter.take(of("key:a", 2), 2, NOW)
    limiter.look()
    path.unlink()
    assert not limiter.take(of("key:a", 2), 1, NOW).admitted
    limiter.look()
    assert "begin anew" in caplog.text
    assert limiter.take_at_once(of("key:a", 2), 1, NOW)
    assert limiter.state() == WELL
    assert path.exists()


def test_replaced(make: Make, path: Path, clock: Clock) -> None:
    """A file that was replaced by another of windows is left for that one, and what was taken from
    the first is not given back to the other.
    """
    limiter, other = make(), make(at=Path(f"{path}-2"))
    limiter.take(of("key:a"), 2, NOW)
    other.take(of("key:a"), 5, NOW)
    Path(f"{path}-2").rename(path)
    clock.advance(1)
    limiter.look()
    assert used(limiter, of("key:a"), clock.now) == [5, 5]
    limiter.give_back(of("key:a"), 2, NOW)
    assert used(limiter, of("key:a"), clock.now) == [5, 5]


@pytest.mark.parametrize("outage", ["open", "closed"])
@pytest.mark.parametrize("wrong", [foreign, of_another_format, cut_short])
def test_replaced_by_what_can_not_be_used(
    make: Make, path: Path, clock: Clock, outage: Outage, wrong: Callable[[Path], None]
) -> None:
    """S19: then the outage policy holds for all, until there is a file again."""
    limiter = make(outage)
    limiter.take(of("key:a"), 2, NOW)
    path.unlink()
    wrong(path)
    limiter.look()
    for take in (limiter.take_at_once, limiter.take):
        if outage == "open":
            assert take(of("key:a", 5), 1, NOW) == Tally(True, of("key:a", 5)[0], 5, NOW + 30_000)
        else:
            with pytest.raises(Away):
                take(of("key:a"), 1, NOW)
    limiter.give_back(of("key:a"), 1, NOW)
    clock.advance(1)
    assert limiter.state().meanwhile == outage
    path.unlink()
    clock.advance(1001)
    limiter.look()
    assert limiter.state() == WELL
    assert limiter.take_at_once(of("key:a"), 1, clock.now)
    assert used(limiter, of("key:a"), clock.now) == [1, 1]


def test_cut_short_under_a_running_process(make: Make, path: Path, clock: Clock) -> None:
    """S19: what is beyond the end is touched no more once it is noticed, and nothing is reset."""
    limiter, other = make(), make()
    os.truncate(path, 10_000)
    for one in (limiter, other):
        one.look()
        with pytest.raises(Away):
            one.take(of("key:a"), 1, NOW)
    assert path.stat().st_size == 10_000
    path.unlink()
    clock.advance(1001)
    for one in (limiter, other):
        one.look()
        assert one.take_at_once(of("key:a"), 1, clock.now)
    assert used(limiter, of("key:a"), clock.now) == [2, 2]


def test_two_versions_at_once(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of another format refuses the file, and those that use it go on undisturbed."""
    limiter = make()
    limiter.take(of("key:a"), 2, NOW)
    out = run(
        """
        import sys
        from keyrush.limiter.ledgers.mapped import file

        file.VERSION = 2
        try:
            file.MappedFile(sys.argv[1])
        except file.Unusable as error:
            print(error)
        """,
        str(path),
    )
    assert "it is of another format than this keyrush's, which is 2" in out
    limiter.look()
    assert used(limiter, of("key:a"), NOW) == [2, 2]


# --- opening --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["file:", "file://", "file://host/a", "file://a/b", "file:///a?mode=x", "file:///a#b"]
)
def test_what_names_no_file(place: str) -> None:
    """A file is named by its whole path, on this machine."""
    with pytest.raises(ConfigurationError, match="KEYRUSH_LIMITER_URL"):
        open_limiter(place)


def test_a_path_with_spaces(tmp_path: Path) -> None:
    """A path is written as in any URL."""
    limiter = open_limiter(f"file://{tmp_path}/my%20windows").limiter
    assert repr(limiter) == f"the file {tmp_path}/my windows"
    assert (tmp_path / "my windows").exists()
    limiter.close()


def test_where_there_are_no_such_locks(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On Windows each process counts by itself, and start-up says so."""
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "keyrush.limiter.mapped":
            raise ModuleNotFoundError("No module named 'fcntl'", name="fcntl")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    found = open_limiter(f"file://{path}")
    assert isinstance(found.limiter, MemoryLimiter)
    assert not found.is_shared
    assert "each counts alone" in caplog.text


def test_start_says_where(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The line at start-up names the file, and no mode, which it has none of."""
    caplog.set_level(logging.INFO, "keyrush")
    Gate.open(settings(limiter_url=f"file://{path}")).close()
    assert f"limits in file://{path}; " in caplog.text


def test_nothing_wanted_at_once(make: Make) -> None:
    """Where nothing limits, everything passes."""
    limiter = make()
    assert limiter.take_at_once((), 1, NOW) == UNLIMITED
    limiter.give_back((), 1, NOW)
