"""Counts of requests per month, and of when keys were last used: buffered, then flushed.

A request adds to numbers in memory. What has come together is written every `FLUSH_INTERVAL` and
at a normal stop, in batches, each of which the store takes as a whole. A batch whose outcome is
unknown, because the connection was lost, is written again under its number, by which the store
knows it.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import NamedTuple
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

#: Rows of a batch. What is done for one holds up requests, which share the interpreter and the
#: lock: 0.5 ms for so many.
PORTION = 500

#: Milliseconds between two writes of one key's `last_used_at`, at most.
TOUCH_INTERVAL = 60_000


class _Portion(NamedTuple):
    """What the store takes as a whole."""

    month: str
    increments: dict[str, int]  #: by subject
    batch: Batch
    used: dict[str, int]  #: when keys were last used, Unix milliseconds, by id
    counts: list[MonthlyCount]  #: those of which the increments are


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
        #: What was dirty when a flush began, and is to be written by it.
        self._due: set[MonthlyCount] = set()
        #: Increments that are no longer, or never were, in a `MonthlyCount`: by month and subject.
        self._late: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._used: dict[str, int] = {}
        self._flushes = 0
        self._worker = process_name()
        self._number = 0  # of the last batch
        #: What is being written, or could not be.
        self._portion: _Portion | None = None
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
                and not verified.plan.is_observed
            ):
                return False
            for count in counts:
                if count.month != self._month:  # another key of the account has turned that's
                    self._turn(count)
                if not count.pending:
                    self._dirty.add(count)
                count.pending += requests
        return True

    def exceeds(self, verified: Verified) -> bool:
        """True where what is counted, with what others have, is above a quota that blocks."""
        quota = verified.plan.quota
        if quota is None or quota.on_exceed != "block" or verified.plan.is_observed:
            return False
        return verified.quota_count.total > quota.amount

    def would_exceed(self, verified: Verified) -> bool:
        """The same of a plan that is only observed, which refuses nothing."""
        plan = verified.plan
        if not plan.is_observed or not verified.counts:
            return False
        blocks = plan.quota is not None and plan.quota.on_exceed == "block"
        return blocks and plan.quota is not None and verified.quota_count.total > plan.quota.amount

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
                    self._late[month][count.subject] -= requests

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
            self._late[count.month][count.subject] += count.pending
        count.month = self._month
        count.pending = count.stored = count.flushing = 0

    @property
    def unwritten(self) -> int:
        """Requests counted and not yet written."""
        with self._lock:
            # One may be in both, where all of it has been taken back meanwhile.
            kept = self._dirty | self._due
            counts = sum(count.pending for count in kept if _is_account(count.subject))
            for rest in (*self._late.values(), self._portion.increments if self._portion else {}):
                counts += sum(rest[subject] for subject in filter(_is_account, rest))
            return counts

    # --- flushing ---

    def flush(self) -> bool:
        """Write what is pending. False where the store can't: it is kept for the next time."""
        with self._flush_lock:
            try:
                with self._lock:
                    if self._due:  # an earlier one has failed
                        self._dirty |= self._due
                    self._due, self._dirty = self._dirty, set()
                while portion := self._portion or self._gather():
                    self._write(portion)
                if not self._circuit.is_closed:  # nothing was to be written; nobody else may ask
                    self._circuit.call(self._store.usage, "", self._month)
            except Away:
                return False
            except DataError as error:
                log_fault("counts can't be written", error)
                return False
            return True

    def _gather(self) -> _Portion | None:
        """Take a portion of what is due, if anything is."""
        increments: dict[str, int] = {}
        counts: list[MonthlyCount] = []
        with self._lock:
            month = self._month
            while self._due and len(counts) < PORTION:
                count = self._due.pop()
                if count.month != month:
                    self._turn(count)
                elif count.pending:
                    increments[count.subject] = count.flushing = count.pending
                    count.pending = 0
                    counts.append(count)
            if self._late and not counts:
                month, late = next(iter(self._late.items()))
                increments = dict(_taken(late, PORTION))
                if not late:
                    del self._late[month]
            used = dict(_taken(self._used, PORTION - len(increments)))
            if not increments and not used:
                return None
            self._number += 1
            batch = Batch(self._worker, self._number)
            self._portion = _Portion(month, increments, batch, used, counts)
            return self._portion

    def _write(self, portion: _Portion) -> None:
        """Write a portion.

        Raises:
            Away: The store can't answer.
            DataError: It can't take the portion.
        """
        month, increments, batch, used, counts = portion
        totals = self._circuit.call(self._store.add_usage, month, increments, batch, used)
        with self._lock:
            self._flushes += 1
            for count in counts:
                if count.month == month:
                    count.stored = totals.get(count.subject, count.stored)
                count.flushing = 0
            self._portion = None


def _taken(items: dict[str, int], most: int) -> list[tuple[str, int]]:
    """At most so many items, which are no longer in the dictionary."""
    return [items.popitem() for _ in range(min(len(items), most))]


def _is_account(subject: str) -> bool:
    """True for one of the two rows that a request is counted in."""
    return subject.startswith(account_subject(""))
