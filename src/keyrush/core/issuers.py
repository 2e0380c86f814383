"""Who issues tokens, and what theirs are worth here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

#: What a token stands for: a person at a dashboard, or a client that acts for one.
Kind = Literal["session", "oauth"]

SESSION: Kind = "session"
OAUTH: Kind = "oauth"
KINDS = (SESSION, OAUTH)

#: Algorithms by which each key verifies, unless an issuer says otherwise.
ALGORITHMS = ("ES256", "RS256")

#: The one that is no use without a secret: both sides have it.
HS256 = "HS256"

#: All that there are.
KNOWN_ALGORITHMS = (
    *("ES256", "ES384", "ES512", "EdDSA"),
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", HS256),
)

#: Accounts that an issuer's tokens make in a minute at most, unless it says otherwise.
NEW_ACCOUNTS = 60

#: Bytes; a shorter secret can be guessed by whoever has one token (S48).
MIN_SECRET = 32

#: What some claims must be beside what all tokens have (S52, S53).
Preset = Literal["supabase"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuer, and what its tokens of one kind are worth.

    `issuer` is their `iss`, to the byte. Those with one of `audience` are good for all paths that
    are no resource. Each is verified by one of `algorithms`, with a key of `jwks_url`, else of
    where its metadata say (S85), HS256 with `secret`. `typ` is what their header must say, where
    given (S49). `scopes`, where given, is what each may do; else that is read from `scope_claim`,
    by default from `scope` and `scp` (S64). With `creates`, a subject that is seen for the first
    time gets an account on `plan`, None is the default one, `new_accounts` a minute at most.
    """

    issuer: str
    kind: Kind
    audience: frozenset[str]
    algorithms: tuple[str, ...] = ALGORITHMS
    jwks_url: str | None = None
    secret: bytes | None = field(default=None, repr=False)
    typ: str | None = None
    preset: Preset | None = None
    anonymous: bool = False
    scopes: tuple[str, ...] | None = None
    scope_claim: str | None = None
    creates: bool = False
    plan: str | None = None
    new_accounts: int = NEW_ACCOUNTS

    @property
    def has_keys(self) -> bool:
        """Whether some of its tokens are verified by keys that it publishes."""
        return any(algorithm != HS256 for algorithm in self.algorithms)
