"""The way of a request through the gate: the hot path, and the cold one.

`begin` answers from memory and never blocks; where it can't, it gives a `Pending`, whose
`finish` may block, and whose `finish_async` may be awaited. What comes of it is `Admitted` or a
`Refusal`. The order: is the path in plain form, is it public, who calls, may they, limits, credits.
Where keys are optional, a request without one is let through as from nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from http import HTTPStatus

from keyrush.authentication.cache import Cache, Entry
from keyrush.authentication.verification import Verification
from keyrush.core.identity import Identity
from keyrush.core.paths import is_plain
from keyrush.core.policy import ANY_KEY, Needs, Policy
from keyrush.core.refusal import UNAVAILABLE, Refusal, Refused
from keyrush.core.sliding import Tally, Window
from keyrush.core.times import month_bounds
from keyrush.errors import Away
from keyrush.gate.charging import SHORT, Charging
from keyrush.gate.principal import Anonymous, Caller, Principal
from keyrush.gate.strangers import Strangers
from keyrush.gate.tolerance import By, Tolerance
from keyrush.limiter.protocol import AwaitedLimiter, Limiter
from keyrush.runtime.background import Background
from keyrush.runtime.bridge import result_of, running_loop
from keyrush.runtime.logs import log_fault
from keyrush.runtime.workers import Busy, Workers
from keyrush.usage.counting import Usage
from keyrush.wire.fields import Fields, seconds_until
from keyrush.wire.request import (
    INVALID,
    MISSING,
    Credential,
    CredentialHeaders,
    Header,
    is_preflight,
)

#: A request that is let through: who calls, and what to add to the response's headers.
Admitted = tuple[Caller, list[Header]]

#: Says a client's address.
Address = Callable[[], str | None]

#: Where there are rules, and the path is not in plain form.
MALFORMED_PATH = Refusal("malformed_path")

#: Of an address that sends unknown keys, and of all when no thread is free: seconds.
_SOON = 1

_TOO_MANY = Refusal("rate_limited", retry_after=_SOON)
_BUSY = Refusal("unavailable", retry_after=_SOON)

_CORS = (
    "a CORS preflight was refused, as any request without a key: put your CORS middleware "
    "outside keyrush, so that it answers preflights itself; KEYRUSH_PREFLIGHT=pass hands them to "
    "the app, without a key"
)

TOO_MANY_REQUESTS = HTTPStatus.TOO_MANY_REQUESTS.value

_log = logging.getLogger("keyrush")


class Pending:
    """A request that memory alone can't answer. It holds the key: let go of it once answered."""

    __slots__ = (
        "_address",
        "_admission",
        "_credential",
        "_is_known",
        "_method",
        "_path",
        "_query",
        "_root",
        "_verified",
    )

    def __init__(
        self,
        admission: Admission,
        credential: Credential,
        request: tuple[str, str, str, bytes],
        *,
        verified: Entry | None = None,
        is_known: bool,
    ) -> None:
        self._admission = admission
        self._is_known = is_known  # verified here before, so that it is no stranger's
        self._credential = credential
        self._method, self._path, self._root, self._query = request
        self._address: str | None = None  # the client's, where it is looked for
        self._verified = verified  # where only the limiter or a charge has to be waited for

    def finish(self, address: Address) -> Admitted | Refusal:
        """The answer; may block. `address` says the client's, where that matters."""
        verified: object = self._verified
        if verified is None:
            if not self._enter(address):
                return _TOO_MANY
            verified = self._verify(None)
        if isinstance(verified, Refusal):
            return verified
        assert isinstance(verified, Entry)  # noqa: S101  # without workers it waits for all
        return self._decide(verified.identity)

    async def finish_async(self, address: Address) -> Admitted | Refusal:
        """The answer, awaited; what blocks is done in threads."""
        try:
            if self._verified is not None:
                return await self._decide_async(self._verified.identity)
            verified = await self._verify_async(address)
            if not isinstance(verified, Entry):
                return verified
            identity = verified.identity
            answer = self._admission.at_once(identity, self._needs(), self._query)
            return answer or await self._decide_async(identity)
        except Busy:
            return _BUSY

    async def _decide_async(self, identity: Identity) -> Admitted | Refusal:
        admission, needs, query = self._admission, self._needs(), self._query
        if admission.is_async and (answer := await admission.awaited(identity, needs, query)):
            return answer
        return await admission.workers.run(
            "io", admission.decide, identity, needs, query, undo=admission.undo
        )

    async def _verify_async(self, address: Address) -> Entry | Admitted | Refusal:
        """The verified key, or the answer where there is one already."""
        admission = self._admission
        if not self._enter(address):
            return _TOO_MANY
        try:
            came = await admission.workers.run("io", self._verify_and_decide, undo=admission.undo)
        except Busy:
            self._leave(is_unknown=False)
            raise
        if isinstance(came, Future):
            return await result_of(came)
        return came

    def _verify_and_decide(self) -> Entry | Admitted | Refusal | Future[Entry | Refusal]:
        """In one go, where no proof is needed and the limiter is not better awaited."""
        admission = self._admission
        verified = self._verify(admission.workers)
        if isinstance(verified, Entry) and not admission.is_async:
            return self._decide(verified.identity)
        return verified

    def _enter(self, address: Address) -> bool:
        """Whether a look-up may be made for the address; it ends with `_verify`."""
        if self._is_known:
            return True
        self._address = address()
        return self._admission.strangers.enter(self._address)

    def _leave(self, *, is_unknown: bool) -> None:
        if not self._is_known:
            self._admission.strangers.leave(self._address, is_unknown=is_unknown)

    def _verify(self, workers: Workers | None) -> Entry | Refusal | Future[Entry | Refusal]:
        """The key's entry; with `workers`, what has to be waited for."""
        verified: Entry | Refusal | Future[Entry | Refusal] | None = None
        try:
            verified = self._admission.verification.verify(self._credential, workers)
            return verified
        finally:
            self._leave(is_unknown=verified is INVALID)

    def _decide(self, identity: Identity) -> Admitted | Refusal:
        return self._admission.decide(identity, self._needs(), self._query)

    def _needs(self) -> Needs:
        return self._admission.policy.needs(self._method, self._path, self._root)


class Admission:
    """Decides on requests. Safe to use from any thread or event loop.

    With `counts_at_once` each count is written before its answer. `passes_preflights` lets a
    CORS preflight through to the app, as from nobody (S76).
    """

    def __init__(
        self,
        limiter: Limiter,
        awaited: AwaitedLimiter | None,
        *,
        credential_headers: CredentialHeaders,
        cache: Cache,
        verification: Verification,
        usage: Usage,
        policy: Policy,
        charging: Charging,
        background: Background,
        workers: Workers,
        strangers: Strangers,
        fields: Fields,
        clock: Callable[[], int],
        counts_at_once: bool,
        passes_preflights: bool,
    ) -> None:
        self.limiter = limiter
        self.verification = verification
        self.policy = policy
        self.workers = workers
        self.strangers = strangers
        self.counts_at_once = counts_at_once
        self._credential = credential_headers.credential
        self._vary = credential_headers.vary
        self._cache = cache
        self._usage = usage
        self._charging = charging
        self._tolerance = Tolerance()
        self._background = background
        self._fields = fields
        self._clock = clock
        self._passes_preflights = passes_preflights
        self._advises_on_cors = not passes_preflights
        self._take_at_once = limiter.take_at_once
        #: The limiter is better awaited than called from a thread.
        self.is_async = awaited is not None
        self._awaited = awaited

    def begin(  # noqa: PLR0917  # called for every request: a value to hold them would cost
        self,
        method: str,
        path: str,
        raw_path: bytes | None,
        root: str,
        headers: Iterable[Header],
        query: bytes,
    ) -> Admitted | Refusal | Pending:
        """The answer to a request from memory alone, or what must be finished to have one.

        `path` is decoded, and may begin with `root`, the prefix that the server names;
        `raw_path` is as it was sent, where the server tells. `headers` may be only those that
        may hold a key, with the ones of a CORS preflight. `query` is the raw query string.
        """
        policy = self.policy
        if policy.has_rules and not is_plain(path, raw_path):
            return MALFORMED_PATH
        if policy.is_public(method, path, raw_path, root):
            return Anonymous(), []
        credential = self._credential(headers)
        if isinstance(credential, Refusal):
            if credential is MISSING:
                return self._from_nobody(method, path, raw_path, root, headers)
            return credential
        entry = self._cache.get(credential.digest)
        now = self._clock()
        if entry is None:
            if self.verification.rules_out(credential, now):
                return INVALID
        elif now < entry.due or self.verification.attend(entry, now):
            needs = policy.needs(method, path, root)
            answer = self.at_once(entry.identity, needs, query, now)
            if answer is not None:
                return answer
            request = method, path, root, query
            return Pending(self, credential, request, verified=entry, is_known=True)
        request = method, path, root, query
        return Pending(self, credential, request, is_known=entry is not None)

    def within(  # noqa: PLR0917  # as `begin`
        self,
        caller: Caller,
        method: str,
        path: str,
        raw_path: bytes | None,
        root: str,
        query: bytes,
    ) -> tuple[Refusal | None, int]:
        """What the rules say of a request that has passed this gate already, on its way to an
        app in the app: a refusal, or the credits that are left to be charged. It is counted once,
        but never without its rules.
        """
        policy = self.policy
        if policy.has_rules and not is_plain(path, raw_path):
            return MALFORMED_PATH, 0
        if policy.is_public(method, path, raw_path, root) or not isinstance(caller, Principal):
            return None, 0
        needs = policy.needs(method, path, root)
        if needs is ANY_KEY:
            return None, 0
        refusal = policy.authorise(caller.resolved, needs, query)
        return refusal, max(0, needs.credits - caller.charged)

    def _from_nobody(
        self,
        method: str,
        path: str,
        raw_path: bytes | None,
        root: str,
        headers: Iterable[Header],
    ) -> Admitted | Refusal:
        """The answer to a request without a key."""
        if self.policy.is_optional(method, path, raw_path, root):
            return Anonymous(), [self._vary]  # with a key it would be another answer (S23)
        if method == "OPTIONS" and is_preflight(headers):
            if self._passes_preflights:
                return Anonymous(), []
            self._advise_on_cors()
        return MISSING

    def _advise_on_cors(self) -> None:
        if self._advises_on_cors:
            self._advises_on_cors = False  # once
            _log.warning(_CORS)

    # --- verified callers ---

    def at_once(
        self, identity: Identity, needs: Needs, query: bytes, now: int | None = None
    ) -> Admitted | Refusal | None:
        """The answer to a verified caller from memory alone, or None where I/O is needed."""
        if now is None:
            now = self._clock()
        if self._tolerance.exceeded and (over := self._tolerance.over(identity, "app", now)):
            return self._rate_limited(identity, over, now)
        if self.counts_at_once:
            return None
        try:
            refusal = None
            if needs is not ANY_KEY:
                refusal = self._refusal(identity, needs, query)
                if needs.credits and refusal is None:
                    return None
                if refusal and (refused := self._over(identity, now)):
                    return refused
            tally = self._take_at_once(identity.windows, 0 if refusal else 1, now)
            if tally is None:
                return None
            return self._answer(identity, refusal, tally, now)
        except Exception as error:
            return _unavailable(error)

    async def awaited(
        self, identity: Identity, needs: Needs, query: bytes
    ) -> Admitted | Refusal | None:
        """`at_once`, where only the limiter must be asked and that can be awaited: on asyncio,
        for which limiters are written.
        """
        if needs.credits or self.counts_at_once or self._awaited is None:
            return None
        if running_loop() is None:
            return None
        now = self._clock()
        if now >= identity.expires_at:
            return INVALID
        try:
            refusal = self._refusal(identity, needs, query)
            tally = await self._awaited.take_async(identity.windows, 0 if refusal else 1, now)
            return self._answer(identity, refusal, tally, now)
        except Exception as error:
            return _unavailable(error)

    def decide(self, identity: Identity, needs: Needs, query: bytes) -> Admitted | Refusal:
        """The answer to a verified caller; may block."""
        now = self._clock()
        if now >= identity.expires_at:
            return INVALID
        if self._tolerance.exceeded and (over := self._tolerance.over(identity, "app", now)):
            return self._rate_limited(identity, over, now)
        try:
            refusal = self._refusal(identity, needs, query)
            if refusal and (refused := self._over(identity, now)):
                return refused
            tally = self.limiter.take(identity.windows, 0 if refusal else 1, now)
            answer = self._answer(identity, refusal, tally, now)
        except Exception as error:
            return _unavailable(error)
        if needs.credits and not isinstance(answer, Refusal):
            principal, _ = answer
            assert isinstance(principal, Principal)  # noqa: S101  # somebody is known
            try:
                self._charging.charge(principal, needs.credits)
            except Refused as refused:
                return self.refuse(principal, refused.refusal)
        return answer

    def _refusal(self, identity: Identity, needs: Needs, query: bytes) -> Refusal | None:
        """Why the caller may not do what is asked for, or is known to be unable to pay it."""
        if refusal := self.policy.authorise(identity, needs, query):
            return refusal
        if needs.credits and self._charging.is_short(identity, needs.credits):
            return SHORT
        return None

    def _answer(
        self, identity: Identity, refusal: Refusal | None, tally: Tally, now: int
    ) -> Admitted | Refusal:
        """The answer to a verified caller, whom `refusal` or the tally may yet refuse."""
        if refusal is not None:  # with the fields of every authenticated response (R11)
            self._usage.turn(identity, now)
            if refusal is SHORT and tally.window is not None and not tally.remaining:
                return self._rate_limited(identity, tally, now)  # limits come before credits
            self._tolerance.note(identity, "rules", now)
            fields = tuple(self._fields.of(identity, tally, now))
            return Refusal(refusal.reason, refusal.names, refusal.retry_after, fields)
        if not tally.admitted:
            return self._rate_limited(identity, tally, now)
        if not self._usage.add(identity, now):
            self.limiter.give_back(identity.windows, 1, now)
            return self._quota_exceeded(identity, now)
        if self.counts_at_once and (lost := self._count_at_once(identity, now)):
            return lost
        if self._background.thread is None:
            self._background.start()
        headers = self._fields.of(identity, tally, now)
        headers.append(self._vary)
        return Principal(identity, self.policy, self._charging, now), headers

    def _over(self, identity: Identity, now: int) -> Refusal | None:
        """429 for what the rules refuse once more, where that has been often enough."""
        over = self._tolerance.over(identity, "rules", now) if self._tolerance.exceeded else None
        return self._rate_limited(identity, over, now) if over else None

    def _rate_limited(self, identity: Identity, tally: Tally, now: int) -> Refusal:
        wait = seconds_until(tally.ready_at, now)
        fields = tuple(self._fields.of(identity, tally, now))
        return Refusal("rate_limited", retry_after=wait, headers=fields)

    def _count_at_once(self, identity: Identity, now: int) -> Refusal | None:
        """Write the count before the answer; a refusal where that can't be, or where with the
        counts of other processes the quota is exceeded; may block.
        """
        if not identity.counts:
            return None
        is_written = self._usage.flush()
        if is_written and not self._usage.exceeds(identity):
            return None
        self._usage.take_back(identity, now)
        self.limiter.give_back(identity.windows, 1, now)
        return self._quota_exceeded(identity, now) if is_written else UNAVAILABLE

    def _quota_exceeded(self, identity: Identity, now: int) -> Refusal:
        """The refusal of a quota that blocks: the month is the most constrained window (O14)."""
        first, following = month_bounds(now)
        amount = identity.plan.quota.amount if identity.plan.quota else 0
        tally = Tally(False, Window("", following - first, amount, "month"), 0, following)
        fields = tuple(self._fields.of(identity, tally, now))
        return Refusal("quota_exceeded", (), seconds_until(following, now), fields)

    def refuse(self, caller: Caller, refusal: Refusal) -> Refusal:
        """Give back what an admitted request took, because it is refused after all; may block."""
        if not isinstance(caller, Principal):
            return refusal
        identity = caller.resolved
        self._usage.take_back(identity, caller.taken_at)
        self._charging.uncharge(caller)
        now = self._clock()
        if refusal.status < TOO_MANY_REQUESTS:  # what it may not do, or can't pay
            # A short balance is remembered, so that the next such refusal needs no I/O.
            by: By = "rules" if refusal.reason == "insufficient_credits" else "app"
            self._tolerance.note(identity, by, now)
        try:
            self.limiter.give_back(identity.windows, 1, caller.taken_at)
            tally = self.limiter.take(identity.windows, 0, now)
            fields = tuple(self._fields.of(identity, tally, now))
            return Refusal(refusal.reason, refusal.names, refusal.retry_after, fields)
        except Away:
            return refusal
        except Exception as error:
            log_fault(f"the limiter can't take back a request of {identity.key_id}", error)
            return refusal

    def undo(self, answer: object) -> None:
        """`refuse`, for an answer that nobody waits for any more."""
        if isinstance(answer, tuple):  # `Admitted`
            self.refuse(answer[0], UNAVAILABLE)


def _unavailable(error: Exception) -> Refusal:
    if not isinstance(error, Away):  # which has been logged
        log_fault("the limiter can't answer", error)
    return UNAVAILABLE
