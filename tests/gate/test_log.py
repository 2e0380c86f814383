"""The log: one line for each record, no control characters, and no fault in every line of it."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as runs
from hypothesis import strategies as st

from keyrush import Gate
from keyrush.runtime.logs import Faults, faults, log_fault
from keyrush.wire.sender import shown_address
from tests.conftest import settings
from tests.support.calls import Asgi, Sent, Wsgi
from tests.support.serving import serve

#: What begins a line, moves the cursor or turns text, however a file or a terminal reads it.
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

TEXTS = st.text(
    st.one_of(
        st.characters(), st.sampled_from("\r\n\x1b\x00\x85\u2028\u202e\ud800%s"), st.just("\n")
    ),
    max_size=40,
)
FORGED = "x\r\n2026-11-26 ERROR forged\x1b[2J\u202e %s %d"

GENERATED = runs(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def fail(said: str) -> None:
    """Raise an error that has another as its cause, both with the text."""
    known: dict[str, str] = {}
    try:
        known[said]
    except KeyError as error:
        raise ConnectionError(said) from error


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a handler wrote."""
    assert not CONTROL.search(caplog.text)
    return caplog.text.split("\n")[:-1]


@example(FORGED, FORGED)
@GENERATED
@given(TEXTS, TEXTS)
def test_a_fault_is_one_line(caplog: pytest.LogCaptureFixture, what: str, text: str) -> None:
    """Whatever an error says, and whoever is named, is one line without control characters."""
    faults.forget()
    caplog.clear()
    log_fault(what, ConnectionError(text))
    assert len(lines_of(caplog)) == 1


@example(FORGED)
@GENERATED
@given(TEXTS)
def test_tracebacks_hold_no_control_characters(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """With DEBUG each message in the traceback is one line: none is made by what it says."""
    caplog.set_level(logging.DEBUG, "keyrush")

    def lines(said: str) -> int:
        faults.forget()
        caplog.clear()
        try:
            fail(said)
        except ConnectionError as error:
            log_fault("away", error)
        return len(lines_of(caplog))

    assert lines(text) == lines("plain") > 3


@example(FORGED)
@GENERATED
@given(TEXTS)
def test_every_record_is_one_line(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """What any module logs to keyrush's logger, in the message or as an argument, is one line."""
    caplog.clear()
    log = logging.getLogger("keyrush")
    log.warning("%s of %r", text, text)
    log.warning(text)  # without arguments a "%" in it is none
    assert len(lines_of(caplog)) == 2


@pytest.fixture
def proxied() -> Any:
    """A gate that believes what the tests' client says of whom it passes on."""
    gate = Gate.open(settings(trusted_proxies=["127.0.0.1"]))
    yield gate
    gate.close()


@example("10.0.0.1\r\nforged")
@example("fe80::1%\n\x1b[2J")
@example("10.0.0.1")
@GENERATED
@given(st.text(st.characters(max_codepoint=255), max_size=30))
def test_addresses_in_the_log(proxied: Gate, caplog: pytest.LogCaptureFixture, hop: str) -> None:
    """Of X-Forwarded-For only what is an IP address is logged, else "-" (traps)."""
    caplog.set_level(logging.INFO, "keyrush")
    for adapter in (Asgi, Wsgi):
        caplog.clear()
        headers: Any = [("X-API-Key", "wrong"), ("X-Forwarded-For", hop)]
        assert adapter(proxied).send(Sent(headers=headers)).status == 401
        (line,) = lines_of(caplog)
        assert "401 invalid_credential from " in line
        address = line.rpartition(" ")[2]
        assert address == "-" or ipaddress.ip_address(address)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%\nforged", "fe80::1"),
        ("10.0.0.1\n", "-"),
        ("unknown", "-"),
        ("/run/app.sock", "-"),
        ("", "-"),
        (None, "-"),
    ],
)
def test_shown_address(address: str | None, shown: str) -> None:
    """An address is shown as it parses, and nothing else is."""
    assert shown_address(address) == shown


def test_a_fault_is_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """The same fault is one line a second, with how many were not logged; others are their own."""
    now = [100.0]
    quiet = Faults(lambda: now[0])
    for _ in range(1500):
        quiet.log("away", ConnectionError("no"))
        quiet.log("away", TimeoutError("no"))
        quiet.log("gone", ConnectionError("no"))
        now[0] += 0.0009  # 1,500 of them are 1.35 seconds
    shown = [record.getMessage() for record in caplog.records]
    assert shown[:3] == [
        "away: ConnectionError: no",
        "away: TimeoutError: no",
        "gone: ConnectionError: no",
    ]
    assert len(shown) == 6
    assert re.fullmatch(
        r"away: ConnectionError: no \(and 1,11\d times more that were not logged\)", shown[3]
    )


def test_faults_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    """However many faults there are, few are remembered; an old one is logged as a new one."""
    quiet = Faults(lambda: 100.0)
    for number in [*range(300), 0, 299]:
        quiet.log(f"fault {number}", ValueError())
    assert len(caplog.records) == 301


def test_proxy_at_a_unix_socket(caplog: pytest.LogCaptureFixture) -> None:
    """A real server at a Unix socket: who is logged is whom the trusted proxy passes on."""
    caplog.set_level(logging.INFO, "keyrush")
    gate = Gate.open(settings(trusted_proxies=["unix"]))
    with tempfile.TemporaryDirectory(prefix="keyrush-") as folder:  # short, as a socket's path
        path = f"{folder}/app.sock"
        with serve(Asgi(gate).middleware, uds=path, lifespan="off", loop="asyncio"):
            request = b"GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: wrong\r\nConnection: close\r\n"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(request + b"X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert "401 invalid_credential from 192.0.2.7" in caplog.text
    gate.close()
