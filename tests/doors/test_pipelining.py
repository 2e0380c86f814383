"""Requests that are sent before the one in front of them is answered, on a real server."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import Any

import pytest

from keyrush import KeyrushMiddleware, testing
from tests.support.faults import PATIENCE, until
from tests.support.serving import serve


@pytest.mark.parametrize("requests", [1, 2])
def test_a_paid_stream_that_is_broken_off(requests: int) -> None:
    """O11: who leaves in the middle of a stream has paid for it, also with another request behind
    it, of which uvicorn then thinks that it is the one under way: on uvloop sending fails.
    """
    gate = testing.open_gate(rules=[{"path": "/paid", "credits": 5}])
    key = testing.create_key(gate, credits=100)
    parts, is_over, has_left = 0, threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal parts
        part = {"type": "http.response.body", "body": b"x" * 100}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while not has_left.is_set() or parts < 1000:
                await send({**part, "more_body": True})
                parts += has_left.is_set()
                await asyncio.sleep(0)
            await send(part)
        finally:
            is_over.set()

    served = serve(
        KeyrushMiddleware(app, gate=gate), http="httptools", loop="uvloop", lifespan="off"
    )
    with served as url:
        client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
        sent = f"GET /paid HTTP/1.1\r\nHost: x\r\nX-API-Key: {key.text}\r\n\r\n" * requests
        client.sendall(sent.encode())
        assert client.recv(4096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # by a reset
        has_left.set()
        assert is_over.wait(PATIENCE)
        until(lambda: not len(gate.connections))
    gate.close()
    assert gate.credits.balance(testing.ACCOUNT) == 95
