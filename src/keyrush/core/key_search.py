"""The keys of an account as people look for them: by text, status, environment, in an order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from keyrush.core.model import ApiKey
from keyrush.core.times import DAY

#: Keys that are looked through: of more, the oldest are left out.
MOST = 10_000

#: Milliseconds before its end in which a key is said to expire.
SOON = 14 * DAY

#: How a key stands.
Status = Literal["active", "expiring", "retiring", "expired", "revoked"]

#: What keys are put in order by: their names, when they were used last, or made.
Order = Literal["name", "used", "created"]


class Outline(NamedTuple):
    """What a list says of a key, with the fields of `core.model.ApiKey`."""

    id: str
    name: str
    prefix: str
    environment: str | None
    scopes: str  #: as they are written, with blanks between them
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    retires_at: int | None
    revoked_at: int | None


def outline_of(key: ApiKey) -> Outline:
    """What a list says of the key."""
    return Outline(
        key.id,
        key.name,
        key.prefix,
        key.environment,
        " ".join(key.scopes),
        key.created_at,
        key.last_used_at,
        key.expires_at,
        key.retires_at,
        key.revoked_at,
    )


class Ending(Protocol):
    """What the status of a key depends on."""

    @property
    def expires_at(self) -> int | None:
        """Unix milliseconds, or None."""
        ...

    @property
    def retires_at(self) -> int | None:
        """Unix milliseconds, or None."""
        ...

    @property
    def revoked_at(self) -> int | None:
        """Unix milliseconds, or None."""
        ...


class Search(NamedTuple):
    """What is looked for; None and empty texts mean all. Pages are counted from 1."""

    text: str = ""
    status: Status | None = None
    environment: str | None = None
    order: Order = "used"
    descending: bool = True
    page: int = 1
    per_page: int = 25


class Hits(NamedTuple):
    """A page of what was found: `total` in all, of `every` key of the account."""

    keys: Sequence[Outline]
    total: int
    every: int
    page: int
    pages: int


def status_of(key: Ending, now: int) -> Status:
    """How a key stands at an instant."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    if key.retires_at is not None:
        return "retiring" if key.retires_at > now else "expired"
    if key.expires_at is not None and key.expires_at <= now + SOON:
        return "expiring"
    return "active"


def found_in(keys: Sequence[Outline], search: Search, now: int) -> Hits:
    """The keys that are looked for, a page of them; the last page for one beyond it.

    Text is found in names, ids and prefixes, whatever its case. Keys that were never used come
    after all others; where two are alike, the newer one is first. `active` are also those that
    will expire.
    """
    found = list(keys)
    if text := search.text.strip().casefold():
        found = [
            key
            for key in found
            if text in key.name.casefold() or text in key.id.casefold() or _begins(key, text)
        ]
    if search.environment is not None:
        found = [key for key in found if key.environment == search.environment]
    if search.status is not None:
        meant = {"active", "expiring"} if search.status == "active" else {search.status}
        found = [key for key in found if status_of(key, now) in meant]
    found.sort(key=lambda key: (key.created_at, key.id), reverse=True)
    found.sort(key=_ORDERS[search.order], reverse=search.descending)
    pages = max(1, -(-len(found) // search.per_page))
    page = min(max(1, search.page), pages)
    shown = found[(page - 1) * search.per_page : page * search.per_page]
    return Hits(shown, len(found), len(keys), page, pages)


def _begins(key: Outline, text: str) -> bool:
    """Whether the key may begin like this: people paste more of it than is kept."""
    prefix = key.prefix.removesuffix("...").casefold()
    return text.removesuffix("...") in prefix or text.startswith(prefix)


_ORDERS: dict[Order, Callable[[Outline], Any]] = {
    "name": lambda key: key.name.casefold(),
    "used": lambda key: key.last_used_at or 0,
    "created": lambda key: key.created_at,
}
