"""The values that the rest of keyrush is about. Frozen, slotted, without behaviour that does I/O.

Times are Unix milliseconds (int) everywhere inside keyrush; they become ISO 8601 only at the
edges (`iso`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, NamedTuple

from keyrush.windows import Window

#: Stands for "never" where an instant is compared: later than any date.
NEVER = 2**62

SECOND = 1000
DAY = 86_400 * SECOND

_NAMES = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}


def now_ms() -> int:
    """The wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


def iso(instant: int | None) -> str | None:
    """Unix milliseconds as ISO 8601 UTC with `Z` (contract O4), with a fraction if there is one."""
    if instant is None:
        return None
    seconds, milliseconds = divmod(instant, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    moment = moment.replace(microsecond=milliseconds * 1000)
    return moment.isoformat(timespec="milliseconds" if instant % 1000 else "seconds") + "Z"


def month_of(now: int) -> str:
    """The calendar month of an instant in UTC, as `"2026-11"` (contract R18)."""
    return datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m")


def month_bounds(now: int) -> tuple[int, int]:
    """The first millisecond of the month of `now` and of the next one, UTC (contract R18)."""
    moment = datetime.fromtimestamp(now / 1000, UTC)
    first = datetime(moment.year, moment.month, 1, tzinfo=UTC)
    following = (first + timedelta(days=31)).replace(day=1)
    return int(first.timestamp()) * 1000, int(following.timestamp()) * 1000


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


#: What counts are kept of.
Per = Literal["key", "account"]

#: Active keys of an account, where its plan says nothing else.
MAX_KEYS = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """A tier: what its accounts may use and how much.

    `per` says what is counted: each `"key"` (contract R6) or the `"account"` as a whole (O13);
    `quota_per` says it of the quota alone, which else goes with `per`. `overage_price` is the
    price of 1,000 requests above the quota (R13). `max_keys` is how many active keys an account
    may have, those aside that retire.
    """

    name: str
    limits: tuple[Limit, ...] = ()
    quota: Quota | None = None
    modules: frozenset[str] = frozenset()
    per: Per = "key"
    overage_price: Decimal | None = None
    max_keys: int = MAX_KEYS
    quota_per: Per = ""  # type: ignore[assignment]  # never seen: it becomes what `per` is

    def __post_init__(self) -> None:
        if not self.quota_per:
            object.__setattr__(self, "quota_per", self.per)  # as a frozen class sets its fields


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays. `limits`, where set, replace the plan's (O13)."""

    id: str
    plan: str
    created_at: int
    balance: int = 0
    limits: tuple[Limit, ...] | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored (contract O2): nothing here brings the key text back.

    `lineage` is the id of the first key of a chain of rotations; usage and windows belong to
    it, so that a replacement carries on where its predecessor stood. A key that has been
    replaced works until `retires_at`. `pepper_id` tells which pepper made `fingerprint`.
    `created_by` is the id of the key that made it, None where the operator did.
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
    created_by: str | None = None

    @property
    def ends_at(self) -> int | None:
        """When the key stops by itself: it expires or retires, whichever is earlier."""
        ends = [end for end in (self.expires_at, self.retires_at) if end is not None]
        return min(ends) if ends else None

    def is_active(self, now: int) -> bool:
        """False once revoked, expired or retired; a key that ends at `now` has ended (R5)."""
        return self.revoked_at is None and (self.ends_at is None or now < self.ends_at)


class Found(NamedTuple):
    """What one look-up on the cold path brings: a key, its account, and this month's counts."""

    key: ApiKey
    account: Account
    key_count: int  #: requests of the key's lineage counted this month
    account_count: int  #: requests of all the account's keys counted this month


class Count:
    """This month's counted requests of one subject, as one process sees them.

    `stored` is the total last read from or written to the store, `flushing` is on its way
    there, `pending` is not yet. Changed only under the lock of `usage.Usage`.
    """

    __slots__ = ("__weakref__", "flushing", "month", "pending", "stored", "subject")

    def __init__(self, subject: str, month: str, stored: int = 0) -> None:
        self.subject = subject
        self.month = month
        self.stored = stored
        self.flushing = 0
        self.pending = 0

    @property
    def total(self) -> int:
        """Requests counted so far."""
        return self.stored + self.flushing + self.pending


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified key with everything a warm request needs, resolved once and cached.

    `expires_at` is `NEVER` for keys without one. `counts` are those that a request adds to:
    the key's and the account's, or none in an environment that is not metered (contract R2).
    `quota_count` is the one of them that `plan.quota` is held against.
    """

    key_id: str
    account_id: str
    name: str
    prefix: str
    environment: str | None
    scopes: Scopes
    plan: Plan
    windows: tuple[Window, ...]
    expires_at: int
    quota_count: Count
    counts: tuple[Count, ...] = ()

    @property
    def is_metered(self) -> bool:
        """False for sandbox keys: rate-limited, but neither counted nor charged (contract R2)."""
        return bool(self.counts)


Reason = Literal[
    "missing_credential",
    "invalid_credential",
    "two_credentials",
    "malformed_path",
    "insufficient_scope",
    "unruled",
    "beyond_caller",
    "too_many_keys",
    "module_not_in_plan",
    "gated_feature",
    "rate_limited",
    "quota_exceeded",
    "insufficient_credits",
    "not_found",
    "method_not_allowed",
    "body_too_large",
    "unavailable",
]

#: The status of every reason (contract R7, O12, O15).
STATUS: dict[Reason, int] = {
    "missing_credential": 401,
    "invalid_credential": 401,
    "two_credentials": 400,
    "malformed_path": 400,
    "insufficient_scope": 403,
    "unruled": 403,
    "beyond_caller": 403,
    "too_many_keys": 403,
    "module_not_in_plan": 403,
    "gated_feature": 402,
    "rate_limited": 429,
    "quota_exceeded": 429,
    "insufficient_credits": 402,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_too_large": 413,
    "unavailable": 503,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let through: a value, turned into a response by `responses.Refusals`.

    `names` are the scopes or modules that were missing, or the number of keys that an account
    may have; `retry_after` is whole seconds, at
    least 1 (S21); `headers` are the rate-limit fields of an authenticated caller.
    """

    reason: Reason
    names: tuple[str, ...] = ()
    retry_after: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def status(self) -> int:
        """The HTTP status of the refusal."""
        return STATUS[self.reason]


def names_of(values: Iterable[str]) -> Iterator[str]:
    """Split each value at commas and strip it; empty parts are dropped."""
    for value in values:
        for part in value.split(","):
            if name := part.strip():
                yield name
