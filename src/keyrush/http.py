"""What HTTP asks: the credential in a request, and who sent it.

Nothing here knows ASGI or WSGI. Header names and values are bytes, names in lower case (S69).
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from hashlib import sha256

from keyrush import keys
from keyrush.model import Refusal, names_of

Header = tuple[bytes, bytes]


class Credential:
    """A presented key. Its repr says nothing of it (S82); `digest` is its SHA-256."""

    __slots__ = ("by_header", "digest", "text")

    def __init__(self, text: bytes, by_header: bool) -> None:
        self.text = text
        self.digest = sha256(text).digest()
        self.by_header = by_header  #: True when it came in X-API-Key

    def __repr__(self) -> str:
        return "Credential(…)"


#: The largest number that a header field may hold: 15 digits (S33).
MAX_FIELD = 999_999_999_999_999

MISSING = Refusal("missing_credential")
INVALID = Refusal("invalid_credential")
TWO = Refusal("two_credentials")

#: Lengths of the two names, looked at before the names.
_API_KEY, _AUTHORIZATION = len("x-api-key"), len("authorization")

_WITH_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9-]* +\S").match


def credential(headers: Iterable[Header]) -> Credential | Refusal:  # noqa: C901  # a table of cases
    """The one credential among the request headers, or why there is none (S1–S8, S11, S12).

    Header names may be in any case. `Authorization: Bearer` and `X-API-Key` may both be
    present only with the same value.
    """
    authorization: bytes | None = None
    api_key: bytes | None = None
    for name, value in headers:
        size = len(name)  # looked at first, because most names are of another
        if size == _API_KEY and name.lower() == b"x-api-key":
            if api_key is not None and not _same(api_key, value):
                return TWO
            api_key = value
        elif size == _AUTHORIZATION and name.lower() == b"authorization":
            if authorization is not None:
                return TWO
            authorization = value
    if authorization is not None:
        bearer = _bearer(authorization)
        if isinstance(bearer, Refusal):
            return bearer
        if bearer is not None:
            if api_key is not None and not _same(bearer, api_key):
                return TWO
            return _credential(bearer, False)
    if api_key is None:
        return MISSING
    if b"," in api_key:  # what some servers make of two lines
        first, *others = (part.strip(b" \t") for part in api_key.split(b","))
        if not all(_same(first, other) for other in others):
            return TWO
        api_key = first
    return _credential(api_key.strip(b" \t"), True)


def _bearer(value: bytes) -> bytes | Refusal | None:
    """The token after `Bearer`, None for another scheme, a refusal for several credentials."""
    if value[:7] == b"Bearer " and b"," not in value:  # as nearly all send it
        return value[7:].strip(b" ")
    scheme, _, token = value.strip(b" \t").partition(b" ")
    if b"," in value:
        parts = [part.strip(b" \t") for part in value.split(b",")]
        with_scheme = [part for part in parts if _WITH_SCHEME(part)]
        if len(with_scheme) > 1 and any(p[:7].lower() == b"bearer " for p in with_scheme):
            return TWO
    return token.strip(b" ") if scheme.lower() == b"bearer" else None


def _credential(text: bytes, by_header: bool) -> Credential | Refusal:
    if not text or len(text) > keys.MAX_LENGTH:
        return INVALID
    return Credential(text, by_header)


def _same(one: bytes, other: bytes) -> bool:
    return hmac.compare_digest(one.strip(b" \t"), other.strip(b" \t"))


# --- who is at the other end -------------------------------------------------------------------

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(
    peer: str | None, forwarded_for: Iterable[str], trusted: Sequence[Network]
) -> str | None:
    """The client's address. `X-Forwarded-For` counts only as far as trusted proxies wrote it.

    `forwarded_for` are the values of that header, in order.
    """
    address = peer
    for hop in reversed([*names_of(forwarded_for)]):
        if address is None or not _is_in(address, trusted):
            break
        address = hop
    return address


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)  # as servers on both protocols show IPv4
    return any((mapped or parsed) in network for network in networks)


def is_preflight(headers: Iterable[Header]) -> bool:
    """True for an OPTIONS request with the headers of a CORS preflight (S76)."""
    names = {name.lower() for name, _ in headers}
    return b"origin" in names and b"access-control-request-method" in names
