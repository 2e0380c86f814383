"""Operations on accounts and keys: create, list, rotate, revoke, plans, limits, credits.

They block for store calls. Arguments are checked here, whoever passes them: the account API,
the CLI, or code. All raise `StoreError`, or what a store of the user's own raises, when the
store can't answer.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from keyrush.errors import InvalidArgument, NotFound
from keyrush.keys import ALPHABET, Fingerprints, Hashing, KeyFormat, KeyText
from keyrush.model import (
    Account,
    ApiKey,
    Identity,
    Limit,
    Scopes,
    iso,
    month_bounds,
    month_of,
)
from keyrush.notation import LATEST, parse_limits
from keyrush.principal import checked_credits
from keyrush.settings import Settings
from keyrush.store import Store, account_subject, key_subject

MAX_NAME = 120  # characters (contract O4)

#: Seconds for which a rotated key goes on working, unless said otherwise, and at most.
DEFAULT_GRACE = 86_400
MAX_GRACE = 30 * 86_400

_ACCOUNT_ID = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
#: Besides markup: control characters, what turns the direction of text, and lone surrogates.
_UNSAFE = re.compile(r"[<>\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,120}")  # RFC 6749 §3.3


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the one moment when its text is known (contract O2)."""

    text: str = field(repr=False)
    key: ApiKey


@dataclass(frozen=True, slots=True)
class MonthlyUsage:
    """What a subject has used in one month, UTC; `limit` None is no quota (contract R12, R13)."""

    month: str
    counted: int
    limit: int | None
    resets_at: int
    overage_price: Decimal | None

    @property
    def overage(self) -> int:
        """Requests above the quota."""
        return 0 if self.limit is None else max(0, self.counted - self.limit)


class Accounts:
    """The operations, over a store. `changed` is told which cached identities no longer hold."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        key_format: KeyFormat,
        fingerprints: Fingerprints,
        hashing: Hashing,
        *,
        changed: Callable[[Callable[[Identity], bool]], None],
        clock: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._store = store
        self._format = key_format
        self._fingerprints = fingerprints
        self._hashing = hashing
        self._changed = changed
        self._clock = clock

    # --- accounts ---

    def create_account(
        self, account_id: str | None = None, *, plan: str | None = None, limits: str | None = None
    ) -> Account:
        """A new account, on the first plan of the table unless said otherwise.

        `limits`, as in `"60/minute;1000/hour"`, replace the plan's.

        Raises:
            InvalidArgument: The id is taken or malformed, the plan unknown, the limits malformed.
        """
        account = Account(
            f"acct_{_random_id()}" if account_id is None else _checked_account_id(account_id),
            self._checked_plan(next(iter(self._settings.plans)) if plan is None else plan),
            self._clock(),
            limits=parse_limits(limits),
        )
        if not self._store.add_account(account):
            raise InvalidArgument("account", f"{account.id} exists already")
        return account

    def account(self, account_id: str) -> Account:
        """The account.

        Raises:
            NotFound: There is none with this id.
        """
        found = self._store.account(account_id)
        if found is None:
            raise NotFound(f"no account {account_id!r}")
        return found

    def accounts(self) -> Sequence[Account]:
        """All accounts, oldest first."""
        return self._store.accounts()

    def set_plan(self, account_id: str, plan: str) -> Account:
        """Put the account on a plan; its counts stay.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: There is no such plan.
        """
        self._found(self._store.set_plan(account_id, self._checked_plan(plan)), account_id)
        self._changed(lambda identity: identity.account_id == account_id)
        return self.account(account_id)

    def set_account_limits(self, account_id: str, limits: str | None) -> Account:
        """Give the account limits of its own, or with None its plan's again; its counts stay.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: The limits are malformed.
        """
        self._found(self._store.set_account_limits(account_id, parse_limits(limits)), account_id)
        self._changed(lambda identity: identity.account_id == account_id)
        return self.account(account_id)

    def grant(self, account_id: str, credits: int) -> int:
        """Add credits (contract O19); the new balance.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: `credits` is not from 1 to 1,000,000,000.
        """
        if checked_credits(credits) == 0:
            raise InvalidArgument("credits", "0 would add nothing")
        balance = self._store.grant(account_id, credits)
        if balance is None:
            raise NotFound(f"no account {account_id!r}")
        return balance

    def usage(self, account_id: str, key_id: str | None = None) -> MonthlyUsage:
        """This month's use as stored: of the key where the plan counts keys, else of the account.

        Raises:
            NotFound: There is no such account, or no such key in it.
        """
        now = self._clock()
        account = self.account(account_id)
        plan = self._settings.plan_values[self._checked_plan(account.plan)]
        subject = account_subject(account.id)
        if key_id is not None and plan.per == "key":
            subject = key_subject(self.key(key_id, account_id).lineage)
        return MonthlyUsage(
            month_of(now),
            self._store.usage(subject, month_of(now)),
            plan.quota.amount if plan.quota else None,
            month_bounds(now)[1],
            plan.overage_price,
        )

    # --- keys ---

    def create_key(
        self,
        account_id: str,
        name: str,
        *,
        scopes: Sequence[str] = (),
        environment: str | None = None,
        expires_at: int | None = None,
        limits: str | None = None,
    ) -> NewKey:
        """A new key of an account (contract R3, O4). Its text is in the result and nowhere else.

        No scopes means `*` (R4); no environment means the first one. `expires_at` is Unix
        milliseconds. Takes as long as one argon2 hash.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: Names the argument that is wrong and says what is allowed.
        """
        self.account(account_id)
        text, key = self._minted(
            account_id=account_id,
            name=_checked_name(name),
            scopes=self._checked_scopes(scopes) or ("*",),
            environment=self._checked_environment(environment),
            expires_at=self._checked_expiry(expires_at),
            limits=parse_limits(limits),
            lineage=None,
        )
        self._store.add_key(key)
        return NewKey(text, key)

    def key(self, key_id: str, account_id: str | None = None) -> ApiKey:
        """The key; with `account_id`, only if it is of that account.

        Raises:
            NotFound: There is none, or it is another account's (contract O6).
        """
        found = self._store.key(key_id)
        if found is None or account_id not in (None, found.account_id):
            raise NotFound("no such credential")
        return found

    def keys(self, account_id: str | None = None) -> Sequence[ApiKey]:
        """The keys of an account, or of all, oldest first, revoked ones too (contract O5)."""
        return self._store.keys(account_id)

    def revoke(self, key_id: str, account_id: str | None = None) -> ApiKey:
        """Revoke a key for good (contract O6); a key revoked before stays as it is.

        Raises:
            NotFound: There is none, or it is another account's.
        """
        self.key(key_id, account_id)
        self._store.revoke(key_id, self._clock())
        self._changed(lambda identity: identity.key_id == key_id)
        return self.key(key_id)

    def rotate(
        self,
        key_id: str,
        account_id: str | None = None,
        *,
        grace: int = DEFAULT_GRACE,
        expires_at: int | None = None,
    ) -> NewKey:
        """Replace a key without downtime (contract R17).

        The replacement keeps name, scopes, environment, limits and history, and the expiry
        unless `expires_at` is given. The old key works for `grace` more seconds, with 0 it
        stops at once; meanwhile the two share one limit.

        Raises:
            NotFound: There is none, or it is another account's.
            InvalidArgument: The grace is out of bounds, or the key is revoked or expired.
        """
        if type(grace) is not int or not 0 <= grace <= MAX_GRACE:
            raise InvalidArgument("grace", f"{grace!r} is not from 0 to {MAX_GRACE} seconds")
        old = self.key(key_id, account_id)
        now = self._clock()
        if not old.is_active(now):
            raise InvalidArgument("credential", "is revoked or expired; create a new one")
        text, key = self._minted(
            account_id=old.account_id,
            name=old.name,
            scopes=old.scopes,
            environment=old.environment,
            expires_at=self._checked_expiry(expires_at) or old.expires_at,
            limits=old.limits,
            lineage=old.lineage,
        )
        if not self._store.replace(key_id, key, now + grace * 1000):
            raise InvalidArgument("credential", "is revoked or expired; create a new one")
        self._changed(lambda identity: identity.key_id == key_id)
        return NewKey(text, key)

    def set_key_limits(self, key_id: str, limits: str | None) -> ApiKey:
        """Give the key limits of its own, or with None its account's again; its counts stay.

        Raises:
            NotFound: There is no such key.
            InvalidArgument: The limits are malformed.
        """
        self._store.set_key_limits(self.key(key_id).id, parse_limits(limits))
        self._changed(lambda identity: identity.key_id == key_id)
        return self.key(key_id)

    def _minted(
        self,
        *,
        account_id: str,
        name: str,
        scopes: Sequence[str],
        environment: str | None,
        expires_at: int | None,
        limits: tuple[Limit, ...] | None,
        lineage: str | None,
    ) -> tuple[str, ApiKey]:
        minted: KeyText = self._format.mint(environment)
        key_id = f"cred_{_random_id()}"
        key = ApiKey(
            id=key_id,
            account_id=account_id,
            lineage=lineage or key_id,
            name=name,
            prefix=minted.display,
            environment=environment,
            scopes=tuple(scopes),
            fingerprint=self._fingerprints.new(minted.text),
            hash=self._hashing.hash(minted.text),
            pepper_id=self._fingerprints.pepper_ids[0],
            created_at=self._clock(),
            expires_at=expires_at,
            limits=limits,
        )
        return minted.text.decode("ascii"), key

    # --- checks ---

    def _found(self, done: bool, account_id: str) -> None:
        if not done:
            raise NotFound(f"no account {account_id!r}")

    def _checked_plan(self, plan: str) -> str:
        if plan not in self._settings.plans:
            allowed = ", ".join(self._settings.plans)
            raise InvalidArgument("plan", f"{plan!r} is not in the table; use one of {allowed}")
        return plan

    def _checked_environment(self, environment: str | None) -> str | None:
        allowed = self._format.environments
        if environment is None:
            return allowed[0] if allowed else None
        if environment not in allowed:
            hint = f"use one of {', '.join(allowed)}" if allowed else "keys have none here"
            raise InvalidArgument("environment", f"{environment!r} is unknown; {hint}")
        return environment

    def _checked_scopes(self, scopes: Sequence[str]) -> tuple[str, ...]:
        if isinstance(scopes, str):
            raise InvalidArgument("scopes", f"must be a list, not {scopes!r}")
        known = self._settings.known_scopes
        for scope in scopes:
            if not _SCOPE.fullmatch(scope):
                raise InvalidArgument(
                    "scopes", f"{scope!r} is no scope; write one like read:articles"
                )
            if known and scope not in known and not any(name in Scopes([scope]) for name in known):
                allowed = ", ".join(sorted(known))
                raise InvalidArgument("scopes", f"{scope!r} is unknown; use *, {allowed}")
        return tuple(dict.fromkeys(scopes))

    def _checked_expiry(self, expires_at: int | None) -> int | None:
        if expires_at is not None and expires_at <= self._clock():
            raise InvalidArgument("expires_at", f"{iso(expires_at)} is in the past")
        if expires_at is not None and expires_at > LATEST:
            raise InvalidArgument("expires_at", "is after the year 9999")
        return expires_at


def _checked_account_id(account_id: str) -> str:
    if not _ACCOUNT_ID.fullmatch(account_id):
        raise InvalidArgument(
            "account", f"{account_id!r} must be 1 to 64 letters, digits or characters of _.@-"
        )
    return account_id


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise InvalidArgument("name", f"must be text, not {name!r}")
    stripped = name.strip()
    if not 1 <= len(stripped) <= MAX_NAME:
        raise InvalidArgument("name", f"must have 1 to {MAX_NAME} characters, not {len(stripped)}")
    if _UNSAFE.search(stripped):
        raise InvalidArgument("name", "must hold no < or > and no control characters")
    return stripped


def _random_id() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(16))


def as_json(key: ApiKey, now: int) -> dict[str, object]:
    """The `api_credential` object of contract O4; never a key."""
    return {
        "id": key.id,
        "account_id": key.account_id,
        "name": key.name,
        "prefix": key.prefix,
        "is_active": key.is_active(now),
        "created_at": iso(key.created_at),
        "last_used_at": iso(key.last_used_at),
        "expires_at": iso(key.expires_at),
    }
