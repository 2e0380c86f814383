"""Every setting, its default and its unit: `KEYRUSH_*` first, then the TOML file in `KEYRUSH_CONFIG`."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from keyrush.errors import ConfigurationError, InvalidArgument
from keyrush.http import Body, Network
from keyrush.model import Plan, Quota, Scopes, names_of
from keyrush.notation import parse_limits
from keyrush.plugins import attribute
from keyrush.policy import MAX_CREDITS, Policy, Rule
from keyrush.windows import EXACT

PREFIX = "KEYRUSH_"

_BASIC = frozenset({"translations", "classification", "meta"})
_FULL = _BASIC | {"sentiment", "market_impact", "entities", "scoring"}


def _split(value: Any) -> Any:
    """A list from `"a,b"`."""
    return list(names_of([value])) if isinstance(value, str) else value


def _limits(value: Any) -> Any:
    """Limits from `"60/minute;1000/hour"` or a list of such."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        try:
            return parse_limits(";".join(value)) if value else ()
        except InvalidArgument as error:
            raise ValueError(error.message) from None
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
ScopeName = Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,120}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlanTable(_Table):
    """`[plans.NAME]`: limits per key or account, requests per month, modules, a price."""

    limits: Annotated[Any, BeforeValidator(_limits)] = ()
    monthly_quota: Annotated[int, Field(ge=0, lt=EXACT)] | None = None
    on_exceed: Literal["overage", "block"] = "overage"
    modules: frozenset[str] = frozenset()
    per: Literal["key", "account"] = "key"
    overage_price: Annotated[Decimal, Field(ge=0)] | None = None

    def plan(self, name: str) -> Plan:
        """The value that the rest of keyrush works with."""
        quota = None if self.monthly_quota is None else Quota(self.monthly_quota, self.on_exceed)
        return Plan(name, self.limits, quota, self.modules, self.per, self.overage_price)


class RuleTable(_Table):
    """`[[rules]]`: what requests to a path need. See `policy.Rule`."""

    path: str
    methods: tuple[Annotated[str, Field(pattern=r"^[A-Za-z]+$")], ...] = ()
    scopes: tuple[ScopeName, ...] = ()
    modules: tuple[str, ...] = ()
    modules_from: str | None = None
    credits: Annotated[int, Field(ge=0, le=MAX_CREDITS)] = 0
    tool: str | None = None

    def rule(self) -> Rule:
        """The value that the rest of keyrush works with."""
        values = self.model_dump()
        return Rule(**values | {"methods": frozenset(self.methods)})


class Settings(BaseSettings):
    """All settings. Each may be given as `KEYRUSH_NAME`, in the TOML file, or as an argument.

    Raises:
        ConfigurationError: A setting is wrong; names it and says what is allowed. Secrets
            are not shown.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    config: Path | None = Field(None, description="TOML file with plans, rules and settings")
    store_url: str = Field("sqlite:///keyrush.db", description="where keys are kept")
    limiter_url: str = Field("memory://", description="where windows are counted")
    pepper: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="secrets that key fingerprints are made with, newest first"
    )
    key_prefix: str = Field("kr", description="first part of every key")
    key_environments: Annotated[tuple[Name, ...], NoDecode, BeforeValidator(_split)] = Field(
        ("live", "test"), description="second part of keys; empty for none"
    )
    unmetered_environments: Names = Field(
        ("test",), description="environments neither counted against quotas nor charged"
    )
    public_paths: Names = Field(("/health",), description="exact paths that need no key")
    scopes: Annotated[tuple[ScopeName, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="scopes that keys may have, besides those of the rules; empty for any"
    )
    cache_size: int = Field(65_536, ge=0, description="verified keys kept in memory")
    cache_ttl: float = Field(5, ge=0, le=3600, description="seconds that a verified key is trusted")
    stale_if_error: float = Field(
        60, ge=0, le=86_400, description="seconds more while the store is away"
    )
    verify: Literal["argon2id", "fingerprint"] = Field(
        "argon2id", description="what proves a key the first time"
    )
    argon2_time_cost: int = Field(2, ge=1, le=100, description="argon2id passes")
    argon2_memory_cost: int = Field(19_456, ge=8, le=2**22, description="argon2id memory, KiB")
    argon2_parallelism: int = Field(1, ge=1, le=16, description="argon2id lanes")
    headers: Literal["x-ratelimit", "ietf", "both"] = Field(
        "x-ratelimit", description="rate-limit header fields"
    )
    errors: Any = Field(
        "documented", description="refusal bodies: documented, problem or package.module:function"
    )
    keys_url: str | None = Field(None, description="where people get keys; shown in the 401 text")
    realm: str = Field("api", description="realm of the WWW-Authenticate challenge")
    trusted_proxies: Names = Field(
        (), description="networks whose X-Forwarded-For is believed in the log of refusals"
    )
    plans: dict[Name, PlanTable] = Field(
        default_factory=lambda: {
            "starter": _plan("100/minute", 500_000, _BASIC, "0.50"),
            "pro": _plan("500/minute", 3_000_000, _FULL, "0.15"),
            "business": _plan("2000/minute", None, _FULL, None),
        },
        description="plans by name; the first is the default",
    )
    rules: tuple[RuleTable, ...] = Field((), description="what paths need; the first match counts")
    sources: Names = Field((), description="data sources listed in the capabilities")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_explained(error, values)) from None
        except SettingsError as error:
            raise ConfigurationError(f"{PREFIX}*: {error}") from None
        _look_for_typing_errors()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the TOML file."""
        return init_settings, env_settings, _TomlFile(settings_cls, init_settings)

    # --- checks ---

    @field_validator("key_prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,15}", value):
            raise ValueError("must be 1 to 16 letters and digits, a letter first")
        return value

    @field_validator("pepper")
    @classmethod
    def _check_pepper(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if len({pepper.get_secret_value() for pepper in value}) != len(value):
            raise ValueError("the same pepper is given twice")
        return value

    @field_validator("realm")
    @classmethod
    def _check_realm(cls, value: str) -> str:
        if not re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,64}", value):
            raise ValueError('must be 1 to 64 printable ASCII characters without " and \\')
        return value

    @field_validator("keys_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value and not re.fullmatch(r"https?://[\x21-\x7e]+", value):
            raise ValueError("must be an http or https URL")
        return value or None

    @field_validator("trusted_proxies")
    @classmethod
    def _check_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    @field_validator("errors")
    @classmethod
    def _check_errors(cls, value: Any) -> Any:
        if value in ("documented", "problem") or callable(value):
            return value
        if isinstance(value, str) and ":" in value:
            try:
                named = attribute(value, "errors")
            except ConfigurationError as error:
                raise ValueError(str(error)) from None
            if callable(named):
                return named
        raise ValueError("must be documented, problem or package.module:function")

    @field_validator("public_paths")
    @classmethod
    def _check_public_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Policy(value)
        return value

    @field_validator("rules")
    @classmethod
    def _check_rules(cls, value: tuple[RuleTable, ...]) -> tuple[RuleTable, ...]:
        Policy((), [table.rule() for table in value])
        return value

    @field_validator("plans")
    @classmethod
    def _check_plans(cls, value: dict[str, PlanTable]) -> dict[str, PlanTable]:
        if not value:
            raise ValueError("must hold at least one plan")
        return value

    # --- what follows from them ---

    @cached_property
    def plan_values(self) -> dict[str, Plan]:
        """The plans as values, in the order of the table."""
        return {name: table.plan(name) for name, table in self.plans.items()}

    @cached_property
    def rule_values(self) -> tuple[Rule, ...]:
        """The rules as values, in order."""
        return tuple(table.rule() for table in self.rules)

    @cached_property
    def modules(self) -> frozenset[str]:
        """Every module that some plan includes."""
        return frozenset().union(*(plan.modules for plan in self.plans.values()))

    @cached_property
    def known_scopes(self) -> frozenset[str]:
        """The scopes that keys may have besides wildcards; empty where any may be given."""
        return frozenset(self.scopes).union(*(rule.scopes for rule in self.rules))

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """`trusted_proxies`, parsed."""
        return tuple(ipaddress.ip_network(network) for network in self.trusted_proxies)

    @property
    def error_body(self) -> str | Body:
        """`errors`, as `http.Refusals` takes it."""
        body: str | Body = self.errors
        return body


def _plan(limits: str, quota: int | None, modules: frozenset[str], price: str | None) -> PlanTable:
    return PlanTable(
        limits=limits,
        monthly_quota=quota,
        modules=modules,
        overage_price=None if price is None else Decimal(price),
    )


class _TomlFile(PydanticBaseSettingsSource):
    """The file in `KEYRUSH_CONFIG`, or in the argument `config`."""

    def __init__(self, settings_cls: type[BaseSettings], init: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._path = init().get("config") or os.environ.get(f"{PREFIX}CONFIG")

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Not used: the file is read as a whole."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        if not self._path:
            return {}
        try:
            with open(self._path, "rb") as file:
                return tomllib.load(file)
        except OSError as error:
            raise ConfigurationError(
                f"{PREFIX}CONFIG: can't read {self._path}: {error.strerror}"
            ) from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{PREFIX}CONFIG: {self._path}: {error}") from None


def _explained(error: ValidationError, arguments: dict[str, Any]) -> str:
    """One line for each wrong setting: its name, its value unless secret, what is allowed."""
    lines = []
    for problem in error.errors(include_url=False):
        location = [str(part) for part in problem["loc"]]
        message = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
        name = location[0]
        shown = f"{PREFIX}{name.upper()}" if len(location) == 1 else ".".join(location)
        value = (
            "" if name in ("pepper", "store_url", "limiter_url") else f" {problem['input']!r:.200}"
        )
        if problem["type"] == "extra_forbidden":
            value, message = "", f"is no setting{_similar(name)}"
        lines.append(f"{shown}:{value} {message}")
    return "\n".join(lines)


def _similar(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), Settings.model_fields, 1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


def _look_for_typing_errors() -> None:
    """Stop on a variable that is nearly a setting; others may be meant for something else."""
    for variable in os.environ:
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and name not in Settings.model_fields:
            if hint := _similar(name):
                raise ConfigurationError(f"{variable}: is no setting{hint.upper()}")
