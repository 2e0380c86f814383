"""Endpoints: what is around every page. Who asks, from where, and what is said when a page can't
be shown.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyrush.apps.dashboard.frame import FRAME, Frame
from keyrush.apps.dashboard.signing_in import signed_in
from keyrush.apps.dashboard.visit import Stop, Visit
from keyrush.errors import NotFound, Unavailable
from keyrush.runtime.logs import log_fault

Handler = Callable[[Visit], Awaitable[Response]]


def page(path: str, get: Handler | None = None, *, post: Handler | None = None) -> Route:
    """The route of a page, which is for those who are signed in."""
    handlers = {"GET": get, "HEAD": get, "POST": post}
    known = {method: handler for method, handler in handlers.items() if handler is not None}

    async def endpoint(request: Request) -> Response:
        frame: Frame = request.scope[FRAME]
        visit = Visit(frame, request)
        try:
            look_whence(frame, request)
            found = await signed_in(frame, request)
            if found is None:
                return visit.render("signed_out.html", status=401)
            visit = Visit(frame, request, may=found.may, account=found.account)
            return await known[request.method](visit)
        except Stop as stop:
            return state(visit, stop.name, stop.status, **stop.values)
        except NotFound:
            return state(visit, "not_found", 404)
        except Unavailable as error:
            reference = _reference()
            log_fault(f"a page of the dashboard can't be shown ({reference})", error)
            return state(visit, "away", 503, reference=reference)
        except Exception as error:
            reference = _reference()
            log_fault(f"a page of the dashboard has failed ({reference})", error)
            return state(visit, "error", 500, reference=reference)

    return Route(path, endpoint, methods=sorted(known))


def state(visit: Visit, name: str, status: int, **values: object) -> Response:
    """A page that says why there is no other."""
    return visit.render("state.html", status=status, name=name, values=values)


def look_whence(frame: Frame, request: Request) -> None:
    """Let through what is asked from a page of the same origin, or changes nothing.

    Browsers say where a form was sent from (Fetch Metadata), older ones at least in `Origin`. With
    neither, as without https, nobody can tell.

    Raises:
        Stop: It comes from elsewhere.
    """
    if request.method in {"GET", "HEAD"}:
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site != "same-origin":
            raise Stop("elsewhere", 403)
        return
    origin = urlsplit(request.headers.get("origin", ""))
    own = {request.headers.get("host", "")}
    if public := frame.gate.settings.public_url:
        own.add(urlsplit(public).netloc)
    if origin.scheme not in {"http", "https"} or origin.netloc not in own:
        raise Stop("elsewhere", 403)


def _reference() -> str:
    """What a page and the log have in common."""
    return f"ref_{secrets.token_hex(5)}"
