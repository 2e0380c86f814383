"""The windows in a file, and what is taken from them.

A record is four words: a tag, which is its key hashed; `expires`, when it counts no more; and what
was taken in a period of an even number, and in one of an odd. `expires` is the end of the period
after the one it last counted in, so that a record says by itself whether it is free, and a new
period moves nothing: what was current becomes the previous one by `expires` alone.

A process may be killed between any two writes. Each is of one aligned word, and they are in such an
order that every state between is as before the take or as after it, window by window.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice

from keyrush.core import sliding
from keyrush.core.sliding import UNLIMITED, Tally, Window, WindowCount
from keyrush.limiter.ledgers.mapped.file import (
    BUCKET,
    RECORD,
    SEGMENTS,
    STRIPE,
    STRIPES,
    WORD,
    MappedFile,
)
from keyrush.limiter.ledgers.mapped.records import NoPlace, Records

#: Places of words in a record; what was taken in period n is at `EVEN` + n % 2.
TAG, EXPIRES, EVEN, ODD = 0, 1, 2, 3

#: Windows whose records' places are remembered: two for each key in a gate's cache by default.
REMEMBERED = 2 * 65_536

#: How many of the oldest are forgotten where there are more: not one by one, for to find its first
#: a dictionary passes over all that it has let go of; nor all, which would take milliseconds.
FORGOTTEN = 256

#: Reads a record. For reading alone: what packs a structure writes zeros first, and a slice is
#: copied in parts.
_UNPACK = struct.Struct("4Q").unpack_from

#: Words of a bucket, and the first of those of its last eighth: when any bucket of the last segment
#: has a record there, one is full after a twentieth to a quarter more windows.
_BUCKET, _LAST_EIGHTH = BUCKET * RECORD, BUCKET * RECORD * 7 // 8


#: What tells where a window's record may be, and which it is: its subject, whose windows share a
#: lock, and in each segment a bucket; and its tag, never 0, which is no tag.
Hash = tuple[int, int]

#: Where a window is counted, or can be: the tag that the record has while it is the window's; the
#: first word in its segment; the segment; and the number of the stripe that locks it.
Place = tuple[int, int, int, int]

#: A place as it is remembered: there are as many as windows, and tuples of numbers take several
#: times the memory, each of them a miss of the CPU's cache.
_PLACE = struct.Struct("=QIBH")
_place = _PLACE.unpack


class Table(Records):
    """The windows in a file."""

    def __init__(self, file: MappedFile) -> None:
        super().__init__(file)
        self._places: dict[str, bytes] = {}  # where records were last found, by window key

    # --- taking and giving back ---

    def take(
        self, windows: Sequence[Window], cost: int, now: int, clock: Callable[[], int]
    ) -> Tally:
        """`Limiter.take`, exact, without waiting. `clock` is what `now` was read from.

        Raises:
            Held: The lock of a subject is held.
            NoPlace: There is no record for a new window.
        """
        if not windows:
            return UNLIMITED
        with self._mutex:
            known = self._places
            places: list[Place] = []
            for window in windows:
                packed = known.get(window[0])
                if packed is None:
                    break
                places.append(_place(packed))
            else:
                tally = self._take(windows, places, cost, now, clock)
                if tally is not None:
                    return tally
            hashes = self._hashes(windows)
            with self._locked(self._locks(hashes)):
                return self._take_anywhere(windows, hashes, cost, now, clock)

    def _take(
        self,
        windows: Sequence[Window],
        places: Sequence[Place],
        cost: int,
        now: int,
        clock: Callable[[], int],
    ) -> Tally | None:
        """`take` of windows of one subject where they were last found; None where they are not.
        Here `_locked`, `_counter` and `_write` are written out: what every request does is to cost
        no call a window.
        """
        number = places[0][3]
        stripe, lock = STRIPE + number, self._lock
        try:
            if not lock.lock(stripe):
                self._insist(stripe)
            if self.stuck:
                self.stuck.pop(stripe, None)
            counters: dict[str, WindowCount] = {}
            segments = self._segments
            nth = 0
            for key, length, _, _ in windows:
                tag, at, segment, its_number = places[nth]
                found, expires, even, odd = _UNPACK(segments[segment], at * WORD)
                if found != tag or its_number != number:
                    return None
                last = expires // length - 2
                counters[key] = (last, odd, even) if last & 1 else (last, even, odd)
                nth += 1  # noqa: SIM113  # `enumerate` would cost as much as what it counts
            tally, changes = sliding.take(windows, counters, cost, now, clock)
            nth = 0
            for key, after in changes:
                place, index = places[nth], after[0]
                if index == counters[key][0]:
                    segments[place[2]][place[1] + EVEN + (index & 1)] = after[1]
                else:
                    _write(segments, place, windows[nth].length, counters[key], after)
                nth += 1  # noqa: SIM113  # as above
            return tally
        finally:
            lock.unlock(stripe)

    def _take_anywhere(
        self,
        windows: Sequence[Window],
        hashes: Sequence[Hash],
        cost: int,
        now: int,
        clock: Callable[[], int],
    ) -> Tally:
        """`take` under the locks, of windows whose records have to be looked for."""
        now = max(now, clock())  # by which records are free: whoever had them must not come late
        mapped = len(self._segments)  # before the look: another thread may map one meanwhile
        found = self._find(windows, hashes)
        if len(found) < len(windows) and self.file.header[SEGMENTS] > mapped:
            raise NoPlace(mapped)  # another process has added one, where the windows may be
        counters = {
            window.key: _counter(self._segments, found[window.key], window.length)
            for window in windows
            if window.key in found
        }
        tally, changes = sliding.take(windows, counters, cost, now, clock)
        if changes:
            found = self._with_free(windows, hashes, found, now)
            for window, (key, after) in zip(windows, changes, strict=True):
                _write(self._segments, found[key], window.length, counters.get(key), after)
        self._remember(found)
        return tally

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        """`Limiter.give_back`, without waiting.

        Raises:
            Held: The lock of a subject is held.
        """
        with self._mutex:
            hashes = self._hashes(windows)
            with self._locked(self._locks(hashes)):
                found = self._find(windows, hashes)
                for window in windows:
                    if place := found.get(window.key):
                        _give_back(self._segments, place, window.length, cost, taken_at)

    # --- records ---

    def stripes(self, windows: Sequence[Window]) -> tuple[int, ...]:
        """What locks windows, in order: one for all of a subject."""
        return self._locks(self._hashes(windows))

    def _locks(self, hashes: Sequence[Hash]) -> tuple[int, ...]:
        return tuple(sorted({self._stripe(subject) for subject, _ in hashes}))

    def _hashes(self, windows: Sequence[Window]) -> Sequence[Hash]:
        subjects = {subject: self._hash(subject) for subject in map(_subject, windows)}
        return [(subjects[_subject(window)], self._hash(window.key) or 1) for window in windows]

    def _find(self, windows: Sequence[Window], hashes: Sequence[Hash]) -> dict[str, Place]:
        """Where those windows are counted that have a record, by key; under their locks."""
        found: dict[str, Place] = {}
        for window, (subject, tag) in zip(windows, hashes, strict=True):
            for segment, start in self._buckets(subject):
                tags = self._segments[segment][start : start + _BUCKET : RECORD].tolist()
                if tag in tags:
                    at = start + tags.index(tag) * RECORD
                    found[window.key] = (tag, at, segment, subject % STRIPES)
                    break
        return found

    def _with_free(
        self,
        windows: Sequence[Window],
        hashes: Sequence[Hash],
        found: Mapping[str, Place],
        now: int,
    ) -> dict[str, Place]:
        """Where all windows are counted: in free records those that have none, no two the same.

        Raises:
            NoPlace: There is none.
        """
        used = {(segment, at) for _, at, segment, _ in found.values()}
        places = dict(found)
        for window, (subject, tag) in zip(windows, hashes, strict=True):
            if window.key not in places:
                segment, at = self._free_record(subject, now, used)
                places[window.key] = (tag, at, segment, subject % STRIPES)
                used.add((segment, at))
        return places

    def _free_record(
        self, subject: int, now: int, used: Collection[tuple[int, int]]
    ) -> tuple[int, int]:
        for segment, start in self._buckets(subject):
            bucket = self._segments[segment][start : start + _BUCKET].tolist()
            for at in range(0, _BUCKET, RECORD):
                is_free = not bucket[at + TAG] or bucket[at + EXPIRES] <= now
                if is_free and (segment, start + at) not in used:
                    if at >= _LAST_EIGHTH and segment == len(self._segments) - 1:
                        self.filling = len(self._segments)
                    return segment, start + at
        self.filling = len(self._segments)
        raise NoPlace(self.filling)

    def _remember(self, found: Mapping[str, Place]) -> None:
        for key, place in found.items():
            self._places[key] = _PLACE.pack(*place)
        if len(self._places) > REMEMBERED:
            for oldest in tuple(islice(self._places, FORGOTTEN)):
                del self._places[oldest]


def _subject(window: Window) -> str:
    """Whose window it is: the windows of a subject share a lock."""
    return window.key.rpartition(":")[0]


def _counter(segments: Sequence[memoryview], place: Place, length: int) -> WindowCount:
    _, at, segment, _ = place
    _, expires, even, odd = _UNPACK(segments[segment], at * WORD)
    last = expires // length - 2
    return (last, odd, even) if last & 1 else (last, even, odd)


def _write(
    segments: Sequence[memoryview],
    place: Place,
    length: int,
    before: WindowCount | None,
    after: WindowCount,
) -> None:
    """Store what a take has made of a counter."""
    tag, at, segment, _ = place
    words = segments[segment]
    index, current, previous = after
    odd = index & 1
    if before is not None and index == before[0]:
        words[at + EVEN + odd] = current
    elif before is not None and index == before[0] + 1:
        words[at + EVEN + odd] = current  # of the period before the last, until `expires` moves
        words[at + EXPIRES] = (index + 2) * length
    else:  # nothing of what is there counts
        words[at + TAG] = 0
        words[at + EVEN + odd] = current
        words[at + ODD - odd] = previous
        words[at + EXPIRES] = (index + 2) * length
        words[at + TAG] = tag


def _give_back(
    segments: Sequence[memoryview], place: Place, length: int, cost: int, taken_at: int
) -> None:
    _, at, segment, _ = place
    before = _counter(segments, place, length)
    after = sliding.give_back(before, length, cost, taken_at)
    if after is not None and after != before:
        index, current, previous = after
        odd = index & 1
        segments[segment][at + EVEN + odd] = current
        segments[segment][at + ODD - odd] = previous
