"""The cold path from a credential to a verified key in the cache: look-up, proof, identity."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from keyrush import http
from keyrush.background import Background
from keyrush.cache import Cache, Entry
from keyrush.circuit import Away, Circuit
from keyrush.errors import ConfigurationError, log_fault
from keyrush.forks import after_fork
from keyrush.http import Credential
from keyrush.keys import Keyring
from keyrush.model import NEVER, Found, Identity, Refusal, Scopes, month_of
from keyrush.settings import Settings
from keyrush.store import Store, account_subject, key_subject
from keyrush.usage import TOUCH_INTERVAL, Usage
from keyrush.windows import Window
from keyrush.workers import cores

#: Seconds after which a client may try again when the store is away (S19).
OUTAGE_RETRY = 5

UNAVAILABLE = Refusal("unavailable", retry_after=OUTAGE_RETRY)

#: Milliseconds for which a key let in without the store is not looked up again.
_OUTAGE_PAUSE = 1000

#: The part of its time to live after which a key in use is looked up ahead of need.
_AHEAD = 0.6

#: Look-ups of one key that changes meanwhile may overtake; more are answered without caching.
_LOOK_UPS = 3


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
        self._argon2_slots = threading.BoundedSemaphore(cores())

    def rules_out(self, credential: Credential, now: int) -> bool:
        """True when the credential is no key, for all that can be told without a look-up."""
        return (
            self._cache.is_refused(credential.digest, now)
            or self._format.parse(credential.text) is None
        )

    def verify(self, credential: Credential) -> Entry | Refusal:
        """The key's entry in the cache, looked up and proved where it must be; may block."""
        digest = credential.digest
        now = self._clock()
        entry = self._cache.get(digest)
        if entry is not None and now < entry.fresh_until:
            self.attend(entry, now)
            return entry
        if self.rules_out(credential, now):
            return http.INVALID
        try:
            loaded = self._cache.single_flight(digest, lambda: self._load(credential.text, digest))
        except Exception as error:
            if not isinstance(error, Away):  # which has been logged
                log_fault("the store can't look a key up", error)
            if entry is None or now >= entry.stale_until:
                return UNAVAILABLE
            self._cache.prolong(entry, now + _OUTAGE_PAUSE)
            return entry
        return loaded or http.INVALID

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
        now = self._clock()
        generation, mark = self._cache.generation, self._usage.flushes
        try:
            found = self._find(entry.fingerprints, now)
        except Away:
            return  # the entry may yet be used for as long as it is good
        if found is None or found.key.hash != entry.hash:
            self._cache.distrust(entry)
        else:
            renewed = self._entry(
                found,
                mark,
                now,
                digest=entry.digest,
                fingerprints=entry.fingerprints,
                known=entry,
            )
            self._cache.put(entry.digest, renewed, generation)

    def _load(self, text: bytes, digest: bytes) -> Entry | None:
        """Look the key up and verify it; None, remembered, for one that is not valid."""
        known = self._cache.get(digest)
        if known is not None and self._clock() < known.fresh_until:
            return known  # another request has just loaded it
        proved = known.hash if known else None
        fingerprints = self._fingerprints.all(text)
        for _ in range(_LOOK_UPS):
            now = self._clock()
            generation, mark = self._cache.generation, self._usage.flushes
            found = self._find(fingerprints, now)
            if found is None:
                break
            if found.key.hash != proved:
                if not self._proves(found, text):
                    break
                proved = found.key.hash
                self._renew_fingerprint(found, text)
            entry = self._entry(
                found, mark, now, digest=digest, fingerprints=fingerprints, known=known
            )
            if self._cache.put(digest, entry, generation):
                return entry
        else:
            return entry
        self._cache.forget(digest)
        self._cache.refuse(digest, now)
        return None

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

    def _entry(
        self,
        found: Found,
        mark: int,
        now: int,
        *,
        digest: bytes,
        fingerprints: Sequence[str],
        known: Entry | None,
    ) -> Entry:
        """What is kept of a key that was looked up at `now`; `known` was kept before."""
        fresh_until = now + self._cache.ttl
        entry = Entry(
            self._identity(found, mark, now),
            digest,
            found.key.hash,
            fingerprints,
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
