"""Setup: what is done and what is next, with examples of this very service."""

from __future__ import annotations

import ast
import json
import re
from html import unescape
from typing import Any

import pytest

from keyrush import Gate
from keyrush.apps import Dashboard
from tests.apps.dashboard.conftest import app_of
from tests.conftest import Clock, settings, still
from tests.support.activity import activity
from tests.support.dashboard import Browser

RESOURCE = {
    "path": "/mcp",
    "resource": "https://api.example.com/mcp",
    "authorization_servers": ["https://login.example.com"],
    "name": "Fern post",
}
RULES = [
    {"path": "/v1/articles/{id}", "methods": ["GET"]},
    {"path": "/v1/alerts", "methods": ["POST"]},
    {"path": "/v1/search", "methods": ["GET"]},
]


def opened(clock: Clock, **values: Any) -> tuple[Gate, Browser]:
    """A gate, and the browser of the owner of `acct_a`."""
    gate = still(Gate.open(settings(rules=RULES, **values), clock=clock))
    gate.accounts.create("acct_a")
    return gate, Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_a")))


def examples(text: str) -> dict[str, str]:
    """The examples of a page, by their names."""
    found = re.findall(r'<pre [^>]*aria-label="(.*?) example">(.*?)</pre>', text, re.DOTALL)
    return {name: unescape(re.sub("<[^>]+>", "", text)) for name, text in found}


def test_steps(clock: Clock) -> None:
    """What has been done is marked as done, by what has happened, and the rest as to do."""
    gate, browser = opened(clock, resources=[RESOURCE], public_url="https://api.example.com")
    page = browser.get("/dashboard/")
    assert (page.said.count("Done"), page.said.count("Next")) == (0, 1)
    assert "/dashboard/keys/new" in page.links
    key = gate.keys.create("acct_a", "production").key
    page = browser.get("/dashboard/")
    assert "1 key works now. The newest, production , was created 0 s ago" in page.said
    assert "1 of 3 steps is done." in page.said
    gate.store.add_activity([activity(clock.now - 5000, key.id, status=404)])
    page = browser.get("/dashboard/")
    assert "2 of 3 steps are done." in page.said
    assert "came 5 s ago and was answered with 404" in page.said
    gate.store.add_activity([activity(clock.now - 9000, key.id, source="mcp")])
    page = browser.get("/dashboard/")
    assert "Everything is set up." in page.said
    assert "The last call of an agent came 9 s ago ." in page.said
    gate.close()


def test_used_without_activity(clock: Clock) -> None:
    """Where activity is not kept, a key that was used says that there was a request."""
    gate, browser = opened(clock)
    key = gate.keys.create("acct_a", "production").key
    gate.store.add_usage("2026-11", {}, None, {key.id: clock.now - 7000})
    assert "The last one came 7 s ago ." in browser.get("/dashboard/").said
    gate.close()


def test_examples(clock: Clock) -> None:
    """Examples are of this service: its address, the header of its keys, a path that it has; and in
    none is there a key.
    """
    gate, browser = opened(clock, public_url="https://api.fernpost.example/base")
    new = gate.keys.create("acct_a", "production")
    page = browser.get("/dashboard/")
    found = examples(page.text)
    assert set(found) == {"curl", "Python", "JavaScript"}
    for text in found.values():
        assert "https://api.fernpost.example/base/v1/search" in text
        assert "X-API-Key" in text
        assert "YOUR_API_KEY" in text
    ast.parse(found["Python"])
    assert "kr_live_…" in page.said
    assert new.text[-30:] not in page.text
    assert new.key.prefix[:-3] not in page.text
    gate.close()


def test_other_headers(clock: Clock) -> None:
    """Where keys come as bearer tokens alone, examples send them so."""
    gate, browser = opened(clock, credential_headers=["authorization"])
    assert (
        '-H "Authorization: Bearer YOUR_API_KEY"'
        in examples(browser.get("/dashboard/").text)["curl"]
    )
    gate.close()


def test_agents(clock: Clock) -> None:
    """S61: each client of MCP has what it takes to sign in, and with a key; never is there one."""
    gate, browser = opened(clock, resources=[RESOURCE])
    text = browser.get("/dashboard/").text
    signs_in, has_key = text.split("<details>")[0], text.split("<details>")[1]
    for part, is_key in ((signs_in, False), (has_key, True)):
        found = examples(part)
        command = "claude mcp add --transport http fern-post https://api.example.com/mcp"
        assert found["Claude Code"].startswith(command)
        cursor, code = json.loads(found["Cursor"]), json.loads(found["VS Code"])
        assert cursor["mcpServers"]["fern-post"]["url"] == "https://api.example.com/mcp"
        assert code["servers"]["fern-post"]["type"] == "http"
        for name in ("Claude Code", "Cursor", "VS Code"):
            assert ("Bearer YOUR_API_KEY" in found[name]) == is_key
    gate.close()


def test_without_agents(clock: Clock) -> None:
    """Where nothing of MCP is served, there is no step for it."""
    gate, browser = opened(clock)
    page = browser.get("/dashboard/")
    assert "Connect an agent" not in page.said
    assert "MCP endpoint" not in page.said
    gate.close()


@pytest.mark.parametrize("host", ["evil.example/x", 'a"b', "a b", "$(rm -rf)", "`id`", "x" * 999])
def test_hostile_hosts(clock: Clock, host: str) -> None:
    """Without an address of its own, a service shows the one that it was asked by, if it is one."""
    gate, browser = opened(clock)
    assert "https://app.example/v1/search" in examples(browser.get("/dashboard/").text)["curl"]
    browser.url = browser.url._replace(netloc=host)
    page = browser.get("/dashboard/")
    assert page.status == 200
    command = examples(page.text)["curl"].splitlines()[0]
    assert re.fullmatch(r"curl https://[a-z0-9.:]+/v1/search \\", command)
    gate.close()
