"""Whose something is: where operations look an account up."""

from __future__ import annotations

from typing import Protocol

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


class Known:
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
