"""What a verified caller is answered: may they, limits, quota, credits, in this order.

A later refusal gives back what an earlier step took, so that a refused request consumes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus

from keyrush.core.concurrency import Want
from keyrush.core.identity import Verified
from keyrush.core.policy import ANY_KEY, UNRULED, Needs
from keyrush.core.refusal import UNAVAILABLE, Refusal, Refused
from keyrush.core.sliding import Demand, Tally, Window
from keyrush.core.times import month_bounds
from keyrush.errors import Away
from keyrush.gate.charging import SHORT, Charging
from keyrush.gate.concurrency import Concurrency
from keyrush.gate.courtesy import Courtesy
from keyrush.gate.lines import Full
from keyrush.gate.observing import Observing, header
from keyrush.gate.principal import Caller, Calling, Means, Principal, Taken
from keyrush.gate.taking import Taking, note
from keyrush.gate.tolerance import By, Tolerance
from keyrush.gate.windows import Took
from keyrush.limiter.protocol import AwaitedLimiter, Limiter
from keyrush.limiter.slots.protocol import RETRY_AFTER
from keyrush.runtime.background import Background
from keyrush.runtime.bridge import running_loop
from keyrush.runtime.logs import log_fault
from keyrush.usage.activity import Came
from keyrush.usage.counting import MonthlyCounts
from keyrush.wire.fields import Fields, seconds_until
from keyrush.wire.request import INVALID, Header

#: A request that is let through: who calls, and what to add to the response's headers.
Admitted = tuple[Caller, list[Header]]

TOO_MANY_REQUESTS = HTTPStatus.TOO_MANY_REQUESTS.value


class Deciding:
    """Decides on verified callers. Safe to use from any thread or event loop.

    With `counts_at_once` each count is written before its answer. `vary` is the header of every
    answer that depends on who calls (S23).
    """

    def __init__(
        self,
        limiter: Limiter,
        awaited: AwaitedLimiter | None,
        *,
        means: Means,
        concurrency: Concurrency,
        usage: MonthlyCounts,
        observing: Observing,
        charging: Charging,
        background: Background,
        fields: Fields,
        vary: Header,
        clock: Callable[[], int],
        counts_at_once: bool,
    ) -> None:
        self.limiter = limiter
        self.counts_at_once = counts_at_once
        #: What principals act through.
        self.means = means
        self._policy = means.policy
        self._usage = usage
        self._observing = observing
        self._charging = charging
        self._tolerance = Tolerance()
        self._courtesy = Courtesy()
        self._background = background
        self._fields = fields
        self._vary = vary
        self._clock = clock
        self._take_at_once = limiter.take_at_once
        self._taking = Taking(limiter, awaited, concurrency)
        self._concurrency = concurrency
        #: The limiter is better awaited than called from a thread.
        self.is_async = awaited is not None
        self._awaited = awaited

    def at_once(  # noqa: C901, PLR0912, PLR0917  # one straight line, as every warm request takes it
        self,
        verified: Verified,
        needs: Needs,
        query: bytes,
        came: Came | None = None,
        now: int | None = None,
        address: str = "",
        *,
        is_its_turn: bool = False,
    ) -> Admitted | Refusal | None:
        """The answer to a verified caller from memory alone, or None where I/O is needed, or where
        it may wait for its turn. Without `now` it may have taken a while to verify it. `address` is
        the subject of the client's, by which limits may count.
        """
        if now is None:
            now = self._clock()
            verified = verified.at(now)
            if now >= verified.expires_at:
                return INVALID
        if verified.session is not None and not needs.are_for(verified.session):
            return INVALID
        if self._tolerance.exceeded and (over := self._tolerance.over(verified, "app", now)):
            return self._rate_limited(verified, over, now)
        if self.counts_at_once:
            return None
        refusal, cost, took = None, 1, None
        try:
            if needs is not ANY_KEY:
                if needs.resource is not None and needs.is_unread:
                    return None
                refusal = self._refusal(verified, needs, query)
                if needs.credits and refusal is None:
                    return None
                if refusal and (refused := self._over(verified, now)):
                    return refused
                cost = 0 if refusal else needs.weight
            if needs.has_limits or verified.has_limits:
                if needs.wait and cost and not is_its_turn:
                    return None
                took = self._taking.at_once(verified, needs, address, now, is_look=not cost)
                if took is None:
                    return None
            tally = took.tally if took else self._take_at_once(verified.windows, cost, now)
            if tally is None:
                return None
            return self._answer(verified, needs, refusal, tally, now, came, took)
        except BaseException as error:
            return self._failed(error, took)

    async def awaited(
        self,
        verified: Verified,
        needs: Needs,
        query: bytes,
        came: Came | None = None,
        address: str = "",
    ) -> Admitted | Refusal | None:
        """`at_once`, where only the limiter must be asked and that can be awaited: on asyncio,
        for which limiters are written.
        """
        if needs.credits or self.counts_at_once or self._awaited is None:
            return None
        if running_loop() is None:
            return None
        now = self._clock()
        verified = verified.at(now)
        if self._is_not_for(verified, needs, now):
            return INVALID
        took = None
        try:
            refusal = self._refusal(verified, needs, query)
            if needs.has_limits or verified.has_limits:
                is_look = refusal is not None
                took = await self._taking.take_async(verified, needs, address, now, is_look=is_look)
                if took is None:
                    return None
                return self._answer(verified, needs, refusal, took.tally, now, came, took)
            cost = 0 if refusal else needs.weight
            tally = await self._awaited.take_async(verified.windows, cost, now)
            if tally is None:
                return None
            return self._answer(verified, needs, refusal, tally, now, came)
        except BaseException as error:
            return self._failed(error, took)

    def decide(
        self,
        verified: Verified,
        needs: Needs,
        query: bytes,
        came: Came | None = None,
        address: str = "",
    ) -> Admitted | Refusal:
        """The answer to a verified caller; may block."""
        now = self._clock()
        verified = verified.at(now)
        if self._is_not_for(verified, needs, now):
            return INVALID
        if self._tolerance.exceeded and (over := self._tolerance.over(verified, "app", now)):
            return self._rate_limited(verified, over, now)
        took = None
        try:
            refusal = self._refusal(verified, needs, query)
            if refusal and (refused := self._over(verified, now)):
                return refused
            if needs.has_limits or verified.has_limits:
                is_look = refusal is not None
                took = self._taking.take(verified, needs, address, now, is_look=is_look)
                tally = took.tally
            else:
                tally = self.limiter.take(verified.windows, 0 if refusal else needs.weight, now)
            answer = self._answer(verified, needs, refusal, tally, now, came, took)
        except BaseException as error:
            return self._failed(error, took)
        if needs.credits and not isinstance(answer, Refusal):
            principal, _ = answer
            assert isinstance(principal, Principal)  # noqa: S101  # somebody is known
            try:
                return self._charge(principal, needs) or answer
            except BaseException:
                self._concurrency.end(principal)
                raise
        return answer

    def _failed(self, error: BaseException, took: Took | None) -> Refusal:
        """503, where nobody can tell what a request may take."""
        self._taking.let_go(took)
        if not isinstance(error, Exception):  # as time-outs of gevent's are
            raise error
        return _unavailable(error)

    def _charge(self, principal: Principal, needs: Needs) -> Refusal | None:
        """Charge what an admitted request costs, or refuse it; may block."""
        prices, rules = needs.prices or (needs.credits,), needs.rules or (needs.rule,)
        try:
            for price, rule in zip(prices, rules, strict=True):
                if price:
                    self._charging.charge(principal, price, rule)
        except Refused as refused:
            return self.refuse(principal, refused.refusal)
        if isinstance(principal, Calling):
            principal.paid = principal.charges
        return None

    def _is_not_for(self, verified: Verified, needs: Needs, now: int) -> bool:
        """Whether the credential has ended, or is for something else."""
        if now >= verified.expires_at:
            return True
        return verified.session is not None and not needs.are_for(verified.session)

    def _refusal(self, verified: Verified, needs: Needs, query: bytes) -> Refusal | None:
        """Why the caller may not do what is asked for, or is known to be unable to pay it."""
        if needs.resource is not None and (needs.refused is not None or needs.is_unread):
            return needs.refused or UNRULED  # of what is unread nobody knows what it is
        if refusal := self._policy.authorise(verified, needs, query):
            return refusal
        if needs.credits and self._charging.is_short(verified, needs.credits):
            return SHORT
        return None

    def _answer(  # noqa: C901, PLR0912, PLR0917  # as `at_once`, for every request
        self,
        verified: Verified,
        needs: Needs,
        refusal: Refusal | None,
        tally: Tally,
        now: int,
        came: Came | None,
        took: Took | None = None,
    ) -> Admitted | Refusal:
        """The answer to a verified caller, whom `refusal` or the tally may yet refuse. `took` is
        what was taken, where it is not one unit a request of the plan's windows.
        """
        demands, shown = None, tally
        if took is not None:
            demands, shown = took.demands, took.shown or tally
        if refusal is not None:
            self._usage.start_month(verified, now)
            if refusal is SHORT and tally.window is not None and not tally.remaining:
                # Limits come before credits.
                return self._rate_limited(verified, tally, now, demands)
            return self._refused(verified, refusal, shown, now, demands)
        weight = needs.weight
        if took is not None and (full := took.held.full) is not None:
            self._usage.start_month(verified, now)
            return self._rate_limited(verified, shown, now, demands, full)
        if not weight:
            self._usage.start_month(verified, now)
        elif not tally.admitted:
            refused = self._rate_limited(verified, tally, now, demands)
            if not needs.wait:
                return refused
            return Full(refused.reason, (), refused.retry_after, refused.headers, tally)
        elif not self._usage.add(verified, now, weight):
            self._taking.let_go(took)
            self._taking.give_back(_taken(verified, weight, now, demands))
            return self._quota_exceeded(verified, now)
        elif self.counts_at_once and (lost := self._count_at_once(verified, now, weight)):
            self._taking.let_go(took)
            self._taking.give_back(_taken(verified, weight, now, demands))
            return lost
        if self._background.thread is None:
            self._background.start()
        headers = self._fields.of(verified, shown, now, demands)
        if needs.resource is None:
            if took is None:  # as nearly all
                headers.append(self._vary)
                return Principal(verified, self.means, now, headers, came), headers
            if not (took.observed or took.held.would_limit or verified.plan.is_observed):
                headers.append(self._vary)
                principal = Principal(verified, self.means, now, headers, came)
                note(principal, took, now)
                return principal, headers
        return self._let_in(verified, needs, took, now, came, headers)

    def _let_in(  # noqa: PLR0917  # as `_answer`
        self,
        verified: Verified,
        needs: Needs,
        took: Took | None,
        now: int,
        came: Came | None,
        headers: list[Header],
    ) -> Admitted:
        """The answer to a request that is let in, and is not one unit of its plan's windows, or is
        to a resource. `headers` are the rate-limit fields.
        """
        would_limit, is_told = "", False
        if took is not None and (
            took.observed or took.held.would_limit or verified.plan.is_observed
        ):
            if needs.weight:
                would_limit = self._observing.over(verified, took, now)
            if would_limit:
                headers.append(header(would_limit))
            is_told = bool(took.observed or took.held.would_limit or would_limit)
        headers.append(self._vary)
        caller = (
            Principal(verified, self.means, now, headers, came)
            if needs.resource is None and not is_told
            else Calling(
                verified,
                self.means,
                now,
                headers,
                came,
                resource=needs.resource,
                taken=needs.weight,
                would_limit=would_limit,
            )
        )
        if took is not None:
            note(caller, took, now)
        return caller, headers

    def _refused(
        self,
        verified: Verified,
        refusal: Refusal,
        shown: Tally,
        now: int,
        demands: Sequence[Demand] | None,
    ) -> Refusal:
        """What the rules refuse, with the fields of every authenticated response (R11)."""
        self._tolerance.note(verified, "rules", now)
        fields = tuple(self._fields.of(verified, shown, now, demands))
        return Refusal(refusal.reason, refusal.names, refusal.retry_after, fields)

    def may_wait(self, verified: Verified, needs: Needs, query: bytes) -> bool:
        """Whether a request waits where a window refuses it: nothing else does that is known."""
        return bool(needs.weight) and self._refusal(verified, needs, query) is None

    def window_keys(self, verified: Verified, needs: Needs, address: str) -> tuple[str, ...]:
        """The keys of all windows that may refuse a request."""
        enforced, _ = self._taking.looks(verified.at(self._clock()), needs, address)
        return tuple(window.key for demand in enforced for window in demand.windows)

    def over(self, verified: Verified, needs: Needs, address: str, tally: Tally) -> Refusal:
        """429 to a request that has waited in vain, by what was last heard of the window."""
        enforced, observed = self._taking.looks(verified, needs, address)
        return self._rate_limited(verified, tally, self._clock(), (*enforced, *observed))

    def come_to_resource(self, verified: Verified) -> Refusal | None:
        """429 for a caller that comes to resources too often, whatever for, or that has been
        refused too often: then nothing more is read of it.
        """
        now = self._clock()
        over = self._over(verified, now)
        if over is None and (tally := self._courtesy.take(verified, now)):
            over = self._rate_limited(verified, tally, now)
        return over

    def _over(self, verified: Verified, now: int) -> Refusal | None:
        """429 for what the rules refuse once more, where that has been often enough."""
        over = self._tolerance.over(verified, "rules", now) if self._tolerance.exceeded else None
        return self._rate_limited(verified, over, now) if over else None

    def _rate_limited(
        self,
        verified: Verified,
        tally: Tally,
        now: int,
        demands: Sequence[Demand] | None = None,
        full: Want | None = None,
    ) -> Refusal:
        """429: a window is used up, or so many requests are under way as may be (`full`)."""
        fields = tuple(self._fields.of(verified, tally, now, demands))
        if full is not None:
            return Refusal("rate_limited", (str(full.most),), RETRY_AFTER, fields)
        wait = seconds_until(tally.ready_at, now)
        return Refusal("rate_limited", retry_after=wait, headers=fields)

    def _count_at_once(self, verified: Verified, now: int, weight: int) -> Refusal | None:
        """Write the count before the answer; a refusal where that can't be, or where with the
        counts of other processes the quota is exceeded; may block.
        """
        if not verified.counts:
            return None
        is_written = self._usage.flush()
        if is_written and not self._usage.exceeds(verified):
            return None
        self._usage.take_back(verified, now, weight)
        return self._quota_exceeded(verified, now) if is_written else UNAVAILABLE

    def _quota_exceeded(self, verified: Verified, now: int) -> Refusal:
        """The refusal of a quota that blocks: the month is the most constrained window (O14)."""
        first, following = month_bounds(now)
        amount = verified.plan.quota.amount if verified.plan.quota else 0
        tally = Tally(False, Window("", following - first, amount, "month"), 0, following)
        fields = tuple(self._fields.of(verified, tally, now))
        return Refusal("quota_exceeded", (), seconds_until(following, now), fields)

    def refuse(self, caller: Caller, refusal: Refusal) -> Refusal:
        """Give back what an admitted request took, because it is refused after all; may block."""
        if not isinstance(caller, Principal):
            return refusal
        verified = caller.verified
        self._concurrency.end(caller)  # first: what comes next may fail
        self._usage.take_back(verified, caller.taken_at, caller.taken)
        self._charging.uncharge(caller)
        now = self._clock()
        if refusal.status < TOO_MANY_REQUESTS:  # what it may not do, or can't pay
            # A short balance is remembered, so that the next such refusal needs no I/O.
            by: By = "rules" if refusal.reason == "insufficient_credits" else "app"
            self._tolerance.note(verified, by, now)
        try:
            takes = self._taking.undo(caller)
            if isinstance(refusal, Full):  # which shows the window that refuses
                return refusal
            took = self._taking.look(takes, now)
            fields = tuple(self._fields.of(verified, took.tally, now, took.demands))
            return Refusal(refusal.reason, refusal.names, refusal.retry_after, fields)
        except Away:
            return refusal
        except Exception as error:
            log_fault(f"the limiter can't take back a request of {verified.key_id}", error)
            return refusal

    def undo(self, answer: object) -> None:
        """`refuse`, for an answer that nobody waits for any more."""
        if isinstance(answer, tuple):  # `Admitted`
            self.refuse(answer[0], UNAVAILABLE)


def _taken(verified: Verified, weight: int, now: int, demands: Sequence[Demand] | None) -> Taken:
    """What was taken: `demands`, or else of the plan's windows alone."""
    return Taken((Demand(verified.windows, weight),) if demands is None else demands, now)


def _unavailable(error: Exception) -> Refusal:
    if not isinstance(error, Away):  # which has been logged
        log_fault("the limiter can't answer", error)
    return UNAVAILABLE
