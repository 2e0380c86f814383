"""Lists a page at a time: where a page begins, and the text that names the place.

Pages are cut by time and id, so that what is added or removed meanwhile neither
repeats nor hides anything else.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, overload

from keyrush.core.checks import is_id
from keyrush.errors import InvalidArgument

#: Ts on a page, unless said otherwise, and at most.
DEFAULT_LIMIT = 50
MAX_LIMIT = 100

#: Longer texts are no cursors; an id has 64 characters at most.
_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,128}")
_PLACE = re.compile(r"(0|[1-9][0-9]{0,14})\.(.+)")


class Place(NamedTuple):
    """Where in a list, by time and id, an account, a key or a row of activity stands."""

    created_at: int  #: or when it came
    id: str


class Listed(Protocol):
    """What lists are made of."""

    @property
    def created_at(self) -> int:
        """Unix milliseconds."""
        ...

    @property
    def id(self) -> str:
        """The id, which no other of the list has."""
        ...


T = TypeVar("T", bound=Listed)

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Sequence[Item]):
    """Some of a list. `cursor` names where the next page begins; None on the last."""

    items: tuple[Item, ...]
    cursor: str | None = None

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...

    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        return self.items[index]


def page_of(found: Sequence[T], limit: int) -> Page[T]:
    """The page of `limit` items, out of one more than that where there are more."""
    items = tuple(found[:limit])
    return Page(items, cursor_of(items[-1]) if len(found) > limit else None)


def place_of(item: Listed) -> Place:
    """Where the item stands."""
    return Place(item.created_at, item.id)


def cursor_of(item: Listed) -> str:
    """The text that names the place after `item`: opaque, and safe in a URL."""
    return cursor_at(place_of(item))


def cursor_at(place: Place) -> str:
    """The text that names what follows a place: opaque, and safe in a URL."""
    text = f"{place.created_at}.{place.id}"
    return base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def parse_cursor(cursor: str | None) -> Place | None:
    """The place that a cursor names; None, the beginning, for None.

    Raises:
        InvalidArgument: It is none that `cursor_at` makes.
    """
    if cursor is None:
        return None
    if isinstance(cursor, str) and _CURSOR.fullmatch(cursor):
        try:
            text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        except ValueError:
            text = ""
        if (found := _PLACE.fullmatch(text)) and is_id(found[2]):
            place = Place(int(found[1]), found[2])
            if cursor_at(place) == cursor:
                return place
    raise InvalidArgument("cursor", "is none that a list has given")


def checked_limit(limit: int) -> int:
    """`limit`, if a page may have so many items.

    Raises:
        InvalidArgument: It is no whole number from 1 to 100.
    """
    if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
        raise InvalidArgument("limit", f"must be a whole number from 1 to {MAX_LIMIT}")
    return limit
