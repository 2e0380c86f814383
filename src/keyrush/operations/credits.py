"""The credits of accounts."""

from __future__ import annotations

from collections.abc import Callable

from keyrush.core.checks import checked_credits, refuse_keys
from keyrush.core.key_text import KeyFormat
from keyrush.errors import InvalidArgument, NotFound
from keyrush.operations.accounts import Accounts
from keyrush.operations.ids import known_id
from keyrush.store.protocol import Store


class Credits:
    """The operations on credits, over a store. `changed` is told whose balance has changed."""

    def __init__(
        self,
        store: Store,
        accounts: Accounts,
        *,
        key_format: KeyFormat,
        changed: Callable[[str], None],
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._format = key_format
        self._changed = changed

    def grant(self, account_id: str, credits: int) -> int:
        """Add credits (contract O19); the new balance.

        Raises:
            NotFound: There is no such account.
            InvalidArgument: `credits` is not from 1 to 1,000,000,000.
        """
        refuse_keys(self._format, account=account_id, credits=credits)
        if checked_credits(credits) == 0:
            raise InvalidArgument("credits", "0 would add nothing")
        balance = self._store.grant(known_id(account_id), credits)
        if balance is None:
            raise NotFound(f"no account {account_id!r}")
        self._changed(account_id)
        return balance

    def balance(self, account_id: str) -> int:
        """The account's balance, in credits.

        Raises:
            NotFound: There is no such account.
        """
        return self._accounts.get(account_id).balance
