"""The scopes that a key may be given, by resource, with what each of them opens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from keyrush.core.catalog import Catalog
from keyrush.core.model import Scopes
from keyrush.core.policy import Rule

#: What a scope opens is named so often; of more, only how many there are.
_NAMED = 3


class Choice(NamedTuple):
    """A scope. What it `opens` are paths with their methods, and tools; `more` are not named."""

    scope: str
    opens: tuple[str, ...]
    more: int
    is_open: bool  #: whether who is signed in may give it


class Group(NamedTuple):
    """The scopes of a resource; the name is empty of those that name none."""

    name: str
    choices: tuple[Choice, ...]


def groups(catalog: Catalog, may: Scopes, besides: Iterable[str] = ()) -> list[Group]:
    """All scopes that are known, and `besides` those that a key has, as wildcards are."""
    found: dict[str, list[Choice]] = {}
    for scope in sorted({*catalog.known_scopes, *besides} - {"*"}):
        opens = list(dict.fromkeys(_named(rule) for rule in catalog.rules if _needs(rule, scope)))
        choice = Choice(scope, tuple(opens[:_NAMED]), max(0, len(opens) - _NAMED), scope in may)
        found.setdefault(_resource(scope), []).append(choice)
    return [Group(name, tuple(choices)) for name, choices in sorted(found.items())]


def _resource(scope: str) -> str:
    """What a scope is about: `articles` of `read:articles`."""
    name = scope.partition(":")[2]
    return "" if name == "*" else name


def _needs(rule: Rule, scope: str) -> bool:
    return any(one in Scopes([scope]) for one in rule.scopes)


def _named(rule: Rule) -> str:
    if rule.tool is not None:
        return rule.tool
    return f"{' '.join(sorted(rule.methods))} {rule.path}".strip()
