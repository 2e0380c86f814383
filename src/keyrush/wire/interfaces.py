"""Whether an app is one of ASGI or of WSGI, as far as its parameters tell."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

#: What ASGI calls an app with, and PEP 3333.
_ASGI, _WSGI = 3, 2


def is_asgi(app: Callable[..., Any]) -> bool:
    """True when an ASGI server could call `app` and a WSGI server could not."""
    return _takes(app, _ASGI) is True and _takes(app, _WSGI) is False


def is_wsgi(app: Callable[..., Any]) -> bool:
    """True when a WSGI server could call `app` and an ASGI server could not."""
    return _takes(app, _WSGI) is True and _takes(app, _ASGI) is False


def _takes(app: Callable[..., Any], arguments: int) -> bool | None:
    """Whether `app` can be called with so many arguments, None where it does not tell."""
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*range(arguments))
    except TypeError:
        return False
    return True
