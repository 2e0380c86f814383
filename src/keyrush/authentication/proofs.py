"""What has proved keys, to be kept with them: so that argon2 runs once for a key, not once for
each process. A key without a hash is proved by its own proof alone.
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


class Proofs:
    """Proofs that are to be written. Safe to call from any thread; nothing waits for the store but
    `flush`.
    """

    def __init__(self, store: Store, circuit: Circuit, keyring: Keyring) -> None:
        self._store = store
        self._circuit = circuit
        self._fingerprints = keyring.fingerprints
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """As in a new process: what waits in a forked child is the parent's to do."""
        self._lock = threading.Lock()
        self._proved: dict[str, Proved] = {}

    def note(self, key: ApiKey) -> None:
        """Have it written that the hash of a key, found by its newest fingerprint, has matched."""
        proof = self._fingerprints.proof(key.id, key.fingerprint, key.hash)
        with self._lock:
            self._proved[key.id] = Proved(key.id, key.hash, proof)

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
