"""Sessions: what has been issued to a subject, and is to be good no more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from keyrush.core.checks import checked_issuer, checked_subject, refuse_keys
from keyrush.core.key_text import KeyFormat
from keyrush.core.model import Link
from keyrush.core.times import SECOND
from keyrush.errors import NotFound
from keyrush.store.protocol import Store


class Sessions:
    """The operations on sessions, over a store. `issuers` are those whose tokens are good;
    `changed` is told the account of which what is cached no longer holds.
    """

    def __init__(
        self,
        store: Store,
        *,
        issuers: Collection[str],
        key_format: KeyFormat,
        changed: Callable[[str], None],
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._issuers = issuers
        self._format = key_format
        self._changed = changed
        self._clock = clock

    def revoke(self, subject: str, *, issuer: str | None = None) -> Sequence[Link]:
        """Refuse every token that was issued to the subject before now, by that issuer or by any;
        whom they stand for, each with its account.

        What the subject is issued from now on is good: where that must not be, end its session
        with the issuer too, or `accounts.unlink`. Tokens say in whole seconds when they were
        issued: one of this second is refused, too. So are those that don't say it.

        Raises:
            NotFound: No such subject has come here.
            InvalidArgument: The issuer is not configured, or the subject malformed.
        """
        refuse_keys(self._format, subject=subject, issuer=issuer)
        if issuer is not None:
            checked_issuer(issuer, self._issuers)
        known = self._store.links(subject=checked_subject(subject))
        before = self._clock() // SECOND * SECOND + SECOND
        revoked = [
            link.id
            for link in known
            if issuer in {None, link.issuer} and self._store.revoke_sessions(link.id, before)
        ]
        if not revoked:
            raise NotFound("no such subject")
        found = [link for one in revoked if (link := self._store.link(one)) is not None]
        for account_id in {link.account_id for link in found}:
            self._changed(account_id)
        return found
