"""Stores of a user's own, as an instance or by URL: what is found of them, and how they fail."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate, StoreError
from keyrush.errors import DataError
from keyrush.sql.engine import Database
from keyrush.store.memory import MemoryStore
from keyrush.store.opening import given, open_store
from keyrush.store.sql import SqlStore
from tests.conftest import Clock, settings, still
from tests.runtime.test_bridge import STORE
from tests.support.calls import Asgi, Sent, Wsgi

PEPPER = "p" * 32


def failing(method: Callable[..., Any], *, is_async: bool) -> Any:
    """The method, plain or as a coroutine; it raises what `away` of its class is."""

    @functools.wraps(method)
    def plain(self: Any, *args: Any) -> Any:
        if self.away is not None:
            raise self.away
        return method(self, *args)

    async def awaited(self: Any, *args: Any) -> Any:
        return plain(self, *args)

    return awaited if is_async else plain


class Plain(MemoryStore):
    """A store that fails in all that it does, while it is away."""

    away: Exception | None = None
    is_ephemeral = False


class Async(Plain):
    """The same, of coroutines."""


for _name in STORE:
    setattr(Plain, _name, failing(getattr(MemoryStore, _name), is_async=False))
    setattr(Async, _name, failing(getattr(MemoryStore, _name), is_async=True))


@pytest.fixture(params=[Plain, Async])
def own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of a store that is there."""
    monkeypatch.setattr(request.param, "away", None)
    return request.param


@pytest.fixture(params=["instance", "url"])
def opened(request: pytest.FixtureRequest, own: Any, clock: Clock) -> Gate:
    """A gate over a store of that class, with a key that is known."""
    values: dict[str, Any] = {"pepper": PEPPER, "cache_ttl": 5, "stale_if_error": 30}
    if request.param == "url":
        gate = Gate.open(settings(**values, store_url=f"{__name__}:{own.__name__}"), clock=clock)
    else:
        gate = Gate.open(settings(**values), store=own(), clock=clock)
    return still(gate)


@pytest.mark.parametrize(
    ("adapter", "error"), [(Asgi, ConnectionError("away")), (Wsgi, KeyError("what?"))]
)
def test_away(opened: Gate, own: Any, adapter: Any, clock: Clock, error: Exception) -> None:
    """S19: while it fails, whatever it raises, known keys go on for `KEYRUSH_STALE_IF_ERROR`,
    others get 503, and health says so; then all is well again.
    """
    opened.accounts.create("acct_a")
    known, unseen = (opened.keys.create("acct_a", name).text for name in ("a", "b"))
    sender = adapter(opened)

    def get(key: str) -> int:
        status: int = sender.send(Sent(headers=[("X-API-Key", key)])).status
        return status

    assert get(known) == 200
    own.away = error
    clock.advance(6000)  # past CACHE_TTL
    assert [get(known), get(unseen)] == [200, 503]
    clock.advance(2000)
    health = opened.health()
    assert (health.is_well, health.store_away) == (False, 2)
    clock.advance(30_000)  # past STALE_IF_ERROR
    assert get(known) == 503
    own.away = None
    clock.advance(1000)  # for so long, what has failed is left alone
    assert [get(known), get(unseen)] == [200, 200]
    assert opened.health().is_well
    opened.close()


def test_away_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a store raises as it is asked first is an outage, with what it came of."""
    monkeypatch.setattr(Plain, "away", ConnectionError("away"))
    with pytest.raises(StoreError, match=r"^the store can't answer: ConnectionError$") as caught:
        Gate.open(settings(pepper=PEPPER), store=Plain())
    assert caught.value.__cause__ is Plain.away


def test_its_own_word_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it raises of keyrush's own errors is said as it is."""
    monkeypatch.setattr(Plain, "away", DataError("no such pepper"))
    with pytest.raises(DataError, match=r"^no such pepper$"):
        Gate.open(settings(pepper=PEPPER), store=Plain())


def test_coroutines_are_asked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of coroutines, whose event loop does not run yet, is not asked at the start."""
    monkeypatch.setattr(Async, "away", ConnectionError("away"))
    made: Any = Async()
    gate = Gate.open(settings(pepper=PEPPER), store=made)
    monkeypatch.setattr(Async, "away", None)
    gate.close()


# --- what is found of them ------------------------------------------------------------------------


def test_what_ours_have(url: str) -> None:
    """A store in memory goes with the process; one in a database has that, and news."""
    memory = open_store("memory://")
    assert memory[1:] == (None, None, None, True, False)
    found = open_store(url)
    assert found.database is not None
    assert found.changes is not None
    assert found.database.dialect == url.partition(":")[0]
    assert found.lag is not None
    assert not found.is_ephemeral
    assert not found.is_async
    found.store.close()


def test_what_others_need_not_have(own: Any) -> None:
    """A store with no more than the protocol is whole: plain, without news and database."""
    made = own()
    found = given(made)
    assert found[1:] == (None, None, None, False, own is Async)
    assert all(not inspect.iscoroutinefunction(getattr(found.store, name)) for name in STORE)
    assert (found.store is made) is (own is Plain)


def test_another_database() -> None:
    """What somebody else calls a database is none to count windows in."""

    class Named(MemoryStore):
        database = "keys"

    assert given(Named()).database is None


def test_other_changes() -> None:
    """What somebody else calls changes is no news to be polled."""

    class Named(MemoryStore):
        changes = ("a key",)

    assert given(Named()).changes is None


def test_news_that_are_away_at_the_start() -> None:
    """A store that fails as it is asked for its news is an outage, with what it came of."""

    class Unconnected(Plain):
        def changes(self) -> Any:
            raise ConnectionError("away")

    with pytest.raises(StoreError, match=r"^the store can't answer: ConnectionError$") as caught:
        Gate.open(settings(pepper=PEPPER), store=Unconnected())
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_windows_beside_the_keys_of_an_own_store(tmp_path: Path, clock: Clock) -> None:
    """A store over a database has windows counted there, for all gates over it."""

    class Own(SqlStore):
        """One that is almost ours."""

    url = f"sqlite:///{tmp_path}/keyrush.db"
    values: dict[str, Any] = {"pepper": PEPPER, "limiter_mode": "exact"}
    gates = [
        still(Gate.open(settings(**values), store=Own(Database(url)), clock=clock))
        for _ in range(2)
    ]
    gates[0].accounts.create("acct_a")
    key = gates[0].keys.create("acct_a", "k", limits="3/minute").text
    sent = Sent(headers=[("X-API-Key", key)])
    assert [Wsgi(gates[n % 2]).send(sent).status for n in range(4)] == [200, 200, 200, 429]
    for gate in gates:
        gate.close()
