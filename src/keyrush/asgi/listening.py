"""Hears of a client that leaves while its request waits for its turn.

Only `receive` tells, which also brings the body. So what comes is held, as long as it is little,
and the app gets it as it came. A call of `receive` that is under way when the turn comes is not
cancelled, so that nothing that it brings is lost: its message is the app's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from keyrush.asgi.messages import Message, Receive, Scope
from keyrush.runtime.bells import TaskBell
from keyrush.runtime.bridge import start_ending

#: Bytes of a body that are held, as many as servers read ahead themselves, and messages: one takes
#: hundreds of bytes, be there a single one in it. Of a client that has sent more nobody hears that
#: it leaves, until its turn.
_BYTES, _MESSAGES = 65_536, 64

T = TypeVar("T")

_DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})


class Listening:
    """The `receive` of one request that may wait. It is `receive` itself until `watch` is called.
    Belongs to one event loop; `end` it when the request is over.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self.is_gone = False  #: the client has left
        self._gone: Callable[[], object] | None = None
        self._held: deque[Message] = deque()
        self._size = 0
        self._is_listening = False
        self._is_handed_on = False
        self._error: Exception | None = None
        self._bells: list[TaskBell] = []  # of those that receive
        self._end: Callable[[], object] | None = None

    def watch(self, gone: Callable[[], object]) -> None:
        """Have `gone` called when the client leaves, from the first call on. Who has announced a
        body and waits to be asked for it (RFC 9110 §10.1.1) is not asked.
        """
        if self._gone is not None:
            return
        self._gone = gone
        if not any(name.lower() == b"expect" for name, _ in self._scope["headers"]):
            self._is_listening = True
            self._end = start_ending(self._listen)

    async def while_it_waits(self, answer: Awaitable[T]) -> T:
        """Await the answer to the request; where that fails, it is over."""
        try:
            return await answer
        except BaseException:
            self.end()
            raise

    def handed_on(self) -> Receive:
        """The `receive` of whoever goes on with the request."""
        self._is_handed_on = True
        return self._receive if self._end is None else self.receive

    async def receive(self) -> Message:
        """What was held, unchanged and in its order; then what the server has to say."""
        while not self._held:
            if not self._is_listening:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                return await self._receive()
            bell = TaskBell()
            self._bells.append(bell)
            try:
                await bell.wait()
            finally:
                self._bells.remove(bell)
        return self._held.popleft()

    def end(self) -> None:
        """Nobody receives any more."""
        if self._end is not None:
            self._end()

    async def _listen(self) -> None:
        try:
            while not self._is_handed_on and not self.is_gone and self._has_room():
                self._hold(await self._receive())
        except Exception as error:  # which is of whoever receives next
            self._error = error
        finally:
            self._is_listening = False
            self._ring()

    def _has_room(self) -> bool:
        return self._size <= _BYTES and len(self._held) < _MESSAGES

    def _hold(self, message: Message) -> None:
        self._held.append(message)
        self._size += len(message.get("body", b""))
        if message["type"] in _DISCONNECTS:
            self.is_gone = True
            if self._gone is not None:
                self._gone()
        self._ring()

    def _ring(self) -> None:
        for bell in self._bells:
            bell.ring_here()
