"""The ledger of a store in memory, under the store's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain, islice

from keyrush.core import ledger
from keyrush.core.ledger import (
    Audited,
    By,
    Discrepancy,
    Entry,
    EntryPlace,
    EntryWhere,
    Lot,
    Posting,
    Refill,
    Standing,
)

#: Entries that are kept, of all accounts together: of more, the oldest go.
KEPT = 100_000


class MemoryLedger:
    """How each account stands, and its last entries. Not thread-safe by itself."""

    def __init__(self) -> None:
        self._standings: dict[str, Standing] = {}
        self._entries: dict[str, deque[Entry]] = {}
        self._ages: deque[Entry] = deque()  # all of them, oldest first
        self._by_reference: dict[tuple[str, str], Entry] = {}
        self._reversals: dict[tuple[str, str], Entry] = {}

    def open(self, account_id: str, balance: int, at: int) -> None:
        """Begin the ledger of a new account."""
        self._standings[account_id] = Standing(account_id)
        self._entries[account_id] = deque()
        if balance:
            posting = Posting(balance, "adjustment", at, ledger.OPENING, by=ledger.SYSTEM)
            self._keep(ledger.post(self._standings[account_id], posting))

    def balance_of(self, account_id: str) -> int:
        """The balance, as it was left."""
        return self._standings[account_id].balance

    def lots_of(self, account_id: str) -> tuple[Lot, ...]:
        """What is left of grants that expire, as it was left."""
        standing = self._standings.get(account_id)
        return () if standing is None else standing.lots

    def settle(self, account_id: str, at: int, refill: Refill | None) -> Standing | None:
        """How the account stands with what is due; None where there is none."""
        standing = self._standings.get(account_id)
        if standing is None or not ledger.is_due(standing, at, refill):
            return standing
        return self._keep(ledger.settle(standing, at, refill))

    def charge(  # noqa: PLR0917  # as the protocol has it
        self,
        account_id: str,
        credits: int,
        reference: str,
        at: int,
        by: By,
        refill: Refill | None,
    ) -> int | None:
        standing = self.settle(account_id, at, refill)
        if standing is None or not credits:
            return None if standing is None else standing.balance
        if (account_id, reference) in self._reversals:
            return None
        if (account_id, reference) in self._by_reference:
            return standing.balance
        posting = Posting(-credits, "charge", at, reference, by=by)
        charged = ledger.post(standing, posting)
        return None if charged is None else self._keep(charged).balance

    def reverse(self, account_id: str, reference: str, at: int, credits: int | None) -> int | None:
        standing = self.settle(account_id, at, None)
        if standing is None or (account_id, reference) in self._reversals:
            return None
        charge = self._by_reference.get((account_id, reference))
        if charge is None:
            self._keep(ledger.forbid(standing, reference, at))
            return None
        if charge.reason != "charge":
            return None
        return self._keep(ledger.give_back(standing, charge, at, credits)).balance

    def post(self, account_id: str, posting: Posting, refill: Refill | None) -> Entry | None:
        standing = self.settle(account_id, posting.at, refill)
        if standing is None:
            return None
        if posting.reference is not None:
            known = self._by_reference.get((account_id, posting.reference))
            if known is not None:
                return known
        posted = ledger.post(standing, posting)
        if posted is None:
            return None
        self._keep(posted)
        return posted.entries[-1]

    def entries(
        self, account_id: str, where: EntryWhere, limit: int, before: int | None
    ) -> Sequence[Entry]:
        chosen = (
            entry
            for entry in reversed(self._entries.get(account_id, ()))
            if entry.amount
            and (before is None or entry.number < before)
            and (not where.reasons or entry.reason in where.reasons)
            and (not where.sources or entry.by.source in where.sources)
            and (where.since is None or where.since <= entry.at)
            and (where.until is None or entry.at < where.until)
        )
        return list(islice(chosen, limit))

    def audit_entries(self, after: EntryPlace | None, limit: int) -> Audited[EntryPlace]:
        ids = sorted(self._entries)
        everything: Iterable[Entry] = chain.from_iterable(self._entries[one] for one in ids)
        places = {}
        for entry in everything:
            places[EntryPlace(entry.account_id, entry.number)] = entry
        chosen = [place for place in places if after is None or place > after][:limit]
        wrong = []
        for place in chosen:
            entry = places[place]
            earlier = places.get(EntryPlace(place.account_id, place.number - 1))
            carried = earlier.balance if earlier else entry.balance - entry.amount
            if place.number == 1:
                carried = 0
            if carried + entry.amount != entry.balance:
                wrong.append(Discrepancy(*place, ledger.NOT_CARRIED))
        return Audited(wrong, len(chosen), chosen[-1] if len(chosen) == limit else None)

    def audit_balances(self, after: str | None, limit: int) -> Audited[str]:
        ids = [one for one in sorted(self._standings) if after is None or one > after][:limit]
        wrong = []
        for account_id in ids:
            standing, kept = self._standings[account_id], self._entries[account_id]
            said = (
                (kept[-1].number, kept[-1].balance) if kept else (standing.last, standing.balance)
            )
            if said != (standing.last, standing.balance):
                wrong.append(Discrepancy(account_id, None, ledger.NOT_ITS_SUM))
            if sum(lot.remaining for lot in standing.lots) > standing.balance:
                wrong.append(Discrepancy(account_id, None, ledger.MORE_LOTS))
        return Audited(wrong, len(ids), ids[-1] if len(ids) == limit else None)

    def _keep(self, posted: ledger.Posted | None) -> Standing:
        assert posted is not None  # noqa: S101  # what adds is never short
        standing = self._standings[posted.standing.account_id] = posted.standing
        for entry in posted.entries:
            self._entries[entry.account_id].append(entry)
            self._ages.append(entry)
            if entry.reference is not None:
                self._by_reference[entry.account_id, entry.reference] = entry
            if entry.reverses is not None:
                self._reversals[entry.account_id, entry.reverses] = entry
        while len(self._ages) > KEPT:
            self._forget(self._ages.popleft())
        return standing

    def _forget(self, entry: Entry) -> None:
        self._entries[entry.account_id].popleft()
        if entry.reference is not None:
            del self._by_reference[entry.account_id, entry.reference]
        if entry.reverses is not None:
            del self._reversals[entry.account_id, entry.reverses]
