"""What makes and knows the keys of one service: format, fingerprints and hashes.

Keys and secrets are bytes, or go through objects whose repr shows the display prefix only (S82).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import NamedTuple

import argon2
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from keyrush.core.key_text import KeyFormat
from keyrush.core.model import ApiKey


class Fingerprints:
    """HMAC-SHA-256 of a key under a secret pepper: what the store looks keys up by (O2).

    Peppers are newest first. New keys use the first; all are tried when looking up, so that a
    pepper is rotated by putting a new one in front.
    """

    def __init__(self, peppers: Sequence[bytes]) -> None:
        if not peppers or not all(peppers):
            raise ValueError("at least one non-empty pepper is needed")
        self._peppers = tuple(peppers)
        self.pepper_ids = tuple(
            _hmac(pepper, b"keyrush pepper id").hex()[:16] for pepper in self._peppers
        )
        self._by_id = dict(zip(self.pepper_ids, self._peppers, strict=True))

    def new(self, text: bytes) -> str:
        """The fingerprint under the newest pepper, 64 hexadecimal digits."""
        return _hmac(self._peppers[0], text).hex()

    def all(self, text: bytes) -> tuple[str, ...]:
        """The fingerprint under every pepper, newest first."""
        return tuple(_hmac(pepper, text).hex() for pepper in self._peppers)

    def derived(self, purpose: str) -> tuple[bytes, ...]:
        """Secrets for something else than keys, one of each pepper, newest first: 32 bytes that say
        nothing of it, and that all processes with the pepper have.
        """
        return tuple(_hmac(pepper, f"keyrush for {purpose}".encode()) for pepper in self._peppers)

    def proof(self, key_id: str, fingerprint: str, hash: str) -> str:
        """What says that a fingerprint, made under the newest pepper, and a hash are of one key:
        `ApiKey.proof`, 64 hexadecimal digits.

        Only who has the pepper can make it, and it is void where any of the three has changed.
        """
        return _proof(self._peppers[0], key_id, fingerprint, hash)

    def has_proof(self, key: ApiKey) -> bool:
        """True where the key's own proof holds."""
        pepper = self._by_id.get(key.pepper_id)
        if pepper is None or key.proof is None:
            return False
        proof = _proof(pepper, key.id, key.fingerprint, key.hash)
        return hmac.compare_digest(proof.encode(), key.proof.encode())


def _proof(pepper: bytes, key_id: str, fingerprint: str, hash: str) -> str:
    # No key begins so, and none of the three has a NUL in it.
    return _hmac(pepper, f"keyrush proof\0{key_id}\0{fingerprint}\0{hash}".encode()).hex()


def _hmac(pepper: bytes, text: bytes) -> bytes:
    return hmac.digest(pepper, text, "sha256")


class Hashing:
    """argon2id over the key text. `memory_cost` is KiB; hash and verify take milliseconds."""

    def __init__(self, time_cost: int = 2, memory_cost: int = 19456, parallelism: int = 1) -> None:
        self._hasher = argon2.PasswordHasher(
            time_cost=time_cost, memory_cost=memory_cost, parallelism=parallelism
        )

    def hash(self, text: bytes) -> str:
        """A PHC string with its own salt and parameters."""
        return self._hasher.hash(text)

    def verify(self, stored: str, text: bytes) -> bool:
        """True when `text` is what was hashed. A stored value that is no hash verifies nothing."""
        try:
            return self._hasher.verify(stored, text)
        except (VerifyMismatchError, InvalidHashError):
            return False  # any other error, such as want of memory, says nothing of the key


class Keyring(NamedTuple):
    """What makes and knows the keys of one service."""

    format: KeyFormat
    fingerprints: Fingerprints
    hashing: Hashing | None  #: None where the fingerprint alone is the proof
