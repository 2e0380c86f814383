"""Verified callers in memory: those used lately, with a time to live, and few credentials that are
not valid.

Credentials are known by their BLAKE2b alone. Methods are safe to call from any thread; a hit takes
no lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any, NamedTuple

from keyrush.authentication.protocol import Authenticator
from keyrush.core.identity import Verified
from keyrush.core.refusal import Refusal
from keyrush.runtime.forks import after_fork

#: Refused keys remembered; small, because their number is in the hands of whoever sends them.
NEGATIVE_SIZE = 4096

#: The part of its time to live after which a credential in use is renewed ahead of need.
_AHEAD = 0.6

#: Keys that may stay in a full cache, because they were used, before one goes all the same: so
#: that room for a new one is made in microseconds.
_SPARED = 32


class Lifetime(NamedTuple):
    """For how long a caller is known, in Unix milliseconds.

    Until `fresh_until` it needs no look-up; until `stale_until` it may still be let in when its
    authenticator can't say. From `refresh_at` on it is worth renewing ahead of need.
    """

    refresh_at: int
    fresh_until: int
    stale_until: int


class Entry:
    """A verified caller. Instants are Unix milliseconds; three are those of a `Lifetime`.

    It is renewed by the `evidence`, which only the `authenticator` reads. `touch_due` is when
    `last_used_at` is next worth writing. `due` is the first of these, and of `Verified.changes_at`:
    before it, a request need look at nothing else. `previous` and `next` are others of its
    account, and `is_used` says that it was, for the cache alone.

    There are as many as there are keys, so what many have in common is one object for all.
    """

    __slots__ = (
        "authenticator",
        "digest",
        "due",
        "evidence",
        "fresh_until",
        "is_used",
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
        lifetime: Lifetime,
    ) -> None:
        self.verified = verified
        self.digest = digest
        self.authenticator = authenticator
        self.evidence = evidence
        self.refresh_at, self.fresh_until, self.stale_until = lifetime
        self.touch_due = self.due = 0
        self.previous: Entry | None = None
        self.next: Entry | None = None
        self.is_used = False

    def distrust(self) -> None:
        """Let nothing in by this entry any more."""
        self.fresh_until = self.stale_until = 0
        self.due = 0

    def schedule(self) -> None:
        """Set `due`."""
        self.due = min(self.fresh_until, self.refresh_at, self.touch_due, self.verified.changes_at)
        if not self.fresh_until:  # dropped meanwhile, by a thread that set `due` before
            self.due = 0


#: A look-up that is under way.
Flight = Future[Entry | Refusal]


class Cache:
    """At most `size` verified keys; each is fresh for `ttl` milliseconds after it was looked up,
    and after the store's own news have last been complete, and good for `stale_for` more where
    nobody can say. When it is full, keys go that were not used since they came, or were last
    spared.
    """

    def __init__(self, size: int, ttl: int, stale_for: int = 0) -> None:
        self.size = size
        self.ttl = ttl
        self._stale_for = stale_for
        #: Of all that is kept, and not distrusted (`vouch`).
        self._vouched = Lifetime(0, 0, 0)
        #: Changes with every `drop`, so that a look-up from before it is not kept after it.
        self.generation = 0
        self._entries: dict[bytes, Entry] = {}
        #: Their digests, and of some that were forgotten: who is at the left goes first.
        self._order: deque[bytes] = deque()
        #: The first entry of each account, which knows the next: so a change finds those that it
        #: concerns. A set for each would take as much memory as all else of an entry.
        self._first: dict[str, Entry] = {}
        self._refused: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.Lock()
        self._in_flight: dict[bytes, Flight] = {}
        after_fork(self._after_fork)

    def _after_fork(self) -> None:
        if self._lock.locked():  # a thread was at it that is not in the child: what it left half
            self._entries, self._first = {}, {}  # done, a change might not find
            self._order, self._refused = deque(), OrderedDict()
        self._lock = threading.Lock()
        self._in_flight = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes) -> Entry | None:
        """The entry, fresh or stale: its reader looks at `fresh_until` and at the key's expiry."""
        entry = self._entries.get(digest)
        if entry is not None:
            entry.is_used = True
        return entry

    def put(self, digest: bytes, entry: Entry, generation: int) -> bool:
        """Keep the entry, unless something was dropped since `generation`: then False."""
        with self._lock:
            if generation != self.generation:
                return False
            if self.size:
                known = self._entries.get(digest)
                if known is None:
                    self._order.append(digest)
                self._unlink(known)
                self._entries[digest] = entry
                self._link(entry)
                self._make_room()
            return True

    def _make_room(self) -> None:
        """Have no more digests than there may be entries."""
        spared = 0
        while len(self._order) > self.size:
            digest = self._order.popleft()
            entry = self._entries.get(digest)
            if entry is not None and entry.is_used and spared < _SPARED:
                entry.is_used = False
                self._order.append(digest)
                spared += 1
            else:
                self._unlink(self._entries.pop(digest, None))

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
        self._vouched = self._lifetime(as_of)

    def _lifetime(self, as_of: int) -> Lifetime:
        fresh_until = as_of + self.ttl
        refresh_at = as_of + int(self.ttl * _AHEAD)
        return Lifetime(refresh_at, fresh_until, fresh_until + self._stale_for)

    @property
    def good_until(self) -> int:
        """Until when all that is kept, and not distrusted, is as the store has it."""
        return self._vouched.fresh_until

    def lifetime(self, now: int) -> Lifetime:
        """The one of what is looked up at `now`: where it can be, everybody's."""
        return self._vouched if now < self._vouched.refresh_at else self._lifetime(now)

    def is_vouched(self, entry: Entry, now: int) -> bool:
        """Whether the entry is as the store has it, for longer than it was known to be; it is
        fresh for as long, then. Needs no I/O.
        """
        vouched = self._vouched
        if vouched.fresh_until <= max(now, entry.fresh_until):
            return False
        with self._lock:
            if not entry.fresh_until:  # it has been dropped
                return False
            entry.refresh_at, entry.fresh_until, entry.stale_until = vouched
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
