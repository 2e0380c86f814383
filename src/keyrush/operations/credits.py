"""The credits of accounts, and the ledger that they are the sum of."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import get_args

from keyrush.core.catalog import Catalog
from keyrush.core.checks import (
    check_instants,
    checked_change,
    checked_credits,
    checked_expiry,
    checked_note,
    checked_reference,
    refuse_keys,
)
from keyrush.core.key_text import KeyFormat
from keyrush.core.ledger import Entry, EntryWhere, Lot, Posting, Reason, Refill, Source, refill_of
from keyrush.core.paging import DEFAULT_LIMIT, Page, checked_limit
from keyrush.errors import InvalidArgument, NotFound
from keyrush.operations.audit import Checked, audit
from keyrush.operations.owners import Owned, Owners
from keyrush.store.protocol import Store

#: Why an operator adds credits; all other entries make themselves.
ADDED: tuple[Reason, ...] = ("grant", "top_up", "adjustment")

#: All reasons.
REASONS: tuple[Reason, ...] = get_args(Reason)

#: All doors by which balances change.
SOURCES: tuple[Source, ...] = get_args(Source)


class Credits(Owned):
    """The operations on credits, over a store. `changed` is told whose balance has changed."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        accounts: Owners,
        *,
        key_format: KeyFormat,
        changed: Callable[[str], None],
        clock: Callable[[], int],
    ) -> None:
        self._plans = catalog.plans
        self._store = store
        self._accounts = accounts
        self._format = key_format
        self._changed = changed
        self._clock = clock

    def grant(self, account_id: str, credits: int) -> int:
        """Add credits (contract O19); the new balance.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: `credits` is not from 1 to 1,000,000,000.
        """
        return self.add(account_id, credits).balance

    def add(
        self,
        account_id: str,
        credits: int,
        *,
        reason: Reason = "grant",
        reference: str | None = None,
        note: str | None = None,
        expires_at: int | None = None,
    ) -> Entry:
        """Add credits, or with the reason `adjustment` take some; the entry of it.

        What has a `reference` is added once: again, it gives the first entry. What has not been
        used at `expires_at`, Unix milliseconds, ends then; it is used before what does not expire.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: `credits` is not from 1 to 1,000,000,000, or for an adjustment to as
                much below 0; the balance would be negative; `reason` is none of `grant`, `top_up`
                and `adjustment`; the reference is malformed, or of an entry of other credits or
                for another reason; the note has more than 200 characters, or markup;
                `expires_at` is in the past.
        """
        given = {"reason": reason, "reference": reference, "note": note}
        refuse_keys(self._format, account=account_id, credits=credits, **given)
        if reason not in ADDED:
            raise InvalidArgument("reason", f"{reason!r} is none of {', '.join(ADDED)}")
        if reason != "adjustment" and type(credits) is int and credits < 0:
            said = f"{credits} would take some, which the reason adjustment alone may"
            raise InvalidArgument("credits", said)
        amount = (checked_change if reason == "adjustment" else checked_credits)(credits)
        if amount == 0:
            raise InvalidArgument("credits", "0 would add nothing")
        now = self._clock()
        if amount < 0 and expires_at is not None:
            raise InvalidArgument("expires_at", "what is taken does not expire")
        posting = Posting(
            amount,
            reason,
            now,
            checked_reference(reference),
            checked_note(note),
            checked_expiry(expires_at, now),
        )
        refill = self._refill(account_id, now)
        entry = self._store.post(account_id, posting, refill)
        if entry is None:
            raise InvalidArgument("credits", "the balance does not hold so many")
        if (entry.amount, entry.reason) != (amount, reason):
            raise InvalidArgument(
                "reference",
                f"{reference!r} is of an entry already: {entry.reason} of {entry.amount:,}",
            )
        self._changed(account_id)
        return entry

    def balance(self, account_id: str) -> int:
        """The account's balance, in credits, with what this month brings and without what has
        expired.

        Raises:
            NotFound: There is no such account.
        """
        now = self._clock()
        balance = self._store.balance(account_id, now, self._refill(account_id, now))
        if balance is None:
            raise NotFound(f"no account {account_id!r}")
        return balance

    def expiring(self, account_id: str) -> list[Lot]:
        """What is left of credits that expire, the soonest first; a part of the balance, and used
        before the rest of it.

        Raises:
            NotFound: There is no such account.
        """
        self.balance(account_id)  # what is due comes first
        return [lot for lot in self._store.lots(account_id) if lot.remaining]

    def ledger(
        self,
        account_id: str,
        *,
        reasons: Collection[Reason] = (),
        sources: Collection[Source] = (),
        since: int | None = None,
        until: int | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Page[Entry]:
        """The account's entries, newest first, a page of `limit` at a time; `cursor` is that of
        the page before. They are of all reasons and sources, or of some, from `since` on and before
        `until`, Unix milliseconds.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: A reason, a source or a time is none, the limit not from 1 to 100, or
                the cursor none of a page.
        """
        refuse_keys(self._format, account=account_id, limit=limit, cursor=cursor)
        self._check("reason", reasons, REASONS)
        self._check("source", sources, SOURCES)
        check_instants(since=since, until=until)
        where = EntryWhere(
            tuple(dict.fromkeys(reasons)), tuple(dict.fromkeys(sources)), since, until
        )
        before = _number(cursor)
        checked_limit(limit)
        if before is None:
            self.balance(account_id)  # what is due comes first
        else:
            self._accounts.get(account_id)
        found = self._store.entries(account_id, where, limit + 1, before)
        items = tuple(found[:limit])
        return Page(items, str(items[-1].number) if len(found) > limit else None)

    def _check(self, field: str, given: Collection[str], known: Collection[str]) -> None:
        if isinstance(given, str):
            raise InvalidArgument(field, "must be a list")
        for one in given:
            refuse_keys(self._format, **{field: one})
            if one not in known:
                raise InvalidArgument(field, f"{one!r} is none of {', '.join(known)}")

    def check(self, *, at_most: int | None = None) -> Checked:
        """Prove for all accounts that each balance is the sum of its entries, or say where not:
        that each entry carries on from the one before it, without a gap, and the last one's
        balance is the account's. Up to `at_most` entries and as many accounts, else all; a
        portion at a time, so that nobody waits for it.

        Raises:
            InvalidArgument: `at_most` is no whole number from 1.
        """
        refuse_keys(self._format, at_most=at_most)
        if at_most is not None and (type(at_most) is not int or at_most < 1):
            raise InvalidArgument("at_most", f"{at_most!r} is no whole number from 1")
        return audit(self._store, at_most=at_most)

    def _refill(self, account_id: str, now: int) -> Refill | None:
        """What the account's plan gives this month.

        Raises:
            NotFound: There is no such account.
        """
        plan = self._plans.get(self._accounts.get(account_id).plan)
        return None if plan is None else refill_of(plan.credits_per_month, now)


def _number(cursor: str | None) -> int | None:
    """The number that a cursor names; None, the beginning, for None.

    Raises:
        InvalidArgument: It is none that a page has given.
    """
    if cursor is None:
        return None
    is_number = isinstance(cursor, str) and cursor.isascii() and cursor.isdecimal()
    if not is_number or not len(cursor) <= _DIGITS or cursor.startswith("0"):
        raise InvalidArgument("cursor", "is none that a list has given")
    return int(cursor)


#: Of a number that every database can hold.
_DIGITS = 18
