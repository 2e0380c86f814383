"""Limits of rules: beside the plan's, taken together with them or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keyrush import Gate
from keyrush.operations.keys import NewKey
from tests.conftest import Clock, settings
from tests.support.calls import Asgi, Sent, Wsgi, asgi_app, wsgi_app

PLANS = {"starter": {"limits": "100/minute"}, "pro": {"limits": "200/minute"}}


class World:
    """A gate with rules, behind one of the adapters."""

    def __init__(self, adapter: Any, app: Any, gate: Gate) -> None:
        self.gate = gate
        self.client = adapter(gate, app)

    def key(self, account_id: str = "acct_a", plan: str = "starter") -> NewKey:
        self.gate.accounts.create(account_id, plan=plan)
        return self.gate.keys.create(account_id, "agent")

    def get(self, key: NewKey, path: str, **more: Any) -> Any:
        return self.client.send(
            Sent(path, headers=[("authorization", f"Bearer {key.text}")], **more)
        )


Opening = Callable[..., World]


@pytest.fixture(params=["asgi", "wsgi"])
def opened(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Opening]:
    """Opens a gate with these rules, behind each adapter."""
    gates: list[Gate] = []

    def opening(*rules: dict[str, Any], **values: Any) -> World:
        gate = Gate.open(settings(rules=list(rules), **{"plans": PLANS, **values}), clock=clock)
        gates.append(gate)
        is_asgi = request.param == "asgi"
        return World(Asgi if is_asgi else Wsgi, asgi_app if is_asgi else wsgi_app, gate)

    yield opening
    for gate in gates:
        gate.close()


def test_rule_and_plan(opened: Opening) -> None:
    """What a rule limits is refused beyond it, and elsewhere the plan alone counts."""
    world = opened({"path": "/export", "limits": ["2/minute"]})
    key = world.key()
    first = world.get(key, "/export")
    assert (first.status, first["x-ratelimit-limit"], first["x-ratelimit-remaining"]) == (
        200,
        "2",
        "1",
    )
    assert world.get(key, "/export").status == 200
    refused = world.get(key, "/export")
    assert refused.status == 429
    assert refused["x-ratelimit-remaining"] == "0"
    other = world.get(key, "/other")
    assert (other.status, other["x-ratelimit-limit"]) == (200, "100")
    # The refused request took nothing: three were let in.
    assert other["x-ratelimit-remaining"] == "97"
