"""Coroutine methods of a user's own store or limiter, called from keyrush's synchronous core.

Under ASGI they are awaited on the app's event loop, from the worker thread that does the cold
work; where no loop has ever asked, as under WSGI, each call runs in one of its own.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from keyrush.errors import StoreError
from keyrush.forks import after_fork

T = TypeVar("T")

_caller = threading.local()

#: Seconds between looks at whether the loop that should answer still runs.
_POLL = 1.0


def on_behalf_of(
    loop: asyncio.AbstractEventLoop | None, function: Callable[..., T], *args: Any
) -> T:
    """Call `function` in this worker thread, with coroutine methods awaited on `loop`."""
    if loop is None:
        return function(*args)
    _caller.loop = loop
    try:
        return function(*args)
    finally:
        del _caller.loop


class _Synchronous:
    """Looks like `subject`, with its coroutine methods as plain ones."""

    def __init__(self, subject: Any) -> None:
        self._subject = subject
        self._forget_loop()
        after_fork(self._forget_loop)

    def _forget_loop(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # the last one that asked

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._subject, name)
        if not inspect.iscoroutinefunction(value):
            return value

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._loop = getattr(_caller, "loop", self._loop)
            if running_loop() is not None:
                raise RuntimeError(f"{name} would block the event loop: call it in a thread")
            if self._loop is not None and self._loop.is_running():
                return _await_on(self._loop, value(*args, **kwargs))
            return asyncio.run(value(*args, **kwargs))

        setattr(self, name, call)
        return call


def _await_on(loop: asyncio.AbstractEventLoop, coroutine: Any) -> Any:
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    while True:
        try:
            return future.result(_POLL)
        except FutureTimeoutError:
            if future.done():
                raise
            if not loop.is_running():
                future.cancel()
                raise StoreError("the event loop stopped before the store answered") from None


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def is_bridged(subject: object) -> bool:
    """True for a front that `synchronous` has made."""
    return isinstance(subject, _Synchronous)


def synchronous(subject: T) -> T:
    """`subject` itself, or where it has coroutine methods, a front with plain ones."""
    members = (getattr(type(subject), name, None) for name in dir(type(subject)))
    if any(inspect.iscoroutinefunction(member) for member in members):
        front: Any = _Synchronous(subject)
        return front  # type: ignore[no-any-return]  # it has whatever subject has
    return subject
