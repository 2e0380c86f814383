"""What was asked with the keys and tokens of an account (contract O10, O20): rows, and their
totals.

A row is there when its request has ended and the next flush has written it, about a second later,
but it stands where the request came. So what is newest in a list may still fill up: who follows
it asks again from some time back, and leaves out the ids that were there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

from keyrush.core.activity import (
    ALL,
    COARSE,
    FINE,
    MIDDLE,
    Activity,
    DayOfKey,
    Group,
    Outcome,
    Source,
    Span,
    Total,
    Where,
    storable,
)
from keyrush.core.checks import check_instants, is_id, refuse_keys
from keyrush.core.key_text import KeyFormat
from keyrush.core.paging import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    Page,
    Place,
    checked_limit,
    cursor_at,
    parse_cursor,
)
from keyrush.core.times import DAY
from keyrush.errors import InvalidArgument
from keyrush.operations.owners import Owned, Owners
from keyrush.store.protocol import ActivityStore

#: Rows are counted no further: it stands for "1,000+".
MOST_COUNTED = 1001

#: Milliseconds that bins of a minute are kept, and of an hour.
MINUTES_KEPT, HOURS_KEPT = 2 * DAY, 400 * DAY

#: Bins of one summary, and its totals, so bins times values, at most.
MAX_BINS, MAX_TOTALS = 1500, 20_000

#: The bins that have a name, and besides all there is in one.
Bins = Literal["minute", "hour", "day"]
By = Bins | Literal["all"]

#: Milliseconds of a bin, and the bins of a summary without `since`.
_STEPS: dict[str, tuple[int, int]] = {"minute": (FINE, 60), "hour": (COARSE, 24), "day": (DAY, 30)}


#: What spans are made of, the longest first; the last two are kept for two days.
_UNITS = (DAY, COARSE, MIDDLE, FINE)

#: Bins that are longer than all time, by what they are made of.
_ALL: dict[int, int] = {unit: DAY * 10**8 + unit % DAY for unit in _UNITS}


class ActivityLog(Owned):
    """The operations on activity, over a store. Each is of one account, and no other's."""

    def __init__(
        self,
        store: ActivityStore,
        accounts: Owners,
        *,
        key_format: KeyFormat,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._format = key_format
        self._clock = clock

    def page(
        self,
        account_id: str,
        where: Where = ALL,
        *,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Page[Activity]:
        """What was asked, newest first, a page of `limit` at a time; `cursor` is that of the page
        before.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: The limit is not from 1 to 100, the cursor none of a page, or what is
                asked for can't be: names the field.
        """
        refuse_keys(self._format, limit=limit, cursor=cursor)
        owner = self._owner(account_id, where)
        place = parse_cursor(cursor)
        checked_limit(limit)
        if _is_nobody(where):
            return Page(())
        found = self._store.activity(owner, where, limit + 1, place)
        items = tuple(found[:limit])
        last = cursor_at(Place(items[-1].at, items[-1].id)) if len(found) > limit else None
        return Page(items, last)

    def count(self, account_id: str, where: Where = ALL) -> int:
        """How many rows there are; 1,001 stands for more than a thousand.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: What is asked for can't be: names the field.
        """
        owner = self._owner(account_id, where)
        return 0 if _is_nobody(where) else self._store.count_activity(owner, where, MOST_COUNTED)

    def summary(
        self,
        account_id: str,
        where: Where = ALL,
        *,
        by: By | int = "hour",
        group: Group | None = None,
        durations: bool = True,
    ) -> list[Total]:
        """Totals, oldest bin first, told apart by `group`; bins of nothing are left out.

        `by` is the length of a bin, or its milliseconds, whole minutes; `"all"` is one bin, from
        `since` to `until`, of whole minutes, or hours from longer ago than 48 hours. Bins begin
        where they do in UTC, days at midnight, and are whole: `since` goes back to the beginning
        of its bin, `until` forward to the end of its. Without `since` they are the last 60
        minutes, 24 hours, 30 days, or 60 bins of another length. There are at most 1,500 bins. Of
        values those with the most requests are told apart, as many as make 20,000 totals with
        these bins; the rest is together, as the value None. Without `durations`, which are most of
        what it costs, a total may lack them.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: What is asked for can't be, is of too many bins, or by less than an
                hour from more than 48 hours ago, which is kept by the hour: names the field.
        """
        owner = self._owner(account_id, where)
        now = self._clock()
        if group is not None and group not in get_args(Group):
            raise InvalidArgument("group", f"must be one of {', '.join(get_args(Group))}")
        if by == "all":
            return self._in_one(owner, where, group, now)
        since, until, step = bins_of(where, by, now)
        bins = (until - since) // step
        if bins > MAX_BINS:
            raise InvalidArgument("since", f"is more than {MAX_BINS:,} bins ago; give a longer by")
        if step % COARSE and since < (now - MINUTES_KEPT) // step * step:
            raise InvalidArgument("by", "must be an hour or more for what is older than 48 hours")
        if bins <= 0 or _is_nobody(where):
            return []
        asked = where._replace(since=since, until=until)
        most = max(1, MAX_TOTALS // bins)
        return [*self._store.activity_totals(owner, asked, step, group, most, durations=durations)]

    def _in_one(self, owner: str, where: Where, group: Group | None, now: int) -> list[Total]:
        """The totals of all that is asked for, in one bin."""
        spans = _spans(where, now)
        if _is_nobody(where):
            return []
        found: dict[str | None, Total] = {}
        first = min((span.since for span in spans), default=0)
        for begin, end, unit in spans:
            asked = where._replace(since=begin, until=end)
            for total in self._store.activity_totals(owner, asked, _ALL[unit], group, MAX_TOTALS):
                found[total.value] = _sum(first, total, found.get(total.value))
        return sorted(found.values(), key=lambda total: (total.value is None, total.value or ""))

    def most(
        self, account_id: str, where: Where, *, group: Group, at_most: int
    ) -> list[tuple[str, int]]:
        """The values of `group` that had the most requests, with these, most first; of as many, by
        name. They are of the same time as a summary by `"all"`, and cost a tenth of one.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: What is asked for can't be: names the field.
        """
        owner = self._owner(account_id, where)
        spans = _spans(where, self._clock())
        if not spans or _is_nobody(where):
            return []
        everything = where._replace(since=None, until=None)
        return [*self._store.activity_ranks(owner, everything, spans, group, at_most)]

    def days_of_keys(
        self, account_id: str, key_ids: Sequence[str], *, days: int = 30
    ) -> list[DayOfKey]:
        """How many requests came with each of these keys, by day, UTC, and outcome: of the last
        days, today with them. Keys that are not the account's have none.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: There are more than 100 keys, or a key where an id belongs.
        """
        refuse_keys(self._format, account=account_id, key=key_ids)
        if len(key_ids) > MAX_LIMIT:
            raise InvalidArgument("key", f"must be {MAX_LIMIT} ids at most")
        owner = self._accounts.get(account_id).id
        until = self._clock() // DAY * DAY + DAY
        known = [one for one in key_ids if is_id(one)]
        return [*self._store.days_of_keys(owner, known, until - days * DAY, until)]

    def _owner(self, account_id: str, where: Where) -> str:
        """The id of the account; `where` is checked."""
        refuse_keys(
            self._format,
            account=account_id,
            key=where.credential_id,
            rule=where.rule,
        )
        _check(where)
        return self._accounts.get(account_id).id


def bins_of(where: Where, by: By | int, now: int) -> tuple[int, int, int]:
    """When the bins of a summary begin and end, and the length of one; Unix milliseconds.

    Raises:
        InvalidArgument: `by` is no length of a bin.
    """
    step, bins = _step(by)
    until = -(-(now + 1 if where.until is None else where.until) // step) * step
    since = (until - bins * step if where.since is None else where.since) // step * step
    return max(0, since), until, step


def _spans(where: Where, now: int) -> list[Span]:
    """All the time that is meant, in spans of whole units; none where it is empty."""
    since = max(0, now - HOURS_KEPT) if where.since is None else where.since
    until = now + 1 if where.until is None else where.until
    units = _UNITS[:2] if since < now - MINUTES_KEPT else _UNITS
    since, until = since // units[-1] * units[-1], -(-until // units[-1]) * units[-1]
    return [*_parts(since, until, units)] if since < until else []


def _parts(since: int, until: int, units: tuple[int, ...]) -> Iterator[Span]:
    """A span in parts of whole units, the longest that there are: days, with hours before and
    after, half hours before and after these, and so on.
    """
    unit, *shorter = units
    begin, end = -(-since // unit) * unit, until // unit * unit
    if begin >= end:
        yield from _parts(since, until, tuple(shorter))
        return
    yield Span(begin, end, unit)
    for edge in ((since, begin), (end, until)):
        if edge[0] < edge[1]:
            yield from _parts(*edge, tuple(shorter))


def _sum(at: int, one: Total, other: Total | None) -> Total:
    """Both in one bin."""
    if other is None:
        return one._replace(at=at)
    return Total(
        at,
        one.value,
        one.requests + other.requests,
        one.credits + other.credits,
        one.duration + other.duration,
        max(one.longest, other.longest),
        tuple(a + b for a, b in zip(one.buckets, other.buckets, strict=True)),
    )


def _check(where: Where) -> None:
    for field, value, known in (
        ("source", where.source, get_args(Source)),
        ("outcome", where.outcome, get_args(Outcome)),
    ):
        if value is not None and value not in known:
            raise InvalidArgument(field, f"must be one of {', '.join(known)}")
    check_instants(since=where.since, until=where.until)
    for field, text in (("key", where.credential_id), ("rule", where.rule)):
        if text is not None and not isinstance(text, str):
            raise InvalidArgument(field, "must be text")


def _is_nobody(where: Where) -> bool:
    """True where no row can agree: nothing is looked for that can't be an id, or a rule's."""
    key, rule = where.credential_id, where.rule
    return (key is not None and not is_id(key)) or (rule is not None and storable(rule) != rule)


def _step(by: By | int) -> tuple[int, int]:
    """Milliseconds of a bin, and how many bins there are unless said otherwise."""
    if isinstance(by, str) and by in _STEPS:
        return _STEPS[by]
    if type(by) is int and 0 < by <= HOURS_KEPT and by % FINE == 0:
        return by, 60
    raise InvalidArgument(
        "by", f"must be one of {', '.join((*_STEPS, 'all'))}, or whole minutes in milliseconds"
    )
