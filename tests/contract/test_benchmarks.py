"""The benchmark of a fleet: its load, and what it fails for. Its figures decide nothing here."""

from collections import Counter
from typing import Any

import pytest
from benchmarks import costs
from benchmarks.fleet.measure import DEFAULT, QUICK, WHOLE, Extent
from benchmarks.fleet.report import faults, render
from benchmarks.fleet.workload import RATE, plan_of

from keyrush.settings.tables import built_in_plans


def limit_of(number: int, made: int) -> int:
    (limit,) = built_in_plans()[plan_of(number, made)].plan("").limits
    assert limit.name == "minute"
    return limit.amount


@pytest.mark.parametrize("extent", [QUICK, WHOLE], ids=["quick", "whole"])
def test_the_load_stays_within_the_plans(extent: Extent) -> None:
    """R6: no key of the fleet asks for more in a minute than its documented plan allows, so that
    what is measured is requests that are let through.
    """
    a_minute = extent.paced._replace(requests=int(60 * extent.paced.keys * RATE)).order(0)
    fast: Counter[int] = Counter()
    for seed in range(extent.rounds):
        fast.update(extent.fast.order(seed))
    for load in (Counter(a_minute), fast):
        assert all(count <= limit_of(number, extent.made) for number, count in load.items())


def test_the_paced_fleet_has_every_plan() -> None:
    """Of the keys that take part, as of all, one in a hundred is on Business, nine on Pro."""
    plans = Counter(plan_of(number, WHOLE.made) for number in WHOLE.paced.each())
    assert plans == {"business": 20, "pro": 180, "starter": 1_800}


def figures(*, added: float, look_ups: float = 0.0, trips: float = 0.0) -> dict[str, Any]:
    costs = {"bare ASGI app": 1.0, "Starlette route": 9.0, DEFAULT: 1 + added, "slowapi": 109.0}
    asked = {"p50": 1.0, "p99": 2.0, "max": 3.0, "look_ups": look_ups, "trips": trips}
    part = {name: {"cpu": cost, **asked} for name, cost in costs.items()}
    memory = {DEFAULT: {"key": 600.0, "tracked": 9.0, "window": 80.0, "outside": 66.0}}
    return {
        "keys": 10_000,
        "paced keys": 2_000,
        "left out": ["fastapi-keygate"],
        "paced": part,
        "fast": part,
        "server": {},
        "memory": memory,
    }


def test_the_benchmark_fails_where_slowapi_is_cheaper() -> None:
    """What keyrush adds by default is held against what slowapi adds, in one run."""
    assert faults(figures(added=99)) == []
    assert faults(figures(added=101)) == [f"{DEFAULT} adds 101 µs to a paced request, slowapi 100"]


def test_the_benchmark_fails_where_a_known_key_costs_a_look_up() -> None:
    """In its steady state a fleet needs neither look-ups nor round trips."""
    assert len(faults(figures(added=9, look_ups=0.001))) == 2
    assert len(faults(figures(added=9, trips=0.001))) == 2


def test_the_table_says_what_is_left_out() -> None:
    """A peer that is not installed is named, and not passed over."""
    lines = render(figures(added=9))
    assert f"| {DEFAULT} | 10.0 | 9.0 | 1 | 2 | 3 | 0.0000 | 0.0000 |" in lines
    assert lines[-1] == "Not installed: fastapi-keygate."


def test_what_limits_cost_can_be_measured() -> None:
    """Each take and each request has a figure, in memory and in a file."""
    found = costs.measure(rounds=1, calls=1)
    assert [set(by_place) for by_place in found.values()] == [{"memory", "mapped"}] * 10
    assert len(costs.render(found)) == 12
