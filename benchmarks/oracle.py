"""What a window allows, worked out from its definition alone; nothing here is keyrush's.

Periods of `length` milliseconds begin at multiples of it. At `elapsed` milliseconds into one,

    used = current + floor(previous * (length - elapsed) / length)

where `current` was admitted in this period and `previous` in the one before; a request is
admitted when `used + 1 <= limit`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter

#: Milliseconds before and after a call: it was admitted at one instant from the first to the last.
Span = tuple[int, int]


def used(current: int, previous: int, length: int, elapsed: int) -> int:
    """Units in use."""
    return current + previous * (length - elapsed) // length


def admitted(arrivals: Sequence[int], limit: int, length: int) -> int:
    """How many of the arrivals one counter admits that refuses none it need not refuse."""
    total = period = current = previous = 0
    for instant in sorted(arrivals):
        now, elapsed = divmod(instant, length)
        if now != period:
            previous = current if now == period + 1 else 0
            period, current = now, 0
        if used(current, previous, length, elapsed) + 1 <= limit:
            current += 1
            total += 1
    return total


#: One window of a request: its name, limit, length, and what the request costs there.
Want = tuple[str, int, int, int]


def admitted_together(requests: Sequence[tuple[int, Sequence[Want]]]) -> int:
    """How many of the requests, each with its instant, are admitted where all that one costs is
    counted in all its windows, or nothing in any.
    """
    total = 0
    counts: Counter[tuple[str, int]] = Counter()  # by window and period
    for now, wants in sorted(requests, key=itemgetter(0)):
        if all(
            used(counts[name, now // length], counts[name, now // length - 1], length, now % length)
            + cost
            <= limit
            for name, limit, length, cost in wants
        ):
            total += 1
            for name, _, length, cost in wants:
                counts[name, now // length] += cost
    return total


def highest(admissions: Sequence[Span], limit: int, length: int) -> int:
    """The most units that were in use after any of the admissions.

    When within its span each counted is unknown, so the reading is taken that is most favourable
    to who admitted: within a period the latest instant; and of those that may belong to either of
    two periods, as many count at the end of the earlier as keep both within the limit, or where
    none does, as many as make the higher of both lowest.
    """
    waiting = sorted(admissions)
    open_ends: list[int] = []  # of those that began and are in no earlier period
    most = position = period = previous = 0
    while position < len(waiting) or open_ends:
        if not open_ends:
            first = waiting[position][0] // length
            previous = previous if first == period else 0
            period = first
        end = (period + 1) * length
        while position < len(waiting) and waiting[position][0] < end:
            open_ends.append(waiting[position][1])
            position += 1
        open_ends.sort()
        inside = [after for after in open_ends if after < end]
        crossing = open_ends[len(inside) :]
        following = [span[1] for span in waiting[position:] if span[1] < end + length]
        peaks: list[tuple[int, int]] = []
        for count in range(len(crossing), -1, -1):
            here = _peak([*inside, *[end - 1] * count], previous, length)
            rest = [after for after in crossing[count:] if after < end + length]
            after = _peak(sorted([*rest, *following]), len(inside) + count, length)
            peaks.append((max(here, after), -count))
            if peaks[-1][0] <= limit:
                break
        count = -min(peaks)[1] if peaks[-1][0] > limit else -peaks[-1][1]
        most = max(most, _peak([*inside, *[end - 1] * count], previous, length))
        previous = len(inside) + count
        open_ends = crossing[count:]
        period += 1
    return most


def _peak(instants: Sequence[int], previous: int, length: int) -> int:
    """The most units in use after any of the admissions of one period, given in their order."""
    return max(
        (
            used(current, previous, length, instant % length)
            for current, instant in enumerate(instants, 1)
        ),
        default=0,
    )
