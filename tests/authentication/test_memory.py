"""What is kept of a known key: little, and once what many keys have in common."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate, KeyrushMiddleware
from keyrush.authentication.cache import Entry
from keyrush.wire.request import Credential
from tests.conftest import Clock, settings, still
from tests.support.calls import Sent, asgi_app, asgi_call, run, scope_of, together

KEYS = 300

#: Of one key: bytes on Python's heap, and objects that its garbage collector goes through (entry,
#: what is verified, two counts and what finds each, the tuples of counts and windows, a window).
BYTES, TRACKED = 1_750, 9


@pytest.fixture
def gate(clock: Clock, tmp_path: Path) -> Iterator[Gate]:
    """A gate over SQLite, where nothing of a key is in memory before it comes."""
    url = f"sqlite:///{tmp_path}/keyrush.db"
    gate = still(Gate.open(settings(store_url=url, limiter_url="memory://"), clock=clock))
    yield gate
    gate.close()


def texts(gate: Gate, count: int) -> list[bytes]:
    """New keys, each of an account of its own, of which the gate has had the news."""
    made = []
    for number in range(count):
        account = gate.accounts.create(f"acct_{number}")
        made.append(gate.keys.create(account.id, "production").text.encode())
    gate.watch.poll()
    return made


def known(gate: Gate, text: bytes) -> Entry:
    entry = gate.finishing.verification.verify(Credential(text))
    assert isinstance(entry, Entry)
    return entry


def test_a_known_key_takes_little(gate: Gate) -> None:
    """Bytes of a key, and objects that the garbage collector goes through, are bounded."""
    first, *others = texts(gate, KEYS + 1)
    known(gate, first)
    gc.collect()
    tracked = len(gc.get_objects())
    tracemalloc.start()
    try:
        for text in others:
            known(gate, text)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(gate.cache) == KEYS + 1
    assert taken / KEYS < BYTES
    assert (len(gc.get_objects()) - tracked) / KEYS < TRACKED + 0.5


def test_what_keys_have_in_common_is_one_object(gate: Gate, clock: Clock) -> None:
    """Scopes, names and environments that are equal are kept once, and so is for how long all are
    known, once the news have vouched for them.
    """
    entries = [known(gate, text) for text in texts(gate, 2)]
    clock.advance(4000)
    gate.watch.poll()
    assert all(gate.finishing.verification.note_use(entry, clock()) for entry in entries)
    a, b = entries
    for what in ("refresh_at", "fresh_until", "stale_until"):
        assert getattr(a, what) is getattr(b, what)
    for what in ("scopes", "name", "environment", "plan"):
        assert getattr(a.verified, what) is getattr(b.verified, what)


def test_the_hash_is_not_kept(gate: Gate) -> None:
    """Neither a key's text nor its hash stays in memory: what tells them from others does."""
    (text,) = texts(gate, 1)
    entry = known(gate, text)
    (key,) = gate.store.keys("acct_0")
    assert isinstance(entry.evidence, bytes)
    assert entry.evidence.startswith(bytes.fromhex(key.fingerprint))
    assert key.hash
    assert key.hash.encode() not in entry.evidence
    assert text not in entry.evidence


@pytest.fixture(params=["sqlite", "postgresql"])
def over_sql(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gate]:
    """A gate over a file, or over a server."""
    url = f"sqlite:///{tmp_path}/keyrush.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    gate = still(Gate.open(settings(store_url=url, limiter_url="memory://", pepper="p" * 32)))
    yield gate
    gate.close()


def test_a_storm_of_look_ups_has_few_threads(over_sql: Gate) -> None:
    """Keys that come together for the first time are looked up by one thread in a file, by four
    on a server: more would only wait for each other.
    """
    gate = over_sql
    most = 1 if gate.store.database.file else 4  # type: ignore[attr-defined]  # of SQL
    made, threads = texts(gate, 20), set[str]()
    find = gate.store.find

    def noting(*asked: Any) -> Any:
        threads.add(threading.current_thread().name)
        return find(*asked)

    gate.store.find = noting  # type: ignore[method-assign,assignment]  # to be noted
    app = KeyrushMiddleware(asgi_app, gate=gate)
    waiting = list(made)

    async def ask() -> int:
        sent = Sent(headers=[("x-api-key", waiting.pop())])
        return (await asgi_call(app, scope_of(sent))).status

    assert run(together(ask, len(made))) == [200] * len(made)
    assert 1 <= len(threads) <= most
