# mypy: ignore-errors
# It knows the newer version, which has other names.
"""A server and a client of mcp 1.12, each run by a Python of its own that has that.

    python -m uvicorn tests.support.mcp_1_12:app
    python tests/support/mcp_1_12.py URL KEY

It speaks revision 2025-06-18, and nothing newer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


async def talk(url: str, key: str) -> dict[str, Any]:
    """What a client finds, and what its calls come to, until one is refused: that ends it."""
    import httpx  # noqa: PLC0415  # which that version brings

    found: dict[str, Any] = {}
    try:
        await _talk(url, key, found)
    except* httpx.HTTPStatusError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        found["refused"] = error.response.status_code  # type: ignore[attr-defined]  # one of its own
    return found


async def _talk(url: str, key: str, found: dict[str, Any]) -> None:
    from mcp.client.streamable_http import streamablehttp_client  # noqa: PLC0415  # the same

    from mcp import ClientSession  # noqa: PLC0415  # of that version, in that process

    headers = {"Authorization": f"Bearer {key}"}
    async with (
        streamablehttp_client(f"{url}/mcp", headers=headers) as (read, write, session_id),
        ClientSession(read, write) as client,
    ):
        found["revision"] = (await client.initialize()).protocolVersion
        found["tools"] = sorted(tool.name for tool in (await client.list_tools()).tools)
        done = await client.call_tool("audit_site", {"domain": "a.b"})
        found["audited"] = done.content[0].text
        found["failed"] = (await client.call_tool("fails", {})).isError
        found["session"] = session_id() is not None
        for _ in range(20):
            await client.call_tool("audit_site", {"domain": "a.b"})


def _server() -> Any:
    from mcp.server.fastmcp import FastMCP  # noqa: PLC0415  # of that version, in that process

    from keyrush import KeyrushMiddleware  # noqa: PLC0415  # the same

    server = FastMCP("old")

    @server.tool()
    async def audit_site(domain: str) -> str:
        """Dear, and done."""
        return f"audited {domain}"

    @server.tool()
    async def fails() -> str:
        """Never done."""
        raise ValueError("not today")

    app = server.streamable_http_app()
    app.add_middleware(KeyrushMiddleware)
    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        return _server()
    raise AttributeError(name)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(talk(sys.argv[1], sys.argv[2]))))
