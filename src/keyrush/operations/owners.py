"""Whose something is: where operations look an account up."""

from __future__ import annotations

from copy import copy
from typing import Protocol, Self

from keyrush.core.model import Account
from keyrush.errors import NotFound


class Owners(Protocol):
    """Where accounts are looked up."""

    def get(self, account_id: str) -> Account:
        """The account.

        Raises:
            NotFound: There is none with this id.
        """
        ...


class Owned:
    """Operations on what accounts own."""

    _accounts: Owners

    def of(self, account: Account) -> Self:
        """The same of one account that has just been looked up, and is not again for each of what
        is asked; another is not found.
        """
        same = copy(self)
        same._accounts = _Known(account)  # noqa: SLF001  # of this class
        return same


class _Known:
    """One account, which nobody looks up."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def get(self, account_id: str) -> Account:
        """The account.

        Raises:
            NotFound: It is another.
        """
        if account_id != self._account.id:
            raise NotFound(f"no account {account_id!r}")
        return self._account
