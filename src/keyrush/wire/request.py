"""What HTTP asks: the credential in a request.

Nothing here knows ASGI or WSGI. Header names and values are bytes, names in lower case (S69).
Nothing is done to a value, beyond looking at its length, before that is known to be sane.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

from keyrush.core.key_text import MAX_LENGTH
from keyrush.core.refusal import Refusal

Header = tuple[bytes, bytes]


#: What else is noted of a request: the beginning of `User-Agent`, of `X-Request-ID`, and the end of
#: `X-Forwarded-For`, as they came. None where there is none, or nobody asked.
Noted = tuple[bytes | None, bytes | None, bytes | None]

NOTHING: Noted = (None, None, None)

USER_AGENT, REQUEST_ID, FORWARDED_FOR = b"user-agent", b"x-request-id", b"x-forwarded-for"

#: Bytes that are kept of each: of an agent what 80 characters may take, and what a key has that
#: begins in them; what is longer than an id is none, and of proxies those count that have spoken
#: last.
_MAX_AGENT, _MAX_ID, _MAX_FORWARDED = 400, 65, 512

#: The same, as slices of values, in the order of `Noted`.
CUTS = (slice(_MAX_AGENT), slice(_MAX_ID), slice(-_MAX_FORWARDED, None))


class Credential:
    """A presented key or token, with what the headers beside it tell. Its repr says nothing of it
    (S82); `digest` is its BLAKE2b, which needs no instructions of a processor's own to be fast on
    a long token.
    """

    __slots__ = ("digest", "noted", "text")

    def __init__(self, text: bytes, noted: Noted = NOTHING) -> None:
        self.text = text
        self.noted = noted
        self.digest = blake2b(text, digest_size=32).digest()

    def __repr__(self) -> str:
        return "Credential(…)"


#: The largest number that a header field may hold: 15 digits (S33).
MAX_FIELD = 999_999_999_999_999

#: Bytes of a header's value that may hold a key: more is not read. Room for a scheme, and for
#: one key several times, as some servers join lines.
MAX_VALUE = 4 * MAX_LENGTH

#: Bytes of a token (S50). More would be hashed for nothing.
MAX_TOKEN = 8192

MISSING = Refusal("missing_credential")
INVALID = Refusal("invalid_credential")
TWO = Refusal("two_credentials")

#: The headers that a key may come in, unless said otherwise (contract R1, O1).
CREDENTIAL_HEADERS = ("authorization", "x-api-key")

AUTHORIZATION = b"authorization"

#: Bytes of a scheme before a token, with spaces: more is not read.
_ROOM = 64

#: The schemes of `Authorization` whose token is a key.
_SCHEMES = (b"bearer", b"api-key")

_WITH_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9-]* +\S").match


#: Names of headers that are remembered, and the longest: enough for those that clients send.
_REMEMBERED, _LONG_NAME = 256, 64

#: What a header is to us, by its name. Kinds up to `_HOLDS_KEY` may hold a key.
_AUTHORIZATION, _HOLDS_KEY, _IS_ID, _IS_AGENT, _IS_FORWARDED = range(1, 6)


class _Kinds(dict[bytes, int]):
    """The kinds of headers by their names, in any case; 0 is no business of ours. A name that comes
    again is one look-up, where most of a request's headers are of no interest.
    """

    def __init__(self, kinds: Mapping[bytes, int]) -> None:
        super().__init__(kinds)
        self._kinds = dict(kinds)
        self._lengths = frozenset(map(len, kinds))

    def __missing__(self, name: bytes) -> int:
        kind = self._kinds.get(name.lower(), 0) if len(name) in self._lengths else 0
        if len(self) < _REMEMBERED and len(name) <= _LONG_NAME:
            self[name] = kind
        return kind


class CredentialHeaders:
    """The headers that may hold a key, by `names` in lower case; others are no business of ours.

    `Authorization: Bearer …`, or `Api-Key …`; in any other header the value is the key. With
    `tokens` also a token may be where a key may. What is in the headers `noted` is noted with it.
    """

    def __init__(
        self,
        names: Sequence[str] = CREDENTIAL_HEADERS,
        *,
        tokens: bool = False,
        noted: Iterable[bytes] = (REQUEST_ID,),
    ) -> None:
        self._most = MAX_TOKEN if tokens else MAX_LENGTH
        #: Bytes of a header's value that are read; one that has more is refused unread.
        self.longest = max(MAX_VALUE, self._most + _ROOM)
        self.names = tuple(name.lower().encode("ascii") for name in names)
        self._names = frozenset(self.names)
        self.noted = tuple(name for name in noted if name not in self._names)
        noting = {REQUEST_ID: _IS_ID, USER_AGENT: _IS_AGENT, FORWARDED_FOR: _IS_FORWARDED}
        kinds = {name: noting[name] for name in self.noted} | dict.fromkeys(self.names, _HOLDS_KEY)
        if AUTHORIZATION in kinds:
            kinds[AUTHORIZATION] = _AUTHORIZATION
        self._kinds = _Kinds(kinds)
        spelled = ", ".join(name.title().replace("Api", "API") for name in names)
        #: Answers depend on them, which caches should know (S23).
        self.vary: Header = (b"vary", spelled.encode("ascii"))

    def credential(  # noqa: C901, PLR0912  # one pass, as every request takes it
        self, headers: Iterable[Header], noted: Noted = NOTHING
    ) -> Credential | Refusal:
        """The one credential among the request headers, or why there is none (S1–S8, S11, S12).

        Header names may be in any case. Several headers may hold a key only if it is the same.
        `noted` is what the caller has found itself.
        """
        kinds = self._kinds
        first_kind, first = 0, None
        others: list[tuple[int, bytes]] | None = None
        agent, request_id, forwarded = noted
        for name, value in headers:
            kind = kinds[name]
            if not kind:  # as of most
                continue
            if kind <= _HOLDS_KEY:
                if first is None:
                    first_kind, first = kind, value
                elif others is None:
                    others = [(kind, value)]
                else:
                    others.append((kind, value))
            elif kind == _IS_ID:
                request_id = value[:_MAX_ID]
            elif kind == _IS_AGENT:
                agent = value[:_MAX_AGENT]
            else:
                forwarded = _joined(forwarded, value)
        if first is None:
            return MISSING
        if others is not None:
            key = _one_of([(first_kind, first), *others], self._most)
        else:
            most = self._most
            key = _bearer(first, most) if first_kind == _AUTHORIZATION else _plain(first, most)
        if isinstance(key, bytes):
            return Credential(key, (agent, request_id, forwarded))
        return key or MISSING

    def noted_in(self, headers: Iterable[Header], noted: Noted = NOTHING) -> Noted:
        """What is noted of headers in which nobody looks for a key."""
        agent, request_id, forwarded = noted
        for name, value in headers:
            lower = name.lower()
            if lower == REQUEST_ID:
                request_id = value[:_MAX_ID]
            elif lower == USER_AGENT:
                agent = value[:_MAX_AGENT]
            elif lower == FORWARDED_FOR:
                forwarded = _joined(forwarded, value)
        return agent, request_id, forwarded

    def without(self, headers: Iterable[Header]) -> list[Header]:
        """The request headers without those that may hold a key."""
        return [header for header in headers if header[0].lower() not in self._names]


def _joined(forwarded: bytes | None, value: bytes) -> bytes:
    """The end of `X-Forwarded-For`, with one line more of it."""
    before = b"" if forwarded is None else forwarded + b","
    return (before + value[-_MAX_FORWARDED:])[-_MAX_FORWARDED:]


def _one_of(headers: Sequence[tuple[int, bytes]], most: int) -> bytes | Refusal | None:
    """The credential that several headers, each with its kind, agree upon (S7, S8)."""
    if sum(kind == _AUTHORIZATION for kind, _ in headers) > 1:
        return TWO
    found = [
        _bearer(value, most) if kind == _AUTHORIZATION else _plain(value, most)
        for kind, value in headers
    ]
    refusals = [key for key in found if isinstance(key, Refusal)]
    if TWO in refusals:
        return TWO
    texts = [key for key in found if isinstance(key, bytes)]
    if texts and not all(hmac.compare_digest(texts[0], other) for other in texts[1:]):
        return TWO
    if texts and refusals:
        return TWO  # a key, and something else in the place of one
    return texts[0] if texts else INVALID if refusals else None


def _bearer(value: bytes, most: int) -> bytes | Refusal | None:
    """The credential of at most so many bytes after its scheme, None for another scheme, a refusal
    for several.
    """
    if len(value) > MAX_VALUE:
        return _long_bearer(value, most)
    if value[:7] == b"Bearer " and b"," not in value:  # as nearly all send it
        text = value[7:].strip(b" ")
        return text if 0 < len(text) <= most else INVALID  # `_sane`, without a call
    scheme, _, token = value.strip(b" \t").partition(b" ")
    if b"," in value:
        parts = [part.strip(b" \t") for part in value.split(b",")]
        schemes = [part.partition(b" ")[0].lower() for part in parts if _WITH_SCHEME(part)]
        if len(schemes) > 1 and any(scheme in _SCHEMES for scheme in schemes):
            return TWO
    return _sane(token.strip(b" "), most) if scheme.lower() in _SCHEMES else None


def _long_bearer(value: bytes, most: int) -> bytes | Refusal | None:
    """The same of what is too long for a key, and not looked through: one token, or nothing."""
    scheme, _, token = value[: most + _ROOM].lstrip(b" \t").partition(b" ")
    if scheme.lower() not in _SCHEMES:
        return None
    if len(value) > most + _ROOM:
        return INVALID
    return TWO if b"," in token else _sane(token.strip(b" \t"), most)


def _plain(value: bytes, most: int) -> bytes | Refusal:
    """The key in a header that holds nothing else; some servers make one of two such lines."""
    if len(value) > MAX_VALUE:
        if len(value) > most + _ROOM:
            return INVALID
        return TWO if b"," in value else _sane(value.strip(b" \t"), most)
    if b"," in value:
        first, *others = (part.strip(b" \t") for part in value.split(b","))
        if not all(hmac.compare_digest(first, other) for other in others):
            return TWO
        value = first
    return _sane(value.strip(b" \t"), most)


def _sane(text: bytes, most: int) -> bytes | Refusal:
    return text if 0 < len(text) <= most else INVALID


# --- preflights --------------------------------------------------------------------------------


def is_preflight(headers: Iterable[Header]) -> bool:
    """True for the headers of a CORS preflight (S76), on an OPTIONS request."""
    names = {name.lower() for name, _ in headers}
    return b"origin" in names and b"access-control-request-method" in names
