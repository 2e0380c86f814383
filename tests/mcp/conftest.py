"""What tests of resources share: a gate with one, and an account that has credits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from keyrush import Gate
from tests.conftest import Clock, settings, still
from tests.support.resources import DOORS, RESOURCE, RULES, App, Door


@pytest.fixture
def values() -> dict[str, Any]:
    """The settings of the gate; a test may change them by its own fixture."""
    return {
        "resources": [RESOURCE],
        "rules": RULES,
        "plans": {"standard": {"limits": "5/minute", "monthly_quota": 1000, "per": "account"}},
    }


@pytest.fixture
def mcp_gate(values: dict[str, Any], clock: Clock) -> Iterator[Gate]:
    """A gate with a resource at /mcp."""
    opened = still(Gate.open(settings(**values), clock=clock))
    opened.accounts.create("acct_a")
    opened.credits.grant("acct_a", 100)
    yield opened
    opened.close()


@pytest.fixture
def key(mcp_gate: Gate) -> str:
    """A key of acct_a that may do all."""
    return mcp_gate.keys.create("acct_a", "all").text


@pytest.fixture
def app() -> App:
    """The app behind the gate."""
    return App()


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest, mcp_gate: Gate, app: App) -> Door:
    """The gate in front of it, over ASGI and over WSGI."""
    found: Door = request.param(mcp_gate, app)
    return found
