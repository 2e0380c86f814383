"""The cold path from a credential to a verified caller in the cache, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from keyrush.authentication.cache import Cache, Entry, Flight
from keyrush.authentication.protocol import Authenticator, Later, Proof, Work
from keyrush.core.catalog import Catalog
from keyrush.core.entitlement import verified
from keyrush.core.identity import KEY, account_subject, key_subject
from keyrush.core.refusal import UNAVAILABLE, Refusal
from keyrush.core.times import NEVER
from keyrush.errors import Away
from keyrush.runtime.background import Background
from keyrush.runtime.logs import log_fault
from keyrush.runtime.workers import Workers
from keyrush.usage.counting import TOUCH_INTERVAL, MonthlyCounts
from keyrush.wire.request import INVALID, Credential

#: Milliseconds for which a credential let in while nobody can say is not asked about again.
_OUTAGE_PAUSE = 1000

#: Look-ups of one caller that changes meanwhile may overtake; more are answered without caching.
_LOOK_UPS = 3

#: `Authenticator.renew`, or `prove` for a credential.
_Ask = Callable[[Any, int], Proof[Any] | Work[Any] | None]


class _Looked(NamedTuple):
    """What a look-up brought, and marks from before it, by which it is known to be overtaken."""

    authenticator: Authenticator[Any]
    ask: _Ask  #: what was asked
    known: Entry | None  #: from an earlier one
    generation: int  #: of the cache
    flushes: int  #: of the counts
    at: int  #: Unix milliseconds
    proof: Proof[Any] | Work[Any] | None


class Verification:
    """Verifies credentials, each once however many requests wait for it. The first of the
    `authenticators` that takes one for its own proves it.
    """

    def __init__(
        self,
        authenticators: Sequence[Authenticator[Any]],
        catalog: Catalog,
        cache: Cache,
        usage: MonthlyCounts,
        *,
        background: Background,
        clock: Callable[[], int],
    ) -> None:
        self.authenticators = tuple(authenticators)
        self._catalog = catalog
        self._cache = cache
        self._usage = usage
        self._background = background
        self._clock = clock

    def rules_out(self, credential: Credential, now: int) -> bool:
        """True when the credential is good for nothing, for all that can be told without I/O."""
        return (
            self._cache.is_refused(credential.digest, now)
            or self._authenticator_of(credential) is None
        )

    def _authenticator_of(self, credential: Credential) -> Authenticator[Any] | None:
        for one in self.authenticators:
            try:
                if one.may_be_mine(credential):
                    return one
            except Exception as error:
                log_fault("an authenticator is passed over that can't tell its own", error)
        return None

    def verify(
        self, credential: Credential, workers: Workers | None = None
    ) -> Entry | Refusal | Flight:
        """The caller's entry in the cache, looked up and proved where it must be; may block.

        With `workers` it blocks for look-ups alone: what else must be waited for, a proof or
        another request's look-up of the same credential, is returned.
        """
        digest = credential.digest
        now = self._clock()
        entry = self._cache.get(digest)
        if entry is not None and self.note_use(entry, now):
            return entry
        authenticator = self._authenticator_of(credential)
        if authenticator is None or self._cache.is_refused(digest, now):
            return INVALID
        flight, is_mine = self._cache.flight(digest)
        if is_mine:
            self._look_up(flight, credential, authenticator, workers)
        return flight.result() if workers is None or flight.done() else flight

    def note_use(self, entry: Entry, now: int) -> bool:
        """Do what has come due for an entry that is being used; False where it needs a look-up.
        Does no I/O.
        """
        verified = entry.verified = entry.verified.at(now)
        if now >= verified.expires_at:
            return False
        if now >= min(entry.refresh_at, entry.fresh_until) and not self._cache.is_vouched(
            entry, now
        ):
            if now >= entry.fresh_until:
                return False
            entry.refresh_at = NEVER
            self._background.soon(partial(self._refresh, entry))
        self._touch(entry, now)
        return True

    def _touch(self, entry: Entry, now: int) -> None:
        """Have it written that a key was used, unless that was done lately."""
        if now >= entry.touch_due:
            # Up to half of it sooner, each key at its own time: or all that were first seen
            # together, as after a start, would come together for ever.
            entry.touch_due = now + TOUCH_INTERVAL - TOUCH_INTERVAL * entry.digest[0] // 512
            if entry.verified.source == KEY:  # of which it is stored when they were last used
                self._usage.note_use(entry.verified.key_id, now)
        entry.schedule()

    def _refresh(self, entry: Entry) -> None:
        """Look a caller up ahead of need, so that no request waits for it."""
        try:
            authenticator = entry.authenticator
            looked = self._looked(authenticator, entry, authenticator.renew)
        except Away:
            return  # the entry may yet be used for as long as it is good
        if isinstance(looked.proof, Proof):
            renewed = self._entry(entry.digest, looked, looked.proof)
            self._cache.put(entry.digest, renewed, looked.generation)
        else:
            self._cache.distrust(entry)

    def _look_up(
        self,
        flight: Flight,
        credential: Credential,
        authenticator: Authenticator[Any],
        workers: Workers | None,
        *,
        is_again: bool = False,
    ) -> None:
        """Look a caller up and prove it here, or what is work with `workers` in their threads.

        What comes later is waited for here, or with `workers` nowhere.
        """
        digest = credential.digest
        try:
            known = self._cache.get(digest)
            if known is not None and self._clock() < known.fresh_until:
                self._cache.land(digest, flight, known)  # another request has just loaded it
                return
            prove = partial(authenticator.prove, credential)
            looked = self._looked(authenticator, known, prove)
            if workers is not None and not isinstance(looked.proof, Proof | None):
                workers.submit("hash", self._load, flight, digest, looked)
                return
        except Later as later:
            if not is_again:
                again = partial(self._look_up, flight, credential, authenticator, workers)
                self._wait(later, partial(again, is_again=True), workers, digest, flight)
                return
            self._cache.land(digest, flight, self._without_answer(digest, later))
            return
        except BaseException as error:  # whoever waits must learn of it, whatever it is
            self._cache.land(digest, flight, self._without_answer(digest, error))
            if isinstance(error, Exception):
                return
            raise
        self._load(flight, digest, looked)

    def _wait(
        self,
        later: Later,
        again: Callable[[], None],
        workers: Workers | None,
        digest: bytes,
        flight: Flight,
    ) -> None:
        """Look up again once what it takes has come; waits here, or with `workers` nowhere."""
        if workers is None:
            later.coming.result()
            again()
            return

        def go_on(_: object) -> None:
            try:
                workers.submit("io", again)
            except Away as error:  # no thread is free
                self._cache.land(digest, flight, self._without_answer(digest, error))

        later.coming.add_done_callback(go_on)

    def _load(self, flight: Flight, digest: bytes, looked: _Looked) -> None:
        """Tell all who wait what came of a look-up."""
        outcome: Entry | Refusal = UNAVAILABLE
        try:
            outcome = self._verified(digest, looked)
            if isinstance(outcome, Entry):
                self._touch(outcome, looked.at)
        except Exception as error:
            outcome = self._without_answer(digest, error)
        finally:
            self._cache.land(digest, flight, outcome)

    def _verified(self, digest: bytes, looked: _Looked) -> Entry | Refusal:
        """The entry of a caller that was looked up, once it is proved; a refusal, remembered, of
        a credential that is not good.
        """
        for _ in range(_LOOK_UPS):
            proof = looked.proof
            if not isinstance(proof, Proof | None):
                proof = proof()
            if proof is None:
                break
            entry = self._entry(digest, looked, proof)
            if self._cache.put(digest, entry, looked.generation):
                return entry
            # Something has changed meanwhile.
            looked = self._looked(looked.authenticator, entry, looked.ask)
        else:
            return entry
        self._cache.forget(digest)
        self._cache.refuse(digest, looked.at)
        return INVALID

    def _without_answer(self, digest: bytes, error: BaseException) -> Entry | Refusal:
        """What holds where nobody can say: what was known, for a while."""
        if isinstance(error, Exception) and not isinstance(error, Away):  # which has been logged
            log_fault("a credential can't be verified", error)
        now = self._clock()
        entry = self._cache.get(digest)
        if entry is None or now >= entry.stale_until:
            return UNAVAILABLE
        self._cache.prolong(entry, now + _OUTAGE_PAUSE)
        return entry

    def _looked(self, authenticator: Authenticator[Any], known: Entry | None, ask: _Ask) -> _Looked:
        """Ask an authenticator, now."""
        now = self._clock()
        generation, flushes = self._cache.generation, self._usage.flushes
        proof = ask(known.evidence if known else None, now)
        return _Looked(authenticator, ask, known, generation, flushes, now, proof)

    def _entry(self, digest: bytes, looked: _Looked, proof: Proof[Any]) -> Entry:
        """What is kept of a caller that was looked up."""
        claims, account, now = proof.claims, proof.account, looked.at
        counts = self._usage.counts_of(
            (key_subject(claims.lineage), account_subject(account.id)),
            (proof.key_count, proof.account_count),
            looked.flushes,
            now,
        )
        entry = Entry(
            verified(claims, account, self._catalog, counts, now),
            digest,
            looked.authenticator,
            proof.evidence,
            self._cache.lifetime(now),
        )
        entry.touch_due = looked.known.touch_due if looked.known else 0
        entry.schedule()
        return entry
