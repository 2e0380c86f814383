"""Worker threads for what may block, so that an event loop never does.

There are several pools, because a storm of new keys, each worth milliseconds of argon2, must not
make a request wait whose key is already known, nor a look-up; and because look-ups in a database
wait for little but the interpreter, of which threads that want it together make less than a few.
Their queues are bounded.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar

from keyrush.errors import Away
from keyrush.runtime.bridge import abandonments, on_behalf_of, result_of, running_loop
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault

T = TypeVar("T")

Pool = Literal["hash", "io", "look-up"]

_IO_THREADS = 16

#: What Python raises where no thread can be started.
_LACK = (RuntimeError, MemoryError)

#: Calls in a pool, running or waiting, beyond which more are turned away.
MAX_CALLS = 2048


class Busy(Away):
    """No thread is free: so many calls wait that one more would wait for too long, or none can be
    started.
    """


class _Executor(ThreadPoolExecutor):
    """One whose calls wait for the threads that there are, where no more can be started."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except _LACK as error:
            if not self._threads:
                raise
            log_fault("fewer threads work than should", error)


class Workers:
    """Threads, started when first needed and again after a fork. Belongs to no event loop.

    `hashing` is how many proofs run at once, `looking_up` how many look-ups in a database.
    """

    def __init__(self, hashing: int = 1, looking_up: int = 1) -> None:
        self._sizes: dict[Pool, int] = {"hash": hashing, "io": _IO_THREADS, "look-up": looking_up}
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[Pool, _Executor] = {}
        self._calls: dict[Pool, int] = dict.fromkeys(self._sizes, 0)

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
            return await result_of(future)
        except abandonments():
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

        Where no thread can be started, what `must` be done is done here, and blocks.

        Raises:
            Busy: Too many calls wait, or no thread can be started, and this call is none that
                `must` be made.
        """
        future: Future[T] = Future()
        call = partial(_fulfil, future, running_loop(), function, *args)
        with self._lock:  # held until the call is with a thread, so that `close` waits for it
            if self._calls[pool] >= MAX_CALLS and not must:
                raise Busy("every thread is busy, and too many wait for one")
            lack = self._hand_over(pool, call)
            self._calls[pool] += lack is None
        if lack is None:
            future.add_done_callback(lambda _: self._ended(pool))
            return future
        log_fault("no thread can be started", lack)
        if not must:
            raise Busy(f"there is no thread for it: {lack}") from lack
        return self._here(function, *args)

    def _hand_over(self, pool: Pool, call: Callable[[], object]) -> Exception | None:
        """Have a thread of the pool make the call, or say why none ever will."""
        executor = self._pools.get(pool) or _Executor(self._sizes[pool], f"keyrush-{pool}")
        try:
            executor.submit(call)
        except _LACK as error:
            return error
        self._pools[pool] = executor  # not one without a thread, where calls would wait for ever
        return None

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
