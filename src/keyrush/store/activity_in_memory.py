"""What was asked of an app, in memory: the last rows, and their totals."""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left, insort
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from keyrush.core.activity import (
    BUCKETS,
    COARSE,
    FINE,
    Activity,
    DayOfKey,
    Group,
    Outcome,
    Span,
    Total,
    Where,
    bucket_of,
    storable_rows,
)
from keyrush.core.paging import DEFAULT_LIMIT, Place
from keyrush.core.times import DAY
from keyrush.runtime.forks import after_fork
from keyrush.store.protocol import Batch

#: Rows, and bins of each length, that are kept of all accounts; of more, those go first that came
#: first.
MOST = 100_000


class _Bin(NamedTuple):
    """What one total is of."""

    account_id: str
    at: int
    credential_id: str
    rule: str
    source: str
    outcome: Outcome


class _Sums:
    """The totals of one bin."""

    __slots__ = ("buckets", "credits", "duration", "longest", "requests")

    def __init__(self) -> None:
        self.requests = self.credits = self.duration = self.longest = 0
        self.buckets = [0] * (len(BUCKETS) + 1)

    def add(self, other: _Sums) -> None:
        self.requests += other.requests
        self.credits += other.credits
        self.duration += other.duration
        self.longest = max(self.longest, other.longest)
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]

    def add_row(self, row: Activity) -> None:
        self.requests += 1
        self.credits += row.credits
        self.duration += row.duration
        self.longest = max(self.longest, row.duration)
        self.buckets[bucket_of(row.duration)] += 1


class ActivityInMemory:
    """See `protocol.ActivityStore`. Safe to call from any thread."""

    def __init__(self) -> None:
        self._renew_lock()
        after_fork(self._renew_lock)
        self._batches: dict[str, int] = {}
        #: Of each account, by time and id.
        self._rows: dict[str, list[Activity]] = {}
        self._order: deque[Activity] = deque()  # as they came
        #: By the length of the bin, in the order in which bins have begun.
        self._bins: dict[int, OrderedDict[_Bin, _Sums]] = {
            FINE: OrderedDict(),
            COARSE: OrderedDict(),
        }

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def add_activity(self, rows: Sequence[Activity], batch: Batch | None = None) -> None:
        with self._lock:
            if batch is not None:
                if self._batches.get(batch.worker, 0) >= batch.number:
                    return
                self._batches[batch.worker] = batch.number
            for row in storable_rows(rows):
                self._add(row)

    def _add(self, row: Activity) -> None:
        for step, bins in self._bins.items():
            name = _Bin(
                row.account_id,
                row.at // step * step,
                row.credential_id,
                row.rule,
                row.source,
                row.outcome,
            )
            sums = bins.get(name)
            if sums is None:
                sums = bins[name] = _Sums()
                if len(bins) > MOST:
                    bins.popitem(last=False)
            sums.add_row(row)
        if row.is_kept:
            insort(self._rows.setdefault(row.account_id, []), row, key=_place)
            self._order.append(row)
            if len(self._order) > MOST:
                self._drop(self._order.popleft())

    def _drop(self, row: Activity) -> None:
        rows = self._rows[row.account_id]
        del rows[bisect_left(rows, _place(row), key=_place)]
        if not rows:
            del self._rows[row.account_id]

    def activity(
        self, account_id: str, where: Where, limit: int = DEFAULT_LIMIT, after: Place | None = None
    ) -> Sequence[Activity]:
        with self._lock:
            return list(itertools.islice(self._newest(account_id, where, after), limit))

    def count_activity(self, account_id: str, where: Where, at_most: int) -> int:
        with self._lock:
            found = itertools.islice(self._newest(account_id, where, None), at_most)
            return sum(1 for _ in found)

    def _newest(self, account_id: str, where: Where, after: Place | None) -> Iterator[Activity]:
        rows = self._rows.get(account_id, [])
        end = len(rows) if after is None else bisect_left(rows, after, key=_place)
        for number in range(end - 1, -1, -1):
            row = rows[number]
            if where.since is not None and row.at < where.since:
                return
            if _is_in_time(where, row.at) and _agrees(where, row):
                yield row

    def activity_totals(
        self,
        account_id: str,
        where: Where,
        step: int,
        group: Group | None,
        at_most: int,
        *,
        durations: bool = True,
    ) -> Sequence[Total]:
        found: dict[tuple[int, str | None], _Sums] = {}
        with self._lock:
            for name, sums in self._bins[FINE if step % COARSE else COARSE].items():
                if (
                    name.account_id == account_id
                    and _is_in_time(where, name.at)
                    and _agrees(where, name)
                ):
                    place = name.at // step * step, _value(name, group)
                    found.setdefault(place, _Sums()).add(sums)
        most: Counter[str | None] = Counter()
        for (_, value), sums in found.items():
            most[value] += sums.requests
        # Of those with as many, the first by name.
        ranked = sorted(most, key=lambda value: (-most[value], value or ""))
        rest = frozenset(ranked[at_most:])
        totals: dict[tuple[int, str | None], _Sums] = {}
        for (at, value), sums in found.items():
            totals.setdefault((at, None if value in rest else value), _Sums()).add(sums)
        found_totals = [
            Total(at, value, one.requests, one.credits, one.duration, one.longest, (*one.buckets,))
            for (at, value), one in sorted(totals.items(), key=_by_bin_and_value)
        ]
        if durations:
            return found_totals
        return [one._replace(duration=0, longest=0, buckets=()) for one in found_totals]

    def activity_ranks(
        self, account_id: str, where: Where, spans: Sequence[Span], group: Group, at_most: int
    ) -> Sequence[tuple[str, int]]:
        most: Counter[str] = Counter()
        with self._lock:
            for span in spans:
                asked = where._replace(since=span.since, until=span.until)
                for name, sums in self._bins[FINE if span.unit % COARSE else COARSE].items():
                    if (
                        name.account_id == account_id
                        and _is_in_time(asked, name.at)
                        and _agrees(asked, name)
                    ):
                        most[_value(name, group) or ""] += sums.requests
        return sorted(most.items(), key=lambda item: (-item[1], item[0]))[:at_most]

    def days_of_keys(
        self, account_id: str, key_ids: Sequence[str], since: int, until: int
    ) -> Sequence[DayOfKey]:
        found: Counter[tuple[str, int, Outcome]] = Counter()
        with self._lock:
            for name, sums in self._bins[COARSE].items():
                is_asked = name.account_id == account_id and name.credential_id in key_ids
                if is_asked and since <= name.at < until:
                    found[name.credential_id, name.at // DAY * DAY, name.outcome] += sums.requests
        return [DayOfKey(*place, requests) for place, requests in found.items()]

    def forget_activity(
        self, before_rows: int, before_minutes: int, before_hours: int, at_most: int
    ) -> int:
        with self._lock:
            old = [row for row in self._order if row.at < before_rows // DAY * DAY]
            gone = sorted(old, key=_place)[:at_most]
            for row in gone:
                self._drop(row)
            if gone:
                ids = {row.id for row in gone}
                self._order = deque(row for row in self._order if row.id not in ids)
            forgotten = len(gone)
            for step, before in ((FINE, before_minutes), (COARSE, before_hours)):
                bins = self._bins[step]
                past = sorted(name.at for name in bins if name.at + step <= before)[:at_most]
                names = [name for name in bins if past and name.at <= past[-1]][: len(past)]
                for name in names:
                    del bins[name]
                forgotten += len(names)
            return forgotten


def _place(row: Activity) -> Place:
    return Place(row.at, row.id)


def _is_in_time(where: Where, at: int) -> bool:
    return (where.since is None or at >= where.since) and (where.until is None or at < where.until)


def _agrees(where: Where, one: Activity | _Bin) -> bool:
    return (
        where.source in {None, one.source}
        and where.credential_id in {None, one.credential_id}
        and where.outcome in {None, one.outcome}
        and where.rule in {None, one.rule}
    )


def _value(name: _Bin, group: Group | None) -> str | None:
    if group is None:
        return None
    return {
        "key": name.credential_id,
        "rule": name.rule,
        "source": name.source,
        "outcome": name.outcome,
    }[group]


def _by_bin_and_value(item: tuple[tuple[int, str | None], _Sums]) -> tuple[int, bool, str]:
    (at, value), _ = item
    return at, value is None, value or ""
