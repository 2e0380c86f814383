"""Paths: their plain form, prefixes, and what the settings write for them.

Apps differ in what they take a path to be: some merge `//`, some resolve dots or strip a prefix.
Whatever is opened here, to those without a key, is so in plain form alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote

from keyrush.errors import ConfigurationError

#: What clients leave unquoted in a path (RFC 3986 §3.3).
_UNQUOTED = "/:@!$&'()*+,;=~-._"

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


def without_slash(path: str) -> str:
    """The path without a slash at its end, which never matters to a rule."""
    return path[:-1] if path[-1:] == "/" and len(path) > 1 else path


def within(path: str, root: str) -> str:
    """The path within an app at `root`, with which it may begin."""
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def forms(path: str, roots: Iterable[str]) -> Mapping[str, bool]:
    """The paths that an app may take `path` for, and whether it should.

    Some strip a prefix without looking where a segment ends, or wherever it occurs.
    """
    taken = {path: True}
    prefixes = [*dict.fromkeys(stripped for root in roots if (stripped := root.rstrip("/")))]
    if len(prefixes) > 1:  # whichever is stripped first
        prefixes *= 2
    for root in prefixes:
        for form, should in list(taken.items()):
            inner = within(form, root)
            for other in (inner, form if inner != form else root + form):
                taken[other] = taken.get(other, False) or should
            _, found, rest = form.partition(root)
            if found:
                stripped = "/" + rest.lstrip("/")
                taken.setdefault(stripped, False)
                taken.setdefault(root + stripped, False)
    return taken


# --- patterns ------------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(:path)?\}")


def pattern(path: str) -> str:
    """The regular expression of a rule's path, which is matched in one pass over any path.

    Raises:
        ConfigurationError: It is no pattern, or one that could match in very many ways.
    """
    if not path.startswith("/"):
        raise ConfigurationError(f"rule path {path!r}: must start with /")
    if re.search(r"[{}*]", _PLACEHOLDER.sub("", path)):
        raise ConfigurationError(
            f"rule path {path!r}: write {{name}} for one segment, and {{name:path}} for the rest"
        )
    if not _is_plain(_PLACEHOLDER.sub("x", path)):
        raise ConfigurationError(
            f"rule path {path!r}: no request is let in by such a path; it must have no //, no . "
            "or .. segment, no backslash and no control character"
        )
    # Two in one segment, or two that go over several, could be matched in very many ways.
    rests = sum(bool(found[2]) for found in _PLACEHOLDER.finditer(path))
    if _has_two_in_a_segment(path) or rests > 1:
        raise ConfigurationError(
            f"rule path {path!r}: may have one {{name}} in a segment and one {{name:path}} in all"
        )
    return _expression(without_slash(path))


def _open_pattern(path: str) -> str | None:
    """The regular expression of a path that may be open, None where it is an exact one.

    `*` is what is beneath a path, and not that path itself, with a slash at its end or without:
    who opens `/webhooks/*` has not said that `/webhooks` is.

    Raises:
        ValueError: It is neither; says what is allowed.
    """
    stem = path.removesuffix("/*")
    literal = _PLACEHOLDER.sub("x", stem)
    if re.search(r"[{}*]", literal) or ":path}" in path:
        raise ValueError(
            "write {name} for one segment, and * as the last one for whatever is beneath"
        )
    if not _is_plain(literal or path[:1]) or (stem != path and stem.endswith("/")):
        raise ValueError("must start with / and have no //, no . or .. segment")
    if _has_two_in_a_segment(stem):
        raise ValueError("may have one {name} in a segment")
    if stem == path and literal == path:
        return None
    return _expression(stem) + ("" if stem == path else "/.+")


def _has_two_in_a_segment(path: str) -> bool:
    segments = [path.count("/", 0, found.start()) for found in _PLACEHOLDER.finditer(path)]
    return len(set(segments)) < len(segments)


def _expression(path: str) -> str:
    expression, end = "", 0
    for found in _PLACEHOLDER.finditer(path):
        before = path[end : found.start()]
        end = found.end()
        if found[2] and end == len(path) and before.endswith("/"):
            expression += re.escape(before[:-1]) + "(?:/.*)?"  # what is mounted there, too
        else:
            expression += re.escape(before) + (".*" if found[2] else "[^/]+")
    return expression + re.escape(path[end:])


_METHODS = """
ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK M-SEARCH
MERGE MKACTIVITY MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE NOTIFY OPTIONS ORDERPATCH PATCH
POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND
UNCHECKOUT UNLINK UNLOCK UNSUBSCRIBE UPDATE UPDATEREDIRECTREF VERSION-CONTROL
"""

#: Methods of HTTP: those that IANA has registered, and what servers' parsers know besides.
METHODS = frozenset(_METHODS.split())


def with_head(methods: Iterable[str]) -> frozenset[str]:
    """GET rules hold for HEAD too: it is answered by the same handler."""
    upper = frozenset(method.upper() for method in methods)
    return upper | {"HEAD"} if "GET" in upper else upper


# --- paths that are open -------------------------------------------------------------------------

_Methods = frozenset[str] | None
_FullMatch = Callable[[str], object]


class PathList:
    """The `public` or `optional` paths of the settings, compiled.

    An entry is `"/health"` (any method) or `"GET /health"` (GET and HEAD only); `{name}` in it is
    one segment, and `*` as its last segment whatever is beneath. `root_path` is a prefix that the
    app itself strips, in addition to what the server says of one.

    Raises:
        ConfigurationError: An entry is no such path; it is named.
    """

    def __init__(self, kind: str, entries: Iterable[str] = (), root_path: str = "") -> None:
        self._root_path = root_path
        self._exact: dict[str, _Methods] = {}
        patterns: dict[str, _Methods] = {}
        for entry in entries:
            method, _, path = entry.rpartition(" ")
            method = method.strip().upper()
            try:
                if method and method not in METHODS:
                    raise ValueError(f"{method!r} is no method of HTTP")  # noqa: TRY301
                expression = _open_pattern(path)
            except ValueError as error:
                raise ConfigurationError(f"{kind} path {entry!r}: {error}") from None
            listed, name = (self._exact, path) if expression is None else (patterns, expression)
            known = listed.get(name, frozenset())
            if not method or known is None:
                listed[name] = None
            else:
                listed[name] = known | with_head({method})
        named = frozenset[str]().union(*(methods or () for methods in patterns.values()))
        self._by_method = {method: _alternation(patterns, method) for method in named}
        self._any_method = _alternation(patterns, None)
        self._has_patterns = bool(patterns)

    def holds(self, method: str, path: str, raw_path: bytes | None, root: str = "") -> bool:
        """True for a path of the list spelled exactly so: `//`, `%2f`, `..`, or a slash at the
        end more or less, are not it.

        `raw_path`, where the server gives it, must be the plain quoting of `path`. `root` is the
        prefix that the server names, with which `path` may begin.
        """
        inner = path
        if root or self._root_path:
            inner = within(within(path, root), self._root_path)
        # The exact ones come first, so that nobody else pays for patterns.
        methods = self._exact.get(inner, ())
        if methods is not None and method not in methods:
            if not self._has_patterns or not self._matches(method, inner):
                return False
            if not is_plain(path, raw_path) or not self._is_alike(method, path, root):
                return False
        return (
            raw_path is None
            or b"%" not in raw_path
            or raw_path.upper().endswith(quote(inner, safe=_UNQUOTED).encode("ascii").upper())
        )

    def _names(self, method: str, path: str) -> bool:
        methods = self._exact.get(path, ())
        return methods is None or method in methods

    def _matches(self, method: str, path: str) -> bool:
        """True where a pattern holds, told in one pass over the path.

        What is behind an app may unquote once more, or end segments at a `;`.
        """
        fullmatch = self._by_method.get(method, self._any_method)
        return fullmatch(path) is not None and "%" not in path and ";" not in path

    def _is_alike(self, method: str, path: str, root: str) -> bool:
        """True where all that apps may take the path for, by their prefix, is on the list."""
        roots = root, self._root_path
        if not any(roots):
            return True
        inner = {within(within(form, root), self._root_path) for form in forms(path, roots)}
        return all(self._names(method, form) or self._matches(method, form) for form in inner)


def _alternation(patterns: Mapping[str, _Methods], method: str | None) -> _FullMatch:
    """What tells whether one of the patterns that hold for a method does."""
    held = [one for one, methods in patterns.items() if methods is None or method in methods]
    return re.compile("|".join(f"(?:{one})" for one in held) or r"(?!)").fullmatch
