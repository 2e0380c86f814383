"""Limits and times as people write them: `"60/minute;1000/hour"`, `"30d"`, `"2027-01-31"`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

from limits import parse_many

from keyrush.core.model import Limit
from keyrush.core.sliding import EXACT
from keyrush.errors import InvalidArgument

UNLIMITED = "unlimited"

_LONGEST = 500  # characters; more than any limits need

_ZERO_LENGTH = re.compile(r"(/|per)\s*0+\s*[a-z]", re.IGNORECASE)  # taken for 1 by `limits`


def counted(number: int, noun: str) -> str:
    """A number of things for people, as in `"1 key"`, `"2,000 keys"` or `"2 entries"`."""
    if number == 1:
        return f"{number:,} {noun}"
    return f"{number:,} {noun[:-1]}ies" if noun.endswith("ry") else f"{number:,} {noun}s"


def parse_limits(text: str | None, field: str = "limits") -> tuple[Limit, ...] | None:
    """The limits in `text`, shortest first; None for None, `()` for `"unlimited"`.

    Raises:
        InvalidArgument: `text` is no text, malformed, names one length twice, or is too large to
            count.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        kind = type(text).__name__
        raise InvalidArgument(field, f'must be text such as "60/minute;1000/hour", not {kind}')
    return _parsed(text, field)


@lru_cache(1024)
def _parsed(text: str, field: str) -> tuple[Limit, ...]:
    if len(text) > _LONGEST:
        raise InvalidArgument(field, f"must have at most {_LONGEST} characters")
    if text.strip().lower() == UNLIMITED:
        return ()
    try:
        items = [] if _ZERO_LENGTH.search(text) else parse_many(text)
    except ValueError:
        items = []
    if not items:
        raise InvalidArgument(
            field,
            f"{text!r} is no limit; write 100/minute, 60/minute;1000/hour or {UNLIMITED}, by "
            "second, minute, hour, day, month or year",
        )
    limits = sorted(
        (Limit(item.amount, item.get_expiry()) for item in items), key=lambda item: item.seconds
    )
    for limit, following in pairwise(limits):
        if limit.seconds == following.seconds:
            raise InvalidArgument(field, f"{text!r} has two limits per {limit.name}")
    for limit in limits:
        if limit.seconds < 1 or limit.amount * limit.seconds * 1000 >= EXACT:
            raise InvalidArgument(field, f"{limit} is too large; use a shorter window")
    return tuple(limits)


def format_limits(limits: tuple[Limit, ...] | None) -> str | None:
    """What `parse_limits` reads back."""
    if limits is None:
        return None
    return ";".join(map(str, limits)) or UNLIMITED


def names_of(values: Iterable[str]) -> Iterator[str]:
    """Split each value at commas and strip it; empty parts are dropped."""
    for value in values:
        for part in value.split(","):
            if name := part.strip():
                yield name
