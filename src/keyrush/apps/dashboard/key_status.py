"""How a key stands: a word, a shape and a colour; and why something can't be done to it."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from keyrush.apps.dashboard.visit import Visit
from keyrush.core.key_search import Outline, Status, status_of
from keyrush.core.model import ApiKey

_MARKS: dict[Status, tuple[str, str]] = {
    "active": ("good", "check"),
    "expiring": ("warn", "clock"),
    "retiring": ("warn", "rotate"),
    "expired": ("none", "clock"),
    "revoked": ("none", "ban"),
}


class Pill(NamedTuple):
    """What a pill shows."""

    tone: str
    icon: str
    words: Markup


def pill(visit: Visit, key: ApiKey | Outline) -> Pill:
    """How a key stands now."""
    status, formats = status_of(key, visit.now), visit.formats
    when = ""
    if status == "revoked" and key.revoked_at is not None:
        when = formats.day(key.revoked_at)
    ends = [at for at in (key.expires_at, key.retires_at) if at is not None]
    if status in {"expiring", "retiring"}:
        when = formats.span(min(ends) - visit.now)
    elif status == "expired":
        when = formats.span(visit.now - min(ends))
    return Pill(*_MARKS[status], visit.t(f"keys.status_{status}", when=when))


def why_not_revoke(visit: Visit, key: ApiKey) -> Markup | None:
    """Why a key can't be revoked; None where it can."""
    if key.revoked_at is not None:
        return visit.t("key.not_revoked")
    return None if visit.may.write else visit.t("key.not_read_only")


def why_not(visit: Visit, key: ApiKey, *, rotating: bool = False) -> Markup | None:
    """Why a key can't be changed, or with `rotating` replaced; None where it can."""
    status = status_of(key, visit.now)
    if status in {"revoked", "expired"}:
        return visit.t(f"key.not_{status}")
    if rotating and key.retires_at is not None:
        return visit.t("key.not_rotated")
    if not visit.may.write:
        return visit.t("key.not_read_only")
    return None
