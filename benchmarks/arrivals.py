"""Who asks for how much, and when: the loads of the accuracy simulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

PATTERNS = ("steady", "bursts")

#: Milliseconds between two instants at which loads may begin.
_STEP = 250

#: A burst is this part of the requests of a window,
_BURST = 10

#: but has at least and at most so many.
_SMALLEST, _LARGEST = 4, 300


class Subject(NamedTuple):
    """One subject with one window, and what is asked of it."""

    key: str
    limit: int
    load: float  #: requests, as a multiple of the limit
    pattern: str
    length: int  #: of the window, in milliseconds
    begins: int  #: milliseconds from the start of the run
    ends: int
    sort: str = "plan"  #: what its requests take besides: see `asking.demands_of`

    @property
    def rate(self) -> float:
        """Requests per millisecond."""
        return self.limit * self.load / self.length


def plan(  # by name
    limits: Sequence[int],
    loads: Sequence[float],
    *,
    windows: float,
    rate: float,
    prefix: str,
    sort: str = "plan",
) -> list[Subject]:
    """Subjects with every limit under every load and in every pattern.

    They begin as early as possible with no more than `rate` requests a second together. Windows
    are as long as it takes to admit 1,000 a second, and at least a second; a load lasts for so
    many windows, of those longer than a second half as many. Of small limits there are several
    subjects, so that one request more or less is not a per cent.
    """
    booked: dict[int, float] = {}
    subjects: list[Subject] = []
    for limit in sorted(limits, reverse=True):
        length = max(1000, limit)
        lasting = round(windows * length / (1 if length == 1000 else 2))  # noqa: PLR2004  # a second
        for load in sorted(loads, reverse=True):
            for pattern in PATTERNS:
                copies = max(1, 300 // limit)
                needed = copies * limit * load / length
                begins = _earliest(booked, lasting, needed, rate / 1000)
                for number in range(copies):
                    key = f"{prefix}-{limit}-{load}-{pattern}-{number}:{length // 1000}"
                    ends = begins + lasting
                    subjects.append(Subject(key, limit, load, pattern, length, begins, ends, sort))
    return subjects


def _earliest(booked: dict[int, float], lasting: int, needed: float, rate: float) -> int:
    """The first millisecond from which `needed` fits in, now booked."""
    begins = 0
    while True:
        steps = range(begins, begins + lasting, _STEP)
        if all(booked.get(at, 0) + needed <= max(rate, needed) for at in steps):
            for at in steps:
                booked[at] = booked.get(at, 0) + needed
            return begins
        begins += _STEP


def arrivals(subjects: Sequence[Subject], rank: int, processes: int) -> list[tuple[float, int]]:
    """What one of several processes is asked: milliseconds from the start, and the subject's
    number. The same for every call.
    """
    found = []
    for number, subject in enumerate(subjects):
        random = Random(f"{subject.key}/{processes}")  # noqa: S311  # a load, not a secret
        found += [
            (at, number) for at in _instants(subject, random) if random.randrange(processes) == rank
        ]
    return sorted(found)


def _instants(subject: Subject, random: Random) -> Iterator[float]:
    size = min(max(_SMALLEST, round(subject.limit * subject.load / _BURST)), _LARGEST)
    at = float(subject.begins)
    if subject.pattern == "bursts":
        at += random.uniform(0, size / subject.rate)
        while at < subject.ends:
            yield from [at] * size
            at += size / subject.rate
        return
    while (at := at + random.expovariate(subject.rate)) < subject.ends:
        yield at
