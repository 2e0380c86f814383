"""A dashboard of the account `acct_a` in an app that has signed somebody in to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from keyrush import Gate
from keyrush.apps import Dashboard
from tests.conftest import Clock, settings, still
from tests.support.dashboard import Browser


def app_of(dashboard: Any, at: str = "/dashboard") -> Starlette:
    """An app with the dashboard mounted in it."""
    return Starlette(routes=[Mount(at, dashboard)])


@pytest.fixture
def gate(clock: Clock) -> Iterator[Gate]:
    """A gate over a store in memory, with two accounts, that does nothing by itself."""
    opened = still(Gate.open(settings(public_url="https://api.example.com"), clock=clock))
    opened.accounts.create("acct_a")
    opened.accounts.create("acct_b")
    yield opened
    opened.close()


@pytest.fixture
def browser(gate: Gate) -> Browser:
    """The browser of the owner of `acct_a`, whom the app around has signed in."""
    return Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_a")))


@pytest.fixture
def nobody(gate: Gate) -> Browser:
    """The browser of somebody who has not signed in, at the same dashboard by itself."""
    return Browser(app_of(Dashboard(gate)))
