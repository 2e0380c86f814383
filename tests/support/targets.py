"""Request targets that are spelled oddly, and what servers make of them.

Each server is modelled by what its code does with the bytes of the request line: what it refuses,
what becomes of an absolute target, how often it unquotes, where it puts `root_path`.
"""

# gunicorn brings no types.
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

import httptools
from gunicorn.util import split_request_uri

from tests.support.calls import Sent, environ_of, scope_of
from tests.support.frameworks import RESOURCES

#: What h11 and gunicorn take for a target.
_VISIBLE = re.compile(rb"[!-~]+").fullmatch


# --- servers --------------------------------------------------------------------------------------

Made = dict[str, Any]


def _h11(target: bytes, root: str) -> Made | None:
    """uvicorn on h11: unquoted once, absolute forms kept, `root_path` put in front."""
    if not _VISIBLE(target):
        return None
    path, _, query = target.partition(b"?")
    raw = root.encode() + path
    return {
        "path": root + unquote(path.decode("ascii")),
        "raw_path": raw,
        "query_string": query,
        "root_path": root,
    }


class _Url:
    """What httptools says of a request line."""

    def __init__(self) -> None:
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url


def _httptools(target: bytes, root: str) -> Made | None:
    """uvicorn on httptools: scheme, host and fragment are dropped."""
    heard = _Url()
    try:
        parser = httptools.HttpRequestParser(heard)
        parser.feed_data(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
        url = httptools.parse_url(heard.url)
        path = url.path.decode("ascii")
    except (httptools.HttpParserError, UnicodeDecodeError, AttributeError):
        return None  # answered 400 by the server, or the connection ends
    return {
        "path": root + unquote(path),
        "raw_path": root.encode() + url.path,
        "query_string": url.query or b"",
        "root_path": root,
    }


def _hypercorn(target: bytes, root: str) -> Made | None:
    """Hypercorn on HTTP/1.1: all is kept as it came, `root_path` stands beside it."""
    return _hypercorn_h2(target, root) if _VISIBLE(target) else None


def _hypercorn_h2(target: bytes, root: str) -> Made | None:
    """Hypercorn on HTTP/2, whose `:path` may hold any octet but must decode as ASCII."""
    path, _, query = target.partition(b"?")
    if not target or not path.isascii():
        return None
    return {
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": root,
    }


def _daphne(target: bytes, root: str) -> Made | None:
    """Daphne: Twisted splits the request line at whitespace and looks no further."""
    return None if re.search(rb"\s", target) else _hypercorn_h2(target, root)


def _granian(target: bytes, root: str) -> Made | None:
    """Granian: scheme, host and fragment are dropped, UTF-8 is taken."""
    found = re.fullmatch(rb"(?:https?://[\w.:-]+)?(/[^\x00-\x20\x7f#?]*|)(?:\?([^#]*))?.*", target)
    if not found or re.search(rb"[\x00-\x20\x7f]", target) or not target.strip(b"?#"):
        return None
    try:
        found[1].decode()
    except UnicodeDecodeError:
        return None
    return {
        "path": unquote(found[1].decode()) or "/",
        "raw_path": found[1] or b"/",
        "query_string": found[2] or b"",
        "root_path": root,
    }


def _native(path: bytes) -> str:
    return unquote_to_bytes(path).decode("latin-1")


def _wsgiref(target: bytes, root: str) -> Made | None:
    """wsgiref: absolute forms kept, slashes in front made one, nothing raw is told."""
    text = target.decode("latin-1")
    if root or not text or text.split() != [text]:
        return None
    if text.startswith("//"):
        text = "/" + text.lstrip("/")
    path, _, query = text.partition("?")
    return {"PATH_INFO": unquote(path, "iso-8859-1"), "QUERY_STRING": query, "SCRIPT_NAME": ""}


def _gunicorn(target: bytes, root: str) -> Made | None:
    """gunicorn: scheme, host and fragment are dropped, `SCRIPT_NAME` must stand in front."""
    if not _VISIBLE(target) or target == b"*":
        return None
    try:
        parts = split_request_uri(target.decode("ascii"))
    except ValueError:
        return None
    if not parts.path.startswith(root):
        return None
    return {
        "PATH_INFO": _native(parts.path[len(root) :].encode()),
        "QUERY_STRING": parts.query or "",
        "SCRIPT_NAME": root,
        "RAW_URI": target.decode("ascii"),
    }


def _waitress(target: bytes, root: str) -> Made | None:
    """waitress: slashes in front made one, `SCRIPT_NAME` is taken off where a slash follows."""
    if not target or re.search(rb"\s", target):
        return None
    if target.startswith(b"//"):
        path, _, query = target.partition(b"#")[0].partition(b"?")
    else:
        try:
            parts = urlsplit(target)
        except (ValueError, UnicodeError):
            return None
        path, query = parts.path, parts.query
    info = _native(path)
    if info.startswith("/"):
        info = "/" + info.lstrip("/")
    if root:
        info = "" if info == root else info[len(root) :] if info.startswith(root + "/") else info
    return {
        "PATH_INFO": info,
        "QUERY_STRING": query.decode("latin-1"),
        "SCRIPT_NAME": root,
        "REQUEST_URI": target.decode("latin-1"),
    }


def _granian_wsgi(target: bytes, root: str) -> Made | None:
    """Granian: as many bytes are taken off as the prefix has, whatever they are."""
    made = _granian(target, "")
    if made is None:
        return None
    path = made["path"].encode("utf-8", "replace")[len(root) :] or b"/"
    return {
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": made["query_string"].decode("latin-1"),
        "SCRIPT_NAME": root,
    }


@dataclass(frozen=True)
class Server:
    """A server: `make` gives scope or environ of a target, None where it refuses by itself.

    Where the server names a `root_path`, `strips` tells that the target comes without it.
    """

    name: str
    make: Callable[[bytes, str], Made | None]
    strips: bool = False


ASGI_SERVERS = (
    Server("uvicorn/h11", _h11, strips=True),
    Server("uvicorn/httptools", _httptools, strips=True),
    Server("hypercorn/1.1", _hypercorn),
    Server("hypercorn/2", _hypercorn_h2),
    Server("daphne", _daphne),
    Server("granian", _granian),
)

WSGI_SERVERS = (
    Server("wsgiref", _wsgiref),
    Server("gunicorn", _gunicorn),
    Server("waitress", _waitress),
    Server("granian", _granian_wsgi),
)

#: A scope and an environ but for what a target changes.
_SCOPE = scope_of(Sent("/"))
_ENVIRON = environ_of(Sent("/"))
_ENVIRON.pop("REQUEST_URI")


def scope_for(made: Made, method: str, headers: list[tuple[str, str]]) -> Made:
    """The whole scope."""
    lines = [(name.encode(), value.encode()) for name, value in headers]
    return {**_SCOPE, **made, "method": method, "headers": [(b"host", b"h"), *lines], "state": {}}


def environ_for(made: Made, method: str, headers: list[tuple[str, str]]) -> Made:
    """The whole environ."""
    lines = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers}
    return {**_ENVIRON, "HTTP_HOST": "h", **made, "REQUEST_METHOD": method, **lines}


def decoded(made: Made) -> tuple[str, str | None]:
    """The path as the app gets it, and as it was sent, where the server tells."""
    if "PATH_INFO" in made:
        raw = made.get("REQUEST_URI") or made.get("RAW_URI")
        info = made["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        return info or "/", raw and raw.partition("?")[0]
    return made["path"], made["raw_path"].decode("latin-1")


# --- targets --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A request to a resource, spelled oddly. `wants` is the marker it is after."""

    method: str
    bytes: bytes
    wants: str


#: Paths of each marker, as they should be, with what may follow.
_WANTED = (
    ("audit", "GET", "/v1/tools/audit"),
    ("articles.read", "GET", "/v1/articles/7"),
    ("articles.write", "POST", "/v1/articles/7"),
    ("articles.write", "PUT", "/v1/articles/7"),
    ("search.sentiment", "GET", "/v1/search?include=sentiment"),
    ("insights", "GET", "/v1/insights"),
    ("generate", "POST", "/v1/generate"),
    ("files", "GET", "/v1/files/a/b.txt"),
    ("items", "GET", "/v1/items/"),
)

#: The same of what is open, and what stands beside it.
_OPEN = (
    ("page", "GET", "/v1/docs/a/b.css"),
    ("page", "GET", "/v1/docs/x"),
    ("docs", "GET", "/v1/docs"),
    ("hook", "POST", "/v1/hooks/7"),
    ("hooks", "GET", "/v1/hooks"),
    ("secret", "GET", "/v1/hooks/7/secret"),
    ("health", "GET", "/health"),
)

#: Ways into what is open and out again.
_DETOURS = (
    *("/v1/docs/..", "/v1/docs/x/../..", "/v1/docs/%2e%2e", "/v1/docs/..%2f..", "/v1/docs/..;"),
    *(
        "/v1/docs//..",
        "/v1/docs/.%0a/..",
        "/v1/docs/%252e%252e",
        "/v1/hooks/..",
        "/v1/hooks/%2e%2e",
    ),
    *("/v1/docs/x", "/v1/docs", "/v1/hooks/7", "/v1/docs\\..", "/v1/docs/%5c..", "/v1/docs/api"),
)

_FRONTS = (
    *("http://h", "HTTP://h", "https://h:443", "http://u@h", "http://", "http:", "http:/h", "x:"),
    *("x:/", "x://h", "//h", "/", "//", "///", "/.", "/./", "/..", "/../", "/x/..", "\\", "/\\"),
    *("*", "/*", "?", "#", "%2f", "/%2f", "/;", "/;x", " ", "\t", "%20", "/%09", "\n", "%0a"),
    *("h:80", "/%2e", "/%2e%2e", "/health/..", "/health/", "/v1/me/..", "/health%2f..", "."),
)

#: Prefixes as they should not be.
_ROOTS = (
    *("/apiv1", "/apix", "/x/api", "/api/api", "/API", "/api/", "/api/.", "/api//", "api", "/ap"),
    *("/api/..", "/x/api/x/api", "/api%2f", "/%61pi", "/api/x/../", "/api;", "/apixapi", "/abc"),
    *("/api\\", "/x/../api", "//api", "/api/api/api", "/apiapi", "/v1/api", "/a/pi", "/api?"),
)

_INSIDE = (
    *("/", "//", "/./", "/../", "/x/../", "/.;/", "/..;/", "/%2e/", "/%2e%2e/", "/.%2e/", "\\"),
    *("%2f", "%2F", "%252f", "%5c", "%5C", "/%5c", "%00", "\x00", "%0a", "\n", "%0d%0a", "\r\n"),
    *("%09", "\t", "%1f", "\x01", "%7f", "\x7f", "%85", "%c2%85", " ", "%20", "+", ";", ";x=1"),
    *(";/", ".", "..", "...", "%2e", "%252e", "%25", "%", "%zz", "%c3%a9", "%e9", "\xe9", "%ff"),
    *("%c0%af", "%c0%ae", "%ef%bc%8f", "%e2%88%95", "%u002f", "%e2%80%8b", "%ed%a0%80", "#"),
    *(
        "?",
        "??",
        "%3f",
        "%23",
        "&",
        "/api/",
        "/api",
        "//h/",
        "http://h/",
        ":",
        "@",
        "~",
        "*",
        "{id}",
    ),
)

_ENDS = (
    *("/", "//", "/.", "/./", "/..", "/../", "/%2e", "/.%0a", "%0a", "\n", "%0d", "%0a%0a", "/%0a"),
    *("%00", "%20", " ", "\t", "%09", "\\", "%5c", ";", ";x", "/;x", "?", "#", "#x", "%23", "%3f"),
    *(".", "..", "%2e", "/*", "*", ".json", "/x/..", "/%2e%2e/audit", "/..%2f", "%2f", "/%2f", "&"),
    *("%c2%85", "%e2%80%a8", "%0b", "%0c", "%1c", "%a0", "%c2%a0", "/index.html", "/x", "%", "%2"),
)

_SEGMENTS = (
    *(".", "..", "...", "%2e", "%2e%2e", ".%0a", "%0a", "", "%20", "%00", "\\", "%5c", ";", "a;b"),
    *("./", "../", "%2e/", "./.", ".%2f", "%2f", "7/", "7/.", "*", "{id}", "%c3%a9", "\n", "a:b"),
)

_QUERIES = (
    *("?include=sentiment", "?include=sentiment&", "?include=x,sentiment", "?include=,sentiment"),
    *("?x=1;include=sentiment", "?x=1&include=sentiment", "?%69nclude=sentiment", "?include"),
    *(
        "?include=sentimen%74",
        "?include=%73entiment",
        "?include=%20sentiment",
        "?include=+sentiment",
    ),
    *("?include=x&include=sentiment", "??include=sentiment", "?&include=sentiment", "?include[]=x"),
    *("?include=sentiment%00", "?include=sentiment#", "?#&include=sentiment", "?INCLUDE=sentiment"),
    *(
        "?include=x%2csentiment",
        "?include=%ff,sentiment",
        "?include=sentiment;",
        "?include==sentiment",
    ),
    *("?include=sentiment&include=x", "?x=%&include=sentiment", "?=&include=sentiment", "?a?b"),
    *("?include=x%0a,sentiment", "?include=sentiment%0a", "?include=%E2%80%83sentiment", "?/../"),
    *("?include=x%2Csentiment%2C", "?include=%C2%A0sentiment", "?include%00=sentiment", "?%"),
)

_METHODS = ("get", "pOsT", "HEAD", "OPTIONS", "PATCH", "TRACE", "put")


def targets(random: Random, prefix: str, *, open_too: bool = False) -> Iterator[Target]:
    """Targets without end: each a good one, under `prefix`, changed once to three times.

    With `open_too` also what needs no key, and what is asked for by way of that.
    """
    wanted = _WANTED + 2 * _OPEN if open_too else _WANTED
    while True:
        wants, method, good = random.choice(wanted)
        text = prefix + good
        if open_too and random.random() < 0.3:
            text = (
                random.choice((prefix, "")) + random.choice(_DETOURS) + random.choice((good, text))
            )
        for change in random.choices(_CHANGES, _WEIGHTS, k=random.choice((1, 1, 2, 3))):
            text = change(random, text, prefix)
        if random.random() < 0.1:
            method = random.choice(_METHODS)
        yield Target(method, text.encode("latin-1", "replace"), wants)


def _front(random: Random, text: str, prefix: str) -> str:
    return random.choice(_FRONTS) + text


def _root(random: Random, text: str, prefix: str) -> str:
    """Another prefix, or none, or one too many; half of them glued on without a slash."""
    path = text.removeprefix(prefix) if random.random() < 0.8 else text
    if random.random() < 0.2:
        return path
    return random.choice(_ROOTS) + path[random.random() < 0.4 :]


def _insert(random: Random, text: str, prefix: str) -> str:
    if random.random() < 0.6 and "/" in text:  # beside a slash, or in its place
        at = random.choice([i for i, character in enumerate(text) if character == "/"])
        end = at + random.choice((0, 1))
    else:
        at = end = random.randint(0, len(text))
    return text[:at] + random.choice(_INSIDE) + text[end:]


def _segment(random: Random, text: str, prefix: str) -> str:
    """Another segment in the place of one, the last one mostly: where a name may be anything."""
    path, mark, query = text.partition("?")
    segments = path.split("/")
    at = -1 if random.random() < 0.7 else random.randrange(len(segments))
    segments[at] = random.choice(_SEGMENTS)
    return "/".join(segments) + mark + query


def _end(random: Random, text: str, prefix: str) -> str:
    path, mark, query = text.partition("?")
    return path + random.choice(_ENDS) + mark + query


def _query(random: Random, text: str, prefix: str) -> str:
    return text.partition("?")[0] + random.choice(_QUERIES)


def _quoted(random: Random, text: str, prefix: str) -> str:
    """One character quoted, or the slashes, or all; once or twice; in upper or lower case."""
    which = random.choice("oneslashall")
    one = random.randrange(max(1, len(text)))

    def spelled(at: int, character: str) -> str:
        if not {"o": at == one, "s": character == "/"}.get(which, which in "al"):
            return character
        hexed = f"{ord(character):02x}" if random.random() < 0.5 else f"{ord(character):02X}"
        return random.choice(("%", "%", "%25")) + hexed

    return "".join(spelled(at, character) for at, character in enumerate(text))


def _case(random: Random, text: str, prefix: str) -> str:
    at = random.randrange(max(1, len(text)))
    return text[:at] + text[at : at + 1].swapcase() + text[at + 1 :]


def _detour(random: Random, text: str, prefix: str) -> str:
    """By way of another resource's path."""
    _, _, other = random.choice(_WANTED)
    up = random.choice(("/..", "/%2e%2e", "/.%2E", "%2f..", "/..;"))
    path, rest = other.partition("?")[0], text[len(prefix) :]
    return prefix + path + up * random.randint(1, 4) + random.choice((rest, text, rest[3:]))


def _drop(random: Random, text: str, prefix: str) -> str:
    at = random.randrange(max(1, len(text)))
    return text[:at] + text[at + 1 :]


def _spaced(random: Random, text: str, prefix: str) -> str:
    return text + quote(chr(random.choice((*range(33), 127, 133, 160))), encoding="latin-1")


def _as_it_is(random: Random, text: str, prefix: str) -> str:
    return text


_CHANGES = (
    _front,
    _root,
    _insert,
    _segment,
    _end,
    _query,
    _quoted,
    _case,
    _detour,
    _drop,
    _spaced,
    _as_it_is,
)
_WEIGHTS = (14, 10, 24, 10, 14, 8, 14, 3, 8, 2, 2, 3)

#: The path of every resource, as it should be.
ORDINARY = {
    one.name: one.path.replace("{id}", "7").replace("{rest:path}", "a/b.txt") for one in RESOURCES
}
