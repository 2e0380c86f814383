"""Apps behind the gate of which nothing is written by the clock: what their servers leave in the
table was written by the stop, or before an answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Mount

from keyrush import KeyrushMiddleware
from keyrush.runtime.background import Background
from keyrush.usage.counting import FLUSH_INTERVAL
from tests.support import served

_every = Background.every


def _every_but_flushes(background: Background, seconds: float, job: Callable[[], object]) -> None:
    if seconds != FLUSH_INTERVAL:
        _every(background, seconds, job)


setattr(Background, "every", _every_but_flushes)  # noqa: B010  # mypy knows no other way; in these processes alone


def asgi() -> Any:
    """Answers with the id of its process."""
    return served.asgi()


def wsgi() -> Any:
    """The same, in WSGI."""
    return served.wsgi()


def flask() -> Flask:
    """The same, as `flask run` wants it."""
    app = Flask(__name__)
    app.wsgi_app = wsgi()  # type: ignore[method-assign]  # as Flask's own docs do
    return app


def mounted() -> Any:
    """The same, beneath an app that has a lifespan and passes none of it on."""
    return Starlette(routes=[Mount("/", app=asgi())])


def returning() -> Any:
    """The same, of an app that returns from its lifespan at once."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

    return KeyrushMiddleware(answer)
