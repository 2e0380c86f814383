"""`max_concurrent` and what MCP clients send: each request is one, whatever it brings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from keyrush import Gate
from tests.support.holding import held
from tests.support.resources import RESOURCE, RULES, App, Door, call, message, result


@pytest.fixture
def values() -> dict[str, Any]:
    """A plan of which one request may be under way, and a tool of which one may, too."""
    rule = {"path": "/mcp", "mcp": "tools/call", "tool": "slow", "max_concurrent": 1}
    plan = {"limits": "50/minute", "per": "account", "max_concurrent": 1}
    return {
        "resources": [{**RESOURCE, "batches": "sum"}],
        "rules": [rule, *RULES],
        "plans": {"standard": plan},
    }


BODIES: list[tuple[str, Any, int, int]] = [
    ("call", call("export"), 1, 0),
    ("tool", call("slow"), 1, 1),
    ("batch", [call("slow", 1), call("slow", 2), call("export", 3)], 1, 1),
    ("free", message("tools/list"), 0, 0),
    ("mixed", [message("tools/list", 1), call("export", 2)], 1, 0),
]


@pytest.mark.parametrize(
    ("body", "of_account", "of_tool"), [it[1:] for it in BODIES], ids=[it[0] for it in BODIES]
)
def test_one_slot(  # noqa: PLR0917  # fixtures
    door: Door, app: App, mcp_gate: Gate, key: str, body: Any, of_account: int, of_tool: int
) -> None:
    """S84: a request takes one slot of its account and of each tool that has any, be it a batch;
    what is free takes none. All are given back.
    """
    subject = "account:acct_a"
    (tool,) = (
        f"key:{one.lineage}|rule /mcp tools/call slow" for one in mcp_gate.store.keys("acct_a")
    )
    found: list[tuple[int, int]] = []
    app.answers(result())
    app.before = lambda: found.append((held(mcp_gate, subject, 1), held(mcp_gate, tool, 1)))
    for _ in range(3):
        assert door.post(body, key).status == 200
    assert found == [(of_account, of_tool)] * 3
    assert (held(mcp_gate, subject, 1), held(mcp_gate, tool, 1)) == (0, 0)


def test_refused(door: Door, app: App, mcp_gate: Gate, key: str) -> None:
    """R7: while a call goes on another is refused as one of JSON-RPC; a list is not."""
    replies = []
    app.answers(result())

    def meanwhile() -> None:
        app.before = lambda: None
        with ThreadPoolExecutor(1) as pool:  # as this may be in an event loop
            replies.append(pool.submit(door.post, call("export", 2), key).result())
            replies.append(pool.submit(door.post, message("tools/list", 3), key).result())

    app.before = meanwhile
    assert door.post(call("export"), key).status == 200
    assert [one.status for one in replies] == [429, 200]
    assert replies[0].json["id"] == 2
