"""What HTTP says: the credential in a request, rate-limit fields, refusals as responses.

Nothing here knows ASGI or WSGI. Header names and values are bytes, names in lower case (S69).
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from keyrush import keys
from keyrush.model import Identity, Reason, Refusal, month_bounds
from keyrush.windows import Tally

Header = tuple[bytes, bytes]

#: A user's own refusal body: takes the refusal and its text, returns content type and body.
Body = Callable[[Refusal, str], tuple[str, bytes]]


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

_WITH_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9-]* +\S").match


def credential(headers: Iterable[Header]) -> Credential | Refusal:
    """The one credential among the request headers, or why there is none (S1–S8, S11, S12).

    Header names may be in any case. `Authorization: Bearer` and `X-API-Key` may both be
    present only with the same value.
    """
    authorization: bytes | None = None
    api_key: bytes | None = None
    for name, value in headers:
        size = len(name)
        if size == 9 and name.lower() == b"x-api-key":
            if api_key is not None and not _same(api_key, value):
                return TWO
            api_key = value
        elif size == 13 and name.lower() == b"authorization":
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


# --- fields of a successful response ---------------------------------------------------------

VARY: Header = (b"vary", b"X-API-Key")


class Fields:
    """The rate-limit fields of authenticated responses: `x-ratelimit`, `ietf` or `both`."""

    def __init__(self, style: str) -> None:
        self._x = style in ("x-ratelimit", "both")
        self._ietf = style in ("ietf", "both")

    def of(self, identity: Identity, tally: Tally, now: int) -> list[Header]:
        """The fields for one response (R11–R13, O14); `now` is Unix milliseconds."""
        fields: list[Header] = []
        if self._x:
            _, window, remaining, ready_at = tally
            if window is not None:
                fields = [
                    _limit(window[2]),
                    (b"x-ratelimit-remaining", b"%d" % remaining),
                    _reset(ready_at),
                ]
            quota = identity.plan.quota
            if quota is not None:
                count = identity.quota_count
                left = quota.amount - count.stored - count.flushing - count.pending
                fields.append(_monthly_limit(quota.amount))
                if left >= 0:
                    fields.append((b"x-ratelimit-monthly-remaining", b"%d" % left))
                else:
                    fields.append((b"x-ratelimit-monthly-remaining", b"0"))
                    fields.append((b"x-ratelimit-monthly-overage", b"%d" % -left))
        if self._ietf:
            fields += _ietf(identity, tally, now)
        return fields


# Most of these are the same for many requests; to look one up is cheaper than to format it.


@lru_cache(1024)
def _reset(ready_at: int) -> Header:
    return (b"x-ratelimit-reset", b"%d" % -(-ready_at // 1000))


@lru_cache(256)
def _limit(amount: int) -> Header:
    return (b"x-ratelimit-limit", b"%d" % amount)


@lru_cache(256)
def _monthly_limit(amount: int) -> Header:
    return (b"x-ratelimit-monthly-limit", b"%d" % amount)


def _ietf(identity: Identity, tally: Tally, now: int) -> list[Header]:
    """RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers-11 (S28–S33)."""
    policies = [f'"{w.name}";q={w.amount};w={w.length // 1000}' for w in identity.windows]
    if identity.quota is not None:
        first, following = month_bounds(now)
        policies.append(f'"month";q={identity.quota.amount};w={(following - first) // 1000}')
    fields: list[Header] = []
    if policies:
        fields.append((b"ratelimit-policy", ", ".join(policies).encode("ascii")))
    if tally.window is not None:
        value = f'"{tally.window.name}";r={tally.remaining};t={seconds_until(tally.ready_at, now)}'
        fields.append((b"ratelimit", value.encode("ascii")))
    return fields


def seconds_until(instant: int, now: int) -> int:
    """Whole seconds from `now` to the Unix second at or after `instant`, at least 1 (S21).

    Reset is that second itself, so Retry-After, Reset and the text are one number (S30).
    """
    return max(1, -(-instant // 1000) - now // 1000)


# --- refusals ----------------------------------------------------------------------------------


class Response(NamedTuple):
    """A whole response. For HEAD, send it without the body (S24)."""

    status: int
    headers: list[Header]
    body: bytes


_ERROR: dict[Reason, str] = {
    "invalid_credential": "invalid_token",
    "two_credentials": "invalid_request",
    "insufficient_scope": "insufficient_scope",
}

_DESCRIPTION: dict[Reason, str] = {
    "invalid_credential": "The credential is invalid or expired",
    "two_credentials": "Send exactly one credential",
}


class Refusals:
    """Turns refusals into responses: body, challenge, Retry-After, no-store (R8–R10, S13–S27)."""

    def __init__(self, style: str | Body, realm: str, keys_url: str | None) -> None:
        self._body: Body = _BODIES[style] if isinstance(style, str) else style
        self._realm = realm
        hint = f" Get your key at {keys_url}" if keys_url else ""
        self._key_text = "Invalid or missing API key." + hint

    def response(self, refusal: Refusal) -> Response:
        """The response that says `refusal`."""
        content_type, body = self._body(refusal, self.text(refusal))
        headers = [
            (b"content-type", content_type.encode("latin-1")),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        if challenge := self._challenge(refusal):
            headers.append((b"www-authenticate", challenge.encode("latin-1")))
        if refusal.retry_after is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after))
        headers.extend(refusal.headers)
        return Response(refusal.status, headers, body)

    def text(self, refusal: Refusal) -> str:
        """The sentence for people (R9, R10). It never echoes what the request said."""
        reason, names = refusal.reason, ", ".join(refusal.names)
        match reason:
            case "missing_credential" | "invalid_credential":
                return self._key_text
            case "two_credentials":
                return "Send exactly one credential: Authorization or X-API-Key."
            case "insufficient_scope":
                return f"The API key lacks the scope {names}."
            case "module_not_in_plan":
                return f"Your plan does not include {names or 'a requested module'}."
            case "rate_limited":
                return f"Rate limit exceeded. Try again in {refusal.retry_after} seconds."
            case "quota_exceeded":
                return f"Monthly quota exceeded. Try again in {refusal.retry_after} seconds."
            case "insufficient_credits":
                return "Not enough credits."
            case "not_found":
                return "Not found."
            case "unavailable":
                return f"Service unavailable. Try again in {refusal.retry_after} seconds."

    def _challenge(self, refusal: Refusal) -> str | None:
        """`WWW-Authenticate`, exactly as tabled in the standards list (S4, S13–S18)."""
        reason = refusal.reason
        if reason != "missing_credential" and reason not in _ERROR:
            return None
        challenge = f'Bearer realm="{self._realm}"'
        if error := _ERROR.get(reason):
            challenge += f', error="{error}"'
        if description := _DESCRIPTION.get(reason):
            challenge += f', error_description="{description}"'
        if reason == "insufficient_scope":
            challenge += f', scope="{" ".join(refusal.names)}"'
        return challenge


def _documented(refusal: Refusal, text: str) -> tuple[str, bytes]:
    body = {"success": False, "error": text, "statusCode": refusal.status}
    return "application/json", json.dumps(body).encode()


_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    503: "Service Unavailable",
}


def _problem(refusal: Refusal, text: str) -> tuple[str, bytes]:
    """RFC 9457; `type` is left at its default, so `title` is the phrase of the status (S25)."""
    body = {
        "type": "about:blank",
        "title": _TITLES[refusal.status],
        "status": refusal.status,
        "detail": text,
    }
    return "application/problem+json", json.dumps(body).encode()


_BODIES: dict[str, Body] = {"documented": _documented, "problem": _problem}


# --- who is at the other end -------------------------------------------------------------------

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(
    peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[Network]
) -> str | None:
    """The client's address. `X-Forwarded-For` counts only as far as trusted proxies wrote it."""
    address = peer
    for hop in reversed([*forwarded_for]):
        if address is None or not _is_in(address, trusted):
            break
        address = hop.strip()
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
