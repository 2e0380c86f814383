"""Refusals as events: the log hears of them, and whoever else listens; no answer depends on it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from keyrush import Gate, Refusal
from keyrush.events.protocol import Event, Events, RequestRefused
from keyrush.runtime.logs import faults
from keyrush.wire.request import MISSING
from keyrush.wire.sender import Sender
from tests.conftest import settings
from tests.support.calls import Asgi, Sent, Wsgi

REFUSED = RequestRefused(Refusal("rate_limited", retry_after=1), Sender("10.0.0.1", [], []))


async def refusing(scope: Any, receive: Any, send: Any) -> None:
    scope["keyrush"].refuse(MISSING)


def refusing_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    environ["keyrush.principal"].refuse(MISSING)
    return []


@pytest.fixture(params=[(Asgi, refusing), (Wsgi, refusing_wsgi)], ids=["asgi", "wsgi"])
def door(request: pytest.FixtureRequest) -> Any:
    """Each way in, and an app behind it that refuses."""
    return request.param


def key_of(gate: Gate) -> str:
    """A key of an account that is on the first plan."""
    gate.accounts.create("acct_a")
    return gate.keys.create("acct_a", "n").text


def test_a_second_listener(door: Any) -> None:
    """Whoever is added hears of what the gate refuses, of what the app refuses, and from whom."""
    adapter, app = door
    gate = Gate.open(settings(trusted_proxies=["127.0.0.1"]))
    heard: list[Event] = []
    gate.events.add(heard.append)
    key = key_of(gate)
    sent = Sent(headers=[("X-API-Key", key), ("X-Forwarded-For", "192.0.2.7")])
    assert adapter(gate).send(sent).status == 200
    assert heard == []
    assert adapter(gate).send(Sent()).status == 401
    assert adapter(gate, app).send(sent).status == 401
    refused = [event for event in heard if isinstance(event, RequestRefused)]
    reasons = [(event.refusal.reason, event.sender.address) for event in refused]
    assert reasons == [("missing_credential", "127.0.0.1"), ("missing_credential", "192.0.2.7")]
    gate.close()


def test_admitted_requests_are_no_events(gate: Gate, door: Any) -> None:
    """A request that is let through emits nothing, so that it pays nothing for who listens."""
    adapter, _ = door
    sender, sent = adapter(gate), Sent(headers=[("X-API-Key", key_of(gate))])
    gate.events = None  # type: ignore[assignment]  # whoever would emit now fails
    assert [sender.send(sent).status for _ in range(3)] == [200, 200, 200]


def test_the_log_listens(gate: Gate, door: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Who is refused for want of a good key is logged, once, also where the app says so."""
    adapter, app = door
    caplog.set_level(logging.INFO, "keyrush")
    sent = Sent(headers=[("X-API-Key", key_of(gate))])
    assert adapter(gate, app).send(sent).status == 401
    assert adapter(gate).send(Sent(headers=[("X-API-Key", "wrong")])).status == 401
    lines = [record.getMessage() for record in caplog.records if " from " in record.getMessage()]
    assert lines == [
        "401 missing_credential from 127.0.0.1",
        "401 invalid_credential from 127.0.0.1",
    ]


def test_a_listener_that_fails_changes_no_answer(
    gate: Gate, door: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What a listener raises is one line in the log, however often; others hear all the same."""
    adapter, app = door
    heard: list[Event] = []

    def failing(event: Event) -> None:
        raise ZeroDivisionError("no")

    gate.events.add(failing)
    gate.events.add(heard.append)
    sent = Sent(headers=[("X-API-Key", key_of(gate))])
    for _ in range(3):
        faults.forget()  # of which each is logged once a second
        assert adapter(gate).send(Sent()).status == 401
        assert adapter(gate, app).send(sent).status == 401
    assert len(heard) == 6
    said = [record.getMessage() for record in caplog.records if "listener" in record.getMessage()]
    assert said == ["a listener to events fails: ZeroDivisionError: no"]


def test_a_listener_that_fails_again(caplog: pytest.LogCaptureFixture) -> None:
    """Once it has succeeded, the next failure is news; each listener's is its own."""
    fails = [True, True, False, True, True]

    def failing(event: Event) -> None:
        faults.forget()
        if fails.pop():
            raise ZeroDivisionError("no")

    events = Events(failing, failing)
    fails = [fail for fail in fails for _ in range(2)]
    for _ in range(5):
        events.emit(REFUSED)
    assert len(caplog.records) == 4
