"""The records of a file, and what is taken from them.

A record is four words: a tag, which is its key hashed; `expires`, when it counts no more; and what
was taken in a period of an even number, and in one of an odd. `expires` is the end of the period
after the one it last counted in, so that a record says by itself whether it is free, and a new
period moves nothing: what was current becomes the previous one by `expires` alone.

A process may be killed between any two writes. Each is of one aligned word, and they are in such an
order that every state between is as before the take or as after it, window by window.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from keyrush.core import sliding
from keyrush.core.sliding import UNLIMITED, Tally, Window, WindowCount
from keyrush.limiter.ledgers.mapped.file import (
    BUCKET,
    RECORD,
    SEGMENTS,
    STRIPE,
    STRIPES,
    WORD,
    WindowsFile,
)
from keyrush.runtime.forks import after_fork

#: Places of words in a record; what was taken in period n is at `EVEN` + n % 2.
TAG, EXPIRES, EVEN, ODD = 0, 1, 2, 3

#: How often a lock is tried, about 100 µs; and where it has been held for long.
TRIES, FEW_TRIES = 60, 2

#: Subjects whose records' places are remembered, as many as keys in a gate's cache by default.
REMEMBERED = 65_536

#: Reads a record. For reading alone: what packs a structure writes zeros first, and a slice is
#: copied in parts.
_UNPACK = struct.Struct("4Q").unpack_from

#: Words of a bucket, and the first of those of its last eighth: when any bucket of the last segment
#: has a record there, one is full after a twentieth to a quarter more windows.
_BUCKET, _LAST_EIGHTH = BUCKET * RECORD, BUCKET * RECORD * 7 // 8


class Held(Exception):
    """Another process holds the lock of a subject: of `stripe`."""

    def __init__(self, stripe: int) -> None:
        super().__init__(stripe)
        self.stripe = stripe


class NoPlace(Exception):
    """All records that a window could have count for others, in as many segments as `segments`."""

    def __init__(self, segments: int) -> None:
        super().__init__(segments)
        self.segments = segments


# Plain tuples of texts and numbers, unlike named ones, are nothing to the garbage collector: what
# is remembered of a fleet is not looked through by it while somebody has a lock.

#: What tells where a window's record may be, and which it is: its subject, whose windows share a
#: lock, and in each segment a bucket; and its tag, never 0, which is no tag.
Hash = tuple[int, int]

#: Where a window is counted, or can be: its key and length, in milliseconds; the segment, and the
#: first word in it; and the tag that this has while it is the window's.
Record = tuple[str, int, int, int, int]


class Known(NamedTuple):
    """What is known of the windows of a request."""

    windows: tuple[Window, ...]
    stripes: tuple[int, ...]  #: what locks them, in order
    hashes: tuple[Hash, ...] = ()  #: of each; none where they would only take up memory
    records: tuple[Record, ...] = ()  #: as last found; none where they have not been looked for


class Table:
    """The windows in a file. Safe to use from any thread, and after a fork.

    There must be one of a file in a process, whose threads share the kernel's locks.
    """

    def __init__(self, file: WindowsFile) -> None:
        self.file = file
        #: Since when, in monotonic seconds, locks have been held for longer than anyone waits.
        self.stuck: dict[int, float] = {}
        #: How many segments there were when the next was seen to be needed before long; else 0.
        self.filling = 0
        self._lock = file.lock
        self._segments = file.segments
        self._known: dict[str, Known] = {}
        self._remembered: deque[str] = deque()  # the keys of that, the oldest first
        self._renew()
        after_fork(self._renew)

    def _renew(self) -> None:
        self._mutex = threading.Lock()

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
            known = self._known.get(windows[0][0])
            if known is None or (known[0] is not windows and known[0] != tuple(windows)):
                known = self._unplaced(windows)
            stripes, lock = known.stripes, self._lock
            try:
                for stripe in stripes:
                    if not lock.lock(stripe):
                        self._insist(stripe)
                if self.stuck:
                    self._free(stripes)
                return self._take(known, cost, now, clock)
            finally:
                for stripe in stripes:
                    lock.unlock(stripe)

    def _take(self, known: Known, cost: int, now: int, clock: Callable[[], int]) -> Tally:
        """`take` under the locks. Here `_counter` and `_write` are written out: what every request
        does is to cost no call a window.
        """
        windows, _, _, records = known
        counters: dict[str, WindowCount] = {}
        segments = self._segments
        for key, length, segment, at, tag in records:
            found, expires, even, odd = _UNPACK(segments[segment], at * WORD)
            if found != tag:
                return self._take_anywhere(known, cost, now, clock)
            last = expires // length - 2
            counters[key] = (last, odd, even) if last & 1 else (last, even, odd)
        if not records:
            return self._take_anywhere(known, cost, now, clock)
        tally, changes = sliding.take(windows, counters, cost, now, clock)
        for number, (key, after) in enumerate(changes):
            record, index = records[number], after[0]
            if index == counters[key][0]:
                segments[record[2]][record[3] + EVEN + (index & 1)] = after[1]
            else:
                _write(segments, record, counters[key], after)
        return tally

    def _take_anywhere(self, known: Known, cost: int, now: int, clock: Callable[[], int]) -> Tally:
        """`take` under the locks, of windows whose records have to be looked for."""
        if not known.hashes:
            known = self._unplaced(known.windows)
        now = max(now, clock())  # by which records are free: whoever had them must not come late
        found = self._find(known)
        if len(found) < len(known.windows) and self.file.header[SEGMENTS] > len(self._segments):
            raise NoPlace(len(self._segments))  # that is known: another process has added one
        counters = {key: _counter(self._segments, record) for key, record in found.items()}
        tally, changes = sliding.take(known.windows, counters, cost, now, clock)
        if changes:
            found = self._with_free(known, found, now)
            for key, after in changes:
                _write(self._segments, found[key], counters.get(key), after)
        if len(found) == len(known.windows):
            self._remember(known._replace(hashes=(), records=tuple(found.values())))
        return tally

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        """`Limiter.give_back`, without waiting.

        Raises:
            Held: The lock of a subject is held.
        """
        with self._mutex:
            known = self._unplaced(windows)
            try:
                for stripe in known.stripes:
                    if not self._lock.lock(stripe):
                        self._insist(stripe)
                for record in self._find(known).values():
                    _give_back(self._segments, record, cost, taken_at)
            finally:
                for stripe in known.stripes:
                    self._lock.unlock(stripe)

    # --- locks ---

    def _insist(self, stripe: int) -> None:
        for _ in range(1, FEW_TRIES if stripe in self.stuck else TRIES):
            if self._lock.lock(stripe):
                return
        raise Held(stripe)

    def _free(self, stripes: Sequence[int]) -> None:
        for stripe in stripes:
            self.stuck.pop(stripe, None)

    def give_up(self, stripe: int) -> None:
        """Say of a lock that it is held for longer than anyone waits."""
        self.stuck.setdefault(stripe, time.monotonic())

    def try_stuck(self) -> None:
        """Look at the locks that were held for long."""
        for stripe in list(self.stuck):
            with self._mutex:
                if self._lock.lock(stripe):
                    self.stuck.pop(stripe, None)
                    self._lock.unlock(stripe)

    # --- records ---

    def stripes(self, windows: Sequence[Window]) -> tuple[int, ...]:
        """What locks windows, in order: one for all of a subject."""
        return self._unplaced(windows).stripes

    def _unplaced(self, windows: Sequence[Window]) -> Known:
        subjects = {_subject(window.key): 0 for window in windows}
        for subject in subjects:
            subjects[subject] = self._hash(subject)
        return Known(
            tuple(windows),
            tuple(sorted({STRIPE + number % STRIPES for number in subjects.values()})),
            tuple(
                (subjects[_subject(window.key)], self._hash(window.key) or 1) for window in windows
            ),
        )

    def _hash(self, text: str) -> int:
        digest = blake2b(text.encode(), digest_size=WORD, key=self.file.seed).digest()
        return int.from_bytes(digest, "little")

    def _buckets(self, subject: int) -> Iterator[tuple[int, int]]:
        """Where a subject's records can be: a segment, and the first word of a bucket."""
        for segment in range(len(self._segments)):
            yield segment, subject % (STRIPES << segment) * _BUCKET

    def _find(self, known: Known) -> dict[str, Record]:
        """The records of those windows that have one, by key in their order; under their locks."""
        found: dict[str, Record] = {}
        for window, (subject, tag) in zip(known.windows, known.hashes, strict=True):
            for segment, start in self._buckets(subject):
                tags = self._segments[segment][start : start + _BUCKET : RECORD].tolist()
                if tag in tags:
                    at = start + tags.index(tag) * RECORD
                    found[window.key] = (window.key, window.length, segment, at, tag)
                    break
        return found

    def _with_free(self, known: Known, found: Mapping[str, Record], now: int) -> dict[str, Record]:
        """The records of all windows: free ones for those that have none, no two the same.

        Raises:
            NoPlace: There is none.
        """
        used = {(segment, at) for _, _, segment, at, _ in found.values()}
        records: dict[str, Record] = {}
        for window, (subject, tag) in zip(known.windows, known.hashes, strict=True):
            record = records.get(window.key) or found.get(window.key)
            if record is None:
                segment, at = self._free_record(subject, now, used)
                record = (window.key, window.length, segment, at, tag)
                used.add((segment, at))
            records[window.key] = record
        return records

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

    def _remember(self, known: Known) -> None:
        first = known.windows[0].key
        if first not in self._known:
            self._remembered.append(first)
            if len(self._remembered) > REMEMBERED:  # one goes: to let go of all takes long
                self._known.pop(self._remembered.popleft())
        self._known[first] = known

    # --- larger, and the end ---

    def enlarge(self, seen: int) -> None:
        """`WindowsFile.enlarge`."""
        self.file.enlarge(seen, self._mutex)

    def enlarge_ahead(self) -> bool:
        """Do a part of what the next segment needs, for a millisecond; True where it is there.

        Raises:
            NoRoom: There is none, or another process is at it.
            OSError: The file system gives none.
        """
        seen = self.filling
        if seen and not self.file.enlarge_a_little(seen, self._mutex, 0.0):
            return False
        self.filling = 0
        return True

    def close(self) -> None:
        """Let go of the file. Whoever takes afterwards finds all locks held."""
        self.file.close(self._mutex)


def _subject(key: str) -> str:
    """Whose window it is: the windows of a subject share a lock."""
    return key.rpartition(":")[0]


def _counter(segments: Sequence[memoryview], record: Record) -> WindowCount:
    _, length, segment, at, _ = record
    _, expires, even, odd = _UNPACK(segments[segment], at * WORD)
    last = expires // length - 2
    return (last, odd, even) if last & 1 else (last, even, odd)


def _write(
    segments: Sequence[memoryview], record: Record, before: WindowCount | None, after: WindowCount
) -> None:
    """Store what a take has made of a counter."""
    _, length, segment, at, tag = record
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


def _give_back(segments: Sequence[memoryview], record: Record, cost: int, taken_at: int) -> None:
    _, length, segment, at, _ = record
    before = _counter(segments, record)
    after = sliding.give_back(before, length, cost, taken_at)
    if after is not None and after != before:
        index, current, previous = after
        odd = index & 1
        segments[segment][at + EVEN + odd] = current
        segments[segment][at + ODD - odd] = previous
