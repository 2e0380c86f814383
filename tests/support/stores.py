"""Each store, empty or with two accounts, and calls of it in many threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from keyrush.core.ledger import Posting
from keyrush.store.opening import open_store
from keyrush.store.protocol import Store
from tests.support.values import NOW, account


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Each store, empty."""
    urls: dict[str, Callable[[], str]] = {
        "memory": lambda: "memory://",
        "sqlite": lambda: f"sqlite:///{tmp_path}/keyrush.db",
        "postgresql": lambda: request.getfixturevalue("postgres_url"),
    }
    opened = open_store(urls[request.param]()).store
    yield opened
    opened.close()


@pytest.fixture
def store(empty: Store) -> Store:
    """Each store, with the accounts `acct_a` and `acct_b`."""
    assert empty.add_account(account("acct_a"))
    assert empty.add_account(account("acct_b", created_at=NOW + 1))
    return empty


def grant(store: Store, account_id: str, credits: int) -> int | None:
    """The balance with so many credits more; None where there is no such account."""
    entry = store.post(account_id, Posting(credits, "grant", NOW))
    return None if entry is None else entry.balance


def forget_proofs(store: Store) -> None:
    """Leave each key with its hash alone, as keys are that older tables held."""
    for key in store.keys(limit=1000):
        store.refingerprint(key.id, key.fingerprint, key.pepper_id, None)


def in_threads(work: Callable[[int], Any], times: int, threads: int = 16) -> list[Any]:
    """What `work` returns for 0, 1, …, in threads that begin together."""
    barrier = threading.Barrier(threads)
    pool = ThreadPoolExecutor(threads, initializer=barrier.wait)
    with pool:
        return [done.result() for done in [pool.submit(work, number) for number in range(times)]]
