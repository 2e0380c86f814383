"""API keys: found by a fingerprint, proved by argon2id, the first kind of credential."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b

from keyrush.authentication.keyring import Hashing, Keyring
from keyrush.authentication.proofs import Proofs
from keyrush.authentication.protocol import Proof, Work
from keyrush.core.identity import Claims, Found
from keyrush.core.model import ApiKey
from keyrush.core.times import month_of
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault
from keyrush.store.protocol import Store
from keyrush.wire.request import Credential

#: What a key was found by, and which hash it had when it was proved: its fingerprints one after
#: another, and a digest of the hash. As bytes, because there is one for each key that is known.
Evidence = bytes

#: Bytes of a fingerprint.
_FINGERPRINT = 32


class ApiKeys:
    """The keys in a store. `slots` is how many argon2 run at once.

    A key is proved by an argon2id hash that matches it, once: a proof of that is kept with the
    key, which is void where hash or fingerprint have changed, or without the pepper. A key that
    has no hash is proved by its proof, or not at all.

    With a keyring that does not hash, the HMAC match is proof enough, of 178 random bits under a
    secret pepper.
    """

    def __init__(
        self, store: Store, keyring: Keyring, circuit: Circuit, proofs: Proofs, *, slots: int
    ) -> None:
        self._store = store
        self._format, self._fingerprints, self._hashing = keyring
        self._circuit = circuit
        self._proofs = proofs
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
        text = credential.text
        fingerprints = self._fingerprints.all(text)
        found = self._find(fingerprints, now)
        if found is None:
            return None
        key = found.key
        if self._is_proved(key, known):
            if known is None:
                self._keep(key, text)
            return _proof(found, _evidence(fingerprints, key))
        if self._hashing is None or not key.hash:
            return None  # without a hash and a proof it may be any key
        return partial(self._matched, self._hashing, found, fingerprints, text)

    def renew(self, known: Evidence, now: int) -> Proof[Evidence] | None:
        """The key as it is now, if it is the one that was proved; does not repeat argon2.

        Raises:
            Away: The store can't answer.
        """
        fingerprints = _fingerprints(known)
        found = self._find(fingerprints, now)
        if found is None or not self._is_proved(found.key, known):
            return None
        return _proof(found, _evidence(fingerprints, found.key))

    def _find(self, fingerprints: Sequence[str], now: int) -> Found | None:
        """The key with one of the fingerprints, if it is active."""
        found = self._circuit.call(self._store.find, fingerprints, month_of(now))
        return found if found is not None and found.key.is_active(now) else None

    def _is_proved(self, key: ApiKey, known: Evidence | None) -> bool:
        """Whether a key that was found by its fingerprint needs no argon2, or no other one."""
        if self._hashing is None:
            return True
        if known is not None and key.hash and known.endswith(_digest(key.hash)):
            return True
        return self._fingerprints.has_proof(key)

    def _matched(
        self, hashing: Hashing, found: Found, fingerprints: Sequence[str], text: bytes
    ) -> Proof[Evidence] | None:
        """The proof, if `text` is the key that was found."""
        with self._argon2_slots:
            if not hashing.verify(found.key.hash, text):
                return None
        self._keep(found.key, text, has_matched=True)
        return _proof(found, _evidence(fingerprints, found.key))

    def _keep(self, key: ApiKey, text: bytes, *, has_matched: bool = False) -> None:
        """Have it kept what was found out of a key; `has_matched` where its hash just has."""
        if key.pepper_id != self._fingerprints.pepper_ids[0]:
            has_matched = has_matched or self._fingerprints.has_proof(key)
            self._renew_fingerprint(key, text, has_matched=has_matched)
        elif has_matched:
            self._proofs.note(key)

    def _renew_fingerprint(self, key: ApiKey, text: bytes, *, has_matched: bool) -> None:
        """Move a key from an old pepper to the newest one, so that the old one can be retired."""
        newest, fingerprint = self._fingerprints.pepper_ids[0], self._fingerprints.new(text)
        proof = self._fingerprints.proof(key.id, fingerprint, key.hash) if has_matched else None
        try:
            self._store.refingerprint(key.id, fingerprint, newest, proof)
        except Exception as error:
            log_fault(f"the fingerprint of {key.id} stays under an old pepper", error)


def _evidence(fingerprints: Sequence[str], key: ApiKey) -> Evidence:
    return bytes.fromhex("".join(fingerprints)) + _digest(key.hash)


def _fingerprints(known: Evidence) -> Sequence[str]:
    many = len(known) // _FINGERPRINT  # the digest is shorter than one
    return [known[_FINGERPRINT * n : _FINGERPRINT * (n + 1)].hex() for n in range(many)]


def _digest(hash: str) -> bytes:
    """What tells a hash from any other that somebody could have made."""
    return blake2b(hash.encode(), digest_size=16).digest()


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
        max_concurrent=key.max_concurrent,
        ends_at=key.ends_at,
    )
    return Proof(claims, found.account, found.key_count, found.account_count, evidence)
