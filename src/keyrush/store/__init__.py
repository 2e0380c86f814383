"""Where accounts, keys, usage counts and balances are kept: the protocol, and `open_store`.

A store of your own is one class with these methods, all plain or all coroutines, in any mix.
Pass an instance to `Gate`, or name the class in `KEYRUSH_STORE_URL` as `package.module:Class`.
Every method may raise anything when it cannot answer: the request is then refused with 503
(S19). Instants are Unix milliseconds, months are `"2026-11"` in UTC.

A store that other processes change may also have a plain method `feed() -> Feed`. Then what
is changed elsewhere holds here at once; without, when the cache entry has expired.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from keyrush.model import Account, ApiKey, Found, Limit

#: A subject and a month, as in `("key:cred_…", "2026-11")`.
Usage = Mapping[tuple[str, str], int]


class Batch(NamedTuple):
    """The name of a set of increments, so that it can be added again without counting twice."""

    worker: str  #: who adds it, one at a time; new in each process
    number: int  #: from 1 on, higher for each batch of this worker


def key_subject(lineage: str) -> str:
    """The subject that the counts and windows of one key, through its rotations, belong to."""
    return f"key:{lineage}"


def account_subject(account_id: str) -> str:
    """The subject that the counts and windows of an account as a whole belong to."""
    return f"account:{account_id}"


class Store(Protocol):
    """What keyrush asks of a store. All writes are atomic, each on its own."""

    def find(self, fingerprints: Sequence[str], month: str) -> Found | None:
        """The key with one of the fingerprints, revoked and expired ones too; None if unknown.

        The one look-up of the cold path, so it brings account and counts along.
        """
        ...

    def add_account(self, account: Account) -> bool:
        """Add an account; False, and nothing changed, where its id exists."""
        ...

    def account(self, account_id: str) -> Account | None:
        """The account, or None."""
        ...

    def accounts(self) -> Sequence[Account]:
        """All accounts, oldest first."""
        ...

    def set_plan(self, account_id: str, plan: str) -> bool:
        """Put the account on a plan; False where there is no such account."""
        ...

    def set_account_limits(self, account_id: str, limits: tuple[Limit, ...] | None) -> bool:
        """Give the account limits of its own, or with None its plan's; False if there is none."""
        ...

    def grant(self, account_id: str, credits: int) -> int | None:
        """Add credits; the new balance, or None where there is no such account."""
        ...

    def charge(self, account_id: str, credits: int) -> int | None:
        """Take credits if the balance holds them: the new balance, or None, nothing taken."""
        ...

    def add_key(self, key: ApiKey) -> None:
        """Add a key of an existing account. Its id and fingerprint are new."""
        ...

    def key(self, key_id: str) -> ApiKey | None:
        """The key, or None."""
        ...

    def keys(self, account_id: str | None = None) -> Sequence[ApiKey]:
        """The keys of an account, or of all, oldest first."""
        ...

    def revoke(self, key_id: str, at: int) -> bool:
        """Revoke the key for good; an earlier revocation stands. False where there is none."""
        ...

    def replace(self, key_id: str, successor: ApiKey, retires_at: int) -> bool:
        """Add the successor and let the key retire at `retires_at`, in one step.

        False, and nothing changed, where the key is unknown, revoked or has been replaced.
        """
        ...

    def set_key_limits(self, key_id: str, limits: tuple[Limit, ...] | None) -> bool:
        """Give the key limits of its own, or with None its account's; False if there is none."""
        ...

    def refingerprint(self, key_id: str, fingerprint: str, pepper_id: str) -> None:
        """Store the key's fingerprint under a newer pepper; nothing else of the key changes."""
        ...

    def touch(self, used: Mapping[str, int]) -> None:
        """Set `last_used_at` of keys, alone and only forwards; nothing else of the key changes."""
        ...

    def add_usage(self, increments: Usage, batch: Batch | None = None) -> Usage:
        """Add to counts, all or none; the new totals of exactly these.

        A batch that has been added before is not added again, even by two calls at once; the
        totals are returned all the same. So a flush whose outcome is unknown can be repeated,
        within a day.
        """
        ...

    def usage(self, subject: str, month: str) -> int:
        """The count of a subject in a month; 0 where there is none."""
        ...

    def peppers(self, now: int) -> Mapping[str, int]:
        """How many active keys were made under each pepper, by pepper id."""
        ...

    def close(self) -> None:
        """Let go of connections. The store may be used again afterwards."""
        ...


class Feed(Protocol):
    """News of what has been changed in a store, by whatever process.

    Asked by one thread at a time, many times a second.
    """

    def poll(self) -> Collection[str] | None:
        """The ids of accounts that have changed, with their keys, since the last call.

        None when anything may have: at the first call, and whenever news may have been missed.
        Does not wait for news. May raise anything when the store can't answer, and works
        again later.
        """
        ...

    def close(self) -> None:
        """Let go of connections. The feed may be asked again afterwards."""
        ...


def open_store(url: str) -> Store:
    """The store at a URL: `memory://`, any SQLAlchemy URL, or `package.module:Class`.

    Raises:
        ConfigurationError: The URL is malformed, or the store can't be opened; says which.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "memory":
        from keyrush.store.memory import MemoryStore

        return MemoryStore()
    if separator:
        from keyrush.store.sql import SqlStore

        return SqlStore(url)
    from keyrush.plugins import load

    store: Store = load(url, "KEYRUSH_STORE_URL")
    return store


__all__ = ["Batch", "Feed", "Store", "account_subject", "key_subject", "open_store"]
