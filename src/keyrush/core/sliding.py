"""Sliding-window arithmetic: the one place where it is written.

A window keeps three integers: the index of the aligned period it last counted in, what
was taken in that period (`current`) and in the one before (`previous`). At `elapsed`
milliseconds into a period of `length`,

    used = current + previous * (length - elapsed) // length

and a request of `cost` is admitted when `used + cost <= amount`. `used` is in whole
requests, rounded down, which is also how the `limits` library counts. Everything here is
integer arithmetic on Unix milliseconds, so that it can be restated exactly elsewhere.
Nothing reads a clock of its own, and nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

#: The index of a period, what was taken in it, and what was taken in the one before.
WindowCount = tuple[int, int, int]

#: The same, ready to be stored, by window key.
Changes = list[tuple[str, WindowCount]]

#: What may be taken ahead, at most: one part in this many of what is left.
SHARE = 100

#: `amount * length` stays below this, so that doubles (Lua, SQL) hold every product exactly.
EXACT = 2**53


class Window(NamedTuple):
    """One limit of one subject."""

    key: str  #: names subject and length, never the amount: a changed limit keeps its count
    length: int  #: milliseconds
    amount: int  #: requests admitted per length; 0 admits none
    name: str  #: "minute", "hour", … for header fields and people


class Demand(NamedTuple):
    """What a request takes of one subject: so many units from each of the windows, or from none.

    What is taken together is of several subjects, or of different costs, and no window is in two.
    """

    windows: Sequence[Window]
    cost: int  #: units; 0 only looks


class Part(NamedTuple):
    """What is asked of shared windows for one demand: see `grant`."""

    windows: Sequence[Window]
    cost: int  #: units
    extra: int  #: units for requests to come, at most


class Taken(NamedTuple):
    """What a take came to, in numbers alone: what shared windows answer with."""

    granted: int  #: units taken from every window; 0 when refused, or when nothing was asked for
    now: int  #: when, by the clock that the windows are counted by, in Unix milliseconds
    counters: list[WindowCount]  #: of the windows in their order, after the take, rolled to `now`


class Tally(NamedTuple):
    """What a take from all windows of a request came to."""

    admitted: bool
    window: Window | None  #: the most constrained window (O14); None where nothing limits
    remaining: int  #: whole requests left in that window, never negative
    #: Unix milliseconds. Refused: from when this very take is admitted. Nothing remaining:
    #: from when one more request is. Otherwise the end of the current period.
    ready_at: int


UNLIMITED = Tally(True, None, 0, 0)

#: Makes a Tally in a third of the time that calling the class takes.
_tally = tuple.__new__


def roll(counter: WindowCount | None, index: int) -> WindowCount:
    """The counter as it stands in period `index`.

    A clock that steps back within one period is held at the later period, so that the
    count only ever falls with time; one that steps back further starts afresh.
    """
    if counter is None:
        return (index, 0, 0)
    last = counter[0]
    if last == index or last == index + 1:
        return counter
    if last == index - 1:
        return (index, 0, counter[1])
    return (index, 0, 0)


def used(counter: WindowCount, length: int, now: int) -> int:
    """Whole requests that count against a window at `now`."""
    index, current, previous = roll(counter, now // length)
    if not previous:
        return current
    # A counter held at a later period (see `roll`) counts as if that period had just begun.
    left = length if index > now // length else length - now % length
    return current + previous * left // length


def ready_at(counter: WindowCount, window: Window, cost: int, now: int) -> int:
    """The first Unix millisecond from which `cost` is admitted, if nobody else takes.

    For a cost above the amount there is none; the end of the next period stands in.
    """
    _, length, amount, _ = window
    index, current, previous = roll(counter, now // length)
    start = index * length
    room = amount - cost - current
    if room < 0:
        # Only when the current period has become the previous one.
        start, previous, room = start + length, current, amount - cost
        if room < 0:
            return start + length
    if previous <= room:
        return max(now, start)
    # The largest `left` with previous * left // length <= room.
    left = ((room + 1) * length - 1) // previous
    return max(now, start + length - left)


def take(
    windows: Sequence[Window],
    counters: Mapping[str, WindowCount],
    cost: int,
    now: int,
    clock: Callable[[], int] | None = None,
) -> tuple[Tally, Changes]:
    """Take `cost` from all windows or from none.

    `counters` holds what is stored, by window key. The changes are what to store instead; there
    are none when the take was refused. A cost of 0 looks without taking and is always admitted.

    Who reads the clock before it has a lock may come late with its `now`: where a counter is ahead
    of that by more than a period, and so would start afresh, `clock` is read again.
    """
    changes: Changes = []
    tightest: Window | None = None
    least = EXACT
    for window in windows:
        key, length, amount, _ = window
        period = now // length
        counter = counters.get(key)
        if counter is None or counter[0] != period:
            if clock is not None and counter is not None and counter[0] > period + 1:
                return take(windows, counters, cost, max(now, clock()))
            counter = roll(counter, period)
        index, current, previous = counter
        remaining = amount - current - cost
        if previous:
            # A counter held at a later period counts as if that period had just begun.
            left = length - now % length if index == period else length
            remaining -= previous * left // length
        if remaining < 0 and cost:
            return _refused(windows, counters, cost, now), []
        changes.append((key, (index, current + cost, previous)))
        if remaining < least or (
            remaining == least and tightest is not None and length > tightest[1]
        ):
            tightest, least = window, remaining
    if tightest is None:
        return UNLIMITED, []
    length = tightest[1]
    ready = (now // length + 1) * length
    if least <= 0:
        # Of the windows that are full, the one that stays so for longest.
        ready, tightest = max(
            (ready_at(counter, window, 1, now), window)
            for window, (_, counter) in zip(windows, changes, strict=True)
            if used(counter, window.length, now) >= window.amount
        )
        least = 0
    return _tally(Tally, (True, tightest, least, ready)), changes if cost else []


def take_together(
    demands: Sequence[Demand],
    counters: Mapping[str, WindowCount],
    now: int,
    clock: Callable[[], int] | None = None,
) -> tuple[Tally, Changes]:
    """`take`, of several demands: all that they ask for, or nothing.

    Raises:
        ValueError: A cost is negative.
    """
    windows, common = joined(demands)
    if common is not None:
        return take(windows, counters, common, now, clock)
    tallies: list[Tally] = []
    changes: Changes = []
    for its, cost in demands:
        tally, new = take(its, counters, cost, now, clock)
        tallies.append(tally)
        changes += new
    tally = together(tallies)
    return tally, changes if tally.admitted else []


def joined(demands: Sequence[Demand]) -> tuple[list[Window], int | None]:
    """All windows of the demands, in their order; and the cost, where they have one in common.

    Raises:
        ValueError: A cost is negative.
    """
    windows: list[Window] = []
    common: int | None = demands[0].cost if demands else 0
    for its, cost in demands:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        if cost != common:
            common = None
        windows += its
    return windows, common


def together(tallies: Sequence[Tally]) -> Tally:
    """The tally of several that were taken together: it tells of the window that refuses for
    longest, or else of the most constrained one (O14), as `take` of all their windows would.
    """
    return max(tallies, key=_urgency, default=UNLIMITED)


def _urgency(tally: Tally) -> tuple[int, int, Any]:
    """The higher, the more is to be told of it: refused, full, with room, or nothing limits."""
    admitted, window, remaining, ready_at = tally
    if not admitted:
        return 3, ready_at, None
    if window is None:
        return 0, 0, None
    return (1, -remaining, window[1]) if remaining else (2, ready_at, window)


def grant(
    windows: Sequence[Window], counters: Mapping[str, WindowCount], cost: int, extra: int, now: int
) -> tuple[Taken, Changes]:
    """Take `cost` from all windows or from none, and with it up to `extra` more.

    The extra is for requests to come: no more than 1/`SHARE` of what the cost leaves in any
    window, so that whoever else takes from them finds nearly all of it, and the last `SHARE`
    units are taken one by one. With a cost of 0 only the extra is taken.
    """
    rolled = [roll(counters.get(window.key), now // window.length) for window in windows]
    room = min(
        (
            window.amount - used(counter, window.length, now)
            for window, counter in zip(windows, rolled, strict=True)
        ),
        default=0,
    )
    if room < cost or (not cost and not extra):
        return Taken(0, now, rolled), []
    granted = cost + min(extra, max(0, room - cost) // SHARE)
    if not granted:
        return Taken(0, now, rolled), []
    taken = [(index, current + granted, previous) for index, current, previous in rolled]
    changes = [(window.key, counter) for window, counter in zip(windows, taken, strict=True)]
    return Taken(granted, now, taken), changes


def grant_together(
    parts: Sequence[Part], counters: Mapping[str, WindowCount], now: int
) -> tuple[list[Taken], Changes]:
    """`grant`, of several parts: what each costs, or nothing of any."""
    answers = [grant(windows, counters, cost, extra, now) for windows, cost, extra in parts]
    if all(taken.granted >= cost for (taken, _), (_, cost, _) in zip(answers, parts, strict=True)):
        return [taken for taken, _ in answers], [one for _, its in answers for one in its]
    return [grant(windows, counters, 0, 0, now)[0] for windows, _, _ in parts], []


def tally(windows: Sequence[Window], taken: Taken, cost: int) -> Tally:
    """The tally of a take of `cost`, by the clock of `taken`. A cost of 0 is a look. One that is
    admitted, though nothing was granted, is refused by others that it was to be taken with.
    """
    counters = {
        window.key: counter for window, counter in zip(windows, taken.counters, strict=True)
    }
    return take(windows, counters, 0 if taken.granted else cost, taken.now)[0]


def _refused(
    windows: Sequence[Window], counters: Mapping[str, WindowCount], cost: int, now: int
) -> Tally:
    """The tally of a refused take: the window that refuses for longest."""
    longest: Tally | None = None
    for window in windows:
        counter = roll(counters.get(window.key), now // window.length)
        remaining = window.amount - used(counter, window.length, now)
        if remaining >= cost:
            continue
        free = ready_at(counter, window, cost, now)
        if longest is None or free > longest.ready_at:
            longest = Tally(False, window, max(0, remaining), free)
    assert longest is not None  # noqa: S101  # only called when one window refuses
    return longest


def give_back(
    counter: WindowCount | None, length: int, cost: int, taken_at: int
) -> WindowCount | None:
    """The counter without a take of `cost` made at `taken_at`, as far as that still counts.

    A negative cost adds what was taken at `taken_at` and counted elsewhere, or by nobody: whatever
    the limit, but never beyond what `most` says.
    """
    period = taken_at // length
    if cost < 0 and (counter is None or counter[0] < period):
        counter = roll(counter, period)
    if counter is None:
        return None
    index, current, previous = counter
    age = index - period
    if age <= 0:
        return (index, _between(current - cost, length), previous)
    if age == 1:
        return (index, current, _between(previous - cost, length))
    return counter


def most(length: int) -> int:
    """What a counter holds at most, so that its product with the length is exact everywhere."""
    return EXACT // length


def _between(count: int, length: int) -> int:
    return min(max(0, count), most(length))


#: Begins the group in the key of a window; in no subject.
GROUP = "|"


def subject_of(key: str) -> str:
    """Whose window it is, by its key: `subject:seconds`, or `subject|group:seconds` where it is
    one of several of that length, as of a rule.
    """
    return key.rpartition(":")[0].partition(GROUP)[0]


def is_idle(counter: WindowCount, length: int, now: int) -> bool:
    """True when nothing in the counter counts any more, so that forgetting it changes nothing."""
    return now // length > counter[0] + 1
