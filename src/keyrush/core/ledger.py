"""Credits of an account as a ledger: entries that are only ever added, and what they come to.

Here is the arithmetic, once: what a charge takes from, what a reversal gives back, what has expired
and what a month brings. Values in, values out; stores keep them. `sql/functions.sql` restates the
charge for PostgreSQL, and a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, NamedTuple, TypeVar

from keyrush.core.activity import Source as Door
from keyrush.core.model import MonthlyCredits
from keyrush.core.times import month_bounds, month_of

#: Why a balance has changed. A `reversal` gives back what a `charge` took, a `refill` is what a
#: plan gives each month, and an `expiry` takes what was to be used by then.
Reason = Literal["grant", "top_up", "charge", "reversal", "refill", "expiry", "adjustment"]

#: By which door a change came: the caller's (contract O20), `operator` for the command line and
#: code, `system` for what comes with time.
Source = Literal[Door, "operator", "system"]

#: What an account began with, before there was a ledger: the reference of that entry.
OPENING = "opening"

#: What the reference of a month's refill begins with, and that of a charge. Nobody else may give
#: such a one: an entry that had it before would stand in their place.
REFILL = "refill:"
CHARGE = "charge:"


@dataclass(frozen=True, slots=True)
class By:
    """Who an entry is of, and for what. `credential_id` is a key's, or that of the link that a
    token stands for; `subject` is whom the token's issuer knows; `rule` is the template of the
    rule's path, or the tool's name.
    """

    source: Source = "operator"
    credential_id: str | None = None
    subject: str | None = None
    rule: str | None = None
    request_id: str | None = None


OPERATOR = By()
SYSTEM = By("system")


@dataclass(frozen=True, slots=True)
class Entry:
    """One change of an account's balance, in credits; it is never changed itself.

    `number` counts the account's entries from 1, without a gap. A `reference` is of one entry of
    the account; `reverses` is the reference of the charge that a reversal gives back. What a grant
    brings can be used before `expires_at`, Unix milliseconds. `taken` says how much of which
    such grants, by their number, this has taken.

    An entry of 0 credits keeps a charge from being made that was reversed before it came.
    """

    account_id: str
    number: int
    at: int  #: Unix milliseconds
    amount: int  #: negative where credits went
    balance: int  #: after it
    reason: Reason
    reference: str | None = None
    reverses: str | None = None
    by: By = OPERATOR
    note: str | None = None
    expires_at: int | None = None
    taken: tuple[tuple[int, int], ...] = ()


class EntryWhere(NamedTuple):
    """Which entries are meant: all of one account that agree with what is given. One of several
    reasons, or sources, is enough; none stands for any.
    """

    reasons: tuple[Reason, ...] = ()
    sources: tuple[Source, ...] = ()
    since: int | None = None  #: from then on, Unix milliseconds
    until: int | None = None  #: before then


ALL_ENTRIES = EntryWhere()


@dataclass(frozen=True, slots=True)
class Posting:
    """An entry to be made: see `Entry`."""

    amount: int
    reason: Reason
    at: int
    reference: str | None = None
    note: str | None = None
    expires_at: int | None = None
    by: By = OPERATOR


class Lot(NamedTuple):
    """What is left of a grant that expires."""

    expires_at: int
    number: int  #: of its entry
    remaining: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What an account's entries have come to. `lots` are in the order in which they are spent, and
    together no more than the balance; the rest of it does not expire.
    """

    account_id: str
    balance: int = 0
    last: int = 0  #: number of the last entry
    refilled: str = ""  #: the last month that was given its credits, as `"2026-11"`
    lots: tuple[Lot, ...] = ()

    @property
    def next_expiry(self) -> int | None:
        """When something has to be done of itself; None where nothing expires."""
        return self.lots[0].expires_at if self.lots else None


@dataclass(frozen=True, slots=True)
class Refill:
    """What a plan gives an account in a month; it is used until `ends_at`, or stays for good."""

    month: str
    amount: int
    ends_at: int | None = None


class EntryPlace(NamedTuple):
    """Where among all entries one stands: by account, and there by number."""

    account_id: str
    number: int


class Discrepancy(NamedTuple):
    """Where a ledger does not add up: at an entry, or with `number` None at the account itself."""

    account_id: str
    number: int | None
    what: str  #: in a sentence


T = TypeVar("T")


class Audited(NamedTuple, Generic[T]):
    """What a look at some entries or accounts has come to."""

    wrong: Sequence[Discrepancy]
    seen: int  #: of how many
    last: T | None  #: where the next look begins; None where there is no more


#: What can be wrong.
NOT_CARRIED = "the balance after it is not that of the entry before it and its amount"
NOT_ITS_SUM = "the balance is not the sum of its entries"
MORE_LOTS = "what is left of grants that expire is more than the balance"
WRONG_EXPIRY = "what expires next is not the grant that does"

#: What can be wrong with an account, beside its entries.
OF_ACCOUNTS = (NOT_ITS_SUM, MORE_LOTS, WRONG_EXPIRY)


class Posted(NamedTuple):
    """How an account stands after `entries`, which are new."""

    standing: Standing
    entries: tuple[Entry, ...] = ()


def refill_of(monthly: MonthlyCredits | None, now: int) -> Refill | None:
    """What is due in the month of `now`, once."""
    if monthly is None:
        return None
    ends_at = month_bounds(now)[1] if monthly.mode == "replace" else None
    return Refill(month_of(now), monthly.amount, ends_at)


def is_due(standing: Standing, at: int, refill: Refill | None) -> bool:
    """Whether `settle` would change anything."""
    expiry = standing.next_expiry
    is_expiring = expiry is not None and expiry <= at
    return is_expiring or (refill is not None and standing.refilled < refill.month)


def settle(standing: Standing, at: int, refill: Refill | None = None) -> Posted:
    """With what time brings: what has expired by `at` is taken, then the month's refill given."""
    entries: list[Entry] = []
    for lot in standing.lots:
        if lot.expires_at > at:
            break
        standing = replace(standing, lots=standing.lots[1:])
        if lot.remaining:
            standing, entry = _post(standing, Posting(-lot.remaining, "expiry", at, by=SYSTEM))
            entries.append(entry)
    if refill is not None and standing.refilled < refill.month:
        standing = replace(standing, refilled=refill.month)
        reference = f"{REFILL}{refill.month}"
        posting = Posting(refill.amount, "refill", at, reference, None, refill.ends_at, SYSTEM)
        standing, entry = _post(standing, posting)
        entries.append(entry)
    return Posted(standing, tuple(entries))


def post(standing: Standing, posting: Posting) -> Posted | None:
    """With an entry more; None where the balance would be negative. What it takes comes from what
    expires first.
    """
    if standing.balance + posting.amount < 0:
        return None
    lots, taken = _spent(standing.lots, -posting.amount)
    standing, entry = _post(replace(standing, lots=lots), posting, taken=taken)
    return Posted(standing, (entry,))


def give_back(standing: Standing, charge: Entry, at: int, credits: int | None = None) -> Posted:
    """With a charge reversed, all of it or no more than `credits`: as if it had taken so much
    less. What it took of grants that have expired since, expires at once.
    """
    amount = -charge.amount if credits is None else min(credits, -charge.amount)
    lots, expired = _restored(standing.lots, charge, amount)
    posting = Posting(amount, "reversal", at, by=charge.by)
    standing, entry = _post(replace(standing, lots=lots), posting, reverses=charge.reference)
    entries = [entry]
    for credits_of_one in expired:
        standing, entry = _post(standing, Posting(-credits_of_one, "expiry", at, by=SYSTEM))
        entries.append(entry)
    return Posted(standing, tuple(entries))


def forbid(standing: Standing, reference: str, at: int) -> Posted:
    """With an entry of nothing, by which a charge of this reference takes nothing later."""
    standing, entry = _post(standing, Posting(0, "reversal", at, by=SYSTEM), reverses=reference)
    return Posted(standing, (entry,))


def _post(
    standing: Standing,
    posting: Posting,
    *,
    reverses: str | None = None,
    taken: tuple[tuple[int, int], ...] = (),
) -> tuple[Standing, Entry]:
    """The entry, and how the account stands after it; what it takes has left the lots already."""
    entry = Entry(
        standing.account_id,
        standing.last + 1,
        posting.at,
        posting.amount,
        standing.balance + posting.amount,
        posting.reason,
        posting.reference,
        reverses,
        posting.by,
        posting.note,
        posting.expires_at,
        taken,
    )
    lots = standing.lots
    if posting.expires_at is not None:
        lots = tuple(sorted((*lots, Lot(posting.expires_at, entry.number, posting.amount))))
    return replace(standing, balance=entry.balance, last=entry.number, lots=lots), entry


def _spent(
    lots: Sequence[Lot], credits: int
) -> tuple[tuple[Lot, ...], tuple[tuple[int, int], ...]]:
    """The lots after so many credits were taken, and what of which was taken."""
    left: list[Lot] = []
    taken: list[tuple[int, int]] = []
    for lot in lots:
        part = max(0, min(lot.remaining, credits))
        credits -= part
        left.append(lot._replace(remaining=lot.remaining - part))
        if part:
            taken.append((lot.number, part))
    return tuple(left), tuple(taken)


def _restored(
    lots: Sequence[Lot], charge: Entry, credits: int
) -> tuple[tuple[Lot, ...], Sequence[int]]:
    """The lots with so much of a charge given back, and what of it has expired, grant by grant.

    What was taken last comes back first: before all grants, what does not expire.
    """
    credits -= -charge.amount - sum(part for _, part in charge.taken)
    open_lots = {lot.number: lot for lot in lots}
    expired: list[int] = []
    for number, taken in reversed(charge.taken):
        part = max(0, min(taken, credits))
        credits -= part
        if lot := open_lots.get(number):
            open_lots[number] = lot._replace(remaining=lot.remaining + part)
        elif part:
            expired.append(part)
    return tuple(open_lots.values()), expired
