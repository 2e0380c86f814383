"""Requests that are under way for as long as a test wants, by ASGI and by WSGI."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Protocol

import anyio
from anyio.from_thread import start_blocking_portal

from keyrush import Gate, KeyrushMiddleware, wsgi
from keyrush.core.concurrency import Want
from keyrush.limiter.slots.protocol import Slot
from tests.support.calls import Reply, Sent, environ_of, scope_of


async def _nothing() -> Any:
    """What a server has to say of a client that stays."""
    await anyio.sleep_forever()
    return None


class Going(Protocol):
    """A request under way, or refused."""

    reply: Reply  #: its start

    def end(self) -> None:
        """Have it come to its end."""
        ...


class Holding(Protocol):
    """A door of a gate, behind which an app answers 200 and waits."""

    def begin(self, sent: Sent) -> Going:
        """Send a request, and return once its answer has begun."""
        ...

    def close(self) -> None:
        """End all that is under way."""
        ...


class AsgiHolding:
    """By ASGI, in an event loop of its own."""

    def __init__(self, gate: Gate) -> None:
        self._middleware = KeyrushMiddleware(self._app, gate=gate)
        self._stack = ExitStack()
        self.portal = self._stack.enter_context(start_blocking_portal())
        self._going: list[AsgiGoing] = []

    @staticmethod
    async def _app(scope: Any, _: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await scope["leave"].wait()
        await send({"type": "http.response.body", "body": b""})

    def begin(self, sent: Sent) -> Going:
        going = AsgiGoing(self)
        going.future = self.portal.start_task_soon(self._run, going, sent)
        going.begun.wait()
        self._going.append(going)
        return going

    async def _run(self, going: AsgiGoing, sent: Sent) -> None:
        going.leave = anyio.Event()
        try:
            scope = scope_of(sent, leave=going.leave)
            await self._middleware(scope, _nothing, going.send)
        finally:
            going.begun.set()

    def close(self) -> None:
        for going in self._going:
            going.end()
        self._stack.close()


class AsgiGoing:
    """One of them."""

    future: Future[None]
    leave: anyio.Event
    reply: Reply

    def __init__(self, holding: AsgiHolding) -> None:
        self._holding = holding
        self.begun = threading.Event()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [
                (name.decode(), value.decode("latin-1")) for name, value in message["headers"]
            ]
            self.reply = Reply(message["status"], headers, b"")
        else:
            self.reply.body += message.get("body", b"")
            self.begun.set()

    def end(self) -> None:
        self._holding.portal.call(self.leave.set)
        self.future.result()


class WsgiHolding:
    """By WSGI: until the server calls `close`."""

    def __init__(self, gate: Gate) -> None:
        self._middleware = wsgi.KeyrushMiddleware(self._app, gate=gate)
        self._going: list[WsgiGoing] = []

    @staticmethod
    def _app(_: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        return iter([b"a", b"b"])

    def begin(self, sent: Sent) -> Going:
        started: list[Any] = []

        def start_response(*args: Any) -> Any:
            started.append(args)

        items = self._middleware(environ_of(sent), start_response)
        body = next(iter(items))
        status, headers = started[0][:2]
        named = [(name.lower(), value) for name, value in headers]
        self._going.append(WsgiGoing(Reply(int(status[:3]), named, body), items))
        return self._going[-1]

    def close(self) -> None:
        for going in self._going:
            going.end()


class WsgiGoing:
    """One of them."""

    def __init__(self, reply: Reply, items: Any) -> None:
        self.reply = reply
        self._items = items

    def end(self) -> None:
        if close := getattr(self._items, "close", None):  # a refusal is a list
            close()


def held(gate: Gate, key: str, most: int) -> int:
    """How many slots of a subject are held, by all processes; of `most`."""
    slots = gate.concurrency.open().slots
    taken: list[Slot] = []
    while isinstance(found := slots.take((Want(key, most),)), Slot):
        taken.append(found)
    for slot in taken:
        slots.give_back(slot)
    slots.flush()
    return most - len(taken)
