"""The store in this process's memory: for tests, and for apps that make their keys themselves."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from keyrush.forks import after_fork
from keyrush.model import Account, ApiKey, Found, Limit
from keyrush.store import Batch, Usage, account_subject, key_subject


class MemoryStore:
    """`memory://`. Thread-safe; gone with the process."""

    #: Its keys outlive no pepper, so that a random one will do.
    is_ephemeral = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[str, Account] = {}
        self._keys: dict[str, ApiKey] = {}
        self._by_fingerprint: dict[str, str] = {}
        self._usage: dict[tuple[str, str], int] = {}
        self._batches: dict[str, int] = {}
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def find(self, fingerprints: Sequence[str], month: str) -> Found | None:
        with self._lock:
            for fingerprint in fingerprints:
                if key_id := self._by_fingerprint.get(fingerprint):
                    key = self._keys[key_id]
                    return Found(
                        key,
                        self._accounts[key.account_id],
                        self._usage.get((key_subject(key.lineage), month), 0),
                        self._usage.get((account_subject(key.account_id), month), 0),
                    )
        return None

    def add_account(self, account: Account) -> bool:
        with self._lock:
            return self._accounts.setdefault(account.id, account) is account

    def account(self, account_id: str) -> Account | None:
        return self._accounts.get(account_id)

    def accounts(self) -> Sequence[Account]:
        with self._lock:
            found = list(self._accounts.values())
        return sorted(found, key=lambda account: (account.created_at, account.id))

    def set_plan(self, account_id: str, plan: str) -> bool:
        with self._lock:
            account = self._accounts.get(account_id)
            if account is not None:
                self._accounts[account_id] = replace(account, plan=plan)
            return account is not None

    def set_account_limits(self, account_id: str, limits: tuple[Limit, ...] | None) -> bool:
        with self._lock:
            account = self._accounts.get(account_id)
            if account is not None:
                self._accounts[account_id] = replace(account, limits=limits)
            return account is not None

    def grant(self, account_id: str, credits: int) -> int | None:
        return self._change_balance(account_id, credits)

    def charge(self, account_id: str, credits: int) -> int | None:
        return self._change_balance(account_id, -credits)

    def _change_balance(self, account_id: str, change: int) -> int | None:
        with self._lock:
            account = self._accounts.get(account_id)
            if account is None or account.balance + change < 0:
                return None
            balance = account.balance + change
            self._accounts[account_id] = replace(account, balance=balance)
            return balance

    def add_key(self, key: ApiKey) -> None:
        with self._lock:
            self._put(key)

    def _put(self, key: ApiKey) -> None:
        self._keys[key.id] = key
        self._by_fingerprint[key.fingerprint] = key.id

    def key(self, key_id: str) -> ApiKey | None:
        return self._keys.get(key_id)

    def keys(self, account_id: str | None = None) -> Sequence[ApiKey]:
        with self._lock:
            found = list(self._keys.values())
        chosen = (key for key in found if account_id in {None, key.account_id})
        return sorted(chosen, key=lambda key: (key.created_at, key.id))

    def revoke(self, key_id: str, at: int) -> bool:
        with self._lock:
            key = self._keys.get(key_id)
            if key is not None and key.revoked_at is None:
                self._keys[key_id] = replace(key, revoked_at=at)
            return key is not None

    def replace(self, key_id: str, successor: ApiKey, retires_at: int) -> bool:
        with self._lock:
            key = self._keys.get(key_id)
            if key is None or key.revoked_at is not None or key.retires_at is not None:
                return False
            self._keys[key_id] = replace(key, retires_at=retires_at)
            self._put(successor)
            return True

    def set_key_limits(self, key_id: str, limits: tuple[Limit, ...] | None) -> bool:
        with self._lock:
            key = self._keys.get(key_id)
            if key is not None:
                self._keys[key_id] = replace(key, limits=limits)
            return key is not None

    def refingerprint(self, key_id: str, fingerprint: str, pepper_id: str) -> None:
        with self._lock:
            key = self._keys.get(key_id)
            if key is not None:
                del self._by_fingerprint[key.fingerprint]
                self._put(replace(key, fingerprint=fingerprint, pepper_id=pepper_id))

    def touch(self, used: Mapping[str, int]) -> None:
        with self._lock:
            for key_id, at in used.items():
                key = self._keys.get(key_id)
                if key is not None and (key.last_used_at is None or key.last_used_at < at):
                    self._keys[key_id] = replace(key, last_used_at=at)

    def add_usage(self, increments: Usage, batch: Batch | None = None) -> Usage:
        with self._lock:
            if batch is None or self._is_new(batch):
                for subject, increment in increments.items():
                    self._usage[subject] = self._usage.get(subject, 0) + increment
            return {subject: self._usage.get(subject, 0) for subject in increments}

    def _is_new(self, batch: Batch) -> bool:
        is_new = self._batches.get(batch.worker, 0) < batch.number
        if is_new:
            self._batches[batch.worker] = batch.number
        return is_new

    def usage(self, subject: str, month: str) -> int:
        return self._usage.get((subject, month), 0)

    def peppers(self, now: int) -> Mapping[str, int]:
        return Counter(key.pepper_id for key in self.keys() if key.is_active(now))

    def close(self) -> None:
        """Nothing to let go of."""
