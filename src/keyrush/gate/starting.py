"""The one line that a gate says of itself as it starts, for whoever wonders what is in force."""

from __future__ import annotations

import logging
from collections.abc import Collection

from keyrush.authentication.peppers import database_file
from keyrush.core.urls import readable
from keyrush.limiter.opening import Opened
from keyrush.limiter.protocol import SmallLimiter
from keyrush.runtime.logs import plain
from keyrush.settings.settings import Settings
from keyrush.store.protocol import Store

#: Where the line goes, the first that somebody has given a handler: the defaults of servers show
#: their own loggers alone, and the root's shows warnings alone.
_LOGGERS = ("keyrush", "uvicorn.error", "gunicorn.error", "hypercorn.error", "_granian")

#: Names of one kind in the line.
_SHOWN = 8


def say_started(
    settings: Settings,
    store: Store | None,
    counted: Opened,
    limiter: SmallLimiter | None,
    *,
    keeps_activity: bool,
) -> None:
    """Log at INFO what the gate works with; no secret is in it.

    A `store` and a `limiter` that the settings do not name are said by their classes.
    """
    for name in _LOGGERS:
        log = logging.getLogger(name)
        if log.hasHandlers():
            if log.isEnabledFor(logging.INFO):
                parts = _parts(settings, store, counted, limiter)
                if settings.activity != "off" and not keeps_activity:
                    parts.append("activity in each process by itself, as the store can't keep it")
                log.info("%s", plain("; ".join(parts)))
            return


def _parts(
    settings: Settings, store: Store | None, counted: Opened, limiter: SmallLimiter | None
) -> list[str]:
    kept = place_of(settings) if store is None else type(store).__name__
    return [
        f"keyrush: store {kept}",
        f"limits {_counted(settings, counted, limiter)}",
        f"plans {_listed(settings.plans)}",
        f"rules {_listed([rule.path for rule in settings.rules])}",
        f"public paths {_listed(settings.public_paths)}",
        f"settings from {settings.config or 'no file'}",
    ]


def modules_of_no_plan(settings: Settings) -> list[str]:
    """For each rule that asks for modules that nobody can have: a sentence that says so."""
    known = settings.catalog().modules
    return [
        f"rules.{number}.modules: no plan has {_listed(missing)}, so every caller is refused at "
        f"{rule.path}; modules of plans are {_listed(sorted(known))}"
        for number, rule in enumerate(settings.rules)
        if (missing := [module for module in rule.modules if module not in known])
    ]


def asks_for_slots(settings: Settings) -> str | None:
    """The first setting that says how many requests may be under way at once, if one does."""
    for name, plan in settings.plans.items():
        if plan.max_concurrent is not None:
            return f"plans.{name}.max_concurrent"
    for number, rule in enumerate(settings.rules):
        if rule.max_concurrent is not None:
            return f"rules.{number}.max_concurrent"
    return None


def place_of(settings: Settings) -> str:
    """Where the store that the settings name is, for people: a whole path, or hosts; no secret."""
    path = database_file(settings.store_url)
    return readable(settings.store_url) if path is None else str(path)


def _counted(settings: Settings, counted: Opened, limiter: SmallLimiter | None) -> str:
    if limiter is not None:
        return f"by {type(limiter).__name__}"
    if not counted.is_shared:
        return "in each process by itself"
    is_beside = settings.limiter_url == "store"
    if counted.ledger is None:
        return "beside the store" if is_beside else f"in {readable(settings.limiter_url)}"
    where = "the store" if is_beside else readable(settings.limiter_url)
    return f"in {where}, {settings.limiter_mode}"


def _listed(names: Collection[str]) -> str:
    first = list(names)[:_SHOWN]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more:,} more" if more else "") if first else "none"
