"""What `[[resources]]` of the TOML file may hold, and what they must be beside other settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from keyrush.core.audience import canonical
from keyrush.core.paths import is_plain, without_slash
from keyrush.core.policy import Policy, Rule
from keyrush.core.resources import Resource
from keyrush.core.urls import is_safe
from keyrush.settings.tables import ScopeName, Table

#: The path of a resource's URI, which is part of another path.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._~-]*")

#: Requests for a token that lives on: for authorisation servers, not for resources (S65).
_OFFLINE = "offline_access"


def _url(value: str) -> str:
    if not is_safe(value) or "?" in value:
        raise ValueError(
            "must be an https URL without login, query and fragment; http from this machine alone"
        )
    if not is_plain(_path(value), None):
        raise ValueError("must have no //, no . or .. segment in its path")
    return value


def _path(url: str) -> str:
    return "/" + url.partition("://")[2].partition("/")[2]


def _resource(value: str) -> str:
    uri = _url(canonical(value))
    if not _PLAIN_PATH.fullmatch(_path(uri)):
        raise ValueError("may have letters, digits and /._~- in its path")
    if uri.endswith("/"):
        raise ValueError("must have no slash at its end")
    return uri


def _at(value: str) -> str:
    if not is_plain(value, None) or re.search(r"[{}*?#%;]", value):
        raise ValueError("must be a path such as /mcp, without {name} and *")
    return without_slash(value)


Url = Annotated[str, AfterValidator(_url)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class ResourceTable(Table):
    """`[[resources]]`: an endpoint of MCP. See `core.resources.Resource`."""

    path: Annotated[str, AfterValidator(_at)]
    resource: Annotated[str, AfterValidator(_resource)]
    authorization_servers: Annotated[tuple[Url, ...], Field(min_length=1)]
    scopes_supported: tuple[ScopeName, ...] | None = None  # else those of its rules
    name: Text | None = None
    documentation: Url | None = None
    accept_audience: Text | None = None
    client_ids: tuple[Text, ...] = ()
    batches: Literal["refuse", "sum"] = "refuse"
    stateless: bool = False

    @model_validator(mode="after")
    def _check(self) -> ResourceTable:
        if _OFFLINE in (self.scopes_supported or ()):
            raise ValueError(f"scopes_supported: {_OFFLINE} is no scope of a resource")
        if (self.accept_audience is None) != (not self.client_ids):
            raise ValueError(
                "accept_audience and client_ids go together: without the clients, whatever its "
                "issuer has issued to anybody would be good here"
            )
        return self

    def value(self, rules: Iterable[Rule]) -> Resource:
        """The value that the rest of keyrush works with; `rules` are all that there are."""
        scopes = self.scopes_supported
        if scopes is None:
            own = [rule for rule in rules if without_slash(rule.path) == self.path]
            scopes = tuple(dict.fromkeys(scope for rule in own for scope in rule.scopes))
        return Resource(
            path=self.path,
            uri=self.resource,
            authorization_servers=self.authorization_servers,
            scopes_supported=scopes,
            name=self.name,
            documentation=self.documentation,
            accept_audience=self.accept_audience,
            client_ids=frozenset(self.client_ids),
            batches=self.batches,
            stateless=self.stateless,
        )


def check_together(
    resources: Sequence[ResourceTable],
    rules: Sequence[Rule],
    public: Iterable[str],
    optional: Iterable[str],
    root_path: str,
) -> None:
    """Look at resources beside each other, and beside the paths that need no key.

    Raises:
        ValueError: They don't go together; says which settings.
    """
    for name, given in (
        ("path", [one.path for one in resources]),
        ("resource", [one.resource for one in resources]),
    ):
        if twice := sorted({one for one in given if given.count(one) > 1}):
            raise ValueError(f"resources: two have the {name} {twice[0]}")
    paths = {one.path for one in resources}
    for number, rule in enumerate(rules):
        if rule.mcp is not None and without_slash(rule.path) not in paths:
            raise ValueError(
                f"rules.{number}: {rule.path} has mcp, and is the path of no [[resources]]"
            )
    open_paths = Policy(public, optional_paths=optional, root_path=root_path)
    for path in sorted(paths):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            for form in (path, f"{path.rstrip('/')}/x"):
                if open_paths.is_public(method, form, None):
                    raise ValueError(f"KEYRUSH_PUBLIC_PATHS: opens {path}, which is a resource")
                if open_paths.is_optional(method, form, None):
                    raise ValueError(f"KEYRUSH_OPTIONAL_PATHS: opens {path}, which is a resource")
