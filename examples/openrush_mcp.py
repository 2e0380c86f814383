"""OpenRush's tools for agents, over MCP, beside its API: one account behind both (contract O9).

    uvicorn openrush_mcp:app

The tools are those of openrush.py and take the same bodies; what they cost is in openrush.toml,
once for each way to them. An agent comes with a key, or is told where to get a token.
"""

from collections.abc import Awaitable, Callable
from inspect import signature
from typing import Any, get_type_hints

import openrush
from fastapi import FastAPI
from mcp.server.mcpserver import Context, MCPServer

from keyrush import Gate

TOOLS: list[Callable[..., Awaitable[dict[str, Any]]]] = [
    openrush.inspect_domain,
    openrush.discover_competitors,
    openrush.research_keywords,
    openrush.compare_keyword_coverage,
    openrush.inspect_serp,
    openrush.inspect_search_visibility,
    openrush.audit_site,
    openrush.inspect_keyword,
    openrush.inspect_page,
    openrush.export_dataset,
]


def over_mcp(tool: Callable[..., Awaitable[dict[str, Any]]]) -> Callable[..., Any]:
    """The tool of the API as one of MCP; the caller is who the gate has let in."""
    model = get_type_hints(tool)["body"]

    async def call(body: Any, context: Context) -> dict[str, Any]:
        request: Any = context.request_context.request
        known = {"body": body, "_": request.user, "caller": request.user, "request": request}
        return await tool(**{name: known[name] for name in signature(tool).parameters})

    call.__annotations__["body"] = model
    return call


def create_app(gate: Gate | None = None) -> FastAPI:
    """OpenRush's API, with the endpoint of MCP in it, behind one gate."""
    server = MCPServer("OpenRush")
    for tool in TOOLS:
        server.add_tool(over_mcp(tool), name=tool.__name__, description=tool.__doc__)
    endpoint = server.streamable_http_app()  # at /mcp
    app = openrush.create_app(gate)
    app.router.routes.extend(endpoint.routes)
    app.router.lifespan_context = endpoint.router.lifespan_context
    return app


app = create_app()
