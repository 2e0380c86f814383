"""The official SDK's server and client, and FastMCP's, over sockets, with the gate between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import fastmcp
import httpx2
import pytest
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.exceptions import ToolError
from mcp.client.session import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestParams, ElicitResult

from keyrush import Gate, KeyrushMiddleware
from mcp import Client
from tests.conftest import settings
from tests.support.mcp_server import RULES, mcp_server
from tests.support.resources import RESOURCE
from tests.support.serving import serve

PLANS = {"standard": {"limits": "60/minute", "per": "account"}}


@pytest.fixture(params=["h11", "httptools"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Who reads HTTP in the server."""
    found: str = request.param
    return found


@pytest.fixture
def sdk_gate() -> Iterator[Gate]:
    """A gate with an account of 100 credits."""
    gate = Gate.open(settings(resources=[RESOURCE], rules=RULES, plans=PLANS))
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 100)
    yield gate
    gate.close()


def balance(gate: Gate) -> int:
    """What the account has left."""
    return gate.credits.balance("acct_a")


async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    """What the client says when it is asked."""
    return ElicitResult(action="accept", content={"ok": True})


@asynccontextmanager
async def sdk_client(url: str, key: str | None, mode: str) -> Any:
    """The SDK's client, in an era."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(transport, mode=mode, elicitation_callback=answer) as client:
            yield client


ERAS = [("auto", {}), ("legacy", {}), ("legacy", {"json_response": True})]


@pytest.mark.parametrize(("mode", "options"), ERAS)
def test_the_sdk_with_a_key(
    sdk_gate: Gate, protocol: str, mode: str, options: dict[str, Any]
) -> None:
    """S83, O9, O11: a key works at a resource in every era; each tool costs what it does, with
    progress on the way, and what has failed costs nothing.
    """
    key = sdk_gate.keys.create("acct_a", "k").text
    app = KeyrushMiddleware(mcp_server(**options), gate=sdk_gate)

    async def main(url: str) -> None:
        steps: list[Any] = []

        async def progress(*step: Any) -> None:
            steps.append(step)

        async with sdk_client(url, key, mode) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} >= {"audit_site"}
            assert balance(sdk_gate) == 100
            done = await client.call_tool("audit_site", {"domain": "a.b"})
            assert (done.is_error, done.content[0].text) == (False, "audited a.b")
            assert balance(sdk_gate) == 90
            done = await client.call_tool("inspect_page", {"url": "x"}, progress_callback=progress)
            assert balance(sdk_gate) == 88
            assert not done.is_error
            if "json_response" not in options:
                assert [step[0] for step in steps] == [1, 2, 3]
            assert (await client.call_tool("fails", {})).is_error
            assert (await client.call_tool("audit_site", {"wrong": 1})).is_error
            with pytest.raises(MCPError, match="refused by the tool"):
                await client.call_tool("refuses", {})
            assert balance(sdk_gate) == 88
            if "json_response" not in options:  # asked back: by another call, or in the stream
                done = await client.call_tool("asks", {})
                assert done.content[0].text == "ok=True"
                assert balance(sdk_gate) == 84

    with serve(app, http=protocol) as url:
        anyio.run(main, url)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_what_an_agent_sees_of_refusals(sdk_gate: Gate, protocol: str, mode: str) -> None:
    """S83, O12: the sentence and the documented body of a refusal come out at the client, and it
    goes on with what is free.
    """
    sdk_gate.accounts.create("acct_b")
    poor = sdk_gate.keys.create("acct_b", "poor").text
    app = KeyrushMiddleware(mcp_server(), gate=sdk_gate)

    async def main(url: str) -> None:
        async with sdk_client(url, poor, mode) as client:
            with pytest.raises(MCPError) as caught:
                await client.call_tool("audit_site", {"domain": "a.b"})
            assert caught.value.message == "Not enough credits."
            assert caught.value.code == -32003
            assert caught.value.data["statusCode"] == 402
            assert (await client.list_tools()).tools

    with serve(app, http=protocol) as url:
        anyio.run(main, url)


def test_a_session_of_another_account(sdk_gate: Gate, protocol: str) -> None:
    """S60: with another account's session id nothing is called, read or deleted."""
    sdk_gate.accounts.create("acct_b")
    key, other = (sdk_gate.keys.create(one, "k").text for one in ("acct_a", "acct_b"))
    app = KeyrushMiddleware(mcp_server(), gate=sdk_gate)

    async def main(url: str) -> None:
        seen: list[str] = []

        async def note(response: httpx2.Response) -> None:
            if "mcp-session-id" in response.headers:
                seen.append(response.headers["mcp-session-id"])

        headers = {"authorization": f"Bearer {key}"}
        hooks = {"response": [note]}
        async with httpx2.AsyncClient(headers=headers, event_hooks=hooks) as http:
            transport = streamable_http_client(f"{url}/mcp", http_client=http)
            async with Client(transport, mode="legacy") as client:
                theirs = {"authorization": f"Bearer {other}", "mcp-session-id": seen[0]}
                async with httpx2.AsyncClient(headers=theirs) as thief:
                    for method in ("GET", "DELETE", "POST"):
                        reply = await thief.request(method, f"{url}/mcp", json={"jsonrpc": "2.0"})
                        assert reply.status_code == 404
                done = await client.call_tool("audit_site", {"domain": "a.b"})
                assert not done.is_error

    with serve(app, http=protocol) as url:
        anyio.run(main, url)


def test_fastmcp(sdk_gate: Gate, protocol: str) -> None:
    """S83, O11: FastMCP's client works with a key, and pays what it should."""
    key = sdk_gate.keys.create("acct_a", "k").text
    app = KeyrushMiddleware(mcp_server(), gate=sdk_gate)

    async def main(url: str) -> None:
        transport = StreamableHttpTransport(
            f"{url}/mcp", headers={"authorization": f"Bearer {key}"}
        )
        async with fastmcp.Client(transport) as client:
            done = await client.call_tool("audit_site", {"domain": "a.b"})
            assert done.data.result == "audited a.b"
            with pytest.raises(ToolError):
                await client.call_tool("fails", {})

    with serve(app, http=protocol) as url:
        anyio.run(main, url)
    assert balance(sdk_gate) == 90


@pytest.mark.parametrize("size", [300, 200_000])
def test_bodies_over_sockets(sdk_gate: Gate, protocol: str, size: int) -> None:
    """S71, S84: bodies in chunks and by length get to the server as they were sent, and one that
    says that it is too large is refused unread, without a word to go on.
    """
    key = sdk_gate.keys.create("acct_a", "k").text
    app = KeyrushMiddleware(mcp_server(), gate=sdk_gate)
    domain = "x" * size

    async def main(url: str) -> None:
        async with sdk_client(url, key, "auto") as client:
            done = await client.call_tool("audit_site", {"domain": domain})
            assert done.content[0].text == f"audited {domain}"

    with serve(app, http=protocol) as url:
        anyio.run(main, url)
        host, _, port = url.removeprefix("http://").partition(":")
        asked = f"POST /mcp HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\n"
        for extra, says in (
            ("Content-Length: 20\r\n", b"HTTP/1.1 401"),
            (f"X-API-Key: {key}\r\nContent-Length: 9999999\r\n", b"HTTP/1.1 413"),
        ):
            assert anyio.run(first_bytes, host, int(port), f"{asked}{extra}\r\n").startswith(says)


async def first_bytes(host: str, port: int, request: str) -> bytes:
    """What a server answers first."""
    async with await anyio.connect_tcp(host, port) as stream:
        await stream.send(request.encode())
        return await stream.receive()
