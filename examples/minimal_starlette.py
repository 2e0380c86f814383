"""Starlette: `uvicorn minimal_starlette:app`."""

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
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
app.add_middleware(  # for browsers, outside of the gate because it comes after it
    CORSMiddleware, allow_origins=["https://app.example"], allow_headers=["X-API-Key"]
)
