"""What all tests share: settings without waiting, a gate, a clock that tests move."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from keyrush import Gate, Settings
from keyrush.runtime.logs import faults
from tests.support import calls
from tests.support.forks import end_with_parent
from tests.support.places import keep_files_in_memory
from tests.support.postgres import bare_postgres_url, postgres_server, postgres_url
from tests.support.valkey import (
    cluster_url,
    own_valkey,
    valkey_cluster,
    valkey_server,
    valkey_url,
    watched,
)

#: Fixtures for all tests.
__all__ = [
    "bare_postgres_url",
    "cluster_url",
    "own_valkey",
    "postgres_server",
    "postgres_url",
    "valkey_cluster",
    "valkey_server",
    "valkey_url",
    "watched",
]

#: argon2id at its cheapest, so that tests wait for nothing.
CHEAP = {"argon2_memory_cost": 8, "argon2_time_cost": 1}


os.register_at_fork(after_in_child=end_with_parent)

# Timings decide nothing, on a slow machine either.
hypothesis.settings.register_profile("keyrush", deadline=None)
hypothesis.settings.load_profile("keyrush")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """All tests and what they import last as long as the process: no garbage is looked for among
    them, neither while they come to be nor later.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure() -> None:
    """Before any file is made."""
    keep_files_in_memory()


class Clock:
    """Unix milliseconds that only the test moves."""

    def __init__(self) -> None:
        self.now = 1_795_000_020_000  # in November 2026, at the beginning of a minute

    def __call__(self) -> int:
        return self.now

    def advance(self, milliseconds: int) -> None:
        self.now += milliseconds


def settings(**values: Any) -> Settings:
    """Settings for a store in memory, unless said otherwise."""
    return Settings(**{"store_url": "memory://", **CHEAP, **values})


def still(gate: Gate) -> Gate:
    """The gate without its thread in the background: what happens is what the test does."""
    gate.background.start = lambda: None  # type: ignore[method-assign]  # for this one alone
    return gate


@pytest.fixture(scope="session")
def _no_authorities(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of certificates without any."""
    return str(tmp_path_factory.mktemp("authorities"))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, _no_authorities: str) -> None:
    """No setting leaks in from the shell that runs the tests."""
    for name in [name for name in os.environ if name.startswith("KEYRUSH_")]:
        monkeypatch.delenv(name)
    # Else each HTTP client loads the authorities of the world, for 40 ms; none here speaks TLS.
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", _no_authorities)


@pytest.fixture(autouse=True)
def _forgotten_faults() -> None:
    """What was logged in one test is logged in the next."""
    faults.forget()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of each kind that keyrush has never seen."""
    if request.param == "postgresql":
        found: str = request.getfixturevalue("bare_postgres_url")
        return found
    return f"sqlite:///{tmp_path}/keyrush.db"


@pytest.fixture
def clock() -> Clock:
    """A clock at the beginning of a minute."""
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Iterator[Gate]:
    """A gate over a store in memory, with the built-in plans, whose clock is `clock`."""
    opened = Gate.open(settings(), clock=clock)
    yield opened
    opened.close()


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Whose event loop `calls.run` runs in."""
    calls.BACKENDS.append(request.param)
    yield request.param
    calls.BACKENDS.pop()
