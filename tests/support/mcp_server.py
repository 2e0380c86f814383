"""A server of the official SDK, whose tools come to everything that a tool can come to."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel


class Answer(BaseModel):
    """What the client is asked for."""

    ok: bool


async def ask() -> Elicit[Answer]:
    """Ask the client."""
    return Elicit("sure?", Answer)


def mcp_server(name: str = "openrush", path: str = "/mcp", **options: Any) -> Any:
    """Its app, with the endpoint at `path`."""
    server = MCPServer(name)

    @server.tool()
    async def audit_site(domain: str) -> str:
        """Dear, and done."""
        return f"audited {domain}"

    @server.tool()
    async def inspect_page(url: str, ctx: Context) -> str:
        """Done in steps."""
        for step in (1, 2, 3):
            await ctx.report_progress(step, 3, f"step {step}")
        return f"inspected {url}"

    @server.tool()
    async def fails() -> str:
        """Never done."""
        raise ToolError("not today")

    @server.tool()
    async def refuses() -> str:
        """Never done, in the protocol's own words."""
        raise MCPError(-32001, "refused by the tool", {"why": "x"})

    @server.tool()
    async def asks(answer: Annotated[Answer, Resolve(ask)]) -> str:
        """Done once the client has said something."""
        return f"ok={answer.ok}"

    return server.streamable_http_app(streamable_http_path=path, **options)


#: The rules of its tools.
RULES: list[dict[str, Any]] = [
    {"path": "/mcp", "mcp": "tools/call", "tool": tool, "credits": price, "scopes": scopes}
    for tool, price, scopes in (
        ("audit_site", 10, ["tools", "seo"]),
        ("inspect_page", 2, ["tools"]),
        ("fails", 3, ["tools"]),
        ("refuses", 3, ["tools"]),
        ("asks", 4, ["tools"]),
    )
]
