"""The store in this process's memory: for tests, and for apps that make their keys themselves."""

from __future__ import annotations

import heapq
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from keyrush.core.activity import Activity, DayOfKey, Group, Span, Total, Where
from keyrush.core.identity import Found, FoundLink, account_subject, key_subject
from keyrush.core.key_search import Outline, outline_of
from keyrush.core.ledger import (
    ALL_ENTRIES,
    OPERATOR,
    Audited,
    By,
    Entry,
    EntryPlace,
    EntryWhere,
    Lot,
    Posting,
    Refill,
)
from keyrush.core.model import Account, ApiKey, Limit, Link, Override
from keyrush.core.paging import DEFAULT_LIMIT, Place, place_of
from keyrush.runtime.forks import after_fork
from keyrush.store.activity_in_memory import ActivityInMemory
from keyrush.store.bindings_in_memory import Bindings
from keyrush.store.decisions import (
    KeyCount,
    LinkOutcome,
    Outcome,
    Revocation,
    is_trusted,
    judge_caller,
    judge_room,
    judge_rotation,
    judge_session,
    may_be_replaced,
)
from keyrush.store.edits import (
    Edit,
    KeyEvent,
    edited,
    event_of,
    judge_all_made,
    judge_edit,
    judge_made,
    revocation,
    rotation,
)
from keyrush.store.memory_events import MemoryEvents
from keyrush.store.memory_ledger import MemoryLedger
from keyrush.store.memory_links import MemoryLinks
from keyrush.store.portal_in_memory import PortalInMemory
from keyrush.store.protocol import Batch, Proved

T = TypeVar("T", Account, ApiKey)


class MemoryStore(PortalInMemory):
    """`memory://`. Thread-safe; gone with the process."""

    #: Its keys outlive no pepper, so that a random one will do.
    is_ephemeral = True

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._accounts: dict[str, Account] = {}
        self._keys: dict[str, ApiKey] = {}
        self._by_fingerprint: dict[str, str] = {}
        self._events = MemoryEvents()
        self._links = MemoryLinks()
        self._usage: dict[tuple[str, str], int] = {}
        self._batches: dict[str, int] = {}
        self._ledger = MemoryLedger()
        self._bindings = Bindings()
        self._activity = ActivityInMemory()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def find(self, fingerprints: Sequence[str], month: str) -> Found | None:
        with self._lock:
            for fingerprint in fingerprints:
                if key_id := self._by_fingerprint.get(fingerprint):
                    key = self._keys[key_id]
                    return Found(
                        key,
                        self._account(key.account_id),
                        self._usage.get((key_subject(key.lineage), month), 0),
                        self._usage.get((account_subject(key.account_id), month), 0),
                    )
        return None

    def bind(self, name: str, account_id: str, now: int, ends_at: int) -> str:
        return self._bindings.bind(name, account_id, now, ends_at)

    def bound(self, name: str, now: int) -> str | None:
        return self._bindings.bound(name, now)

    def add_account(self, account: Account) -> bool:
        with self._lock:
            if account.id in self._accounts:
                return False
            self._open(account)
            return True

    def _open(self, account: Account) -> None:
        self._accounts[account.id] = account
        self._ledger.open(account.id, account.balance, account.created_at)

    def account(self, account_id: str) -> Account | None:
        with self._lock:
            return self._account(account_id) if account_id in self._accounts else None

    def _account(self, account_id: str) -> Account:
        """The account, with the balance that the ledger has left it."""
        return replace(self._accounts[account_id], balance=self._ledger.balance_of(account_id))

    def accounts(self, limit: int = DEFAULT_LIMIT, after: Place | None = None) -> Sequence[Account]:
        with self._lock:
            found = [self._account(account_id) for account_id in self._accounts]
        return _page(found, limit, after)

    def plans(self) -> Mapping[str, int]:
        with self._lock:
            return Counter(account.plan for account in self._accounts.values())

    def set_plan(self, account_id: str, plan: str) -> bool:
        with self._lock:
            account = self._accounts.get(account_id)
            if account is not None:
                self._accounts[account_id] = replace(account, plan=plan)
            return account is not None

    def set_account_limits(
        self, account_id: str, limits: tuple[Limit, ...] | None, until: int | None = None
    ) -> bool:
        with self._lock:
            account = self._accounts.get(account_id)
            if account is not None:
                if until is None:
                    changed = replace(account, limits=limits, override=None)
                else:
                    override = None if limits is None else Override(limits, until)
                    changed = replace(account, override=override)
                self._accounts[account_id] = changed
            return account is not None

    def charge(  # noqa: PLR0917  # one's own may be called by place alone
        self,
        account_id: str,
        credits: int,
        reference: str,
        at: int,
        by: By = OPERATOR,
        refill: Refill | None = None,
    ) -> int | None:
        with self._lock:
            return self._ledger.charge(account_id, credits, reference, at, by, refill)

    def reverse(
        self, account_id: str, reference: str, at: int, credits: int | None = None
    ) -> int | None:
        with self._lock:
            return self._ledger.reverse(account_id, reference, at, credits)

    def post(self, account_id: str, posting: Posting, refill: Refill | None = None) -> Entry | None:
        with self._lock:
            return self._ledger.post(account_id, posting, refill)

    def balance(self, account_id: str, at: int, refill: Refill | None = None) -> int | None:
        with self._lock:
            standing = self._ledger.settle(account_id, at, refill)
            return None if standing is None else standing.balance

    def lots(self, account_id: str) -> Sequence[Lot]:
        with self._lock:
            return self._ledger.lots_of(account_id)

    def entries(
        self,
        account_id: str,
        where: EntryWhere = ALL_ENTRIES,
        limit: int = DEFAULT_LIMIT,
        before: int | None = None,
    ) -> Sequence[Entry]:
        with self._lock:
            return self._ledger.entries(account_id, where, limit, before)

    def audit_entries(self, after: EntryPlace | None, limit: int) -> Audited[EntryPlace]:
        with self._lock:
            return self._ledger.audit_entries(after, limit)

    def audit_balances(self, after: str | None, limit: int) -> Audited[str]:
        with self._lock:
            return self._ledger.audit_balances(after, limit)

    def add_keys(
        self,
        added: Sequence[ApiKey],
        max_keys: int | None = None,
        issued_at: int | None = None,
    ) -> Outcome:
        if not added:
            return "done"
        key = added[-1]
        with self._lock:
            if key.account_id not in self._accounts:
                return "gone"
            outcome = self._judge_caller(key.created_by, key.account_id, key.created_at, issued_at)
            if outcome == "done":
                maker = self._keys.get(key.created_by or "")
                outcome = judge_all_made(maker, added)
            if outcome == "done":
                there = self._count(key.account_id, key.created_at)
                outcome = judge_room(there, max_keys, len(added))
            if outcome == "done":
                for one in added:
                    self._put(one)
            return outcome

    def _judge_caller(
        self, by: str | None, account_id: str, now: int, issued_at: int | None
    ) -> Outcome:
        if by is None or is_trusted(by):
            return "done"
        if by in self._links.by_id:
            return judge_session(self._links.by_id[by], account_id, issued_at)
        return judge_caller(self._keys.get(by), account_id, now)

    def _count(self, account_id: str, now: int) -> KeyCount:
        active = [
            key.retires_at
            for key in self._keys.values()
            if key.account_id == account_id and key.is_active(now)
        ]
        staying = active.count(None)
        return KeyCount(staying, len(active) - staying)

    def _put(self, key: ApiKey) -> None:
        self._keys[key.id] = key
        self._by_fingerprint[key.fingerprint] = key.id

    def key(self, key_id: str) -> ApiKey | None:
        return self._keys.get(key_id)

    def keys(
        self,
        account_id: str | None = None,
        limit: int = DEFAULT_LIMIT,
        after: Place | None = None,
    ) -> Sequence[ApiKey]:
        with self._lock:
            found = [key for key in self._keys.values() if account_id in {None, key.account_id}]
        return _page(found, limit, after)

    def active_keys(self, account_id: str, now: int) -> KeyCount:
        with self._lock:
            return self._count(account_id, now)

    def revoke(
        self,
        key_id: str,
        at: int,
        descendants: bool = False,
        by: str | None = None,
        issued_at: int | None = None,
    ) -> Revocation:
        with self._lock:
            key = self._keys.get(key_id)
            if key is None:
                return Revocation("gone")
            outcome = self._judge_caller(by, key.account_id, at, issued_at)
            if outcome == "caller_retires" and by == key_id and not descendants:
                outcome = "done"  # itself it may revoke
            if outcome != "done":
                return Revocation(outcome)
            others = [other for other in self._made_by(key) if other.revoked_at is None]
            chosen = sorted(others, key=place_of) if descendants else []
            for other in (key, *chosen):
                if other.revoked_at is None:
                    self._keys[other.id] = replace(other, revoked_at=at)
                    self._events.add(other.id, revocation(at, by))
            return Revocation("done", [key_id, *(other.id for other in chosen)])

    def _made_by(self, key: ApiKey) -> list[ApiKey]:
        """What a key has made, directly or not."""
        children: defaultdict[str | None, list[ApiKey]] = defaultdict(list)
        for other in self._keys.values():
            if other.account_id == key.account_id:
                children[other.created_by].append(other)
        found: list[ApiKey] = []
        makers = [key]
        while makers:
            made = children.pop(makers.pop().id, [])
            found += made
            makers += made
        return found

    def replace(  # noqa: PLR0917  # one's own may be called by place alone
        self,
        key_id: str,
        successor: ApiKey,
        retires_at: int,
        max_keys: int | None = None,
        by: str | None = None,
        issued_at: int | None = None,
    ) -> Outcome:
        account_id, now = successor.account_id, successor.created_at
        with self._lock:
            outcome = self._judge_caller(by, account_id, now, issued_at)
            if outcome != "done":
                return outcome
            key = self._keys.get(key_id)
            if key is None or not may_be_replaced(key, successor):
                return "gone"
            outcome = judge_made(self._keys.get(by or ""), successor)
            if outcome != "done":
                return outcome
            ends_one = key.is_active(now) and retires_at <= now
            outcome = judge_rotation(self._count(account_id, now), max_keys, ends_one=ends_one)
            if outcome == "done":
                self._keys[key_id] = replace(key, retires_at=retires_at)
                self._put(successor)
                replaced, created = rotation(key_id, successor, retires_at, by)
                self._events.add(key_id, replaced)
                self._events.add(successor.id, created)
            return outcome

    def edit_key(self, key_id: str, edit: Edit) -> Outcome:
        with self._lock:
            key = self._keys.get(key_id)
            if key is None:
                return "gone"
            outcome = self._judge_caller(edit.by, key.account_id, edit.at, edit.issued_at)
            if outcome == "done":
                outcome = judge_edit(self._keys.get(edit.by or ""), key, edit)
            if outcome == "done":
                self._keys[key_id] = edited(key, edit)
                if event := event_of(key, self._keys[key_id], edit):
                    self._events.add(key_id, event)
            return outcome

    def key_events(self, key_id: str) -> Sequence[KeyEvent]:
        with self._lock:
            return self._events.of(key_id)

    def outlines(
        self, account_id: str, limit: int, among: Sequence[str] | None = None
    ) -> Sequence[Outline]:
        with self._lock:
            if among is None:
                known = list(self._keys.values())
            else:
                known = [self._keys[one] for one in {*among} if one in self._keys]
        found = [key for key in known if key.account_id == account_id]
        return [outline_of(key) for key in heapq.nlargest(limit, found, key=place_of)]

    def set_key_limits(self, key_id: str, limits: tuple[Limit, ...] | None) -> bool:
        with self._lock:
            key = self._keys.get(key_id)
            if key is not None:
                self._keys[key_id] = replace(key, limits=limits)
            return key is not None

    def refingerprint(
        self, key_id: str, fingerprint: str, pepper_id: str, proof: str | None
    ) -> None:
        with self._lock:
            key = self._keys.get(key_id)
            if key is not None:
                del self._by_fingerprint[key.fingerprint]
                moved = replace(key, fingerprint=fingerprint, pepper_id=pepper_id, proof=proof)
                self._put(moved)

    def record_proofs(self, proofs: Sequence[Proved]) -> None:
        with self._lock:
            for proved in proofs:
                key = self._keys.get(proved.key_id)
                if key is not None and key.hash == proved.hash:
                    self._keys[key.id] = replace(key, proof=proved.proof)

    def find_link(self, issuer: str, subject: str, month: str) -> FoundLink | None:
        with self._lock:
            link = self._links.find(issuer, subject)
            if link is None:
                return None
            return FoundLink(
                link,
                self._account(link.account_id),
                self._usage.get((key_subject(link.id), month), 0),
                self._usage.get((account_subject(link.account_id), month), 0),
            )

    def add_link(
        self, link: Link, account: Account | None = None, at_most: int | None = None
    ) -> LinkOutcome:
        with self._lock:
            if account is None and link.account_id not in self._accounts:
                return "gone"
            outcome = self._links.add(link, at_most, is_new=account is not None)
            if outcome == "done" and account is not None:
                self._open(account)
            return outcome

    def link(self, link_id: str) -> Link | None:
        return self._links.by_id.get(link_id)

    def links(self, account_id: str | None = None, subject: str | None = None) -> Sequence[Link]:
        with self._lock:
            return self._links.listed(account_id, subject)

    def end_link(self, link_id: str, at: int) -> bool:
        with self._lock:
            return self._links.end(link_id, at)

    def revoke_sessions(self, link_id: str, before: int) -> bool:
        with self._lock:
            return self._links.revoke(link_id, before)

    def add_usage(
        self,
        month: str,
        increments: Mapping[str, int],
        batch: Batch | None = None,
        used: Mapping[str, int] | None = None,
    ) -> Mapping[str, int]:
        with self._lock:
            if batch is None or self._is_new(batch):
                for subject, increment in increments.items():
                    at = subject, month
                    self._usage[at] = self._usage.get(at, 0) + increment
            for key_id, used_at in (used or {}).items():
                key = self._keys.get(key_id)
                if key is not None and (key.last_used_at or 0) < used_at:
                    self._keys[key_id] = replace(key, last_used_at=used_at)
            return {subject: self._usage.get((subject, month), 0) for subject in increments}

    def _is_new(self, batch: Batch) -> bool:
        is_new = self._batches.get(batch.worker, 0) < batch.number
        if is_new:
            self._batches[batch.worker] = batch.number
        return is_new

    def add_activity(self, rows: Sequence[Activity], batch: Batch | None = None) -> None:
        self._activity.add_activity(rows, batch)

    def activity(
        self, account_id: str, where: Where, limit: int = DEFAULT_LIMIT, after: Place | None = None
    ) -> Sequence[Activity]:
        return self._activity.activity(account_id, where, limit, after)

    def count_activity(self, account_id: str, where: Where, at_most: int) -> int:
        return self._activity.count_activity(account_id, where, at_most)

    def activity_totals(
        self,
        account_id: str,
        where: Where,
        step: int,
        group: Group | None,
        at_most: int,
        *,
        durations: bool = True,
    ) -> Sequence[Total]:
        return self._activity.activity_totals(
            account_id, where, step, group, at_most, durations=durations
        )

    def activity_ranks(
        self, account_id: str, where: Where, spans: Sequence[Span], group: Group, at_most: int
    ) -> Sequence[tuple[str, int]]:
        return self._activity.activity_ranks(account_id, where, spans, group, at_most)

    def days_of_keys(
        self, account_id: str, key_ids: Sequence[str], since: int, until: int
    ) -> Sequence[DayOfKey]:
        return self._activity.days_of_keys(account_id, key_ids, since, until)

    def forget_activity(
        self, before_rows: int, before_minutes: int, before_hours: int, at_most: int
    ) -> int:
        return self._activity.forget_activity(before_rows, before_minutes, before_hours, at_most)

    def usage(self, subject: str, month: str) -> int:
        return self._usage.get((subject, month), 0)

    def overage(self, account_id: str, month: str, quota: int) -> int:
        with self._lock:
            lineages = {key.lineage for key in self._keys.values() if key.account_id == account_id}
            lineages |= self._links.of_account(account_id)
            counts = [self._usage.get((key_subject(lineage), month), 0) for lineage in lineages]
        return sum(max(0, counted - quota) for counted in counts)

    def peppers(self, now: int) -> Mapping[str, int]:
        with self._lock:
            return Counter(key.pepper_id for key in self._keys.values() if key.is_active(now))

    def close(self) -> None:
        """Nothing to let go of."""


def _page(found: Sequence[T], limit: int, after: Place | None) -> Sequence[T]:
    """The first `limit` after a place, in the order of their age."""
    chosen = (item for item in found if after is None or place_of(item) > after)
    return heapq.nsmallest(limit, chosen, key=place_of)
