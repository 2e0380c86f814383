"""Requests without a key, where none is needed: limited by the client's address, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keyrush.core.concurrency import NO_WANTS, Wants
from keyrush.core.policy import Needs, Policy
from keyrush.core.refusal import UNAVAILABLE, Refusal
from keyrush.core.rule_limits import RuleLimits
from keyrush.core.sliding import Demand
from keyrush.errors import Away
from keyrush.gate.addresses import AddressSubjects
from keyrush.gate.concurrency import Concurrency, wants_of_anonymous, without_held
from keyrush.gate.deciding import Admitted
from keyrush.gate.observing import header
from keyrush.gate.principal import Anonymous, Taken, Weighs
from keyrush.gate.taking import Together, demands_of
from keyrush.gate.windows import Demands, Took
from keyrush.limiter.protocol import AwaitedLimiter, Limiter
from keyrush.limiter.slots.protocol import RETRY_AFTER
from keyrush.runtime.bridge import running_loop
from keyrush.runtime.logs import log_fault
from keyrush.runtime.workers import Busy, Workers
from keyrush.usage.activity import Peer
from keyrush.wire.fields import Fields, seconds_until
from keyrush.wire.request import Header

#: Method, path, how that was sent, and root.
Request = tuple[str, str, bytes | None, str]

#: What is taken, as whom the request is let in, and what its response has besides.
_Asked = tuple[Wants, Demands, Anonymous, Sequence[Header]]


class Unknowns:
    """Lets requests through as from nobody, or refuses them. Safe to use from any thread or event
    loop.

    `limits` are those of `[anonymous]`, None where there are none, which do not hold where
    `is_exempt`; those of rules hold besides, by address whatever they count else. `clock` gives
    Unix milliseconds.
    """

    def __init__(
        self,
        limiter: Limiter,
        awaited: AwaitedLimiter | None,
        *,
        concurrency: Concurrency,
        weighing: Weighs,
        limits: RuleLimits | None,
        is_exempt: Callable[[str, str, bytes | None, str], bool],
        policy: Policy,
        addresses: AddressSubjects,
        workers: Workers,
        fields: Fields,
        clock: Callable[[], int],
    ) -> None:
        self.together = Together(limiter, awaited, concurrency)
        self._concurrency = concurrency
        self._weighing = weighing
        self.is_async = awaited is not None
        self.workers = workers
        self.clock = clock
        self._limits = limits
        self._is_exempt = is_exempt
        self._policy = policy
        self._addresses = addresses
        self._fields = fields
        #: Some request may be limited.
        self.has_limits = limits is not None or policy.has_limits

    def answer(
        self,
        request: Request,
        peer: Peer,
        forwarded_for: bytes | None,
        vary: Sequence[Header],
        before: Anonymous | None,
    ) -> Admitted | Refusal | PendingUnknown:
        """The answer to a request. `vary` is what its response has besides. What has been taken for
        whom an outer gate has let in `before` is not taken again.
        """
        method, path, _, root = request
        needs = self._policy.needs(method, path, root) if self._policy.has_limits else None
        own = None if self._is_exempt(*request) else self._limits
        if own is None and not (needs and needs.limits):
            return before or Anonymous(), [*vary]
        subject = self._addresses.of(peer, forwarded_for)
        taken = () if before is None else before.takes
        demands = _demands(own, needs, subject, taken)
        wants = NO_WANTS
        if needs is not None and needs.has_slots:
            wants = without_held(wants_of_anonymous(needs, subject), before)
        if not any(demands) and wants is NO_WANTS:
            return before or Anonymous(), [*vary]
        caller = Anonymous(self._weighing)
        caller.takes = taken
        if slots := getattr(before, "slots", ()):
            caller.slots = slots
        asked = wants, demands, caller, vary
        now = self.clock()
        try:
            took = self.together.at_once(wants, demands, now)
        except Exception as error:
            return unavailable(error)
        if took is None:
            return PendingUnknown(self, asked)
        return self.decided(asked, took, now)

    def decided(self, asked: _Asked, took: Took, now: int) -> Admitted | Refusal:
        """The answer, by what a take came to."""
        _, _, caller, vary = asked
        windows = [window for demand in took.demands or () for window in demand.windows]
        tally = took.tally
        fields = self._fields.of_windows(windows, took.shown or tally, now)
        if (full := took.held.full) is not None:
            return Refusal("rate_limited", (str(full.most),), RETRY_AFTER, tuple(fields))
        if tally.admitted:
            if took.told is not None and took.told.window is not None:
                fields.append(header(took.told.window.name))
            elif took.held.would_limit:
                fields.append(header(took.held.would_limit))
            if took.held.slots:
                caller.slots = (*getattr(caller, "slots", ()), *took.held.slots)
            taken = tuple(took.demands or ())
            enforced = len(taken) - took.observed
            caller.takes += (Taken(taken[:enforced], now, taken[enforced:]),)
            return caller, [*fields, *vary]
        wait = seconds_until(tally.ready_at, now)
        return Refusal("rate_limited", retry_after=wait, headers=tuple(fields))

    def undo(self, answer: Admitted | Refusal) -> None:
        """End what an answer holds that nobody waits for any more."""
        if isinstance(answer, tuple):
            self._concurrency.end(answer[0])


class PendingUnknown:
    """A request from nobody for which the limiter has to be asked."""

    def __init__(self, unknowns: Unknowns, asked: _Asked) -> None:
        self._unknowns = unknowns
        self._asked = asked

    def finish(self, address: object = None) -> Admitted | Refusal:  # noqa: ARG002  # it is known
        """The answer; may block."""
        now = self._unknowns.clock()
        try:
            took = self._unknowns.together.take(*self._asked[:2], now)
        except Exception as error:
            return unavailable(error)
        return self._unknowns.decided(self._asked, took, now)

    async def finish_async(self, address: object = None) -> Admitted | Refusal:
        """`finish`, awaited."""
        unknowns, now = self._unknowns, self._unknowns.clock()
        try:
            if unknowns.is_async and running_loop() is not None:
                took = await unknowns.together.take_async(*self._asked[:2], now)
                if took is not None:
                    return unknowns.decided(self._asked, took, now)
            return await unknowns.workers.run("io", self.finish, address, undo=unknowns.undo)
        except Busy:
            return Refusal("unavailable", retry_after=1)
        except Exception as error:
            return unavailable(error)


def unavailable(error: Exception) -> Refusal:
    """503, because the limiter can't answer."""
    if not isinstance(error, Away):  # which has been logged
        log_fault("the limiter can't answer", error)
    return UNAVAILABLE


def _demands(
    own: RuleLimits | None, needs: Needs | None, subject: str, takes: Sequence[Taken]
) -> Demands:
    taken = [demand for one in takes for demand in demands_of(one)]
    observed = {demand.windows for one in takes for demand in one.observed}
    wanted = [] if own is None else [(own, 1 if needs is None else needs.cost)]
    wanted += () if needs is None else needs.limits
    made = []
    for limits, cost in wanted:
        windows = limits.of_anonymous(subject)
        more = cost - sum(one.cost for one in taken if one.windows == windows)
        if more > 0 and windows not in observed:  # which may have refused it once
            made.append((limits.is_observed, Demand(windows, more)))
    return Demands.of(made)
