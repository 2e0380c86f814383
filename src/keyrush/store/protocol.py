"""Where accounts, keys, usage counts and balances are kept: the protocol.

A store of your own is one class with these methods, all plain or all coroutines, in any mix.
Pass an instance to `Gate`, or name the class in `KEYRUSH_STORE_URL` as `package.module:Class`.
Every method may raise anything when it cannot answer: the request is then refused with 503
(S19). Where it is a value that can't be taken, raise `DataError`: that is no outage. Instants
are Unix milliseconds, months are `"2026-11"` in UTC.

A store may also have, and `opening` alone looks for it:

- the methods of `LinkStore`, all of them, without which there are keys alone, and no tokens;
- the methods of `EditStore`, all of them, without which keys are as they were made, and what was
  done to them is not kept;
- the methods of `BindingStore`, both of them, without which sessions of MCP servers are known in
  the process alone that they were opened in;
- the methods of `ActivityStore`, all of them, without which activity is kept in each process
  alone, as far as its memory is for that;
- the methods of `PortalStore`, all of them, without which there are no links to the dashboard;
- `changes()`, a plain method that gives its `core.changes.Changes`, where other processes change
  it: what is changed elsewhere holds here at once; without, when the cache entry has expired;
- `database`, the `sql.engine.Database` it is kept in, so that windows may be counted there;
- `is_ephemeral`, true where its keys are gone with the process, so that any pepper will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from keyrush.core.activity import Activity, DayOfKey, Group, Span, Total, Where
from keyrush.core.identity import Found, FoundLink
from keyrush.core.key_search import Outline
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
from keyrush.core.model import Account, ApiKey, Limit, Link
from keyrush.core.paging import DEFAULT_LIMIT, Place
from keyrush.core.portal import PortalLink, PortalSession
from keyrush.store.decisions import KeyCount, LinkOutcome, Outcome, Revocation
from keyrush.store.edits import Edit, KeyEvent


class Batch(NamedTuple):
    """The name of a set of increments, so that it can be added again without counting twice."""

    worker: str  #: who adds it, one at a time; new in each process
    number: int  #: from 1 on, higher for each batch of this worker


@dataclass(frozen=True, slots=True)
class Proved:
    """That a hash has been found to be of a key."""

    key_id: str
    hash: str = field(repr=False)  #: the hash that has matched
    proof: str = field(repr=False)  #: what is kept of it, `ApiKey.proof`


class AccountStore(Protocol):
    """Accounts, with their plans and limits."""

    def add_account(self, account: Account) -> bool:
        """Add an account; False, and nothing changed, where its id exists."""
        ...

    def account(self, account_id: str) -> Account | None:
        """The account, or None."""
        ...

    def accounts(self, limit: int = DEFAULT_LIMIT, after: Place | None = None) -> Sequence[Account]:
        """The first `limit` accounts after a place, by creation time and id, oldest first."""
        ...

    def plans(self) -> Mapping[str, int]:
        """How many accounts are on each plan, by its name."""
        ...

    def set_plan(self, account_id: str, plan: str) -> bool:
        """Put the account on a plan; False where there is no such account."""
        ...

    def set_account_limits(
        self, account_id: str, limits: tuple[Limit, ...] | None, until: int | None = None
    ) -> bool:
        """Give the account limits of its own, or with None its plan's; False if there is none.

        Without `until` they are for good, and an override ends; with it, `limits` are an override
        (`Account.override`), which replaces an earlier one, or with None ends it; those for good
        stay.
        """
        ...


#: Characters that a reference may have.
MAX_REFERENCE = 80

#: Discrepancies that one look brings at most.
MAX_WRONG = 1000


class CreditStore(Protocol):
    """The credits of accounts, as a ledger: `keyrush.core.ledger` has its arithmetic, so a store
    has only to keep entries and how each account stands.

    Each call is one step: what was told of it is kept, and what an account's entries come to is
    its balance at any time. Calls at once are as one after the other. Before anything else, what
    has expired by `at` is taken (`ledger.settle`) and the month's `refill`, where one is given and
    has not been, is given, once. An account that is added with a balance has an entry for it, of
    the reference `ledger.OPENING`.
    """

    def charge(  # noqa: PLR0917  # one's own may be called by place alone
        self,
        account_id: str,
        credits: int,
        reference: str,
        at: int,
        by: By = OPERATOR,
        refill: Refill | None = None,
    ) -> int | None:
        """Take credits if the balance holds them: the new balance, or None, nothing taken.

        `reference`, of `MAX_REFERENCE` characters at most, names the charge within the account, for
        good. One that has been charged before takes nothing more, and gives the balance as it is;
        one that has been reversed takes nothing, and gives None. To charge 0 leaves no entry.
        """
        ...

    def reverse(
        self, account_id: str, reference: str, at: int, credits: int | None = None
    ) -> int | None:
        """Give back what was charged under a reference, or so many of these credits at most, once:
        the new balance, or None where there is nothing to give back.

        Calls at once give back once, and a charge that comes only after its reversal takes
        nothing (`ledger.forbid`): so either can be repeated where its outcome is unknown.
        """
        ...

    def post(self, account_id: str, posting: Posting, refill: Refill | None = None) -> Entry | None:
        """Make an entry. Where one of its reference is there, that one, and nothing changed; None
        where there is no such account, or the balance would be negative.
        """
        ...

    def balance(self, account_id: str, at: int, refill: Refill | None = None) -> int | None:
        """The balance, with what is due; None where there is no such account."""
        ...

    def lots(self, account_id: str) -> Sequence[Lot]:
        """What is left of grants that expire, in the order in which they are spent, as it was left:
        nothing that is due comes first here.
        """
        ...

    def entries(
        self,
        account_id: str,
        where: EntryWhere = ALL_ENTRIES,
        limit: int = DEFAULT_LIMIT,
        before: int | None = None,
    ) -> Sequence[Entry]:
        """The last `limit` entries with a number below `before`, newest first, that agree with
        `where`; without those of 0 credits.
        """
        ...

    def audit_entries(self, after: EntryPlace | None, limit: int) -> Audited[EntryPlace]:
        """Where the next `limit` entries after a place, by account and number, do not follow each
        from the one before it; and the place of the last, None where no more come.
        """
        ...

    def audit_balances(self, after: str | None, limit: int) -> Audited[str]:
        """Where the next `limit` accounts after an id do not have what their last entry says, or
        less than their lots; and the last id, None where no more come.
        """
        ...


class KeyStore(Protocol):
    """Keys, and what proves them."""

    def find(self, fingerprints: Sequence[str], month: str) -> Found | None:
        """The key with one of the fingerprints, revoked and expired ones too; None if unknown.

        The one look-up of the cold path, so it brings account and counts along.
        """
        ...

    def add_keys(
        self,
        added: Sequence[ApiKey],
        max_keys: int | None = None,
        issued_at: int | None = None,
    ) -> Outcome:
        """Add keys of one account, made by one key, oldest first: all of them or none. Their ids
        and fingerprints are new.

        In the same step it is decided, as of when the last was made, whether the key that made
        them (`ApiKey.created_by`) may still do so, and they may do no more than it, or the link,
        by a token that was issued at `issued_at`, and whether the account has fewer than
        `max_keys` active keys, those aside that retire, and with those fewer than twice as many
        (`keyrush.store.decisions`). Calls at once are exact in this.
        """
        ...

    def key(self, key_id: str) -> ApiKey | None:
        """The key, or None."""
        ...

    def keys(
        self,
        account_id: str | None = None,
        limit: int = DEFAULT_LIMIT,
        after: Place | None = None,
    ) -> Sequence[ApiKey]:
        """The first `limit` keys of an account, or of all, after a place, by creation time and
        id, oldest first.
        """
        ...

    def active_keys(self, account_id: str, now: int) -> KeyCount:
        """How many keys of the account are active."""
        ...

    def revoke(
        self,
        key_id: str,
        at: int,
        descendants: bool = False,
        by: str | None = None,
        issued_at: int | None = None,
    ) -> Revocation:
        """Revoke the key for good; an earlier revocation stands.

        With `descendants` also what it has made (`ApiKey.created_by`), and what that has made,
        and so on, within the account and in the same step, so that none of them makes another
        one meanwhile. `by` is the id of the key or link that asks, judged in the same step, as of
        `at`; a key that retires may revoke itself alone.
        """
        ...

    def replace(  # noqa: PLR0917  # one's own may be called by place alone
        self,
        key_id: str,
        successor: ApiKey,
        retires_at: int,
        max_keys: int | None = None,
        by: str | None = None,
        issued_at: int | None = None,
    ) -> Outcome:
        """Add the successor and let the key retire at `retires_at`, in one step.

        `gone`, and nothing changed, where the key is unknown, of another account, revoked, has
        been replaced, or has another name, other scopes or other limits than the successor. `by` is
        the id of the key or link that asks, judged as in `add_keys`, and so is the number of keys;
        a rotation may go on at `max_keys`, but not beyond twice as many with those that retire.
        """
        ...

    def set_key_limits(self, key_id: str, limits: tuple[Limit, ...] | None) -> bool:
        """Give the key limits of its own, or with None its account's; False if there is none."""
        ...

    def refingerprint(
        self, key_id: str, fingerprint: str, pepper_id: str, proof: str | None
    ) -> None:
        """Store the key's fingerprint under a newer pepper, with the proof under it, in one step;
        nothing else of the key changes.
        """
        ...

    def record_proofs(self, proofs: Sequence[Proved]) -> None:
        """Set the proof of keys, of each only if it still has the hash; nothing else changes."""
        ...

    def peppers(self, now: int) -> Mapping[str, int]:
        """How many active keys were made under each pepper, by pepper id."""
        ...


class EditStore(Protocol):
    """Keys as people look after them."""

    def edit_key(self, key_id: str, edit: Edit) -> Outcome:
        """Change the key as `keyrush.store.edits` says, where that allows it of the key and of the
        one that asks as they are stored in this step. `gone` where it is unknown or not active.
        What is done to a key by this, by `replace` and by `revoke` is kept in the same step.
        """
        ...

    def key_events(self, key_id: str) -> Sequence[KeyEvent]:
        """What has been done to the key, newest first: the last `MAX_EVENTS`."""
        ...

    def outlines(
        self, account_id: str, limit: int, among: Sequence[str] | None = None
    ) -> Sequence[Outline]:
        """The last `limit` keys of the account, newest first; with `among` those with these ids."""
        ...


class LinkStore(Protocol):
    """Whom issuers of tokens know, and for which account each acts."""

    def find_link(self, issuer: str, subject: str, month: str) -> FoundLink | None:
        """The link of an issuer's subject that has not ended; None where there is none.

        The one look-up of a token, so it brings account and counts along.
        """
        ...

    def add_link(
        self, link: Link, account: Account | None = None, at_most: int | None = None
    ) -> LinkOutcome:
        """Add a link, and with it the `account` that it is with, which is new, in one step. Their
        ids are new. Calls at once add one link of a subject, and one account.

        With an account, none is added for a subject that has been linked before, nor where
        `at_most` links of the issuer have been added in the minute before this one. Of a subject
        that has been linked before, the latest `Link.revoked_before` holds for this one, too.
        """
        ...

    def link(self, link_id: str) -> Link | None:
        """The link, one that has ended, too; or None."""
        ...

    def links(self, account_id: str | None = None, subject: str | None = None) -> Sequence[Link]:
        """The links of an account, or of a subject by whatever issuer, that have not ended, oldest
        first; 1,000 at most.
        """
        ...

    def end_link(self, link_id: str, at: int) -> bool:
        """End the link for good; False where there is none, or it has ended."""
        ...

    def revoke_sessions(self, link_id: str, before: int) -> bool:
        """Have no token be good any more that was issued before then; a later such instant stands.
        False where there is no such link, or it has ended.
        """
        ...


#: Sessions of MCP servers that an account may have; of more, those are let go of that end first.
MAX_BINDINGS = 1000


class BindingStore(Protocol):
    """Which account has opened a session of an MCP server. `name` stands for the session: 64
    characters, that don't bring its id back.
    """

    def bind(self, name: str, account_id: str, now: int, ends_at: int) -> str:
        """Bind the session to the account until `ends_at`, unless it is another's by now; the
        account that has it. What has ended, and of one account what is beyond `MAX_BINDINGS`, is
        let go of, sooner or later.
        """
        ...

    def bound(self, name: str, now: int) -> str | None:
        """The account that has the session, None where nobody has."""
        ...


#: Sessions of the dashboard that are listed.
MAX_SESSIONS = 1000


class PortalStore(Protocol):
    """Links to the dashboard, and sessions of those who have used one. Each is known by a hash of
    64 characters. What has ended is let go of, sooner or later.
    """

    def add_portal_link(self, link: PortalLink) -> None:
        """Add a link, whose hash is new."""
        ...

    def portal_link(self, hash: str, now: int) -> PortalLink | None:
        """The link, None where it has been used or has ended."""
        ...

    def open_portal_session(self, hash: str, session: PortalSession) -> bool:
        """Use the link and add a session of its account, whose id and hash are new, in one step.
        False, and nothing added, where the link has been used, had ended when the session is made,
        or is of another account. Of calls at once one uses it.
        """
        ...

    def portal_session(self, hash: str, now: int) -> PortalSession | None:
        """The session, None where it has ended."""
        ...

    def portal_sessions(self, now: int, account_id: str | None = None) -> Sequence[PortalSession]:
        """The sessions that have not ended, of an account or of all, oldest first; `MAX_SESSIONS`
        at most.
        """
        ...

    def end_portal_session(self, session_id: str, now: int) -> bool:
        """End the session for good; False where there is none, or it has ended."""
        ...

    def spend_form(self, name: str, now: int, ends_at: int) -> bool:
        """True for the first call with a name of 64 characters at most, until `ends_at`; False for
        all after, and all but one at once.
        """
        ...


class CountStore(Protocol):
    """The requests of a month, by subject, and when keys were last used."""

    def add_usage(
        self,
        month: str,
        increments: Mapping[str, int],
        batch: Batch | None = None,
        used: Mapping[str, int] | None = None,
    ) -> Mapping[str, int]:
        """Add to the counts of a month, by subject, and set `last_used_at` of keys, by id and only
        forwards: all or none. The new totals of exactly these subjects.

        A batch that has been added before is not added again, even by two calls at once; the
        totals are returned all the same. So a flush whose outcome is unknown can be repeated,
        within a day. Ids of keys that are not there are passed over.
        """
        ...

    def usage(self, subject: str, month: str) -> int:
        """The count of a subject in a month; 0 where there is none."""
        ...

    def overage(self, account_id: str, month: str, quota: int) -> int:
        """What the counts of an account's keys, by lineage, and of its links have above `quota`
        each, in sum.
        """
        ...


class ActivityStore(Protocol):
    """What was asked of an app (contract O20): rows, and their totals, by the minute and by the
    hour. Totals hold what rows held that are kept no more, or never were (`Activity.is_kept`).
    """

    def add_activity(self, rows: Sequence[Activity], batch: Batch | None = None) -> None:
        """Add rows, and to the totals, in one step: all or none.

        A batch that has been added before is not added again, as with `CountStore.add_usage`.
        Of accounts and keys nothing is looked up. NUL and lone surrogates in texts are replaced.
        """
        ...

    def activity(
        self, account_id: str, where: Where, limit: int = DEFAULT_LIMIT, after: Place | None = None
    ) -> Sequence[Activity]:
        """The first `limit` rows of the account that agree with `where`, after a place, by time
        and id, newest first.
        """
        ...

    def count_activity(self, account_id: str, where: Where, at_most: int) -> int:
        """How many rows of the account agree with `where`; counts no further than `at_most`."""
        ...

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
        """Totals of the account's activity that agrees with `where`, in bins of `step`
        milliseconds, told apart by `group`, by bin and value; bins of nothing are left out.

        `step` is a multiple of a minute; where it is one of an hour, the totals of hours are
        asked. `where.since` and `where.until` are given, and multiples of `step`, or of a minute
        or an hour where one step is all of time. Of more than `at_most` values those with the
        most requests are told apart; the rest is together, as the value None. Without `durations`
        a total may lack `duration`, `longest` and `buckets`: 0, 0 and none.
        """
        ...

    def activity_ranks(
        self, account_id: str, where: Where, spans: Sequence[Span], group: Group, at_most: int
    ) -> Sequence[tuple[str, int]]:
        """The values of `group` that had the most requests in all of the spans, with these: of as
        many, by name. `where` is without a time; of spans there is at least one.
        """
        ...

    def days_of_keys(
        self, account_id: str, key_ids: Sequence[str], since: int, until: int
    ) -> Sequence[DayOfKey]:
        """How many requests came with each of these keys of the account, by day, UTC, and outcome;
        days of nothing are left out. `since` and `until` are beginnings of days.
        """
        ...

    def forget_activity(
        self, before_rows: int, before_minutes: int, before_hours: int, at_most: int
    ) -> int:
        """Delete rows of days (UTC), totals of minutes and of hours that ended before these
        instants: of each `at_most`, the oldest first. How many, in sum; 0 where there are no more.
        """
        ...


class Store(
    AccountStore,
    CreditStore,
    KeyStore,
    EditStore,
    LinkStore,
    BindingStore,
    CountStore,
    ActivityStore,
    Protocol,
):
    """All that keyrush keeps. All writes are atomic, each on its own."""

    def close(self) -> None:
        """Let go of connections. The store may be used again afterwards."""
        ...
