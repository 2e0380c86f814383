"""Ids of accounts and keys: new ones, and what is worth looking for."""

from __future__ import annotations

import secrets

from keyrush.core.checks import is_id
from keyrush.core.key_text import ALPHABET
from keyrush.errors import NotFound

#: How the id of a link begins.
LINK = "sub"


def new_id(kind: str) -> str:
    """An id that nothing else has: `acct_…`, `cred_…` or `sub_…`, by `kind`."""
    return f"{kind}_{''.join(secrets.choice(ALPHABET) for _ in range(16))}"


def known_id(account_id: str) -> str:
    """The id, if it can be one of an account: what can't be is not looked for.

    Raises:
        NotFound: It can't.
    """
    if not is_id(account_id):
        raise NotFound("no such account")
    return account_id
