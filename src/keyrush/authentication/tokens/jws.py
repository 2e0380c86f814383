"""A token taken apart (RFC 7515, compact serialisation), and its header judged.

Nothing is looked up here, and nothing trusted: whether the signature is good is found out after.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import NamedTuple

from keyrush.core.issuers import Issuer
from keyrush.core.strict_json import parse_object
from keyrush.wire.request import MAX_TOKEN

_SEGMENTS = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)").fullmatch

#: Characters of the name of a key: more is no name.
_MAX_KID = 256

#: What a token's header says of its type in the usual case (RFC 7519 §5.1), and an access
#: token's (RFC 9068 §2.1); other types are for something else (RFC 8725 §3.11).
_JWT, _ACCESS_TOKEN = "jwt", "at+jwt"


class Token(NamedTuple):
    """What a token says, of which nothing is proved; `signed` is what its signature is over."""

    header: Mapping[str, object]
    payload: Mapping[str, object]
    signed: bytes
    signature: bytes


def has_shape(text: bytes) -> bool:
    """Whether it looks like a token: three segments of base64url, and nothing else (S50)."""
    return len(text) <= MAX_TOKEN and _SEGMENTS(text) is not None


def parse(text: bytes) -> Token | None:
    """The token, None where another reader might read another one in it (S50)."""
    found = _SEGMENTS(text) if len(text) <= MAX_TOKEN else None
    if found is None:
        return None
    header, payload, signature = found.groups()
    try:
        return Token(
            parse_object(_decoded(header)),
            parse_object(_decoded(payload)),
            text[: found.end(2)],
            _decoded(signature),
        )
    except ValueError:
        return None


def _decoded(segment: bytes) -> bytes:
    """What a segment stands for.

    Raises:
        ValueError: Nothing is encoded so: it has too few characters, or bits that count nowhere.
    """
    found = urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    if urlsafe_b64encode(found).rstrip(b"=") != segment:
        raise ValueError("not as it is encoded")
    return found


def algorithm_of(header: Mapping[str, object], issuer: Issuer) -> str | None:
    """How the token says that it is signed, None where that is not among the issuer's, or the
    header asks for what is not done here (S41, S43, S49).
    """
    if "crit" in header or "b64" in header or not _is_type(header.get("typ"), issuer):
        return None
    algorithm = header.get("alg")
    return algorithm if isinstance(algorithm, str) and algorithm in issuer.algorithms else None


def key_name_of(header: Mapping[str, object]) -> str | None:
    """The name of its key; "" where it says none, None where what it says can be none (S44)."""
    name = header.get("kid", "")
    if not isinstance(name, str) or len(name) > _MAX_KID or (not name and "kid" in header):
        return None
    return name


def _is_type(typ: object, issuer: Issuer) -> bool:
    """Whether the header's `typ` is one of the issuer's tokens."""
    if typ is None:
        return issuer.typ is None
    if not isinstance(typ, str):
        return False
    found = _plain(typ)
    if issuer.typ is not None:
        return found == _plain(issuer.typ)
    return found == _JWT or (found == _ACCESS_TOKEN and issuer.kind == "oauth")


def _plain(typ: str) -> str:
    """A media type without what may be left out, in lower case (RFC 7515 §4.1.9)."""
    return typ.lower().removeprefix("application/")
