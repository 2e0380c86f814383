"""What HTTP answers: refusals as whole responses.

Nothing here knows ASGI or WSGI. Header names and values are bytes, names in lower case (S69).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from keyrush.core.refusal import MEANINGS, Refusal
from keyrush.core.resources import Resource
from keyrush.runtime.logs import log_fault
from keyrush.wire import jsonrpc
from keyrush.wire.challenges import challenge
from keyrush.wire.request import Header

#: A user's own refusal body: takes the refusal and its text, returns content type and body.
Body = Callable[[Refusal, str], tuple[str, bytes]]


class Response(NamedTuple):
    """A whole response. For HEAD, send it without the body (S24)."""

    status: int
    headers: list[Header]
    body: bytes


class Asked(NamedTuple):
    """What was asked of a resource: `is_call` where the answer is one of JSON-RPC, to `id`."""

    resource: Resource | None
    is_call: bool
    id: str | int | None = None


#: What the text may name: as RFC 6750 §3 has descriptions, and no longer than names are.
_NAME = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,120}")


class Refusals:
    """Turns refusals into responses: body, challenge, Retry-After, no-store (R8–R10, S13–S27)."""

    def __init__(self, style: str | Body, realm: str, keys_url: str | None) -> None:
        self._body: Body = _BODIES[style] if isinstance(style, str) else style
        self._realm = realm
        self._hint = f" Get your key at {keys_url}" if keys_url else ""

    def response(self, refusal: Refusal, asked: Asked | None = None) -> Response:
        """The response that says `refusal`, to a request for a resource in its form."""
        content_type, body = self._said(refusal)
        if asked is not None and asked.is_call:
            said = _told(content_type, body)
            body = jsonrpc.refused(refusal, self.text(refusal), said, asked.id)
            content_type = "application/json"
        headers = [
            (b"content-type", content_type.encode("latin-1")),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        if value := challenge(refusal, self._realm, asked.resource if asked else None):
            headers.append((b"www-authenticate", value.encode("latin-1")))
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
        names = ""
        if all(_NAME.fullmatch(name) for name in refusal.names):
            names = ", ".join(refusal.names)
        meaning = MEANINGS[refusal.reason]
        return meaning.said(names=names, wait=refusal.retry_after, hint=self._hint)


def _check_field(value: str) -> None:
    """Raise ValueError where `value` can't be sent in a header, as with CR or LF in it (S27)."""
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"{value!r} is no header field")


def _told(content_type: str, body: bytes) -> object:
    """The body as a value of JSON: what it says, or its text."""
    text = body.decode("utf-8", "replace")
    if "json" in content_type:
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


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
