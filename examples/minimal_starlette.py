"""Starlette: `uvicorn minimal_starlette:app`."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from keyrush import KeyrushMiddleware


async def hello(request: Request) -> JSONResponse:
    """Say who calls; posting needs a scope."""
    caller = request.scope["keyrush"]
    if request.method == "POST":
        caller.require_scope("write:hello")
    return JSONResponse({"key": caller.key_id, "account": caller.account_id})


app = Starlette(routes=[Route("/hello", hello, methods=["GET", "POST"])])
app.add_middleware(KeyrushMiddleware)
