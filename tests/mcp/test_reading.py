"""Bodies of requests to a resource: read strictly, priced by what they say, handed on as sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyrush import Gate
from tests.support.resources import App, Door, call, message, result


def balance(gate: Gate) -> int:
    """What acct_a has left."""
    return gate.credits.balance("acct_a")


@pytest.mark.parametrize(
    ("tool", "price"), [("audit_site", 10), ("inspect_page", 2), ("export", 0), ("other", 0)]
)
def test_a_price_for_each_tool(  # noqa: PLR0917  # fixtures
    door: Door, app: App, mcp_gate: Gate, key: str, tool: str, price: int
) -> None:
    """O11, S84: a call costs what its tool does, and the app gets the body byte for byte."""
    body = json.dumps(call(tool), indent=3).encode()
    app.answers(result())
    reply = door.post(body, key)
    assert (reply.status, reply.json) == (200, result())
    assert app.bodies == [body]
    assert balance(mcp_gate) == 100 - price


FREE = [
    message("server/discover"),
    message("initialize", params={"protocolVersion": "2025-11-25"}),
    message("ping"),
    message("tools/list"),
    message("resources/list"),
    message("resources/templates/list"),
    message("prompts/list"),
    message("notifications/initialized", None),
    message(None, 7, result={}),
    message(None, "x", error={"code": 1, "message": "no"}),
]


@pytest.mark.parametrize("free", FREE)
def test_what_is_free_spends_nothing(
    door: Door, mcp_gate: Gate, key: str, free: dict[str, Any]
) -> None:
    """O11, O13: what begins a session or lists costs nothing, and is let in beyond the limit."""
    for left in (4, 3, 2, 1, 0):
        assert door.post(call("export"), key)["x-ratelimit-remaining"] == str(left)
    reply = door.post(free, key)
    assert (reply.status, reply["x-ratelimit-remaining"]) == (200, "0")
    assert reply["x-ratelimit-monthly-remaining"] == "995"
    assert balance(mcp_gate) == 100
    assert door.post(call("export"), key).status == 429


def test_what_is_free_has_an_end(door: Door, key: str) -> None:
    """O13: a caller that sends nothing but what is free is refused beyond ten times its limit."""
    statuses = [door.post(message("tools/list"), key).status for _ in range(51)]
    assert statuses == [200] * 50 + [429]
    assert door.send("GET", key=key).status == 429


#: How messages begin, and calls.
RPC = b'{"jsonrpc":"2.0","id":1,'
CALL = RPC + b'"method":"tools/call",'

BAD = [
    (b"", -32700),
    (b"{", -32700),
    (b"nonsense", -32700),
    (CALL + b'"params":{"name":"export","name":"audit_site"}}', -32700),
    (RPC + b'"method":"ping","method":"tools/call","params":{"name":"audit_site"}}', -32700),
    (RPC + b'"method":"ping","params":{"a":{"b":1,"b":2}}}', -32700),
    (RPC + b'"method":"ping","params":{"a":NaN}}', -32700),
    (RPC + b'"method":"ping","params":{"a":-Infinity}}', -32700),
    (json.dumps(call("export")).encode("utf-16"), -32700),
    (json.dumps(call("export")).encode("utf-16-le"), -32700),
    (json.dumps(call("export")).encode("utf-8-sig"), -32700),
    (RPC + b'"method":"\xff"}', -32700),
    (b"[" * 100_000, -32700),
    (b'{"a":' * 100_000, -32700),
    (b"9" * 10_000, -32700),
    (b"null", -32600),
    (b"5", -32600),
    (b"[]", -32600),
    (b"{}", -32600),
    (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
    (b'{"id":1,"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":1.0,"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":[1],"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":90071992547409931,"method":"ping"}', -32600),
    (RPC + b'"method":1}', -32600),
    (RPC + b'"method":"ping","params":[1]}', -32600),
    (CALL + b'"params":{}}', -32600),
    (RPC + b'"method":"tools/call"}', -32600),
    (CALL + b'"params":{"name":["audit_site"]}}', -32600),
    (CALL + b'"params":{"name":"\\ud800"}}', -32600),
    (CALL + b'"params":{"name":"export","NAME":"audit_site"}}', -32600),
    (RPC + b'"method":"ping","Method":"tools/call","params":{"name":"audit_site"}}', -32600),
    (CALL + b'"params":{"name":"export"},"param\\u017f":{"name":"dear"}}', -32600),
    (RPC + b'"method":"ping","result":{}}', -32600),
    (b'{"jsonrpc":"2.0","id":1}', -32600),
    (RPC + b'"result":{},"error":{}}', -32600),
    (b'{"jsonrpc":"2.0","result":{}}', -32600),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code"), BAD)
def test_what_is_no_message(  # noqa: PLR0917  # fixtures
    door: Door, app: App, mcp_gate: Gate, key: str, body: bytes, code: int
) -> None:
    """S84: what two readers could take for different things gets to no app, and costs nothing."""
    reply = door.post(body, key)
    assert (reply.status, reply["content-type"]) == (400, "application/json")
    error = reply.json["error"]
    assert (reply.json["id"], error["code"]) == (None, code)
    assert error["data"] == {"success": False, "error": error["message"], "statusCode": 400}
    assert reply["x-ratelimit-remaining"] == "5"
    assert not app.bodies
    assert balance(mcp_gate) == 100


@pytest.mark.parametrize(
    "header",
    [
        ("content-type", "application/json; charset=utf-16"),
        ("content-type", 'application/json; charset="UTF-7"'),
        ("content-encoding", "gzip"),
        ("content-encoding", "br"),
    ],
)
def test_what_is_called_something_else(
    door: Door, app: App, key: str, header: tuple[str, str]
) -> None:
    """S84: a body that its headers call another encoding is not read as UTF-8."""
    assert door.post(call("export"), key, header).json["error"]["code"] == -32700
    assert not app.bodies
    plain = [("content-type", "application/json; charset=UTF-8"), ("content-encoding", "identity")]
    assert door.post(call("export"), key, *plain).status == 200


def test_names_are_what_json_says(door: Door, mcp_gate: Gate, key: str) -> None:
    """S84: an escaped name costs what the name does that it stands for."""
    body = RPC + b'"method":"tools\\/call","params":{"n\\u0061me":"\\u0061udit_site"}}'
    assert door.post(body, key).status == 200
    assert balance(mcp_gate) == 90


HEADERS = [
    ([("mcp-method", "tools/call"), ("mcp-name", "export")], None),
    ([("mcp-name", "\t export ")], None),
    ([("Mcp-Name", "=?base64?ZXhwb3J0?=")], None),
    ([("mcp-protocol-version", "2026-07-28")], None),
    ([("mcp-method", "tools/list")], -32020),
    ([("mcp-method", "Tools/Call")], -32020),
    ([("mcp-name", "audit_site")], -32020),
    ([("mcp-name", "Export")], -32020),
    ([("mcp-name", "")], -32020),
    ([("mcp-name", "=?base64?YXVkaXRfc2l0ZQ==?=")], -32020),
    ([("mcp-name", "=?BASE64?ZXhwb3J0?=")], -32020),
    ([("mcp-name", "=?base64?ZXhwb3J0!?=")], -32020),
    ([("mcp-name", "export"), ("mcp-name", "audit_site")], -32020),
    ([("mcp-name", "export"), ("mcp-name", "export")], -32020),
    ([("mcp-method", "tools/call"), ("Mcp-Method", "tools/list")], -32020),
]


@pytest.mark.parametrize(("headers", "code"), HEADERS)
def test_headers_beside_the_body(
    door: Door, key: str, headers: list[tuple[str, str]], code: int | None
) -> None:
    """S83, S84: headers that are there must say what the body does, each once."""
    reply = door.post(call("export", 3), key, *headers)
    assert reply.status == (400 if code else 200)
    if code:
        assert (reply.json["id"], reply.json["error"]["code"]) == (3, code)


@pytest.mark.parametrize("era", [(), ("2025-06-18",), ("2025-11-25",), ("2026-07-28",), ("1",)])
def test_a_cheap_name_buys_nothing(
    door: Door, mcp_gate: Gate, key: str, era: tuple[str, ...]
) -> None:
    """S84: whatever era the headers choose, it is the body's tool that is paid for."""
    versions = [("mcp-protocol-version", one) for one in era]
    assert door.post(call("audit_site"), key, *versions).status == 200
    assert balance(mcp_gate) == 90
    assert door.post(call("audit_site"), key, *versions, ("mcp-name", "export")).status == 400
    assert balance(mcp_gate) == 90


def test_too_large(door: Door, app: App, key: str) -> None:
    """S84: a body of more than KEYRUSH_MCP_MAX_BODY is refused with 413, one of as many is read."""
    exact = json.dumps(call("export")).encode().ljust(1_048_576)
    assert door.post(exact, key).status == 200
    assert app.bodies == [exact]
    reply = door.post(exact + b" ", key)
    assert (reply.status, reply.json["error"]["data"]["statusCode"]) == (413, 413)
    assert len(app.bodies) == 1


def test_paid_for_without_id(door: Door, app: App, mcp_gate: Gate, key: str) -> None:
    """O11: nobody is charged for a call that asks for no answer, and nobody has it for nothing."""
    reply = door.post(call("audit_site", None), key)
    assert (reply.status, reply.json["error"]["code"]) == (400, -32600)
    assert door.post(call("export", None), key).status == 200
    assert len(app.bodies) == 1
    assert balance(mcp_gate) == 100


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "QUERY", "post"])
def test_every_method_with_a_body(door: Door, mcp_gate: Gate, key: str, method: str) -> None:
    """S84: what a lenient app takes for a POST is priced like one."""
    door.send(method, call("inspect_page"), key)
    assert balance(mcp_gate) == 98


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/mcp/x", "/mcp/x/"])
def test_beneath_is_the_resource(door: Door, mcp_gate: Gate, key: str, path: str) -> None:
    """S84: what is mounted at the path takes whatever is beneath it for its endpoint."""
    assert door.send("POST", call("inspect_page"), key, path=path).status == 200
    assert balance(mcp_gate) == 98


@pytest.mark.parametrize("path", ["/mcp2", "/mc", "/other"])
def test_beside_is_none(door: Door, app: App, mcp_gate: Gate, key: str, path: str) -> None:
    """S71: no other body is read."""
    assert door.send("POST", b"\xff", key, path=path).status == 200
    assert app.bodies == [b"\xff"]


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD", "OPTIONS"])
def test_without_a_body(door: Door, mcp_gate: Gate, key: str, method: str) -> None:
    """O11, O13: a stream that is opened and a session that is ended spend nothing."""
    reply = door.send(method, key=key)
    assert (reply.status, reply["x-ratelimit-remaining"]) == (200, "5")
    assert balance(mcp_gate) == 100
