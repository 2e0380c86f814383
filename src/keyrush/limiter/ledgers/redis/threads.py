"""Threads that ask a server together: what comes while others are asking goes with the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from keyrush.core.sliding import Taken
from keyrush.errors import LimiterError
from keyrush.limiter.ledgers.redis.script import Call, NoReply

#: Calls that go together in one script at most, which holds the server for about 2 ms.
TOGETHER = 128


class _Waiter:
    """A thread's call, and what has become of it."""

    def __init__(self, call: Call) -> None:
        self.call = call
        #: Of one that does not come alone: it is answered, or may call now.
        self.turn: threading.Event | None = None
        self.answer: Taken | None = None
        self.error: str | None = None

    def wake(self) -> None:
        if self.turn is not None:
            self.turn.set()


class ThreadBatches:
    """Threads that ask: one calls for all that wait, and then the first of those that came since.

    Who comes alone calls at once.
    """

    def __init__(self, send: Callable[[Sequence[Call]], list[Taken]]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._is_busy = False

    def ask(self, call: Call) -> Taken:
        waiter = _Waiter(call)
        with self._lock:
            if self._is_busy:
                waiter.turn = threading.Event()
            self._is_busy = True
            self._waiting.append(waiter)
        if waiter.turn is not None:
            self._wait(waiter, waiter.turn)
        if waiter.answer is None and waiter.error is None:
            self._lead()
        if waiter.answer is None:
            raise LimiterError(waiter.error)
        return waiter.answer

    def _wait(self, waiter: _Waiter, turn: threading.Event) -> None:
        try:
            turn.wait()
        except BaseException:  # as at Ctrl-C: others must not wait for this thread
            with self._lock:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                    if turn.is_set():
                        self._hand_over()
            raise

    def _hand_over(self) -> None:
        """Have the next one call. To be called with the lock held."""
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            self._waiting[0].wake()

    def _lead(self) -> None:
        with self._lock:
            batch = self._take_along(TOGETHER)
        error = "a call to the limiter's server was broken off"
        try:
            answers = self._send([waiter.call for waiter in batch])
            for waiter, answer in zip(batch, answers, strict=True):
                waiter.answer = answer
        except LimiterError as fault:
            error = str(fault)
            if isinstance(fault, NoReply):  # nor would those that wait get one
                with self._lock:
                    batch += self._take_along(len(self._waiting))
        finally:
            with self._lock:
                self._hand_over()
            for waiter in batch:
                if waiter.answer is None:
                    waiter.error = error
                waiter.wake()

    def _take_along(self, most: int) -> list[_Waiter]:
        batch = self._waiting[:most]
        del self._waiting[:most]
        return batch
