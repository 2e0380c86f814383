"""Apps served on this machine by uvicorn: the demo's, and the dashboard."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from keyrush.cli import output

#: Whether the app hears of start and stop.
Lifespan = Literal["on", "off"]


def listening(port: int = 0) -> socket.socket:
    """A socket on a port of this machine, by default a free one.

    Listening already, so that requests wait until the server has started; with the protocol
    named, asyncio turns Nagle's algorithm off, as for a socket of its own.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


@contextmanager
def served(
    app: ASGIApp, listener: socket.socket | None = None, *, lifespan: Lifespan = "on"
) -> Iterator[int]:
    """Serve `app` by uvicorn in a thread; gives the port. A `listener` is where, for apps that
    must know that.
    """
    listener = listener or listening()
    config = uvicorn.Config(
        app, log_level="warning", lifespan=lifespan, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def until_interrupted() -> None:
    """Go on until Ctrl-C."""
    output.say("\nCtrl-C ends it.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        output.say("Ended.")
