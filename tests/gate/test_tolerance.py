"""How many refusals a caller may have before all it gets is 429, from memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from keyrush import Gate, Refusal
from keyrush.core.sliding import Window
from keyrush.gate.tolerance import OTHERWISE, Tolerance
from keyrush.store.memory import MemoryStore
from tests.conftest import Clock, settings
from tests.support.calls import Asgi, Reply, Sent, Wsgi
from tests.support.stores import grant
from tests.support.values import NOW, verified

MINUTE = (Window("key:cred_a:60", 60_000, 5, "minute"),)


def test_as_many_as_requests() -> None:
    """Refusals have a window of their own, as wide as the plan's."""
    tolerance, caller = Tolerance(), verified(windows=MINUTE)
    for _ in range(5):
        assert tolerance.over(caller, "app", NOW) is None
        tolerance.note(caller, "app", NOW)
    tally = tolerance.over(caller, "app", NOW)
    assert tally is not None
    assert tally.ready_at > NOW
    assert tolerance.over(caller, "rules", NOW) is None
    assert tolerance.over(caller, "app", tally.ready_at - 1) is tally
    assert tolerance.over(caller, "app", tally.ready_at) is None


def test_callers_without_limits() -> None:
    """A caller whom no limit holds has a bound here all the same."""
    tolerance, caller = Tolerance(), verified()
    for _ in range(OTHERWISE):
        assert tolerance.over(caller, "app", NOW) is None
        tolerance.note(caller, "app", NOW)
    assert tolerance.over(caller, "app", NOW) is not None


def test_memory_is_bounded() -> None:
    """Callers whose refusals count no more are forgotten as others come."""
    tolerance = Tolerance()
    for number in range(10_000):
        window = Window(f"key:{number}:60", 60_000, 1, "minute")
        caller = verified(windows=(window,), key_id=f"cred_{number}")
        tolerance.note(caller, "app", NOW + number * 1000)
    assert len(tolerance._counters) < 1000  # noqa: SLF001  # what must not grow
    assert len(tolerance.exceeded) < 1000


class CountingStore(MemoryStore):
    """Counts what a request may cost; fails nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def charge(self, *args: Any, **named: Any) -> int | None:
        self.calls += 1
        return super().charge(*args, **named)


def refusing(environ: Any, start_response: Any) -> list[bytes]:
    environ["keyrush.principal"].refuse(Refusal("beyond_caller"))
    return []


async def refusing_asgi(scope: Any, receive: Any, send: Any) -> None:
    scope["keyrush"].refuse(Refusal("beyond_caller"))


@pytest.fixture(params=["asgi", "wsgi"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """An adapter and an app that refuses."""
    return (Asgi, refusing_asgi) if request.param == "asgi" else (Wsgi, refusing)


class World:
    """A gate with a priced path and a scoped one, and a key of 5 requests a minute."""

    def __init__(self, clock: Clock) -> None:
        self.store = CountingStore()
        rules = [
            {"path": "/paid", "credits": 3},
            {"path": "/cheap", "credits": 1},
            {"path": "/closed", "scopes": ["admin"]},
        ]
        plans = {"tight": {"limits": "5/minute", "monthly_quota": 1000}}
        self.gate = Gate.open(
            settings(rules=rules, plans=plans, scopes="read"), store=self.store, clock=clock
        )
        self.gate.accounts.create("acct_a")
        made = self.gate.keys.create("acct_a", "k", scopes=["read"])
        self.key = made.text

    def get(self, adapter: Any, path: str) -> Reply:
        reply: Reply = adapter.send(Sent(path, [("X-API-Key", self.key)]))
        return reply


@pytest.fixture
def world(clock: Clock) -> Iterator[World]:
    made = World(clock)
    yield made
    made.gate.close()


@pytest.mark.parametrize(("path", "status"), [("/paid", 402), ("/closed", 403), ("/app", 403)])
def test_refusals_without_end_become_429(
    world: World, clock: Clock, adapter: Any, path: str, status: int
) -> None:
    """O12, R7: what may not be had or paid is said as often as requests are allowed; beyond that
    it is 429 with the real wait, from memory alone, and consumes nothing.
    """
    through, app = adapter
    send = through(world.gate, app)
    assert [world.get(send, path).status for _ in range(5)] == [status] * 5
    calls = world.store.calls
    world.gate.deciding.limiter = None  # type: ignore[assignment]  # whoever asks it fails
    for _ in range(100):
        reply = world.get(send, path)
        assert reply.status == 429
    assert world.store.calls == calls
    wait = int(reply["retry-after"])
    assert 1 <= wait <= 121
    assert int(reply["x-ratelimit-reset"]) - clock.now // 1000 == wait
    assert reply["x-ratelimit-monthly-remaining"] == "1000"


def test_patience_returns(world: World, clock: Clock, adapter: Any) -> None:
    """R15: who waits as long as told is answered as before, and nothing was used up meanwhile."""
    through, _ = adapter
    send = through(world.gate)
    while world.get(send, "/closed").status == 403:
        pass
    clock.advance(int(world.get(send, "/closed")["retry-after"]) * 1000)
    assert world.get(send, "/other")["x-ratelimit-remaining"] == "4"
    assert world.get(send, "/closed").status == 403


def test_limits_do_not_add_to_it(world: World, clock: Clock, adapter: Any) -> None:
    """S35: refusals by a limit are no part of this: denials do not lengthen the wait."""
    through, _ = adapter
    send = through(world.gate)
    statuses = [world.get(send, "/other").status for _ in range(50)]
    assert (statuses.count(200), statuses.count(429)) == (5, 45)
    clock.advance(int(world.get(send, "/other")["retry-after"]) * 1000)
    assert world.get(send, "/other").status == 200


def test_a_short_balance_is_asked_once(world: World, clock: Clock, adapter: Any) -> None:
    """O12: a balance that is known to be short is not asked again, for as much or more, until it
    can have changed: a grant tells, and another process is believed again after a second.
    """
    through, _ = adapter
    send = through(world.gate)
    assert [world.get(send, "/paid").status for _ in range(3)] == [402] * 3
    assert world.store.calls == 1
    world.gate.credits.grant("acct_a", 2)
    assert world.get(send, "/paid").status == 402
    assert world.store.calls == 2
    assert world.get(send, "/cheap").status == 200  # it may be enough for less
    assert world.store.calls == 3
    grant(world.store, "acct_a", 2)  # elsewhere
    clock.advance(1000)
    assert world.get(send, "/paid").status == 200


def test_limits_come_before_credits(world: World, adapter: Any) -> None:
    """The order of checks: who is over the limit is told so, whatever the balance."""
    through, _ = adapter
    send = through(world.gate)
    assert world.get(send, "/paid").status == 402
    for _ in range(5):
        world.get(send, "/other")
    assert world.get(send, "/paid").status == 429


def test_what_is_rightful_passes(world: World, adapter: Any) -> None:
    """R7: whoever is refused too often for what it may not do is let in where it may, and so are
    other keys of the account.
    """
    through, _ = adapter
    send = through(world.gate)
    while world.get(send, "/closed").status == 403:
        pass
    assert world.get(send, "/other").status == 200
    while world.get(send, "/paid").status == 402:
        pass
    world.gate.credits.grant("acct_a", 100)
    assert world.get(send, "/paid").status == 200


def test_other_keys_of_the_account_are_not_concerned(clock: Clock, adapter: Any) -> None:
    """O13: where an account's keys share limits, they don't share refusals."""
    through, app = adapter
    gate = Gate.open(
        settings(plans={"shared": {"limits": "5/minute", "per": "account"}}), clock=clock
    )
    gate.accounts.create("acct_a")
    bad, good = (gate.keys.create("acct_a", name).text for name in ("bad", "good"))
    refusing_app = through(gate, app)
    for _ in range(6):
        last = refusing_app.send(Sent("/x", [("X-API-Key", bad)]))
    assert last.status == 429
    assert through(gate).send(Sent("/x", [("X-API-Key", good)])).status == 200
    gate.close()
