"""Tasks of an event loop that ask a server together; `threads` does the same for threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from keyrush.core.sliding import Taken
from keyrush.errors import LimiterError
from keyrush.limiter.ledgers.redis.script import Call, NoReply
from keyrush.limiter.ledgers.redis.server import and_sentinels
from keyrush.limiter.ledgers.redis.threads import TOGETHER
from keyrush.runtime.logs import log_fault


class TaskBatches:
    """What belongs to one event loop: a client, and the calls of its tasks, by slot."""

    def __init__(
        self,
        client: Any,
        send: Callable[[Any, Sequence[Call]], Awaitable[list[Taken]]],
        forget: Callable[[TaskBatches], object],
    ) -> None:
        self._client = client
        self._send = send
        self._forget = forget
        self._waiting: dict[int, list[tuple[Call, asyncio.Future[Taken]]]] = {}
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
            for client in and_sentinels(self._client):
                await client.aclose()

    def close(self) -> None:
        """Close everything soon. To be called in the loop."""
        self._closing = asyncio.ensure_future(self._life.aclose())

    async def ask(self, slot: int, call: Call) -> Taken:
        answer = self._join(slot, call)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and not answer.exception():
                self._undo(slot, call, answer.result())
            raise

    def _join(self, slot: int, call: Call) -> asyncio.Future[Taken]:
        answer: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(slot)
        if waiting is None:
            waiting = self._waiting[slot] = []
            # It begins when all that are ready to run now have asked, too.
            task = asyncio.create_task(self._serve(slot, waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting.append((call, answer))
        return answer

    async def _serve(self, slot: int, waiting: list[tuple[Call, asyncio.Future[Taken]]]) -> None:
        batch: list[tuple[Call, asyncio.Future[Taken]]] = []
        try:
            while waiting:
                batch = [asked for asked in waiting[:TOGETHER] if not asked[1].done()]
                del waiting[:TOGETHER]
                await self._answer(slot, batch)
        finally:
            del self._waiting[slot]
            _fail(batch + waiting, "a call to the limiter's server was broken off")

    async def _answer(self, slot: int, batch: list[tuple[Call, asyncio.Future[Taken]]]) -> None:
        calls = [call for call, _ in batch]
        try:
            answers = await self._send(self._client, calls) if calls else []
        except LimiterError as error:
            if isinstance(error, NoReply):  # nor would those that wait get one
                waiting = self._waiting[slot]
                batch += waiting
                waiting.clear()
            _fail(batch, str(error))
            return
        for (call, answer), taken in zip(batch, answers, strict=True):
            if answer.done():  # cancelled meanwhile
                self._undo(slot, call, taken)
            else:
                answer.set_result(taken)

    def _undo(self, slot: int, call: Call, taken: Taken) -> None:
        """Give back what was granted to a task that is no longer there to use it."""
        if taken.granted:
            back = Call("give", call.windows, taken.granted, taken.now)
            self._join(slot, back).add_done_callback(_log_lost)


def _fail(batch: Sequence[tuple[Call, asyncio.Future[Taken]]], why: str) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(LimiterError(why))


def _log_lost(answer: asyncio.Future[Taken]) -> None:
    if isinstance(error := answer.exception(), Exception):
        log_fault("units of a cancelled request stay taken", error)
