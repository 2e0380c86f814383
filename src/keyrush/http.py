"""What HTTP asks: the credential in a request, and who sent it.

Nothing here knows ASGI or WSGI. Header names and values are bytes, names in lower case (S69).
Nothing is done to a value, beyond looking at its length, before that is known to be sane.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from keyrush import keys
from keyrush.model import Refusal

Header = tuple[bytes, bytes]


class Credential:
    """A presented key. Its repr says nothing of it (S82); `digest` is its SHA-256."""

    __slots__ = ("digest", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.digest = sha256(text).digest()

    def __repr__(self) -> str:
        return "Credential(…)"


#: The largest number that a header field may hold: 15 digits (S33).
MAX_FIELD = 999_999_999_999_999

#: Bytes of a header's value that may hold a key: more is not read. Room for a scheme, and for
#: one key several times, as some servers join lines.
MAX_VALUE = 4 * keys.MAX_LENGTH

MISSING = Refusal("missing_credential")
INVALID = Refusal("invalid_credential")
TWO = Refusal("two_credentials")

#: The headers that a key may come in, unless said otherwise (contract R1, O1).
CREDENTIAL_HEADERS = ("authorization", "x-api-key")

_AUTHORIZATION = b"authorization"

#: The schemes of `Authorization` whose token is a key.
_SCHEMES = (b"bearer", b"api-key")

_WITH_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9-]* +\S").match


class CredentialHeaders:
    """The headers that may hold a key, by `names` in lower case; others are no business of ours.

    `Authorization: Bearer …`, or `Api-Key …`; in any other header the value is the key.
    """

    def __init__(self, names: Sequence[str] = CREDENTIAL_HEADERS) -> None:
        self.names = tuple(name.lower().encode("ascii") for name in names)
        self._names = frozenset(self.names)
        self._lengths = frozenset(map(len, self.names))
        spelled = ", ".join(name.title().replace("Api", "API") for name in names)
        #: Answers depend on them, which caches should know (S23).
        self.vary: Header = (b"vary", spelled.encode("ascii"))

    def credential(self, headers: Iterable[Header]) -> Credential | Refusal:
        """The one credential among the request headers, or why there is none (S1–S8, S11, S12).

        Header names may be in any case. Several headers may hold a key only if it is the same.
        """
        lengths, names = self._lengths, self._names
        first_name = first = None
        others: list[Header] | None = None
        for name, value in headers:
            # The length is looked at first, because most names are of another.
            if len(name) in lengths and (lower := name.lower()) in names:
                if first is None:
                    first_name, first = lower, value
                elif others is None:
                    others = [(lower, value)]
                else:
                    others.append((lower, value))
        if first is None:
            return MISSING
        if others is not None:
            return _one_of([(first_name or b"", first), *others])
        key = _bearer(first) if first_name == _AUTHORIZATION else _plain(first)
        return Credential(key) if isinstance(key, bytes) else key or MISSING

    def without(self, headers: Iterable[Header]) -> list[Header]:
        """The request headers without those that may hold a key."""
        return [header for header in headers if header[0].lower() not in self._names]


_PROTOCOL = b"sec-websocket-protocol"

#: Bytes of a header with subprotocols that are read: room for a key, and for many names.
MAX_PROTOCOLS = 4096


class Offer(NamedTuple):
    """What a WebSocket's handshake with keys among its subprotocols comes to."""

    keys: list[Header]  #: the keys, as headers that may hold one
    subprotocols: list[bytes]  #: the others, which the app may choose from
    headers: list[Header]  #: the headers without the keys


class KeyProtocol:
    """The WebSocket subprotocol `name`, after which browsers send a key, because script can set
    no header. The key is taken as if it had come in one of the `credentials`.
    """

    def __init__(self, name: str, credentials: CredentialHeaders) -> None:
        self.name = name
        self._name = name.encode("ascii")
        others = [header for header in credentials.names if header != _AUTHORIZATION]
        self._header = others[0] if others else _AUTHORIZATION
        self._scheme = b"" if others else b"Bearer "

    def offer(self, headers: Sequence[Header]) -> Offer | None:
        """What is offered with this subprotocol; None where it is not."""
        values = [value for name, value in headers if name.lower() == _PROTOCOL]
        if sum(map(len, values)) > MAX_PROTOCOLS:
            return None
        tokens = [token.strip(b" \t") for value in values for token in value.split(b",")]
        if self._name not in tokens:
            return None
        keys: list[Header] = []
        left: list[bytes] = []
        waiting = iter(tokens)
        for token in waiting:
            if token != self._name:
                left.append(token)
            elif key := next(waiting, b""):
                keys.append((self._header, self._scheme + key))
        rest = [header for header in headers if header[0].lower() != _PROTOCOL]
        if left:
            rest.append((_PROTOCOL, b", ".join(left)))
        return Offer(keys, left, rest)


def _one_of(headers: Sequence[Header]) -> Credential | Refusal:
    """The credential that several headers agree upon (S7, S8)."""
    if sum(name == _AUTHORIZATION for name, _ in headers) > 1:
        return TWO
    found = [_bearer(value) if n == _AUTHORIZATION else _plain(value) for n, value in headers]
    refusals = [key for key in found if isinstance(key, Refusal)]
    if TWO in refusals:
        return TWO
    texts = [key for key in found if isinstance(key, bytes)]
    if texts and not all(hmac.compare_digest(texts[0], other) for other in texts[1:]):
        return TWO
    if texts and refusals:
        return TWO  # a key, and something else in the place of one
    return Credential(texts[0]) if texts else INVALID if refusals else MISSING


def _bearer(value: bytes) -> bytes | Refusal | None:
    """The token after its scheme, None for another scheme, a refusal for several credentials."""
    if len(value) > MAX_VALUE:
        scheme = value[:16].lstrip(b" \t").partition(b" ")[0].lower()
        return INVALID if scheme in _SCHEMES else None
    if value[:7] == b"Bearer " and b"," not in value:  # as nearly all send it
        return _sane(value[7:].strip(b" "))
    scheme, _, token = value.strip(b" \t").partition(b" ")
    if b"," in value:
        parts = [part.strip(b" \t") for part in value.split(b",")]
        schemes = [part.partition(b" ")[0].lower() for part in parts if _WITH_SCHEME(part)]
        if len(schemes) > 1 and any(scheme in _SCHEMES for scheme in schemes):
            return TWO
    return _sane(token.strip(b" ")) if scheme.lower() in _SCHEMES else None


def _plain(value: bytes) -> bytes | Refusal:
    """The key in a header that holds nothing else; some servers make one of two such lines."""
    if len(value) > MAX_VALUE:
        return INVALID
    if b"," in value:
        first, *others = (part.strip(b" \t") for part in value.split(b","))
        if not all(hmac.compare_digest(first, other) for other in others):
            return TWO
        value = first
    return _sane(value.strip(b" \t"))


def _sane(text: bytes) -> bytes | Refusal:
    return text if 0 < len(text) <= keys.MAX_LENGTH else INVALID


# --- who is at the other end -------------------------------------------------------------------

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Stands among trusted networks for whoever is at the other end of a Unix socket.
UNIX = "unix"

#: Bytes of all `X-Forwarded-For` that are read, from the right: a hundred proxies, or more.
MAX_FORWARDED = 4096


def client_address(
    peer: str | None, forwarded_for: Sequence[bytes], trusted: Sequence[Network | str]
) -> str | None:
    """The client's address. `X-Forwarded-For` counts only as far as trusted proxies wrote it.

    `forwarded_for` are the values of that header, in order; they are read from the right, and
    only if the peer is trusted.
    """
    address = peer
    if not trusted:
        return address
    # Of the peer alone, which the server names: a hop may be called anything.
    is_trusted = UNIX in trusted and _is_unix(peer)
    left = MAX_FORWARDED
    for value in reversed(forwarded_for):
        rest: bytes | None = value[-left:] if left else b""
        left -= len(rest or b"")
        while rest:
            if not is_trusted and not _is_in(address, trusted):
                return address
            before, separator, hop = rest.rpartition(b",")
            rest = before if separator else None
            if stripped := hop.strip():
                address, is_trusted = stripped.decode("latin-1"), False
    return address


def _is_in(address: str | None, networks: Sequence[Network | str]) -> bool:
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)  # as servers on both protocols show IPv4
    return any((mapped or parsed) in one for one in networks if not isinstance(one, str))


def _is_unix(peer: str | None) -> bool:
    """True for what servers call a peer at a Unix socket: nothing, "localhost", or a path."""
    return not peer or peer == "localhost" or peer.startswith(("/", "@", "unix:"))


def shown_address(address: str | None) -> str:
    """The address for a log: as it parses, without a zone, and "-" where it is none."""
    try:
        return str(ipaddress.ip_address((address or "").partition("%")[0]))
    except ValueError:
        return "-"


def is_preflight(headers: Iterable[Header]) -> bool:
    """True for the headers of a CORS preflight (S76), on an OPTIONS request."""
    names = {name.lower() for name, _ in headers}
    return b"origin" in names and b"access-control-request-method" in names
