"""Whether every balance is the sum of its ledger, by a look at all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from keyrush.core.ledger import Audited, Discrepancy
from keyrush.store.protocol import CreditStore

#: Entries or accounts that are looked at together: some milliseconds.
_PORTION = 10_000

#: What is wrong is told up to here: of a ledger that has more, each is one too many.
_TOLD = 1_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check of all ledgers has found. `is_complete` is false where it has ended early."""

    accounts: int
    entries: int
    discrepancies: tuple[Discrepancy, ...]
    is_complete: bool = True


def audit(
    store: CreditStore,
    *,
    at_most: int | None = None,
    is_enough: Callable[[], bool] = lambda: False,
) -> Checked:
    """Look at all accounts first, and then at all entries, a portion at a time: up to `at_most` of
    each, and until it `is_enough`.
    """
    wrong: list[Discrepancy] = []
    accounts, all_accounts = _look(store.audit_balances, wrong, at_most, is_enough)
    entries, all_entries = _look(store.audit_entries, wrong, at_most, is_enough)
    is_complete = all_entries and all_accounts and len(wrong) <= _TOLD
    return Checked(accounts, entries, tuple(wrong[:_TOLD]), is_complete)


def _look(
    portion: Callable[[T | None, int], Audited[T]],
    wrong: list[Discrepancy],
    at_most: int | None,
    is_enough: Callable[[], bool],
) -> tuple[int, bool]:
    """How many were looked at, and whether these are all; what is wrong comes into `wrong`."""
    seen, last = 0, None
    while len(wrong) <= _TOLD and not is_enough():
        left = _PORTION if at_most is None else min(_PORTION, at_most - seen)
        if not left:
            return seen, False
        audited = portion(last, left)
        wrong += audited.wrong
        seen, last = seen + audited.seen, audited.last
        if last is None:
            return seen, True
    return seen, False
