"""The circuit: what fails is left alone for a while, one call at a time tries again."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from keyrush.circuit import PAUSE, Away, Circuit


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
