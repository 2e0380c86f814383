"""Rules and plans: which path needs what, and whether a caller has it.

Paths are closed unless listed public, or optional: then nobody needs a key, but who sends one is
known by it. Where there are rules, only paths in plain form are judged at all (`paths.is_plain`),
a trailing slash never matters, and with a prefix the rules of every path that an app may see hold
together. What a resource needs depends on what is in the body, which `calls` judges: here is told
that a path is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Literal
from urllib.parse import parse_qsl

from keyrush.core.identity import API, Session, Verified
from keyrush.core.notation import names_of
from keyrush.core.paths import PathList, forms, pattern, with_head, within, without_slash
from keyrush.core.refusal import Refusal
from keyrush.core.resources import AMBIGUOUS, Resource
from keyrush.core.rule_limits import RuleLimits

#: Credits that one request may cost at most; a bound against a slip in the configuration.
MAX_CREDITS = 1_000_000_000

#: Units that a rule may have one request take from its windows at most, for the same reason.
MAX_COST = 1_000_000

#: The same of what the app says of a request. Tokens and rows are what they are: one with more of
#: them than this would not be counted at all.
MAX_UNITS = 1_000_000_000

#: Rules that are met together, by several forms of one path, of which it is kept what they need.
_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Rule:
    """What requests to `path` need.

    `path` is literal text with `{name}` for one segment and `{name:path}` for the rest.
    `methods` empty means all; GET includes HEAD. All of `scopes` and `modules` are needed,
    and every module that the query parameter `modules_from` names (contract R16). `credits`
    are charged before the work (O11). `tool` names the rule in the capabilities (O7).

    A request takes `cost` units from each of its windows: those of its plan, and of `limits`, where
    the rule has any. Where it is over them, it may wait for `wait` milliseconds instead.

    With `mcp`, a method of MCP, it is about such messages to the resource at `path` alone, and
    with `tool` about calls of that tool.
    """

    path: str
    methods: frozenset[str] = frozenset()
    scopes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    modules_from: str | None = None
    credits: int = 0
    tool: str | None = None
    mcp: str | None = None
    limits: RuleLimits | None = None
    cost: int = 1
    wait: int = 0


@dataclass(frozen=True, slots=True)
class Needs:
    """What all rules that hold for one request need together; `modules_from` are parameters.

    `is_named` is false where no rule names the request: then a valid key is enough, or nothing
    is (`Policy`'s `unruled`).

    With a `resource` it is about that, and nobody knows more until the body has been read: then
    `prices` are the credits of each of its messages, in their order, `rules` the rule of each, and
    `weight` is how many requests they are. What can't be taken at all is `refused`.

    It takes `cost` units from the windows of the plan, and of each of `limits` so many units as
    stand beside them. Instead of being refused it may wait for `wait` milliseconds.

    `rule` names the rule, for people: by the template of its path, or the tool it is about; of
    several, the first.
    """

    scopes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    modules_from: tuple[str, ...] = ()
    credits: int = 0
    is_named: bool = True
    resource: Resource | None = None
    prices: tuple[int, ...] | None = None
    weight: int = 1
    cost: int = 1
    limits: tuple[tuple[RuleLimits, int], ...] = ()
    wait: int = 0
    refused: Refusal | None = None
    rules: tuple[str, ...] = field(default=(), compare=False)
    rule: str = field(default="", compare=False)
    #: Some of its limits count by the client's address.
    is_by_address: bool = field(init=False, repr=False, compare=False)
    #: Some of its limits are on how many requests are under way at once.
    has_slots: bool = field(init=False, repr=False, compare=False)
    #: Some of its limits are only observed.
    is_observed: bool = field(init=False, repr=False, compare=False)
    #: It takes other than one unit a request from the windows of the plan alone.
    has_limits: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        has_limits = bool(self.limits) or self.cost != self.weight or bool(self.wait)
        is_by_address = any(limits.per == "address" for limits, _ in self.limits)
        object.__setattr__(self, "has_limits", has_limits)  # as a frozen class sets its fields
        object.__setattr__(self, "is_by_address", is_by_address)
        has_slots = any(limits.max_concurrent is not None for limits, _ in self.limits)
        object.__setattr__(self, "has_slots", has_slots)
        is_observed = any(limits.is_observed for limits, _ in self.limits)
        object.__setattr__(self, "is_observed", is_observed)

    @property
    def is_unread(self) -> bool:
        """True where it depends on a body that nobody has read."""
        return self.resource is not None and self.prices is None

    def are_for(self, session: Session) -> bool:
        """Whether a token is meant for what is asked for: one for a resource is worth nothing
        elsewhere, and one that names no resource nothing there (S59, S86).
        """
        if self.resource is not None:
            return self.resource.accepts(session)
        return session.audience is None or API in session.audience

    @classmethod
    def of(cls, rule: Rule) -> Needs:
        """What one rule needs."""
        parameters = () if rule.modules_from is None else (rule.modules_from,)
        name = rule.tool if rule.mcp and rule.tool else rule.path
        return cls(
            rule.scopes,
            rule.modules,
            parameters,
            rule.credits,
            cost=rule.cost,
            limits=() if rule.limits is None else ((rule.limits, rule.cost),),
            wait=rule.wait,
            rule=name,
        )

    def __or__(self, other: Needs) -> Needs:
        if self == other:
            return self
        return Needs(
            (*self.scopes, *(scope for scope in other.scopes if scope not in self.scopes)),
            self.modules + other.modules,
            self.modules_from + other.modules_from,
            max(self.credits, other.credits),
            self.is_named or other.is_named,
            cost=max(self.cost, other.cost),
            limits=with_limits(self.limits, other.limits, max),
            wait=min(self.wait, other.wait),
            rule=self.rule or other.rule,
        )


def with_limits(
    some: Iterable[tuple[RuleLimits, int]],
    others: Iterable[tuple[RuleLimits, int]],
    both: Callable[[int, int], int],
) -> tuple[tuple[RuleLimits, int], ...]:
    """The limits of either, each once, with their units; `both` says those of one that is in both
    (`max` for one request, `add` for two).
    """
    together = dict(some)
    for limits, cost in others:
        together[limits] = both(together[limits], cost) if limits in together else cost
    return tuple(together.items())


#: A valid key and nothing more: where no rule names the request.
ANY_KEY = Needs(is_named=False)

#: The same where what no rule names is refused, but not there.
_NOTHING = Needs()

#: A plan without the module: 403 (contract R7), or 402 (O12).
Gated = Literal["module_not_in_plan", "gated_feature"]

#: What a request gets that no rule names: any valid key passes, or none (403).
Unruled = Literal["any_key", "refuse"]


class Policy:
    """Public and optional paths (see `paths.PathList`) and rules, compiled. The first rule that
    matches counts.

    `modules` are all that some plan includes; `gated` is why a plan without one is refused.
    `root_path` is a prefix that the app itself strips, in addition to what the server says of one.
    """

    def __init__(
        self,
        public_paths: Iterable[str] = (),
        rules: Sequence[Rule] = (),
        *,
        optional_paths: Iterable[str] = (),
        modules: frozenset[str] = frozenset(),
        gated: Gated = "module_not_in_plan",
        unruled: Unruled = "any_key",
        root_path: str = "",
        resources: Sequence[Resource] = (),
    ) -> None:
        self._modules = modules
        self._gated: Gated = gated
        self._refuses_unruled = unruled == "refuse"
        # Where nothing is asked for, that is known by the one object.
        self._unnamed = Needs(is_named=False) if self._refuses_unruled else ANY_KEY
        self._root_path = root_path
        #: `PathList.holds` of the public paths itself, because it is asked of every request.
        self.is_public = PathList("public", public_paths, root_path).holds
        #: The same of paths that nobody needs a key for, but whoever sends one is known by it.
        self.is_optional = PathList("optional", optional_paths, root_path).holds
        #: Whether paths are judged by more than being public.
        self.has_rules = bool(rules or resources) or self._refuses_unruled
        rules = [rule for rule in rules if rule.mcp is None]
        #: Whether rules of paths say what they take of windows: limits of their own, or a cost.
        self.has_limits = any(rule.limits is not None or rule.cost != 1 for rule in rules)
        methods = {method for rule in rules for method in with_head(rule.methods)}
        self._by_method = {method: _Table(rules, method, resources) for method in methods}
        self._any_method = _Table(rules, None, resources)
        #: Whether there are resources.
        self.has_resources = bool(resources)
        self._resources = _Table((), None, resources)
        self._joined: dict[tuple[int, ...], Needs] = {}

    def needs(self, method: str, path: str, root: str = "") -> Needs:
        """What the rules for the path need, or `ANY_KEY`; `path` is in plain form.

        With a prefix, the first rule of each path that an app may take it for holds.
        """
        if not self.has_rules:
            return ANY_KEY
        rules = self._by_method.get(method)
        if rules is None:  # some frameworks take `get` for GET
            rules = self._by_method.get(method.upper(), self._any_method)
        if not root and not self._root_path:
            return rules.find(path) or self._unless_optional(method, path, root)
        taken = forms(path, [root, self._root_path])
        if self.has_resources and (resource := self._resource_of(taken, root)):
            return Needs(resource=resource)
        found = {form: needs for form in taken if (needs := rules.find(form))}
        if not found:
            return self._unless_optional(method, path, root)
        is_named = any(taken[form] for form in found) or self.is_optional(method, path, None, root)
        return self._together([*found.values()], is_named=is_named)

    def _together(self, found: Sequence[Needs], *, is_named: bool) -> Needs:
        """What several rules need of one request; the same object each time, because what a request
        takes is known by it.
        """
        place = (is_named, *map(id, found))  # those of rules live as long as this
        needs = self._joined.get(place)
        if needs is None:
            needs = reduce(or_, found)
            if needs.is_named != is_named:
                needs = replace(needs, is_named=is_named)
            if len(self._joined) >= _KEPT:
                self._joined.clear()
            self._joined[place] = needs
        return needs

    def resource_at(self, path: str, root: str = "") -> Resource | None:
        """The resource that the path belongs to, if it does; `AMBIGUOUS` where apps may differ."""
        if not self.has_resources:
            return None
        return self._resource_of(forms(path, [root, self._root_path]), root)

    def _resource_of(self, taken: Iterable[str], root: str) -> Resource | None:
        """The one that all forms of a path belong to, with their prefixes or without."""
        root = root.rstrip("/")
        found = {self._resource_of_form(form, root) for form in taken}
        return found.pop() if len(found) == 1 else AMBIGUOUS

    def _resource_of_form(self, form: str, root: str) -> Resource | None:
        inner = form
        while True:
            if needs := self._resources.find(inner):
                return needs.resource
            outer, inner = inner, within(within(inner, root), self._root_path)
            if inner == outer:
                return None

    def _unless_optional(self, method: str, path: str, root: str) -> Needs:
        """What is needed where no rule names the path: with a key, never more than without."""
        if self._refuses_unruled and self.is_optional(method, path, None, root):
            return _NOTHING
        return self._unnamed

    def authorise(self, verified: Verified, needs: Needs, query: bytes) -> Refusal | None:
        """None when the caller has the scopes and modules needed, else why not (R7, S17, S18).

        `query` is the raw query string.
        """
        if self._refuses_unruled and not needs.is_named:
            return UNRULED
        if needs.scopes and not verified.scopes.covers(needs.scopes):
            return Refusal("insufficient_scope", names=needs.scopes)
        wanted = needs.modules
        if query:
            for parameter in needs.modules_from:
                wanted += tuple(modules_in(query, parameter))
        return self.missing_modules(verified, wanted) if wanted else None

    def missing_modules(self, verified: Verified, wanted: Iterable[str]) -> Refusal | None:
        """A refusal when the plan does not include all of `wanted` (contract R16, O12).

        It names only modules that some plan has, so that request data is never echoed (S16).
        """
        missing = {module for module in wanted if module not in verified.plan.modules}
        if not missing:
            return None
        return Refusal(self._gated, names=tuple(sorted(missing & self._modules)))


#: Where no rule names the path or the method, and `KEYRUSH_UNRULED` is `refuse`.
UNRULED = Refusal("unruled")


class _Table:
    """The rules that hold for one method as one alternation, so that a look-up is one match.

    Resources come before all rules, the longest path first, with what is beneath them.
    """

    def __init__(
        self, rules: Sequence[Rule], method: str | None, resources: Sequence[Resource] = ()
    ) -> None:
        held = [rule for rule in rules if not rule.methods or method in with_head(rule.methods)]
        longest = sorted(resources, key=lambda one: -len(one.path))
        self._needs = [Needs(resource=one) for one in longest] + [Needs.of(rule) for rule in held]
        beneath = [f"{re.escape(one.path.rstrip('/'))}(?:/.*)?" for one in longest]
        patterns = "|".join(f"({one})" for one in [*beneath, *(pattern(r.path) for r in held)])
        self._match = re.compile(patterns).fullmatch

    def find(self, path: str) -> Needs | None:
        if self._needs and (found := self._match(without_slash(path))) and found.lastindex:
            return self._needs[found.lastindex - 1]
        return None


def named_by_method_alone(rules: Iterable[Rule]) -> Mapping[str, frozenset[str]]:
    """The methods that rules name, of each path of which they don't name all."""
    named: dict[str, frozenset[str]] = {}
    every: set[str] = set()
    for rule in rules:
        path = without_slash(rule.path)
        if rule.methods:
            named[path] = named.get(path, frozenset()) | with_head(rule.methods)
        else:
            every.add(path)
    return {path: methods for path, methods in named.items() if path not in every}


def modules_in(query: bytes, parameter: str) -> Iterable[str]:
    """Every name in every occurrence of `?parameter=a,b` (contract R16)."""
    # Only what may be it, so that a long query costs little.
    plain = parameter.encode() + b"="
    parts = [part for part in query.split(b"&") if part.startswith(plain) or _is_quoted(part)]
    pairs = parse_qsl(b"&".join(parts).decode("latin-1"), encoding="utf-8", errors="replace")
    return names_of(value for name, value in pairs if name == parameter)


def _is_quoted(part: bytes) -> bool:
    """True where the name of a parameter is not written as it is meant."""
    name = part.partition(b"=")[0]
    return b"%" in name or b"+" in name or not name.isascii()
