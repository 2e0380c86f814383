"""Worker threads for what may block, so that an event loop never does.

There are two pools, because a storm of new keys, each worth milliseconds of argon2, must not
make a request wait whose key is already known, nor a look-up. Their queues are bounded.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar

from keyrush.bridge import on_behalf_of, running_loop
from keyrush.circuit import Away
from keyrush.forks import after_fork

T = TypeVar("T")

Pool = Literal["hash", "io"]

_IO_THREADS = 16

#: Calls in a pool, running or waiting, beyond which more are turned away.
MAX_CALLS = 2048


class Busy(Away):
    """So many calls wait for a thread that one more would wait for too long."""


class Workers:
    """Threads, started when first needed and again after a fork. Belongs to no event loop.

    `hashing` is how many proofs run at once.
    """

    def __init__(self, hashing: int = 1) -> None:
        self._sizes: dict[Pool, int] = {"hash": hashing, "io": _IO_THREADS}
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[Pool, ThreadPoolExecutor] = {}
        self._calls: dict[Pool, int] = {"hash": 0, "io": 0}

    async def run(
        self,
        pool: Pool,
        function: Callable[..., T],
        *args: Any,
        undo: Callable[[T], object] | None = None,
        must: bool = False,
    ) -> T:
        """Await `function(*args)` in a thread. When the awaiting task is cancelled, `function`
        runs to its end all the same, and then `undo` with its result, in a thread too.

        Raises:
            Busy: Too many calls wait; not where it `must` be done, as with what gives back.
        """
        future = self.submit(pool, function, *args, must=must)
        try:
            # Shielded, because a call that still waits for its thread would be cancelled, too.
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            if undo is not None:
                # In another thread's turn: this very call may run on the event loop.
                future.add_done_callback(
                    lambda done: self.submit("io", _undo, done, undo, must=True)
                )
            raise

    def submit(
        self, pool: Pool, function: Callable[..., T], *args: Any, must: bool = False
    ) -> Future[T]:
        """Run `function(*args)` in a thread, for whom nobody need wait.

        Raises:
            Busy: Too many calls wait, and this one is none that `must` be made.
        """
        with self._lock:
            if self._calls[pool] >= MAX_CALLS and not must:
                raise Busy("every thread is busy, and too many wait for one")
            if pool not in self._pools:
                self._pools[pool] = ThreadPoolExecutor(self._sizes[pool], f"keyrush-{pool}")
            executor = self._pools[pool]
            self._calls[pool] += 1
        future: Future[T] = Future()
        future.add_done_callback(lambda _: self._ended(pool))
        call = partial(_fulfil, future, running_loop(), function, *args)
        try:
            executor.submit(call)
        except RuntimeError as error:  # "can't start new thread": but the call is queued
            if future.cancel():
                if not must:
                    raise Busy(f"there is no thread for it: {error}") from error
                return self._here(function, *args)
        return future

    def _here(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Make the call in this thread: it must be made, and there is no other."""
        future: Future[T] = Future()
        _fulfil(future, None, function, *args)
        return future

    def _ended(self, pool: Pool) -> None:
        with self._lock:
            self._calls[pool] -= 1

    def close(self) -> None:
        """Wait for what is under way, and for what that leaves to undo, and end the threads.

        They start again when needed.
        """
        while self._pools:
            with self._lock:
                pools, self._pools = self._pools, {}
            for pool in pools.values():
                pool.shutdown()


def _fulfil(
    future: Future[T],
    loop: asyncio.AbstractEventLoop | None,
    function: Callable[..., T],
    *args: Any,
) -> None:
    """Make a call, unless nobody wants it any more, and tell what came of it."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = on_behalf_of(loop, function, *args)
    except BaseException as error:  # as executors do: who waits must learn of it
        future.set_exception(error)
    else:
        future.set_result(result)


def _undo(done: Future[T], undo: Callable[[T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())
