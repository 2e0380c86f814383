"""Instants as Unix milliseconds, their months, and times and durations as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from keyrush.errors import InvalidArgument

#: Stands for "never" where an instant is compared: later than any date.
NEVER = 2**62


SECOND = 1000


DAY = 86_400 * SECOND


def iso(instant: int | None) -> str | None:
    """Unix milliseconds as ISO 8601 UTC with `Z` (contract O4), with a fraction if there is one."""
    if instant is None:
        return None
    seconds, milliseconds = divmod(instant, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    moment = moment.replace(microsecond=milliseconds * 1000)
    return moment.isoformat(timespec="milliseconds" if instant % 1000 else "seconds") + "Z"


def month_of(now: int) -> str:
    """The calendar month of an instant in UTC, as `"2026-11"` (contract R18)."""
    return _month_of_hour(now // 3_600_000)


@lru_cache(16)  # asked by every look-up, and hours change seldom
def _month_of_hour(hour: int) -> str:
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m")


def month_bounds(now: int) -> tuple[int, int]:
    """The first millisecond of the month of `now` and of the next one, UTC (contract R18)."""
    moment = datetime.fromtimestamp(now / 1000, UTC)
    first = datetime(moment.year, moment.month, 1, tzinfo=UTC)
    following = (first + timedelta(days=31)).replace(day=1)
    return int(first.timestamp()) * 1000, int(following.timestamp()) * 1000


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
    if _is_duration(text):
        return _bounded(now + parse_duration(text, field) * 1000, field)
    wanted = "is no expiry; write 30d, 1y, 2027-01-31, a time with a zone or none"
    return _instant(text, field, wanted)


def parse_past(text: str, now: int, field: str) -> int:
    """The instant in `"2h"`, `"30d"` (before `now`), a date (its beginning in UTC) or a time with a
    zone. Unix milliseconds.

    Raises:
        InvalidArgument: `text` is none of these, or a time without a zone.
    """
    text = text.strip()
    if _is_duration(text):
        return max(0, now - parse_duration(text, field) * 1000)
    return _instant(text, field, "is no time; write 2h, 30d, 2026-11-18 or a time with a zone")


def _is_duration(text: str) -> bool:
    """True for a number with a unit; without one it might be meant for a date."""
    found = _DURATION.fullmatch(text.lower())
    return found is not None and found[2] != ""


def _instant(text: str, field: str, wanted: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(field, f"{text!r} {wanted}") from None
    if len(text) == len("2027-01-31"):
        moment = moment.replace(tzinfo=UTC)
    if moment.tzinfo is None:
        raise InvalidArgument(field, f"{text!r} has no time zone; append Z for UTC")
    return _bounded(round(moment.timestamp() * 1000), field)


def _bounded(instant: int, field: str) -> int:
    if instant > LATEST:
        raise InvalidArgument(field, "is after the year 9999")
    return instant
