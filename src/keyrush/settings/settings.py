"""Every setting, its default and its unit; `sources` says where they come from."""

from __future__ import annotations

import ipaddress
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from keyrush.core.catalog import Catalog
from keyrush.core.checks import MAKE_PEPPER, MIN_PEPPER
from keyrush.core.issuers import Issuer
from keyrush.core.notation import names_of
from keyrush.core.paths import is_plain
from keyrush.core.policy import Policy, Unruled
from keyrush.core.rule_limits import RuleLimits
from keyrush.errors import ConfigurationError
from keyrush.limiter.protocol import Mode, Outage
from keyrush.runtime.plugins import attribute
from keyrush.settings import sources
from keyrush.settings.dashboard import DashboardSettings
from keyrush.settings.issuers import IssuerTable, check_issuers
from keyrush.settings.mistakes import explained, look_for_typing_errors
from keyrush.settings.resources import ResourceTable, check_together
from keyrush.settings.tables import (
    AnonymousTable,
    Name,
    PlanTable,
    RuleTable,
    ScopeName,
    built_in_plans,
    check_each_counts,
    checked_paths,
    rules_of,
)
from keyrush.wire.refusals import Body
from keyrush.wire.request import CREDENTIAL_HEADERS
from keyrush.wire.sender import UNIX, Kept, Network

PREFIX = sources.PREFIX

#: Headers that are for something else, or that WSGI does not hand on as headers.
_UNFIT = {"connection", "content-length", "content-type", "cookie", "host", "transfer-encoding"}


def _split(value: Any) -> Any:
    """A list from `"a,b"`."""
    return list(names_of([value])) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(DashboardSettings):
    """All settings. Each may be given as `KEYRUSH_NAME`, in the TOML file, or as an argument.

    Raises:
        ConfigurationError: A setting is wrong; names it and says what is allowed. Secrets
            are not shown.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    config: Path | None = Field(
        None, description="TOML file; keyrush.toml in the working folder, if there is one"
    )
    store_url: str = Field("sqlite:///keyrush.db", repr=False, description="where keys are kept")
    limiter_url: str = Field("store", repr=False, description="where windows are counted")
    limiter_mode: Mode = Field(
        "leased", description="take from shared windows in blocks ahead of need, or one by one"
    )
    limiter_outage: Outage = Field(
        "local", description="while shared windows are away: each process its share, all, or 503"
    )
    usage_durability: Literal["batched", "exact"] = Field(
        "batched", description="write monthly counts every second, or before each answer"
    )
    activity: Literal["all", "refusals", "off"] = Field(
        "all", description="what activity has: every request of a known caller, refusals, nothing"
    )
    activity_days: int = Field(
        30, ge=1, le=3650, description="days that rows of activity are kept; totals stay longer"
    )
    activity_address: Kept = Field(
        "prefix", description="of clients' addresses in activity: all, the network, or nothing"
    )
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
    public_paths: Names = Field(
        ("/health",), description="paths that need no key; {name} is one segment, * what is beneath"
    )
    optional_paths: Names = Field(
        (), description="paths where whoever sends a key is known, and nobody needs one"
    )
    unruled: Unruled = Field(
        "any_key", description="what no rule names, path or method: any valid key, or refuse it"
    )
    root_path: str = Field("", description="prefix of paths that is set inside the app")
    preflight: Literal["refuse", "pass"] = Field(
        "refuse", description="CORS preflights: refuse like any request, or pass without a key"
    )
    credential_headers: Names = Field(
        CREDENTIAL_HEADERS, description="request headers that may hold a key"
    )
    websocket_protocol: str = Field(
        "", description="WebSocket subprotocol after which browsers send a key; empty for none"
    )
    hide_credentials: bool = Field(
        False, description="take the headers that may hold a key out of what the app sees"
    )
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
    argon2_slots: int | None = Field(
        None, ge=1, le=64, description="argon2 at once; else by cores and quota, at most 4"
    )
    headers: Literal["x-ratelimit", "ietf", "both"] = Field(
        "x-ratelimit", description="rate-limit header fields"
    )
    errors: Any = Field(
        "documented", description="refusal bodies: documented, problem or package.module:function"
    )
    keys_url: str | None = Field(None, description="where people get keys; shown in the 401 text")
    gated_status: Literal["403", "402"] = Field(
        "403", description="status where the plan lacks a module"
    )
    realm: str = Field("api", description="realm of the WWW-Authenticate challenge")
    trusted_proxies: Names = Field(
        (), description="networks, or unix, whose X-Forwarded-For is believed"
    )
    plans: dict[Name, PlanTable] = Field(
        default_factory=built_in_plans,
        description="plans by name; the first is the default",
    )
    rules: tuple[RuleTable, ...] = Field((), description="what paths need; the first match counts")
    anonymous: AnonymousTable | None = Field(
        None, description="what requests without a key are limited to, by address; none if unset"
    )
    resources: tuple[ResourceTable, ...] = Field(
        (), description="endpoints of MCP, which tokens are issued for one by one"
    )
    mcp_max_body: int = Field(
        1_048_576, ge=1024, le=2**30, description="bytes of a request to a resource that are read"
    )
    issuers: tuple[IssuerTable, ...] = Field(
        (), repr=False, description="whose tokens are good beside keys: sessions, OAuth clients"
    )
    sources: Names = Field((), description="data sources listed in the capabilities")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(explained(error, values, type(self).model_fields)) from None
        except SettingsError as error:
            name = str(error).partition('"')[2].partition('"')[0]
            raise ConfigurationError(f"{PREFIX}{name.upper()}: must be JSON here") from None
        look_for_typing_errors(type(self).model_fields)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # named by pydantic
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # named by pydantic
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the TOML file; the first gives a setting whole."""
        file = sources.TomlFile(settings_cls, init_settings)
        rest = sources.Whole(settings_cls, file)
        if not sources.is_in_environment():  # to look for each takes longer than all else
            return init_settings, rest
        return init_settings, sources.Whole(settings_cls, env_settings), rest

    # --- checks ---

    @field_validator("config", mode="before")
    @classmethod
    def _check_config(cls, value: object) -> object:
        return value or None

    @field_validator("key_prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,15}", value):
            raise ValueError("must be 1 to 16 letters and digits, a letter first")
        return value

    @field_validator("key_environments", "unmetered_environments")
    @classmethod
    def _check_environments(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names one environment twice")
        return value

    @field_validator("pepper")
    @classmethod
    def _check_pepper(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if len({pepper.get_secret_value() for pepper in value}) != len(value):
            raise ValueError("the same pepper is given twice")
        for number, pepper in enumerate(value, 1):
            length = len(pepper.get_secret_value().encode())
            if length < MIN_PEPPER:
                which = f"number {number} has" if len(value) > 1 else "has"
                raise ValueError(
                    f"{which} {length} bytes, which can be guessed; give at least {MIN_PEPPER}, "
                    f"as from {MAKE_PEPPER}"
                )
        return value

    @field_validator("websocket_protocol")
    @classmethod
    def _check_protocol(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9.+_-]{0,64}", value):
            raise ValueError("must be a name, such as keyrush, of at most 64 letters, digits, .+_-")
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
            if network != UNIX:
                ipaddress.ip_network(network)
        return value

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        stripped = value.rstrip("/")
        if stripped and (not is_plain(stripped, None) or re.search(r"[{}*?#]", stripped)):
            raise ValueError("must be a path such as /api, without //, .. or {")
        return stripped

    @field_validator("credential_headers")
    @classmethod
    def _check_credential_headers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.lower() for name in value))
        if not names or not all(re.fullmatch(r"[a-z][a-z0-9-]{0,63}", name) for name in names):
            raise ValueError("must be names of headers, such as authorization,x-api-key")
        if unfit := sorted(_UNFIT.intersection(names)):
            raise ValueError(f"{', '.join(unfit)} can't hold a key")
        return names

    @field_validator("errors")
    @classmethod
    def _check_errors(cls, value: Any) -> Any:
        if value in ("documented", "problem") or callable(value):
            return value
        if isinstance(value, str) and ":" in value:
            try:
                named = attribute(value, "errors")
            except ConfigurationError as error:
                raise ValueError(str(error).removeprefix("errors: ")) from None
            if callable(named):
                return named
        raise ValueError("must be documented, problem or package.module:function")

    @field_validator("public_paths")
    @classmethod
    def _check_public_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return checked_paths("public", value)

    @field_validator("optional_paths")
    @classmethod
    def _check_optional_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return checked_paths("optional", value)

    @field_validator("rules")
    @classmethod
    def _check_rules(cls, value: tuple[RuleTable, ...]) -> tuple[RuleTable, ...]:
        Policy((), rules_of(value))
        check_each_counts(value)
        return value

    @model_validator(mode="after")
    def _check_unmetered(self) -> Settings:
        unknown = set(self.unmetered_environments) - set(self.key_environments)
        if unknown and "unmetered_environments" in self.model_fields_set:
            known = ", ".join(self.key_environments) or "none"
            raise ValueError(
                f"KEYRUSH_UNMETERED_ENVIRONMENTS: {', '.join(sorted(unknown))} is not among the "
                f"environments of keys ({known})"
            )
        return self

    @model_validator(mode="after")
    def _check_resources(self) -> Settings:
        rules = rules_of(self.rules)
        check_together(
            self.resources, rules, self.public_paths, self.optional_paths, self.root_path
        )
        return self

    @model_validator(mode="after")
    def _check_limits_by_plan(self) -> Settings:
        for number, rule in enumerate(self.rules):
            named = rule.limits if isinstance(rule.limits, dict) else {}
            if unknown := sorted(set(named) - set(self.plans)):
                known = ", ".join(self.plans)
                raise ValueError(f"rules.{number}.limits: {unknown[0]} is no plan ({known})")
        return self

    @model_validator(mode="after")
    def _check_argon2(self) -> Settings:
        if self.argon2_memory_cost < 8 * self.argon2_parallelism:
            raise ValueError("KEYRUSH_ARGON2_MEMORY_COST: must be at least 8 KiB for each lane")
        return self

    @field_validator("gated_status", mode="before")
    @classmethod
    def _check_status(cls, value: object) -> object:
        return str(value) if type(value) is int else value  # as it stands in TOML

    @field_validator("plans")
    @classmethod
    def _check_plans(cls, value: dict[str, PlanTable]) -> dict[str, PlanTable]:
        if not value:
            raise ValueError("must hold at least one plan")
        return value

    @field_validator("issuers")
    @classmethod
    def _check_issuers(cls, value: tuple[IssuerTable, ...]) -> tuple[IssuerTable, ...]:
        kinds = [(table.issuer, table.kind) for table in value]
        if len(set(kinds)) != len(kinds):
            raise ValueError("names one issuer twice for one kind")
        return value

    @model_validator(mode="after")
    def _check_issuers_together(self) -> Settings:
        check_issuers(self.issuers, [one.resource for one in self.resources], self.plans)
        return self

    # --- what follows from them ---

    @property
    def is_store_in_memory(self) -> bool:
        """True where what one process stores no other finds."""
        return self.store_url.startswith("memory://")

    def catalog(self) -> Catalog:
        """Plans and rules as values; the scopes of rules are known besides those of `scopes`, and
        where any are, those that resources name.
        """
        rules = rules_of(self.rules)
        known = frozenset(self.scopes).union(*(rule.scopes for rule in rules))
        if known:
            known = known.union(*(table.scopes_supported or () for table in self.resources))
        return Catalog(
            plans={name: table.plan(name) for name, table in self.plans.items()},
            default_plan=next(iter(self.plans)),
            rules=rules,
            resources=tuple(table.value(rules) for table in self.resources),
            modules=frozenset().union(*(plan.modules for plan in self.plans.values())),
            known_scopes=known,
            unmetered=frozenset(self.unmetered_environments),
        )

    @property
    def by_address(self) -> tuple[RuleLimits, ...]:
        """What counts by the client's address, or may."""
        own = () if self.anonymous is None else (self.anonymous.value(),)
        rules = [rule.limits for rule in rules_of(self.rules) if rule.limits is not None]
        has_open = bool(self.public_paths or self.optional_paths)
        return own + tuple(one for one in rules if has_open or one.per == "address")

    @property
    def issuer_values(self) -> tuple[Issuer, ...]:
        """`issuers`, as values; in their repr is no secret."""
        return tuple(table.value() for table in self.issuers)

    @property
    def issuer_names(self) -> tuple[str, ...]:
        """The `iss` of each of `issuers`, once."""
        return tuple(dict.fromkeys(table.issuer for table in self.issuers))

    @property
    def peppers(self) -> list[bytes]:
        """`pepper`, as bytes."""
        return [pepper.get_secret_value().encode() for pepper in self.pepper]

    @cached_property
    def networks(self) -> tuple[Network | str, ...]:
        """`trusted_proxies`, parsed."""
        return tuple(
            UNIX if network == UNIX else ipaddress.ip_network(network)
            for network in self.trusted_proxies
        )

    @property
    def error_body(self) -> str | Body:
        """`errors`, as `wire.refusals.Refusals` takes it."""
        body: str | Body = self.errors
        return body
