"""Limits and times as people write them: `"60/minute;1000/hour"`, `"30d"`, `"2027-01-31"`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise

from limits import parse_many

from keyrush.errors import InvalidArgument
from keyrush.model import Limit
from keyrush.windows import EXACT

UNLIMITED = "unlimited"

_LONGEST = 500  # characters; more than any limits need

_ZERO_LENGTH = re.compile(r"(/|per)\s*0+\s*[a-z]", re.IGNORECASE)  # taken for 1 by `limits`


def counted(number: int, noun: str) -> str:
    """A number of things for people, as in `"1 key"` or `"2,000 keys"`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@lru_cache(1024)
def parse_limits(text: str | None, field: str = "limits") -> tuple[Limit, ...] | None:
    """The limits in `text`, shortest first; None for None, `()` for `"unlimited"`.

    Raises:
        InvalidArgument: `text` is malformed, names one length twice, or is too large to count.
    """
    if text is None:
        return None
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
            field, f"{text!r} is no limit; write 100/minute, 60/minute;1000/hour or {UNLIMITED}"
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


#: The end of the year 9999: later instants have no ISO 8601 form of four digits.
LATEST = 253_402_300_799_999

_DURATION = re.compile(r"([0-9]{1,9})\s*([smhdy]?)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "y": 365 * 86_400}


def parse_duration(text: str, field: str) -> int:
    """Seconds in `"45s"`, `"30m"`, `"24h"`, `"30d"` or `"1y"` (365 days), or in a bare number.

    Raises:
        InvalidArgument: `text` is no such duration.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise InvalidArgument(field, f"{text!r} is no duration; write 45s, 30m, 24h, 30d or 1y")
    return int(found[1]) * _SECONDS[found[2] or "s"]


def parse_expiry(text: str, now: int, field: str = "expires") -> int | None:
    """The instant in `"30d"`, `"1y"` (from `now`), a date (its beginning in UTC), a time with a
    zone, or None for `"none"` (contract R5). Unix milliseconds.

    Raises:
        InvalidArgument: `text` is none of these, or a time without a zone.
    """
    text = text.strip()
    if text.lower() in ("none", "never", ""):
        return None
    duration = _DURATION.fullmatch(text.lower())
    if duration and duration[2]:  # a bare number might be meant for a date
        return _bounded(now + parse_duration(text, field) * 1000, field)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(
            field, f"{text!r} is no expiry; write 30d, 1y, 2027-01-31, a time with a zone or none"
        ) from None
    if len(text) == len("2027-01-31"):
        moment = moment.replace(tzinfo=UTC)
    if moment.tzinfo is None:
        raise InvalidArgument(field, f"{text!r} has no time zone; append Z for UTC")
    return _bounded(round(moment.timestamp() * 1000), field)


def _bounded(instant: int, field: str) -> int:
    if instant > LATEST:
        raise InvalidArgument(field, "is after the year 9999")
    return instant
