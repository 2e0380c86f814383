"""The middleware: the way of a request to the app."""

from __future__ import annotations

from keyrush.asgi.calls import ACCEPT_ENCODING, CallPassage, come_in
from keyrush.asgi.listening import Listening
from keyrush.asgi.messages import App, Receive, Scope, Send, refuse
from keyrush.asgi.response import Passage
from keyrush.asgi.scope import (
    OFFERED,
    answering,
    asked,
    enter,
    sender,
    share,
    with_keys,
    without_credentials,
)
from keyrush.core.policy import ANY_KEY
from keyrush.core.refusal import Refusal
from keyrush.errors import ConfigurationError, KeyrushError, Unavailable
from keyrush.gate.admission import Begun
from keyrush.gate.anonymous import PendingUnknown
from keyrush.gate.deciding import Admitted
from keyrush.gate.exchange import Exchange
from keyrush.gate.finishing import Pending
from keyrush.gate.gate import GATE, Gate
from keyrush.gate.opening import UNOPENED, Opening
from keyrush.gate.principal import Principal
from keyrush.runtime.bridge import in_event_loop
from keyrush.runtime.stopping import when_told_to_stop
from keyrush.settings.settings import Settings
from keyrush.wire.interfaces import is_wsgi
from keyrush.wire.resource_metadata import Document


class KeyrushMiddleware:
    """Puts a gate in front of an ASGI app.

    Configured by `KEYRUSH_*`, by `settings`, or by a `gate` that you have opened. The app
    finds the `Principal` in `scope["keyrush"]`, `scope["user"]` and `scope["auth"]`.

    Raises:
        ConfigurationError: A setting is wrong. When a framework makes the middleware only as
            it starts up, inside the event loop, the lifespan start-up fails with it instead;
            where the server sends no lifespan events, it is logged, and requests are 503.
        TypeError: The app is a WSGI app.
    """

    def __init__(
        self, app: App, settings: Settings | None = None, *, gate: Gate | None = None
    ) -> None:
        if is_wsgi(app):
            raise TypeError(
                f"{type(app).__name__} is a WSGI app: use KeyrushMiddleware from keyrush.wsgi"
            )
        self.app = app
        #: The gate, once it is known how it will learn of a stop; looked at by every request.
        self._begun: Gate | None = None
        self._gate: Gate | None = None
        self._wrong: KeyrushError | None = None
        try:
            self._gate = Gate.chosen(settings, gate)
        except (ConfigurationError, Unavailable) as error:
            # Servers take an exception before the lifespan for "no lifespan" and go on.
            if not in_event_loop():
                raise
            self._wrong = error
            self._opening = Opening(settings, error)

    @property
    def gate(self) -> Gate:
        """The gate, with its operations: `accounts`, `keys`, `credits` and `usage`.

        Raises:
            ConfigurationError: It could not be opened.
        """
        if self._gate is None:
            raise self._wrong or ConfigurationError("there is no gate")
        return self._gate

    async def __call__(  # noqa: C901, PLR0912, PLR0915  # one straight line, read from top to bottom
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        kind = scope["type"]
        if kind not in {"http", "websocket"}:
            await self._other(scope, receive, send)
            return
        gate = self._begun
        if gate is None:
            gate = self._begin()
            if gate is None:
                await refuse(scope, receive, send, UNOPENED)
                return
        passed, before = scope.get(GATE), None
        if passed is not None and passed.is_same(gate):
            before = scope["keyrush.caller"]
            if before.is_authenticated:
                await self._within(before, scope, receive, send)
                return
        # The key is known in there, and not here, where the app runs.
        passage: Passage | None
        answer: Begun | None = gate.admission.begin(
            scope.get("method", "GET"),  # a WebSocket handshake is a GET
            scope["path"] or "/",
            scope.get("raw_path"),
            scope.get("root_path", ""),
            scope["headers"] if kind == "http" else with_keys(gate, scope),
            scope.get("query_string", b""),
            scope.get("client"),
            before=before,
        )
        exchange = listening = None  # with a resource; where it may have waited
        if not isinstance(answer, tuple):  # which what is admitted is
            if isinstance(answer, Pending | PendingUnknown):
                answer, exchange, listening = await _finished(gate, answer, scope, receive)
                receive = listening.handed_on()
            if not isinstance(answer, tuple):
                try:
                    await _instead(gate, answer, exchange, scope, receive, send)
                finally:
                    if listening is not None:
                        listening.end()
                return
        caller, headers = answer
        inner, passage = scope, None
        try:
            if OFFERED in scope:
                send = answering(scope[OFFERED], send)
            if exchange is not None:
                # What was sent to get in is for nobody further on (S61).
                inner, send = without_credentials(gate, scope, send, also=ACCEPT_ENCODING)
                passage = CallPassage(gate, scope, receive, send, caller, headers, exchange)
            else:
                if gate.hides_credentials:
                    inner, send = without_credentials(gate, scope, send)
                passage = Passage(gate, scope, receive, send, caller, headers)
            enter(inner, gate, caller)
            await self.app(inner, passage.receive, passage.send)
        except BaseException as error:
            if passage is None or not await passage.failed(error):
                raise
        else:
            if caller.charges:
                await passage.settle()
        finally:
            if gate.concurrency.opened is not None:
                gate.concurrency.end(caller)  # first: nothing that may fail comes before it
            if inner is not scope:
                share(inner, scope)
            if listening is not None:
                listening.end()
            # Who sends the same scope through once more has not passed this gate (S66).
            scope[GATE] = passed
            if passage is not None and (
                gate.recording is not None or exchange is not None or passage.is_open
            ):
                passage.conclude()

    async def _within(self, caller: Principal, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that has passed this gate before, on its way to an app within the app."""
        gate = self.gate
        needs = gate.within.needs(
            caller,
            scope.get("method", "GET"),
            scope["path"] or "/",
            scope.get("raw_path"),
            scope.get("root_path", ""),
            scope.get("query_string", b""),
        )
        if isinstance(needs, Refusal):
            caller.refuse(needs)  # which the outer gate answers
        if needs is not ANY_KEY:
            await gate.within.take_async(caller, needs)
        await self.app(scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            # Passed inward it would be a way round the gate (S67).
            raise RuntimeError(f"keyrush does not know the ASGI scope type {scope['type']!r}")
        if self._wrong is not None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(self._wrong)})
            raise self._wrong
        self._begun = self.gate  # its stop is the end of the lifespan
        try:
            await self.app(scope, receive, send)
        finally:
            # Or this is an app without lifespan, and requests are still to come.
            self._begun = None
            await self._flush()

    def _begin(self) -> Gate | None:
        """The gate, at a request that no lifespan event has preceded; None where there is none."""
        if self._gate is None:
            self._gate = self._opening.gate()
        if self._gate is not None:
            when_told_to_stop(self._gate.prepare_to_stop)
            self._begun, self._wrong = self._gate, None
        return self._gate

    async def _flush(self) -> None:
        """Write the counts, now that the app has shut down.

        Without an await where that can be, because servers end the process at the next one.
        """
        gate = self.gate
        if gate.is_store_async:
            await gate.workers.run("io", gate.flush)
        else:
            gate.flush()


async def _finished(
    gate: Gate, pending: Pending | PendingUnknown, scope: Scope, receive: Receive
) -> tuple[Admitted | Refusal | None, Exchange | None, Listening]:
    """The answer to a request that memory alone could not answer: see `come_in`."""

    def address() -> str | None:
        return gate.address(*sender(scope))

    listening = Listening(scope, receive)
    if isinstance(pending, PendingUnknown):
        return await pending.finish_async(address), None, listening
    resource = pending.resource
    if resource is None:
        answer = await listening.while_it_waits(pending.finish_async(address, listening))
        return answer, None, listening
    method = scope.get("method", "GET")
    exchange = Exchange(gate, pending, resource, method, scope["headers"])
    answer, listening = await come_in(exchange, address, scope, receive)
    return answer, exchange, listening


async def _instead(  # noqa: PLR0917  # all that there is of a request
    gate: Gate,
    answer: Refusal | Document | None,
    exchange: Exchange | None,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Answer in the app's stead; with None nobody, because the client has left."""
    if isinstance(answer, Refusal):
        about = asked(gate, scope, exchange.call_id if exchange else None)
        await refuse(scope, receive, send, gate.response(answer, *sender(scope), about))
    elif answer is not None:
        await refuse(scope, receive, send, answer.response)
