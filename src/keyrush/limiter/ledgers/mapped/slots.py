"""The slots in a file, and what is taken of them.

A record is of one subject: a tag, which is its key hashed, and of each process how many of its
slots that holds. A process has a number, by which its counts are found, and which no other has
while it exists: it holds a lock of the kernel's for it. Only it writes its counts, so what it gives
back needs no lock; what it takes is decided under the subject's.

In the header each number has a stamp, when its process was last seen to go on. Counts of one that
was not for as long as a lease lasts are passed over; when it goes on again, they count again. The
stamp of one that has ended is 0: any other process sees to that. A record is free for another
subject where nobody has counts in it but those that have ended, so whoever was stopped anywhere
writes to a record that is still its own.

A process may be killed between any two writes: then its counts are as before them or after, and
mean nothing once its stamp is 0, or its number another's, who clears them first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from itertools import islice

from keyrush.core.concurrency import Want
from keyrush.limiter.ledgers.mapped.file import SEGMENTS, Layout, MappedFile
from keyrush.limiter.ledgers.mapped.records import NoPlace, Records
from keyrush.limiter.ledgers.mapped.tables import Tables
from keyrush.limiter.slots.protocol import LEASE, RENEWAL, Slot

#: Counts are of two bytes. In a record the tag takes the place of four.
_TAG, _ROW = 4, 128

#: Processes that may hold slots at the same time, and what one may hold of a subject.
WORKERS, MOST_OF_ONE = _ROW - _TAG, 2**16 - 1

LAYOUT = Layout("slots", int.from_bytes(b"keyrushS", "little"), _ROW // 4, 16, 512)

#: Records of the first segment, and segments up to which there are more for comfort: 31 MB.
RECORDS, _AMPLE = LAYOUT.bucket * LAYOUT.stripes, 4

#: Places of words in the header: the numbers in use are below the first; of stamps, in
#: milliseconds of the monotonic clock, which all processes of a machine share.
HIGH, STAMPS = 5, 8

#: Bytes of the file that stand for locks: of whoever looks for a number; of the first number.
CLAIMING, WORKER = 4, 1 << 21

#: Milliseconds after which a stamp says that its process was stopped.
_STALE = int(LEASE * 1000)

#: Subjects whose records' places are remembered, and how many of the oldest are forgotten where
#: there are more.
REMEMBERED, _FORGOTTEN = 16_384, 256

#: The first record of a bucket's last eighth: when that is taken in the last segment, the next is
#: needed before long.
_LAST_EIGHTH = LAYOUT.bucket * 7 // 8

#: Where a subject's slots are: its tag, the place of that among the words of a segment, the place
#: of the first count among its counts, the lock, and which segment it is.
Place = tuple[int, int, memoryview, int, memoryview, int, int]


#: Of a subject that has no record yet.
_NOWHERE: Place = (0, -1, memoryview(b""), 0, memoryview(b""), 0, -1)


class Unclaimed(Exception):
    """This process has no number."""


class TooMany(Exception):
    """There are as many processes as there are numbers."""


class SlotTable(Records):
    """The slots in a file. `monotonic` gives seconds, by the clock of all the machine's processes.

    What this process holds is known by key: what is in the file of it is a copy, for the others.
    """

    def __init__(self, file: MappedFile) -> None:
        self._header = file.header
        self._counts: list[memoryview] = []  # of each segment
        super().__init__(file)

    def _renew_mutex(self) -> None:
        super()._renew_mutex()
        self._begin()

    def _begin(self) -> None:
        """As in a new process, which holds nothing and has no number."""
        self._places: dict[str, Place] = {}
        self._held: dict[str, int] = {}
        self._unwritten: set[str] = set()  # keys of what is held, but not under this number
        self._life = object()
        self._number = -1
        self._stamp = 0
        self._renew_at = -math.inf
        self._replaced = 0  # records of idle subjects that were taken for others
        #: Seconds for which this process stood still and its slots did not count, until it is told.
        self.stood_still = 0.0

    # --- taking and giving back ---

    def take(self, wants: Sequence[Want], monotonic: Callable[[], float]) -> Slot | Want:
        """`Slots.take`, without waiting.

        Raises:
            Held: The lock of a subject is held.
            NoPlace: There is no record for a new subject.
            Unclaimed: `claim` is needed first.
        """
        with self._mutex:
            if monotonic() >= self._renew_at:
                self._renew(monotonic())
            known = self._places
            if len(wants) == 1:
                place = known.get(wants[0][0])
                if place is not None:
                    taken = self._take(wants, place, monotonic)
                    if taken is not None:
                        return taken
            elif all(want[0] in known for want in wants):
                places = [known[want[0]] for want in wants]
                taken = self._take_together(wants, places)
                if taken is not None:
                    return taken
            return self._take_anywhere(wants, monotonic)

    def _take(
        self, wants: Sequence[Want], place: Place, monotonic: Callable[[], float]
    ) -> Slot | Want | None:
        """`take` of one subject where it was last found; None where it is not. Here `_locked`,
        `_is_full` and `_write` are written out: it is what nearly every request does.
        """
        want = wants[0]
        key, most = want
        tag, at, words, first, counts, stripe, _ = place
        lock = self._lock
        try:
            if not lock.lock(stripe):
                self._insist(stripe)
            if self.stuck:
                self.stuck.pop(stripe, None)
            if words[at] != tag:
                return None
            held = self._held
            mine = held.get(key, 0) + 1
            is_doubtful = sum(counts[first : first + self._header[HIGH]]) >= most
            if (is_doubtful or mine > MOST_OF_ONE) and self._is_full(want, place, monotonic):
                return want
            counts[first + self._number] = mine
            held[key] = mine
            return Slot(self._life, wants)
        finally:
            lock.unlock(stripe)

    def _take_together(self, wants: Sequence[Want], places: Sequence[Place]) -> Slot | None:
        """The same of several subjects; None, too, where one seems to have none left."""
        lock, held = self._lock, self._held
        stripes = sorted([place[5] for place in places])
        try:
            for stripe in stripes:
                if not lock.lock(stripe):
                    self._insist(stripe)
                self.stuck.pop(stripe, None)
            high = self._header[HIGH]
            after = []
            for want, (tag, at, words, first, counts, _, _) in zip(wants, places, strict=True):
                mine = held.get(want[0], 0) + 1
                if words[at] != tag or mine > MOST_OF_ONE:
                    return None
                if sum(counts[first : first + high]) >= want[1]:
                    return None
                after.append(mine)
            for want, place, mine in zip(wants, places, after, strict=True):
                place[4][place[3] + self._number] = mine
                held[want[0]] = mine
            return Slot(self._life, wants)
        finally:
            for stripe in stripes:
                lock.unlock(stripe)

    def _take_anywhere(self, wants: Sequence[Want], monotonic: Callable[[], float]) -> Slot | Want:
        """`take` of subjects whose records may have to be looked for, or made."""
        tags = [self._tag(want[0]) for want in wants]
        stripes = {self._stripe(tag) for tag in tags}
        with self._locked(sorted(stripes) if len(stripes) > 1 else (*stripes,)):
            mapped = len(self._segments)  # before the look: another thread may map one meanwhile
            places: list[Place] = []
            new: list[int] = []
            for want, tag in zip(wants, tags, strict=True):
                place = self._place(want[0], tag)
                if place is None:
                    new.append(len(places))
                    place = _NOWHERE
                if want[1] <= 0 or (
                    place is not _NOWHERE and self._is_full(want, place, monotonic)
                ):
                    return want
                places.append(place)
            if new and self._header[SEGMENTS] > mapped:
                raise NoPlace(mapped)  # another process has added one, where they may be
            for nth in new:
                places[nth] = self._free_place(tags[nth], [(one[6], one[1]) for one in places])
            for want, place in zip(wants, places, strict=True):
                key = want[0]
                mine = self._held.get(key, 0) + 1
                self._write(key, place, mine)
                self._held[key] = mine
            return Slot(self._life, wants)

    def _is_full(self, want: Want, place: Place, monotonic: Callable[[], float]) -> bool:
        """Whether those who go on hold all slots of a subject, exactly."""
        mine = self._held.get(want[0], 0)
        if mine >= MOST_OF_ONE:
            return True
        header, first, counts = self._header, place[3], place[4]
        if sum(counts[first : first + header[HIGH]]) < want[1]:  # with those who have ended
            return False
        now, total = int(monotonic() * 1000), mine
        for number, count in enumerate(counts[first : first + header[HIGH]].tolist()):
            if count and number != self._number and abs(now - header[STAMPS + number]) <= _STALE:
                total += count
        return total >= want[1]

    def give_back(self, slot: Slot) -> None:
        """`Slots.give_back`; it needs no lock but this process's own."""
        with self._mutex:
            if slot.life is not self._life:
                return
            slot.life = None
            held = self._held
            for key, _ in slot.wants:
                left = held.get(key, 1) - 1
                if left:
                    held[key] = left
                else:
                    held.pop(key, None)
                if self._number < 0 or key in self._unwritten:
                    continue
                place = self._places.get(key) or self._find(self._tag(key))
                if place:
                    place[4][place[3] + self._number] = left

    # --- numbers and stamps ---

    def renew(self, now: float) -> None:
        """Say that this process goes on; clear the stamps of those that have ended.

        Raises:
            Unclaimed: `claim` is needed.
        """
        with self._mutex:
            self._renew(now)
            for number in range(self._header[HIGH]):
                is_used = number != self._number and self._header[STAMPS + number]
                if is_used and self._lock.lock(WORKER + number):
                    self._header[STAMPS + number] = 0
                    self._lock.unlock(WORKER + number)

    def _renew(self, now: float) -> None:
        if self._number < 0 or self._unwritten:
            raise Unclaimed
        at, stamp = STAMPS + self._number, int(now * 1000)
        # Its lock is lost where somebody has opened and closed the file in this process; then
        # another may have taken it for ended.
        if self._header[at] != self._stamp or not self._lock.lock(WORKER + self._number):
            self._number, self._renew_at = -1, -math.inf
            self._unwritten = set(self._held)
            raise Unclaimed
        if self._held and stamp - self._stamp > _STALE:
            self.stood_still = (stamp - self._stamp) / 1000
        self._put_stamp(stamp)

    def _put_stamp(self, stamp: int) -> None:
        self._stamp = self._header[STAMPS + self._number] = max(1, stamp)
        self._renew_at = stamp / 1000 + RENEWAL

    def claim(self, now: float) -> None:
        """Have a number, and all that is held in the file under it; takes time by its size.

        Raises:
            Held: Another process looks for one.
            NoPlace: There are segments that are not mapped yet, or no records for what is held.
            TooMany: There is none.
        """
        with self._mutex:
            if self._header[SEGMENTS] > len(self._segments):
                raise NoPlace(len(self._segments))  # somebody's counts may be there
            if self._number < 0:
                with self._locked((CLAIMING,)):
                    self._number = self._claimed(int(now * 1000))
            for key in list(self._unwritten):
                self._write_anew(key)
                self._unwritten.discard(key)
            self._put_stamp(int(now * 1000))

    def _claimed(self, stamp: int) -> int:
        for number in range(WORKERS):
            if self._lock.lock(WORKER + number):
                self._clear(number)
                self._header[HIGH] = max(self._header[HIGH], number + 1)
                self._stamp = self._header[STAMPS + number] = max(1, stamp)
                return number
        raise TooMany

    def _clear(self, number: int) -> None:
        """Forget what one held that had this number and has ended."""
        for segment in range(len(self._segments)):
            column = self._counts_of(segment)[_TAG + number :: _ROW]
            for at, count in enumerate(column.tolist()):
                if count:
                    column[at] = 0

    def _write_anew(self, key: str) -> None:
        """Have what is held of a subject under this number, whatever its maximum."""
        if key in self._held:
            tag = self._tag(key)
            with self._locked((self._stripe(tag),)):
                place = self._place(key, tag) or self._free_place(tag, ())
                self._write(key, place, self._held[key])

    @property
    def held(self) -> int:
        """Of how many subjects this process holds slots."""
        return len(self._held)

    # --- records ---

    def stripe(self, key: str) -> int:
        """The lock of a subject."""
        return self._stripe(self._tag(key))

    def _tag(self, key: str) -> int:
        """The key, hashed; never 0, which is no tag."""
        place = self._places.get(key)
        return place[0] if place else self._hash(key) or 1

    def _place(self, key: str, tag: int) -> Place | None:
        """Where a subject's slots are, None where nobody holds any; under its lock."""
        known = self._places.get(key)
        return known if known and known[2][known[1]] == tag else self._find(tag)

    def _find(self, tag: int) -> Place | None:
        for segment, start in self._buckets(tag):
            words = self._segments[segment]
            tags = words[start : start + self._bucket : LAYOUT.record].tolist()
            if tag in tags:
                return self._place_at(tag, segment, start + tags.index(tag) * LAYOUT.record)
        return None

    def _place_at(self, tag: int, segment: int, at: int) -> Place:
        words, counts = self._segments[segment], self._counts_of(segment)
        return tag, at, words, at * 4 + _TAG, counts, self._stripe(tag), segment

    def _counts_of(self, segment: int) -> memoryview:
        for words in self._segments[len(self._counts) :]:
            self._counts.append(words.cast("B").cast("H"))
        return self._counts[segment]

    def _free_place(self, tag: int, used: Collection[tuple[int, int]]) -> Place:
        """A record for a subject that has none; not at one of the places `used`. One that nobody
        has had yet, if there is any, so that subjects that come and go find their own again.

        Raises:
            NoPlace: There is none.
        """
        for is_new in (True, False):
            for segment, start in self._buckets(tag):
                words = self._segments[segment]
                tags = words[start : start + self._bucket : LAYOUT.record].tolist()
                for record, its in enumerate(tags):
                    at = start + record * LAYOUT.record
                    if bool(its) == is_new or (segment, at) in used:
                        continue
                    place = self._place_at(tag, segment, at)
                    if is_new or self._is_free(place):
                        self._note_want_of_room(segment, record, is_new=is_new)
                        return place
        self.filling = len(self._segments)
        raise NoPlace(self.filling)

    def _note_want_of_room(self, segment: int, record: int, *, is_new: bool) -> None:
        """See whether another segment is needed before long: where a bucket is nearly full of those
        who hold slots, or subjects that come and go take each other's records again and again.
        """
        segments = len(self._segments)
        self._replaced += not is_new
        is_worn = self._replaced > (RECORDS << segments - 1) and segments < _AMPLE
        if is_worn or (not is_new and record >= _LAST_EIGHTH and segment == segments - 1):
            self.filling, self._replaced = segments, 0

    def _is_free(self, place: Place) -> bool:
        """Whether nobody has counts in a record who may yet write to it."""
        counts, first = place[4], place[3]
        its = counts[first : first + self._header[HIGH]]
        return not sum(its) or not any(
            count and self._header[STAMPS + number] for number, count in enumerate(its.tolist())
        )

    def _write(self, key: str, place: Place, mine: int) -> None:
        tag, at, words, first, counts, _, _ = place
        if words[at] != tag:  # another's, of whom nobody holds any but who has ended
            words[at] = 0
            if sum(counts[first : first + WORKERS]):
                for number in range(WORKERS):
                    counts[first + number] = 0
            words[at] = tag
        counts[first + self._number] = mine
        if self._places.get(key) is not place:
            self._places[key] = place
            if len(self._places) > REMEMBERED:
                for oldest in tuple(islice(self._places, _FORGOTTEN)):
                    del self._places[oldest]

    # --- the end ---

    def close(self) -> None:
        """Hold nothing any more, and let go of the file."""
        with self._mutex:
            if self._number >= 0:
                for key in self._held:
                    place = self._places.get(key) or self._find(self._tag(key))
                    if place and key not in self._unwritten:
                        place[4][place[3] + self._number] = 0
                self._header[STAMPS + self._number] = 0
                self._lock.unlock(WORKER + self._number)
            self._begin()
        super().close()


#: Of slots.
SLOT_TABLES = Tables(lambda path: SlotTable(MappedFile(path, LAYOUT)))
