"""What `[[issuers]]` of the TOML file may hold: whose tokens are good here, and for what."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from keyrush.core.audience import canonical
from keyrush.core.issuers import (
    ALGORITHMS,
    HS256,
    KNOWN_ALGORITHMS,
    MIN_SECRET,
    NEW_ACCOUNTS,
    Issuer,
    Kind,
    Preset,
)
from keyrush.core.urls import is_safe
from keyrush.settings.tables import ScopeName, Table, matching

#: What Supabase's own tokens say that they are for, and where it publishes its keys.
_SUPABASE_AUDIENCE = "authenticated"
_SUPABASE_KEYS = "/.well-known/jwks.json"

#: Characters of an issuer: what the store holds.
_MAX_ISSUER = 255

#: What a claim is called; some are URIs, so that no two issuers mean different things by one.
_CLAIM = "[A-Za-z][A-Za-z0-9_:/.-]{0,119}"


def _listed(value: Any) -> Any:
    """A list of the one that is given as text."""
    return [value] if isinstance(value, str) else value


Listed = BeforeValidator(_listed)


class IssuerTable(Table):
    """`[[issuers]]`: whose tokens are good here. See `core.issuers.Issuer`."""

    issuer: str
    kind: Kind
    audience: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Listed] = ()
    algorithms: Annotated[tuple[str, ...], Listed] = ()
    jwks_url: str | None = None
    secret: SecretStr | None = None
    typ: Annotated[str, matching("[A-Za-z0-9.+/-]{1,64}", "a type, as at+jwt")] | None = None
    preset: Preset | None = None
    anonymous: bool = False
    scopes: Annotated[tuple[ScopeName, ...], Listed] | None = None
    scope_claim: Annotated[str, matching(_CLAIM, "the name of a claim, as scope")] | None = None
    accounts: Literal["create", "link"] = "link"
    plan: str | None = None
    new_accounts: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = NEW_ACCOUNTS

    @field_validator("issuer")
    @classmethod
    def _check_issuer(cls, value: str) -> str:
        if len(value) > _MAX_ISSUER or not is_safe(value) or "?" in value:
            raise ValueError(
                f"must be an https URL of at most {_MAX_ISSUER} characters, without login, query "
                "and fragment; http from this machine alone"
            )
        return value

    @field_validator("jwks_url")
    @classmethod
    def _check_jwks_url(cls, value: str | None) -> str | None:
        if value is not None and not is_safe(value):
            raise ValueError("must be an https URL without login; http from this machine alone")
        return value

    @field_validator("algorithms")
    @classmethod
    def _check_algorithms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in KNOWN_ALGORITHMS]:
            allowed = ", ".join(KNOWN_ALGORITHMS)
            raise ValueError(f"{', '.join(unknown)} not among {allowed}")
        return tuple(dict.fromkeys(value))

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        text = "" if value is None else value.get_secret_value()
        if value is not None and len(text.encode()) < MIN_SECRET:
            raise ValueError(f"must have at least {MIN_SECRET} bytes; a shorter one can be guessed")
        if "-----BEGIN" in text or re.match(r"\s*\{", text):
            raise ValueError("is a key that others know; HS256 needs a secret")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> IssuerTable:
        if (HS256 in self._algorithms()) != (self.secret is not None):
            raise ValueError("HS256 needs a secret, and a secret is for HS256")
        if self.anonymous and self.preset is None:
            raise ValueError('anonymous is for preset = "supabase"')
        if self.scopes is not None and self.scope_claim is not None:
            raise ValueError("give scopes or scope_claim, not both")
        if self.kind == "session":
            if self.scopes is None and self.scope_claim is None:
                raise ValueError('say what a session may do: scopes, as in ["*"], or scope_claim')
            if not self._audience():
                raise ValueError("say what a session is good for: audience")
        return self

    def _algorithms(self) -> tuple[str, ...]:
        return self.algorithms or (ALGORITHMS if self.secret is None else (HS256,))

    def _audience(self) -> frozenset[str]:
        if not self.audience and self.preset == "supabase" and self.kind == "session":
            return frozenset({_SUPABASE_AUDIENCE})
        return frozenset(self.audience)

    def value(self) -> Issuer:
        """The value that the rest of keyrush works with."""
        keys_url = self.jwks_url
        if keys_url is None and self.preset == "supabase":
            keys_url = self.issuer + _SUPABASE_KEYS
        return Issuer(
            issuer=self.issuer,
            kind=self.kind,
            audience=self._audience(),
            algorithms=self._algorithms(),
            jwks_url=keys_url,
            secret=None if self.secret is None else self.secret.get_secret_value().encode(),
            typ=self.typ,
            preset=self.preset,
            anonymous=self.anonymous,
            scopes=self.scopes,
            scope_claim=self.scope_claim,
            creates=self.accounts == "create",
            plan=self.plan,
            new_accounts=self.new_accounts,
        )


def check_issuers(
    issuers: Sequence[IssuerTable], resources: Collection[str], plans: Collection[str]
) -> None:
    """Look at issuers beside each other, and beside `resources`, by their URIs, and `plans`.

    Raises:
        ValueError: They don't go together; says which settings.
    """
    presets: dict[str, Preset | None] = {}
    for table in issuers:
        if table.plan is not None and table.plan not in plans:
            allowed = ", ".join(plans)
            raise ValueError(
                f"KEYRUSH_ISSUERS: the plan {table.plan!r} is not in the table ({allowed})"
            )
        if presets.setdefault(table.issuer, table.preset) != table.preset:
            raise ValueError(
                f"KEYRUSH_ISSUERS: {table.issuer} needs the same preset for both kinds: what is no "
                "session by it might be taken for a client's"
            )
        if good := sorted(name for name in table.audience if canonical(name) in resources):
            raise ValueError(
                f"KEYRUSH_ISSUERS: the audience {good[0]} is that of a resource, whose tokens are "
                "worth nothing elsewhere; audience is for all other paths"
            )
