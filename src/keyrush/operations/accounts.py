"""Accounts: create, list, plans, limits, and whose tokens act for them.

Operations block for store calls, and check their arguments here, whoever passes them: the account
API, the CLI, or code. All raise `StoreError`, or what a store of the user's own raises, when the
store can't answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from keyrush.core.catalog import Catalog
from keyrush.core.checks import (
    checked_account_id,
    checked_expiry,
    checked_issuer,
    checked_plan,
    checked_subject,
    is_subject,
    refuse_keys,
)
from keyrush.core.key_text import KeyFormat
from keyrush.core.model import Account, Link
from keyrush.core.notation import parse_limits
from keyrush.core.paging import DEFAULT_LIMIT, Page, checked_limit, page_of, parse_cursor
from keyrush.errors import InvalidArgument, NotFound
from keyrush.operations.ids import LINK, known_id, new_id
from keyrush.store.protocol import Store


class Accounts:
    """The operations on accounts, over a store. `issuers` are those whose tokens are good.

    `changed` is told the account of which what is cached no longer holds.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        *,
        issuers: Collection[str] = (),
        key_format: KeyFormat,
        changed: Callable[[str], None],
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._issuers = issuers
        self._plans, self._default = catalog.plans, catalog.default_plan
        self._format = key_format
        self._changed = changed
        self._clock = clock

    def create(
        self, account_id: str | None = None, *, plan: str | None = None, limits: str | None = None
    ) -> Account:
        """A new account, on the default plan unless said otherwise.

        `limits`, as in `"60/minute;1000/hour"`, replace the plan's.

        Raises:
            InvalidArgument: The id is taken or malformed, the plan unknown, the limits malformed.
        """
        refuse_keys(self._format, account=account_id, plan=plan, limits=limits)
        account = Account(
            new_id("acct") if account_id is None else checked_account_id(account_id),
            checked_plan(self._default if plan is None else plan, self._plans),
            self._clock(),
            limits=parse_limits(limits),
        )
        if not self._store.add_account(account):
            raise InvalidArgument("account", f"{account.id} exists already")
        return account

    def get(self, account_id: str) -> Account:
        """The account.

        Raises:
            NotFound: There is none with this id.
        """
        refuse_keys(self._format, account=account_id)
        found = self._store.account(known_id(account_id))
        if found is None:
            raise NotFound(f"no account {account_id!r}")
        return found

    def list(self, *, limit: int = DEFAULT_LIMIT, after: str | None = None) -> Page[Account]:
        """The accounts, oldest first, a page of `limit` at a time; `after` is the cursor of the
        page before.

        Raises:
            InvalidArgument: The limit is not from 1 to 100, or the cursor none of a page.
        """
        refuse_keys(self._format, limit=limit, after=after)
        place = parse_cursor(after)
        return page_of(self._store.accounts(checked_limit(limit) + 1, place), limit)

    def set_plan(self, account_id: str, plan: str) -> Account:
        """Put the account on a plan; its counts stay.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: There is no such plan.
        """
        refuse_keys(self._format, account=account_id, plan=plan)
        done = self._store.set_plan(known_id(account_id), checked_plan(plan, self._plans))
        if not done:
            raise NotFound(f"no account {account_id!r}")
        self._changed(account_id)
        return self.get(account_id)

    def set_limits(
        self, account_id: str, limits: str | None, *, until: int | None = None
    ) -> Account:
        """Give the account limits of its own, or with None its plan's again; its counts stay.

        With `until`, Unix milliseconds, they hold before then, and afterwards those that hold now
        for good do so again, in every process and by themselves; an earlier such override is
        replaced. Without, they are for good, and an override ends. A key with limits of its own
        is not touched by either.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: The limits are malformed, or `until` is in the past, or of no limits.
        """
        refuse_keys(self._format, account=account_id, limits=limits, until=until)
        if until is not None and limits is None:
            raise InvalidArgument("until", "goes with limits: say which hold until then")
        done = self._store.set_account_limits(
            known_id(account_id),
            parse_limits(limits),
            checked_expiry(until, self._clock(), "until"),
        )
        if not done:
            raise NotFound(f"no account {account_id!r}")
        self._changed(account_id)
        return self.get(account_id)

    def link(self, account_id: str, *, issuer: str, subject: str) -> Link:
        """Have tokens of an issuer's subject act for the account (contract O8, O9). What was
        revoked of the subject while it was linked before stays so.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: The issuer is not configured, the subject malformed, or linked with
                another account: end that with `unlink` first.
        """
        refuse_keys(self._format, account=account_id, issuer=issuer, subject=subject)
        link = Link(
            new_id(LINK),
            known_id(account_id),
            checked_issuer(issuer, self._issuers),
            checked_subject(subject),
            self._clock(),
        )
        outcome = self._store.add_link(link)
        if outcome == "gone":
            raise NotFound(f"no account {account_id!r}")
        if outcome == "done":
            return self._store.link(link.id) or link
        known = [it for it in self._store.links(subject=subject) if it.issuer == issuer]
        if known and known[0].account_id == account_id:
            return known[0]
        raise InvalidArgument("subject", "is linked with another account; unlink it first")

    def unlink(self, account_id: str, *, issuer: str, subject: str) -> Link:
        """Have tokens of an issuer's subject act for the account no more. Nothing else of it is
        changed: keys that its sessions have made go on. Nor does the subject get a new account:
        it is refused until it is linked again.

        Raises:
            NotFound: There is no such link with this account.
        """
        refuse_keys(self._format, account=account_id, issuer=issuer, subject=subject)
        # Not those of the account, of which there may be more than are listed.
        of_subject = self._store.links(subject=subject) if is_subject(subject) else ()
        for link in of_subject:
            is_it = (link.account_id, link.issuer) == (account_id, issuer)
            if is_it and self._store.end_link(link.id, self._clock()):
                self._changed(account_id)
                return self._store.link(link.id) or link
        raise NotFound("no such link")

    def links(self, account_id: str) -> Sequence[Link]:
        """Whose tokens act for the account, oldest first; 1,000 at most.

        Raises:
            NotFound: The id can't be an account's. One that is unknown has none.
        """
        refuse_keys(self._format, account=account_id)
        return self._store.links(known_id(account_id))
