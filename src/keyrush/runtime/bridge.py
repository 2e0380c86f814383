"""Between threads and event loops, of asyncio and of trio.

Coroutine methods of a user's own store or limiter are called from keyrush's synchronous core. On
asyncio they are awaited on the app's event loop, from the worker thread that does the cold work;
where no such loop has ever asked, as under WSGI and on trio, each call runs in one of its own.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

from keyrush.errors import StoreError
from keyrush.runtime.forks import after_fork

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
            if in_event_loop():
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
    """The event loop of asyncio that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


# --- asyncio or trio ---------------------------------------------------------------------------


def running_trio() -> Any:
    """The library, where one of its tasks runs in this thread; else None. It need not be here:
    whoever runs such tasks has imported it.
    """
    trio = sys.modules.get("trio")
    if trio is not None:
        with suppress(RuntimeError):  # as it is raised where no task of it runs
            trio.lowlevel.current_task()
            return trio
    return None


def in_event_loop() -> bool:
    """True where to block would stop all tasks of this thread."""
    return running_trio() is not None or running_loop() is not None


async def result_of(future: Future[T]) -> T:
    """What a thread's `future` brings. It comes to its end though the task is cancelled."""
    trio = running_trio()
    if trio is None:
        # Shielded, because a call that still waits for its thread would be cancelled, too.
        return await asyncio.shield(asyncio.wrap_future(future))
    ended, soon = trio.Event(), call_soon()
    future.add_done_callback(lambda _: soon(ended.set))
    await ended.wait()
    return future.result()


def cancellations() -> tuple[type[BaseException], ...]:
    """What is raised in a task that is cancelled."""
    trio = sys.modules.get("trio")
    return (asyncio.CancelledError,) if trio is None else (asyncio.CancelledError, trio.Cancelled)


def abandonments() -> tuple[type[BaseException], ...]:
    """What is raised in a coroutine that comes to no end: it is cancelled, or its loop has ended
    without it.
    """
    return (*cancellations(), GeneratorExit)


def is_cancellation(error: BaseException | None) -> bool:
    """True where nothing has failed: the task has been cancelled, or a group of them."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(cancellations())[1] is None
    return isinstance(error, cancellations())


def call_soon() -> Callable[[Callable[[], object]], None]:
    """What has the running event loop call a function soon, from any thread.
    Once the loop has ended it calls nothing.
    """
    trio = running_trio()
    call: Callable[[Callable[[], object]], object] = (
        trio.lowlevel.current_trio_token().run_sync_soon
        if trio
        else asyncio.get_running_loop().call_soon_threadsafe
    )

    def soon(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and all in it
            call(function)

    return soon


def start_task(function: Callable[[], Coroutine[Any, Any, None]]) -> object:
    """Run a coroutine function, which raises no error, in a task of the running event loop. Keep
    what is returned: asyncio holds its tasks weakly.
    """
    trio = running_trio()
    if trio is not None:
        return trio.lowlevel.spawn_system_task(function)
    return asyncio.get_running_loop().create_task(function())


def start_ending(function: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], object]:
    """`start_task`, with what cancels the task: keep it. It is called in the same event loop."""
    trio = running_trio()
    if trio is None:
        return asyncio.get_running_loop().create_task(function()).cancel
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await function()

    trio.lowlevel.spawn_system_task(run, context=copy_context())
    cancel: Callable[[], object] = scope.cancel
    return cancel


def synchronous(subject: T) -> T:
    """`subject` itself, or where it has coroutine methods, a front with plain ones."""
    members = (getattr(type(subject), name, None) for name in dir(type(subject)))
    if any(inspect.iscoroutinefunction(member) for member in members):
        front: Any = _Synchronous(subject)
        return front  # type: ignore[no-any-return]  # it has whatever subject has
    return subject
