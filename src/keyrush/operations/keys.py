"""Keys: create, list, find, rotate, revoke, limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from keyrush.authentication.keyring import Keyring
from keyrush.core.catalog import Catalog
from keyrush.core.checks import (
    checked_count,
    checked_environment,
    checked_expiry,
    checked_grace,
    checked_max_concurrent,
    checked_name,
    checked_scopes,
    is_id,
    refuse_keys,
)
from keyrush.core.model import INHERIT, Account, ApiKey, Limit, Plan, Scopes
from keyrush.core.notation import parse_limits
from keyrush.core.paging import DEFAULT_LIMIT, Page, checked_limit, page_of, parse_cursor
from keyrush.core.times import NEVER, month_of
from keyrush.errors import (
    BeyondCaller,
    CallerEnded,
    ConfigurationError,
    InvalidArgument,
    NotFound,
    TooManyKeys,
)
from keyrush.operations.accounts import Accounts
from keyrush.operations.ids import known_id, new_id
from keyrush.store.decisions import (
    OWNER,
    RETIRING,
    KeyCount,
    Outcome,
    is_trusted,
    judge_caller,
    judge_room,
    judge_rotation,
)
from keyrush.store.edits import Edit
from keyrush.store.opening import keeps_edits
from keyrush.store.protocol import Store

#: Of another account's key it is the same (contract O6).
_UNKNOWN = "no such credential: give its id, cred_…"

#: Seconds for which a rotated key goes on working, unless said otherwise.
DEFAULT_GRACE = 86_400


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the one moment when its text is known (contract O2)."""

    text: str = field(repr=False)
    key: ApiKey


_ROTATED = "has been rotated already; rotate its replacement"
_CHANGED = "has been rotated or edited meanwhile; look at it again"


class Keys:
    """The operations on keys, over a store.

    `changed` is told the account of which what is cached no longer holds.

    `by`, where an operation takes it, is the id of the key that asks for it, or of the link of a
    session whose token was issued at `issued_at`, Unix milliseconds: whether that may is decided
    in the very step that makes the change. Without, the operator asks. A text that begins with
    `store.decisions.OWNER` stands for whom the app has let in as the account's owner, and who may
    do to its keys what the operator may.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        accounts: Accounts,
        *,
        keyring: Keyring,
        changed: Callable[[str], None],
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._catalog = catalog
        self._format, self._fingerprints, self._hashing = keyring
        self._changed = changed
        self._clock = clock

    def create(
        self,
        account_id: str,
        name: str,
        *,
        scopes: Sequence[str] = (),
        environment: str | None = None,
        expires_at: int | None = None,
        limits: str | None = None,
        max_concurrent: int | None = None,
        by: str | None = None,
        issued_at: int | None = None,
    ) -> NewKey:
        """A new key of an account (contract R3, O4). Its text is in the result and nowhere else.

        No scopes means `*` (R4); no environment means the first one. `expires_at` is Unix
        milliseconds. `limits` and `max_concurrent`, requests that are under way at once, are its
        own instead of those of account and plan. Takes as long as one argon2 hash, where keys are
        hashed.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: Names the argument that is wrong and says what is allowed.
            TooManyKeys: The account has as many active keys as its plan allows.
            CallerEnded: The key `by` is revoked or expired, or is none of the account's.
            BeyondCaller: The key `by` has been replaced, or may do less.
        """
        return self.create_many(
            account_id,
            name,
            1,
            scopes=scopes,
            environment=environment,
            expires_at=expires_at,
            limits=limits,
            max_concurrent=max_concurrent,
            by=by,
            issued_at=issued_at,
        )[0]

    def create_many(
        self,
        account_id: str,
        name: str,
        count: int,
        *,
        scopes: Sequence[str] = (),
        environment: str | None = None,
        expires_at: int | None = None,
        limits: str | None = None,
        max_concurrent: int | None = None,
        by: str | None = None,
        issued_at: int | None = None,
    ) -> Sequence[NewKey]:
        """So many new keys that are alike but for their texts, 5,000 at most: all of them in one
        step, or none. Otherwise as `create`.

        With `KEYRUSH_VERIFY=fingerprint` it takes a fraction of a second, else one argon2 hash
        for each.

        Raises:
            As `create`; TooManyKeys where there is no room for all.
        """
        refuse_keys(
            self._format,
            account=account_id,
            name=name,
            count=count,
            scopes=scopes,
            environment=environment,
            expires_at=expires_at,
            limits=limits,
            max_concurrent=max_concurrent,
        )
        checked_count(count)
        _check_giver(by, max_concurrent)
        now = self._clock()
        mint = partial(
            self._minted,
            name=checked_name(name),
            scopes=checked_scopes(scopes, self._catalog.known_scopes) or ("*",),
            environment=checked_environment(environment, self._format.environments),
            expires_at=checked_expiry(expires_at, now),
            limits=parse_limits(limits),
            max_concurrent=checked_max_concurrent(max_concurrent),
            created_by=self._caller(by, issued_at),
        )
        account = self._accounts.get(account_id)
        most = self._max_keys(account)
        # Before the work of hashing; it counts when the keys are added.
        _settle(judge_room(self._store.active_keys(account.id, now), most, count), most, count)
        made = [mint(account_id=account.id) for _ in range(count)]
        outcome = self._store.add_keys([one.key for one in made], most, issued_at)
        if outcome == "gone":
            raise NotFound(f"no account {account_id!r}")
        _settle(outcome, most, count)
        return made

    def check_room(self, account_id: str, count: int, plan: str | None = None) -> None:
        """Go on only if the account has room for so many more keys; where there is no account yet,
        if a new one on `plan`, by default the first, has.

        Raises:
            TooManyKeys: It has not.
        """
        refuse_keys(self._format, account=account_id, count=count, plan=plan)
        account = self._store.account(account_id) if is_id(account_id) else None
        if account is not None:
            active = self._store.active_keys(account.id, self._clock())
        else:
            account = Account(account_id, plan or self._catalog.default_plan, self._clock())
            active = KeyCount(0, 0)
        most = self._max_keys(account)
        _settle(judge_room(active, most, count), most, count)

    def get(self, key_id: str, account_id: str | None = None) -> ApiKey:
        """The key; with `account_id`, only if it is of that account.

        Raises:
            NotFound: There is none, or it is another account's (contract O6).
        """
        if self._format.is_in((key_id, account_id)):
            raise NotFound("no such credential: give its id, cred_…, not the key")
        found = self._store.key(key_id) if is_id(key_id) else None
        if found is None or account_id not in (None, found.account_id):
            raise NotFound(_UNKNOWN)
        return found

    def find(self, text: str) -> ApiKey:
        """The key of which this is the whole text, revoked and expired ones too.

        Raises:
            NotFound: There is none; says nothing of the text.
        """
        if self._format.parse(text.encode(errors="replace")) is None:
            raise NotFound("no such key: it is not whole, or has a typing error")
        fingerprints = self._fingerprints.all(text.encode())
        found = self._store.find(fingerprints, month_of(self._clock()))
        if found is None:
            raise NotFound("no such key: none was made with this text and this pepper")
        return found.key

    def list(
        self,
        account_id: str | None = None,
        *,
        limit: int = DEFAULT_LIMIT,
        after: str | None = None,
    ) -> Page[ApiKey]:
        """The keys of an account, or of all, oldest first, revoked ones too (contract O5), a page
        of `limit` at a time; `after` is the cursor of the page before.

        Raises:
            NotFound: The id can't be an account's. One that is unknown has no keys.
            InvalidArgument: The limit is not from 1 to 100, or the cursor none of a page.
        """
        refuse_keys(self._format, account=account_id, limit=limit, after=after)
        owner = None if account_id is None else known_id(account_id)
        place = parse_cursor(after)
        return page_of(self._store.keys(owner, checked_limit(limit) + 1, place), limit)

    def revoke(
        self,
        key_id: str,
        account_id: str | None = None,
        *,
        by: str | None = None,
        issued_at: int | None = None,
    ) -> ApiKey:
        """Revoke a key for good (contract O6); a key revoked before stays as it is.

        Raises:
            NotFound: There is none, or it is another account's.
            CallerEnded: The key `by` is revoked or expired, or is none of the account's.
            BeyondCaller: The key `by` has been replaced, and it is another key.
        """
        return self._revoke(key_id, account_id, descendants=False, by=by, issued_at=issued_at)[0]

    def revoke_with_descendants(
        self,
        key_id: str,
        account_id: str | None = None,
        *,
        by: str | None = None,
        issued_at: int | None = None,
    ) -> Sequence[ApiKey]:
        """Revoke a key, what it has made, what that has made, and so on, in one step.

        Returns the key, and after it those that were revoked along with it, oldest first. Made
        by a key is what it has created or rotated; what the operator has rotated goes on being
        made by whichever key had made its predecessor.

        Raises:
            As `revoke`; a key that has been replaced may not even do so with itself.
        """
        return self._revoke(key_id, account_id, descendants=True, by=by, issued_at=issued_at)

    def _revoke(
        self,
        key_id: str,
        account_id: str | None,
        *,
        descendants: bool,
        by: str | None,
        issued_at: int | None,
    ) -> Sequence[ApiKey]:
        key, caller = self.get(key_id, account_id), self._caller(by, issued_at)
        done = self._store.revoke(key.id, self._clock(), descendants, caller, issued_at)
        if done.outcome == "gone":
            raise NotFound(_UNKNOWN)
        _settle(done.outcome)
        self._changed(key.account_id)
        return [self.get(revoked) for revoked in done.key_ids]

    def rotate(
        self,
        key_id: str,
        account_id: str | None = None,
        *,
        grace: int = DEFAULT_GRACE,
        expires_at: int | None = None,
        by: str | None = None,
        issued_at: int | None = None,
        granted: Sequence[str] | None = None,
    ) -> NewKey:
        """Replace a key without downtime (contract R17).

        The replacement keeps name, scopes, environment, limits, `max_concurrent` and history, and
        the expiry unless `expires_at` is given. The old key works for `grace` more seconds, with 0
        it stops at once; meanwhile the two share one limit. `granted` are the scopes of the token
        by which a link asks: it gets no key with others.

        Raises:
            NotFound: There is none, or it is another account's.
            InvalidArgument: The grace is out of bounds, or the key is revoked, expired or has
                been rotated before.
            TooManyKeys: With those that retire, twice as many keys of the account are active as
                its plan allows.
            CallerEnded: The key `by` is revoked or expired, or is none of the account's.
            BeyondCaller: The key `by` has been replaced, or may do less.
        """
        refuse_keys(self._format, grace=grace, expires_at=expires_at, granted=granted)
        ends_after, caller = checked_grace(grace) * 1000, self._caller(by, issued_at)
        old = self.get(key_id, account_id)
        now = self._clock()
        if by == old.id:
            _settle(judge_caller(old, old.account_id, now))
        if not old.is_active(now):
            raise InvalidArgument("credential", "is revoked or expired; create a new one")
        if old.retires_at is not None:
            raise InvalidArgument("credential", _ROTATED)
        # What the store replaces has these very scopes, or is not replaced.
        if granted is not None and not Scopes(granted).covers(old.scopes):
            raise BeyondCaller("the token that asks may do less")
        most = self._max_keys(self._accounts.get(old.account_id))
        count = self._store.active_keys(old.account_id, now)
        _settle(judge_rotation(count, most, ends_one=ends_after == 0), most)
        made = self._minted(
            account_id=old.account_id,
            name=old.name,
            scopes=old.scopes,
            environment=old.environment,
            expires_at=checked_expiry(expires_at, now) or old.expires_at,
            limits=old.limits,
            max_concurrent=old.max_concurrent,
            lineage=old.lineage,
            created_by=caller or old.created_by,
        )
        retires_at = made.key.created_at + ends_after
        outcome = self._store.replace(old.id, made.key, retires_at, most, caller, issued_at)
        if outcome == "gone":
            raise InvalidArgument("credential", _CHANGED)
        _settle(outcome, most)
        self._changed(old.account_id)
        return made

    def edit(
        self,
        key_id: str,
        account_id: str | None = None,
        *,
        name: str | None = None,
        scopes: Sequence[str] | None = None,
        expires_at: int | None = None,
        max_concurrent: int | None = None,
        by: str | None = None,
        issued_at: int | None = None,
        granted: Sequence[str] | None = None,
    ) -> ApiKey:
        """Change the name, the scopes, the end or the `max_concurrent` of a key; None leaves them
        as they are.

        `expires_at` is Unix milliseconds, or `core.times.NEVER`; `max_concurrent` is a number, or
        `core.model.INHERIT` for the plan's. Whoever asks may take from a key, but give it no more
        than to one that they make: no scope that they lack, no later end than their own.
        `max_concurrent` the operator and the account's owner alone may set. `granted` are the
        scopes of the token by which a link asks.

        Raises:
            NotFound: There is none, or it is another account's.
            InvalidArgument: Names the argument that is wrong; or the key is revoked or expired.
            CallerEnded: The key `by` is revoked or expired, or is none of the account's.
            BeyondCaller: The key `by` has been replaced, or may not give what is to be given.
            ConfigurationError: The store, which is a user's own, can't edit keys.
        """
        refuse_keys(
            self._format,
            name=name,
            scopes=scopes,
            expires_at=expires_at,
            max_concurrent=max_concurrent,
            granted=granted,
        )
        if not keeps_edits(self._store):
            raise ConfigurationError(
                "the store can't edit keys; see keyrush.store.protocol.EditStore"
            )
        if scopes is not None and not scopes:
            raise InvalidArgument("scopes", "must name one at least; revoke a key that may nothing")
        _check_giver(by, max_concurrent)
        caller, now = self._caller(by, issued_at), self._clock()
        key = self.get(key_id, account_id)
        at_once = max_concurrent
        if at_once != INHERIT:
            at_once = checked_max_concurrent(at_once)
        known = self._catalog.known_scopes
        ends = expires_at if expires_at == NEVER else checked_expiry(expires_at, now)
        edit = Edit(
            now,
            name=None if name is None else checked_name(name),
            scopes=None if scopes is None else checked_scopes(scopes, known),
            expires_at=ends,
            by=caller,
            issued_at=issued_at,
            granted=None if granted is None else tuple(granted),
            max_concurrent=at_once,
        )
        outcome = self._store.edit_key(key.id, edit)
        if outcome == "gone":
            raise InvalidArgument("credential", "is revoked or expired")
        _settle(outcome)
        self._changed(key.account_id)
        return self.get(key.id)

    def set_limits(self, key_id: str, limits: str | None) -> ApiKey:
        """Give the key limits of its own, or with None its account's again; its counts stay.

        Raises:
            NotFound: There is no such key.
            InvalidArgument: The limits are malformed.
        """
        refuse_keys(self._format, limits=limits)
        key = self.get(key_id)
        self._store.set_key_limits(key.id, parse_limits(limits))
        self._changed(key.account_id)
        return self.get(key_id)

    def _minted(
        self,
        *,
        account_id: str,
        name: str,
        scopes: tuple[str, ...],
        environment: str | None,
        expires_at: int | None,
        limits: tuple[Limit, ...] | None,
        max_concurrent: int | None,
        lineage: str | None = None,
        created_by: str | None = None,
    ) -> NewKey:
        minted = self._format.mint(environment)
        key_id, fingerprint = new_id("cred"), self._fingerprints.new(minted.text)
        hash = self._hashing.hash(minted.text) if self._hashing is not None else ""
        key = ApiKey(
            id=key_id,
            account_id=account_id,
            lineage=lineage or key_id,
            name=name,
            prefix=minted.display,
            environment=environment,
            scopes=scopes,
            fingerprint=fingerprint,
            hash=hash,
            pepper_id=self._fingerprints.pepper_ids[0],
            created_at=self._clock(),
            expires_at=expires_at,
            limits=limits,
            max_concurrent=max_concurrent,
            created_by=created_by,
            proof=self._fingerprints.proof(key_id, fingerprint, hash),
        )
        return NewKey(minted.text.decode("ascii"), key)

    def _max_keys(self, account: Account) -> int:
        """How many active keys the account may have; on a plan that left the table, as on one
        that says nothing of it.
        """
        return self._catalog.plans.get(account.plan, Plan(account.plan)).max_keys

    def _caller(self, by: str | None, issued_at: int | None) -> str | None:
        """The id of the key or link that asks, None for the operator.

        Raises:
            CallerEnded: It can't be the id of a key.
        """
        refuse_keys(self._format, by=by, issued_at=issued_at)
        if by is not None and not is_id(by.removeprefix(OWNER)):
            raise CallerEnded("no such key may ask")
        return by


def _check_giver(by: str | None, max_concurrent: int | None) -> None:
    """Go on only if a number of its own may be given to a key by whoever asks. A key or a session
    knows none but its plan's, which a number may be more than.

    Raises:
        BeyondCaller: It is a key or a link.
    """
    if max_concurrent is not None and not is_trusted(by):
        raise BeyondCaller("max_concurrent is for the operator to set")


def _settle(outcome: Outcome, max_keys: int = 0, more: int = 1) -> None:
    """Go on only if it is done.

    Raises:
        TooManyKeys, CallerEnded or BeyondCaller: As the outcome says.
    """
    match outcome:
        case "too_many_keys":
            raise TooManyKeys(max_keys, more)
        case "too_many_active":
            raise TooManyKeys(RETIRING * max_keys, more)
        case "caller_ended":
            raise CallerEnded("the key that asks is revoked or expired")
        case "caller_retires":
            raise BeyondCaller("the key that asks has been replaced")
        case "beyond_caller":
            raise BeyondCaller("the key that asks may do less")
