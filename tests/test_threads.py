"""A machine that has no thread left for a while: nothing is lost, and all goes on by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from keyrush import Gate, background, workers
from keyrush.background import Background
from keyrush.workers import Busy, Workers
from tests.calls import Asgi, Sent, decide
from tests.conftest import Clock, settings
from tests.faults import outcome, until


class Machine:
    """Starts no thread of keyrush's while `has_none`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_none = False
        start = threading.Thread.start

        def may_start(thread: threading.Thread) -> None:
            if self.has_none and thread.name.startswith("keyrush"):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", may_start)
        monkeypatch.setattr(background, "RETRY", 0.0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(monkeypatch)
    yield made
    made.has_none = False


def test_the_background_is_tried_again(machine: Machine) -> None:
    """A thread counts as running once it runs; until then each request tries again."""
    worker, ran = Background(), threading.Event()
    machine.has_none = True
    worker.every(60, ran.set)
    for _ in range(3):
        worker.start()
        assert worker.thread is None
        assert worker.is_missing
    machine.has_none = False
    worker.start()
    assert ran.wait(10)
    assert not worker.is_missing
    worker.close()


def test_trying_again_costs_nothing_for_a_while(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two tries there is a pause, so that requests are not held up by them."""
    monkeypatch.setattr(background, "RETRY", 60.0)
    worker = Background()
    machine.has_none = True
    worker.start()
    monkeypatch.setattr(threading, "Thread", None)  # whoever makes one fails
    for _ in range(3):
        worker.start()


def test_queued_work_is_done_later(machine: Machine) -> None:
    """What was to be done soon is done once there is a thread."""
    worker, done = Background(), threading.Event()
    machine.has_none = True
    worker.soon(done.set)
    machine.has_none = False
    worker.start()
    assert done.wait(10)
    worker.close()


def test_calls_without_a_thread_are_turned_away(machine: Machine) -> None:
    """A call for which no thread can be started is not made later, when nobody waits any more."""
    pool = Workers()
    made: list[int] = []
    machine.has_none = True
    with pytest.raises(Busy, match="can't start new thread"):
        pool.submit("io", made.append, 1)
    machine.has_none = False
    assert pool.submit("io", lambda: "later").result(10) == "later"
    pool.close()
    assert made == []


def test_what_must_be_done_is_done_here(machine: Machine) -> None:
    """What gives back is done by the caller itself where there is no thread for it."""
    pool = Workers()
    made: list[int] = []
    machine.has_none = True
    assert pool.submit("io", made.append, 1, must=True).result(10) is None
    assert made == [1]
    pool.close()


def test_a_thread_that_is_there_takes_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another thread has taken the call already, its outcome counts."""
    monkeypatch.setattr(workers, "_IO_THREADS", 2)
    pool, go = Workers(), threading.Event()
    first = pool.submit("io", go.wait, 10)
    machine.has_none = True
    with pytest.raises(Busy):
        pool.submit("io", lambda: "never")
    go.set()
    assert first.result(10)
    machine.has_none = False
    pool.close()


def test_requests_are_503_and_take_nothing(machine: Machine, clock: Clock) -> None:
    """S19: a request that needs a thread is 503 with Retry-After, and has taken nothing; when there
    are threads again all is as it was, and health says so.
    """
    gate = Gate.open(settings(rules=[{"path": "/paid", "credits": 3}]), clock=clock)
    gate.accounts.create_account("acct_a")
    gate.accounts.grant("acct_a", 10)
    key = gate.accounts.create_key("acct_a", "k").text
    sent = Sent("/paid", [("X-API-Key", key)])
    machine.has_none = True
    reply = Asgi(gate).send(sent)
    assert (reply.status, reply["retry-after"]) == (503, "1")
    assert reply.json["error"] == "Service unavailable. Try again in 1 seconds."
    machine.has_none = False
    reply = Asgi(gate).send(sent)
    assert (reply.status, reply["x-ratelimit-remaining"]) == (200, "99")
    assert gate.accounts.account("acct_a").balance == 7
    gate.close()


def test_health_says_that_the_background_is_missing(machine: Machine, clock: Clock) -> None:
    """Health is not well while counts wait for a thread to write them."""
    gate = Gate.open(settings(), clock=clock)
    gate.accounts.create_account("acct_a")
    key = gate.accounts.create_key("acct_a", "k").text
    machine.has_none = True
    assert isinstance(decide(gate, key), tuple)
    assert not gate.health().is_well
    assert gate.health().unwritten == 1
    machine.has_none = False
    assert isinstance(decide(gate, key), tuple)
    until(lambda: gate.health().is_well and not gate.health().unwritten)
    gate.close()


@pytest.mark.parametrize("step", ["workers", "background", "watch", "limiter"])
def test_closing_goes_on_whatever_fails(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    """Each step of closing happens whatever became of the one before: no count is lost by it."""
    gate = Gate.open(settings(), clock=clock)
    gate.accounts.create_account("acct_a")
    key = gate.accounts.create_key("acct_a", "k").text
    monkeypatch.setattr(gate.background, "start", lambda: None)  # writes nothing meanwhile
    assert Asgi(gate).send(Sent(headers=[("X-API-Key", key)])).status == 200
    part: Any = getattr(gate, step)
    close = part.close

    def broken() -> None:
        close()
        raise RuntimeError("can't join thread")

    monkeypatch.setattr(part, "close", broken)
    assert outcome(gate.close) is None
    assert gate.accounts.usage("acct_a").counted == 1
    assert "closing" in caplog.text
