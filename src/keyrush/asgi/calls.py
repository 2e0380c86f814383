"""Requests to resources of MCP: read before they are decided on, and looked at on the way out."""

from __future__ import annotations

from collections.abc import Awaitable

from keyrush.asgi.body import ClientLeft, HeldBody, TooLarge
from keyrush.asgi.listening import Listening
from keyrush.asgi.messages import Message, Receive, Scope, Send, awaited
from keyrush.asgi.response import REDIRECT, Passage
from keyrush.core.policy import UNRULED
from keyrush.core.refusal import Refusal
from keyrush.gate.deciding import Admitted
from keyrush.gate.exchange import Exchange
from keyrush.gate.finishing import Address
from keyrush.gate.gate import Gate
from keyrush.gate.principal import Caller, Principal
from keyrush.runtime.bridge import is_cancellation
from keyrush.wire.outcomes import Outcomes
from keyrush.wire.request import Header

#: Left out of what the app sees of calls: what it compresses nobody can look at on its way.
ACCEPT_ENCODING = b"accept-encoding"


async def come_in(
    exchange: Exchange, address: Address, scope: Scope, receive: Receive
) -> tuple[Admitted | Refusal | None, Listening]:
    """The answer to a request to a resource, None where its client has left meanwhile; and what
    gives the app what was read.
    """
    plain = Listening(scope, receive)
    if (refusal := await exchange.identify_async(address)) is not None:
        return refusal, plain
    if scope["type"] == "websocket":  # where nobody reads what is called
        return await exchange.decide_async(UNRULED), plain
    if exchange.refused is not None:
        return await exchange.decide_async(exchange.refused), plain
    if not exchange.reads_body:
        return await plain.while_it_waits(exchange.decide_async(None, plain)), plain
    held = HeldBody(scope, receive)
    try:
        body: bytes | Refusal = await held.read(exchange.max_body)
    except TooLarge:
        body = exchange.too_large
    except ClientLeft:
        return None, plain
    listening = Listening(scope, held.receive)
    return await listening.while_it_waits(exchange.decide_async(body, listening)), listening


class CallPassage(Passage):
    """The response to calls: what they were charged is given back where they come to nothing."""

    _outcomes: Outcomes | None = None

    def __init__(  # noqa: PLR0917  # as the one of all requests, with the exchange
        self,
        gate: Gate,
        scope: Scope,
        receive: Receive,
        send: Send,
        caller: Caller,
        headers: list[Header],
        exchange: Exchange,
    ) -> None:
        super().__init__(gate, scope, receive, send, caller, headers)
        self._exchange = exchange
        self.call_id = exchange.call_id

    @awaited
    def send(self, message: Message) -> Awaitable[None]:
        """See `Passage.send`."""
        kind = message["type"]
        if kind == "http.response.start":
            if message["status"] < REDIRECT:
                headers = list(message.get("headers", ()))
                self._outcomes = self._exchange.outcomes(headers)
                if (session := self._exchange.opens(headers)) is not None:
                    return self._opened(session, {**message, "headers": headers})
            else:
                self._exchange.end(is_answered=True)
        elif kind == "http.response.body" and self._outcomes is not None:
            is_last = not message.get("more_body", False)
            failed = self._outcomes.feed(bytes(message.get("body", b"")), is_last=is_last)
            if self._outcomes.are_known:  # by the client, who may go on with the same id
                self._exchange.end(is_answered=True)
            if failed:
                self._exchange.fail(failed)
                if self._caller.charges and not self._is_shut:
                    return self._without(failed, message)
        return super().send(message)

    # --- how it ends ---

    def _is_kept(self, error: BaseException | None = None) -> bool:
        """As of any response, and where the client has left before it began, or has ended the call
        itself: it may have been at work all the while.
        """
        if self._exchange.is_given_up or self._has_left(error):
            return True
        return super()._is_kept(error)

    def _has_left(self, error: BaseException | None = None) -> bool:
        has_left = self._is_gone or self._is_ended or is_cancellation(error)
        return has_left and self._status < REDIRECT

    async def _uncharge(self, message: Message) -> None:
        await (self._send(message) if self._exchange.is_given_up else super()._uncharge(message))

    def conclude(self) -> None:
        """The app has returned, or raised: whether its answer has been seen by anybody."""
        if self._is_refused:
            is_answered = True
        elif self._outcomes is not None:
            is_answered = self._outcomes.are_known  # else it may come on another stream
        else:
            is_answered = self._is_complete or not (self._has_left() or self._is_cancelled)
        self._exchange.end(is_answered=is_answered)
        if self.is_open:
            self._gate.connections.remove(self)
        recording, called, caller = self._gate.recording, self._exchange.called, self._caller
        if recording is not None and called is not None and isinstance(caller, Principal):
            kept = () if self._is_given_back else caller.charges
            is_broken = not self._is_complete and self._has_broken_off()
            called.record(recording, caller, kept, self._status, self._refusal, is_broken)

    async def _opened(self, session: str, message: Message) -> None:
        """Note whose session it is, before the client is told of it."""
        workers = self._gate.workers
        await workers.run("io", self._exchange.note_session, session, must=True)
        await super().send(message)

    async def _without(self, failed: list[str | int], message: Message) -> None:
        """Give back what these calls were charged, and send the message that says of it."""
        workers = self._gate.workers
        await workers.run("io", self._exchange.give_back, self._caller, failed, must=True)
        await super().send(message)
