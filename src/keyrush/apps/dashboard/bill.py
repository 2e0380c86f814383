"""What an account has and has used, as the store says it: all that Billing shows but the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keyrush.apps.dashboard.callers import names
from keyrush.apps.dashboard.months import projected, so_far
from keyrush.core import sliding
from keyrush.core.activity import FINE, Group, Outcome, Where
from keyrush.core.key_search import MOST
from keyrush.core.ledger import Lot
from keyrush.core.model import Account, ApiKey, Limit, Plan
from keyrush.core.times import DAY, month_bounds
from keyrush.errors import NotFound
from keyrush.gate.gate import Gate
from keyrush.operations.activity import ActivityLog
from keyrush.operations.usage import MonthlyUsage

#: Keys of an environment that is not metered whose requests are left out of the month's line.
_UNMETERED = 10

#: Keys that are looked at, the busiest first, for one whose limit is the plan's.
_BUSY = 20

#: What windows and months count: what the app has answered.
_COUNTED: tuple[Outcome, ...] = ("ok", "error")

#: Days by whose pace it is said how long credits last.
_PACE = 7

#: Days on which credits expire that are told of, the soonest.
_EXPIRIES = 3


@dataclass(frozen=True, slots=True)
class Busiest:
    """The key that has used the most of what each key has; `id` None is the account itself."""

    id: str | None
    name: str
    used: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Bill:
    """An account's month. `line` has the requests there were at the end of each day, `last` what
    is nearest to its limit: of this month and, with the `limit`, of the last minute or so.
    """

    plan: Plan | None
    usage: MonthlyUsage
    line: list[int]
    days: int  #: of the month
    elapsed: float  #: days of it that are over
    month: Busiest | None  #: None where nothing is included that could be used up
    projected: int | None  #: of `month`, where it is one's, else of the account
    limit: Limit | None
    window: Busiest | None
    balance: int
    lasts: int | None  #: milliseconds that the balance lasts, None where nobody can tell
    #: When credits expire that have not been used by then, by day, UTC, and how many: the soonest.
    expiries: list[tuple[int, int]]


def bill(gate: Gate, account: Account, now: int) -> Bill:
    """What it comes to at that time. Blocks for the store.

    Raises:
        NotFound: The account has gone meanwhile.
    """
    gate.counts.flush()
    plan = gate.catalog.plans.get(account.plan)
    begin, end = month_bounds(now)
    usage = gate.usage.of(account).this_month(account.id)
    log, unmetered = gate.activity.of(account), _unmetered(gate, account.id)
    of_keys = [key for key in _of_keys(log, account.id, plan, begin, now) if key not in unmetered]
    month = _month(gate, account.id, plan, usage, of_keys)
    limit = _limit(account, plan, now)
    credits = gate.credits.of(account)
    balance = credits.balance(account.id)
    counted = usage.counted if month is None or month.id is None else month.used
    return Bill(
        plan,
        usage,
        so_far(usage.counted, _by_day(log, account.id, begin, now, unmetered)),
        (end - begin) // DAY,
        (now - begin) / DAY,
        month,
        projected(counted, now),
        limit,
        None if limit is None or plan is None else _window(gate, account, plan, limit, now),
        balance,
        _lasts(log, account.id, balance, now),
        _expiries(credits.expiring(account.id)),
    )


def _of_keys(
    log: ActivityLog, account_id: str, plan: Plan | None, begin: int, now: int
) -> list[str]:
    """The keys that were used in the month, those with the most requests first; none where the
    quota is not a key's.
    """
    if plan is None or plan.quota is None or plan.quota_per != "key":
        return []
    where = Where(since=begin, until=_tomorrow(now))
    return [key for key, _ in log.most(account_id, where, group="key", at_most=MOST)]


def _tomorrow(now: int) -> int:
    """When the day ends, UTC: whole days are the cheapest to ask for."""
    return now // DAY * DAY + DAY


def _month(
    gate: Gate, account_id: str, plan: Plan | None, usage: MonthlyUsage, keys: list[str]
) -> Busiest | None:
    if plan is None or plan.quota is None:
        return None
    if plan.quota_per == "account":
        return Busiest(None, "", usage.counted, plan.quota.amount)
    for key in keys[:_BUSY]:
        known = names(gate, account_id, [key])
        if key in known:
            used = gate.usage.this_month(account_id, key).counted
            return Busiest(key, known[key], used, plan.quota.amount)
    return None


def _key(gate: Gate, account_id: str, key_id: str) -> ApiKey | None:
    """The key; None for what stands for a session, or has gone."""
    try:
        return gate.keys.get(key_id, account_id)
    except NotFound:
        return None


def _unmetered(gate: Gate, account_id: str) -> dict[str, int]:
    """The keys of environments that are not metered, and when they were last used."""
    if not gate.catalog.unmetered:
        return {}
    return {
        key.id: key.last_used_at or 0
        for key in gate.key_records.outlines(account_id)
        if key.environment in gate.catalog.unmetered
    }


def _by_day(
    log: ActivityLog, account_id: str, begin: int, now: int, unmetered: Mapping[str, int]
) -> list[int]:
    """Requests of each day that were counted: those that the app has answered, of metered keys."""
    counts: Counter[int] = Counter()

    def add(where: Where, sign: int) -> None:
        asked = where._replace(since=begin, until=_tomorrow(now))
        for total in log.summary(account_id, asked, by="day", group="outcome", durations=False):
            if total.value in _COUNTED:
                counts[(total.at - begin) // DAY] += sign * total.requests

    add(Where(), 1)
    used = ((at, key) for key, at in unmetered.items() if at >= begin)
    for _, key_id in sorted(used, reverse=True)[:_UNMETERED]:
        add(Where(credential_id=key_id), -1)
    return [max(0, counts[day]) for day in range((now - begin) // DAY + 1)]


def _limit(account: Account, plan: Plan | None, now: int) -> Limit | None:
    """The shortest of the limits whose windows activity tells of: of whole minutes, up to a day."""
    own = account.limits_at(now)
    limits = own if own is not None else plan.limits if plan else ()
    told = [limit for limit in limits if limit.seconds * 1000 % FINE == 0]
    told = [limit for limit in told if limit.seconds * 1000 <= DAY]
    return min(told, key=lambda limit: limit.seconds, default=None)


def _window(gate: Gate, account: Account, plan: Plan, limit: Limit, now: int) -> Busiest | None:
    """What has been used of a limit, as far as activity has got, about a second ago; of that key
    which has used the most, where each has its own.
    """
    log, length = gate.activity.of(account), limit.seconds * 1000
    period = now // length
    group: Group | None = "key" if plan.per == "key" else None
    counters: dict[str | None, list[int]] = {}
    for outcome in _COUNTED:
        where = Where(outcome=outcome, since=(period - 1) * length, until=(period + 1) * length)
        for total in log.summary(account.id, where, by=length, group=group, durations=False):
            counter = counters.setdefault(total.value, [0, 0])
            counter[period - total.at // length] += total.requests
    used = {
        value: sliding.used((period, current, previous), length, now)
        for value, (current, previous) in counters.items()
    }
    if plan.per == "account":
        return Busiest(None, "", used.get(None, 0), limit.amount)
    for value in sorted(used, key=lambda one: (-used[one], one or ""))[:_BUSY]:
        key = None if value is None else _key(gate, account.id, value)
        if value is not None and (key is None or key.limits is None):
            return Busiest(
                value, names(gate, account.id, [value]).get(value, ""), used[value], limit.amount
            )
    return Busiest(None, "", 0, limit.amount)


def _lasts(log: ActivityLog, account_id: str, balance: int, now: int) -> int | None:
    since, until = _tomorrow(now) - _PACE * DAY, _tomorrow(now)
    where = Where(since=since, until=until)
    spent = sum(total.credits for total in log.summary(account_id, where, by="all"))
    if spent <= 0 or balance <= 0:
        return None
    return balance * (now - since) // spent


def _expiries(lots: Iterable[Lot]) -> list[tuple[int, int]]:
    days: Counter[int] = Counter()
    for lot in lots:
        days[lot.expires_at // DAY * DAY] += lot.remaining
    return sorted(days.items())[:_EXPIRIES]
