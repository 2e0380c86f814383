"""What is wrong with settings, in people's words."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable
from typing import Any

from pydantic import ValidationError

from keyrush.errors import ConfigurationError
from keyrush.settings.issuers import IssuerTable
from keyrush.settings.resources import ResourceTable
from keyrush.settings.sources import PREFIX, place
from keyrush.settings.tables import AnonymousTable, PlanTable, RuleTable, Table

#: What pydantic says, and what people call it.
_WORDING = (
    ("Input should", "should"),
    ("a valid tuple", "a list"),
    ("a valid frozenset", "a list"),
)


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
        location = [str(part) for part in problem["loc"]]
        if not location:  # it is about several settings, and says which
            lines.append(problem["msg"].removeprefix("Value error, "))
            continue
        name = location[0]
        is_table = name in _TABLES and len(location) > 1
        shown = ".".join(location) if is_table else f"{PREFIX}{name.upper()}"
        message = problem["msg"].removeprefix("Value error, ")
        for pydantics, ours in _WORDING:
            message = message.replace(pydantics, ours)
        value = f" {problem['input']!r:.200}"
        if name in _SECRET or value in f" {message}":
            value = ""
        if problem["type"] == "extra_forbidden":
            close = similar(location[-1], _names_at(location[:-1]) or settings)
            value, message = "", "is no setting" + (f"; did you mean {close}?" if close else "")
            shown = ".".join(location)
        where = place(problem["loc"], given)
        lines.append(f"{shown}:{value} {message}" + (f" ({where})" if where else ""))
    return "\n".join(lines)


def _names_at(tables: list[str]) -> Iterable[str]:
    """The names that may stand in a table, by the names of what is around them; none outside."""
    return _TABLES[tables[0]].model_fields if tables and tables[0] in _TABLES else ()


def similar(name: str, names: Iterable[str]) -> str | None:
    """The one of the names that is nearly `name`, if there is one."""
    close = difflib.get_close_matches(name.lower()[:100], names, 1, cutoff=0.75)
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
