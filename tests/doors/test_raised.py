"""Refusals raised in handlers of frameworks are answers: nothing is logged, mailed, signalled."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import flask
import pytest
import quart

from keyrush import Gate, KeyrushMiddleware, wsgi
from keyrush.flask import init_app
from tests.conftest import Clock
from tests.support.calls import Sent, environ_of, scope_of, wsgi_call
from tests.support.scripts import run

TEXT = "The API key lacks the scope write:articles."


@pytest.fixture
def key(gate: Gate) -> str:
    """A key of acct_a, which has 5 credits, that may read."""
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 5)
    return gate.keys.create("acct_a", "k", scopes=["read:articles"]).text


def flask_app(signalled: list[object]) -> flask.Flask:
    app = flask.Flask(__name__)

    @app.get("/refused")
    def refused() -> str:
        caller = flask.request.environ["keyrush.principal"]
        caller.charge(3)
        caller.require_scope("write:articles")
        return "never"

    @app.get("/broken")
    def broken() -> str:
        raise ZeroDivisionError

    flask.got_request_exception.connect(lambda *_, **__: signalled.append(1), app, weak=False)
    init_app(app)
    return app


def test_flask(gate: Gate, key: str, caplog: pytest.LogCaptureFixture) -> None:
    """R8: in Flask a refusal is the documented answer, gives back, and is no error to anybody."""
    signalled: list[object] = []
    app = flask_app(signalled)
    app.wsgi_app = wsgi.KeyrushMiddleware(app.wsgi_app, gate=gate)  # type: ignore[method-assign]  # as Flask says to
    reply = wsgi_call(app, environ_of(Sent("/refused", [("X-API-Key", key)])))
    assert (reply.status, reply.json["error"]) == (403, TEXT)
    assert reply["x-ratelimit-remaining"] == "100"
    assert gate.accounts.get("acct_a").balance == 5
    assert not signalled
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert wsgi_call(app, environ_of(Sent("/broken", [("X-API-Key", key)]))).status == 500
    assert signalled


def test_quart(gate: Gate, key: str, caplog: pytest.LogCaptureFixture) -> None:
    """R8: in Quart as in Flask."""
    app = quart.Quart(__name__)

    @app.get("/refused")
    async def refused() -> str:
        caller = quart.request.scope["keyrush"]  # type: ignore[typeddict-item]  # the gate's
        await caller.charge_async(3)
        caller.require_scope("write:articles")
        return "never"

    init_app(app)

    async def send() -> Any:
        scope = scope_of(Sent("/refused", [("X-API-Key", key)]))
        waiting = asyncio.Event()

        async def receive() -> Any:
            if not waiting.is_set():
                waiting.set()
                return {"type": "http.request", "body": b"", "more_body": False}
            return await asyncio.Event().wait()

        sent: list[Any] = []

        async def take(message: Any) -> None:
            sent.append(message)

        inner: Any = app
        await KeyrushMiddleware(inner, gate=gate)(scope, receive, take)
        return sent

    start, body = asyncio.run(send())
    assert start["status"] == 403
    assert TEXT.encode() in body["body"]
    assert gate.accounts.get("acct_a").balance == 5
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


DJANGO = """
    import asyncio, logging, sys
    from django.conf import settings
    from django.core import mail
    from django.core.signals import got_request_exception

    settings.configure(
        ROOT_URLCONF=__name__, SECRET_KEY="s" * 50, ALLOWED_HOSTS=["*"], DEBUG=False,
        ADMINS=[("a", "a@example.org")],
        EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend",
        MIDDLEWARE=["keyrush.django.RefusalMiddleware"],
        REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
    )
    import django
    django.setup()
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path
    from keyrush import Gate, KeyrushMiddleware, Refusal, Settings, wsgi
    from rest_framework.views import APIView
    from tests.support.calls import Sent, asgi_call, environ_of, scope_of, wsgi_call

    def of(request):
        return getattr(request, "scope", None) and request.scope["keyrush"] or \\
            request.META["keyrush.principal"]

    def refused(request):
        of(request).require_scope("write:articles")

    def disguised(request):
        try:
            refused(request)
        except Exception as error:
            raise ValueError("no") from error

    async def awaited(request):
        refused(request)

    def away(request):
        of(request).refuse(Refusal("unavailable", retry_after=1))

    class Rest(APIView):
        authentication_classes = permission_classes = ()

        def get(self, request, what):
            return VIEWS[what](request._request)

    def broken(request):
        raise ZeroDivisionError

    VIEWS = {f.__name__: f for f in (refused, disguised, awaited, away, broken)}
    urlpatterns = [path(name, view) for name, view in VIEWS.items()]
    urlpatterns.append(path("rest/<what>", Rest.as_view()))
    signalled, records = [], []
    got_request_exception.connect(lambda **_: signalled.append(1), weak=False)

    class Handler(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    logging.getLogger().addHandler(Handler(logging.WARNING))
    gate = Gate.open(Settings(store_url="memory://", argon2_memory_cost=8, argon2_time_cost=1))
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k", scopes=["read:articles"]).text

    async def by_asgi(sent):
        received = iter([{"type": "http.request", "body": b"", "more_body": False}])
        messages = []
        async def receive():
            for message in received:
                return message
            await asyncio.Event().wait()
        async def send(message):
            messages.append(message)
        await KeyrushMiddleware(get_asgi_application(), gate=gate)(scope_of(sent), receive, send)
        return messages[0]["status"]

    for name in ("refused", "disguised", "awaited", "rest/refused", "rest/disguised", "away",
                 "rest/away", "rest/broken", "broken"):
        sent = Sent(f"/{name}", [("X-API-Key", key)])
        app = wsgi.KeyrushMiddleware(get_wsgi_application(), gate=gate)
        print(name, wsgi_call(app, environ_of(sent)).status, asyncio.run(by_asgi(sent)),
              bool(signalled), bool(records), bool(getattr(mail, "outbox", ())))
    gate.close()
    """


def test_django() -> None:
    """R8, S19: in Django a refusal is the documented answer, on WSGI and ASGI, raised from or not,
    in plain and async views and in those of Django REST framework; nothing is logged, mailed or
    signalled but for what is a fault.
    """
    lines = run(DJANGO).splitlines()
    refused = ["refused", "disguised", "awaited", "rest/refused", "rest/disguised"]
    assert lines[:5] == [f"{name} 403 403 False False False" for name in refused]
    assert lines[5:7] == [f"{name} 503 503 False False False" for name in ("away", "rest/away")]
    assert [line.split()[:5] for line in lines[7:]] == [
        [name, "500", "500", "True", "True"] for name in ("rest/broken", "broken")
    ]


def test_without_a_gate(clock: Clock) -> None:
    """Without the gate in front there is nobody to answer: the refusal is the app's own error."""
    app = flask.Flask(__name__)
    init_app(app)

    @app.get("/")
    def refused() -> str:
        from keyrush import Refusal, Refused  # noqa: PLC0415  # here alone

        raise Refused(Refusal("not_found"))

    assert app.test_client().get("/").status_code == 500
