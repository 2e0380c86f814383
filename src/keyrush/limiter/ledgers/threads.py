"""Threads that ask a server together: what comes while others are asking goes with the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from keyrush.errors import KeyrushError, LimiterError
from keyrush.limiter.ledgers.calls import NoReply, again

C = TypeVar("C")  # a call
A = TypeVar("A")  # its answer, never None


class _Waiter(Generic[C, A]):
    """A thread's call, and what has become of it."""

    def __init__(self, call: C) -> None:
        self.call = call
        #: Of one that does not come alone: it is answered, or may call now.
        self.turn: threading.Event | None = None
        self.answer: A | None = None
        self.error: Exception | None = None

    def wake(self) -> None:
        if self.turn is not None:
            self.turn.set()


class ThreadBatches(Generic[C, A]):
    """Threads that ask: one calls for all that wait, and then the first of those that came since.

    Who comes alone calls at once. `together` calls are sent at most; what `send` raises where it
    can't be answered is an error of keyrush's.
    """

    def __init__(self, send: Callable[[Sequence[C]], list[A]], together: int) -> None:
        self._send = send
        self._together = together
        self._lock = threading.Lock()
        self._waiting: list[_Waiter[C, A]] = []
        self._is_busy = False

    def ask(self, call: C) -> A:
        waiter: _Waiter[C, A] = _Waiter(call)
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
            assert waiter.error is not None  # noqa: S101  # one of the two has come
            raise again(waiter.error) from waiter.error.__cause__
        return waiter.answer

    def _wait(self, waiter: _Waiter[C, A], turn: threading.Event) -> None:
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
            batch = self._take_along(self._together)
        error: Exception = LimiterError("a call to the limiter's server was broken off")
        try:
            answers = self._send([waiter.call for waiter in batch])
            for waiter, answer in zip(batch, answers, strict=True):
                waiter.answer = answer
        except KeyrushError as fault:
            error = fault
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

    def _take_along(self, most: int) -> list[_Waiter[C, A]]:
        batch = self._waiting[:most]
        del self._waiting[:most]
        return batch
