"""What the operator has set of plans, rules and scopes, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keyrush.core.model import Plan
from keyrush.core.policy import Rule
from keyrush.core.resources import Resource


@dataclass(frozen=True, slots=True)
class Catalog:
    """Plans, rules and resources, and what follows from them.

    `plans` are by name, in the order of the table. `modules` are all that some plan includes,
    `known_scopes` those that keys may have besides wildcards, empty where any may be given.
    `unmetered` are the environments of keys that are neither counted nor charged (contract R2).
    """

    plans: Mapping[str, Plan]
    default_plan: str
    rules: tuple[Rule, ...] = ()
    modules: frozenset[str] = frozenset()
    known_scopes: frozenset[str] = frozenset()
    unmetered: frozenset[str] = frozenset()
    resources: tuple[Resource, ...] = ()

    @property
    def tools(self) -> Mapping[str, Rule]:
        """The tools by their names, each with the rule that costs most: one that is served by a
        path and over MCP is one, and nobody pays more than what is said of it (contract O7).
        """
        found: dict[str, Rule] = {}
        for rule in self.rules:
            if rule.tool is not None:
                known = found.get(rule.tool)
                if known is None or rule.credits > known.credits:
                    found[rule.tool] = rule
        return found
