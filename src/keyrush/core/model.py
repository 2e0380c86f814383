"""The values that the rest of keyrush is about. Frozen, slotted, without behaviour that does I/O.

Times are Unix milliseconds (int) everywhere inside keyrush; they become ISO 8601 only at the
edges (`iso`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NamedTuple

_NAMES = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}


class Scopes(frozenset[str]):
    """A set of granted scopes in which wildcards count.

    `"read:articles" in Scopes(["read:*"])` is true, and everything is in `Scopes(["*"])`
    (contract R4). Iterating gives what was granted, unexpanded.
    """

    __slots__ = ()

    def __contains__(self, scope: object) -> bool:
        has = super().__contains__
        if has(scope) or has("*"):
            return True
        if not isinstance(scope, str):
            return False
        end = scope.rfind(":")
        while end != -1:
            if has(scope[: end + 1] + "*"):
                return True
            end = scope.rfind(":", 0, end)
        return False

    def covers(self, scopes: Iterable[str]) -> bool:
        """True when every one of `scopes` is granted."""
        return all(scope in self for scope in scopes)


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` requests in any `seconds`; 0 admits none."""

    amount: int
    seconds: int

    @property
    def name(self) -> str:
        """`"minute"`, `"hour"`, …, or `"10s"` for lengths without a name."""
        return _NAMES.get(self.seconds, f"{self.seconds}s")

    def __str__(self) -> str:
        unit = _NAMES.get(self.seconds)
        return f"{self.amount}/{unit}" if unit else f"{self.amount}/{self.seconds}second"


@dataclass(frozen=True, slots=True)
class Quota:
    """Requests per calendar month, UTC; `overage` meters those above, `block` refuses (R13)."""

    amount: int
    on_exceed: Literal["overage", "block"] = "overage"


@dataclass(frozen=True, slots=True)
class MonthlyCredits:
    """Credits that a plan gives each month, UTC: with `replace` what is not used ends with the
    month, with `add` it stays.
    """

    amount: int
    mode: Literal["replace", "add"] = "replace"


#: What counts are kept of.
Per = Literal["key", "account"]

#: Active keys of an account, where its plan says nothing else.
MAX_KEYS = 50

#: The most that a `max_concurrent` may say: no process, and no ledger, has so many under way.
MAX_CONCURRENT = 1_000_000

#: Stands for a number that is the plan's again, where one of its own may be given.
INHERIT = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A tier: what its accounts may use and how much.

    `per` says what is counted: each `"key"` (contract R6) or the `"account"` as a whole (O13);
    `quota_per` says it of the quota alone, which else goes with `per`. `overage_price` is the
    price of 1,000 requests above the quota (R13). `max_keys` is how many active keys an account
    may have, those aside that retire. `credits_per_month` are given to each account once a month.
    `max_concurrent` is how many requests of one key may be under way at once, None is any number.
    With `is_observed` what is over its limits or its quota is told and never refused.
    """

    name: str
    limits: tuple[Limit, ...] = ()
    quota: Quota | None = None
    modules: frozenset[str] = frozenset()
    per: Per = "key"
    overage_price: Decimal | None = None
    max_keys: int = MAX_KEYS
    quota_per: Per = ""  # type: ignore[assignment]  # never seen: it becomes what `per` is
    credits_per_month: MonthlyCredits | None = None
    max_concurrent: int | None = None
    is_observed: bool = False

    def __post_init__(self) -> None:
        if not self.quota_per:
            object.__setattr__(self, "quota_per", self.per)  # as a frozen class sets its fields


class Override(NamedTuple):
    """Limits that an account has instead of all others, before `until`, Unix milliseconds."""

    limits: tuple[Limit, ...]
    until: int


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays. `limits`, where set, replace the plan's for good (O13), and an `override` replaces
    either for a time: what holds is `limits_at`.
    """

    id: str
    plan: str
    created_at: int
    balance: int = 0
    limits: tuple[Limit, ...] | None = None
    override: Override | None = None

    def override_at(self, now: int) -> Override | None:
        """The override, while it holds; one that ends at `now` has ended."""
        return self.override if self.override is not None and now < self.override.until else None

    def limits_at(self, now: int) -> tuple[Limit, ...] | None:
        """The limits of its own that hold then; None where the plan's do."""
        override = self.override_at(now)
        return self.limits if override is None else override.limits


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored (contract O2): nothing here brings the key text back.

    `lineage` is the id of the first key of a chain of rotations; usage and windows belong to
    it, so that a replacement carries on where its predecessor stood. A key that has been
    replaced works until `retires_at`. `pepper_id` tells which pepper made `fingerprint`.
    `max_concurrent`, where set, replaces the plan's.
    `created_by` is the id of the key that made it, None where the operator did. `hash` is empty
    where none was made. `proof` says, to whoever has the pepper, that fingerprint and hash are of
    one key (`keyring.Fingerprints.proof`).
    """

    id: str
    account_id: str
    lineage: str
    name: str
    prefix: str
    environment: str | None
    scopes: tuple[str, ...]
    fingerprint: str = field(repr=False)
    hash: str = field(repr=False)
    pepper_id: str = field(repr=False)
    created_at: int
    last_used_at: int | None = None
    expires_at: int | None = None
    revoked_at: int | None = None
    retires_at: int | None = None
    limits: tuple[Limit, ...] | None = None
    max_concurrent: int | None = None
    created_by: str | None = None
    proof: str | None = field(default=None, repr=False)

    @property
    def is_limited(self) -> bool:
        """Whether it has bounds of its own, of which a key that it made would be as much again."""
        return self.limits is not None or self.max_concurrent is not None

    @property
    def ends_at(self) -> int | None:
        """When the key stops by itself: it expires or retires, whichever is earlier."""
        ends = [end for end in (self.expires_at, self.retires_at) if end is not None]
        return min(ends) if ends else None

    def is_active(self, now: int) -> bool:
        """False once revoked, expired or retired; a key that ends at `now` has ended (R5)."""
        return self.revoked_at is None and (self.ends_at is None or now < self.ends_at)


@dataclass(frozen=True, slots=True)
class Link:
    """Whom an issuer of tokens knows as `subject`, as one who acts for an account.

    `id` stands where a key's does: windows and counts of its own belong to it, and keys that its
    sessions make are `created_by` it. Of tokens that were issued before `revoked_before`, Unix
    milliseconds, none is good any more; after `ended_at` none is at all.
    """

    id: str
    account_id: str
    issuer: str
    subject: str
    created_at: int
    revoked_before: int | None = None
    ended_at: int | None = None

    def admits(self, issued_at: int | None) -> bool:
        """Whether a token that was issued then is good; one that does not say when is not, once
        any have been revoked.
        """
        if self.ended_at is not None:
            return False
        if self.revoked_before is None:
            return True
        return issued_at is not None and issued_at >= self.revoked_before
