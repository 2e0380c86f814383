"""The response of the app on its way out: decorated, or refused after all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from http import HTTPStatus

from keyrush.core.identity import STORED
from keyrush.core.refusal import Refusal, Refused, refused_in
from keyrush.gate.exchange import Exchange
from keyrush.gate.gate import Gate
from keyrush.gate.principal import INTERNAL_SERVER_ERROR, Caller, Principal
from keyrush.usage.activity import Recording
from keyrush.wire.fields import RATE_LIMIT_FIELDS
from keyrush.wire.refusals import Response
from keyrush.wire.request import Header
from keyrush.wire.sender import has_left
from keyrush.wsgi.calls import Watch
from keyrush.wsgi.environ import App, Environ, ExcInfo, StartResponse, Write, path_of, sender


class Passage:
    """The response of the app on its way out: decorated, or refused after all.

    Iterated by the server one item at a time; nothing is read ahead (S72). From its second item
    on it is a `connections.Connection`.
    """

    # What most responses never change stands here: to set it for each would cost.
    _refusal: Refusal | None = None  # which the answer says, in the app's stead
    _has_raised = False  # the app, anything but a refusal that is answered
    _is_recorded = False
    _outcomes: Watch | None = None
    _called = False  # the app has called start_response
    _status = 0
    _sent = False  # and what it said is on its way, beyond recall
    _is_over = False  # the app has said all, or failed
    _is_open = False
    _is_ended = False  # by the gate, because the key has ended
    _has_left = False  # the client
    _refused: list[bytes] | None = None
    _inner: Iterable[bytes] = ()
    _items: Iterator[bytes] = iter(())

    def __init__(  # noqa: PLR0917  # what there is of a request
        self,
        gate: Gate,
        app: App,
        environ: Environ,
        start_response: StartResponse,
        caller: Caller,
        headers: list[Header],
        exchange: Exchange | None = None,
    ) -> None:
        self._gate = gate
        self._exchange = exchange
        self._environ = environ
        self._start_response = start_response
        self._caller = caller
        self._headers = headers
        try:
            self._inner = app(environ, self._start)
            self._items = iter(self._inner)
        except BaseException as error:
            try:
                self._failed(error)
            except BaseException:
                self.close()  # the server gets nothing that it could close
                raise

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._refused is None:
            try:
                item = next(self._items)
            except StopIteration:
                self._end()
                if not self._called:  # it has not answered at all
                    self._uncharge()
                raise
            except BaseException as error:
                self._failed(error)
            else:
                if self._refused is None:
                    self._pass(item)
                    return item
        if self._refused:
            return self._refused.pop()
        raise StopIteration

    def _pass(self, item: bytes) -> None:
        """Look at an item that is on its way."""
        if self._sent and not self._is_open:
            self._open()
        if item:
            self._sent = True
        if self._outcomes is not None:
            self._outcomes.feed(item)

    def _end(self) -> None:
        """The app has said all."""
        self._is_over = True
        if self._outcomes is not None:
            self._outcomes.end()

    def _uncharge(self) -> None:
        """Give back what was charged, unless the client itself has ended the call."""
        if self._exchange is None or not self._exchange.is_given_up:
            self._gate.charging.uncharge(self._caller)

    def close(self) -> None:
        """Close the app's iterable, as the server would (S72).

        Credits are kept where the client has broken an answer off.
        """
        try:
            self._close()
        finally:
            gate = self._gate
            if gate.concurrency.opened is not None:
                gate.concurrency.end(self._caller)

    def _close(self) -> None:
        if self._is_open:
            self._gate.connections.remove(self)
        if not self._is_over and not self._called:
            self._uncharge()
        if self._exchange is not None:
            is_known = self._outcomes is None or self._outcomes.are_known
            is_over = self._refused is not None or (self._is_over and is_known)
            self._exchange.end(is_answered=is_over)
        try:
            if close := getattr(self._inner, "close", None):
                close()
        finally:
            recording = self._gate.recording
            if recording is not None and not self._is_recorded:
                self._is_recorded = True
                if isinstance(self._caller, Principal):
                    self._record(recording, self._caller)

    def _record(self, recording: Recording, caller: Principal) -> None:
        """Record the request, of which all is over."""
        status = self._status
        has_left = self._has_left or self._is_ended
        if self._has_raised and not self._sent:
            status = INTERNAL_SERVER_ERROR  # as the server says
        is_broken = not self._called or (self._has_raised and not has_left)
        refusal, charges = self._refusal, caller.charges
        if self._exchange is not None:
            if (called := self._exchange.called) is not None:
                called.record(recording, caller, charges, status, refusal, is_broken)
        elif caller.came is not None:
            credits = caller.charged if charges else 0
            would_limit = caller.would_limit
            recording.add(caller.came, status, refusal, credits, is_broken, would_limit)

    def _start(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Write:
        """The app's `start_response`; may be called again, with `exc_info` (S73, S75)."""
        caller, code = self._caller, int(status[:3])
        if caller.refusal is not None and (lost := caller.lost_refusal(code)):
            self._answer(lost, exc_info)
            return _discard
        self._called = True
        self._status = code
        self._outcomes = None
        if code >= HTTPStatus.MULTIPLE_CHOICES:
            self._uncharge()
        elif self._exchange is not None:
            self._outcomes = Watch.of(self._exchange, caller, headers)
        exc = () if exc_info is None else (exc_info,)
        if len(self._headers) > 1:  # of the rate-limit fields one set, the outermost gate's (S69)
            headers = [
                header
                for header in headers
                if header[0][:1] not in "XxRr"
                or not header[0].lower().startswith(RATE_LIMIT_FIELDS)
            ]
        write = self._start_response(status, [*headers, *_native(self._headers)], *exc)

        def writing(data: bytes) -> None:
            if self._is_ended:
                raise OSError("the key has ended, and the connection with it")
            if self._sent and not self._is_open:
                self._open()
            self._sent = True
            if self._outcomes is not None:
                self._outcomes.feed(data)
            try:
                write(data)
            except Exception as error:
                self._has_left = has_left(error)
                raise

        return writing

    # --- as a connection that may outlive its key ---

    def _open(self) -> None:
        self._is_open = True
        caller = self._caller
        if isinstance(caller, Principal):
            known = caller.verified
            self.key_id = known.key_id if known.source in STORED else None
            self.session = known.session
            self.account_id = known.account_id
            self.ends_at = known.expires_at
            self._gate.connections.add(self)

    def end(self) -> None:
        """See `connections.Connection`. An item that is being made is still sent."""
        self._is_ended = True
        self._items = iter(())

    def _failed(self, error: BaseException) -> None:
        """Refuse where the app raised `Refused` before its first byte; raise any other error.

        Either way what the request was charged is given back.
        """
        self._is_over = True
        refused = refused_in(error)
        if self._sent or refused is None:
            self._has_raised = True
            if not (self._called and (self._has_left or self._is_ended)):
                self._uncharge()
            raise error
        if self._refused is None:
            exc_info = (Refused, refused, refused.__traceback__) if self._called else None
            self._answer(refused.refusal, exc_info)

    def _answer(self, refusal: Refusal, exc_info: ExcInfo | None) -> None:
        gate, exchange = self._gate, self._exchange
        self._refusal = refusal = gate.deciding.refuse(self._caller, refusal)
        self._outcomes = None
        call_id = exchange.call_id if exchange else None
        self._refused = refuse(
            gate, self._environ, self._start_response, refusal, exc_info, call_id=call_id
        )


def _discard(_: bytes) -> None:
    """The `write` of a response that is replaced."""


def _native(headers: list[Header]) -> list[tuple[str, str]]:
    """Headers as PEP 3333 wants them: a list of native strings (S74)."""
    return [(_spelled(name), value.decode("latin-1")) for name, value in headers]


@cache
def _spelled(name: bytes) -> str:
    """A header name as it is documented: `X-RateLimit-Limit`, `WWW-Authenticate`."""
    title = name.decode("latin-1").title()
    return title.replace("Ratelimit", "RateLimit").replace("Www-", "WWW-")


def refuse(
    gate: Gate,
    environ: Environ,
    start_response: StartResponse,
    refusal: Refusal,
    exc_info: ExcInfo | None = None,
    *,
    call_id: str | int | None = None,
) -> list[bytes]:
    """Start and return the response that says `refusal`; `call_id` is that of the request to a
    resource, where it is known.
    """
    method = environ["REQUEST_METHOD"]
    path, root = path_of(environ, "PATH_INFO") or "/", path_of(environ, "SCRIPT_NAME")
    asked = gate.asked(method, path, root, call_id)
    return respond(
        environ, start_response, gate.response(refusal, *sender(environ), asked), exc_info
    )


def respond(
    environ: Environ,
    start_response: StartResponse,
    response: Response,
    exc_info: ExcInfo | None = None,
) -> list[bytes]:
    """Start and return a whole response."""
    status, headers, body = response
    exc = () if exc_info is None else (exc_info,)
    start_response(f"{status} {HTTPStatus(status).phrase}", _native(headers), *exc)
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]
