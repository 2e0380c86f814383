"""A machine that has no thread left for a while: nothing is lost, and all goes on by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate, KeyrushMiddleware
from keyrush.core.identity import account_subject
from keyrush.core.times import month_of
from keyrush.runtime import background as backgrounds
from keyrush.runtime.background import RETRY, Background
from keyrush.runtime.workers import MAX_CALLS, Busy, Workers
from keyrush.store.memory import MemoryStore
from tests.conftest import settings
from tests.support.calls import Reply, Sent, asgi_app, asgi_call, scope_of
from tests.support.faults import until
from tests.support.scripts import run

LACK = "can't start new thread"


class Machine:
    """Starts no thread of keyrush's while `has_none`; `failed` is how often it is tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_none = False
        self.failed = 0
        start = threading.Thread.start

        def may_start(thread: threading.Thread) -> None:
            if self.has_none and thread.name.startswith("keyrush"):
                self.failed += 1
                raise RuntimeError(LACK)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", may_start)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with threads, until the test says that it has none."""
    made = Machine(monkeypatch)
    yield made
    made.has_none = False


# --- the background -------------------------------------------------------------------------------


def test_the_background_is_tried_again(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """A thread counts as running once it runs. It is tried again by each request, but not more
    often than every `RETRY` seconds, so that none is held up; what was queued is done then.
    """
    now = 100.0
    background = Background(lambda: now)
    queued, repeated = threading.Event(), threading.Event()
    background.every(60, repeated.set)
    machine.has_none = True
    for _ in range(5):
        background.soon(queued.set)
        background.start()
        assert background.thread is None
        assert background.is_missing
    assert machine.failed == 1
    assert f"no thread for the work in the background; counts are kept: RuntimeError: {LACK}" in (
        caplog.text
    )
    machine.has_none = False
    background.start()
    assert background.thread is None
    now += RETRY
    background.start()
    assert queued.wait(10)
    assert repeated.wait(10)
    assert not background.is_missing
    background.close()


def test_a_background_without_a_thread_is_closed(machine: Machine) -> None:
    """What does not run can be closed, and is wanted no more."""
    background = Background()
    machine.has_none = True
    background.start()
    background.close()
    assert background.thread is None
    assert not background.is_missing


def test_the_queue_of_the_background_is_bounded(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long there is no thread, what waits for one does not grow; the newest is kept."""
    monkeypatch.setattr(backgrounds, "MAX_QUEUE", 10)
    now = 100.0
    background = Background(lambda: now)
    ran: list[int] = []
    machine.has_none = True
    for number in range(25):
        background.soon(lambda number=number: ran.append(number))  # type: ignore[misc]  # mypy can't infer it
    machine.has_none = False
    now += RETRY
    background.start()
    until(lambda: ran and ran[-1] == 24)
    background.close()
    assert ran == list(range(15, 25))


def test_system_exit_is_a_fault_like_others(caplog: pytest.LogCaptureFixture) -> None:
    """A job that raises SystemExit is logged, and ends neither the thread nor the other jobs."""
    background = Background()

    def leave() -> None:
        raise SystemExit(3)

    background.soon(leave)
    thread = background.thread
    done = threading.Event()
    background.soon(done.set)
    assert done.wait(10)
    assert background.thread is thread
    background.close()
    assert "work in the background failed: SystemExit: 3" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is meant
def test_a_background_that_was_ended() -> None:
    """Whatever ends the thread, that is known, and another one is started with the next need."""

    def read_clock() -> float:
        if threading.current_thread() is doomed:
            raise SystemExit  # as when it is told to end from outside, at any place
        return 100.0

    background = Background(read_clock)
    background.every(60, list)
    doomed: threading.Thread | None = None
    background.start()
    until(lambda: background.thread)
    doomed = background.thread
    assert doomed is not None
    background.soon(list)  # has it look at the clock
    doomed.join(10)
    assert background.thread is None
    assert background.is_missing
    done = threading.Event()
    background.soon(done.set)
    assert done.wait(10)
    assert not background.is_missing
    background.close()


# --- the workers ----------------------------------------------------------------------------------


def test_calls_without_a_thread_are_turned_away(machine: Machine) -> None:
    """A call for which no thread can be started is not made later, when nobody waits any more; nor
    is its place taken for ever.
    """
    workers = Workers()
    made: list[str] = []
    machine.has_none = True
    for _ in range(MAX_CALLS + 1):
        with pytest.raises(Busy, match=LACK):
            workers.submit("io", made.append, "lost")
    machine.has_none = False
    assert workers.submit("io", made.append, "kept").result(10) is None
    workers.close()
    assert made == ["kept"]


def test_calls_wait_for_the_threads_that_there_are(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """Where some threads run, and no more can be started, calls wait for those."""
    workers = Workers()
    held = threading.Event()
    first = workers.submit("io", held.wait, 10)
    machine.has_none = True
    waiting = [workers.submit("io", int, "7") for _ in range(20)]
    assert machine.failed
    assert "fewer threads work than should" in caplog.text
    assert not any(call.done() for call in waiting)
    held.set()
    assert first.result(10)
    assert [call.result(10) for call in waiting] == [7] * 20
    machine.has_none = False
    workers.close()


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_what_must_be_done_is_done_here(machine: Machine, error: type[Exception] | None) -> None:
    """What gives back is done by the caller itself where there is no thread for it, and what it
    raises is told to whoever waits.
    """
    workers = Workers()

    def work() -> str:
        if error:
            raise error
        return "done"

    machine.has_none = True
    future = workers.submit("io", work, must=True)
    if error:
        assert isinstance(future.exception(0), error)
    else:
        assert future.result(0) == "done"
    workers.close()


def test_closing_waits_for_calls_that_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What closes waits for a call that has been accepted, and is not yet with a thread."""
    workers = Workers()
    workers.submit("io", int).result(10)
    (executor,) = workers._pools.values()  # noqa: SLF001  # there is no other way in between
    submit = executor.submit
    on_its_way, goes_on = threading.Event(), threading.Event()

    def slow(call: Callable[[], object]) -> Any:
        on_its_way.set()
        assert goes_on.wait(10)
        return submit(call)

    monkeypatch.setattr(executor, "submit", slow)
    made: list[int] = []
    asking = threading.Thread(target=workers.submit, args=("io", made.append, 1))
    asking.start()
    assert on_its_way.wait(10)
    closing = threading.Thread(target=workers.close)
    closing.start()
    goes_on.set()
    closing.join(10)
    asking.join(10)
    assert made == [1]


# --- a gate ---------------------------------------------------------------------------------------


RULES = [{"path": "/paid", "credits": 3}]


class World:
    """A gate over a store that tells no news, so that what is known stays known, and the key of
    an account with ten credits.
    """

    def __init__(self) -> None:
        self.gate = Gate.open(settings(rules=RULES), store=MemoryStore())
        self.gate.accounts.create("acct_a")
        self.gate.credits.grant("acct_a", 10)
        self.key = self.gate.keys.create("acct_a", "n").text

    def ask(self, path: str = "/", app: Any = asgi_app) -> Reply:
        """The answer to a request by ASGI."""
        scope = scope_of(Sent(path, [("X-API-Key", self.key)]))
        return asyncio.run(asgi_call(KeyrushMiddleware(app, gate=self.gate), scope))

    def warm(self) -> None:
        """Have the key known; afterwards no thread runs."""
        assert self.ask().status == 200
        self.gate.close()
        assert self.counted == 1

    @property
    def counted(self) -> int:
        """What the table says of the account, this month."""
        gate = self.gate
        return gate.store.usage(account_subject("acct_a"), month_of(gate.clock()))

    @property
    def balance(self) -> int:
        return self.gate.accounts.get("acct_a").balance

    def assert_taken(self, requests: int) -> None:
        """So many were counted, in the window and in the month."""
        assert self.ask()["x-ratelimit-remaining"] == str(100 - requests - 1)
        self.gate.flush()
        assert self.counted == requests + 1


@pytest.fixture
def world() -> Iterator[World]:
    """A gate with a key."""
    made = World()
    yield made
    made.gate.close()


def assert_unavailable(reply: Reply) -> None:
    """The documented 503, soon to be tried again."""
    assert reply.status == 503
    assert reply["retry-after"] in {"1", "5"}
    assert reply.json["error"].startswith("Service unavailable. Try again in ")


def test_cold_requests_take_nothing(world: World, machine: Machine) -> None:
    """S19: for which there is no thread is answered 503, and has taken nothing, neither a place
    among the look-ups of its address; as soon as there is one, it passes.
    """
    machine.has_none = True
    for _ in range(50):
        assert_unavailable(world.ask())
    machine.has_none = False
    world.assert_taken(0)


def test_warm_requests_pass_and_health_tells(world: World, machine: Machine) -> None:
    """A request that needs no thread passes; that nothing is written meanwhile is told by health,
    until there is a thread again, for which it asks, too.
    """
    world.warm()
    assert world.gate.health().is_well
    machine.has_none = True
    assert [world.ask().status for _ in range(5)] == [200] * 5
    health = world.gate.health()
    assert (health.is_well, health.has_thread, health.unwritten) == (False, False, 5)
    machine.has_none = False
    until(lambda: world.gate.health().is_well)
    assert world.gate.health().has_thread
    until(lambda: world.counted == 6)  # which the thread alone writes


def test_counts_survive_a_close_without_threads(world: World, machine: Machine) -> None:
    """R12: a gate whose thread never ran again writes all that it counted when it is closed."""
    world.warm()
    machine.has_none = True
    assert [world.ask().status for _ in range(5)] == [200] * 5
    world.gate.close()
    assert world.counted == 6


def test_paid_paths_take_nothing(world: World, machine: Machine) -> None:
    """O11: a charge for which there is no thread is 503, and takes neither unit nor credits."""
    world.warm()
    machine.has_none = True
    assert_unavailable(world.ask("/paid"))
    machine.has_none = False
    world.assert_taken(1)
    assert world.balance == 10


def test_charges_in_code_give_back(world: World, machine: Machine) -> None:
    """O11: a charge in code for which there is no thread is 503; what the request took of the
    window and the month is given back.
    """

    async def charging(scope: Any, receive: Any, send: Any) -> None:
        await scope["keyrush"].charge_async(3)

    world.warm()
    machine.has_none = True
    assert_unavailable(world.ask(app=charging))
    machine.has_none = False
    world.assert_taken(1)
    assert world.balance == 10


@pytest.mark.parametrize("way", ["error", "raises", "nothing"])
def test_credits_are_given_back_without_a_thread(world: World, machine: Machine, way: str) -> None:
    """O11: what was charged is given back for an answer that is none, though no thread can be
    started for that any more.
    """

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await scope["keyrush"].charge_async(3)
        world.gate.workers.close()
        machine.has_none = True
        if way == "raises":
            raise ZeroDivisionError
        if way == "error":
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    if way == "error":
        assert world.ask(app=failing).status == 500
    else:
        with pytest.raises(ZeroDivisionError if way == "raises" else ValueError):
            world.ask(app=failing)  # ValueError: there is no message to unpack
    assert machine.failed
    assert world.balance == 10


# --- closing --------------------------------------------------------------------------------------

STEPS = (
    *("workers.close", "background.close", "charging.settle", "counts.flush", "watch.close"),
    *("limiter.close", "store.close"),
)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_each_step_of_closing(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
    error: type[BaseException],
) -> None:
    """R12: each step of closing happens whatever became of the one before, and is logged; one that
    is interrupted interrupts the whole, at its end.
    """
    taken: list[str] = []
    assert world.ask().status == 200

    def failing(name: str) -> tuple[Any, str, Callable[[], None]]:
        part, _, method = name.partition(".")
        owner = getattr(world.gate, part)
        real = getattr(owner, method)

        def take() -> None:
            real()
            taken.append(name)
            if name == step:
                raise error("no")

        return owner, method, take

    world.gate.background.close()  # which takes some of these steps by itself
    for name in STEPS:
        monkeypatch.setattr(*failing(name))
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            world.gate.close()
    else:
        world.gate.close()
        assert ": RuntimeError: no" in caplog.text
        assert "closing: " in caplog.text
    monkeypatch.undo()
    assert tuple(taken) == STEPS
    assert world.counted == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_each_step_of_a_flush(
    world: World, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """R12: counts are written though credits can't be given back; what went wrong is raised."""
    assert world.ask().status == 200
    world.gate.background.close()

    def broken() -> None:
        raise error("no")

    monkeypatch.setattr(world.gate.charging, "settle", broken)
    with pytest.raises(error, match="no"):
        world.gate.prepare_to_stop()
    monkeypatch.undo()
    assert world.counted == 1


def test_counts_survive_the_exit_of_a_process(tmp_path: Path) -> None:
    """R12: a process that can start no thread from some moment on ends with all counts written."""
    url = f"sqlite:///{tmp_path}/keyrush.db"
    gate = Gate.open(settings(store_url=url))
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "n").text
    gate.close()
    code = """
        import asyncio, sys, threading
        from keyrush import Gate, KeyrushMiddleware, Settings
        from keyrush.sql.engine import Database
        from keyrush.store.sql import SqlStore
        from tests.support.calls import Sent, asgi_app, asgi_call, scope_of

        class Quiet(SqlStore):
            changes = property()  # without news, what is known stays known

        settings = Settings(store_url=sys.argv[1], limiter_url="memory://")
        gate = Gate.open(settings, store=Quiet(Database(sys.argv[1])))
        app = KeyrushMiddleware(asgi_app, gate=gate)

        def ask():
            scope = scope_of(Sent(headers=[("X-API-Key", sys.argv[2])]))
            return asyncio.run(asgi_call(app, scope)).status

        def lack(thread):
            raise RuntimeError("can't start new thread")

        assert ask() == 200
        gate.workers.close()
        gate.background.close()
        threading.Thread.start = lack
        print([ask() for _ in range(20)].count(200))
    """
    assert run(code, url, key) == "20\n"
    assert gate.store.usage(account_subject("acct_a"), month_of(gate.clock())) == 21
    gate.close()
