"""The circuit: what fails is left alone for a while, one call at a time tries again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError

import pytest

from keyrush.errors import Away, DataError
from keyrush.runtime.circuit import PAUSE, Circuit
from tests.support.scripts import run


class Server:
    """Answers or fails, and counts how often it is asked; time is what the test says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked = 0
        self.is_away = False
        self.meanwhile: Callable[[], object] = int

    def __call__(self, value: int) -> int:
        self.asked += 1
        self.meanwhile()
        if self.is_away:
            raise ConnectionError("refused")
        return value


@pytest.fixture
def server() -> Server:
    """A server that answers."""
    return Server()


@pytest.fixture
def circuit(server: Server) -> Circuit:
    """A circuit that goes by the server's time."""
    return Circuit("the server", lambda: server.now)


def fails(circuit: Circuit, server: Server) -> bool:
    """True when the call comes to nothing."""
    try:
        return circuit.call(server, 7) != 7
    except Away:
        return True


def test_closed(circuit: Circuit, server: Server) -> None:
    """While all is well, every call goes through."""
    assert [circuit.call(server, number) for number in range(3)] == [0, 1, 2]
    assert (circuit.is_closed, circuit.is_open, circuit.seconds_away) == (True, False, 0)


def test_what_is_about_the_data_opens_nothing(circuit: Circuit, server: Server) -> None:
    """An answer that says no to these values is an answer: it opens nothing, and closes what was
    open.
    """

    def refuse(_: int) -> int:
        raise DataError("no such number")

    for is_away in (False, True):
        server.is_away = is_away
        assert fails(circuit, server) is is_away
        server.now += PAUSE
        with pytest.raises(DataError, match="no such number"):
            circuit.call(refuse, 7)
        assert (circuit.is_closed, circuit.seconds_away) == (True, 0)


def test_failure_opens(circuit: Circuit, server: Server) -> None:
    """Field 7: after a failure nothing is asked for a while; the cause is kept."""
    server.is_away = True
    with pytest.raises(Away) as caught:
        circuit.call(server, 1)
    assert isinstance(caught.value.__cause__, ConnectionError)
    server.now += PAUSE / 2
    assert all(fails(circuit, server) for _ in range(10))
    assert server.asked == 1
    assert circuit.is_open
    assert circuit.seconds_away == PAUSE / 2


def test_one_call_tries(circuit: Circuit, server: Server) -> None:
    """After the pause one call tries; those that come meanwhile don't wait for it."""
    server.is_away = True
    assert fails(circuit, server)
    server.now += PAUSE
    others: list[bool] = []
    server.meanwhile = lambda: others.append(fails(circuit, server))
    assert not circuit.is_open
    assert fails(circuit, server)
    assert others == [True]
    assert server.asked == 2
    assert circuit.is_open


def test_success_closes(circuit: Circuit, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing needs a restart; a whole outage is two lines in the log."""
    server.is_away = True
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            assert fails(circuit, server)
            server.now += PAUSE
        server.is_away = False
        assert not fails(circuit, server)
    assert circuit.is_closed
    assert not any(fails(circuit, server) for _ in range(3))
    assert [record.getMessage() for record in caplog.records] == [
        "the server is away: ConnectionError: refused",
        "the server answers again, after 5.0 seconds",
    ]


def test_late_answers(circuit: Circuit, server: Server) -> None:
    """Calls that were under way when the circuit opened may still close it."""
    circuit.enter()
    circuit.enter()
    circuit.failed(TimeoutError())
    assert circuit.is_open
    circuit.succeeded()
    assert circuit.is_closed


def test_a_long_outage(circuit: Circuit, server: Server) -> None:
    """However many calls there are, one a second reaches what is away."""
    server.is_away = True
    for _ in range(6400):
        assert fails(circuit, server)
        server.now += 1 / 64  # which floats hold exactly
    assert server.asked == 100
    assert circuit.seconds_away == 100


def test_who_tries_may_hang(circuit: Circuit, server: Server) -> None:
    """If the call that tries does not come back, another may after a pause."""
    circuit.failed(TimeoutError())
    server.now += PAUSE
    circuit.enter()
    with pytest.raises(Away):
        circuit.enter()
    server.now += PAUSE
    circuit.enter()
    circuit.succeeded()
    assert circuit.is_closed


def test_threads(circuit: Circuit, server: Server) -> None:
    """Of threads that come together when it is time to try, one does."""
    circuit.failed(TimeoutError())
    server.now += PAUSE
    server.is_away = True
    barrier = threading.Barrier(8)

    def call() -> None:
        barrier.wait()
        assert fails(circuit, server)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked == 1


def test_what_is_no_exception(circuit: Circuit) -> None:
    """Whoever presses Ctrl-C says nothing about the server."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        circuit.call(interrupted)
    assert circuit.is_closed


def test_fork() -> None:
    """A child forked while a thread holds the lock may use it; it knows of the outage."""
    out = run(
        """
        import os
        from keyrush.runtime.circuit import Away, Circuit

        circuit = Circuit("the server")
        circuit.failed(ConnectionError())
        circuit._lock.acquire()
        child = os.fork()
        if not child:
            try:
                circuit.enter()
            except Away:
                circuit.succeeded()
                print(circuit.is_closed, flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert out == "True\n"


def test_a_cancelled_call_says_nothing() -> None:
    """A call that is cancelled, as when an event loop ends under it, opens nothing: the next one is
    made at once, so that the last counts are written.
    """
    circuit = Circuit("the store", lambda: 0.0)

    def cancelled() -> None:
        raise CancelledError

    with pytest.raises(Away):
        circuit.call(cancelled)
    assert circuit.is_closed
    assert circuit.call(lambda: "answer") == "answer"
