"""What somebody waits for until it rings: a thread, or a task of asyncio or trio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from keyrush.runtime.bridge import call_soon, running_trio


class Bell(Protocol):
    """Rings for whoever waits, or will: a ring that nobody waited for is not lost."""

    def ring(self) -> object:
        """Ring, from any thread; waits for nothing."""
        ...


class ThreadBell:
    """Rings for one thread."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self.ring = self._rung.set

    def wait(self, seconds: float) -> None:
        """Wait until it rings, or for so long."""
        self._rung.wait(seconds)
        self._rung.clear()


class TaskBell:
    """Rings for one task of the event loop that runs where it is made."""

    __slots__ = ("_is_rung", "_soon", "_wake")

    def __init__(self) -> None:
        self._soon = call_soon()
        self._is_rung = False
        self._wake: Callable[[], object] | None = None

    def ring(self) -> None:
        """Ring, from any thread."""
        self._soon(self.ring_here)

    def ring_here(self) -> None:
        """Ring, in the event loop itself."""
        self._is_rung = True
        if self._wake is not None:
            self._wake()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until it rings, or for so long, where that is said."""
        try:
            if not self._is_rung:
                await self._sleep(seconds)
        finally:
            self._wake = None
        self._is_rung = False

    async def _sleep(self, seconds: float | None) -> None:
        trio = running_trio()
        if trio is not None:
            rung = trio.Event()
            self._wake = rung.set
            with trio.move_on_after(float("inf") if seconds is None else seconds):
                await rung.wait()
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        self._wake = wake
        timer = None if seconds is None else loop.call_later(seconds, wake)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
