"""What HTTP answers: refusals as whole responses.

Nothing here knows ASGI or WSGI. Header names and values are bytes, names in lower case (S69).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from keyrush.core.refusal import Reason, Refusal
from keyrush.runtime.logs import log_fault
from keyrush.wire.request import Header

#: A user's own refusal body: takes the refusal and its text, returns content type and body.
Body = Callable[[Refusal, str], tuple[str, bytes]]


# --- fields of a successful response ---------------------------------------------------------


# Most of these are the same for many requests; to look one up is cheaper than to format it.


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

#: A scope-token (RFC 6749 §3.3). Other names were never granted to anybody.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")

#: What the text may name: as RFC 6750 §3 has descriptions, and no longer than names are.
_NAME = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,120}")

_DESCRIPTION: dict[Reason, str] = {
    "invalid_credential": "The credential is invalid or expired",
    "two_credentials": "Send exactly one credential",
}


_ABOUT_THE_KEY = {"missing_credential", "invalid_credential"}

#: What is said to people, of each reason but those.
_SENTENCES: dict[Reason, str] = {
    "two_credentials": "Send exactly one credential: Authorization or X-API-Key.",
    "malformed_path": "The path must be in plain form, without empty or dot segments.",
    "insufficient_scope": "The API key lacks the scope {names}.",
    "unruled": "API keys are not admitted to this path by this method.",
    "beyond_caller": "An API key can't make one that may do more than itself, or manage such.",
    "too_many_keys": "The account has {names} active keys, as many as its plan allows.",
    "module_not_in_plan": "Your plan does not include {names}.",
    "gated_feature": "Your plan does not include {names}.",
    "rate_limited": "Rate limit exceeded. Try again in {wait} seconds.",
    "quota_exceeded": "Monthly quota exceeded. Try again in {wait} seconds.",
    "insufficient_credits": "Not enough credits.",
    "not_found": "Not found.",
    "method_not_allowed": "Method not allowed.",
    "body_too_large": "The request body has more than {names} bytes.",
    "unavailable": "Service unavailable. Try again in {wait} seconds.",
}

#: The same where there are no names, or such as can't be shown.
_NAMELESS: dict[Reason, str] = {
    "insufficient_scope": "The API key lacks a scope.",
    "module_not_in_plan": "Your plan does not include a requested module.",
    "gated_feature": "Your plan does not include a requested module.",
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
        content_type, body = self._said(refusal)
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

    def _said(self, refusal: Refusal) -> tuple[str, bytes]:
        """Content type and body; the documented ones where a user's own function fails."""
        text = self.text(refusal)
        try:
            content_type, body = self._body(refusal, text)
            content = body.encode() if isinstance(body, str) else bytes(body)
            _check_field(content_type)
        except Exception as error:
            log_fault("the function in KEYRUSH_ERRORS fails", error)
            return _documented(refusal, text)
        return content_type, content

    def text(self, refusal: Refusal) -> str:
        """The sentence for people (R9, R10). It never echoes what the request said."""
        reason, names = refusal.reason, ""
        if all(_NAME.fullmatch(name) for name in refusal.names):
            names = ", ".join(refusal.names)
        if reason in _ABOUT_THE_KEY:
            return self._key_text
        sentence = _SENTENCES[reason] if names else _NAMELESS.get(reason, _SENTENCES[reason])
        return sentence.format(names=names, wait=refusal.retry_after)

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
        names = refusal.names if reason == "insufficient_scope" else ()
        if names and all(_SCOPE.fullmatch(name) for name in names):
            challenge += f', scope="{" ".join(names)}"'
        return challenge


def _check_field(value: str) -> None:
    """Raise ValueError where `value` can't be sent in a header, as with CR or LF in it (S27)."""
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"{value!r} is no header field")


def _documented(refusal: Refusal, text: str) -> tuple[str, bytes]:
    body = {"success": False, "error": text, "statusCode": refusal.status}
    return "application/json", json.dumps(body).encode()


def _problem(refusal: Refusal, text: str) -> tuple[str, bytes]:
    """RFC 9457; `type` is left at its default, so `title` is the phrase of the status (S25)."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(refusal.status).phrase,
        "status": refusal.status,
        "detail": text,
    }
    return "application/problem+json", json.dumps(body).encode()


_BODIES: dict[str, Body] = {"documented": _documented, "problem": _problem}
