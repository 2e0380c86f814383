"""`mode = "observe"`: limits that are tried out count as ever, tell, and refuse nothing."""

from __future__ import annotations

from typing import Any

import pytest

from keyrush import Gate
from keyrush.core.activity import Where
from keyrush.core.concurrency import Want, Wants
from keyrush.core.sliding import Tally, Window
from keyrush.events.protocol import Event, WouldLimit
from keyrush.gate.observing import MOST, Observing
from keyrush.gate.windows import Took
from keyrush.settings.tables import PlanTable, RuleTable
from tests.conftest import Clock, settings
from tests.gate.test_rule_limits import Opening, Weighed, World, opened
from tests.support.calls import Asgi, asgi_app
from tests.support.values import NOW, verified

__all__ = ["opened"]

WOULD = "x-ratelimit-would-limit"

OBSERVED = {"path": "/export", "limits": ["2/minute"], "mode": "observe"}
TRIED = {"starter": {"limits": "2/minute", "mode": "observe"}}


def heard_by(world: World) -> list[Event]:
    heard: list[Event] = []
    world.gate.events.add(heard.append)
    return heard


def test_an_observed_rule(opened: Opening) -> None:
    """Over an observed limit a request passes, and its header says by what it would not have."""
    world = opened(OBSERVED)
    key, heard = world.key(), heard_by(world)
    for left in ("1", "0"):
        within = world.get(key, "/export")
        assert (within.status, within["x-ratelimit-remaining"]) == (200, left)
        assert WOULD not in within
    over = world.get(key, "/export")
    assert (over.status, over[WOULD]) == (200, "/export-minute")
    assert (over["x-ratelimit-limit"], over["x-ratelimit-remaining"]) == ("2", "0")
    assert WOULD not in world.get(key, "/other")
    assert [type(event) for event in heard] == [WouldLimit]


def test_counts_are_as_they_would_be(opened: Opening, clock: Clock) -> None:
    """What an observed limit would refuse takes nothing of it, and all of what is enforced."""
    world = opened(OBSERVED)
    key = world.key()
    for _ in range(50):
        assert world.get(key, "/export").status == 200
    assert world.get(key, "/other")["x-ratelimit-remaining"] == "49"
    # Two in a minute, as if the 48 had been refused: half of it later one of them is free.
    clock.advance(90_000)
    assert WOULD not in world.get(key, "/export")
    assert WOULD in world.get(key, "/export")


def test_what_is_enforced_refuses_as_ever(opened: Opening) -> None:
    """Beside an observed limit an enforced one refuses, and nothing is taken of either then."""
    world = opened(OBSERVED, plans={"starter": {"limits": "1/minute"}})
    key = world.key()
    assert world.get(key, "/export").status == 200
    for _ in range(3):
        refused = world.get(key, "/export")
        assert (refused.status, refused["x-ratelimit-limit"]) == (429, "1")
        assert WOULD not in refused
    world.gate.accounts.set_limits("acct_a", "100/minute")
    within = world.get(key, "/export")
    assert within.status == 200
    assert WOULD not in within
    assert WOULD in world.get(key, "/export")


def test_an_observed_plan(opened: Opening) -> None:
    """A plan that is observed refuses nobody; limits that a key or an account was given do."""
    world = opened(plans=TRIED)
    key = world.key()
    replies = [world.get(key, "/any") for _ in range(4)]
    assert [reply.status for reply in replies] == [200] * 4
    assert [reply[WOULD] for reply in replies[2:]] == ["minute", "minute"]
    world.gate.accounts.set_limits("acct_a", "3/minute")
    assert world.get(key, "/any").status == 200
    assert world.get(key, "/any").status == 429


def test_an_observed_quota(opened: Opening) -> None:
    """O14: a quota that blocks only tells on a plan that is observed, and meters what is above."""
    plan = {"monthly_quota": 2, "on_exceed": "block", "mode": "observe"}
    world = opened(plans={"starter": plan})
    key = world.key()
    for _ in range(2):
        assert WOULD not in world.get(key, "/any")
    over = world.get(key, "/any")
    assert (over.status, over[WOULD]) == (200, "month")
    assert over["x-ratelimit-monthly-overage"] == "1"


def test_refusals_of_an_observed_plan(opened: Opening) -> None:
    """Neither what rules refuse nor a short balance becomes 429 by limits that are observed."""
    rules = [{"path": "/a", "scopes": ["admin"]}, {"path": "/b", "credits": 5}]
    rules.append({"path": "/c", "scopes": ["read"]})
    world = opened(*rules, plans={"starter": {"limits": "1/minute", "mode": "observe"}})
    world.gate.accounts.create("acct_a")
    key = world.gate.keys.create("acct_a", "agent", scopes=["read"])
    assert [world.get(key, "/a").status for _ in range(3)] == [403] * 3
    assert [world.get(key, "/b").status for _ in range(3)] == [402] * 3
    assert [world.get(key, "/c").status for _ in range(3)] == [200] * 3


def test_activity(opened: Opening) -> None:
    """The row of such a request has the reason `would_limit`; what came of it is the answer's."""
    world = opened(OBSERVED)
    key = world.key()
    for _ in range(3):
        world.get(key, "/export")
    world.gate.flush()
    rows = world.gate.activity.page("acct_a", Where()).items
    found = [(row.status, row.outcome, row.reason) for row in rows]
    assert found == [(200, "ok", "would_limit"), (200, "ok", None), (200, "ok", None)]


def test_activity_of_refusals_alone(opened: Opening) -> None:
    """With `KEYRUSH_ACTIVITY=refusals` they are among the rows: they would have been refused."""
    world = opened(OBSERVED, activity="refusals")
    key = world.key()
    for _ in range(4):
        world.get(key, "/export")
    world.gate.flush()
    rows = world.gate.activity.page("acct_a", Where()).items
    assert [row.reason for row in rows] == ["would_limit"] * 2


def test_once_a_spell(opened: Opening, clock: Clock) -> None:
    """A key over an observed limit is told of once, until it has kept to it for a while."""
    world = opened(OBSERVED)
    key, heard = world.key(), heard_by(world)
    for _ in range(10):
        world.get(key, "/export")
    clock.advance(30_000)
    world.get(key, "/export")
    assert len(heard) == 1
    clock.advance(10 * 60_000)
    for _ in range(5):
        world.get(key, "/export")
    assert len(heard) == 2


def test_spells_are_bounded() -> None:
    """As many are remembered as there is room for."""
    heard: list[WouldLimit] = []
    usage: Any = None
    observing = Observing(usage, heard.append)
    window = Window("key:k|r:60", 60_000, 1, "r-minute")
    took = Took(Tally(True, None, 0, 0), (), told=Tally(False, window, 0, NOW + 60_000))
    for number in range(MOST + 5):
        caller = verified(key_id=f"cred_{number}")
        assert observing.over(caller, took, NOW) == "r-minute"
    assert len(heard) == MOST + 5
    assert len(observing._until) == MOST  # noqa: SLF001  # what must not grow


@pytest.mark.parametrize("limiter", ["memory://", "limits+memory://", "file"])
def test_limiters(opened: Opening, limiter: str, tmp_path: Any) -> None:
    """It is the same whatever counts the windows."""
    url = f"file://{tmp_path}/windows" if limiter == "file" else limiter
    world = opened(OBSERVED, limiter_url=url)
    key = world.key()
    replies = [world.get(key, "/export") for _ in range(4)]
    assert [reply.status for reply in replies] == [200] * 4
    assert [WOULD in reply for reply in replies] == [False, False, True, True]


def test_wrong_settings() -> None:
    """`mode` is one of two, and goes with limits of the same rule."""
    with pytest.raises(ValueError, match="mode"):
        RuleTable(path="/a", mode="observe")
    with pytest.raises(ValueError, match="mode"):
        PlanTable(mode="off")  # type: ignore[arg-type]  # what a file may hold


def test_prices_of_the_apps_own(opened: Opening) -> None:
    """A price that only an observed window could not bear is paid by the others, and told."""
    app = Weighed(("cost", (5,), {}))
    world = opened({**OBSERVED, "limits": "7/minute"}, app=app)
    key = world.key()
    replies = [world.get(key, "/export") for _ in range(3)]
    assert [reply.status for reply in replies] == [200] * 3
    assert [WOULD in reply for reply in replies] == [False, True, True]
    assert replies[-1][WOULD] == "/export-minute"
    app.calls.clear()
    # The first has taken 5 of 7, the others nothing; of the plan all took 5.
    assert world.get(key, "/export")["x-ratelimit-remaining"] == "1"
    assert world.get(key, "/other")["x-ratelimit-remaining"] == "83"


def test_it_is_told_beside_limits_in_code(opened: Opening) -> None:
    """What would have refused a request is told, whatever else the app takes for it."""
    app = Weighed(("limit", ("50/minute",), {"name": "x"}))
    world = opened({**OBSERVED, "limits": "1/minute"}, app=app)
    key = world.key()
    assert [WOULD in world.get(key, "/export") for _ in range(2)] == [False, True]


def test_a_path_beyond_ascii(opened: Opening) -> None:
    """A rule is told by its path in visible ASCII, be it of windows or of what is under way."""
    rule = {"path": "/gr\u00f6\u00dfe", "max_concurrent": 1, "mode": "observe"}
    world = opened(rule)
    key = world.key()
    want = Want(f"key:{key.key.lineage}|rule /gr\u00f6\u00dfe", 1)
    held = world.gate.concurrency.take(Wants((want,)))
    reply = world.get(key, "/gr%C3%B6%C3%9Fe")
    assert (reply.status, reply[WOULD]) == (200, "/gr%C3%B6%C3%9Fe-concurrent")
    world.gate.concurrency.give_back(held.slots)


class Gone:
    """A limiter that never answers."""

    def take(self, windows: Any, cost: int, now: int) -> Tally:
        raise OSError("gone")

    def give_back(self, windows: Any, cost: int, taken_at: int) -> None:
        raise OSError("gone")

    def close(self) -> None:
        """Holds nothing."""


def test_a_limiter_that_is_away(clock: Clock) -> None:
    """What is only observed refuses nobody while the limiter is away, be it known already or not,
    whatever the outage policy.
    """
    given = settings(plans=TRIED, limiter_outage="closed")
    gate = Gate.open(given, limiter=Gone(), clock=clock)
    gate.accounts.create("acct_a")
    world = World(Asgi, asgi_app, gate)
    key = gate.keys.create("acct_a", "agent")
    assert [world.get(key, "/any").status for _ in range(8)] == [200] * 8
    gate.close()
