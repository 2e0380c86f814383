"""What Billing is asked for of the ledger, by its query. What can't be meant stands for all, but
for days: a list without them would pass for one of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from keyrush.apps.dashboard.ranges import begin_of, end_of
from keyrush.core.ledger import EntryWhere
from keyrush.errors import InvalidArgument
from keyrush.operations.credits import REASONS, SOURCES

#: Characters of a day that are looked at, and said again: no time that is taken has as many.
_LONGEST = len("2026-11-26T23:19") + 1


class LedgerAsked(NamedTuple):
    """The filters, and the place in the list."""

    where: EntryWhere
    after: str | None  #: the cursor of the page before
    first: str  #: the days, as they were given; empty where none is
    last: str
    wrong: str | None  #: which of them can't be meant: `from` or `to`

    @property
    def query(self) -> dict[str, str | None]:
        """What of it is kept in the links and forms of a page."""
        return {
            "reason": self.reason,
            "source": self.source,
            "from": self.first or None,
            "to": self.last or None,
        }

    @property
    def reason(self) -> str | None:
        """The one reason, None for all."""
        return next(iter(self.where.reasons), None)

    @property
    def source(self) -> str | None:
        """The one door, None for all."""
        return next(iter(self.where.sources), None)

    @property
    def is_filtered(self) -> bool:
        """True where less than all of the ledger is asked for."""
        return any(value is not None for value in self.query.values())


def asked_of_ledger(query: Mapping[str, str]) -> LedgerAsked:
    """What a query asks for: `from` and `to` are days, or minutes, UTC, and `to` is in it."""
    first, last = (query.get(name, "")[:_LONGEST] for name in ("from", "to"))
    since = until = wrong = None
    try:
        since = begin_of(first, "from") if first else None
        until = end_of(last, "to") if last else None
        if since is not None and until is not None and since >= until:
            wrong = "to"
    except InvalidArgument as error:
        wrong = error.field
    where = EntryWhere(
        tuple(one for one in REASONS if one == query.get("reason")),
        tuple(one for one in SOURCES if one == query.get("source")),
        since,
        until,
    )
    return LedgerAsked(where, query.get("after"), first, last, wrong)
