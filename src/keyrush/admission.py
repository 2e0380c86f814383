"""The way of a request through the gate: the hot path, and the cold one.

`warm` answers from memory and never blocks; where it can't, `cold` answers, and may block.
Both take what was sent and return `Admitted` or a `Refusal`. An adapter calls `warm`, then, if
that gave None, `cold`: WSGI directly, ASGI in a worker thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from keyrush import http
from keyrush.background import Background
from keyrush.bridge import synchronous
from keyrush.cache import Cache
from keyrush.circuit import Away
from keyrush.credits import Credits
from keyrush.errors import Refused, log_fault
from keyrush.http import Credential, Header
from keyrush.limiter import Limiter
from keyrush.model import Identity, Refusal, month_bounds
from keyrush.policy import ANY_KEY, Rule
from keyrush.principal import Caller, Principal
from keyrush.responses import VARY, Fields, seconds_until
from keyrush.usage import Usage
from keyrush.verification import UNAVAILABLE, Verification
from keyrush.windows import Tally, Window
from keyrush.workers import Pool

#: A limiter's `take_at_once`.
AtOnce = Callable[[Sequence[Window], int, int], Tally | None]

#: A limiter's `take_async`.
TakeAsync = Callable[[Sequence[Window], int, int], Awaitable[Tally]]

#: A request that is let through: who calls, and what to add to the response's headers.
Admitted = tuple[Principal, list[Header]]


class Admission:
    """Decides on requests. Safe to use from any thread or event loop.

    With `counts_at_once` each count is written before its answer.
    """

    def __init__(
        self,
        limiter: Limiter,
        *,
        cache: Cache,
        verification: Verification,
        usage: Usage,
        credits: Credits,
        background: Background,
        fields: Fields,
        clock: Callable[[], int],
        counts_at_once: bool,
    ) -> None:
        self.limiter = synchronous(limiter)
        self._cache = cache
        self._verification = verification
        self._usage = usage
        self._credits = credits
        self._policy = credits.policy
        self._background = background
        self._fields = fields
        self._clock = clock
        self.counts_at_once = counts_at_once
        self._take_at_once: AtOnce = _never
        if limiter.is_local and self.limiter is limiter:
            self._take_at_once = limiter.take
        else:
            self._take_at_once = getattr(limiter, "take_at_once", _never)
        #: `warm_async` may know what `warm` doesn't.
        self.is_async: bool = getattr(limiter, "is_async", False)
        # Its own, not that of the front, by which it could be called from threads alone.
        self._take_async: TakeAsync | None = getattr(limiter, "take_async", None)

    def warm(self, credential: Credential, rule: Rule, query: bytes) -> Admitted | Refusal | None:
        """The answer from memory alone, or None where only `cold` can give it.

        `query` is the raw query string: modules may be named in it.
        """
        entry = self._cache.get(credential.digest)
        now = self._clock()
        if entry is None:
            return http.INVALID if self._verification.rules_out(credential, now) else None
        if now >= entry.due and not self._verification.attend(entry, now):
            return None
        if rule.credits or self.counts_at_once:
            return None
        identity = entry.identity
        try:
            refusal = None if rule is ANY_KEY else self._policy.authorise(identity, rule, query)
            tally = self._take_at_once(identity.windows, 0 if refusal else 1, now)
            if tally is None:
                return None
            return self._answer(identity, credential, refusal, tally, now)
        except Exception as error:
            return _unavailable(error)

    async def warm_async(
        self, credential: Credential, rule: Rule, query: bytes
    ) -> Admitted | Refusal | None:
        """`warm`, where only the limiter must be asked and that can be awaited."""
        entry = self._cache.get(credential.digest)
        now = self._clock()
        if entry is None or now >= entry.due or rule.credits or self.counts_at_once:
            return None
        if self._take_async is None:
            return None
        identity = entry.identity
        try:
            refusal = self._policy.authorise(identity, rule, query)
            tally = await self._take_async(identity.windows, 0 if refusal else 1, now)
            return self._answer(identity, credential, refusal, tally, now)
        except Exception as error:
            return _unavailable(error)

    def cold(self, credential: Credential, rule: Rule, query: bytes) -> Admitted | Refusal:
        """The answer, with whatever look-up, hashing or charge it takes."""
        verified = self._verification.verify(credential)
        if isinstance(verified, Refusal):
            return verified
        identity = verified.identity
        now = self._clock()
        if now >= identity.expires_at:
            return http.INVALID
        try:
            refusal = self._policy.authorise(identity, rule, query)
            tally = self.limiter.take(identity.windows, 0 if refusal else 1, now)
            answer = self._answer(identity, credential, refusal, tally, now)
        except Exception as error:
            return _unavailable(error)
        if rule.credits and not isinstance(answer, Refusal):
            principal, _ = answer
            try:
                self._credits.charge(principal, rule.credits)
            except Refused as refused:
                return self.refuse(principal, refused.refusal)
        return answer

    def pool(self, credential: Credential) -> Pool:
        """The threads in which `cold` should run for the credential."""
        return "hash" if self._cache.get(credential.digest) is None else "io"

    def _answer(
        self,
        identity: Identity,
        credential: Credential,
        refusal: Refusal | None,
        tally: Tally,
        now: int,
    ) -> Admitted | Refusal:
        """The answer to a verified caller, whom `refusal` or the tally may yet refuse."""
        if refusal is not None:  # with the fields of every authenticated response (R11)
            self._usage.turn(identity, now)
            fields = tuple(self._fields.of(identity, tally, now))
            return Refusal(refusal.reason, refusal.names, refusal.retry_after, fields)
        if not tally.admitted:
            wait = seconds_until(tally.ready_at, now)
            fields = tuple(self._fields.of(identity, tally, now))
            return Refusal("rate_limited", retry_after=wait, headers=fields)
        if not self._usage.add(identity, now):
            self.limiter.give_back(identity.windows, 1, now)
            return self._quota_exceeded(identity, now)
        if self.counts_at_once and (lost := self._count_at_once(identity, now)):
            return lost
        if self._background.thread is None:
            self._background.start()
        headers = self._fields.of(identity, tally, now)
        if credential.by_header:
            headers.append(VARY)
        return Principal(identity, self._credits, now), headers

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
        self._credits.uncharge(caller)
        try:
            self.limiter.give_back(identity.windows, 1, caller.taken_at)
            now = self._clock()
            tally = self.limiter.take(identity.windows, 0, now)
            fields = tuple(self._fields.of(identity, tally, now))
            return Refusal(refusal.reason, refusal.names, refusal.retry_after, fields)
        except Away:
            return refusal
        except Exception as error:
            log_fault(f"the limiter can't take back a request of {identity.key_id}", error)
            return refusal

    def undo(self, answer: Admitted | Refusal) -> None:
        """`refuse`, for an answer that nobody waits for any more."""
        if not isinstance(answer, Refusal):
            self.refuse(answer[0], UNAVAILABLE)


def _never(windows: Sequence[Window], cost: int, now: int) -> None:
    """In place of `take_at_once`, for a limiter that can't."""


def _unavailable(error: Exception) -> Refusal:
    if not isinstance(error, Away):  # which has been logged
        log_fault("the limiter can't answer", error)
    return UNAVAILABLE
