"""The response of the app on its way out: decorated, or refused after all."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from http import HTTPStatus

from keyrush.asgi.messages import (
    POLICY_VIOLATION,
    STARTS,
    Message,
    Receive,
    Scope,
    Send,
    awaited,
    refuse,
    respond,
)
from keyrush.asgi.scope import asked, sender
from keyrush.core.identity import STORED
from keyrush.core.refusal import Refusal, refused_in
from keyrush.gate.gate import Gate
from keyrush.gate.principal import INTERNAL_SERVER_ERROR, Caller, Principal
from keyrush.runtime.bridge import call_soon, is_cancellation, start_task
from keyrush.wire.fields import foreign
from keyrush.wire.request import Header
from keyrush.wire.sender import has_left

#: The messages that carry the body; without `more_body` they are its end.
_BODIES = frozenset({"http.response.body", "http.response.zerocopysend", "http.response.pathsend"})

#: Plain numbers: an enum's value is looked up anew each time.
_OK = HTTPStatus.OK.value
_SWITCHING, _FORBIDDEN = HTTPStatus.SWITCHING_PROTOCOLS.value, HTTPStatus.FORBIDDEN.value
REDIRECT = HTTPStatus.MULTIPLE_CHOICES.value

_DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})


#: What an app receives once the gate has ended its connection.
_LEFT: dict[str, Message] = {
    "http": {"type": "http.disconnect"},
    "websocket": {"type": "websocket.disconnect", "code": POLICY_VIOLATION},
}


class Passage:
    """The `send` that the app gets: decorates its response, or replaces it by a refusal; and the
    `receive`, which is told of a client that leaves.

    Messages other than the start of the response pass as they are (S68). Once the first part of
    a stream is out, or a WebSocket is accepted, it is a `connections.Connection`.
    """

    # What most responses never change stands here: to set it for each would cost.
    _started: Message | None = None  #: the message that has started the response
    _is_shut = False  #: nothing that the app sends is sent any more
    _is_refused = False  #: because it has been refused
    _refusal: Refusal | None = None  #: with this
    _is_given_back = False  #: what it was charged, or is about to be
    _has_raised = False  #: the app, anything but a refusal that is answered
    _is_cancelled = False  #: the app, in the middle of it
    _status = 0
    _is_complete = False  #: the app has said all
    _is_gone = False  #: the client has left
    _is_ended = False  #: by the gate, because the key has ended
    _is_connected = False  #: a WebSocket, with `websocket.connect`
    is_open = False
    call_id: str | int | None = None  #: of the request to a resource, where it is known

    def __init__(  # noqa: PLR0917  # made for every request
        self,
        gate: Gate,
        scope: Scope,
        receive: Receive,
        send: Send,
        caller: Caller,
        headers: list[Header],
    ) -> None:
        self._gate = gate
        self._scope = scope
        self._receive = receive
        self._send = send
        self._caller = caller
        self._headers = headers

    # --- what the app calls ---

    async def receive(self) -> Message:
        """The `receive` that the app gets."""
        if self._is_ended:
            return _LEFT[self._scope["type"]]
        message = await self._receive()
        kind = message["type"]
        if kind in _DISCONNECTS:
            self._is_gone = True
        elif kind == "websocket.connect":
            self._is_connected = True  # else a refusal has to receive it (S70)
        return message

    @awaited
    def send(self, message: Message) -> Awaitable[None]:  # noqa: C901  # a table of messages
        """The `send` that the app gets."""
        kind = message["type"]
        caller = self._caller
        if kind in STARTS:
            status = message.get("status", _OK)  # a WebSocket is accepted without
            if caller.refusal is not None and (lost := caller.lost_refusal(status)):
                return self._replace(lost)
            self._status = status
            headers, added = message.get("headers", ()), self._headers
            if len(added) > 1:  # the last one is `vary`, before it are the rate-limit fields
                message = {**message, "headers": foreign(headers) + added}
            else:
                message = {**message, "headers": [*headers, *added]}
            self._started = message
            if kind == "websocket.accept":
                self._status = _SWITCHING
                message["headers"] = [h for h in message["headers"] if h != self._gate.vary]
                return self._opening(message)
            if caller.charges and status >= REDIRECT:
                return self._uncharge(message)
        elif self._is_shut:
            return self._shut()
        elif kind in _BODIES:
            if "more_body" not in message or not message["more_body"]:
                self._is_complete = True
            elif not self.is_open:
                return self._opening(message)
        elif kind == "websocket.close":
            self._is_complete = True
            if not self._started:  # the app's own refusal
                self._started, self._status = message, _FORBIDDEN
                return self._uncharge(message)
        return self._sending(message) if caller.charges else self._send(message)

    async def _shut(self) -> None:
        """In place of a message that is not sent.

        Raises:
            OSError: The gate has ended the connection, as if the client had.
        """
        if self._is_ended:
            raise OSError("the key has ended, and the connection with it")

    async def _opening(self, message: Message) -> None:
        """Send what makes it a `connections.Connection`; this runs in the event loop for sure."""
        self._open()
        await (self._sending(message) if self._caller.charges else self._send(message))

    async def _sending(self, message: Message) -> None:
        """Send a message of a response that is paid for, and learn if the client has left."""
        try:
            await self._send(message)
        except Exception as error:
            self._is_gone = self._is_gone or has_left(error)
            raise

    # --- how it ends ---

    def _is_kept(self, error: BaseException | None = None) -> bool:
        """Whether what was charged is kept: for an answer below 300 that came to its end, or that
        the client broke off. A WebSocket that was accepted is such an answer; an app that is
        cancelled in the middle of one, or ended by the gate, has been left by its client.
        """
        if self._started is None or self._status >= REDIRECT:
            return False
        is_whole = self._is_complete or self._scope["type"] == "websocket"
        has_left = self._is_gone or self._is_ended or is_cancellation(error)
        return is_whole or has_left

    async def settle(self) -> None:
        """Give credits back where the app has returned without a whole answer."""
        if not self._is_kept():
            gate = self._gate
            await gate.workers.run("io", gate.charging.uncharge, self._caller, must=True)

    def conclude(self) -> None:
        """The app has returned, or raised, and all is over: record the request."""
        gate, caller = self._gate, self._caller
        if self.is_open:
            gate.connections.remove(self)
        if (recording := gate.recording) is not None and (came := caller.came) is not None:
            credits = 0
            if caller.charges and not self._is_given_back:
                credits = caller.charged
            is_broken = not self._is_complete and self._has_broken_off()
            would_limit = caller.would_limit
            recording.add(came, self._status, self._refusal, credits, is_broken, would_limit)

    def _has_broken_off(self) -> bool:
        """Whether the app has failed to answer, or to go on: it is not the client that has left."""
        has_left = self._is_gone or self._is_ended or self._is_cancelled
        if self._started is None:
            if self._has_raised and not has_left:
                self._status = INTERNAL_SERVER_ERROR  # as the server says
            return True
        return not has_left and (self._has_raised or self._scope["type"] == "http")

    async def failed(self, error: BaseException) -> bool:
        """The app has raised: True where that is dealt with. A refusal is answered, unless the
        response has started; what fails because the gate has ended the connection is no fault.
        """
        self._has_raised, self._is_cancelled = True, is_cancellation(error)
        refused = refused_in(error)
        if refused is not None and not self._started:
            if not self._is_refused:
                await self._replace(refused.refusal)
            return True
        if self._is_ended and isinstance(error, Exception):
            return True
        self._give_back(error)
        return False

    def _give_back(self, error: BaseException) -> None:
        """Give credits back, where the app has failed to answer; waits for nothing."""
        if self._caller.charges and not self._is_kept(error):
            self._is_given_back = True
            gate = self._gate
            gate.workers.submit("io", gate.charging.uncharge, self._caller, must=True)

    async def _replace(self, refusal: Refusal) -> None:
        self._is_shut = self._is_refused = True
        self._refusal = refusal
        gate = self._gate
        if isinstance(self._caller, Principal):
            refusal = await gate.workers.run(
                "io", gate.deciding.refuse, self._caller, refusal, must=True
            )
        scope = self._scope
        response = gate.response(refusal, *sender(scope), asked(gate, scope, self.call_id))
        if self._is_connected:
            await respond(self._scope, self._send, response)
        else:
            await refuse(self._scope, self._receive, self._send, response)

    async def _uncharge(self, message: Message) -> None:
        if self._caller.charges:
            gate = self._gate
            await gate.workers.run("io", gate.charging.uncharge, self._caller, must=True)
        await self._send(message)

    # --- as a connection that may outlive its key ---

    def _open(self) -> None:
        caller = self._caller
        self.is_open = True
        if isinstance(caller, Principal):
            known = caller.verified
            self.key_id = known.key_id if known.source in STORED else None
            self.session = known.session
            self.account_id = known.account_id
            self.ends_at = known.expires_at
            self._call_soon = call_soon()
            self._gate.connections.add(self)

    def end(self) -> None:
        """See `connections.Connection`."""
        self._call_soon(self._end_soon)

    def _end_soon(self) -> None:
        if not (self._is_ended or self._is_complete):
            self._is_shut = self._is_ended = True
            self._ending = start_task(self._end_quietly)

    async def _end_quietly(self) -> None:
        with contextlib.suppress(Exception):  # a server that has ended it meanwhile says so
            await self._end()

    async def _end(self) -> None:
        """End the connection towards the server, which then tells the app that it is gone.

        A body of a promised length can't end early: its next part fails, and the server sees.
        """
        if self._scope["type"] == "websocket":
            await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
        elif self._started and not _has_length(self._started["headers"]):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_length(headers: list[Header]) -> bool:
    return any(name.lower() == b"content-length" for name, _ in headers)
