"""What has proved keys, to be kept with them: so that argon2 runs once for a key, not once for
each process.

A key without a hash is proved by its own proof alone, and gets a hash in the background.
"""

from __future__ import annotations

import threading

from keyrush.authentication.keyring import Keyring
from keyrush.core.model import ApiKey
from keyrush.errors import Away, DataError
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault
from keyrush.store.protocol import Proved, Store

#: Seconds between two hashes in the background, which leave its thread to what else it does.
HASH_INTERVAL = 0.05

#: Keys at most whose texts wait to be hashed, for as many intervals; others are when next seen.
_WAITING = 256


class Proofs:
    """Proofs that are to be written. Safe to call from any thread; nothing waits for the store but
    `flush`.
    """

    def __init__(self, store: Store, circuit: Circuit, keyring: Keyring) -> None:
        self._store = store
        self._circuit = circuit
        self._fingerprints = keyring.fingerprints
        self._hashing = keyring.hashing
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """As in a new process: what waits in a forked child is the parent's to do."""
        self._lock = threading.Lock()
        self._proved: dict[str, Proved] = {}
        self._unhashed: dict[str, bytes] = {}

    def note(self, key: ApiKey) -> None:
        """Have it written that the hash of a key, found by its newest fingerprint, has matched."""
        proof = self._fingerprints.proof(key.id, key.fingerprint, key.hash)
        with self._lock:
            self._proved[key.id] = Proved(key.id, key.hash, key.hash, proof)

    def note_unhashed(self, key: ApiKey, text: bytes) -> None:
        """Have a key that is proved, and has no hash, get one; `text` is kept until then."""
        with self._lock:
            if len(self._unhashed) < _WAITING:
                self._unhashed[key.id] = text

    def hash_one(self) -> None:
        """Hash one of those that wait for it; takes as long as one argon2."""
        if self._hashing is None or not self._unhashed:
            return
        with self._lock:
            key_id, text = self._unhashed.popitem()
        hash = self._hashing.hash(text)
        proof = self._fingerprints.proof(key_id, self._fingerprints.new(text), hash)
        with self._lock:
            self._proved[key_id] = Proved(key_id, "", hash, proof)

    def flush(self) -> None:
        """Write what there is. Where the store can't answer it is kept for the next time."""
        with self._lock:
            proved, self._proved = self._proved, {}
        if not proved:
            return
        try:
            self._circuit.call(self._store.record_proofs, list(proved.values()))
        except Away:
            with self._lock:
                self._proved = proved | self._proved
        except DataError as error:
            log_fault("proofs of keys can't be kept", error)
