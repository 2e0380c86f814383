"""API keys: found by a fingerprint, proved by argon2id, the first kind of credential."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from keyrush.authentication.keyring import Keyring
from keyrush.authentication.protocol import Proof, Work
from keyrush.core.identity import Claims, Found
from keyrush.core.model import ApiKey
from keyrush.core.times import month_of
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault
from keyrush.store.protocol import Store
from keyrush.wire.request import Credential


class Evidence(NamedTuple):
    """What a key was found by, and the hash that it has matched."""

    fingerprints: Sequence[str]
    hash: str


class ApiKeys:
    """The keys in a store. `slots` is how many argon2 run at once.

    With `trusts_fingerprints` none does: the HMAC match is the proof, of 178 random bits under
    a secret pepper.
    """

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        circuit: Circuit,
        *,
        trusts_fingerprints: bool,
        slots: int,
    ) -> None:
        self._store = store
        self._format, self._fingerprints, self._hashing = keyring
        self._circuit = circuit
        self._trusts_fingerprints = trusts_fingerprints
        self._slots = slots
        self._renew_slots()
        after_fork(self._renew_slots)

    def _renew_slots(self) -> None:
        self._argon2_slots = threading.BoundedSemaphore(self._slots)

    def may_be_mine(self, credential: Credential) -> bool:
        """True where prefix, alphabet, length and checksum are right (S80)."""
        return self._format.parse(credential.text) is not None

    def prove(
        self, credential: Credential, known: Evidence | None, now: int
    ) -> Proof[Evidence] | Work[Evidence] | None:
        """The key's account and rights; its hash is left to do, unless it has matched before.

        Raises:
            Away: The store can't answer.
        """
        fingerprints = self._fingerprints.all(credential.text)
        found = self._find(fingerprints, now)
        if found is None:
            return None
        if known is not None and known.hash == found.key.hash:
            return _proof(found, known)
        work = partial(self._proved, found, fingerprints, credential.text)
        return work() if self._trusts_fingerprints else work

    def renew(self, known: Evidence, now: int) -> Proof[Evidence] | None:
        """The key as it is now, if it is the one that was proved; does not repeat argon2.

        Raises:
            Away: The store can't answer.
        """
        found = self._find(known.fingerprints, now)
        return _proof(found, known) if found and found.key.hash == known.hash else None

    def _find(self, fingerprints: Sequence[str], now: int) -> Found | None:
        """The key with one of the fingerprints, if it is active."""
        found = self._circuit.call(self._store.find, fingerprints, month_of(now))
        return found if found is not None and found.key.is_active(now) else None

    def _proved(
        self, found: Found, fingerprints: Sequence[str], text: bytes
    ) -> Proof[Evidence] | None:
        """The proof, if `text` is the key that was found."""
        if not self._trusts_fingerprints:
            with self._argon2_slots:
                if not self._hashing.verify(found.key.hash, text):
                    return None
        self._renew_fingerprint(found.key, text)
        return _proof(found, Evidence(fingerprints, found.key.hash))

    def _renew_fingerprint(self, key: ApiKey, text: bytes) -> None:
        """Move a key from an old pepper to the newest one, so that the old one can be retired."""
        newest = self._fingerprints.pepper_ids[0]
        if key.pepper_id == newest:
            return
        try:
            self._store.refingerprint(key.id, self._fingerprints.new(text), newest)
        except Exception as error:
            log_fault(f"the fingerprint of {key.id} stays under an old pepper", error)


def _proof(found: Found, evidence: Evidence) -> Proof[Evidence]:
    key = found.key
    claims = Claims(
        id=key.id,
        lineage=key.lineage,
        name=key.name,
        prefix=key.prefix,
        scopes=key.scopes,
        environment=key.environment,
        limits=key.limits,
        ends_at=key.ends_at,
    )
    return Proof(claims, found.account, found.key_count, found.account_count, evidence)
