"""Who an account's requests came from, by the names that people know."""

from __future__ import annotations

from collections.abc import Iterable

from keyrush.core.checks import is_id
from keyrush.gate.gate import Gate
from keyrush.operations.ids import LINK


def names(gate: Gate, account_id: str, ids: Iterable[str | None]) -> dict[str, str]:
    """The names of keys, and of those whom an issuer knows their subjects, by id; what is not the
    account's has none.
    """
    asked = {one for one in ids if one is not None and is_id(one)}
    links = {one for one in asked if one.startswith(f"{LINK}_")}
    keys = gate.key_records.outlines(account_id, asked - links) if asked - links else ()
    found = {key.id: key.name for key in keys}
    for one in links:
        link = gate.store.link(one)
        if link is not None and link.account_id == account_id:
            found[one] = link.subject
    return found
