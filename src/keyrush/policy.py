"""Rules and plans: which path needs what, and whether a caller has it.

Paths are closed unless listed public, and a public path is matched exactly as it was sent.
A rule, on the other hand, is matched against the path made plain (`//`, `.`, `..` and a
trailing slash resolved), so that no other spelling of a path escapes its rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, quote

from keyrush.errors import ConfigurationError
from keyrush.model import Identity, Refusal, names_of

#: Credits that one request may cost at most; a bound against a slip in the configuration.
MAX_CREDITS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rule:
    """What requests to `path` need.

    `path` is literal text with `{name}` for one segment and `{name:path}` for the rest.
    `methods` empty means all; GET includes HEAD. All of `scopes` and `modules` are needed,
    and every module that the query parameter `modules_from` names (contract R16). `credits`
    are charged before the work (O11). `tool` names the rule in the capabilities (O7).
    """

    path: str
    methods: frozenset[str] = frozenset()
    scopes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    modules_from: str | None = None
    credits: int = 0
    tool: str | None = None


#: A plan without the module: 403 (contract R7), or 402 (O12).
Gated = Literal["module_not_in_plan", "gated_feature"]

#: What clients leave unquoted in a path (RFC 3986 §3.3).
_UNQUOTED = "/:@!$&'()*+,;=~-._"

#: Applies where no rule matches: a valid key and nothing more.
ANY_KEY = Rule("{path:path}")


class Policy:
    """Public paths and rules, compiled. The first rule that matches counts.

    A public path is `"/health"` (any method) or `"GET /health"` (GET and HEAD only). `modules`
    are all that some plan includes; `gated` is why a plan without one is refused.
    """

    def __init__(
        self,
        public_paths: Iterable[str] = (),
        rules: Sequence[Rule] = (),
        *,
        modules: frozenset[str] = frozenset(),
        gated: Gated = "module_not_in_plan",
    ) -> None:
        self._modules = modules
        self._gated: Gated = gated
        self._public: dict[str, frozenset[str] | None] = {}
        for entry in public_paths:
            method, _, path = entry.rpartition(" ")
            path = path.strip()
            if not path.startswith("/") or plain(path) != path or re.search(r"[{}*]", path):
                raise ConfigurationError(
                    f"public path {entry!r}: must be one exact path, without //, .., a trailing /, "
                    "{ or *"
                )
            known = self._public.get(path, frozenset())
            if not method.strip() or known is None:
                self._public[path] = None
            else:
                self._public[path] = known | _with_head({method.strip().upper()})
        self._any_rules = bool(rules)
        methods = {method for rule in rules for method in _with_head(rule.methods)}
        self._by_method = {method: _Table(rules, method) for method in methods}
        self._any_method = _Table(rules, None)

    def is_public(self, method: str, path: str, raw_path: bytes | None) -> bool:
        """True for a public path spelled exactly so: `//`, `%2f`, `..`, a trailing `/` are not it.

        `raw_path`, where the server gives it, must be the plain quoting of `path`.
        """
        methods = self._public.get(path, ())
        if methods is not None and method not in methods:
            return False
        return (
            raw_path is None
            or b"%" not in raw_path
            or raw_path.upper().endswith(quote(path, safe=_UNQUOTED).encode("ascii").upper())
        )

    def rule(self, method: str, path: str) -> Rule:
        """The first rule for the path, or `ANY_KEY`.

        A path that is not plain is judged as it was sent and made plain, because apps differ
        in what they make of it: both rules hold.
        """
        if not self._any_rules:
            return ANY_KEY
        rules = self._by_method.get(method)
        if rules is None:  # some frameworks take `get` for GET
            rules = self._by_method.get(method.upper(), self._any_method)
        rule = rules.find(path)
        simple = plain(path)
        return rule if simple == path else _both(rule, rules.find(simple))

    def authorise(self, identity: Identity, rule: Rule, query: bytes) -> Refusal | None:
        """None when the caller has the scopes and modules of the rule, else why not (R7, S17, S18).

        `query` is the raw query string.
        """
        if rule.scopes and not identity.scopes.covers(rule.scopes):
            return Refusal("insufficient_scope", names=rule.scopes)
        wanted = rule.modules
        if rule.modules_from is not None and query:
            wanted += tuple(modules_in(query, rule.modules_from))
        return self.missing_modules(identity, wanted) if wanted else None

    def missing_modules(self, identity: Identity, wanted: Iterable[str]) -> Refusal | None:
        """A refusal when the plan does not include all of `wanted` (contract R16, O12).

        It names only modules that some plan has, so that request data is never echoed (S16).
        """
        missing = {module for module in wanted if module not in identity.plan.modules}
        if not missing:
            return None
        return Refusal(self._gated, names=tuple(sorted(missing & self._modules)))


class _Table:
    """The rules that hold for one method as one alternation, so that a look-up is one match."""

    def __init__(self, rules: Sequence[Rule], method: str | None) -> None:
        self._rules = [
            rule for rule in rules if not rule.methods or method in _with_head(rule.methods)
        ]
        patterns = "|".join(f"({_pattern(rule.path)})" for rule in self._rules)
        self._match = re.compile(patterns).fullmatch

    def find(self, path: str) -> Rule:
        if self._rules and (found := self._match(path)) and found.lastindex:
            return self._rules[found.lastindex - 1]
        return ANY_KEY


def _both(one: Rule, other: Rule) -> Rule:
    """A rule that needs what either needs."""
    if one is other or other is ANY_KEY:
        return one
    if one is ANY_KEY:
        return other
    return Rule(
        one.path,
        scopes=one.scopes + other.scopes,
        modules=one.modules + other.modules,
        modules_from=one.modules_from or other.modules_from,
        credits=max(one.credits, other.credits),
    )


def plain(path: str) -> str:
    """The path with one slash first, `//`, `.` and `..` resolved, no slash or newline at its end.

    A newline, because routers that match with `$` pass over it.
    """
    if path[:1] == "/" and "//" not in path and "/." not in path and path[-1] not in "/\n":
        return path
    segments: list[str] = []
    for segment in path.removesuffix("\n").split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)


_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(:path)?\}")


def _pattern(path: str) -> str:
    if not path.startswith("/") or re.search(r"[{}*]", _PLACEHOLDER.sub("", path)):
        raise ConfigurationError(
            f"rule path {path!r}: must start with /; write {{name}} for one segment and "
            "{name:path} for the rest"
        )
    if len(path) > 1 and path.endswith("/"):
        return _pattern(path[:-1]) + "/?"
    pattern, end = "", 0
    for placeholder in _PLACEHOLDER.finditer(path):
        before = path[end : placeholder.start()]
        end = placeholder.end()
        if placeholder[2] and end == len(path) and before.endswith("/"):
            pattern += re.escape(before[:-1]) + "(?:/(?s:.*))?"  # what is mounted there, too
        else:
            pattern += re.escape(before) + ("(?s:.*)" if placeholder[2] else "[^/]+")
    return pattern + re.escape(path[end:])


def _with_head(methods: Iterable[str]) -> frozenset[str]:
    """GET rules hold for HEAD too: it is answered by the same handler."""
    upper = frozenset(method.upper() for method in methods)
    return upper | {"HEAD"} if "GET" in upper else upper


def modules_in(query: bytes, parameter: str) -> Iterable[str]:
    """Every name in every occurrence of `?parameter=a,b` (contract R16)."""
    pairs = parse_qsl(query.decode("latin-1"), encoding="utf-8", errors="replace")
    return names_of(value for name, value in pairs if name == parameter)
