"""What an account has left and has used, and what there is to use."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from keyrush.apps.account_api.frame import run
from keyrush.gate.gate import GATE, Gate
from keyrush.gate.principal import Principal
from keyrush.operations.documents import balance_json, usage_json
from keyrush.operations.usage import MonthlyUsage


async def credits(_: Request, gate: Gate, principal: Principal) -> object:
    """The account's balance (contract O3)."""
    balance = await run(gate, principal, "io", gate.credits.balance, principal.account_id)
    return balance_json(balance)


async def usage(_: Request, gate: Gate, principal: Principal) -> object:
    """This month of whatever the plan counts, this request included (contract R12, R13, R18)."""

    def this_month() -> MonthlyUsage:
        gate.counts.flush()
        return gate.usage.this_month(principal.account_id, principal.verified.key_id)

    return usage_json(await run(gate, principal, "io", this_month))


async def capabilities(request: Request) -> Response:
    """The tools with their prices, and the sources (contract O7)."""
    gate = request.scope[GATE]
    tools = [
        {"name": name, "credits": rule.credits, "enabled": True}
        for name, rule in gate.catalog.tools.items()
    ]
    return JSONResponse({"tools": tools, "sources": list(gate.settings.sources)})
