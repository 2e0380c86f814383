"""Limits of an account that hold for a time: in every process, and to the millisecond."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate, Refusal
from keyrush.core.times import SECOND
from tests.conftest import Clock, settings, still
from tests.support.calls import begin, decide

PLANS: dict[str, Any] = {
    "starter": {"limits": "2/minute"},
    "shared": {"limits": "2/minute", "per": "account"},
}

#: Long enough that no entry in the cache ends before an override does, or is looked up anew.
TTL = 3600


@pytest.fixture
def opened(clock: Clock) -> Iterator[Any]:
    """Opens gates, and closes them at the end."""
    gates: list[Gate] = []

    def open_gate(**values: Any) -> Gate:
        fixed = settings(plans=PLANS, cache_ttl=TTL, pepper="p" * 32, **values)
        made = Gate.open(fixed, clock=clock)
        gates.append(still(made))
        return made

    yield open_gate
    for gate in gates:
        gate.close()


@pytest.fixture
def gate(opened: Any) -> Gate:
    """A gate over a store in memory, with `acct_a` on the plan `starter`."""
    made: Gate = opened()
    made.accounts.create("acct_a", plan="starter")
    return made


def key_of(gate: Gate, **values: Any) -> str:
    return gate.keys.create("acct_a", "k", **values).text


def admitted(gate: Gate, key: str, most: int = 20) -> int:
    """How many requests of a key pass now, before one is refused."""
    for number in range(most):
        if isinstance(decide(gate, key), Refusal):
            return number
    return most


def without_look_ups(gate: Gate) -> None:
    """From now on the store can't be asked."""

    def never(*_: object) -> Any:
        raise ConnectionError("the store is away")

    gate.store.find = never  # type: ignore[method-assign,assignment]  # a fault


@pytest.mark.parametrize("for_good", [None, "4/minute"])
@pytest.mark.parametrize("is_known", [True, False])
def test_an_override_ends_by_itself(
    gate: Gate, clock: Clock, for_good: str | None, is_known: bool
) -> None:
    """O13: the limits of an override hold before its end; at its very millisecond what holds for
    good does so again, the account's or the plan's, without a look-up, and though nobody can be
    asked.
    """
    if for_good:
        gate.accounts.set_limits("acct_a", for_good)
    key = key_of(gate)
    if is_known:
        assert not isinstance(decide(gate, key), Refusal)
        clock.advance(120 * SECOND)
    until = clock.now + 600 * SECOND
    gate.accounts.set_limits("acct_a", "9/minute", until=until)
    assert admitted(gate, key) == 9
    without_look_ups(gate)
    clock.now = until - 120 * SECOND
    assert admitted(gate, key, 5) == 5
    clock.now = until - 1
    assert admitted(gate, key) == 9
    clock.now = until
    assert admitted(gate, key) == 0  # what was taken counts on, and is more than may be
    clock.advance(120 * SECOND)
    assert admitted(gate, key) == (4 if for_good else 2)


def test_windows_keep_their_counts(gate: Gate, clock: Clock) -> None:
    """O13: what has been taken of a window counts, whatever its amount becomes: neither an override
    nor its end gives anything anew.
    """
    key = key_of(gate)
    assert admitted(gate, key) == 2
    gate.accounts.set_limits("acct_a", "5/minute", until=clock.now + 30 * SECOND)
    assert admitted(gate, key) == 3
    clock.advance(30 * SECOND)
    assert admitted(gate, key) == 0


def test_an_override_of_a_whole_account(opened: Any, clock: Clock) -> None:
    """O13: where the plan counts the account as a whole, so does an override."""
    gate = opened()
    gate.accounts.create("acct_a", plan="shared")
    one, other = key_of(gate), key_of(gate)
    gate.accounts.set_limits("acct_a", "5/minute", until=clock.now + 60 * SECOND)
    assert admitted(gate, one, 4) == 4
    assert admitted(gate, other) == 1
    clock.advance(180 * SECOND)
    assert admitted(gate, one, 1) + admitted(gate, other) == 2


def test_keys_with_limits_of_their_own(gate: Gate, clock: Clock) -> None:
    """O13: the narrowest limits hold alone: a key's own are not touched by an override."""
    own = key_of(gate, limits="3/minute")
    gate.accounts.set_limits("acct_a", "9/minute", until=clock.now + 60 * SECOND)
    assert admitted(gate, own) == 3
    assert admitted(gate, key_of(gate)) == 9


def test_no_limits_for_a_time(gate: Gate, clock: Clock) -> None:
    """O13: an override may be to no limits at all, or to nothing."""
    key = key_of(gate)
    gate.accounts.set_limits("acct_a", "unlimited", until=clock.now + 60 * SECOND)
    assert admitted(gate, key) == 20
    gate.accounts.set_limits("acct_a", "0/minute", until=clock.now + 60 * SECOND)
    assert admitted(gate, key) == 0


@pytest.mark.parametrize("limits", [None, "3/minute"])
def test_what_is_given_for_good_ends_an_override(
    gate: Gate, clock: Clock, limits: str | None
) -> None:
    """O13: the last word holds: limits that are for good, or none, end an override."""
    key = key_of(gate)
    gate.accounts.set_limits("acct_a", "9/minute", until=clock.now + 60 * SECOND)
    gate.accounts.set_limits("acct_a", "8/minute", until=clock.now + 600 * SECOND)
    assert admitted(gate, key, 1) == 1
    gate.accounts.set_limits("acct_a", limits)
    assert admitted(gate, key) == (1 if limits is None else 2)


def test_an_override_that_ends_while_a_request_waits(gate: Gate, clock: Clock) -> None:
    """O13: a request that was looked up before the end, and is decided on after it, is held against
    the limits that hold then.
    """
    key = key_of(gate)
    gate.accounts.set_limits("acct_a", "9/minute", until=clock.now + 60 * SECOND)
    found = gate.finishing.verification
    pending = begin(gate, key)
    verify = found.verify

    def late(*asked: Any) -> Any:
        entry = verify(*asked)
        clock.advance(60 * SECOND)
        return entry

    found.verify = late  # type: ignore[method-assign,assignment]  # time passes
    principal, _ = pending.finish(lambda: None)
    assert [window.amount for window in principal.verified.windows] == [2]


def test_processes_change_over_together(opened: Any, clock: Clock, tmp_path: Path) -> None:
    """O13: every process that shares a store holds an override once it has the news, and ends it in
    the same millisecond, without any.
    """
    gates = [
        opened(store_url=f"sqlite:///{tmp_path}/keyrush.db", limiter_url="memory://")
        for _ in range(2)
    ]
    gates[0].accounts.create("acct_a", plan="starter")
    key = key_of(gates[0])
    for gate in gates:
        gate.watch.poll()
        assert admitted(gate, key) == 2
    until = clock.now + 180 * SECOND
    gates[0].accounts.set_limits("acct_a", "9/minute", until=until)
    for gate in gates:
        gate.watch.poll()
    clock.now = until - 1
    assert [admitted(gate, key) for gate in gates] == [9, 9]
    clock.now = until + 120 * SECOND
    for gate in gates:
        without_look_ups(gate)
    assert [admitted(gate, key) for gate in gates] == [2, 2]
