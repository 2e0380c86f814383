"""What the records of every mapped file have in common: where they are looked for, and their locks.

Whatever is kept of a subject goes with one lock, of a number that its bucket has in every segment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b

from keyrush.limiter.ledgers.mapped.file import STRIPE, WORD, MappedFile
from keyrush.runtime.forks import after_fork

#: How often a lock is tried, about 100 µs; and where it has been held for long.
TRIES, FEW_TRIES = 60, 2


class Held(Exception):
    """Another process holds the lock of a subject: of `stripe`."""

    def __init__(self, stripe: int) -> None:
        super().__init__(stripe)
        self.stripe = stripe


class NoPlace(Exception):
    """All records that something could have count for others, in as many segments as `segments`."""

    def __init__(self, segments: int) -> None:
        super().__init__(segments)
        self.segments = segments


class Records:
    """The records in a file. Safe to use from any thread, and after a fork.

    There must be one of a file in a process, whose threads share the kernel's locks.
    """

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        #: Since when, in monotonic seconds, locks have been held for longer than anyone waits.
        self.stuck: dict[int, float] = {}
        #: How many segments there were when the next was seen to be needed before long; else 0.
        self.filling = 0
        self._lock = file.lock
        self._segments = file.segments
        self._stripes = file.layout.stripes
        self._bucket = file.layout.bucket * file.layout.record  # words
        self._renew_mutex()
        after_fork(self._renew_mutex)

    def _renew_mutex(self) -> None:
        self._mutex = threading.Lock()

    # --- locks ---

    @contextmanager
    def _locked(self, stripes: Sequence[int]) -> Iterator[None]:
        try:
            for stripe in stripes:
                if not self._lock.lock(stripe):
                    self._insist(stripe)
            for stripe in stripes:
                self.stuck.pop(stripe, None)
            yield
        finally:
            for stripe in stripes:
                self._lock.unlock(stripe)

    def _insist(self, stripe: int) -> None:
        for _ in range(1, FEW_TRIES if stripe in self.stuck else TRIES):
            if self._lock.lock(stripe):
                return
        raise Held(stripe)

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

    # --- places ---

    def _hash(self, text: str) -> int:
        digest = blake2b(text.encode(), digest_size=WORD, key=self.file.seed).digest()
        return int.from_bytes(digest, "little")

    def _stripe(self, subject: int) -> int:
        """The lock of a subject, by its hash."""
        return STRIPE + subject % self._stripes

    def _buckets(self, subject: int) -> Iterator[tuple[int, int]]:
        """Where a subject's records can be: a segment, and the first word of a bucket."""
        for segment in range(len(self._segments)):
            yield segment, subject % (self._stripes << segment) * self._bucket

    # --- larger, and the end ---

    def enlarge(self, seen: int) -> None:
        """`MappedFile.enlarge`."""
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
