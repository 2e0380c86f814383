"""What MCP clients ask of a resource, message by message: what each needs, and what it costs.

Which messages there are is what the body says (S84); this is a table over them. The first rule
that matches counts, those without `mcp` too, but a message of `FREE` is never charged for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import add

from keyrush.core.paths import forms, pattern, with_head, without_slash
from keyrush.core.policy import Needs, Policy, Rule, with_limits
from keyrush.core.refusal import Refusal
from keyrush.core.resources import Resource
from keyrush.core.rule_limits import RuleLimits

TOOLS_CALL = "tools/call"

#: Requests that are never charged for and spend no window: a client that is refused there takes
#: the server for one of an older revision, or starts anew.
FREE = frozenset(
    {
        "server/discover",
        "initialize",
        "ping",
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "prompts/list",
    }
)

#: By which a client gives a call up.
CANCELLED = "notifications/cancelled"

#: How the methods of messages begin that ask for no answer.
NOTIFICATIONS = "notifications/"

#: The only methods of HTTP whose body, if any, is not read: the others may all carry messages.
BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Call:
    """One message of JSON-RPC. `method` is None of an answer to the server, `id` of a
    notification; `name` is the tool's, the prompt's, or the URI of what is read. `cancels` is the
    id of a call that the client gives up.
    """

    method: str | None
    id: str | int | None = None
    name: str | None = None
    cancels: str | int | None = None

    @property
    def is_free(self) -> bool:
        """True for what is never charged for and spends no window."""
        if self.method is None or self.method in FREE:
            return True
        return self.id is None and self.method.startswith(NOTIFICATIONS)


@dataclass(frozen=True, slots=True)
class Calls:
    """What one body holds; `is_batch` where it is an array, be it of one message."""

    calls: tuple[Call, ...]
    is_batch: bool = False


class CallPolicy:
    """The rules of resources, compiled. `plain` knows the rules of paths, without resources."""

    def __init__(
        self, rules: Sequence[Rule], resources: Iterable[Resource], plain: Policy, root_path: str
    ) -> None:
        self._plain = plain
        self._root_path = root_path
        self._tables = {one.path: _Table(rules, one) for one in resources}

    def needs(self, resource: Resource, method: str, path: str, root: str) -> Needs:
        """What a request needs that brings no messages: a stream that is opened, a session that
        is ended. It costs nothing, but beneath the resource, where an app may serve anything.
        """
        found = replace(self._plain.needs(method, path, root), resource=resource)
        if not self._is_at(resource, path, root):
            return replace(found, prices=(found.credits,))
        return replace(
            found, credits=0, is_named=True, prices=(), weight=0, cost=0, limits=(), wait=0
        )

    def needs_of(
        self, resource: Resource, method: str, path: str, root: str, asked: Calls
    ) -> Needs:
        """What the messages of one request need together, or that they are refused (400)."""
        if asked.is_batch and resource.batches == "refuse":
            return not_taken(resource, BATCH)
        table = self._tables[resource.path]
        beneath = None
        if not self._is_at(resource, path, root):  # what rules say of this very path holds, too
            beneath = self._plain.needs(method, path, root)
        together: Needs | None = None
        prices: list[int] = []
        rules: list[str] = []
        limits: tuple[tuple[RuleLimits, int], ...] = ()
        weight = cost = 0
        for call in asked.calls:
            found = table.find(call)
            is_free = call.is_free
            if beneath is not None:  # where an app may serve anything, whatever the message is
                found, is_free = found | beneath, False
            price = 0 if is_free else found.credits
            if price and call.id is None:
                return not_taken(resource, WITHOUT_ID)
            if is_free:
                found = replace(found, is_named=True)
            prices.append(price)
            rules.append(found.rule)
            if not is_free:
                weight += 1
                cost += found.cost
                limits = with_limits(limits, found.limits, add)
            if together is None:
                together = found
            else:
                is_named = together.is_named and found.is_named
                together = replace(together | found, is_named=is_named)
        assert together is not None  # noqa: S101  # a body holds a message at least
        return replace(
            together,
            credits=sum(prices),
            resource=resource,
            prices=tuple(prices),
            rules=tuple(rules),
            weight=weight,
            cost=cost,
            limits=limits,
            wait=together.wait,
        )

    def _is_at(self, resource: Resource, path: str, root: str) -> bool:
        if not root and not self._root_path:
            return without_slash(path) == resource.path
        taken = forms(without_slash(path), [root, self._root_path])
        return resource.path in taken


#: A batch, where the resource takes none.
BATCH = Refusal("batch_refused")

#: What is to be paid, and asks for no answer, so that nobody knows what came of it.
WITHOUT_ID = Refusal("call_without_id")


def not_taken(resource: Resource, refusal: Refusal) -> Needs:
    """What a request comes to that is refused whatever its caller may do."""
    return Needs(resource=resource, prices=(), weight=0, cost=0, refused=refusal)


class _Table:
    """The rules that hold for the messages of one resource."""

    def __init__(self, rules: Sequence[Rule], resource: Resource) -> None:
        self._needs: list[Needs] = []
        self._of_tool: dict[tuple[str, str], int] = {}
        self._of_method: dict[str, int] = {}
        self._of_any = _NEVER
        for rule in rules:
            if not _holds_at(rule, resource.path):
                continue
            place = len(self._needs)
            self._needs.append(Needs.of(rule))
            if rule.mcp is None:
                self._of_any = min(self._of_any, place)
            elif rule.tool is None:
                self._of_method.setdefault(rule.mcp, place)
            else:
                self._of_tool.setdefault((rule.mcp, rule.tool), place)

    def find(self, call: Call) -> Needs:
        """What the first rule that matches says, or that none does."""
        place = self._of_any
        if call.method is not None:
            place = min(place, self._of_method.get(call.method, _NEVER))
            if call.name is not None:
                place = min(place, self._of_tool.get((call.method, call.name), _NEVER))
        return self._needs[place] if place != _NEVER else _UNNAMED


_NEVER = 1 << 62

_UNNAMED = Needs(is_named=False)


def _holds_at(rule: Rule, path: str) -> bool:
    if rule.mcp is not None:
        return without_slash(rule.path) == path
    if rule.methods and "POST" not in with_head(rule.methods):
        return False
    return re.fullmatch(pattern(rule.path), path) is not None
