"""Rules and plans: which path needs what, and whether a caller has it.

Paths are closed unless listed public, and a public path is matched exactly as it was sent. Apps
differ in what they take a path to be: some merge `//`, some resolve dots or strip a prefix. So
where there are rules, only paths in plain form are judged at all (`is_plain`), a trailing slash
never matters, and with a prefix the rules of every path that an app may see hold together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
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


@dataclass(frozen=True, slots=True)
class Needs:
    """What all rules that hold for one request need together; `modules_from` are parameters.

    `is_named` is false where no rule names the request: then a valid key is enough, or nothing
    is (`Policy`'s `unruled`).
    """

    scopes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    modules_from: tuple[str, ...] = ()
    credits: int = 0
    is_named: bool = True

    @classmethod
    def of(cls, rule: Rule) -> Needs:
        """What one rule needs."""
        parameters = () if rule.modules_from is None else (rule.modules_from,)
        return cls(rule.scopes, rule.modules, parameters, rule.credits)

    def __or__(self, other: Needs) -> Needs:
        if self == other:
            return self
        return Needs(
            (*self.scopes, *(scope for scope in other.scopes if scope not in self.scopes)),
            self.modules + other.modules,
            self.modules_from + other.modules_from,
            max(self.credits, other.credits),
            self.is_named or other.is_named,
        )


#: A valid key and nothing more: where no rule names the request.
ANY_KEY = Needs(is_named=False)

#: A plan without the module: 403 (contract R7), or 402 (O12).
Gated = Literal["module_not_in_plan", "gated_feature"]

#: What a request gets that no rule names: any valid key passes, or none (403).
Unruled = Literal["any_key", "refuse"]

#: What clients leave unquoted in a path (RFC 3986 §3.3).
_UNQUOTED = "/:@!$&'()*+,;=~-._"


class Policy:
    """Public paths and rules, compiled. The first rule that matches counts.

    A public path is `"/health"` (any method) or `"GET /health"` (GET and HEAD only). `modules`
    are all that some plan includes; `gated` is why a plan without one is refused. `root_path`
    is a prefix that the app itself strips, in addition to what the server says of one.
    """

    def __init__(
        self,
        public_paths: Iterable[str] = (),
        rules: Sequence[Rule] = (),
        *,
        modules: frozenset[str] = frozenset(),
        gated: Gated = "module_not_in_plan",
        unruled: Unruled = "any_key",
        root_path: str = "",
    ) -> None:
        self._modules = modules
        self._gated: Gated = gated
        self._refuses_unruled = unruled == "refuse"
        # Where nothing is asked for, that is known by the one object.
        self._unnamed = Needs(is_named=False) if self._refuses_unruled else ANY_KEY
        self._root_path = root_path
        self._public: dict[str, frozenset[str] | None] = {}
        for entry in public_paths:
            method, _, path = entry.rpartition(" ")
            path = path.strip()
            if not _is_plain(path) or _without_slash(path) != path or re.search(r"[{}*]", path):
                raise ConfigurationError(
                    f"public path {entry!r}: must be one exact path, without //, .., a trailing /, "
                    "{ or *"
                )
            known = self._public.get(path, frozenset())
            if not method.strip() or known is None:
                self._public[path] = None
            else:
                self._public[path] = known | _with_head({method.strip().upper()})
        #: Whether paths are judged by more than being public.
        self.has_rules = bool(rules) or self._refuses_unruled
        methods = {method for rule in rules for method in _with_head(rule.methods)}
        self._by_method = {method: _Table(rules, method) for method in methods}
        self._any_method = _Table(rules, None)

    def is_public(self, method: str, path: str, raw_path: bytes | None, root: str = "") -> bool:
        """True for a public path spelled exactly so: `//`, `%2f`, `..`, a trailing `/` are not it.

        `raw_path`, where the server gives it, must be the plain quoting of `path`. `root` is the
        prefix that the server names, with which `path` may begin.
        """
        if root or self._root_path:
            path = _within(_within(path, root), self._root_path)
        methods = self._public.get(path, ())
        if methods is not None and method not in methods:
            return False
        return (
            raw_path is None
            or b"%" not in raw_path
            or raw_path.upper().endswith(quote(path, safe=_UNQUOTED).encode("ascii").upper())
        )

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
            return rules.find(path) or self._unnamed
        forms = _forms(path, [root, self._root_path])
        found = {form: needs for form in forms if (needs := rules.find(form))}
        if not found:
            return self._unnamed
        is_named = any(forms[form] for form in found)
        return replace(reduce(or_, found.values()), is_named=is_named)

    def authorise(self, identity: Identity, needs: Needs, query: bytes) -> Refusal | None:
        """None when the caller has the scopes and modules needed, else why not (R7, S17, S18).

        `query` is the raw query string.
        """
        if self._refuses_unruled and not needs.is_named:
            return UNRULED
        if needs.scopes and not identity.scopes.covers(needs.scopes):
            return Refusal("insufficient_scope", names=needs.scopes)
        wanted = needs.modules
        if query:
            for parameter in needs.modules_from:
                wanted += tuple(modules_in(query, parameter))
        return self.missing_modules(identity, wanted) if wanted else None

    def missing_modules(self, identity: Identity, wanted: Iterable[str]) -> Refusal | None:
        """A refusal when the plan does not include all of `wanted` (contract R16, O12).

        It names only modules that some plan has, so that request data is never echoed (S16).
        """
        missing = {module for module in wanted if module not in identity.plan.modules}
        if not missing:
            return None
        return Refusal(self._gated, names=tuple(sorted(missing & self._modules)))


#: Where no rule names the path or the method, and `KEYRUSH_UNRULED` is `refuse`.
UNRULED = Refusal("unruled")


class _Table:
    """The rules that hold for one method as one alternation, so that a look-up is one match."""

    def __init__(self, rules: Sequence[Rule], method: str | None) -> None:
        held = [rule for rule in rules if not rule.methods or method in _with_head(rule.methods)]
        self._needs = [Needs.of(rule) for rule in held]
        patterns = "|".join(f"({_pattern(rule.path)})" for rule in held)
        self._match = re.compile(patterns).fullmatch

    def find(self, path: str) -> Needs | None:
        if self._needs and (found := self._match(_without_slash(path))) and found.lastindex:
            return self._needs[found.lastindex - 1]
        return None


# --- paths -------------------------------------------------------------------------------------

#: One slash, then segments that are neither empty nor dots; a slash may end them.
_PLAIN = re.compile(r"/(?:(?!\.{1,2}(?:/|\Z))[^/\\\x00-\x1f\x7f-\x9f]+(?:/|\Z))*").fullmatch


def is_plain(path: str, raw_path: bytes | None) -> bool:
    """True for a path in plain form, decoded and as it was sent, where the server gives that.

    It begins with one `/` and has no empty, `.` or `..` segment, no backslash and no control
    character, so that no two apps take it for different things.
    """
    if not _is_plain(path):
        return False
    if raw_path is None or raw_path == path.encode("utf-8", "replace"):
        return True
    return _is_plain(raw_path.decode("latin-1"))


def _is_plain(path: str) -> bool:
    is_simple = path[:1] == "/" and "//" not in path and "/." not in path and "\\" not in path
    if is_simple and path.isprintable():  # as nearly all are
        return True
    return _PLAIN(path) is not None


def _without_slash(path: str) -> str:
    """The path without a slash at its end, which never matters to a rule."""
    return path[:-1] if path[-1:] == "/" and len(path) > 1 else path


def _within(path: str, root: str) -> str:
    """The path within an app at `root`, with which it may begin."""
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def _forms(path: str, roots: Iterable[str]) -> Mapping[str, bool]:
    """The paths that an app may take `path` for, and whether it should.

    Some strip a prefix without looking where a segment ends, or wherever it occurs.
    """
    forms = {path: True}
    prefixes = [*dict.fromkeys(stripped for root in roots if (stripped := root.rstrip("/")))]
    if len(prefixes) > 1:  # whichever is stripped first
        prefixes *= 2
    for root in prefixes:
        for form, should in list(forms.items()):
            inner = _within(form, root)
            for other in (inner, form if inner != form else root + form):
                forms[other] = forms.get(other, False) or should
            _, found, rest = form.partition(root)
            if found:
                stripped = "/" + rest.lstrip("/")
                forms.setdefault(stripped, False)
                forms.setdefault(root + stripped, False)
    return forms


_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(:path)?\}")


def _pattern(path: str) -> str:
    """The regular expression of a rule's path, which is matched in one pass over any path."""
    if not path.startswith("/") or re.search(r"[{}*]", _PLACEHOLDER.sub("", path)):
        raise ConfigurationError(
            f"rule path {path!r}: must start with /; write {{name}} for one segment and "
            "{name:path} for the rest"
        )
    if not _is_plain(_PLACEHOLDER.sub("x", path)):
        raise ConfigurationError(
            f"rule path {path!r}: no request is let in by such a path; it must have no //, no . "
            "or .. segment, no backslash and no control character"
        )
    # Two in one segment, or two that go over several, could be matched in very many ways.
    placeholders = [*_PLACEHOLDER.finditer(path)]
    segments = [path.count("/", 0, found.start()) for found in placeholders]
    if len(set(segments)) < len(segments) or sum(bool(found[2]) for found in placeholders) > 1:
        raise ConfigurationError(
            f"rule path {path!r}: may have one {{name}} in a segment and one {{name:path}} in all"
        )
    path = _without_slash(path)
    pattern, end = "", 0
    for found in placeholders:
        before = path[end : found.start()]
        end = found.end()
        if found[2] and end == len(path) and before.endswith("/"):
            pattern += re.escape(before[:-1]) + "(?:/.*)?"  # what is mounted there, too
        else:
            pattern += re.escape(before) + (".*" if found[2] else "[^/]+")
    return pattern + re.escape(path[end:])


def named_by_method_alone(rules: Iterable[Rule]) -> Mapping[str, frozenset[str]]:
    """The methods that rules name, of each path of which they don't name all."""
    named: dict[str, frozenset[str]] = {}
    every: set[str] = set()
    for rule in rules:
        path = _without_slash(rule.path)
        if rule.methods:
            named[path] = named.get(path, frozenset()) | _with_head(rule.methods)
        else:
            every.add(path)
    return {path: methods for path, methods in named.items() if path not in every}


def _with_head(methods: Iterable[str]) -> frozenset[str]:
    """GET rules hold for HEAD too: it is answered by the same handler."""
    upper = frozenset(method.upper() for method in methods)
    return upper | {"HEAD"} if "GET" in upper else upper


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
