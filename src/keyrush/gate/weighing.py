"""What an app says of a request's weight: limits that no path names, and prices that only it knows.

All of it is of the request's own: given back where that is refused after all, shown in its fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from keyrush.core.checks import checked_cost, checked_limit_name
from keyrush.core.model import Limit
from keyrush.core.notation import parse_limits
from keyrush.core.refusal import UNAVAILABLE, Refusal, Refused
from keyrush.core.rule_limits import RuleLimits
from keyrush.core.sliding import Demand, Tally, Window
from keyrush.errors import Away, InvalidArgument
from keyrush.gate.principal import PerCaller, Principal, Taken
from keyrush.gate.taking import takes_of
from keyrush.limiter.protocol import AwaitedLimiter, Limiter
from keyrush.runtime.bridge import running_loop
from keyrush.runtime.logs import log_fault
from keyrush.runtime.workers import Workers
from keyrush.wire.fields import Fields, seconds_until

#: What a demand is on: tuples, as the gate makes them.
Windows = Sequence[Window]


class Weighing:
    """Weighs requests while the app answers them. Safe to use from any thread or event loop.

    `clock` gives Unix milliseconds.
    """

    def __init__(
        self,
        limiter: Limiter,
        awaited: AwaitedLimiter | None,
        *,
        workers: Workers,
        fields: Fields,
        clock: Callable[[], int],
    ) -> None:
        self._limiter = limiter
        self._awaited = awaited
        self._workers = workers
        self._fields = fields
        self._clock = clock

    # --- limits by name ---

    def limit(
        self, principal: Principal, limits: str, name: str, per: PerCaller, cost: int
    ) -> None:
        """See `Principal.limit`."""
        self._take(principal, [_demand(principal, limits, name, per, cost)])

    async def limit_async(
        self, principal: Principal, limits: str, name: str, per: PerCaller, cost: int
    ) -> None:
        """See `Principal.limit_async`."""
        await self._take_async(principal, [_demand(principal, limits, name, per, cost)])

    # --- the cost ---

    def cost(self, principal: Principal, units: int) -> None:
        """See `Principal.cost`."""
        more, less = _changes(principal, units)
        if more:
            self._take(principal, more)
        self._give_back(principal, less)

    async def cost_async(self, principal: Principal, units: int) -> None:
        """See `Principal.cost_async`."""
        more, less = _changes(principal, units)
        if more:
            await self._take_async(principal, more)
        self._give_back(principal, less)

    def cost_after(self, principal: Principal, units: int) -> None:
        """See `Principal.cost_after`."""
        more, less = _changes(principal, units)
        now = self._clock()
        for windows, cost in more:
            self._limiter.add(windows, cost, now)
        _note(principal, Taken(more, now))
        self._give_back(principal, less)

    def _give_back(self, principal: Principal, less: Sequence[Demand]) -> None:
        """Have counted no more what was taken too much; who was admitted stays so."""
        if not less:
            return
        taken_at = takes_of(principal)[0].at
        _note(principal, Taken([Demand(one.windows, -one.cost) for one in less], taken_at))
        for windows, cost in less:
            try:
                self._limiter.give_back(windows, cost, taken_at)
            except Away:
                return
            except Exception as error:
                log_fault("the limiter can't take back units", error)

    # --- taking ---

    def _take(self, principal: Principal, demands: Sequence[Demand]) -> None:
        asked, now = _beside(principal, demands), self._clock()
        try:
            tally = self._limiter.take_together(asked, now)
        except Exception as error:
            raise _unavailable(principal, error) from error
        self._taken(principal, demands, asked, tally, now)

    async def _take_async(self, principal: Principal, demands: Sequence[Demand]) -> None:
        asked, now = _beside(principal, demands), self._clock()

        def undo(tally: Tally) -> None:
            if tally.admitted:  # nobody waits for the work that it was for
                for windows, cost in demands:
                    self._limiter.give_back(windows, cost, now)

        try:
            tally = self._limiter.take_together_at_once(asked, now)
            if tally is None and self._awaited is not None and running_loop() is not None:
                tally = await self._awaited.take_together_async(asked, now)
            if tally is None:
                tally = await self._workers.run(
                    "io", self._limiter.take_together, asked, now, undo=undo
                )
        except Exception as error:
            raise _unavailable(principal, error) from error
        self._taken(principal, demands, asked, tally, now)

    def _taken(
        self,
        principal: Principal,
        demands: Sequence[Demand],
        asked: Sequence[Demand],
        tally: Tally,
        now: int,
    ) -> None:
        """Note what was taken and show it, or refuse the request."""
        fields = self._fields.of(principal.verified, tally, now, asked)
        if not tally.admitted:
            wait = seconds_until(tally.ready_at, now)
            principal.refuse(Refusal("rate_limited", retry_after=wait, headers=tuple(fields)))
        _note(principal, Taken(demands, now))
        principal.shown[:-1] = fields  # the last one is `vary`


def _unavailable(principal: Principal, error: Exception) -> Refused:
    if not isinstance(error, Away):  # which has been logged
        log_fault("the limiter can't answer", error)
    principal.refusal = UNAVAILABLE
    return Refused(UNAVAILABLE)


def _note(principal: Principal, taken: Taken) -> None:
    if taken.demands:
        principal.takes = (*takes_of(principal), taken)


def _units(principal: Principal) -> Counter[Windows]:
    """The units that a request has taken so far of each of its windows."""
    units: Counter[Windows] = Counter()
    for demands, _ in takes_of(principal):
        for windows, cost in demands:
            units[windows] += cost
    return units


def _changes(principal: Principal, units: int) -> tuple[list[Demand], list[Demand]]:
    """What is to be taken besides, and to be given back, so that the request costs so many units
    of each window of its plan and its rule.
    """
    checked_cost(units)
    taken = _units(principal)
    own = [windows for windows, _ in takes_of(principal)[0].demands if windows]
    more = [Demand(one, units - taken[one]) for one in own if units > taken[one]]
    less = [Demand(one, taken[one] - units) for one in own if units < taken[one]]
    return more, less


def _beside(principal: Principal, demands: Sequence[Demand]) -> tuple[Demand, ...]:
    """Demands, with a look at all other windows of the request, so that its fields show the most
    constrained of all (O14).
    """
    mine = {one.windows for one in demands}
    looks = [Demand(one, 0) for one in _units(principal) if one and one not in mine]
    return (*looks, *demands)


def _demand(principal: Principal, limits: str, name: str, per: PerCaller, cost: int) -> Demand:
    if per not in ("key", "account"):
        raise InvalidArgument("per", f"{per!r} is neither 'key' nor 'account'")
    parsed = parse_limits(limits) or ()
    named = _named(parsed, checked_limit_name(name), per)
    return Demand(named.of(principal.verified, ""), checked_cost(cost))


@lru_cache(1024)
def _named(limits: tuple[Limit, ...], name: str, per: PerCaller) -> RuleLimits:
    return RuleLimits(f"name {name}", name, limits, per=per)
