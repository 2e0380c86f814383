"""The middleware: the way of a request to the app."""

from __future__ import annotations

from collections.abc import Iterable

from keyrush.core.policy import ANY_KEY
from keyrush.core.refusal import Refusal
from keyrush.gate.anonymous import PendingUnknown
from keyrush.gate.deciding import Admitted
from keyrush.gate.exchange import Exchange
from keyrush.gate.finishing import Pending
from keyrush.gate.gate import GATE, Gate
from keyrush.gate.principal import Principal
from keyrush.settings.settings import Settings
from keyrush.wire.interfaces import is_asgi
from keyrush.wire.request import (
    CUTS,
    FORWARDED_FOR,
    REQUEST_ID,
    USER_AGENT,
    Header,
    Noted,
)
from keyrush.wire.resource_metadata import Document
from keyrush.wsgi.calls import ACCEPT_ENCODING, come_in
from keyrush.wsgi.environ import (
    App,
    Environ,
    StartResponse,
    headers_of,
    path_of,
    raw_path,
    sender,
    variable_of,
)
from keyrush.wsgi.response import Passage, refuse, respond

#: The variables of a CORS preflight, and their headers.
_PREFLIGHT = (
    ("HTTP_ORIGIN", b"origin"),
    ("HTTP_ACCESS_CONTROL_REQUEST_METHOD", b"access-control-request-method"),
)


_ASGI_ADVICE = "use KeyrushMiddleware from keyrush for ASGI apps, a WSGI server for WSGI apps"


class KeyrushMiddleware:
    """Puts a gate in front of a WSGI app.

    Configured by `KEYRUSH_*`, by `settings`, or by a `gate` that you have opened. The app
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
        self._credentials = tuple((variable_of(name), name) for name in names)
        most = slice(self.gate.credential_headers.longest + 1)  # enough to see it is long
        #: The variables that the gate looks at, their headers, and how much of each.
        self._wanted = tuple((*one, most) for one in self._credentials)
        noted = self.gate.credential_headers.noted
        self._agent, self._id, self._forwarded = (
            variable_of(name) if name in noted else ""
            for name in (USER_AGENT, REQUEST_ID, FORWARDED_FOR)
        )
        self._preflight = tuple((*one, most) for one in _PREFLIGHT)

    def __call__(  # noqa: C901  # one straight line, read from top to bottom
        self, environ: Environ, start_response: StartResponse | None = None, *more: object
    ) -> Iterable[bytes]:
        if start_response is None or more:
            raise TypeError(f"called by an ASGI server, as WSGI has it not: {_ASGI_ADVICE}")
        gate = self.gate
        passed, before = environ.get(GATE), None
        if passed is not None and passed.is_same(gate):
            before = environ["keyrush.caller"]
            if before.is_authenticated:
                return self._within(before, environ, start_response)
        environ[GATE] = gate
        environ["keyrush.principal"] = None
        # The key is known in there, and not here, where the app runs.
        answer = gate.admission.begin(
            environ["REQUEST_METHOD"],
            path_of(environ, "PATH_INFO") or "/",
            raw_path(environ),
            path_of(environ, "SCRIPT_NAME"),
            self._headers(environ),
            environ.get("QUERY_STRING", "").encode("latin-1"),
            environ.get("REMOTE_ADDR"),
            self._noted(environ),
            before,
        )
        exchange = None  # with a resource
        if not isinstance(answer, tuple):  # which what is admitted is
            if isinstance(answer, Pending | PendingUnknown):
                answer, exchange = self._finished(answer, environ)
            if isinstance(answer, Document):
                return respond(environ, start_response, answer.response)
            if isinstance(answer, Refusal):
                call_id = exchange.call_id if exchange else None
                return refuse(gate, environ, start_response, answer, call_id=call_id)
        caller, added = answer
        environ["keyrush.caller"] = caller
        environ["keyrush.principal"] = caller if caller.is_authenticated else None
        if gate.hides_credentials or exchange is not None:
            # What was sent to get in to a resource is for nobody further on (S61).
            for variable, _ in self._credentials:
                environ.pop(variable, None)
        if exchange is not None:
            environ.pop(ACCEPT_ENCODING, None)
        return Passage(gate, self.app, environ, start_response, caller, added, exchange)

    def _finished(
        self, pending: Pending | PendingUnknown, environ: Environ
    ) -> tuple[Admitted | Refusal, Exchange | None]:
        """The answer to a request that memory alone could not answer."""
        gate = self.gate

        def address() -> str | None:
            return gate.address(*sender(environ))

        resource = None if isinstance(pending, PendingUnknown) else pending.resource
        if isinstance(pending, PendingUnknown) or resource is None:
            return pending.finish(address), None
        method, headers = environ["REQUEST_METHOD"], headers_of(environ)
        exchange = Exchange(gate, pending, resource, method, headers)
        return come_in(exchange, address, environ), exchange

    def _headers(self, environ: Environ) -> list[Header]:
        """The request headers that the gate looks at."""
        wanted = self._wanted
        if environ["REQUEST_METHOD"] == "OPTIONS":
            wanted += self._preflight
        return [
            (name, environ[variable][cut].encode("latin-1"))
            for variable, name, cut in wanted
            if variable in environ
        ]

    def _noted(self, environ: Environ) -> Noted:
        """What is noted of the request headers beside those."""
        get, (of_agent, of_id, of_forwarded) = environ.get, CUTS
        agent, request_id, forwarded = get(self._agent), get(self._id), get(self._forwarded)
        return (
            None if agent is None else agent[of_agent].encode("latin-1"),
            None if request_id is None else request_id[of_id].encode("latin-1"),
            None if forwarded is None else forwarded[of_forwarded].encode("latin-1"),
        )

    def _within(
        self, caller: Principal, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """A request that has passed this gate before, on its way to an app within the app."""
        needs = self.gate.within.needs(
            caller,
            environ["REQUEST_METHOD"],
            path_of(environ, "PATH_INFO") or "/",
            raw_path(environ),
            path_of(environ, "SCRIPT_NAME"),
            environ.get("QUERY_STRING", "").encode("latin-1"),
        )
        if isinstance(needs, Refusal):
            caller.refuse(needs)  # which the outer gate answers
        if needs is not ANY_KEY:
            self.gate.within.take(caller, needs)
        return self.app(environ, start_response)
