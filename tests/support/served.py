"""Apps behind the gate, for servers in processes of their own, which tell who has answered."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from keyrush import Gate, KeyrushMiddleware
from keyrush import wsgi as keyrush_wsgi
from keyrush.apps.account_api import account_api


def asgi() -> Any:
    """Answers with the id of its process; the account's own API is at `/v1`."""

    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(os.getpid()))

    routes = [Route("/", answer), Route("/health", answer), Mount("/v1", account_api)]
    return KeyrushMiddleware(Starlette(routes=routes))


def no_lifespan() -> Any:
    """The same, of an app that knows requests alone, as Django's."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(f"there is no {scope['type']} here")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

    return KeyrushMiddleware(answer)


def wsgi() -> Any:
    """Answers with the id of its process."""

    def answer(environ: Any, start_response: Any) -> Iterable[bytes]:
        body = str(os.getpid()).encode()
        length = ("Content-Length", str(len(body)))
        start_response("200 OK", [("Content-Type", "text/plain"), length])
        return [body]

    return keyrush_wsgi.KeyrushMiddleware(answer)


def lasting(gate: Gate | None = None) -> Any:
    """Answers with the id of its process, and goes on until the client leaves."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        pid = str(os.getpid()).encode()
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "bytes": pid})
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": pid, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async def with_lifespan(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await answer(scope, receive, send)
            return
        for said in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{said}.complete"})

    return KeyrushMiddleware(with_lifespan, gate=gate)
