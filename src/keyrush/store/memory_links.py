"""The links of the store in memory, which calls all of this under its lock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

from keyrush.core.model import Link
from keyrush.core.paging import place_of
from keyrush.store.decisions import MAX_LINKS, NEW_LINKS_IN, LinkOutcome


class MemoryLinks:
    """Links by their ids, those that have ended, too."""

    def __init__(self) -> None:
        self.by_id: dict[str, Link] = {}
        #: The last link of each subject, by its issuer.
        self._last: dict[tuple[str, str], str] = {}

    def find(self, issuer: str, subject: str) -> Link | None:
        """The link of an issuer's subject that has not ended."""
        link = self.by_id.get(self._last.get((issuer, subject), ""))
        return None if link is None or link.ended_at is not None else link

    def add(self, link: Link, at_most: int | None, *, is_new: bool) -> LinkOutcome:
        """`Store.add_link`; `is_new` where its account is."""
        place = (link.issuer, link.subject)
        if self.find(*place) is not None:
            return "taken"
        if is_new and place in self._last:
            return "ended"
        if is_new and at_most is not None and self._new(link) >= at_most:
            return "too_many"
        before = self.by_id.get(self._last.get(place, ""))
        revoked = None if before is None else before.revoked_before
        self.by_id[link.id] = replace(link, revoked_before=revoked)
        self._last[place] = link.id
        return "done"

    def _new(self, link: Link) -> int:
        """How many of its issuer's have been added in the minute before."""
        since = link.created_at - NEW_LINKS_IN
        return sum(
            other.issuer == link.issuer and other.created_at > since
            for other in self.by_id.values()
        )

    def listed(self, account_id: str | None, subject: str | None) -> Sequence[Link]:
        """`Store.links`."""
        found = [
            link
            for link in self.by_id.values()
            if link.ended_at is None
            and account_id in {None, link.account_id}
            and subject in {None, link.subject}
        ]
        return heapq.nsmallest(MAX_LINKS, found, key=place_of)

    def of_account(self, account_id: str) -> set[str]:
        """The ids of an account's links, of those that have ended, too."""
        return {link.id for link in self.by_id.values() if link.account_id == account_id}

    def end(self, link_id: str, at: int) -> bool:
        """`Store.end_link`."""
        link = self.by_id.get(link_id)
        if link is None or link.ended_at is not None:
            return False
        self.by_id[link_id] = replace(link, ended_at=at)
        return True

    def revoke(self, link_id: str, before: int) -> bool:
        """`Store.revoke_sessions`."""
        link = self.by_id.get(link_id)
        if link is None or link.ended_at is not None:
            return False
        self.by_id[link_id] = replace(link, revoked_before=max(before, link.revoked_before or 0))
        return True
