"""Calls of tools that wait for their turn: the body is read, and decided on when it comes."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from keyrush import Gate, KeyrushMiddleware
from tests.conftest import Clock
from tests.gate.test_waiting import LEFT
from tests.support.calls import Headers, Sent, run, scope_of
from tests.support.resources import RESOURCE, App, call, message, result

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture
def values() -> dict[str, Any]:
    """The settings of the gate: one tool that is limited, and waited for."""
    limited = {"limits": ["1/minute"], "wait": "30s", "credits": 2}
    rule = {"path": "/mcp", "mcp": "tools/call", "tool": "export", **limited}
    return {"resources": [RESOURCE], "rules": [rule], "plans": {"starter": {}}}


def test_a_call_waits(mcp_gate: Gate, key: str, app: App, clock: Clock) -> None:
    """A call of a tool that is over its limit waits, is handed on whole, and charged then; what is
    free does not wait behind it, and a client that leaves is not answered.
    """
    app.answers(result())
    middleware: Any = KeyrushMiddleware(app.asgi, gate=mcp_gate)
    lines = mcp_gate.finishing.waiting.lines
    statuses: list[int] = []

    async def send(sent: Any) -> None:
        if "status" in sent:
            statuses.append(sent["status"])

    async def post(body: dict[str, Any], *, leaves: bool = False) -> None:
        received = [{"type": "http.request", "body": json.dumps(body).encode()}]
        received += [{"type": "http.disconnect"}] * leaves

        async def receive() -> Any:
            if not received:
                await anyio.sleep_forever()
            return received.pop(0)

        headers: Headers = [("x-api-key", key), ("content-type", "application/json")]
        await middleware(scope_of(Sent("/mcp", headers, "POST")), receive, send)

    async def main() -> None:
        await post(call("export"))
        clock.advance(60_000 - LEFT)
        await post(call("export", 2), leaves=True)
        assert statuses == [200]
        async with anyio.create_task_group() as group:
            group.start_soon(post, call("export", 3))
            while not len(lines):
                await anyio.lowlevel.checkpoint()
            await post(message("ping"))
            assert statuses == [200, 200]
            clock.advance(LEFT + 1)
            lines.ring()

    run(main())
    assert statuses == [200] * 3
    assert [json.loads(body)["method"] for body in app.bodies] == [
        "tools/call",
        "ping",
        "tools/call",
    ]
    assert mcp_gate.credits.balance("acct_a") == 96
    assert not len(lines)
