"""An app of the other protocol is found out, with what to use, and no app is taken for one."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import flask
import httpx2
import litestar
import pytest
import quart
from a2wsgi import ASGIMiddleware, WSGIMiddleware
from asgiref.wsgi import WsgiToAsgi
from django.conf import settings as django_settings  # type: ignore[import-untyped]  # Django has no types
from django.core.handlers.asgi import ASGIHandler  # type: ignore[import-untyped]  # Django has no types
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]  # Django has no types
from fastapi import FastAPI
from starlette.applications import Starlette

from keyrush import Gate
from keyrush import asgi as over_asgi
from keyrush import wsgi as over_wsgi
from tests.support.running import CHEAP_ENVIRONMENT
from tests.support.serving import serve_process


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """A plain function of ASGI."""


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    """A plain function of WSGI."""
    start_response("200 OK", [])
    return []


async def any_number(*arguments: Any) -> None:
    """What a decorator may make of either."""


def optional(first: Any, second: Any, third: Any = None) -> list[bytes]:
    """What could be either."""
    return []


class Method:
    """An app that is an object."""

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return wsgi(environ, start_response)


def django(handler: Any) -> Any:
    """An app of Django's, without what making one loads."""
    if not django_settings.configured:
        django_settings.configure()
    return handler.__new__(handler)


ASGI = [
    asgi,
    functools.partial(asgi),
    Starlette(),
    FastAPI(),
    litestar.Litestar(),
    quart.Quart("q"),
    django(ASGIHandler),
    WsgiToAsgi(wsgi),  # type: ignore[no-untyped-call]  # it has no types
    WSGIMiddleware(wsgi),
]
WSGI = [
    wsgi,
    functools.partial(wsgi),
    Method(),
    flask.Flask("f"),
    flask.Flask("f").wsgi_app,
    django(WSGIHandler),
    ASGIMiddleware(Starlette()),  # type: ignore[arg-type]  # its types are stricter
]
EITHER = [any_number, optional, print]


def named(app: Any) -> str:
    """What an app is called in the list of tests: the same in each run."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(app))


@pytest.mark.parametrize("app", WSGI + EITHER, ids=named)
def test_apps_of_wsgi(gate: Gate, app: Any) -> None:
    """The ASGI class refuses an app that is surely one of WSGI, and says what to use."""
    over_wsgi.KeyrushMiddleware(app, gate=gate)
    if app in EITHER:
        over_asgi.KeyrushMiddleware(app, gate=gate)
    else:
        with pytest.raises(TypeError, match=r"is a WSGI app: use KeyrushMiddleware from keyrush\."):
            over_asgi.KeyrushMiddleware(app, gate=gate)


@pytest.mark.parametrize("app", ASGI + EITHER, ids=named)
def test_apps_of_asgi(gate: Gate, app: Any) -> None:
    """The WSGI class refuses an app that is surely one of ASGI, and says what to use."""
    over_asgi.KeyrushMiddleware(app, gate=gate)
    if app in EITHER:
        over_wsgi.KeyrushMiddleware(app, gate=gate)
    else:
        with pytest.raises(TypeError, match="is an ASGI app: use KeyrushMiddleware from keyrush "):
            over_wsgi.KeyrushMiddleware(app, gate=gate)


def test_each_around_itself(gate: Gate) -> None:
    """One gate around another of its kind is no mistake; of the other kind it is."""
    inner_asgi, inner_wsgi = (
        over_asgi.KeyrushMiddleware(asgi, gate=gate),
        over_wsgi.KeyrushMiddleware(wsgi, gate=gate),
    )
    over_asgi.KeyrushMiddleware(inner_asgi, gate=gate)
    over_wsgi.KeyrushMiddleware(inner_wsgi, gate=gate)
    with pytest.raises(TypeError, match="is an ASGI app"):
        over_wsgi.KeyrushMiddleware(inner_asgi, gate=gate)  # type: ignore[arg-type]  # the mistake


def test_wsgi_class_under_an_asgi_server(tmp_path: Path) -> None:
    """The WSGI class called by an ASGI server says what to use, in the server's log."""
    (tmp_path / "app.py").write_text(
        "import flask\nfrom keyrush.wsgi import KeyrushMiddleware\n"
        'app = KeyrushMiddleware(flask.Flask("f").wsgi_app)\n'
    )
    with serve_process("app:app", folder=tmp_path, env=CHEAP_ENVIRONMENT) as server:
        assert httpx2.get(server.url).status_code == 500
    assert any("TypeError: called by an ASGI server" in line for line in server.lines)
