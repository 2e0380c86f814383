"""The WSGI middleware (PEP 3333), over the same gate as ASGI and without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from http import HTTPStatus
from types import TracebackType
from typing import Any

from keyrush.core.identity import STORED
from keyrush.core.refusal import Refusal, Refused, refused_in
from keyrush.gate.admission import Pending
from keyrush.gate.gate import GATE, Gate
from keyrush.gate.principal import Caller, Principal
from keyrush.settings.settings import Settings
from keyrush.wire.fields import RATE_LIMIT_FIELDS
from keyrush.wire.interfaces import is_asgi
from keyrush.wire.request import Header
from keyrush.wire.sender import MAX_FORWARDED

Environ = dict[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

#: The variables of a CORS preflight, and their headers.
_PREFLIGHT = (
    ("HTTP_ORIGIN", b"origin"),
    ("HTTP_ACCESS_CONTROL_REQUEST_METHOD", b"access-control-request-method"),
)


_ASGI_ADVICE = "use KeyrushMiddleware from keyrush for ASGI apps, a WSGI server for WSGI apps"


class KeyrushMiddleware:
    """Puts a gate in front of a WSGI app.

    Configured by `KEYRUSH_*`, by `settings`, or by a `gate` that you made and share. The app
    finds the `Principal` in `environ["keyrush.principal"]`.

    Raises:
        ConfigurationError: A setting is wrong.
        TypeError: The app is one of ASGI.
    """

    def __init__(
        self, app: App, settings: Settings | None = None, *, gate: Gate | None = None
    ) -> None:
        if is_asgi(app):
            raise TypeError(f"{type(app).__name__} is an ASGI app: {_ASGI_ADVICE}")
        self.app = app
        self.gate = Gate.chosen(settings, gate)
        names = self.gate.credential_headers.names
        self._credentials = tuple((_variable(name), name) for name in names)
        self._most = self.gate.credential_headers.longest + 1

    def __call__(
        self, environ: Environ, start_response: StartResponse | None = None, *more: object
    ) -> Iterable[bytes]:
        if start_response is None or more:
            raise TypeError(f"called by an ASGI server, as WSGI has it not: {_ASGI_ADVICE}")
        gate = self.gate
        passed = environ.get(GATE)
        if passed is not None and passed.is_same(gate):
            caller = environ["keyrush.caller"]
            if caller.is_authenticated:
                return self._within(caller, environ, start_response)
        environ[GATE] = gate
        environ["keyrush.principal"] = None
        # The key is known in there, and not here, where the app runs.
        answer = gate.admission.begin(
            environ["REQUEST_METHOD"],
            _path(environ, "PATH_INFO") or "/",
            _raw_path(environ),
            _path(environ, "SCRIPT_NAME"),
            self._headers(environ),
            environ.get("QUERY_STRING", "").encode("latin-1"),
        )
        if isinstance(answer, Pending):
            answer = answer.finish(lambda: gate.address(*_sender(environ)))
        if isinstance(answer, Refusal):
            return self.refuse(environ, start_response, answer)
        caller, headers = answer
        environ["keyrush.caller"] = caller
        environ["keyrush.principal"] = caller if caller.is_authenticated else None
        if gate.hides_credentials:
            for variable, _ in self._credentials:
                environ.pop(variable, None)
        return _Passage(self, environ, start_response, caller, headers)

    def _headers(self, environ: Environ) -> list[Header]:
        """The request headers that the gate looks at."""
        wanted, most = self._credentials, self._most
        if environ["REQUEST_METHOD"] == "OPTIONS":
            wanted += _PREFLIGHT
        return [
            (name, environ[variable][:most].encode("latin-1"))  # enough to see it is long
            for variable, name in wanted
            if variable in environ
        ]

    def _within(
        self, caller: Principal, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """A request that has passed this gate before, on its way to an app within the app."""
        refusal, credits = self.gate.admission.within(
            caller,
            environ["REQUEST_METHOD"],
            _path(environ, "PATH_INFO") or "/",
            _raw_path(environ),
            _path(environ, "SCRIPT_NAME"),
            environ.get("QUERY_STRING", "").encode("latin-1"),
        )
        if refusal is not None:
            caller.refuse(refusal)  # which the outer gate answers
        if credits:
            caller.charge(credits)
        return self.app(environ, start_response)

    def refuse(
        self,
        environ: Environ,
        start_response: StartResponse,
        refusal: Refusal,
        exc_info: ExcInfo | None = None,
    ) -> list[bytes]:
        """Start and return the response that says `refusal`."""
        status, headers, body = self.gate.response(refusal, *_sender(environ))
        exc = () if exc_info is None else (exc_info,)
        start_response(f"{status} {HTTPStatus(status).phrase}", _native(headers), *exc)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]


class _Passage:
    """The response of the app on its way out: decorated, or refused after all.

    Iterated by the server one item at a time; nothing is read ahead (S72). From its second item
    on it is a `connections.Connection`.
    """

    def __init__(
        self,
        middleware: KeyrushMiddleware,
        environ: Environ,
        start_response: StartResponse,
        caller: Caller,
        headers: list[Header],
    ) -> None:
        self._middleware = middleware
        self._environ = environ
        self._start_response = start_response
        self._caller = caller
        self._headers = _native(headers)
        self._called = False  # the app has called start_response
        self._status = 0
        self._sent = False  # and what it said is on its way, beyond recall
        self._is_over = False  # the app has said all, or failed
        self._is_open = False
        self._is_ended = False  # by the gate, because the key has ended
        self._has_left = False  # the client
        self._refused: list[bytes] | None = None
        self._inner: Iterable[bytes] = ()
        self._items: Iterator[bytes] = iter(())
        try:
            self._inner = middleware.app(environ, self._start)
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
                self._is_over = True
                if not self._called:  # it has not answered at all
                    self._middleware.gate.charging.uncharge(self._caller)
                raise
            except BaseException as error:
                self._failed(error)
            else:
                if self._refused is None:
                    if self._sent and not self._is_open:
                        self._open()
                    self._sent = self._sent or bool(item)
                    return item
        if self._refused:
            return self._refused.pop()
        raise StopIteration

    def close(self) -> None:
        """Close the app's iterable, as the server would (S72).

        Credits are kept where the client has broken an answer off.
        """
        if self._is_open:
            self._middleware.gate.connections.remove(self)
        if not self._is_over and not self._called:
            self._middleware.gate.charging.uncharge(self._caller)
        if close := getattr(self._inner, "close", None):
            close()

    def _start(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Write:
        """The app's `start_response`; may be called again, with `exc_info` (S73, S75)."""
        gate, caller, code = self._middleware.gate, self._caller, int(status[:3])
        if lost := caller.lost_refusal(code):
            self._answer(lost, exc_info)
            return _discard
        self._called = True
        if code >= HTTPStatus.MULTIPLE_CHOICES:
            gate.charging.uncharge(caller)
        exc = () if exc_info is None else (exc_info,)
        if len(self._headers) > 1:  # of the rate-limit fields one set, the outermost gate's (S69)
            headers = [h for h in headers if not h[0].lower().startswith(RATE_LIMIT_FIELDS)]
        write = self._start_response(status, [*headers, *self._headers], *exc)

        def writing(data: bytes) -> None:
            if self._is_ended:
                raise OSError("the key has ended, and the connection with it")
            if self._sent and not self._is_open:
                self._open()
            self._sent = True
            try:
                write(data)
            except OSError:
                self._has_left = True
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
            self._middleware.gate.connections.add(self)

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
            if not (self._called and (self._has_left or self._is_ended)):
                self._middleware.gate.charging.uncharge(self._caller)
            raise error
        if self._refused is None:
            exc_info = (Refused, refused, refused.__traceback__) if self._called else None
            self._answer(refused.refusal, exc_info)

    def _answer(self, refusal: Refusal, exc_info: ExcInfo | None) -> None:
        middleware = self._middleware
        refusal = middleware.gate.deciding.refuse(self._caller, refusal)
        self._refused = middleware.refuse(self._environ, self._start_response, refusal, exc_info)


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


def _variable(name: bytes) -> str:
    """The variable of the environ that holds a request header."""
    return "HTTP_" + name.decode("ascii").upper().replace("-", "_")


def _path(environ: Environ, variable: str) -> str:
    """A path, decoded from what PEP 3333 makes of it."""
    path: str = environ.get(variable, "")
    return path.encode("latin-1").decode("utf-8", "replace")


def _raw_path(environ: Environ) -> bytes | None:
    """The path as it was sent, where the server tells."""
    raw = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    return raw.partition("?")[0].encode("latin-1") if raw else None


def _sender(environ: Environ) -> tuple[str | None, list[bytes]]:
    """Who is at the other end, and for whom they say they ask."""
    forwarded: str = environ.get("HTTP_X_FORWARDED_FOR", "")
    return environ.get("REMOTE_ADDR"), [forwarded[-MAX_FORWARDED:].encode("latin-1")]
