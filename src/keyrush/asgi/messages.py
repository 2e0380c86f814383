"""What goes between server, gate and app, and whole responses in it."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from keyrush.wire.refusals import Response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: The messages that start a response, or accept a WebSocket.
STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})

#: RFC 6455 §7.4.1, for servers that can't send an HTTP response instead, and for keys that end.
POLICY_VIOLATION = 1008


_F = TypeVar("_F", bound=Callable[..., Awaitable[Any]])


def awaited(function: _F) -> _F:
    """Marks a plain function, which gives what is to be awaited, as a coroutine function.

    Who hands it to threads, as asgiref does, asks whether it is one, and may call it in the
    thread. It is none, because a frame of its own would cost every request.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # noqa: SLF001  # which is how it is marked there
    return function


async def refuse(scope: Scope, receive: Receive, send: Send, response: Response) -> None:
    """Answer a request in the app's stead, of which nothing has been received yet."""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect (S70)
    await respond(scope, send, response)


async def respond(scope: Scope, send: Send, response: Response) -> None:
    """Send a whole response, on a WebSocket in the form that the server offers (S70)."""
    status, headers, body = response
    prefix = "http.response"
    if scope["type"] == "websocket":
        prefix = "websocket.http.response"
        if prefix not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
            return
    elif scope["method"] == "HEAD":
        body = b""  # S24
    await send({"type": f"{prefix}.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}.body", "body": body})
