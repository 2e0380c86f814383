"""Agents that come without a key: found, registered, let in and let in further, as MCP has it.

With the SDK's and FastMCP's own clients, and a real authorisation server.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import parse_qs, urlparse

import anyio
import fastmcp
import httpx2
import pytest
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.utilities.tests import HeadlessOAuth
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata
from pydantic import AnyUrl
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from keyrush import Gate, KeyrushMiddleware
from keyrush.authentication.tokens.issuer_keys import COOL_DOWN
from mcp import Client
from tests.conftest import settings
from tests.support.authorisation import AuthorisationServer, authorising
from tests.support.mcp_server import RULES, mcp_server
from tests.support.resources import call
from tests.support.serving import listening, serve, url_of

PLANS = {"standard": {"limits": "600/minute", "per": "account"}}


class Clock:
    """The real time, ahead by as much as a test says."""

    ahead = 0

    def __call__(self) -> int:
        return int(time.time() * 1000) + self.ahead


class Keep:
    """What a client keeps of its flows."""

    def __init__(self) -> None:
        self.tokens: Any = None
        self.info: Any = None

    async def get_tokens(self) -> Any:
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> Any:
        return self.info

    async def set_client_info(self, client_info: Any) -> None:
        self.info = client_info


class Site:
    """A site with two resources and an API behind one gate, and who issues tokens for them."""

    def __init__(
        self, url: str, issuer: AuthorisationServer, gate: Gate, clock: Clock, running: ExitStack
    ) -> None:
        self.url = url
        self.issuer = issuer
        self.gate = gate
        self.clock = clock
        self.running = running

    @property
    def balance(self) -> int:
        """What the account of user-1 has left."""
        return self.gate.credits.balance("acct_a")

    def stop_issuer(self) -> None:
        """The authorisation server is away from now on."""
        self.running.close()


async def me(request: Any) -> JSONResponse:
    """Who calls, at a path that is no resource."""
    caller = request.user
    return JSONResponse({"account": caller.account_id, "source": caller.source})


@contextmanager
def site(**options: Any) -> Iterator[Site]:
    """The site, served."""
    listener, clock = listening(), Clock()
    url = url_of(listener)
    resources = [f"{url}/mcp", f"{url}/mcp2"]
    with ExitStack() as running:
        issuer = running.enter_context(authorising(resources, ["tools", "seo"]))
        tables = [
            {
                "path": path,
                "resource": f"{url}{path}",
                "authorization_servers": [issuer.url],
                "scopes_supported": ["tools"],
            }
            for path in ("/mcp", "/mcp2")
        ]
        known = {"issuer": issuer.url, "kind": "oauth", "typ": "at+jwt", "accounts": "create"}
        gate = Gate.open(
            settings(resources=tables, rules=RULES, plans=PLANS, issuers=[known]), clock=clock
        )
        gate.accounts.create("acct_a")
        gate.credits.grant("acct_a", 100)
        gate.accounts.link("acct_a", issuer=issuer.url, subject="user-1")
        server = mcp_server()
        app = Starlette(
            routes=[Route("/me", me), Mount("/", server)],
            lifespan=lambda _: server.router.lifespan_context(server),
        )
        app.add_middleware(KeyrushMiddleware, gate=gate)
        with serve(app, listener, **options):
            yield Site(url, issuer, gate, clock, running)
        gate.close()


@asynccontextmanager
async def agent(at: Site, mode: str = "auto", keep: Keep | None = None) -> AsyncIterator[Any]:
    """The SDK's client, which begins with nothing but the URL; it clicks yes by itself."""
    sent_to: list[str] = []

    async def go(url: str) -> None:
        async with httpx2.AsyncClient() as browser:
            sent_to.append((await browser.get(url)).headers["location"])

    async def come_back() -> AuthorizationCodeResult:
        query = {name: values[0] for name, values in parse_qs(urlparse(sent_to[-1]).query).items()}
        return AuthorizationCodeResult(
            code=query["code"], state=query.get("state"), iss=query.get("iss")
        )

    auth = OAuthClientProvider(
        f"{at.url}/mcp",
        OAuthClientMetadata(
            redirect_uris=[AnyUrl("http://localhost:1/callback")], client_name="agent"
        ),
        keep or Keep(),
        redirect_handler=go,
        callback_handler=come_back,
    )
    async with httpx2.AsyncClient(auth=auth, timeout=30) as http:
        transport = streamable_http_client(f"{at.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_from_nothing_to_a_tool(mode: str, http: str) -> None:
    """S55 to S64, S85 to S87, O9: keyless, 401, metadata, registration, a code with PKCE, a token,
    tools with progress; then a 403 that names all scopes, and the dearer tool. One account pays.
    """

    async def main(at: Site) -> None:
        steps: list[Any] = []

        async def progress(*step: Any) -> None:
            steps.append(step)

        keep = Keep()
        async with agent(at, mode, keep) as client:
            assert len((await client.list_tools()).tools) == 5
            assert keep.tokens.scope == "tools"
            done = await client.call_tool("inspect_page", {"url": "x"}, progress_callback=progress)
            assert [step[0] for step in steps] == [1, 2, 3]
            assert at.balance == 98
            done = await client.call_tool("audit_site", {"domain": "a.b"})
            assert (done.is_error, done.content[0].text) == (False, "audited a.b")
            assert set(keep.tokens.scope.split()) == {"tools", "seo"}
            assert at.balance == 88

    with site(http=http) as at:
        anyio.run(main, at)


@pytest.mark.filterwarnings("ignore:Using in-memory token storage")  # which is what it should do
def test_fastmcp_from_nothing() -> None:
    """S85, O9: FastMCP's client finds its way in, too."""

    async def main(at: Site) -> None:
        auth = HeadlessOAuth(f"{at.url}/mcp")
        transport = StreamableHttpTransport(f"{at.url}/mcp", auth=auth)
        async with fastmcp.Client(transport) as client:
            done = await client.call_tool("inspect_page", {"url": "x"})
            assert done.data.result == "inspected x"
        assert at.balance == 98

    with site() as at:
        anyio.run(main, at)


def posted(at: Site, token: str, body: Any, path: str = "/mcp", **headers: str) -> httpx2.Response:
    """The answer to a message, of a server that is asked without a session."""
    given = {
        "authorization": f"Bearer {token}",
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
    }
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body["params"]["_meta"] = meta
    return httpx2.post(f"{at.url}{path}", content=json.dumps(body), headers=given | headers)


def test_a_token_is_for_one_resource() -> None:
    """S46, S59, S86: a token for a resource is 401 at every other path, and those for nothing that
    is here, or for the API alone, are so at the resource.
    """
    with site() as at:
        good = at.issuer.token(f"{at.url}/mcp", ["*"])
        for audience, path, status in (
            (f"{at.url}/mcp", "/mcp", 200),
            (f"{at.url.upper().replace('HTTP', 'http')}/mcp", "/mcp", 200),
            (f"{at.url}/mcp2", "/mcp", 401),
            (f"{at.url}/mcp", "/mcp2", 401),
            (f"{at.url}/mcp/", "/mcp", 401),
            (f"{at.url}/MCP", "/mcp", 401),
            (at.url, "/mcp", 401),
            ("https://elsewhere.example", "/mcp", 401),
            ("", "/mcp", 401),
        ):
            body = call("inspect_page")
            body["params"]["arguments"] = {"url": "x"}
            version = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call"}
            token = at.issuer.token(audience, ["*"])
            reply = posted(at, token, body, path, **version, **{"mcp-name": "inspect_page"})
            assert reply.status_code == status, (audience, path)
            if status == 401:
                challenge = reply.headers["www-authenticate"]
                named = f'{at.url}/.well-known/oauth-protected-resource{path}"'
                assert 'error="invalid_token", error_description=' in challenge
                assert named in challenge
        assert at.balance == 96
        # Elsewhere it is worth nothing, before it has been seen at its resource and after.
        for token in (good, at.issuer.token(f"{at.url}/mcp", ["*"])):
            for path in ("/me", "/", "/.well-known/x", "/mcp/../me"):
                headers = {"authorization": f"Bearer {token}"}
                status = httpx2.get(f"{at.url}{path}", headers=headers).status_code
                assert status == 401, path
        headers = {"authorization": f"Bearer {good}"}
        assert posted(at, good, call("inspect_page"), "/mcp2").status_code == 401


def test_a_cheap_name_in_another_era() -> None:
    """S84: who leaves the version out, or sends an old one first, pays for what the body says."""
    with site() as at:
        token = at.issuer.token(f"{at.url}/mcp", ["*"])
        for headers in ({}, {"mcp-protocol-version": "2025-11-25"}):
            before = at.balance
            reply = posted(at, token, call("audit_site"), **headers, **{"mcp-name": "fails"})
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, -32020)
            reply = posted(at, token, call("audit_site"), **headers)
            assert reply.status_code == 400  # by the server: there is no session
            assert at.balance == before
        several = [("mcp-protocol-version", "2025-11-25"), ("mcp-protocol-version", "2026-07-28")]
        given = [("authorization", f"Bearer {token}"), *several]
        reply = httpx2.post(f"{at.url}/mcp", json=call("audit_site"), headers=given)
        assert reply.json()["error"]["code"] == -32020


def test_the_issuer_signs_by_another_key() -> None:
    """S51: an agent goes on when its issuer's key changes in the middle of a session."""

    async def main(at: Site) -> None:
        keep = Keep()
        async with agent(at, keep=keep) as client:
            assert not (await client.call_tool("inspect_page", {"url": "x"})).is_error
            first = keep.tokens.access_token
            at.issuer.rotate()
            at.clock.ahead += int(COOL_DOWN * 1000)
            newer = at.issuer.token(f"{at.url}/mcp", ["tools"])
            body = call("inspect_page")
            body["params"]["arguments"] = {"url": "x"}
            version = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call"}
            reply = await anyio.to_thread.run_sync(
                lambda: posted(at, newer, body, **version, **{"mcp-name": "inspect_page"})
            )
            assert reply.status_code == 200
            assert not (await client.call_tool("inspect_page", {"url": "x"})).is_error
            assert keep.tokens.access_token != first  # by the old key it was worth nothing
            assert at.balance == 94

    with site() as at:
        anyio.run(main, at)


def test_the_issuer_is_away() -> None:
    """S19, S51: while an issuer is away, who is known goes on, who comes with a key that is not
    is asked to come again, and metadata is told as ever.
    """

    async def main(at: Site) -> None:
        async with agent(at) as client:
            assert not (await client.call_tool("inspect_page", {"url": "x"})).is_error
            at.issuer.rotate()
            newer = at.issuer.token(f"{at.url}/mcp", ["tools"])
            await anyio.to_thread.run_sync(at.stop_issuer)
            at.clock.ahead += int(COOL_DOWN * 1000)
            reply = await anyio.to_thread.run_sync(lambda: posted(at, newer, call("inspect_page")))
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
            assert not (await client.call_tool("inspect_page", {"url": "x"})).is_error
            assert at.balance == 96
        assert httpx2.get(f"{at.url}/.well-known/oauth-protected-resource/mcp").status_code == 200

    with site() as at:
        anyio.run(main, at)


def test_one_balance() -> None:
    """O9: a key and an agent's token drain one balance, at one endpoint."""
    with site() as at:
        key = at.gate.keys.create("acct_a", "k").text
        token = at.issuer.token(f"{at.url}/mcp", ["*"])
        version = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call"}
        for credential, left in ((key, 98), (token, 96), (key, 94)):
            body = call("inspect_page")
            body["params"]["arguments"] = {"url": "x"}
            reply = posted(at, credential, body, **version, **{"mcp-name": "inspect_page"})
            assert (reply.status_code, at.balance) == (200, left)
        headers = {"authorization": f"Bearer {key}"}
        assert httpx2.get(f"{at.url}/me", headers=headers).json()["account"] == "acct_a"
