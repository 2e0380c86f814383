"""Verified callers in memory: LRU with a time to live, and a small one for credentials that are
not valid.

Credentials are known by their BLAKE2b alone. Methods are safe to call from any thread; a hit takes
no lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

from keyrush.authentication.protocol import Authenticator
from keyrush.core.identity import Verified
from keyrush.core.refusal import Refusal
from keyrush.runtime.forks import after_fork

#: Refused keys remembered; small, because their number is in the hands of whoever sends them.
NEGATIVE_SIZE = 4096


class Entry:
    """A verified caller. Instants are Unix milliseconds.

    Until `fresh_until` it needs no look-up; until `stale_until` it may still be let in when its
    authenticator can't say. From `refresh_at` on it is worth renewing ahead of need, by the
    `evidence`, which only the `authenticator` reads. `touch_due` is when `last_used_at` is next
    worth writing. `due` is the first of these, and of the credential's own end: before it, a
    request need look at nothing else. `previous` and `next` are others of its account, for the
    cache alone.
    """

    __slots__ = (
        "authenticator",
        "digest",
        "due",
        "evidence",
        "fresh_until",
        "next",
        "previous",
        "refresh_at",
        "stale_until",
        "touch_due",
        "verified",
    )

    def __init__(
        self,
        verified: Verified,
        digest: bytes,
        authenticator: Authenticator[Any],
        evidence: object,
        *,
        refresh_at: int,
        fresh_until: int,
        stale_until: int,
    ) -> None:
        self.verified = verified
        self.digest = digest
        self.authenticator = authenticator
        self.evidence = evidence
        self.refresh_at = refresh_at
        self.fresh_until = fresh_until
        self.stale_until = stale_until
        self.touch_due = self.due = 0
        self.previous: Entry | None = None
        self.next: Entry | None = None

    def distrust(self) -> None:
        """Let nothing in by this entry any more."""
        self.fresh_until = self.stale_until = 0
        self.due = 0

    def schedule(self) -> None:
        """Set `due`."""
        self.due = min(self.fresh_until, self.refresh_at, self.touch_due, self.verified.expires_at)
        if not self.fresh_until:  # dropped meanwhile, by a thread that set `due` before
            self.due = 0


#: A look-up that is under way.
Flight = Future[Entry | Refusal]


class Cache:
    """At most `size` verified keys; each is fresh for `ttl` milliseconds after it was looked up,
    and after the store's own news have last been complete.
    """

    def __init__(self, size: int, ttl: int) -> None:
        self.size = size
        self.ttl = ttl
        #: Until when all that is kept, and not distrusted, is as the store has it (`vouch`).
        self.good_until = 0
        #: Changes with every `drop`, so that a look-up from before it is not kept after it.
        self.generation = 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        #: The first entry of each account, which knows the next: so a change finds those that it
        #: concerns. A set for each would take as much memory as all else of an entry.
        self._first: dict[str, Entry] = {}
        self._refused: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.Lock()
        self._in_flight: dict[bytes, Flight] = {}
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
                self._unlink(self._entries.get(digest))
                self._entries[digest] = entry
                self._link(entry)
            if len(self._entries) > self.size:
                self._unlink(self._entries.popitem(last=False)[1])
            return True

    def _link(self, entry: Entry) -> None:
        """Make the entry the first of its account."""
        account_id = entry.verified.account_id
        following = self._first.get(account_id)
        if following is not None:
            following.previous = entry
        entry.previous, entry.next = None, following
        self._first[account_id] = entry

    def _unlink(self, entry: Entry | None) -> None:
        """Have the entry, which is no longer kept, be none of its account's."""
        if entry is None:
            return
        if entry.next is not None:
            entry.next.previous = entry.previous
        if entry.previous is not None:
            entry.previous.next = entry.next
        elif entry.next is not None:
            self._first[entry.verified.account_id] = entry.next
        else:
            del self._first[entry.verified.account_id]
        entry.previous = entry.next = None

    def drop(self, accounts: Collection[str] | None) -> None:
        """Have every key of the accounts, or with None of all, looked up anew, and distrust
        look-ups under way.

        The entries stay, so that nothing is proved twice, but nothing may be let in by them.
        """
        with self._lock:
            self.generation += 1
            for account_id in list(self._first) if accounts is None else accounts:
                entry = self._first.get(account_id)
                while entry is not None:
                    entry.distrust()
                    entry = entry.next

    def distrust(self, entry: Entry) -> None:
        """`drop`, for one key."""
        with self._lock:
            entry.distrust()

    def vouch(self, as_of: int) -> None:
        """Whatever has changed in the store before `as_of`, Unix milliseconds, has been dropped."""
        self.good_until = as_of + self.ttl

    def is_vouched(self, entry: Entry, now: int) -> bool:
        """Whether the entry is as the store has it, for longer than it was known to be; it is
        fresh for as long, then. Needs no I/O.
        """
        until = self.good_until
        if until <= max(now, entry.fresh_until):
            return False
        with self._lock:
            if not entry.fresh_until:  # it has been dropped
                return False
            entry.stale_until += until - entry.fresh_until
            entry.fresh_until = until
            return True

    def prolong(self, entry: Entry, until: int) -> None:
        """Trust an entry until then, as far as it may be while the store is away."""
        with self._lock:
            entry.fresh_until = min(until, entry.stale_until)
            entry.schedule()

    def forget(self, digest: bytes) -> None:
        """Forget one key."""
        with self._lock:
            self._unlink(self._entries.pop(digest, None))

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

    def flight(self, digest: bytes) -> tuple[Flight, bool]:
        """The look-up of a key that is under way, and whether it is the caller's to make, and
        then to `land`: one at a time, however many ask meanwhile.
        """
        with self._lock:
            flight = self._in_flight.get(digest)
            if flight is not None:
                return flight, False
            flight = self._in_flight[digest] = Future()
            flight.set_running_or_notify_cancel()  # who waits can't cancel it for the others
            return flight, True

    def land(self, digest: bytes, flight: Flight, outcome: Entry | Refusal) -> None:
        """Tell all who wait what came of it."""
        with self._lock:
            self._in_flight.pop(digest, None)
        flight.set_result(outcome)
