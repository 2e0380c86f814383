"""Refusals raised in Flask and Quart handlers, as answers: no error is logged for them.

    from keyrush.flask import init_app

    app.wsgi_app = KeyrushMiddleware(app.wsgi_app)  # Quart: app.asgi_app, from keyrush
    init_app(app)

The gate gives the documented answer in any case. But what gets out of a handler the framework takes
for a fault of the app: it logs an error with its traceback and sends `got_request_exception`.
"""

from __future__ import annotations

from typing import Any

from keyrush.core.refusal import Refused
from keyrush.gate.principal import Caller


def init_app(app: Any) -> None:
    """Have a Flask or Quart app leave the answer to what its handlers refuse to the gate."""
    is_quart = hasattr(app, "asgi_app")
    app.register_error_handler(Refused, _left_in_quart if is_quart else _left_in_flask)


def _left_in_flask(refused: Refused) -> tuple[str, int]:
    from flask import request  # noqa: PLC0415  # the app's own framework alone

    return _left(request.environ.get("keyrush.caller"), refused)


async def _left_in_quart(refused: Refused) -> tuple[str, int]:
    from quart import request  # noqa: PLC0415  # as above

    scope: Any = request.scope
    return _left(scope.get("keyrush.caller"), refused)


def _left(caller: Caller | None, refused: Refused) -> tuple[str, int]:
    if caller is None:  # there is no gate to say it
        raise refused
    caller.leave(refused.refusal)
    return "", 204
