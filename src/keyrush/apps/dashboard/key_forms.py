"""The fields of forms about keys: what was chosen, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from keyrush.apps.dashboard.forms import Fields
from keyrush.core.checks import MAX_NAME, checked_name, checked_scopes
from keyrush.core.key_text import KeyFormat
from keyrush.core.model import Scopes
from keyrush.core.times import DAY, LATEST
from keyrush.errors import InvalidArgument

#: Days after which a key may end by itself, by what is chosen.
DAYS = {"30d": 30, "90d": 90, "1y": 365}

#: Grace of a rotation in seconds, by what is chosen; the first is what is proposed.
GRACES = {"24h": 86_400, "7d": 7 * 86_400, "1h": 3600, "15m": 900, "0": 0}


class Wrong(NamedTuple):
    """A field that is wrong, and the text that says what to do."""

    field: str
    text: str


def read_name(fields: Fields, keys: KeyFormat) -> str | Wrong:
    """The name, or what is wrong with it; one that holds a key is not given back."""
    name = fields.get("name", "").strip()
    if keys.is_in(name):
        return Wrong("name", "keys.wrong_name_key")
    if not name:
        return Wrong("name", "keys.wrong_name_empty")
    if len(name) > MAX_NAME:
        return Wrong("name", "keys.wrong_name_long")
    try:
        return checked_name(name)
    except InvalidArgument:
        return Wrong("name", "keys.wrong_name_characters")


def read_end(fields: Fields, now: int) -> int | Wrong | None:
    """When the key is to end, None for never; or what is wrong with that."""
    chosen = fields.get("expires", "")
    if chosen == "never":
        return None
    if chosen in DAYS:
        return now + DAYS[chosen] * DAY
    if chosen != "date":
        return Wrong("expires", "keys.wrong_expires")
    try:
        day = datetime.strptime(fields.get("until", ""), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return Wrong("until", "keys.wrong_until")
    ends = int(day.timestamp()) * 1000 + DAY  # after the last day
    if ends <= now:
        return Wrong("until", "keys.wrong_until_past")
    return ends if ends <= LATEST else Wrong("until", "keys.wrong_until")


def read_scopes(
    fields: Fields, known: frozenset[str], may: Scopes, has: Sequence[str] = ()
) -> tuple[str, ...] | Wrong:
    """The scopes of the key, none of which who is signed in lacks, but those that it `has`; or what
    is wrong with them.
    """
    if fields.get("access") == "full":
        scopes: tuple[str, ...] = ("*",)
    elif fields.get("access") == "some":
        try:
            scopes = checked_scopes(fields.all("scope"), known)
        except InvalidArgument:
            return Wrong("scopes", "keys.wrong_scopes_unknown")
    else:
        return Wrong("access", "keys.wrong_access")
    if not scopes:
        return Wrong("scopes", "keys.wrong_scopes_none")
    if any(scope not in may and scope not in Scopes(has) for scope in scopes):
        return Wrong("scopes", "keys.wrong_scopes_beyond")
    return scopes
