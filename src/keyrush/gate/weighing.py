"""What is taken for a request that is let in already: what the app says of its weight, as no path
names it and only it knows, and what the rules of an app in the app say.

All of it is of the request's own: given back where that is refused after all, shown in its fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from keyrush.core.checks import checked_cost, checked_limit_name
from keyrush.core.concurrency import NO_WANTS, Wants
from keyrush.core.model import Limit
from keyrush.core.notation import parse_limits
from keyrush.core.policy import Needs
from keyrush.core.refusal import UNAVAILABLE, Refusal, Refused
from keyrush.core.rule_limits import RuleLimits
from keyrush.core.sliding import Demand, Window
from keyrush.errors import Away, InvalidArgument
from keyrush.gate.concurrency import Concurrency, Held, wants_of, without_held
from keyrush.gate.lines import Full
from keyrush.gate.observing import Observing, header
from keyrush.gate.principal import Anonymous, Calling, PerCaller, Principal, Taken
from keyrush.gate.taking import demands_of, takes_of
from keyrush.gate.windows import Demands, Took, Windows
from keyrush.limiter.protocol import AwaitedLimiter, Limiter
from keyrush.limiter.slots.protocol import RETRY_AFTER
from keyrush.runtime.bridge import running_loop
from keyrush.runtime.logs import log_fault
from keyrush.runtime.workers import Workers
from keyrush.wire.fields import WOULD_LIMIT, Fields, is_of_windows, seconds_until

#: What a demand is on: tuples, as the gate makes them.
Its = Sequence[Window]


#: Whose requests are weighed.
Weighed = Principal | Anonymous

#: Limits by name of which one request remembers what it took, to give it back; what it took of more
#: stays taken.
_NAMES = 100


class Weighing:
    """Weighs requests while the app answers them. Safe to use from any thread or event loop.

    `clock` gives Unix milliseconds.
    """

    def __init__(
        self,
        limiter: Limiter,
        awaited: AwaitedLimiter | None,
        *,
        concurrency: Concurrency,
        observing: Observing,
        workers: Workers,
        fields: Fields,
        clock: Callable[[], int],
    ) -> None:
        self._limiter = limiter
        self._windows = Windows(limiter, awaited)
        self._is_async = awaited is not None
        self._concurrency = concurrency
        self._observing = observing
        self._workers = workers
        self._fields = fields
        self._clock = clock

    # --- limits by name ---

    def limit(
        self, principal: Principal, limits: str, name: str, per: PerCaller, cost: int
    ) -> None:
        """See `Principal.limit`."""
        self._take(principal, _demands(principal, limits, name, per, cost), is_named=True)

    async def limit_async(
        self, principal: Principal, limits: str, name: str, per: PerCaller, cost: int
    ) -> None:
        """See `Principal.limit_async`."""
        demands = _demands(principal, limits, name, per, cost)
        await self._take_async(principal, demands, is_named=True)

    # --- the cost ---

    def cost(self, principal: Principal, units: int) -> None:
        """See `Principal.cost`."""
        more, less = _changes(principal, units)
        if any(more):
            self._take(principal, more)
        self._give_back(principal, less)

    async def cost_async(self, principal: Principal, units: int) -> None:
        """See `Principal.cost_async`."""
        more, less = _changes(principal, units)
        if any(more):
            await self._take_async(principal, more)
        self._give_back(principal, less)

    def cost_after(self, caller: Weighed, units: int) -> None:
        """See `Principal.cost_after`."""
        more, less = _changes(caller, units)
        now = self._clock()
        for windows, cost in (*more.enforced, *more.observed):
            self._limiter.add(windows, cost, now)
        _note(caller, Taken(more.enforced, now, more.observed))
        self._give_back(caller, less)

    def _give_back(self, caller: Weighed, less: Iterable[Demand]) -> None:
        """Have counted no more what was taken too much; who was admitted stays so."""
        for windows, cost in less:
            for part, taken_at in _without(caller, windows, cost):
                try:
                    self._limiter.give_back(windows, part, taken_at)
                except Away:
                    return
                except Exception as error:
                    log_fault("the limiter can't take back units", error)

    # --- an app in the app ---

    def within(self, principal: Principal, needs: Needs, address: str) -> None:
        """Take what the rules of an inner path say beyond what has been taken; may block.

        Raises:
            Refused: 429 where that is too much, 503 where nobody can tell.
        """
        if (wants := _more_wants(principal, needs, address)) is not NO_WANTS:
            try:
                held = self._concurrency.take(wants)
            except Exception as error:
                raise _unavailable(principal, error) from error
            self._hold(principal, held)
        more = _more_demands(principal, needs, address)
        if any(more):
            self._take(principal, more)

    async def within_async(self, principal: Principal, needs: Needs, address: str) -> None:
        """`within`, off the event loop."""
        if (wants := _more_wants(principal, needs, address)) is not NO_WANTS:
            slots = self._concurrency
            try:
                held = slots.at_once(wants)
                if held is None and running_loop() is not None:
                    held = await slots.take_async(wants)
                if held is None:
                    held = await self._workers.run(
                        "io", slots.take, wants, undo=lambda held: slots.give_back(held.slots)
                    )
            except Exception as error:
                raise _unavailable(principal, error) from error
            self._hold(principal, held)
        more = _more_demands(principal, needs, address)
        if any(more):
            await self._take_async(principal, more)

    def _hold(self, principal: Principal, held: Held) -> None:
        """Note what slots came of it, or refuse the request."""
        if held.full is not None:
            names = (str(held.full.most),)
            principal.refuse(Refusal("rate_limited", names, RETRY_AFTER))
        principal.slots = (*getattr(principal, "slots", ()), *held.slots)
        if held.would_limit:
            _tell(principal, held.would_limit)

    # --- taking ---

    def _take(self, principal: Principal, demands: Demands, *, is_named: bool = False) -> None:
        asked, now = _beside(principal, demands), self._clock()
        try:
            took = self._windows.take(asked, now)
        except Exception as error:
            raise _unavailable(principal, error) from error
        self._taken(principal, demands, took, now, is_named=is_named)

    async def _take_async(
        self, principal: Principal, demands: Demands, *, is_named: bool = False
    ) -> None:
        asked, now = _beside(principal, demands), self._clock()

        def undo(took: Took) -> None:
            if took.tally.admitted:  # nobody waits for the work that it was for
                for windows, cost in took.demands or ():
                    if cost:
                        self._limiter.give_back(windows, cost, now)

        try:
            took = self._windows.at_once(asked, now)
            if took is None and self._is_async and running_loop() is not None:
                took = await self._windows.take_async(asked, now)
            if took is None:
                took = await self._workers.run("io", self._windows.take, asked, now, undo=undo)
        except Exception as error:
            raise _unavailable(principal, error) from error
        self._taken(principal, demands, took, now, is_named=is_named)

    def _taken(
        self, principal: Principal, demands: Demands, took: Took, now: int, *, is_named: bool
    ) -> None:
        """Note what was taken and show it, or refuse the request."""
        fields = self._fields.of(principal.verified, took.shown or took.tally, now, took.demands)
        if not took.tally.admitted:
            wait = seconds_until(took.tally.ready_at, now)
            principal.refuse(Full("rate_limited", (), wait, tuple(fields), took.tally))
        units = Counter(dict(took.demands or ()))  # those of observed windows that refuse are none
        observed = [Demand(windows, units[windows]) for windows, _ in demands.observed]
        _note(principal, Taken(demands.enforced, now, observed, is_named))
        # The last one is `vary`; what else is told of this request stays.
        told = [one for one in principal.shown[:-1] if not is_of_windows(one)]
        principal.shown[:-1] = [*fields, *told]
        if demands.observed and (
            would_limit := self._observing.over(principal.verified, took, now)
        ):
            _tell(principal, would_limit)
            over = [one for one in demands.observed if not units[one.windows]]
            taken = _units(principal)
            self._give_back(principal, [Demand(one, taken[one]) for one, _ in over])


def _tell(principal: Principal, would_limit: str) -> None:
    """Tell by what the request would have been refused, the first alone. Activity has it of who was
    known to be observed when they came.
    """
    if not any(name == WOULD_LIMIT for name, _ in principal.shown):
        principal.shown.insert(-1, header(would_limit))
        if isinstance(principal, Calling):
            principal.would_limit = would_limit


def _unavailable(principal: Principal, error: Exception) -> Refused:
    if not isinstance(error, Away):  # which has been logged
        log_fault("the limiter can't answer", error)
    principal.refusal = UNAVAILABLE
    return Refused(UNAVAILABLE)


def _note(caller: Weighed, taken: Taken) -> None:
    """Note what was taken. What is given back alike is noted as one, so that a request that goes on
    for long, and takes again and again, has no more to remember than its windows; of limits by name
    the last `_NAMES` are.
    """
    if not taken.demands and not taken.observed:
        return
    kept: dict[object, Taken] = {}
    for one in (*takes_of(caller), taken):
        alike = _alike(one, taken.at)
        known = kept.get(alike)
        kept[alike] = one if known is None else _sum(known, one)
    named = [alike for alike, one in kept.items() if one.is_named]
    for alike in named[:-_NAMES]:
        del kept[alike]
    caller.takes = tuple(kept.values())


def _alike(taken: Taken, now: int) -> object:
    """What is the same of all that is given back together: windows, and the periods in which they
    count, or that they do no more.
    """
    windows = tuple(demand.windows for demand in demands_of(taken))
    lengths = {window.length for its in windows for window in its}
    periods = frozenset((length, taken.at // length) for length in lengths)
    is_over = all(now // length > period + 1 for length, period in periods)
    return taken.is_named, len(taken.demands), windows, None if is_over else periods


def _sum(some: Taken, more: Taken) -> Taken:
    return some._replace(
        demands=_sums(some.demands, more.demands), observed=_sums(some.observed, more.observed)
    )


def _sums(some: Sequence[Demand], more: Sequence[Demand]) -> tuple[Demand, ...]:
    return tuple(
        Demand(one.windows, one.cost + other.cost) for one, other in zip(some, more, strict=True)
    )


def _without(caller: Weighed, windows: Its, units: int) -> list[tuple[int, int]]:
    """Note that so many units of windows are given back, what was taken last before the rest: how
    many of which take, by when that was.
    """
    parts: list[tuple[int, int]] = []
    takes: list[Taken] = []

    def less(demand: Demand, at: int) -> Demand:
        nonlocal units
        part = min(units, demand.cost) if demand.windows == windows else 0
        if part:
            units -= part
            parts.append((part, at))
        return Demand(demand.windows, demand.cost - part)

    for demands, at, observed, is_named in reversed(takes_of(caller)):
        left = [less(one, at) for one in demands], [less(one, at) for one in observed]
        takes.insert(0, Taken(left[0], at, left[1], is_named))
    caller.takes = tuple(takes)
    return parts


def _units(caller: Weighed) -> Counter[Its]:
    """The units that a request has taken so far of each of its windows."""
    units: Counter[Its] = Counter()
    for taken in takes_of(caller):
        for windows, cost in demands_of(taken):
            units[windows] += cost
    return units


def _changes(caller: Weighed, units: int) -> tuple[Demands, list[Demand]]:
    """What is to be taken besides, and to be given back, so that the request costs so many units
    of each window of its plan and its rules; of what would have refused it, if that were more than
    observed, it has taken nothing, and does so still.
    """
    checked_cost(units)
    taken = _units(caller)
    own = [one for one in takes_of(caller) if not one.is_named]
    enforced = {one.windows: None for take in own for one in take.demands if one.windows}
    observed = {one.windows: None for take in own for one in take.observed if taken[one.windows]}
    more = Demands(
        tuple(Demand(one, units - taken[one]) for one in enforced if units > taken[one]),
        tuple(Demand(one, units - taken[one]) for one in observed if units > taken[one]),
    )
    both = (*enforced, *observed)
    return more, [Demand(one, taken[one] - units) for one in both if units < taken[one]]


def _more_demands(principal: Principal, needs: Needs, address: str) -> Demands:
    """What `needs` take of windows, beyond what has been taken of them."""
    taken, verified = _units(principal), principal.verified
    wanted = [(verified.is_observed, Demand(verified.windows, needs.cost))]
    for limits, cost in needs.limits:
        wanted.append((limits.is_observed, Demand(limits.of(verified, address), cost)))
    more = [(which, Demand(its, cost - taken[its])) for which, (its, cost) in wanted]
    known = {one.windows for take in takes_of(principal) for one in take.observed}
    return Demands.of([one for one in more if one[1].cost > 0 and one[1].windows not in known])


def _more_wants(principal: Principal, needs: Needs, address: str) -> Wants:
    """What `needs` want slots of, and the request holds none of."""
    if not needs.has_slots:
        return NO_WANTS
    return without_held(wants_of(principal.verified, needs, address), principal)


def _beside(principal: Principal, demands: Demands) -> Demands:
    """Demands, with a look at all other windows of the request, so that its fields show the most
    constrained of all (O14).
    """
    mine = {one.windows for one in (*demands.enforced, *demands.observed)}
    looks = [Demand(one, 0) for one in _units(principal) if one and one not in mine]
    return Demands((*looks, *demands.enforced), demands.observed)


def _demands(principal: Principal, limits: str, name: str, per: PerCaller, cost: int) -> Demands:
    if per not in ("key", "account"):
        raise InvalidArgument("per", f"{per!r} is neither 'key' nor 'account'")
    parsed = parse_limits(limits) or ()
    named = _named(parsed, checked_limit_name(name), per)
    return Demands((Demand(named.of(principal.verified, ""), checked_cost(cost)),))


@lru_cache(1024)
def _named(limits: tuple[Limit, ...], name: str, per: PerCaller) -> RuleLimits:
    return RuleLimits(f"name {name}", name, limits, per=per)
