"""Rows of activity with one or two fields of interest."""

from __future__ import annotations

import itertools
from typing import Any

from keyrush.core.activity import Activity

_numbers = itertools.count()


def activity(
    at: int, key_id: str, outcome: Any = "ok", status: int = 200, **values: Any
) -> Activity:
    """A request with a key of `acct_a`."""
    row = Activity(
        id=f"act_{next(_numbers)}",
        at=at,
        account_id="acct_a",
        credential_id=key_id,
        subject=None,
        source="api",
        method="GET",
        path="/v1/search",
        rule="/v1/search",
        status=status,
        outcome=outcome,
        reason=None,
        credits=0,
        duration=1000,
        request_id=None,
        address="203.0.113.0/24",
        agent="test",
    )
    return row._replace(**values)
