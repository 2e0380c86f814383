"""Refusals raised in Django views, as answers: no error is logged or mailed for them.

    MIDDLEWARE = [..., "keyrush.django.RefusalMiddleware"]

The gate stands around the whole app, on WSGI or ASGI, and gives the documented answer in any case.
But what gets out of a view Django takes for a fault of the app: it logs an error, mails ADMINS and
sends `got_request_exception`. This middleware, last in the list, tells it otherwise. It works for
the views of Django REST framework too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keyrush.core.refusal import refused_in
from keyrush.gate.principal import Caller

try:
    from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]  # none come with it
    from django.utils.deprecation import MiddlewareMixin  # type: ignore[import-untyped]  # as above
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "keyrush.django needs Django: pip install django", name=error.name
    ) from error


class RefusalMiddleware(MiddlewareMixin):  # type: ignore[misc]  # its base has no types
    """Leaves the answer to what a view refuses to the gate, under WSGI and ASGI."""

    get_response: Callable[[HttpRequest], Any]

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """An empty response, in whose place the gate says the refusal; None for other errors."""
        refused = refused_in(exception)
        caller = _caller(request)
        if refused is None or caller is None:
            return None
        caller.leave(refused.refusal)
        return HttpResponse(status=204)  # one of 400 or more would be logged


def _caller(request: HttpRequest) -> Caller | None:
    """Whoever calls, as the gate in front has found out; None where there is no gate."""
    found: Any = getattr(request, "scope", None) or request.META
    caller: Caller | None = found.get("keyrush.caller")
    return caller
