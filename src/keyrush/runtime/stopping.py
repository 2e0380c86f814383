"""Servers that are stopped by a signal, and tell the app nothing of it.

An app that gets no lifespan events hears nothing of a stop, and some servers end by the very
signal that has stopped them, so that nothing runs at Python's exit either (uvicorn does both).
"""

from __future__ import annotations

import signal
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from types import FrameType

from keyrush.runtime.bridge import running_loop

Act = Callable[[], object]
Handler = Callable[[int, FrameType | None], object]

_STOPS = (signal.SIGTERM, signal.SIGINT)


def when_told_to_stop(act: Act) -> None:
    """Have the running event loop call `act` as soon as the server is told to stop.

    What the server itself does at the signal comes after it. Does nothing where the server
    leaves SIGTERM to the system, which ends the process there and then; nor where there is no
    loop of asyncio, or it runs elsewhere than in the main thread.
    """
    loop = running_loop()
    if loop is None or threading.current_thread() is not threading.main_thread():
        return
    if not callable(signal.getsignal(signal.SIGTERM)):
        return  # no server's process, or one whose stop nobody hears
    for number in _STOPS:
        handler = signal.getsignal(number)
        if isinstance(handler, _Told):
            handler.add(loop, act)
        elif callable(handler):
            told = _Told(handler)
            told.add(loop, act)
            signal.signal(number, told)


class _Told:
    """Handles a signal: all that is to be done at it, and then what the server does."""

    def __init__(self, servers: Handler) -> None:
        self._servers = servers
        self._acts: list[tuple[AbstractEventLoop, Act]] = []

    def add(self, loop: AbstractEventLoop, act: Act) -> None:
        """Have `loop` call `act`; what loops were to do that have ended is forgotten."""
        acts = [one for one in self._acts if not one[0].is_closed()]
        self._acts = [*acts, (loop, act)]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for loop, act in self._acts:
            if not loop.is_closed():
                loop.call_soon_threadsafe(act)  # not here: whoever is interrupted may hold a lock
        self._servers(number, frame)
