"""Links to the dashboard, and the sessions that come of them: for support staff, and for those who
have no account with the app around.

Codes and tokens are 256 random bits. What is kept of them is their SHA-256: neither can be guessed,
so there is nothing for a slow hash to slow down.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

from keyrush.core.checks import is_id, refuse_keys
from keyrush.core.key_text import KeyFormat
from keyrush.core.model import Account
from keyrush.core.portal import LINK_AGE, SESSION_AGE, PortalLink, PortalSession
from keyrush.errors import ConfigurationError, NotFound
from keyrush.operations.accounts import Accounts
from keyrush.operations.ids import known_id, new_id
from keyrush.store.portal_in_memory import PortalInMemory
from keyrush.store.protocol import PortalStore, Store

#: What `secrets.token_urlsafe` gives of 32 bytes.
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")

_NOT_KEPT = (
    "KEYRUSH_STORE_URL: the store can't keep links to the dashboard; see "
    "keyrush.store.protocol.PortalStore"
)


class Entered(NamedTuple):
    """A session, and what the browser is to remember of it, which nobody else knows."""

    token: str
    session: PortalSession


class SignedIn(NamedTuple):
    """A session, and its account as it is now."""

    session: PortalSession
    account: Account


class Portal:
    """The operations on links and sessions of the dashboard, over a store. `kept` is the same
    store, None where it is one that can't keep them.
    """

    def __init__(
        self,
        store: Store,
        kept: PortalStore | None,
        accounts: Accounts,
        *,
        key_format: KeyFormat,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._kept = kept
        self._accounts = accounts
        self._format = key_format
        self._clock = clock
        #: Forms that were sent here, where the store can't keep them.
        self._here = PortalInMemory()

    def link(self, account_id: str, *, write: bool = True) -> str:
        """The code of a new link for the account, good once and for 10 minutes. Without `write` its
        session may look, and change nothing.

        Raises:
            NotFound: There is no such account.
            ConfigurationError: The store can't keep it.
        """
        if self._kept is None:
            raise ConfigurationError(_NOT_KEPT)
        account = self._accounts.get(account_id)
        code, now = secrets.token_urlsafe(32), self._clock()
        self._kept.add_portal_link(
            PortalLink(_hash(code), account.id, now, now + LINK_AGE, write=write)
        )
        return code

    def linked(self, code: str) -> PortalLink | None:
        """The link with the code, if it is good still; it stays so."""
        if self._kept is None or not _SECRET.fullmatch(code):
            return None
        return self._kept.portal_link(_hash(code), self._clock())

    def enter(self, code: str) -> Entered | None:
        """A session, for a code that is good, which it is no more; None for any other. Of calls at
        once one gets it.
        """
        link = self.linked(code)
        if link is None or self._kept is None:
            return None
        token, now = secrets.token_urlsafe(32), self._clock()
        session = PortalSession(
            new_id("sess"), _hash(token), link.account_id, now, now + SESSION_AGE, write=link.write
        )
        entered = self._kept.open_portal_session(link.hash, session)
        return Entered(token, session) if entered else None

    def signed_in(self, token: str) -> SignedIn | None:
        """The session of a browser's token and its account, while there are both."""
        if self._kept is None or not _SECRET.fullmatch(token):
            return None
        session = self._kept.portal_session(_hash(token), self._clock())
        if session is None:
            return None
        account = self._store.account(session.account_id)
        return None if account is None else SignedIn(session, account)

    def sessions(self, account_id: str | None = None) -> Sequence[PortalSession]:
        """The sessions that have not ended, of an account or of all, oldest first; 1,000 at most.

        Raises:
            NotFound: The id can't be an account's. One that is unknown has none.
            ConfigurationError: The store can't keep any.
        """
        refuse_keys(self._format, account=account_id)
        if self._kept is None:
            raise ConfigurationError(_NOT_KEPT)
        known = None if account_id is None else known_id(account_id)
        return self._kept.portal_sessions(self._clock(), known)

    def end(self, session_id: str) -> None:
        """End a session: its browser is signed out with its next request.

        Raises:
            NotFound: There is no such session, or it has ended.
            ConfigurationError: The store can't keep any.
        """
        refuse_keys(self._format, session=session_id)
        if self._kept is None:
            raise ConfigurationError(_NOT_KEPT)
        if not is_id(session_id) or not self._kept.end_portal_session(session_id, self._clock()):
            raise NotFound("no such session")

    def spend(self, form: str, ends_at: int) -> bool:
        """True for the first that sends a form of this name, False for those after; `ends_at` is
        when it is too old for anybody. Where the store can't keep them, in this process alone.
        """
        return (self._kept or self._here).spend_form(form, self._clock(), ends_at)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()
