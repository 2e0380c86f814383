"""Servers that are stopped by a signal, and tell the app nothing of it.

An app without lifespan events hears nothing of a stop, and some servers end by the very signal
that has stopped them, so that nothing runs at Python's exit either (uvicorn does both).
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType

_STOPS = (signal.SIGTERM, signal.SIGINT)


def when_told_to_stop(act: Callable[[], object]) -> None:
    """Have the running event loop call `act` as soon as the server is told to stop.

    What the server itself does at the signal comes after it. Does nothing where the server
    does not handle signals in Python, or runs elsewhere than in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in _STOPS:
        servers = signal.getsignal(number)
        if callable(servers):
            signal.signal(number, _handler(loop, act, servers))


def _handler(
    loop: asyncio.AbstractEventLoop,
    act: Callable[[], object],
    servers: Callable[[int, FrameType | None], object],
) -> Callable[[int, FrameType | None], object]:
    def handle(number: int, frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(act)  # not here: whoever is interrupted may hold a lock
        servers(number, frame)

    return handle
