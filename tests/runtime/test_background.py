"""The daemon thread: jobs again and again, others once, and nothing ends it but `close`."""

from __future__ import annotations

import itertools
import threading

import pytest

from keyrush.runtime.background import Background
from tests.support.faults import until
from tests.support.scripts import run

#: Seconds after which a job is taken to be forgotten.
PATIENCE = 60


class Count:
    """A job that counts its runs, and says when it has run so often."""

    def __init__(self, until: int = 1) -> None:
        self.runs = 0
        self.reached = threading.Event()
        self._until = until

    def __call__(self) -> None:
        self.runs += 1
        if self.runs >= self._until:
            self.reached.set()


def test_again_and_again() -> None:
    """A job runs at once and then every so often, and no more after `close`."""
    background = Background()
    often, seldom = Count(3), Count()
    background.every(0.001, often)
    background.every(3600, seldom)
    background.start()
    assert often.reached.wait(PATIENCE)
    background.close()
    runs = often.runs
    assert seldom.runs == 1
    assert often.runs == runs
    assert background.thread is None


def test_soon() -> None:
    """What is queued starts the thread, and runs before long, in order."""
    background = Background()
    background.every(3600, Count())
    ran: list[int] = []
    last = Count()
    for number in range(5):
        background.soon(lambda number=number: ran.append(number))  # type: ignore[misc]  # mypy can't infer it
    background.soon(last)
    assert last.reached.wait(PATIENCE)
    assert ran == list(range(5))
    background.close()


def test_failing_jobs(caplog: pytest.LogCaptureFixture) -> None:
    """A job that raises is logged, and costs the others nothing."""
    background = Background()
    often = Count(3)

    def broken() -> None:
        raise ZeroDivisionError

    background.every(0.001, broken)
    background.every(0.001, often)
    background.soon(broken)
    assert often.reached.wait(PATIENCE)
    background.close()
    assert "work in the background failed: ZeroDivisionError" in caplog.text


def test_closed_from_within() -> None:
    """A job may close what runs it."""
    background = Background()
    done = Count()

    def end() -> None:
        background.close()
        done()

    background.soon(end)
    assert done.reached.wait(PATIENCE)
    assert background.thread is None


def test_starts_again() -> None:
    """Closed twice is closed; afterwards it starts when it is needed."""
    background = Background()
    background.close()
    for _ in range(2):
        done = Count()
        background.soon(done)
        assert done.reached.wait(PATIENCE)
        background.close()
        background.close()


def test_one_thread() -> None:
    """However many start it at once, there is one thread."""
    before = set(threading.enumerate())  # of gates that other tests have left open
    background = Background()
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        background.start()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    named = {thread for thread in threading.enumerate() if thread.name == "keyrush"}
    assert named - before == {background.thread}
    background.close()


def test_a_job_that_comes_late() -> None:
    """What is to be repeated may be added while the thread runs."""
    background = Background()
    first, second = Count(), Count(3)
    background.every(0.001, first)
    background.start()
    assert first.reached.wait(PATIENCE)
    background.every(0.001, second)
    assert second.reached.wait(PATIENCE)
    background.close()


def test_wakes_up_for_many_jobs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of different intervals fall in with the one that is the most frequent: the thread wakes
    up no more often than for that alone, and none runs late.
    """
    now, waits, ended = [0.0], [0], threading.Event()
    background = Background(lambda: now[0])

    def wait(seconds: float) -> bool:
        if now[0] >= 10:
            ended.set()
            return background.thread is None or threading.Event().wait(0.001)
        waits[0] += 1
        now[0] += seconds
        return False

    monkeypatch.setattr(background._wake, "wait", wait)  # noqa: SLF001  # time goes by in it
    runs: list[list[float]] = [[], [], [], []]
    for seconds, ran, took in zip((0.05, 0.25, 1, 1), runs, (0.0002, 0, 0.03, 0.0001), strict=True):

        def job(ran: list[float] = ran, took: float = took) -> None:
            ran.append(now[0])
            now[0] += took

        background.every(seconds, job)
    background.start()
    assert ended.wait(PATIENCE)
    background.close()
    assert waits[0] <= len(runs[0]) <= 210
    assert [len(ran) for ran in runs[1:]] == [pytest.approx(42, abs=3), 10, 10]
    for seconds, ran in zip((0.05, 0.25, 1, 1), runs, strict=True):
        longest = max(later - earlier for earlier, later in itertools.pairwise(ran))
        assert longest <= seconds + 0.031


def test_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing to repeat the thread waits rather than spins."""
    background = Background()
    waits: list[float | None] = []
    wake = background._wake  # noqa: SLF001  # nothing else tells that it waits
    wait = wake.wait

    def noted(timeout: float | None = None) -> bool:
        waits.append(timeout)
        return wait(timeout)

    monkeypatch.setattr(wake, "wait", noted)
    background.soon(Count())
    until(lambda: waits)
    background.close()
    assert all(timeout is None or timeout > 0.1 for timeout in waits)


def test_jobs_that_queue_themselves() -> None:
    """They keep no other from running, nor the thread from ending."""
    background = Background()
    rounds, other = Count(100), Count(3)
    ended = threading.Event()

    def again() -> None:
        rounds()
        if not ended.is_set():
            background.soon(again)

    background.every(0.0, other)
    background.soon(again)
    assert rounds.reached.wait(PATIENCE)
    assert other.reached.wait(PATIENCE)
    thread = background.thread
    background.close()
    assert thread is not None
    assert not thread.is_alive()
    ended.set()
    while background.thread is not None:  # started by a job that was under way at the close
        background.close()


@pytest.mark.parametrize("way", ["start", "soon"])
def test_started_while_it_closes(way: str) -> None:
    """Closing waits for the job under way, and runs nothing of what is queued behind it. Who
    comes meanwhile starts a new thread; the old one ends all the same.
    """
    background = Background()
    begun, goes_on = threading.Event(), threading.Event()
    queued, done = Count(), Count()

    def slow() -> None:
        begun.set()
        assert goes_on.wait(PATIENCE)

    background.soon(slow)
    assert begun.wait(PATIENCE)
    background.soon(queued)
    old = background.thread
    closing = threading.Thread(target=background.close)
    closing.start()
    until(lambda: background.thread is None)
    if way == "soon":
        background.soon(done)
    else:
        background.every(3600, done)
        background.start()
    goes_on.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert old is not None
    assert not old.is_alive()
    assert done.reached.wait(PATIENCE)
    background.close()
    assert queued.runs == 0


def test_many_threads() -> None:
    """Jobs from many threads each run once."""
    background = Background()
    ran: list[int] = []

    def queue(first: int) -> None:
        for number in range(first, first + 100):
            background.soon(lambda number=number: ran.append(number))  # type: ignore[misc]  # mypy can't infer it

    threads = [threading.Thread(target=queue, args=(100 * place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(ran) == 800)
    background.close()
    assert sorted(ran) == list(range(800))


def test_fork() -> None:
    """A forked child has a thread of its own, and runs nothing that its parent has queued."""
    out = run(
        """
        import os, threading
        from keyrush.runtime.background import Background

        background = Background()
        held = threading.Event()
        background.soon(lambda: held.wait(10))
        background.soon(lambda: print("parent", flush=True))
        child = os.fork()
        if not child:
            assert background.thread is None
            done = threading.Event()
            background.soon(done.set)
            assert done.wait(10)
            print("child", flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        ran = threading.Event()
        background.soon(ran.set)
        held.set()
        assert ran.wait(10)
        background.close()
        """
    )
    assert out == "child\nparent\n"
