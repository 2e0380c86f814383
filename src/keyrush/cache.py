"""Verified keys in memory: LRU with a time to live, and a small one for keys that are not valid.

Keys are known by their SHA-256 alone. Methods are safe to call from any thread; a hit takes
no lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from keyrush.forks import after_fork
from keyrush.model import Identity

#: Refused keys remembered; small, because their number is in the hands of whoever sends them.
NEGATIVE_SIZE = 4096


class Entry:
    """A verified key. Instants are Unix milliseconds.

    Until `fresh_until` it needs no look-up, and later no second argon2; until `stale_until` it
    may still be let in when the store is away. `touch_due` is when `last_used_at` is next worth
    writing.
    """

    __slots__ = ("fresh_until", "hash", "identity", "stale_until", "touch_due")

    def __init__(self, identity: Identity, hash: str, fresh_until: int, stale_until: int) -> None:
        self.identity = identity
        self.hash = hash
        self.fresh_until = fresh_until
        self.stale_until = stale_until
        self.touch_due = 0


class Cache:
    """At most `size` verified keys; each is fresh for `ttl` milliseconds."""

    def __init__(self, size: int, ttl: int) -> None:
        self.size = size
        self.ttl = ttl
        #: Changes with every `drop`, so that a look-up from before it is not kept after it.
        self.generation = 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._refused: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.Lock()
        self._in_flight: dict[bytes, Future[Entry | None]] = {}
        after_fork(self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._in_flight = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes) -> Entry | None:
        """The entry, fresh or stale: its reader looks at `fresh_until` and at the key's expiry."""
        entry = self._entries.get(digest)
        if entry is not None:
            try:
                self._entries.move_to_end(digest)
            except KeyError:  # another thread has just dropped it
                return None
        return entry

    def put(self, digest: bytes, entry: Entry, generation: int) -> bool:
        """Keep the entry, unless something was dropped since `generation`: then False."""
        with self._lock:
            if generation != self.generation:
                return False
            if self.size:
                self._entries[digest] = entry
            if len(self._entries) > self.size:
                self._entries.popitem(last=False)
            return True

    def drop(self, concerns: Callable[[Identity], bool]) -> None:
        """Have every entry that `concerns` picks looked up anew, and distrust look-ups under way.

        The entries stay, so that argon2 need not run again, but nothing may be let in by them.
        """
        with self._lock:
            self.generation += 1
            for entry in list(self._entries.values()):
                if concerns(entry.identity):
                    entry.fresh_until = entry.stale_until = 0

    def forget(self, digest: bytes) -> None:
        """Forget one key."""
        with self._lock:
            self._entries.pop(digest, None)

    def is_refused(self, digest: bytes, now: int) -> bool:
        """True when the key was found invalid less than `ttl` ago."""
        until = self._refused.get(digest)
        return until is not None and now < until

    def refuse(self, digest: bytes, now: int) -> None:
        """Remember that the key is not valid."""
        with self._lock:
            self._refused[digest] = now + self.ttl
            self._refused.move_to_end(digest)
            if len(self._refused) > NEGATIVE_SIZE:
                self._refused.popitem(last=False)

    def single_flight(self, digest: bytes, load: Callable[[], Entry | None]) -> Entry | None:
        """What `load` returns or raises, called once however many threads ask meanwhile."""
        with self._lock:
            flight = self._in_flight.get(digest)
            mine = flight is None
            if flight is None:
                flight = self._in_flight[digest] = Future()
        if not mine:
            return flight.result()
        try:
            flight.set_result(load())
        except BaseException as error:  # whoever waits must learn of it, whatever it is
            flight.set_exception(error)
        finally:
            with self._lock:
                self._in_flight.pop(digest, None)
        return flight.result()
