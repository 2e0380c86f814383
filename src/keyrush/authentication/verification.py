"""The cold path from a credential to a verified key in the cache: look-up, proof, identity."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from keyrush.authentication.cache import Cache, Entry, Flight
from keyrush.authentication.keyring import Keyring
from keyrush.core.identity import Found, Identity, account_subject, key_subject
from keyrush.core.model import Scopes
from keyrush.core.refusal import UNAVAILABLE, Refusal
from keyrush.core.sliding import Window
from keyrush.core.times import NEVER, month_of
from keyrush.errors import Away, ConfigurationError
from keyrush.runtime.background import Background
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.cpus import hashing_slots
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault
from keyrush.runtime.workers import Workers
from keyrush.settings.settings import Settings
from keyrush.store.protocol import Store
from keyrush.usage.counting import TOUCH_INTERVAL, Usage
from keyrush.wire.request import INVALID, Credential

#: Milliseconds for which a key let in without the store is not looked up again.
_OUTAGE_PAUSE = 1000

#: The part of its time to live after which a key in use is looked up ahead of need.
_AHEAD = 0.6

#: Look-ups of one key that changes meanwhile may overtake; more are answered without caching.
_LOOK_UPS = 3


class _Looked(NamedTuple):
    """What a look-up brought, and marks from before it, by which it is known to be overtaken."""

    found: Found | None
    fingerprints: Sequence[str]
    generation: int
    mark: int
    at: int  #: Unix milliseconds


class Verification:
    """Verifies keys against a store, each once however many requests wait for it."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        cache: Cache,
        usage: Usage,
        *,
        keyring: Keyring,
        circuit: Circuit,
        background: Background,
        clock: Callable[[], int],
    ) -> None:
        self._circuit = circuit
        self._background = background
        self._settings = settings
        self._store = store
        self._cache = cache
        self._usage = usage
        self._format, self._fingerprints, self._hashing = keyring
        self._clock = clock
        self._renew_slots()
        after_fork(self._renew_slots)

    def _renew_slots(self) -> None:
        self._argon2_slots = threading.BoundedSemaphore(hashing_slots(self._settings.argon2_slots))

    def rules_out(self, credential: Credential, now: int) -> bool:
        """True when the credential is no key, for all that can be told without a look-up."""
        return (
            self._cache.is_refused(credential.digest, now)
            or self._format.parse(credential.text) is None
        )

    def verify(
        self, credential: Credential, workers: Workers | None = None
    ) -> Entry | Refusal | Flight:
        """The key's entry in the cache, looked up and proved where it must be; may block.

        With `workers` it blocks for look-ups alone: what else must be waited for, a proof or
        another request's look-up of the same key, is returned.
        """
        digest = credential.digest
        now = self._clock()
        entry = self._cache.get(digest)
        if entry is not None and now < entry.fresh_until:
            self.attend(entry, now)
            return entry
        if self.rules_out(credential, now):
            return INVALID
        flight, is_mine = self._cache.flight(digest)
        if is_mine:
            self._look_up(flight, credential, workers)
        return flight.result() if workers is None or flight.done() else flight

    def attend(self, entry: Entry, now: int) -> bool:
        """Do what has come due for an entry that is being used; False where it needs a look-up.
        Does no I/O.
        """
        if now >= min(entry.fresh_until, entry.identity.expires_at):
            return False
        if now >= entry.touch_due:
            entry.touch_due = now + TOUCH_INTERVAL
            self._usage.used(entry.identity.key_id, now)
        if now >= entry.refresh_at:
            entry.refresh_at = NEVER
            self._background.soon(partial(self._refresh, entry))
        entry.schedule()
        return True

    def _refresh(self, entry: Entry) -> None:
        """Look a key up ahead of need, so that no request waits for it. Does not repeat argon2."""
        try:
            looked = self._looked(entry.fingerprints)
        except Away:
            return  # the entry may yet be used for as long as it is good
        found = looked.found
        if found is None or found.key.hash != entry.hash:
            self._cache.distrust(entry)
        else:
            renewed = self._entry(looked, found, digest=entry.digest, known=entry)
            self._cache.put(entry.digest, renewed, looked.generation)

    def _look_up(self, flight: Flight, credential: Credential, workers: Workers | None) -> None:
        """Look the key up, and prove it here, or with `workers` in their threads for that."""
        digest, text = credential.digest, credential.text
        try:
            known = self._cache.get(digest)
            if known is not None and self._clock() < known.fresh_until:
                self._cache.land(digest, flight, known)  # another request has just loaded it
                return
            looked = self._looked(self._fingerprints.all(text))
            if workers is not None and self._needs_proof(looked.found, known):
                workers.submit("hash", self._load, flight, digest, text, known, looked)
                return
        except BaseException as error:  # whoever waits must learn of it, whatever it is
            self._cache.land(digest, flight, self._without_answer(digest, error))
            if isinstance(error, Exception):
                return
            raise
        self._load(flight, digest, text, known, looked)

    def _load(
        self, flight: Flight, digest: bytes, text: bytes, known: Entry | None, looked: _Looked
    ) -> None:
        """Tell all who wait what came of a look-up."""
        outcome: Entry | Refusal = UNAVAILABLE
        try:
            outcome = self._verified(digest, text, known, looked)
        except Exception as error:
            outcome = self._without_answer(digest, error)
        finally:
            self._cache.land(digest, flight, outcome)

    def _verified(
        self, digest: bytes, text: bytes, known: Entry | None, looked: _Looked
    ) -> Entry | Refusal:
        """The entry of the key that was looked up, once it is proved; a refusal, remembered,
        for one that is not valid.
        """
        proved = known.hash if known else None
        for _ in range(_LOOK_UPS):
            found = looked.found
            if found is None:
                break
            if found.key.hash != proved:
                if not self._proves(found, text):
                    break
                proved = found.key.hash
                self._renew_fingerprint(found, text)
            entry = self._entry(looked, found, digest=digest, known=known)
            if self._cache.put(digest, entry, looked.generation):
                return entry
            looked = self._looked(looked.fingerprints)  # something has changed meanwhile
        else:
            return entry
        self._cache.forget(digest)
        self._cache.refuse(digest, looked.at)
        return INVALID

    def _without_answer(self, digest: bytes, error: BaseException) -> Entry | Refusal:
        """What holds where the store can't be asked: what was known, for a while."""
        if isinstance(error, Exception) and not isinstance(error, Away):  # which has been logged
            log_fault("the store can't look a key up", error)
        now = self._clock()
        entry = self._cache.get(digest)
        if entry is None or now >= entry.stale_until:
            return UNAVAILABLE
        self._cache.prolong(entry, now + _OUTAGE_PAUSE)
        return entry

    def _looked(self, fingerprints: Sequence[str]) -> _Looked:
        """Look a key up, now.

        Raises:
            Away: The store can't answer.
        """
        now = self._clock()
        generation, mark = self._cache.generation, self._usage.flushes
        return _Looked(self._find(fingerprints, now), fingerprints, generation, mark, now)

    def _needs_proof(self, found: Found | None, known: Entry | None) -> bool:
        return (
            found is not None
            and self._settings.verify != "fingerprint"
            and (known is None or found.key.hash != known.hash)
        )

    def _find(self, fingerprints: Sequence[str], now: int) -> Found | None:
        """The key with one of the fingerprints, if it is valid.

        Raises:
            Away: The store can't answer.
        """
        found = self._circuit.call(self._store.find, fingerprints, month_of(now))
        return found if found is not None and found.key.is_active(now) else None

    def _proves(self, found: Found, text: bytes) -> bool:
        """True when `text` is the key that was found."""
        if self._settings.verify == "fingerprint":
            return True  # the HMAC match is the proof: 178 random bits under a secret pepper
        with self._argon2_slots:
            return self._hashing.verify(found.key.hash, text)

    def _renew_fingerprint(self, found: Found, text: bytes) -> None:
        """Move a key from an old pepper to the newest one, so that the old one can be retired."""
        newest = self._fingerprints.pepper_ids[0]
        if found.key.pepper_id == newest:
            return
        try:
            self._store.refingerprint(found.key.id, self._fingerprints.new(text), newest)
        except Exception as error:
            log_fault(f"the fingerprint of {found.key.id} stays under an old pepper", error)

    def _entry(self, looked: _Looked, found: Found, *, digest: bytes, known: Entry | None) -> Entry:
        """What is kept of a key that was looked up; `known` was kept before."""
        now = looked.at
        fresh_until = now + self._cache.ttl
        entry = Entry(
            self._identity(found, looked.mark, now),
            digest,
            found.key.hash,
            looked.fingerprints,
            refresh_at=now + int(self._cache.ttl * _AHEAD),
            fresh_until=fresh_until,
            stale_until=fresh_until + int(self._settings.stale_if_error * 1000),
        )
        entry.touch_due = known.touch_due if known else 0
        entry.schedule()
        return entry

    def _identity(self, found: Found, mark: int, now: int) -> Identity:
        key, account = found.key, found.account
        plan = self._settings.plan_values.get(account.plan)
        if plan is None:
            raise ConfigurationError(
                f"{account.id} is on the plan {account.plan!r}: not in the table"
            )
        limits = plan.limits if account.limits is None else account.limits
        subject = account_subject(account.id) if plan.per == "account" else key_subject(key.lineage)
        if key.limits is not None:  # limits of its own are counted on their own
            limits, subject = key.limits, key_subject(key.lineage)
        counts = self._usage.counts_of(found, mark, now)
        return Identity(
            key_id=key.id,
            account_id=account.id,
            name=key.name,
            prefix=key.prefix,
            environment=key.environment,
            scopes=Scopes(key.scopes),
            plan=plan,
            windows=tuple(
                Window(f"{subject}:{item.seconds}", item.seconds * 1000, item.amount, item.name)
                for item in limits
            ),
            expires_at=NEVER if key.ends_at is None else key.ends_at,
            quota_count=counts[plan.quota_per == "account"],
            counts=() if key.environment in self._settings.unmetered_environments else counts,
        )
