"""Who calls, as it was looked up and proved, with all that a warm request needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from keyrush.core.concurrency import NO_WANTS, Wants
from keyrush.core.issuers import KINDS
from keyrush.core.model import Account, ApiKey, Limit, Link, Plan, Scopes
from keyrush.core.sliding import Window


class Found(NamedTuple):
    """What one look-up on the cold path brings: a key, its account, and this month's counts."""

    key: ApiKey
    account: Account
    key_count: int  #: requests of the key's lineage counted this month
    account_count: int  #: requests of all the account's keys counted this month


class FoundLink(NamedTuple):
    """The same of a token: whom it is linked with, the account, and this month's counts."""

    link: Link
    account: Account
    key_count: int  #: requests of the link counted this month, which stands where a key does
    account_count: int  #: requests of all the account's keys and links counted this month


#: The `source` of a caller with an API key.
KEY = "key"

#: The `source` of callers of whom the store knows, and when they end: keys, and tokens of issuers.
STORED = frozenset({KEY, *KINDS})

#: In an audience, all paths that are no resource.
API = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What was proved of a caller, whatever the credential is.

    `id` names the credential, and is no secret; counts and windows of its own belong to its
    `lineage`. `prefix` is what may be shown of it. `limits`, where set, replace those of account
    and plan, and so `max_concurrent` the plan's. It is worth nothing from `ends_at` on, Unix
    milliseconds. `source` is its kind.

    `audience` are the resources that it is good for, by canonical URI (RFC 8707), with `API` for
    all paths that are none; None is everywhere. `subject`, `session_id` and `client_id` are
    whom its issuer knows, `issued_at` is when it did so, Unix milliseconds.
    """

    id: str
    lineage: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    environment: str | None = None
    limits: tuple[Limit, ...] | None = None
    max_concurrent: int | None = None
    ends_at: int | None = None
    source: str = KEY
    audience: frozenset[str] | None = None
    subject: str | None = None
    session_id: str | None = None
    client_id: str | None = None
    issued_at: int | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of a caller without a key, beside what is of any: see `Claims`."""

    audience: frozenset[str] | None = None
    subject: str | None = None
    session_id: str | None = None
    client_id: str | None = None
    issued_at: int | None = None


class MonthlyCount:
    """This month's counted requests of one subject, as one process sees them.

    `stored` is the total last read from or written to the store, `flushing` is on its way
    there, `pending` is not yet. Changed only under the lock of `usage.counting.MonthlyCounts`.
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
class Verified:
    """A verified caller with everything a warm request needs, resolved once and cached.

    `key_id` is the `Claims.id` of callers without a key, too, who have a `session`. `expires_at`
    is `NEVER` where nothing ends by itself. `counts` are those that a request adds to:
    the key's and the account's, or none in an environment that is not metered (contract R2).
    `quota_count` is the one of them that `plan.quota` is held against. `subject` is what the key's
    own counts belong to, through its rotations (`key_subject`), and `max_concurrent` is how many
    requests of it may be under way at once: its own number, else its plan's; None is any number.
    `wants` is what each request takes a slot of, for that. `is_observed` windows are told of and
    refuse nothing. Where `has_limits` is false, a request takes units of these windows alone, and
    they are enforced.
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
    quota_count: MonthlyCount
    subject: str
    counts: tuple[MonthlyCount, ...] = ()
    max_concurrent: int | None = None
    wants: Wants = NO_WANTS
    is_observed: bool = False
    has_limits: bool = False
    source: str = KEY
    session: Session | None = None

    @property
    def is_metered(self) -> bool:
        """False for sandbox keys: rate-limited, but neither counted nor charged (contract R2)."""
        return bool(self.counts)

    @property
    def changes_at(self) -> int:
        """Until when it holds as it is, Unix milliseconds: then it ends, or becomes another."""
        return self.expires_at

    def at(self, now: int) -> Verified:  # noqa: ARG002  # which `Overridden` looks at
        """The caller as it is then, itself for nearly all."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Overridden(Verified):
    """A caller whose account has other limits for a time: its `windows` are theirs before `until`,
    Unix milliseconds, and those of `then` afterwards. So nobody has to look anything up when that
    ends, and all processes change over in the same millisecond.
    """

    until: int
    then: Verified

    @property
    def changes_at(self) -> int:
        return min(self.expires_at, self.until)

    def at(self, now: int) -> Verified:
        return self if now < self.until else self.then


def key_subject(lineage: str) -> str:
    """The subject that the counts and windows of one key, through its rotations, belong to."""
    return f"key:{lineage}"


def account_subject(account_id: str) -> str:
    """The subject that the counts and windows of an account as a whole belong to."""
    return f"account:{account_id}"
