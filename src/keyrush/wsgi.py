"""The WSGI middleware (PEP 3333), over the same gate as ASGI and without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from http import HTTPStatus
from types import TracebackType
from typing import Any

from keyrush import http
from keyrush.errors import Refused
from keyrush.gate import GATE, Gate
from keyrush.http import Header
from keyrush.model import Refusal
from keyrush.principal import Anonymous, Caller
from keyrush.settings import Settings

Environ = dict[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

_CREDENTIALS = (
    ("HTTP_AUTHORIZATION", b"authorization"),
    ("HTTP_X_API_KEY", b"x-api-key"),
)


class KeyrushMiddleware:
    """Puts a gate in front of a WSGI app.

    Configured by `KEYRUSH_*`, by `settings`, or by a `gate` that you made and share. The app
    finds the `Principal` in `environ["keyrush.principal"]`.

    Raises:
        ConfigurationError: A setting is wrong.
    """

    def __init__(
        self, app: App, settings: Settings | None = None, *, gate: Gate | None = None
    ) -> None:
        self.app = app
        self.gate = Gate.chosen(settings, gate)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        gate = self.gate
        passed = environ.get(GATE)
        if passed is not None and passed.is_same(gate):
            return self.app(environ, start_response)
        environ[GATE] = gate
        environ["keyrush.principal"] = None
        method = environ["REQUEST_METHOD"]
        path = _path(environ)
        if gate.policy.is_public(method, path, _raw_path(environ)) or _is_preflight(environ):
            return _Passage(self, environ, start_response, Anonymous(), [])

        credential = http.credential(
            (name, environ[variable].encode("latin-1"))
            for variable, name in _CREDENTIALS
            if variable in environ
        )
        if isinstance(credential, Refusal):
            return self.refuse(environ, start_response, credential)
        query = environ.get("QUERY_STRING", "").encode("latin-1")
        rule = gate.policy.rule(method, path)
        admission = gate.admission
        answer = admission.warm(credential, rule, query) or admission.cold(credential, rule, query)
        if isinstance(answer, Refusal):
            return self.refuse(environ, start_response, answer)
        principal, headers = answer
        environ["keyrush.principal"] = principal
        return _Passage(self, environ, start_response, principal, headers)

    def refuse(
        self,
        environ: Environ,
        start_response: StartResponse,
        refusal: Refusal,
        exc_info: ExcInfo | None = None,
    ) -> list[bytes]:
        """Start and return the response that says `refusal`."""
        hops = [environ.get("HTTP_X_FORWARDED_FOR", "")]
        self.gate.log_refusal(refusal, environ.get("REMOTE_ADDR"), hops)
        status, headers, body = self.gate.refusals.response(refusal)
        exc = () if exc_info is None else (exc_info,)
        start_response(f"{status} {HTTPStatus(status).phrase}", _native(headers), *exc)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]


class _Passage:
    """The response of the app on its way out: decorated, or refused after all.

    Iterated by the server one item at a time; nothing is read ahead (S72).
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
        self._sent = False  # and what it said is on its way, beyond recall
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
                raise
            except BaseException as error:
                self._failed(error)
            else:
                if self._refused is None:
                    self._sent = self._sent or bool(item)
                    return item
        if self._refused:
            return self._refused.pop()
        raise StopIteration

    def close(self) -> None:
        """Close the app's iterable, as the server would (S72)."""
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
        if code >= HTTPStatus.BAD_REQUEST:
            gate.credits.uncharge(caller)
        exc = () if exc_info is None else (exc_info,)
        write = self._start_response(status, [*headers, *self._headers], *exc)

        def writing(data: bytes) -> None:
            self._sent = True
            write(data)

        return writing

    def _failed(self, error: BaseException) -> None:
        """Refuse where the app raised `Refused` before its first byte; raise any other error.

        Either way what the request was charged is given back.
        """
        if self._sent:
            raise error
        if not isinstance(error, Refused):
            self._middleware.gate.credits.uncharge(self._caller)
            raise error
        if self._refused is None:
            exc_info = (Refused, error, error.__traceback__) if self._called else None
            self._answer(error.refusal, exc_info)

    def _answer(self, refusal: Refusal, exc_info: ExcInfo | None) -> None:
        middleware = self._middleware
        refusal = middleware.gate.admission.refuse(self._caller, refusal)
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


def _path(environ: Environ) -> str:
    """The path within the app, decoded from what PEP 3333 makes of it."""
    path: str = environ.get("PATH_INFO", "")
    return path.encode("latin-1").decode("utf-8", "replace") or "/"


def _raw_path(environ: Environ) -> bytes | None:
    """The path as it was sent, where the server tells."""
    raw = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    return raw.partition("?")[0].encode("latin-1") if raw else None


def _is_preflight(environ: Environ) -> bool:
    """A CORS preflight carries no credentials, so it passes, uncharged (S76)."""
    return (
        environ["REQUEST_METHOD"] == "OPTIONS"
        and "HTTP_ORIGIN" in environ
        and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
    )
