"""pytest's fixtures of `keyrush.testing`: `pytest_plugins = ["keyrush.testing"]`.

`keyrush_settings` is meant to be overridden: what it returns are settings of `keyrush_gate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from keyrush import testing
from keyrush.gate.gate import Gate
from keyrush.gate.principal import Principal
from keyrush.operations.keys import NewKey
from keyrush.testing import Clock


@pytest.fixture
def keyrush_settings() -> dict[str, Any]:
    """Settings of the gate besides those of the environment, such as `{"config": "keyrush.toml"}`.

    None, unless you override it.
    """
    return {}


@pytest.fixture
def keyrush_clock() -> Clock:
    """The clock of the gate, which stands still until it is turned."""
    return Clock()


@pytest.fixture
def keyrush_gate(keyrush_settings: dict[str, Any], keyrush_clock: Clock) -> Iterator[Gate]:
    """A gate that keeps everything in memory."""
    gate = testing.open_gate(keyrush_clock, **keyrush_settings)
    yield gate
    gate.close()


@pytest.fixture
def keyrush_key(keyrush_gate: Gate) -> NewKey:
    """A key that may do everything within the first plan, of the account `acct_test`."""
    return testing.create_key(keyrush_gate)


@pytest.fixture
def keyrush_headers(keyrush_gate: Gate, keyrush_key: NewKey) -> dict[str, str]:
    """The request header that presents `keyrush_key`."""
    return testing.headers(keyrush_gate, keyrush_key)


@pytest.fixture
def keyrush_caller(keyrush_gate: Gate, keyrush_key: NewKey) -> Principal:
    """The caller that `keyrush_key` stands for, for code that takes one."""
    return testing.caller(keyrush_gate, keyrush_key)


@pytest.fixture
def keyrush_calling(keyrush_gate: Gate, keyrush_key: NewKey) -> Iterator[NewKey]:
    """For the time of the test, requests without a key are those of `keyrush_key`."""
    with testing.calling(keyrush_gate, keyrush_key):
        yield keyrush_key
