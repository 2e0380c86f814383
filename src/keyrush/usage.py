"""Counts of requests per month, and of when keys were last used: buffered, then flushed.

A request adds to numbers in memory. One daemon thread writes what has come together, as
increments, at most `FLUSH_INTERVAL` later; a normal stop writes the rest.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from weakref import WeakValueDictionary

from keyrush.errors import log_fault
from keyrush.forks import after_fork
from keyrush.model import Count, Found, Identity, month_bounds, month_of
from keyrush.store import Store, account_subject, key_subject

#: Seconds between flushes: what a crash may lose.
FLUSH_INTERVAL = 1.0

#: Milliseconds between two writes of one key's `last_used_at`.
TOUCH_INTERVAL = 60_000


class Usage:
    """The counts of this process. Safe to call from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts: WeakValueDictionary[str, Count] = WeakValueDictionary()
        self._month = ""
        self._month_ends = 0
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """As in a new process: in a forked child, what is pending is the parent's to write."""
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._dirty: set[Count] = set()
        #: Increments by subject and month that are no longer, or never were, in a `Count`.
        self._late: Counter[tuple[str, str]] = Counter()
        self._used: dict[str, int] = {}
        self._flushes = 0
        self._failing = False
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        for count in list(self._counts.values()):
            count.pending = count.flushing = 0

    # --- reading the store's totals ---

    @property
    def flushes(self) -> int:
        """A mark to take before reading totals from the store, for `counts_of`."""
        return self._flushes

    def counts_of(self, found: Found, mark: int, now: int) -> tuple[Count, Count]:
        """The key's and the account's count, brought up to totals just read from the store.

        `mark` is `flushes` from before the read: totals that a flush has overtaken are
        passed over, because what was flushed would count twice.
        """
        with self._lock:
            self._turn_month(now)
            key, account = found.key, found.account
            key_total: int | None = found.key_count
            account_total: int | None = found.account_count
            if month_of(now) != self._month:  # read before the month turned
                key_total = account_total = None
            return (
                self._loaded(key_subject(key.lineage), key_total, mark),
                self._loaded(account_subject(account.id), account_total, mark),
            )

    def _loaded(self, subject: str, total: int | None, mark: int) -> Count:
        count = self._counts.get(subject)
        overtaken = False
        if count is None:
            count = self._counts[subject] = Count(subject, self._month)
        else:
            self._turn(count)
            overtaken = mark != self._flushes or count.flushing != 0
        if total is not None and not overtaken:
            count.stored = total
        return count

    # --- counting ---

    def add(self, identity: Identity, now: int) -> bool:
        """Count one request; False, and nothing counted, where the quota blocks it.

        Keys that are not metered are not counted (contract R2).
        """
        counts = identity.counts
        with self._lock:
            if now >= self._month_ends or identity.quota_count.month != self._month:
                self._turn_identity(identity, now)
            if not counts:
                return True
            quota = identity.plan.quota
            if (
                quota is not None
                and quota.on_exceed == "block"
                and identity.quota_count.total >= quota.amount
            ):
                return False
            for count in counts:
                if not count.pending:
                    self._dirty.add(count)
                count.pending += 1
        if self._thread is None:
            self._start()
        return True

    def turn(self, identity: Identity, now: int) -> None:
        """Begin the new month in the counts of a key, if there is one, without counting."""
        if now >= self._month_ends or identity.quota_count.month != self._month:
            with self._lock:
                self._turn_identity(identity, now)

    def _turn_identity(self, identity: Identity, now: int) -> None:
        self._turn_month(now)
        for count in {identity.quota_count, *identity.counts}:
            self._turn(count)

    def take_back(self, identity: Identity, counted_at: int) -> None:
        """Uncount one request that was refused later."""
        month = month_of(counted_at)
        with self._lock:
            for count in identity.counts:
                if count.month == month:
                    count.pending -= 1
                    self._dirty.add(count)
                else:
                    self._late[count.subject, month] -= 1

    def used(self, key_id: str, now: int) -> None:
        """Have the key's `last_used_at` written with the next flush."""
        with self._lock:
            self._used[key_id] = now
        if self._thread is None:
            self._start()

    def _turn_month(self, now: int) -> None:
        if now >= self._month_ends:
            self._month = month_of(now)
            self._month_ends = month_bounds(now)[1]

    def _turn(self, count: Count) -> None:
        """Begin the new month in a count; what is left of the old one is flushed under its name."""
        if count.month == self._month:
            return
        if count.pending:
            self._late[count.subject, count.month] += count.pending
        count.month = self._month
        count.pending = count.stored = count.flushing = 0

    # --- flushing ---

    def flush(self) -> None:
        """Write what is pending; what can't be written stays pending and is logged."""
        with self._flush_lock:
            with self._lock:
                counts = self._dirty
                increments, self._late = self._late, Counter()
                used, self._used = self._used, {}
                self._dirty = set()
                for count in counts:
                    if count.pending:
                        increments[count.subject, count.month] += count.pending
                        count.flushing, count.pending = count.pending, 0
            try:
                totals = self._store.add_usage(increments) if increments else {}
            except Exception as error:
                if not self._failing:
                    log_fault("usage can't be written; it is kept and tried again", error)
                self._failing = True
                with self._lock:
                    self._put_back(counts, increments)
            else:
                self._failing = False
                with self._lock:
                    self._flushes += 1
                    for count in counts:
                        count.stored = totals.get((count.subject, count.month), count.stored)
                        count.flushing = 0
            if used:
                try:
                    self._store.touch(used)
                except Exception as error:
                    log_fault("last_used_at can't be written", error)

    def _put_back(self, counts: Iterable[Count], increments: dict[tuple[str, str], int]) -> None:
        for count in counts:
            count.pending += increments.pop((count.subject, count.month), 0)
            count.flushing = 0
            self._dirty.add(count)
        self._late.update(increments)  # what is left is of a month that has ended meanwhile

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._stop,), name="keyrush-usage", daemon=True
                )
                self._thread.start()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(FLUSH_INTERVAL):
            self.flush()

    def close(self) -> None:
        """Stop the thread and write the rest."""
        with self._lock:
            thread, self._thread = self._thread, None
            stop, self._stop = self._stop, threading.Event()
        stop.set()
        if thread is not None:
            thread.join()
        self.flush()
