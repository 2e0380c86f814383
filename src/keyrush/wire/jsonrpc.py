"""JSON-RPC as MCP speaks it: what a body asks for, read strictly, and refusals in its form.

What two readers could take for different things is refused: whoever prices a call must read in it
what the server does. So a member comes once, and none is spelled like one that counts but for
the case, which some readers don't look at.
"""

from __future__ import annotations

import json
from typing import Any

from keyrush.core.calls import CANCELLED, TOOLS_CALL, Call, Calls
from keyrush.core.refusal import Reason, Refusal
from keyrush.core.strict_json import parse

NOT_JSON = Refusal("not_json")
NOT_JSON_RPC = Refusal("not_json_rpc")

#: Messages of one batch.
MAX_BATCH = 100

#: Characters of ids, methods and names.
MAX_TEXT = 1024

#: Ids that fit into what other languages have for numbers (RFC 8259 §6).
_MAX_ID = 2**53

#: The member of `params` that says what is called, got or read.
_NAMED_BY = {TOOLS_CALL: "name", "prompts/get": "name", "resources/read": "uri"}

_MEMBERS = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
_NAMES = frozenset({"name", "uri"})


def read(body: bytes) -> Calls | Refusal:
    """What the body asks for; a refusal where it is no JSON, or no JSON-RPC of MCP."""
    try:
        found = parse(body)
    except ValueError:
        return NOT_JSON
    if isinstance(found, dict):
        call = _call(found)
        return NOT_JSON_RPC if call is None else Calls((call,))
    if not isinstance(found, list) or not 0 < len(found) <= MAX_BATCH:
        return NOT_JSON_RPC
    calls = [_call(one) for one in found]
    ids = [call.id for call in calls if call is not None and call.method and call.id is not None]
    if len(set(map(repr, ids))) < len(ids):
        return NOT_JSON_RPC  # nobody could tell their answers apart
    whole = tuple(call for call in calls if call is not None)
    return Calls(whole, is_batch=True) if len(whole) == len(found) else NOT_JSON_RPC


def _call(found: object) -> Call | None:
    """One message; None where it is none."""
    if not isinstance(found, dict) or found.get("jsonrpc") != "2.0" or _hides(found, _MEMBERS):
        return None
    number = found.get("id")
    if not _is_id(number) or ("id" in found and number is None):
        return None
    if "method" not in found:
        is_answer = "id" in found and ("result" in found) != ("error" in found)
        return Call(None, number) if is_answer else None
    method, params = found["method"], found.get("params", {})
    if not _is_text(method) or not isinstance(params, dict) or {"result", "error"} & set(found):
        return None
    if (member := _NAMED_BY.get(method)) is None:
        given_up = params.get("requestId") if method == CANCELLED else None
        return Call(method, number, cancels=given_up if _is_id(given_up) else None)
    name = params.get(member)
    if not _is_text(name) or _hides(params, _NAMES):
        return None
    return Call(method, number, name)


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and _is_whole(value)
    is_number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MAX_ID
    return value is None or is_number


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and _is_whole(value)


def _is_whole(text: str) -> bool:
    """False for one with half of a surrogate pair, of which readers make different things."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _hides(found: dict[str, Any], names: frozenset[str]) -> bool:
    """True where a member is one of the names to readers that don't look at the case."""
    return any(name not in names and name.casefold() in names for name in found)


# --- refusals ------------------------------------------------------------------------------------

#: Of what the gate refuses, whatever for; `data` says it.
_REFUSED = -32003

_CODES: dict[Reason, int] = {
    "not_json": -32700,
    "not_json_rpc": -32600,
    "batch_refused": -32600,
    "call_without_id": -32600,
    "id_in_use": -32600,
    "header_mismatch": -32020,  # S83
}


def refused(refusal: Refusal, text: str, said: object, number: str | int | None) -> bytes:
    """The body of a refusal as an error of JSON-RPC, because agents show nothing else. `said` is
    the documented body, `number` the id of the request, where it was read.
    """
    error = {"code": _CODES.get(refusal.reason, _REFUSED), "message": text, "data": said}
    return json.dumps({"jsonrpc": "2.0", "id": number, "error": error}).encode()
