"""What pages say alike of limits, and of why a request was refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from keyrush.apps.dashboard.visit import Visit
from keyrush.core.model import ApiKey, Limit, Scopes


class Why(NamedTuple):
    """Why requests were refused, and what to do about it."""

    text: Markup
    todo: Markup


def limit_in_words(visit: Visit, limit: Limit) -> Markup:
    """`100 requests a minute`."""
    t, number = visit.t, visit.formats.number
    if f"billing.a_{limit.name}" in t:
        unit = t(f"billing.a_{limit.name}")
    else:
        unit = t("billing.in_seconds", n=number(limit.seconds))
    return t("billing.limit", n=number(limit.amount), unit=unit)


def why_refused(visit: Visit, key: ApiKey, limits: Sequence[Limit], reason: str, rule: str) -> Why:
    """Why requests to a rule were refused to a key, with the figures where there is no doubt about
    them: the one limit that it has, the scopes that the rule needs and it has not.
    """
    t, name = visit.t, f"refusals.{reason if f'refusals.{reason}' in visit.t else 'other'}"
    todo = t(f"{name}_do")
    if reason == "rate_limited" and len(limits) == 1:
        return Why(t("refusals.limit_reached", limit=limit_in_words(visit, limits[0])), todo)
    lacks = _lacking(visit, key, rule) if reason == "insufficient_scope" else []
    if lacks:
        return Why(t("refusals.scopes_lacking", scopes=", ".join(lacks)), todo)
    return Why(t(name), todo)


def _lacking(visit: Visit, key: ApiKey, name: str) -> list[str]:
    """The scopes that a rule needs, by its path or its tool's name, and the key has not."""
    has = Scopes(key.scopes)
    rules = (rule for rule in visit.gate.catalog.rules if name in {rule.path, rule.tool})
    return sorted({one for rule in rules for one in rule.scopes if one not in has})
