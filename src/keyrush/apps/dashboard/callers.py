"""Who an account's requests came from, by the names that people know."""

from __future__ import annotations

from collections.abc import Iterable

from keyrush.core.checks import is_id
from keyrush.errors import NotFound
from keyrush.gate.gate import Gate
from keyrush.operations.ids import LINK

#: Keys that are looked up one by one; of more all of the account's are read at once.
_FEW = 4


def names(gate: Gate, account_id: str, ids: Iterable[str | None]) -> dict[str, str]:
    """The names of keys, and of those whom an issuer knows their subjects, by id; what is not the
    account's has none.
    """
    asked = {one for one in ids if one is not None and is_id(one)}
    keys = gate.key_records.outlines(account_id) if len(asked) > _FEW else ()
    found = {key.id: key.name for key in keys if key.id in asked}
    for one in asked - found.keys():
        if one.startswith(f"{LINK}_"):
            link = gate.store.link(one)
            if link is not None and link.account_id == account_id:
                found[one] = link.subject
        else:
            try:
                found[one] = gate.keys.get(one, account_id).name
            except NotFound:
                continue
    return found
