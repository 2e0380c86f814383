"""Counts of requests per month, and of when keys were last used: buffered, then flushed.

A request adds to numbers in memory. What has come together is written in batches of increments,
every `FLUSH_INTERVAL` and at a normal stop. A batch whose outcome is unknown, because the
connection was lost, is written again under its number, by which the store knows it.
"""

from __future__ import annotations

import threading
from collections import Counter
from weakref import WeakValueDictionary

from keyrush.core.identity import MonthlyCount, Verified, account_subject
from keyrush.core.times import month_bounds, month_of
from keyrush.errors import Away, DataError
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.forks import after_fork, process_name
from keyrush.runtime.logs import log_fault
from keyrush.store.protocol import Batch, Store

#: Seconds between flushes: what a crash may lose.
FLUSH_INTERVAL = 1.0

#: Milliseconds between two writes of one key's `last_used_at`.
TOUCH_INTERVAL = 60_000


class MonthlyCounts:
    """The counts of this process. Safe to call from any thread."""

    def __init__(self, store: Store, circuit: Circuit) -> None:
        self._store = store
        self._circuit = circuit
        self._counts: WeakValueDictionary[str, MonthlyCount] = WeakValueDictionary()
        self._month = ""
        self._month_ends = 0
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """As in a new process: in a forked child, what is pending is the parent's to write."""
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._dirty: set[MonthlyCount] = set()
        #: Increments by subject and month that are no longer, or never were, in a `MonthlyCount`.
        self._late: Counter[tuple[str, str]] = Counter()
        self._used: dict[str, int] = {}
        self._flushes = 0
        self._worker = process_name()
        self._number = 0  # of the last batch
        #: The batch that is being written, or could not be.
        self._batch: Counter[tuple[str, str]] = Counter()
        self._flushed: set[MonthlyCount] = set()  # those with increments in it
        for count in list(self._counts.values()):
            count.pending = count.flushing = 0

    # --- reading the store's totals ---

    @property
    def flushes(self) -> int:
        """A mark to take before reading totals from the store, for `counts_of`."""
        return self._flushes

    def counts_of(
        self, subjects: tuple[str, str], totals: tuple[int, int], mark: int, now: int
    ) -> tuple[MonthlyCount, MonthlyCount]:
        """The counts of a credential and its account, brought up to totals just read from the
        store.

        `mark` is `flushes` from before the read: totals that a flush has overtaken are
        passed over, because what was flushed would count twice.
        """
        with self._lock:
            self._turn_month(now)
            known: tuple[int, int] | tuple[None, None] = totals
            if month_of(now) != self._month:  # read before the month turned
                known = None, None
            return (
                self._loaded(subjects[0], known[0], mark),
                self._loaded(subjects[1], known[1], mark),
            )

    def _loaded(self, subject: str, total: int | None, mark: int) -> MonthlyCount:
        count = self._counts.get(subject)
        overtaken = False
        if count is None:
            count = self._counts[subject] = MonthlyCount(subject, self._month)
        else:
            self._turn(count)
            overtaken = mark != self._flushes or count.flushing != 0
        if total is not None and not overtaken:
            count.stored = total
        return count

    # --- counting ---

    def add(self, verified: Verified, now: int, requests: int = 1) -> bool:
        """Count a request, or several; False, and nothing counted, where the quota blocks it.

        Keys that are not metered are not counted (contract R2).
        """
        counts = verified.counts
        with self._lock:
            if now >= self._month_ends or verified.quota_count.month != self._month:
                self._turn_counts_of(verified, now)
            if not counts:
                return True
            quota = verified.plan.quota
            if (
                quota is not None
                and quota.on_exceed == "block"
                and verified.quota_count.total + requests > quota.amount
            ):
                return False
            for count in counts:
                if not count.pending:
                    self._dirty.add(count)
                count.pending += requests
        return True

    def exceeds(self, verified: Verified) -> bool:
        """True where what is counted, with what others have, is above a quota that blocks."""
        quota = verified.plan.quota
        if quota is None or quota.on_exceed != "block":
            return False
        return verified.quota_count.total > quota.amount

    def start_month(self, verified: Verified, now: int) -> None:
        """Begin the new month in the counts of a key, if there is one, without counting."""
        if now >= self._month_ends or verified.quota_count.month != self._month:
            with self._lock:
                self._turn_counts_of(verified, now)

    def _turn_counts_of(self, verified: Verified, now: int) -> None:
        self._turn_month(now)
        for count in {verified.quota_count, *verified.counts}:
            self._turn(count)

    def take_back(self, verified: Verified, counted_at: int, requests: int = 1) -> None:
        """Uncount what was refused later."""
        month = month_of(counted_at)
        with self._lock:
            for count in verified.counts:
                if count.month == month:
                    count.pending -= requests
                    self._dirty.add(count)
                else:
                    self._late[count.subject, month] -= requests

    def note_use(self, key_id: str, now: int) -> None:
        """Have the key's `last_used_at` written with the next flush."""
        with self._lock:
            self._used[key_id] = now

    def _turn_month(self, now: int) -> None:
        if now >= self._month_ends:
            self._month = month_of(now)
            self._month_ends = month_bounds(now)[1]

    def _turn(self, count: MonthlyCount) -> None:
        """Begin the new month in a count; what is left of the old one is flushed under its name."""
        if count.month == self._month:
            return
        if count.pending:
            self._late[count.subject, count.month] += count.pending
        count.month = self._month
        count.pending = count.stored = count.flushing = 0

    @property
    def unwritten(self) -> int:
        """Requests counted and not yet written."""
        with self._lock:
            counts = sum(count.pending for count in self._dirty if _is_account(count.subject))
            rest = (*self._batch.items(), *self._late.items())
            return counts + sum(units for (subject, _), units in rest if _is_account(subject))

    # --- flushing ---

    def flush(self) -> bool:
        """Write what is pending. False where the store can't: it is kept for the next time."""
        with self._flush_lock:
            try:
                if self._batch:
                    self._write()
                if self._gather():
                    self._write()
                with self._lock:
                    used, self._used = self._used, {}
                if used:
                    self._touch(used)
                if not self._circuit.is_closed:  # nothing was to be written; nobody else may ask
                    self._circuit.call(self._store.usage, "", self._month)
            except Away:
                return False
            except DataError as error:
                log_fault("counts can't be written", error)
                return False
            return True

    def _touch(self, used: dict[str, int]) -> None:
        try:
            self._circuit.call(self._store.touch, used)
        except Away:
            with self._lock:
                self._used = used | self._used
            raise

    def _gather(self) -> bool:
        """Make a batch of what is pending; False where nothing is."""
        with self._lock:
            self._batch, self._late = self._late, Counter()
            self._flushed, self._dirty = self._dirty, set()
            for count in self._flushed:
                if count.pending:
                    self._batch[count.subject, count.month] += count.pending
                    count.flushing, count.pending = count.pending, 0
            self._number += bool(self._batch)
            return bool(self._batch)

    def _write(self) -> None:
        """Write the batch.

        Raises:
            Away: The store can't answer.
        """
        batch = Batch(self._worker, self._number)
        totals = self._circuit.call(self._store.add_usage, self._batch, batch)
        with self._lock:
            self._flushes += 1
            for count in self._flushed:
                count.stored = totals.get((count.subject, count.month), count.stored)
                count.flushing = 0
            self._batch, self._flushed = Counter(), set()


def _is_account(subject: str) -> bool:
    """True for one of the two rows that a request is counted in."""
    return subject.startswith(account_subject(""))
