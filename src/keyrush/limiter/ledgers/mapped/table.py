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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice

from keyrush.core import sliding
from keyrush.core.sliding import UNLIMITED, Changes, Demand, Tally, Window, WindowCount
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

#: Windows whose records' places are remembered: two for each key in a gate's cache by default. When
#: half of them are, those that are new are remembered only once they come again: so a flood of
#: addresses that come once neither takes their memory nor has known ones forgotten.
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


#: What tells where a window's record may be, and which it is: its home, by which the windows of a
#: subject share a lock, and those of one group of them in each segment a bucket; and its tag, never
#: 0, which is no tag.
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
            return self._take_anywhere([Demand(windows, cost)], windows, now, clock)

    def take_together(self, demands: Sequence[Demand], now: int, clock: Callable[[], int]) -> Tally:
        """`Limiter.take_together`, likewise: the locks of all subjects are held, taken in one order
        that all processes have in common.
        """
        windows, common = sliding.joined(demands)
        if not windows:
            return UNLIMITED
        with self._mutex:
            known = self._places
            places: list[Place] = []
            numbers: list[int] = []
            for window in windows:
                packed = known.get(window[0])
                if packed is None:
                    break
                place = _place(packed)
                places.append(place)
                if place[3] not in numbers:
                    numbers.append(place[3])
            else:
                if common is None or len(numbers) > 1:
                    numbers.sort()
                    asked = demands, windows, places, numbers
                    tally = self._take_of_several(*asked, common, now, clock)
                else:
                    tally = self._take(windows, places, common, now, clock)
                if tally is not None:
                    return tally
            return self._take_anywhere(demands, windows, now, clock)

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

    def _take_of_several(  # noqa: C901, PLR0912, PLR0917  # one straight line, as `_take`
        self,
        demands: Sequence[Demand],
        windows: Sequence[Window],
        places: Sequence[Place],
        numbers: Sequence[int],
        common: int | None,
        now: int,
        clock: Callable[[], int],
    ) -> Tally | None:
        """The same of several subjects, whose stripes have these numbers, in order; or at several
        costs, where none is `common`.
        """
        lock = self._lock
        try:
            for number in numbers:
                if not lock.lock(STRIPE + number):
                    self._insist(STRIPE + number)
                if self.stuck:
                    self.stuck.pop(STRIPE + number, None)
            segments = self._segments
            counters: dict[str, WindowCount] = {}
            nth = 0
            for key, length, _, _ in windows:
                tag, at, segment, _ = places[nth]
                found, expires, even, odd = _UNPACK(segments[segment], at * WORD)
                if found != tag:
                    return None
                last = expires // length - 2
                counters[key] = (last, odd, even) if last & 1 else (last, even, odd)
                nth += 1  # noqa: SIM113  # as above
            if common is None:
                tally, changes = sliding.take_together(demands, counters, now, clock)
            else:
                tally, changes = sliding.take(windows, counters, common, now, clock)
            nth = 0
            for key, after in changes:
                while windows[nth][0] != key:  # it is only looked at
                    nth += 1
                place, index = places[nth], after[0]
                if index == counters[key][0]:
                    segments[place[2]][place[1] + EVEN + (index & 1)] = after[1]
                else:
                    _write(segments, place, windows[nth].length, counters[key], after)
                nth += 1
            return tally
        finally:
            for number in numbers:
                lock.unlock(STRIPE + number)

    def _take_anywhere(
        self,
        demands: Sequence[Demand],
        windows: Sequence[Window],
        now: int,
        clock: Callable[[], int],
    ) -> Tally:
        """The same of windows, all that are demanded, whose records have to be looked for."""
        hashes = self._hashes(windows)
        with self._locked(self._locks(hashes)):
            now = max(now, clock())  # by which records are free: who had them must not come late
            found, counters = self._find_all(windows, hashes)
            tally, changes = sliding.take_together(demands, counters, now, clock)
            wanted = zip(windows, hashes, strict=True)
            stored = self._store(wanted, found, counters, changes, now)
            has_room = len(self._places) < REMEMBERED // 2
            self._remember(stored if has_room else found)
            return tally

    def give_back(
        self, windows: Sequence[Window], cost: int, taken_at: int, clock: Callable[[], int]
    ) -> None:
        """`Limiter.give_back`, and with a negative cost `Limiter.add`, without waiting: to all
        windows, or to none.

        Raises:
            Held: The lock of a subject is held.
            NoPlace: There is no record for a window that is added to, or that is not found; see
                `filling`.
        """
        with self._mutex:
            hashes = self._hashes(windows)
            with self._locked(self._locks(hashes)):
                now = clock()
                found, counters = self._find_all(windows, hashes)
                changes: Changes = []
                for key, length, _, _ in windows:
                    before = counters.get(key)
                    after = sliding.give_back(before, length, cost, taken_at)
                    if after is None or after == before:
                        continue
                    if before is not None or not sliding.is_idle(after, length, now):
                        changes.append((key, after))
                self._store(zip(windows, hashes, strict=True), found, counters, changes, now)

    # --- records ---

    def stripes(self, windows: Sequence[Window]) -> tuple[int, ...]:
        """What locks windows, in order: one for all of a subject."""
        return self._locks(self._hashes(windows))

    def _locks(self, hashes: Sequence[Hash]) -> tuple[int, ...]:
        return tuple(sorted({self._stripe(home) for home, _ in hashes}))

    def _hashes(self, windows: Sequence[Window]) -> Sequence[Hash]:
        homes: dict[str, int] = {}
        found = []
        for window in windows:
            text = window.key.rpartition(":")[0]
            if text not in homes:
                homes[text] = self._home(text, sliding.subject_of(window.key))
            found.append((homes[text], self._hash(window.key) or 1))
        return found

    def _home(self, text: str, subject: str) -> int:
        """The hash of what is before the seconds, but with the lock of the subject. Were all of a
        subject's groups in its bucket, a few of them would fill it, in every segment.
        """
        own = self._hash(text)
        return own if text == subject else own - own % STRIPES + self._hash(subject) % STRIPES

    def _find_all(
        self, windows: Sequence[Window], hashes: Sequence[Hash]
    ) -> tuple[dict[str, Place], dict[str, WindowCount]]:
        """`_find`, and what is counted there.

        Raises:
            NoPlace: Some are not found, and another process has added a segment, where they may be.
        """
        mapped = len(self._segments)  # before the look: another thread may map one meanwhile
        found = self._find(windows, hashes)
        if len(found) < len(windows) and self.file.header[SEGMENTS] > mapped:
            self.filling = mapped
            raise NoPlace(mapped)
        counters = {
            window.key: _counter(self._segments, found[window.key], window.length)
            for window in windows
            if window.key in found
        }
        return found, counters

    def _store(
        self,
        wanted: Iterable[tuple[Window, Hash]],
        found: dict[str, Place],
        counters: Mapping[str, WindowCount],
        changes: Changes,
        now: int,
    ) -> dict[str, Place]:
        """Write the changes, to free records where windows have none; where all are then.

        Raises:
            NoPlace: There is none; nothing was written.
        """
        if changes:
            after = dict(changes)
            wanted = [one for one in wanted if one[0].key in after]
            found = self._with_free(wanted, found, now)
            for (key, length, _, _), _ in wanted:
                _write(self._segments, found[key], length, counters.get(key), after[key])
        return found

    def _find(self, windows: Sequence[Window], hashes: Sequence[Hash]) -> dict[str, Place]:
        """Where those windows are counted that have a record, by key; under their locks."""
        found: dict[str, Place] = {}
        for window, (home, tag) in zip(windows, hashes, strict=True):
            for segment, start in self._buckets(home):
                tags = self._segments[segment][start : start + _BUCKET : RECORD].tolist()
                if tag in tags:
                    at = start + tags.index(tag) * RECORD
                    found[window.key] = (tag, at, segment, home % STRIPES)
                    break
        return found

    def _with_free(
        self, wanted: Sequence[tuple[Window, Hash]], found: Mapping[str, Place], now: int
    ) -> dict[str, Place]:
        """Where the windows are counted: in free records those that have none, no two the same.

        Raises:
            NoPlace: There is none.
        """
        used = {(segment, at) for _, at, segment, _ in found.values()}
        places = dict(found)
        for window, (home, tag) in wanted:
            if window.key not in places:
                segment, at = self._free_record(home, now, used)
                places[window.key] = (tag, at, segment, home % STRIPES)
                used.add((segment, at))
        return places

    def _free_record(
        self, home: int, now: int, used: Collection[tuple[int, int]]
    ) -> tuple[int, int]:
        for segment, start in self._buckets(home):
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
    """Store what a take, or what was given back, has made of a counter."""
    tag, at, segment, _ = place
    words = segments[segment]
    index, current, previous = after
    odd = index & 1
    if before is not None and index == before[0]:
        words[at + EVEN + odd] = current
        if previous != before[2]:
            words[at + ODD - odd] = previous
    elif before is not None and index == before[0] + 1:
        words[at + EVEN + odd] = current  # of the period before the last, until `expires` moves
        words[at + EXPIRES] = (index + 2) * length
    else:  # nothing of what is there counts
        words[at + TAG] = 0
        words[at + EVEN + odd] = current
        words[at + ODD - odd] = previous
        words[at + EXPIRES] = (index + 2) * length
        words[at + TAG] = tag
