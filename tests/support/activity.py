"""Rows of activity, as a gate writes them, and when it does."""

from __future__ import annotations

import itertools
import threading
from typing import Any

from keyrush import Gate
from keyrush.core.activity import Activity
from keyrush.core.refusal import Refusal
from keyrush.usage.activity import Came
from tests.conftest import Clock
from tests.support.faults import PATIENCE

#: When the clock of tests begins.
START = Clock().now

_numbers = itertools.count()


def row(number: int = 1, **values: Any) -> Activity:
    """A row, by itself that of an answer of 200 to a key of `acct_a`; `number` makes its id."""
    given: dict[str, Any] = {
        "id": f"act_{number:04}",
        "at": START + number,
        "account_id": "acct_a",
        "credential_id": "cred_1",
        "subject": None,
        "source": "api",
        "method": "GET",
        "path": "/articles/{id}",
        "rule": "/articles/{id}",
        "status": 200,
        "outcome": "ok",
        "reason": None,
        "credits": 2,
        "duration": 1_500,
        "request_id": "req-1",
        "address": "203.0.113.0/24",
        "agent": "curl/8",
    }
    return Activity(**(given | values))


def activity(
    at: int, key_id: str, outcome: Any = "ok", status: int = 200, **values: Any
) -> Activity:
    """A request with a key of `acct_a`, of an id that no other has."""
    given: dict[str, Any] = {
        "id": f"act_of_{next(_numbers)}",
        "at": at,
        "credential_id": key_id,
        "path": "/v1/search",
        "rule": "/v1/search",
        "status": status,
        "outcome": outcome,
        "credits": 0,
        "duration": 1_000,
        "request_id": None,
        "agent": "test",
    }
    return row(**(given | values))


class Noting:
    """Knows when a gate has noted requests. That is after the last byte of an answer was sent:
    whoever has the answer, over a socket, may be ahead of the server's thread. To be made before.
    """

    def __init__(self, gate: Gate) -> None:
        assert gate.recording is not None
        self._gate = gate
        self._add = gate.recording.add
        self._credits: list[int] = []  # of each request
        self._changed = threading.Condition()
        gate.recording.add = self._heard  # type: ignore[method-assign]  # for this gate alone

    def _heard(  # noqa: PLR0917  # as `Recording.add`
        self,
        came: Came,
        status: int,
        refusal: Refusal | None,
        credits: int,
        is_broken: bool,
        would_limit: str = "",
    ) -> None:
        self._add(came, status, refusal, credits, is_broken, would_limit)
        with self._changed:
            self._credits.append(credits)
            self._changed.notify_all()

    def flush(self, requests: int, *, paid: bool = False) -> None:
        """Have rows and counts written as soon as so many requests have been noted in all, or so
        many that were paid for.
        """

        def are_there() -> bool:
            found = [one for one in self._credits if one] if paid else self._credits
            return len(found) >= requests

        with self._changed:
            assert self._changed.wait_for(are_there, PATIENCE), self._credits
        self._gate.flush()
