"""Rows of activity, as a gate writes them."""

from __future__ import annotations

import itertools
from typing import Any

from keyrush.core.activity import Activity
from tests.conftest import Clock

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
