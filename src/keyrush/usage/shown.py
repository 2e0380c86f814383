"""What is kept of texts that clients choose: cut, on one line, and without what may be a key."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from urllib.parse import unquote

from keyrush.runtime.logs import plain
from keyrush.wire.sender import Kept, Network, client_address

#: Characters of a path, of a user agent and of the id of a request.
MAX_PATH, MAX_AGENT, MAX_ID = 200, 80, 64

#: Characters of a path that are looked at: a key may begin before `MAX_PATH` and end behind it.
PATH_LOOKED_AT = 400

#: Stands in a path for what may be a key.
HIDDEN = "…"

#: A key by whatever prefix, and the most of one that was cut (ids of ours have 16 characters
#: there); a JWT; what follows `Bearer`. A run of characters is looked through from its beginning
#: alone: from each of them, long runs would take the square of their length.
_SECRET = re.compile(
    r"(?<![\w.-])[\w.-]*_[0-9A-Za-z]{20,}[\w-]*"
    r"|eyJ[\w-]{8,}(?:\.[\w-]*)*"
    r"|bearer[\s:=+/]+[^\s/]+",
    re.ASCII | re.IGNORECASE,
)

#: How often text may have been percent-encoded and still be looked through.
_ENCODINGS = 4

_ID = re.compile(rb"[\x21-\x7e]{1,64}").fullmatch


def shown_path(path: str) -> str:
    """A path as it came, without its query: at most 200 characters on one line, and `…` where
    something looks like a key.
    """
    shown = _SECRET.sub(HIDDEN, path[:PATH_LOOKED_AT].partition("?")[0])
    return HIDDEN if _hides_secret(shown) else plain(shown)[:MAX_PATH]


def shown_agent(agent: bytes | None) -> str | None:
    """The first 80 characters of a user agent, control characters as `?`; None where there is none,
    or where it looks like a key.
    """
    text = (agent or b"").decode("utf-8", "replace")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "?" for c in text)
    return None if not text or _may_be_secret(text) else text[:MAX_AGENT]


def shown_id(request_id: bytes | None) -> str | None:
    """The id of a request as a client or a proxy names it: 1 to 64 visible characters of ASCII, and
    no key; None for all else.
    """
    if request_id is None or not _ID(request_id):
        return None
    if request_id.replace(b"-", b"").isalnum():  # as most are, and no key is
        return request_id.decode("ascii")
    text = request_id.decode("ascii")
    return None if _may_be_secret(text) else text


def _may_be_secret(text: str) -> bool:
    return _SECRET.search(text) is not None or _hides_secret(text)


def _hides_secret(text: str) -> bool:
    """Whether it is one once it is unquoted, however often."""
    for _ in range(_ENCODINGS):
        if "%" not in text or (decoded := unquote(text)) == text:
            return False
        if _SECRET.search(decoded):
            return True
        text = decoded
    return True  # quoted more often than anybody does


class Addresses:
    """Addresses of clients, as far as they are kept. `trusted` are whose `X-Forwarded-For` is
    believed.
    """

    def __init__(self, kept: Kept, trusted: Sequence[Network | str]) -> None:
        self._kept = kept
        self._trusted = trusted

    def of(self, peer: str | None, forwarded_for: bytes | None) -> str | None:
        """What is kept of the client's address: `203.0.113.0/24`, `2001:db8:1::/48`, or all of it;
        None where it has none.
        """
        if self._kept == "off":
            return None
        forwarded = () if forwarded_for is None else (forwarded_for,)
        address = client_address(peer, forwarded, self._trusted)
        try:
            return self._shown((address or "").partition("%")[0])
        except (OSError, ValueError):  # a socket's path, or whatever a hop calls itself
            return None

    def _shown(self, address: str) -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        packed = socket.inet_pton(family, address)
        if packed[:12] == b"\0" * 10 + b"\xff\xff":  # as servers on both protocols show IPv4
            family, packed = socket.AF_INET, packed[12:]
        if self._kept == "full":
            return socket.inet_ntop(family, packed)
        bits = 24 if family == socket.AF_INET else 48
        network = packed[: bits // 8].ljust(len(packed), b"\0")
        return f"{socket.inet_ntop(family, network)}/{bits}"
