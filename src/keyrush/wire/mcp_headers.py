"""The headers of MCP beside the body: they are the client's word, and must not differ (S83, S84).

Prices and scopes are by the body alone. But servers of the newest revision, and what stands before
them, go by the headers, so that a request that says two things is nobody's.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from keyrush.core.calls import Calls
from keyrush.core.refusal import Refusal
from keyrush.wire.request import Header

MISMATCH = Refusal("header_mismatch")

_METHOD = b"mcp-method"
_NAME = b"mcp-name"
_VERSION = b"mcp-protocol-version"

#: What may come once.
ONCE = frozenset({_METHOD, _NAME, _VERSION})

#: Round a name that is no plain ASCII; the case counts.
_BEGIN, _END = b"=?base64?", b"?="

_BLANKS = b" \t"


def mismatch(headers: Iterable[Header], asked: Calls) -> Refusal | None:
    """A refusal where a header of MCP comes twice, or says another thing than the body."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if (lower := name.lower()) in ONCE:
            if lower in found:
                return MISMATCH
            found[lower] = value.strip(_BLANKS)
    if _METHOD not in found and _NAME not in found:
        return None
    if asked.is_batch:  # of which they can say nothing
        return MISMATCH
    call = asked.calls[0]
    if (method := found.get(_METHOD)) is not None and not _is(call.method, method):
        return MISMATCH
    if (said := found.get(_NAME)) is not None and call.name is not None:
        decoded = _decoded(said)
        if decoded is None or not _is(call.name, decoded):
            return MISMATCH
    return None


def _is(said: str | None, header: bytes) -> bool:
    return said is not None and said.encode("utf-8", "surrogatepass") == header


def _decoded(value: bytes) -> bytes | None:
    """The name that a header means; None where it means none."""
    if not (value.startswith(_BEGIN) and value.endswith(_END)):
        return value
    try:
        return base64.b64decode(value[len(_BEGIN) : -len(_END)], validate=True)
    except (binascii.Error, ValueError):
        return None
