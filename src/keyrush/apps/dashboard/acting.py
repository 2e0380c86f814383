"""Who changes keys here: as operations take it, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from markupsafe import Markup

from keyrush.apps.dashboard.visit import May, Visit
from keyrush.operations.ids import LINK
from keyrush.store.decisions import OWNER


class Acting(NamedTuple):
    """Who asks, as the operations on keys take it."""

    by: str
    issued_at: int | None


def granted(may: May) -> tuple[str, ...] | None:
    """The scopes of the session's token by which a link asks; None of the account's owner."""
    return None if may.by is None else tuple(may.scopes)


def acting(may: May) -> Acting:
    """The link that a session's token stands for; else the account's owner, by the way they came,
    and by which session of a link.
    """
    way = may.way if may.session_id is None else f"{may.way}.{may.session_id}"
    return Acting(may.by or f"{OWNER}{way}", may.issued_at)


def who(visit: Visit, by: str | None, names: Mapping[str, str]) -> Markup:
    """By whom something was done, in words; `names` are of keys and links, by id."""
    if by is None:
        return visit.t("key.by_operator")
    if by.startswith(OWNER):
        name = by.removeprefix(OWNER).partition(".")[0]
        return visit.t(f"key.by_{name}" if f"key.by_{name}" in visit.t else "key.by_owner")
    if by.startswith(f"{LINK}_"):
        return visit.t("key.by_session", name=_isolated(names.get(by, by)))
    return visit.t("key.by_key", name=_isolated(names.get(by, by)))


def _isolated(text: str) -> Markup:
    """A text of whatever direction, which leaves that of what is around it."""
    return Markup("<bdi>{}</bdi>").format(text)
