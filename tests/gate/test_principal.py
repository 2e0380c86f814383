"""What a handler finds out about its caller, and how it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from keyrush import InvalidArgument, Principal, Refused
from keyrush.core.checks import checked_credits
from keyrush.core.model import Plan
from keyrush.core.policy import MAX_CREDITS, Policy
from keyrush.core.refusal import Refusal
from keyrush.gate.principal import Anonymous, Means
from tests.support.values import NOW, verified

STARTER = Plan("starter", modules=frozenset({"meta"}))
POLICY = Policy(modules=frozenset({"meta", "sentiment"}))


class Charges:
    """In place of the gate's charging: notes what is charged."""

    def __init__(self) -> None:
        self.charged: list[int] = []

    def charge(self, principal: Principal, credits: int) -> int | None:
        self.charged.append(credits)
        return 500 - credits

    async def charge_async(self, principal: Principal, credits: int) -> int | None:
        return self.charge(principal, credits)


class Weighs:
    """Weighs nothing."""

    def nothing(self, *args: Any) -> Any:
        raise AssertionError("nothing is weighed here")

    limit = limit_async = cost = cost_async = cost_after = nothing


@pytest.fixture
def charges() -> Charges:
    """What was charged."""
    return Charges()


@pytest.fixture
def principal(charges: Charges) -> Principal:
    """A key on the starter plan that may read articles."""
    means = Means(POLICY, charges, Weighs())
    return Principal(verified("read:articles", plan=STARTER), means, NOW, [])


def test_who_it_is(principal: Principal) -> None:
    """R2: everything that an app may ask about its caller, also by the names Starlette uses."""
    assert principal.account_id == "acct_a"
    assert principal.key_id == principal.identity == "cred_a"
    assert principal.name == principal.display_name == "production"
    assert principal.environment == "live"
    assert list(principal.scopes) == ["read:articles"]
    assert (principal.plan, principal.verified.plan) == (STARTER.name, STARTER)
    assert principal.is_authenticated is True
    assert principal.taken_at == NOW


def test_repr(principal: Principal) -> None:
    """O22: the repr shows the display prefix and no more of the key."""
    assert repr(principal) == "<Principal cred_a kr_live_abc123... of acct_a>"


@pytest.mark.parametrize(
    "need",
    [
        lambda p: p.require_scope(),
        lambda p: p.require_scope("read:articles"),
        lambda p: p.require_module(),
        lambda p: p.require_module("meta"),
    ],
)
def test_requirements_that_are_met(principal: Principal, need: Callable[[Any], None]) -> None:
    """What the caller has lets the handler go on."""
    need(principal)
    assert principal.refusal is None


@pytest.mark.parametrize(
    ("need", "refusal"),
    [
        (
            lambda p: p.require_scope("read:articles", "read:entities"),
            Refusal("insufficient_scope", names=("read:articles", "read:entities")),
        ),
        (
            lambda p: p.require_module("meta", "sentiment"),
            Refusal("module_not_in_plan", names=("sentiment",)),
        ),
        (lambda p: p.require_module("made-up"), Refusal("module_not_in_plan")),
        (lambda p: p.refuse(Refusal("not_found")), Refusal("not_found")),
    ],
)
def test_requirements_that_are_not_met(
    principal: Principal, need: Callable[[Any], None], refusal: Refusal
) -> None:
    """S17, S18: what is raised carries the refusal, and the principal remembers it."""
    with pytest.raises(Refused) as caught:
        need(principal)
    assert caught.value.refusal == principal.refusal == refusal
    assert str(caught.value) == f"{refusal.status} {refusal.reason}"


def test_charge(principal: Principal, charges: Charges) -> None:
    """O11: both ways of charging take the credits and give the new balance."""
    assert principal.charge(3) == 497
    assert asyncio.run(principal.charge_async(10)) == 490
    assert charges.charged == [3, 10]


@pytest.mark.parametrize("credits", [-1, MAX_CREDITS + 1, 1.5, True, "3", None])
def test_charge_of_nonsense(principal: Principal, charges: Charges, credits: Any) -> None:
    """A negative, huge or fractional cost is a mistake, and nothing is charged."""
    with pytest.raises(InvalidArgument, match="credits"):
        principal.charge(credits)
    with pytest.raises(InvalidArgument, match="credits"):
        asyncio.run(principal.charge_async(credits))
    assert charges.charged == []


@pytest.mark.parametrize("credits", [0, 1, MAX_CREDITS])
def test_prices(credits: int) -> None:
    """O11: a price is a whole number from 0 (export_dataset) to 1,000,000,000."""
    assert checked_credits(credits) == credits


def test_anonymous() -> None:
    """On public paths the caller is nobody, with no scopes."""
    nobody = Anonymous()
    assert nobody.is_authenticated is False
    assert "read:articles" not in nobody.scopes
    assert nobody.identity == nobody.display_name == ""
    assert repr(nobody) == "<Anonymous>"
    with pytest.raises(Refused):
        nobody.refuse(Refusal("not_found"))
    assert nobody.refusal == Refusal("not_found")
