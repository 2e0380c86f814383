"""The OpenRush example over MCP, beside its API: one account behind both (contract O8, O9, O11,
O20).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client.streamable_http import streamable_http_client

from keyrush import Gate
from mcp import Client
from tests.conftest import settings
from tests.contract.test_openrush import TOOLS
from tests.support.activity import Noting
from tests.support.authorisation import AuthorisationServer, authorising
from tests.support.serving import listening, serve, url_of

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, imported as `uvicorn openrush_mcp:app` does in its folder."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("openrush", "openrush_mcp"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("openrush_mcp")


class Site:
    """The example, served, with an account that has a key, a session and an agent."""

    def __init__(self, url: str, gate: Gate, issuer: AuthorisationServer) -> None:
        self.url = url
        self.gate = gate
        self.key = gate.keys.create("acct_a", "key").text
        self.session = issuer.session("openrush")
        self.agent = issuer.token(f"{url}/mcp", ["*"])

    @property
    def balance(self) -> int:
        """What the account has left, as its key is told."""
        headers = {"authorization": f"Bearer {self.key}"}
        found: int = httpx2.get(f"{self.url}/v1/me/credits", headers=headers).json()["balance"]
        return found


@pytest.fixture
def site(example: Any) -> Iterator[Site]:
    """The example on a free port."""
    listener = listening()
    url = url_of(listener)
    with authorising([f"{url}/mcp"], ["tools"]) as issuer:
        known = {"issuer": issuer.url, "accounts": "create", "jwks_url": f"{issuer.url}/keys"}
        gate = Gate.open(
            settings(
                config=EXAMPLES / "openrush.toml",
                resources=[
                    {
                        "path": "/mcp",
                        "resource": f"{url}/mcp",
                        "authorization_servers": [issuer.url],
                    }
                ],
                issuers=[
                    known | {"kind": "session", "audience": "openrush", "scopes": ["*"]},
                    known | {"kind": "oauth"},
                ],
            )
        )
        gate.accounts.create("acct_a")
        gate.credits.grant("acct_a", 100)
        gate.accounts.link("acct_a", issuer=issuer.url, subject="user-1")
        with serve(example.create_app(gate), listener) as served:
            yield Site(served, gate, issuer)
        gate.close()


async def calls(url: str, credential: str, *names: str) -> list[Any]:
    """What the tools answer to a client of the SDK."""
    headers = {"authorization": f"Bearer {credential}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(transport) as client:
            if not names:
                return [tool.name for tool in (await client.list_tools()).tools]
            return [await client.call_tool(name, {"body": TOOLS[name][1]}) for name in names]


def test_one_balance_by_three_doors(site: Site) -> None:
    """O8, O9, O11: a key, a dashboard's session and an agent's token drain one balance, over the
    API and over MCP.
    """
    spent = [
        (httpx2.post, site.key, "inspect_domain", 97),
        (httpx2.post, site.session, "inspect_serp", 95),
        (None, site.key, "audit_site", 85),
        (None, site.agent, "inspect_keyword", 83),
    ]
    for post, credential, tool, left in spent:
        if post is None:
            (done,) = anyio.run(calls, site.url, credential, tool)
            assert done.structured_content == TOOLS[tool][2]
        else:
            headers = {"authorization": f"Bearer {credential}"}
            reply = post(f"{site.url}/v1/tools/{tool}", json=TOOLS[tool][1], headers=headers)
            assert reply.json() == TOOLS[tool][2]
        assert site.balance == left
    headers = {"authorization": f"Bearer {site.agent}"}
    assert httpx2.get(f"{site.url}/v1/me/credits", headers=headers).status_code == 401


def test_limits_of_three_doors(site: Site) -> None:
    """O9, O13: a key, a dashboard's session and an agent's token take from the same limits."""
    site.gate.accounts.set_limits("acct_a", "1000/day")

    def left(credential: str) -> int:
        headers = {"authorization": f"Bearer {credential}"}
        answer = httpx2.get(f"{site.url}/v1/me/credits", headers=headers)
        return int(answer.headers["x-ratelimit-remaining"])

    assert [left(site.key), left(site.session), left(site.key)] == [999, 998, 997]
    anyio.run(calls, site.url, site.agent, "inspect_keyword")
    assert left(site.session) < 996


def test_keys_of_a_session(site: Site) -> None:
    """O8, O17: a dashboard's session makes a key of its account, and revokes it."""
    headers = {"authorization": f"Bearer {site.session}"}
    keys = f"{site.url}/v1/me/api-credentials"
    made = httpx2.post(keys, json={"name": "agent"}, headers=headers).json()
    own = {"authorization": f"Bearer {made['key']}"}
    assert httpx2.get(f"{site.url}/v1/me/credits", headers=own).json() == {"balance": 100}
    revoked = httpx2.post(f"{keys}/{made['api_credential']['id']}/revoke", headers=headers)
    assert revoked.json()["account_id"] == "acct_a"
    assert httpx2.get(f"{site.url}/v1/me/credits", headers=own).status_code == 401


def test_activity_of_three_doors(site: Site) -> None:
    """O9, O20: activity and ledger have the calls by every door, each with whose it is and what it
    has cost, in the account that is behind them all.
    """
    noting = Noting(site.gate)
    body = TOOLS["inspect_domain"][1]
    for credential in (site.key, site.session):
        headers = {"authorization": f"Bearer {credential}"}
        httpx2.post(f"{site.url}/v1/tools/inspect_domain", json=body, headers=headers)
    anyio.run(calls, site.url, site.agent, "inspect_keyword")
    noting.flush(3, paid=True)
    headers = {"authorization": f"Bearer {site.session}"}
    rows = httpx2.get(f"{site.url}/v1/me/activity", headers=headers).json()["activity"]
    called = [row for row in rows if row["credits"]]
    told = [(row["source"], row["method"], row["path"], row["credits"]) for row in called]
    assert told == [
        ("mcp", "tools/call", "inspect_keyword", 2),
        ("dashboard", "POST", "/v1/tools/inspect_domain", 3),
        ("api", "POST", "/v1/tools/inspect_domain", 3),
    ]
    assert [row["subject"] for row in called] == ["user-1", "user-1", None]
    ledger = f"{site.url}/v1/me/credits/ledger?reason=charge"
    entries = httpx2.get(ledger, headers=headers).json()["entries"]
    whose = [(row["source"], row["credential_id"], row["subject"], row["rule"]) for row in called]
    assert whose == [
        (one["source"], one["credential_id"], one["subject"], one["rule"]) for one in entries
    ]
    assert [-one["amount"] for one in entries] == [row["credits"] for row in called]


def test_every_tool(site: Site) -> None:
    """O7, O11: over MCP there are the same tools, at the same prices, and they are listed once."""
    site.gate.credits.grant("acct_a", 100)
    assert anyio.run(calls, site.url, site.agent) == [*TOOLS, "export_dataset"]
    before = site.balance
    for done in anyio.run(calls, site.url, site.agent, *TOOLS):
        assert not done.is_error
    prices = {name: price for name, (price, *_) in TOOLS.items()}
    assert before - site.balance == sum(prices.values())
    listed = httpx2.get(f"{site.url}/v1/capabilities").json()["tools"]
    found = {tool["name"]: tool["credits"] for tool in listed}
    assert found == prices | {"export_dataset": 0}
    assert len(listed) == len(found)
