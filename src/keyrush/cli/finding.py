"""Which key, or which account, somebody means who has no id at hand."""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from keyrush.core.checks import is_id
from keyrush.core.key_text import DISPLAYED, KeyFormat
from keyrush.core.model import ApiKey
from keyrush.core.paging import MAX_LIMIT, Listed, Page
from keyrush.errors import NotFound
from keyrush.gate.gate import Gate

#: Accounts that a new name is compared with; a list that is longer costs more than it helps.
_COMPARED = 2_000

#: How near one name must be to another to be taken for a typing error, of 1.
_NEAR = 0.8

#: Characters of a key on standard input; no format allows longer ones.
_LONGEST = 1_000

T = TypeVar("T", bound=Listed)


def keys_meant(gate: Gate, given: str) -> list[ApiKey]:
    """The keys that an id, a whole key, or a display prefix with or without its dots may mean.

    `-` is for what stands on standard input, where no other process sees a key.

    Raises:
        NotFound: There is none; says nothing of what was given.
    """
    text = sys.stdin.readline(_LONGEST).strip() if given == "-" else given.strip()
    keys = KeyFormat(gate.settings.key_prefix, gate.settings.key_environments)
    if keys.is_in(text):
        return [gate.keys.find(text)]
    if is_id(text) and (found := gate.store.key(text)):
        return [found]
    prefix = text.rstrip(".…")
    random = prefix.rpartition("_")[2]
    if len(random) == DISPLAYED and prefix.startswith(f"{keys.prefix}_"):
        every = _all(lambda after: gate.keys.list(limit=MAX_LIMIT, after=after))
        if alike := [key for key in every if key.prefix.removesuffix("...") == prefix]:
            return alike
    raise NotFound("no such credential; keyrush keys list shows all")


def account_meant(gate: Gate, account_id: str) -> str | None:
    """The account whose id is nearly this one, if there is one among the first 2,000.

    Ids that differ in their numbers alone are all as near to each other.
    """
    every = _all(lambda after: gate.accounts.list(limit=MAX_LIMIT, after=after))
    numberless = _numberless(account_id)
    others = (account.id for account in itertools.islice(every, _COMPARED))
    near = [other for other in others if _numberless(other) != numberless]
    return next(iter(difflib.get_close_matches(account_id, near, 1, cutoff=_NEAR)), None)


def _numberless(account_id: str) -> str:
    return re.sub(r"\d+", "0", account_id)


def _all(page_after: Callable[[str | None], Page[T]]) -> Iterator[T]:
    page = page_after(None)
    yield from page
    while page.cursor is not None:
        page = page_after(page.cursor)
        yield from page
