"""What a warm request calls on its way: counted, because timings decide nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keyrush import Gate, KeyrushMiddleware
from tests.conftest import Clock, settings
from tests.support.calls import Sent, asgi_app, run, scope_of

#: All that limits may say, of other paths and plans.
ELSEWHERE: dict[str, Any] = {
    "rules": [
        {"path": "/export", "limits": "5/minute", "per": "account", "wait": "2s", "cost": 5},
        {"path": "/search", "limits": "5/minute", "per": "address", "mode": "observe"},
        {"path": "/any"},
    ],
    "anonymous": {"limits": "20/minute"},
    "public_paths": ("/open",),
    "plans": {
        "starter": {"limits": "100/minute"},
        "tried": {"limits": "5/minute", "mode": "observe"},
    },
}

Calls = tuple[int, int]
Counting = Callable[..., Calls]


async def nothing(_: Any = None) -> Any:
    """What comes from the client, and what goes there."""


@pytest.fixture
def calls_of(clock: Clock) -> Iterator[Counting]:
    """Counts what a warm request to /any calls over a gate of these settings: functions in Python,
    those of the app and of comprehensions aside, and others.
    """
    gates: list[Gate] = []

    def calls_of(**values: Any) -> Calls:
        gate = Gate.open(settings(**values), clock=clock)
        gates.append(gate)
        gate.accounts.create("acct_a")
        key = gate.keys.create("acct_a", "agent").text
        middleware: Any = KeyrushMiddleware(asgi_app, gate=gate)
        counted = {"call": 0, "c_call": 0}

        def count(frame: Any, event: str, _: Any) -> None:
            is_ours = frame.f_globals["__name__"].startswith("keyrush.")
            if event in counted and is_ours and not frame.f_code.co_name.startswith("<"):
                counted[event] += 1

        async def main() -> None:
            for turn in range(4):  # the last of which finds all that is kept
                scope = scope_of(Sent("/any", [("X-API-Key", key)]))
                sys.setprofile(count if turn == 3 else None)
                try:
                    await middleware(scope, nothing, nothing)
                finally:
                    sys.setprofile(None)

        run(main())
        return counted["call"], counted["c_call"]

    yield calls_of
    for gate in gates:
        gate.close()


RULE: dict[str, Any] = {"path": "/any"}

#: Functions that a warm request calls in Python: under a plan alone, and where a rule names it.
PLAIN, RULED = 25, 32


def test_without_limits_of_its_own(calls_of: Counting) -> None:
    """A warm request under its plan alone calls as much as ever, whatever limits there are of other
    rules and plans, of requests without a key, and of what is only observed.
    """
    assert calls_of()[0] <= PLAIN
    plain = calls_of(rules=[RULE], plans={"starter": {"limits": "100/minute"}})
    assert calls_of(**ELSEWHERE) == plain
    assert plain[0] <= RULED


@pytest.mark.parametrize(
    ("rule", "more"),
    [
        ({"limits": "50/minute"}, 5),
        ({"limits": ["50/minute", "60/hour"], "per": "account"}, 5),
        ({"cost": 2}, 3),
        ({"max_concurrent": 5}, 11),
    ],
)
def test_limits_of_its_rule(calls_of: Counting, rule: dict[str, Any], more: int) -> None:
    """What a rule's limits add to a warm request that the rule names: no more than so many calls,
    with those that give a slot back.
    """
    assert calls_of(rules=[RULE | rule])[0] <= RULED + more


def test_slots_of_its_plan(calls_of: Counting) -> None:
    """What a plan's `max_concurrent` adds, from the take to its end."""
    plan = {"limits": "100/minute", "max_concurrent": 5}
    assert calls_of(plans={"starter": plan})[0] <= PLAIN + 8
