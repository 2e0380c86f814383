"""What is wrong with settings, in people's words."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from keyrush.errors import ConfigurationError
from keyrush.settings.issuers import IssuerTable
from keyrush.settings.resources import ResourceTable
from keyrush.settings.sources import PREFIX, place
from keyrush.settings.tables import (
    AnonymousTable,
    MonthlyCreditsTable,
    PlanTable,
    RuleTable,
    Table,
)

#: What pydantic says, and what people call it.
_WORDING = (
    ("Input should", "should"),
    ("a valid tuple", "a list"),
    ("a valid frozenset", "a list"),
    ("a valid dictionary", "a table"),
    ("a valid boolean, unable to interpret input", "true or false"),
    (", unable to parse string as a number", ""),
    (", unable to parse string as an integer", ""),
    ("Field required", "is required"),
)

#: How a message begins that says itself what it is about, as `rules.0.limits` or `KEYRUSH_SCOPES`.
_ABOUT = re.compile(rf"((?:plans|rules|resources|issuers)(?:\.\w+)*|{PREFIX}\w+): ")

#: Settings whose values may hold secrets, and are not shown.
_SECRET = {"pepper", "store_url", "limiter_url", "issuers"}

#: Settings that are tables, by what stands in one.
_TABLES: dict[str, type[Table]] = {
    "plans": PlanTable,
    "rules": RuleTable,
    "resources": ResourceTable,
    "issuers": IssuerTable,
    "anonymous": AnonymousTable,
}

#: What Kubernetes and Docker put into the environment for a service that is named like keyrush.
_SERVICE_LINK = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)\Z"
)


def explained(error: ValidationError, given: dict[str, Any], settings: Collection[str]) -> str:
    """One line for each wrong setting: its name, its value unless secret, what is allowed, and
    where in the file it stands, if it does. `settings` are the names of all.
    """
    lines = []
    for problem in error.errors(include_url=False):
        message = problem["msg"].removeprefix("Value error, ")
        if about := _ABOUT.match(message):  # one of several settings, or of the rules
            name = about[1].removeprefix(PREFIX).lower()
            location = [int(part) if part.isdigit() else part for part in name.split(".")]
        else:
            location = [part for part in problem["loc"] if part != "[key]"]
            message = _said(problem, location, message, settings)
        where = place(location, given) if location else None
        lines.append(message + (f" ({where})" if where else ""))
    return "\n".join(lines)


def _said(
    problem: Mapping[str, Any],
    location: Sequence[int | str],
    message: str,
    settings: Collection[str],
) -> str:
    """Name, value and what is allowed, of one wrong setting."""
    names = [str(part) for part in location]
    kind, given = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        allowed = _names_at(names[:-1])
        if close := similar(names[-1], allowed or settings):
            hint = f"; did you mean {close}?"
        else:
            hint = f"; allowed are {', '.join(allowed)}" if allowed else ""
        return f"{'.'.join(names)}: is no setting{hint}"
    is_in_table = names[0] in _TABLES and len(names) > 1
    shown = ".".join(names) if is_in_table else f"{PREFIX}{names[0].upper()}"
    if kind == "tuple_type" and isinstance(given, dict) and names[0] in _TABLES and not is_in_table:
        return f"{shown}: there may be several; begin each with [[{names[0]}]]"
    if kind == "model_type":
        table = next(one for one in Table.__subclasses__() if one.__name__ in message)
        message = f"should be a table with {', '.join(table.model_fields)}"
    for pydantics, ours in _WORDING:
        message = message.replace(pydantics, ours)
    # A list or a table would be long, and the message names what is wrong in it.
    is_short = isinstance(given, str | int | float)
    value = f" {given!r:.200}"
    if not is_short or names[0] in _SECRET or value in f" {message}":
        value = ""
    return f"{shown}:{value} {message}"


def _names_at(tables: Sequence[str]) -> Collection[str]:
    """The names that may stand in a table, by the names of what is around them; none outside."""
    if not tables or tables[0] not in _TABLES:
        return ()
    inner = MonthlyCreditsTable if "credits_per_month" in tables[1:] else _TABLES[tables[0]]
    return inner.model_fields


def similar(name: str, names: Iterable[str]) -> str | None:
    """The one of the names that is nearly `name`, or is it as a variable, if there is one."""
    bare = name.lower().removeprefix(PREFIX.lower())[:100]
    close = difflib.get_close_matches(bare, names, 1, cutoff=0.75)
    return close[0] if close else None


def unknown_variables(settings: Collection[str]) -> list[str]:
    """Variables that begin like settings and are none; they may be meant for something else."""
    names = (name for name in os.environ if name.startswith(PREFIX))
    return [
        name
        for name in names
        if name.removeprefix(PREFIX).lower() not in settings and not _SERVICE_LINK.search(name)
    ]


def look_for_typing_errors(settings: Collection[str]) -> None:
    """Stop on a variable that is nearly a setting."""
    for variable in unknown_variables(settings):
        if close := similar(variable.removeprefix(PREFIX), settings):
            raise ConfigurationError(
                f"{variable}: is no setting; did you mean {PREFIX}{close.upper()}?"
            )
