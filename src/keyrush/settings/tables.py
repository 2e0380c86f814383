"""What `[plans.NAME]` and `[[rules]]` of the TOML file may hold, and the built-in plans."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from keyrush.core.calls import FREE, NOTIFICATIONS, TOOLS_CALL
from keyrush.core.checks import SCOPE
from keyrush.core.model import MAX_CONCURRENT, MAX_KEYS, Limit, MonthlyCredits, Per, Plan, Quota
from keyrush.core.notation import parse_limits
from keyrush.core.policy import MAX_CREDITS, Rule
from keyrush.errors import InvalidArgument
from keyrush.wire.request import MAX_FIELD


def _limits(value: Any) -> Any:
    """Limits from `"60/minute;1000/hour"` or a list of such."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        try:
            return parse_limits(";".join(value)) if value else ()
        except InvalidArgument as error:
            raise ValueError(error.message) from None
    if isinstance(value, tuple) and all(isinstance(item, Limit) for item in value):
        return value
    raise ValueError('must be text like "100/minute" or a list of such')


Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
ScopeName = Annotated[str, Field(pattern=f"^{SCOPE}$")]


class Table(BaseModel):
    """A table of which every name is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MonthlyCreditsTable(Table):
    """`credits_per_month` of a plan: how many, and whether those of the last month end then."""

    amount: Annotated[int, Field(ge=1, le=MAX_CREDITS, strict=True)]
    mode: Literal["replace", "add"] = "replace"


class PlanTable(Table):
    """`[plans.NAME]`: limits per key or account, requests per month, modules, a price."""

    limits: Annotated[Any, BeforeValidator(_limits)] = ()
    monthly_quota: Annotated[int, Field(ge=0, le=MAX_FIELD, strict=True)] | None = None
    on_exceed: Literal["overage", "block"] = "overage"
    modules: frozenset[str] = frozenset()
    per: Per = "key"
    quota_per: Per | None = None  # else as `per` is
    overage_price: Annotated[Decimal, Field(ge=0)] | None = None
    max_keys: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = MAX_KEYS
    credits_per_month: MonthlyCreditsTable | None = None
    max_concurrent: Annotated[int, Field(ge=1, le=MAX_CONCURRENT, strict=True)] | None = None

    def plan(self, name: str) -> Plan:
        """The value that the rest of keyrush works with."""
        quota = None if self.monthly_quota is None else Quota(self.monthly_quota, self.on_exceed)
        credits = self.credits_per_month
        return Plan(
            name,
            self.limits,
            quota,
            self.modules,
            self.per,
            self.overage_price,
            self.max_keys,
            self.quota_per or self.per,
            None if credits is None else MonthlyCredits(credits.amount, credits.mode),
            self.max_concurrent,
        )


class RuleTable(Table):
    """`[[rules]]`: what requests to a path need. See `core.policy.Rule`."""

    path: str
    methods: tuple[Annotated[str, Field(pattern=r"^[A-Za-z]+$")], ...] = ()
    scopes: tuple[ScopeName, ...] = ()
    modules: tuple[str, ...] = ()
    modules_from: str | None = None
    credits: Annotated[int, Field(ge=0, le=MAX_CREDITS, strict=True)] = 0
    tool: str | None = None
    mcp: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9/_.-]{0,63}$")] | None = None

    @model_validator(mode="after")
    def _check_mcp(self) -> RuleTable:
        if self.mcp is None:
            return self
        if set(self.methods) - {"POST"}:
            raise ValueError("mcp is about POST alone: leave methods out")
        if self.tool is not None and self.mcp != TOOLS_CALL:
            raise ValueError(f'tool goes with mcp = "{TOOLS_CALL}"')
        if self.credits and (self.mcp in FREE or self.mcp.startswith(NOTIFICATIONS)):
            raise ValueError(
                f'credits can\'t be taken for "{self.mcp}", which is never charged for'
            )
        return self

    def rule(self) -> Rule:
        """The value that the rest of keyrush works with."""
        values = self.model_dump()
        return Rule(**values | {"methods": frozenset(self.methods)})


def built_in_plans() -> dict[str, PlanTable]:
    """Starter, Pro and Business, by what they limit alone (contract R6)."""
    return {
        "starter": PlanTable(limits="100/minute", monthly_quota=500_000),
        "pro": PlanTable(limits="500/minute", monthly_quota=3_000_000),
        "business": PlanTable(limits="2000/minute"),
    }
