"""The arithmetic of ledgers: what is spent first, what comes back, what ends."""

from __future__ import annotations

from keyrush.core import ledger
from keyrush.core.ledger import Entry, Lot, Posting, Refill, Standing, refill_of
from keyrush.core.model import MonthlyCredits
from tests.support.values import MONTH, NOW

END_OF_MONTH = 1_796_083_200_000  # Tue Dec 01 2026 00:00:00 UTC

#: 10 until NOW + 20, 5 until NOW + 10, and 7 for good.
STANDING = Standing("acct_a", 22, 3, lots=(Lot(NOW + 10, 2, 5), Lot(NOW + 20, 1, 10)))


def charged(standing: Standing, credits: int) -> tuple[Standing, Entry]:
    """After a charge, and its entry."""
    posted = ledger.post(standing, Posting(-credits, "charge", NOW, "one"))
    assert posted is not None
    return posted.standing, posted.entries[0]


def test_what_expires_first_is_spent_first() -> None:
    """O3: a charge takes first from what ends soonest, and last from what stays."""
    after, entry = charged(STANDING, 18)
    assert after.lots == (Lot(NOW + 10, 2, 0), Lot(NOW + 20, 1, 0))
    assert (entry.taken, entry.balance, entry.number) == (((2, 5), (1, 10)), 4, 4)
    after, entry = charged(STANDING, 7)
    assert after.lots == (Lot(NOW + 10, 2, 0), Lot(NOW + 20, 1, 8))
    assert entry.taken == ((2, 5), (1, 2))


def test_nothing_is_taken_beyond_the_balance() -> None:
    """O12: a balance is never negative, whatever is to be taken."""
    for reason in ("charge", "adjustment"):
        assert ledger.post(STANDING, Posting(-23, reason, NOW)) is None
    assert charged(STANDING, 22)[0].balance == 0


def test_a_reversal_gives_back_where_it_was_taken() -> None:
    """O11: all of a charge, and each grant has what it had."""
    after, charge = charged(STANDING, 18)
    back = ledger.give_back(after, charge, NOW)
    assert back.standing.lots == STANDING.lots
    assert [(one.amount, one.balance, one.reverses) for one in back.entries] == [(18, 22, "one")]


def test_a_part_of_a_charge_given_back() -> None:
    """O11: as if so much less had been charged, and never more than was."""
    after, charge = charged(STANDING, 18)
    for credits in range(20):
        back = ledger.give_back(after, charge, NOW, credits).standing
        left = max(0, 18 - credits)
        expected = charged(STANDING, left)[0] if left else STANDING
        assert (back.balance, back.lots) == (expected.balance, expected.lots)


def test_what_has_expired_meanwhile_is_not_given_back() -> None:
    """O11: what a charge took of a grant that has ended since ends at once, with its own entry."""
    after, charge = charged(STANDING, 18)
    settled = ledger.settle(after, NOW + 10)
    assert settled.entries == ()  # nothing was left of it
    back = ledger.give_back(settled.standing, charge, NOW + 10)
    assert [(one.reason, one.amount) for one in back.entries] == [("reversal", 18), ("expiry", -5)]
    assert back.standing.lots == (Lot(NOW + 20, 1, 10),)
    assert back.standing.balance == 17


def test_expiry() -> None:
    """O3: what is left of a grant ends at its instant, not before."""
    assert not ledger.is_due(STANDING, NOW + 9, None)
    assert ledger.settle(STANDING, NOW + 9) == (STANDING, ())
    settled = ledger.settle(STANDING, NOW + 20)
    assert [(one.reason, one.amount, one.by.source) for one in settled.entries] == [
        ("expiry", -5, "system"),
        ("expiry", -10, "system"),
    ]
    assert (settled.standing.balance, settled.standing.lots) == (7, ())


def test_refill_of_a_plan() -> None:
    """O3: with `replace` a month's credits end with it, in UTC; with `add` they stay."""
    assert refill_of(None, NOW) is None
    assert refill_of(MonthlyCredits(9), NOW) == Refill(MONTH, 9, END_OF_MONTH)
    assert refill_of(MonthlyCredits(9, "add"), NOW) == Refill(MONTH, 9)


def test_a_month_is_given_once() -> None:
    """O3: once a month, by whoever comes first; a clock that is behind gives nothing again."""
    first = ledger.settle(Standing("acct_a"), NOW, Refill("2026-11", 9, END_OF_MONTH))
    assert [(one.reference, one.amount) for one in first.entries] == [("refill:2026-11", 9)]
    assert ledger.settle(first.standing, NOW, Refill("2026-11", 99)).entries == ()
    assert ledger.settle(first.standing, NOW, Refill("2026-10", 9)).entries == ()
    after, _ = charged(first.standing, 4)
    second = ledger.settle(after, END_OF_MONTH, Refill("2026-12", 9, END_OF_MONTH + 9))
    assert [one.amount for one in second.entries] == [-5, 9]
    assert second.standing.balance == 9


def test_months_that_add() -> None:
    """O3: with `add`, what is not used stays."""
    standing = Standing("acct_a")
    for month in ("2026-11", "2026-12"):
        standing = ledger.settle(standing, NOW, Refill(month, 9)).standing
    assert (standing.balance, standing.lots) == (18, ())
