"""The environ of a request: what the gate reads in it, as PEP 3333 has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from keyrush.wire.request import Header
from keyrush.wire.sender import MAX_FORWARDED

Environ = dict[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


def variable_of(name: bytes) -> str:
    """The variable of the environ that holds a request header."""
    return "HTTP_" + name.decode("ascii").upper().replace("-", "_")


def path_of(environ: Environ, variable: str) -> str:
    """A path, decoded from what PEP 3333 makes of it."""
    path: str = environ.get(variable, "")
    return path.encode("latin-1").decode("utf-8", "replace")


def raw_path(environ: Environ) -> bytes | None:
    """The path as it was sent, where the server tells."""
    raw = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    return raw.partition("?")[0].encode("latin-1") if raw else None


def sender(environ: Environ) -> tuple[str | None, list[bytes]]:
    """Who is at the other end, and for whom they say they ask."""
    forwarded: str = environ.get("HTTP_X_FORWARDED_FOR", "")
    return environ.get("REMOTE_ADDR"), [forwarded[-MAX_FORWARDED:].encode("latin-1")]


def headers_of(environ: Environ) -> list[Header]:
    """All headers of a request, with those of its body; names in lower case."""
    headers = [
        (name[5:].lower().replace("_", "-").encode("latin-1"), value.encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    if kind := environ.get("CONTENT_TYPE"):
        headers.append((b"content-type", kind.encode("latin-1")))
    return headers
