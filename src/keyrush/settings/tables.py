"""What `[plans.NAME]` and `[[rules]]` of the TOML file may hold, and the built-in plans."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from keyrush.core.calls import FREE, NOTIFICATIONS, TOOLS_CALL
from keyrush.core.checks import SCOPE
from keyrush.core.model import MAX_CONCURRENT, MAX_KEYS, Limit, MonthlyCredits, Per, Plan, Quota
from keyrush.core.notation import parse_limits
from keyrush.core.paths import METHODS, PathList, pattern, with_head, without_slash
from keyrush.core.policy import MAX_COST, MAX_CREDITS, Rule
from keyrush.core.rule_limits import Counted, RuleLimits
from keyrush.core.times import SECOND
from keyrush.errors import ConfigurationError, InvalidArgument
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


#: Milliseconds that a request waits at most.
MAX_WAIT = 30 * SECOND

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s)").fullmatch

#: Whether limits refuse what is over them, or only tell.
Mode = Literal["enforce", "observe"]


def matching(expression: str, allowed: str) -> AfterValidator:
    """A check of text by a regular expression, which says what is allowed in words."""
    fits = re.compile(expression).fullmatch

    def check(value: str) -> str:
        if not fits(value):
            raise ValueError(f"must be {allowed}")
        return value

    return AfterValidator(check)


Name = Annotated[
    str,
    matching("[A-Za-z][A-Za-z0-9_-]{0,31}", "1 to 32 letters, digits, _ and -, a letter first"),
]
ScopeName = Annotated[str, matching(SCOPE, '1 to 120 visible ASCII characters, without " and \\')]


def checked_paths(kind: str, paths: tuple[str, ...]) -> tuple[str, ...]:
    """The paths of a list, if each of them is one.

    Raises:
        ValueError: One is not; says which.
    """
    try:
        PathList(kind, paths)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    return paths


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
    mode: Mode = "enforce"

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
            self.mode == "observe",
        )


#: What a rule's limits may be told apart by: text, a list, or either by the name of the plan.
RuleLimitsByPlan = dict[str, Annotated[Any, BeforeValidator(_limits)]]


def _rule_limits(value: Any) -> Any:
    return value if isinstance(value, dict) else _limits(value)


def _milliseconds(value: Any) -> Any:
    """Milliseconds from `"2s"`, `"1.5s"` or `"500ms"`."""
    if isinstance(value, str) and (found := _DURATION(value.strip())):
        value = round(float(found[1]) * (1 if found[2] == "ms" else SECOND))
    if type(value) is not int or not 0 <= value <= MAX_WAIT:
        raise ValueError(f'must be text like "2s" or "500ms", of at most {MAX_WAIT // SECOND}s')
    return value


def _method(value: str) -> str:
    if value.upper() not in METHODS:
        raise ValueError("must be a method of HTTP, as in GET")
    return value


_MCP_METHOD = "[A-Za-z][A-Za-z0-9/_.-]{0,63}"

#: What rules of messages that are free in MCP can't say.
_LIMITING = frozenset({"limits", "limit_group", "max_concurrent", "cost", "wait"})


class RuleTable(Table):
    """`[[rules]]`: what requests to a path need. See `core.policy.Rule`."""

    path: str
    methods: tuple[Annotated[str, AfterValidator(_method)], ...] = ()
    scopes: tuple[ScopeName, ...] = ()
    modules: tuple[str, ...] = ()
    modules_from: str | None = None
    credits: Annotated[int, Field(ge=0, le=MAX_CREDITS, strict=True)] = 0
    tool: str | None = None
    mcp: Annotated[str, matching(_MCP_METHOD, "a method of MCP, as tools/call")] | None = None
    limits: Annotated[RuleLimitsByPlan | Any, BeforeValidator(_rule_limits)] = None
    per: Counted = "key"
    limit_group: Name | None = None
    max_concurrent: Annotated[int, Field(ge=1, le=MAX_CONCURRENT, strict=True)] | None = None
    cost: Annotated[int, Field(ge=1, le=MAX_COST, strict=True)] = 1
    wait: Annotated[int, BeforeValidator(_milliseconds)] = 0
    mode: Mode = "enforce"

    @field_validator("path")
    @classmethod
    def _check_path(cls, value: str) -> str:
        try:
            pattern(value)
        except ConfigurationError as error:
            raise ValueError(str(error).removeprefix(f"rule path {value!r}: ")) from None
        return value

    @model_validator(mode="after")
    def _check_mcp(self) -> RuleTable:
        if self.mcp is None:
            return self
        if set(self.methods) - {"POST"}:
            raise ValueError("mcp is about POST alone: leave methods out")
        if self.tool is not None and self.mcp != TOOLS_CALL:
            raise ValueError(f'tool goes with mcp = "{TOOLS_CALL}"')
        if self.mcp in FREE or self.mcp.startswith(NOTIFICATIONS):
            if self.credits:
                raise ValueError(
                    f'credits can\'t be taken for "{self.mcp}", which is never charged for'
                )
            if limiting := sorted(self.model_fields_set & _LIMITING):
                raise ValueError(f'"{self.mcp}" is never limited: leave {limiting[0]} out')
        return self

    @model_validator(mode="after")
    def _check_limits(self) -> RuleTable:
        if self.limits is None and self.max_concurrent is None:
            for name in ("mode", "per"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} goes with limits or max_concurrent, of the same rule")
        return self

    def rule(self, groups: Mapping[str, RuleLimits] = MappingProxyType({})) -> Rule:
        """The value that the rest of keyrush works with; `groups` are the limits of those that
        share them.
        """
        values = self.model_dump(
            exclude={"methods", "limits", "per", "limit_group", "max_concurrent", "mode"}
        )
        limits = groups.get(self.limit_group or "") or self.rule_limits()
        return Rule(**values, methods=frozenset(self.methods), limits=limits)

    def rule_limits(self) -> RuleLimits | None:
        """What it limits itself; None where it says nothing of that."""
        if self.limits is None and self.max_concurrent is None:
            return None
        limits: Any = self.limits
        is_by_plan = isinstance(limits, dict)
        methods = " ".join(sorted(name.upper() for name in self.methods))
        own = " ".join(filter(None, (methods, self.path, self.mcp, self.tool)))
        return RuleLimits(
            f"group {self.limit_group}" if self.limit_group else f"rule {own}",
            self.limit_group or self.tool or self.mcp or self.path,
            limits=() if is_by_plan else limits or (),
            by_plan=limits if is_by_plan else {},
            per=self.per,
            max_concurrent=self.max_concurrent,
            is_observed=self.mode == "observe",
        )


class AnonymousTable(Table):
    """`[anonymous]`: what requests without a key are held to, on paths that need none; those of
    `exempt_paths` to nothing but their rules.
    """

    limits: Annotated[Any, BeforeValidator(_limits)]
    exempt_paths: tuple[str, ...] = ()

    @field_validator("exempt_paths")
    @classmethod
    def _check_exempt_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return checked_paths("exempt", value)

    def value(self) -> RuleLimits:
        """The value that the rest of keyrush works with."""
        return RuleLimits("anonymous", "anonymous", self.limits, per="address")


def rules_of(tables: Sequence[RuleTable]) -> tuple[Rule, ...]:
    """All rules as values. Of those that share a `limit_group`, one says the limits, or all the
    same.

    Raises:
        ValueError: The rules of a group differ, or none of them says any limits.
    """
    groups: dict[str, RuleLimits] = {}
    for number, table in enumerate(tables):
        limits = table.rule_limits()
        if table.limit_group is None or limits is None:
            continue
        if groups.setdefault(table.limit_group, limits) != limits:
            raise ValueError(
                f"rules.{number}.limit_group: {table.limit_group} has other limits elsewhere; say "
                "limits, per, max_concurrent and mode in one rule of the group alone"
            )
    for number, name in enumerate(table.limit_group for table in tables):
        if name is not None and name not in groups:
            raise ValueError(f"rules.{number}.limit_group: no rule says the limits of {name}")
    return tuple(table.rule(groups) for table in tables)


def check_each_counts(tables: Sequence[RuleTable]) -> None:
    """Go on only if no rule is without effect: the first that matches counts, so one is where
    others before it have its path and all of its methods, or its tool of MCP.

    Raises:
        ValueError: There is one; says which, and which comes before.
    """
    counting: dict[tuple[str, str], int] = {}  # the rule of a path and a method, "" for all
    for number, table in enumerate(tables):
        if table.mcp is not None:
            path = without_slash(table.path)
            own = [f"{table.mcp} {table.tool or ''}"]
            every = f"{table.mcp} "  # which an earlier rule may have for all tools
        else:
            path = pattern(table.path)
            own = sorted(with_head(table.methods)) or [""]
            every = ""
        found = [counting.get((path, every), counting.get((path, one))) for one in own]
        before = [one for one in found if one is not None]
        if len(before) == len(own):
            same = " and methods" if table.mcp is None else ", mcp and tool"
            raise ValueError(
                f"rules.{number}: has no effect: rules.{max(before)} has the same path{same}, "
                "and the first rule that matches counts; leave one out, or put the narrower first"
            )
        for one in own:
            counting.setdefault((path, one), number)


def built_in_plans() -> dict[str, PlanTable]:
    """Starter, Pro and Business, by what they limit alone (contract R6)."""
    return {
        "starter": PlanTable(limits="100/minute", monthly_quota=500_000),
        "pro": PlanTable(limits="500/minute", monthly_quota=3_000_000),
        "business": PlanTable(limits="2000/minute"),
    }
