"""Tasks of an event loop that ask a server together; `threads` does the same for threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from keyrush.errors import KeyrushError, LimiterError
from keyrush.limiter.ledgers.calls import NoReply, again
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault

C = TypeVar("C")  # a call
A = TypeVar("A")  # its answer
C_contra = TypeVar("C_contra", contravariant=True)

#: Calls, each with the future of its answer.
_Asked = list[tuple[C, "asyncio.Future[A]"]]

#: What undoes a call that has been answered, None where there is nothing to undo.
Undo = Callable[[C, A], C | None]


class Line(Protocol[C_contra, A]):
    """What belongs to one event loop: by it calls are sent. It opens itself when used first."""

    async def send(self, calls: Sequence[C_contra]) -> list[A]:
        """The answers. Raises an error of keyrush where there can be none."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class TaskBatches(Generic[C, A]):
    """The calls of a loop's tasks, by slot: those of one go together, `together` at most."""

    def __init__(
        self,
        line: Line[C, A],
        together: int,
        undo: Undo[C, A],
        forget: Callable[[TaskBatches[C, A]], object],
    ) -> None:
        self._line = line
        self._together = together
        self._undoing = undo
        self._forget = forget
        self._waiting: dict[int, _Asked[C, A]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._life = self._live()

    async def open(self) -> None:
        """Have everything closed when the loop ends."""
        await anext(self._life)

    async def _live(self) -> AsyncGenerator[None, None]:
        # Loops close their generators before they end, and tell nobody else that they do.
        try:
            yield
        finally:
            self._forget(self)
            if self._tasks:
                await asyncio.wait(self._tasks)
            await self._line.close()

    def close(self) -> None:
        """Close everything soon. To be called in the loop."""
        self._closing = asyncio.ensure_future(self._life.aclose())

    async def ask(self, slot: int, call: C) -> A:
        """The answer. What is granted to a task that is cancelled meanwhile is given back."""
        answer = self.join(slot, call)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and not answer.exception():
                self.undo(slot, call, answer.result())
            raise

    def join(self, slot: int, call: C) -> asyncio.Future[A]:
        """What will have the answer. It is cancelled by whoever wants it no more."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(slot)
        if waiting is None:
            waiting = self._waiting[slot] = []
            # It begins when all that are ready to run now have asked, too.
            task = asyncio.create_task(self._serve(slot, waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting.append((call, answer))
        return answer

    async def _serve(self, slot: int, waiting: _Asked[C, A]) -> None:
        batch: _Asked[C, A] = []
        try:
            while waiting:
                batch = [asked for asked in waiting[: self._together] if not asked[1].done()]
                del waiting[: self._together]
                await self._answer(slot, batch)
        finally:
            del self._waiting[slot]
            _fail(batch + waiting, LimiterError("a call to the limiter's server was broken off"))

    async def _answer(self, slot: int, batch: _Asked[C, A]) -> None:
        calls = [call for call, _ in batch]
        try:
            answers = await self._line.send(calls) if calls else []
        except KeyrushError as error:
            if isinstance(error, NoReply):  # nor would those that wait get one
                waiting = self._waiting[slot]
                batch += waiting
                waiting.clear()
            _fail(batch, error)
            return
        for (call, answer), taken in zip(batch, answers, strict=True):
            if answer.done():  # cancelled meanwhile
                self.undo(slot, call, taken)
            else:
                answer.set_result(taken)

    def undo(self, slot: int, call: C, answer: A) -> asyncio.Future[A] | None:
        """Give back what was granted to a task that has no use for it any more; nobody need wait
        for the answer. None where nothing was granted.
        """
        back = self._undoing(call, answer)
        if back is None:
            return None
        coming = self.join(slot, back)
        coming.add_done_callback(_log_lost)
        return coming


def _fail(batch: _Asked[C, A], error: Exception) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(again(error))


def _log_lost(answer: asyncio.Future[A]) -> None:
    if isinstance(error := answer.exception(), Exception):
        log_fault("units of a request that came to nothing stay taken", error)


class Loops(Generic[C, A]):
    """The batches of each event loop that asks: made when it asks first, by a `line` of its own,
    gone when it ends. Nothing of a parent process is used, nor closed.
    """

    def __init__(self, line: Callable[[], Line[C, A]], together: int, undo: Undo[C, A]) -> None:
        self._line = line
        self._together = together
        self._undo = undo
        self._inherited: object = None
        self._batches: dict[asyncio.AbstractEventLoop, TaskBatches[C, A]] = {}
        after_fork(self._begin_anew)

    def _begin_anew(self) -> None:
        self._inherited = (self._inherited, self._batches)  # kept, lest it be closed here
        self._batches = {}

    async def ask(self, slot: int, call: C) -> A:
        """`TaskBatches.ask`, on the running event loop."""
        return await (await self._here()).ask(slot, call)

    async def join(self, slot: int, call: C) -> asyncio.Future[A]:
        """`TaskBatches.join`, on the running event loop."""
        return (await self._here()).join(slot, call)

    def undo(self, slot: int, call: C, answer: A) -> asyncio.Future[A] | None:
        """`TaskBatches.undo`, of what was answered on the running event loop."""
        batches = self._batches.get(asyncio.get_running_loop())
        return None if batches is None else batches.undo(slot, call, answer)

    async def _here(self) -> TaskBatches[C, A]:
        running = asyncio.get_running_loop()
        batches = self._batches.get(running)
        if batches is None:
            self._forget()
            batches = self._batches[running] = TaskBatches(
                self._line(), self._together, self._undo, self._forget
            )
            await batches.open()
        return batches

    def close(self) -> None:
        """Have everything closed soon, when the loops come to it."""
        for running, batches in list(self._batches.items()):
            self._forget(batches)
            with suppress(RuntimeError):  # it has ended
                running.call_soon_threadsafe(batches.close)

    def _forget(self, gone: TaskBatches[C, A] | None = None) -> None:
        """Have nothing more to do with what belongs to an event loop, or to any that has ended."""
        for running, batches in list(self._batches.items()):
            if batches is gone or running.is_closed():
                self._batches.pop(running, None)
