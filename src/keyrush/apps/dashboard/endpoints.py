"""Endpoints: what is around every page. Who asks, from where, and what is said when a page can't
be shown.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from keyrush.apps.dashboard.cookies import Cookies, cookie
from keyrush.apps.dashboard.frame import FRAME, Frame
from keyrush.apps.dashboard.pace import keep_pace
from keyrush.apps.dashboard.signing_in import signed_in
from keyrush.apps.dashboard.visit import Stop, Visit
from keyrush.errors import NotFound, Unavailable
from keyrush.gate.principal import Principal
from keyrush.runtime.logs import log_fault

#: Seconds after which to try again, by status.
_AGAIN = {429: 60, 503: 1}

Handler = Callable[[Visit], Awaitable[Response]]


def page(
    path: str,
    get: Handler | None = None,
    *,
    post: Handler | None = None,
    is_open: bool = False,
    cost: int = 1,
) -> Route:
    """The route of a page, for those who are signed in, or with `is_open` for everybody; `cost` is
    what it takes of what they may ask for in a minute.
    """
    handlers = {"GET": get, "HEAD": get, "POST": post}
    known = {method: handler for method, handler in handlers.items() if handler is not None}

    async def endpoint(request: Request) -> Response:
        frame: Frame = request.scope[FRAME]
        visit = Visit(frame, request)
        try:
            look_whence(frame, request)
            if not is_open:
                found = await signed_in(frame, request)
                if found is None:
                    return await _signed_out(visit)
                visit = Visit(frame, request, may=found.may, account=found.account)
                await keep_pace(visit, cost)
            return await known[request.method](visit)
        except Stop as stop:
            return state(visit, stop.name, stop.status, **stop.values)
        except NotFound:
            return state(visit, "not_found", 404)
        except ClientDisconnect:  # in the middle of a form: nobody hears the answer
            return Response(status_code=400)
        except Unavailable as error:
            reference = _reference()
            log_fault(f"a page of the dashboard can't be shown ({reference})", error)
            return state(visit, "away", 503, reference=reference)
        except Exception as error:
            reference = _reference()
            log_fault(f"a page of the dashboard has failed ({reference})", error)
            return state(visit, "error", 500, reference=reference)

    return Route(path, endpoint, methods=sorted(known))


async def _signed_out(visit: Visit) -> Response:
    """What is said to who is not signed in: what they have posted is kept."""
    request = visit.request
    if isinstance(request.scope.get("keyrush"), Principal):
        visit.frame.warn_of_key(request)
        return visit.signed_out("with_key")
    fields = await visit.posted() if request.method == "POST" else None
    named = visit.gate.settings.dashboard_cookie
    had = Cookies.of(request).session or (named and cookie(request, named))
    return visit.signed_out("over" if had or fields is not None else "none", fields)


def state(visit: Visit, name: str, status: int, **values: object) -> Response:
    """A page that says why there is no other."""
    response = visit.render("state.html", status=status, name=name, values=values)
    if status in _AGAIN:
        response.headers["Retry-After"] = str(values.get("wait", _AGAIN[status]))
    return response


def look_whence(frame: Frame, request: Request) -> None:
    """Let through what is asked from a page of the same origin, or changes nothing.

    Browsers say where a form was sent from (Fetch Metadata), older ones at least in `Origin`. With
    neither, as without https, nobody can tell: `null` is what they say of our own pages, which
    have no referrer, and of any frame that somebody else has put into a sandbox.

    Raises:
        Stop: It comes from elsewhere, or may.
    """
    if request.method in {"GET", "HEAD"}:
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site != "same-origin":
            raise Stop("elsewhere", 403)
        return
    own = {request.headers.get("host"), urlsplit(frame.gate.settings.dashboard_at).netloc}
    # Of either scheme: a proxy may speak https to the browser, and http to us.
    origins = {f"{scheme}://{host}" for scheme in ("http", "https") for host in own if host}
    origin = request.headers.get("origin", "null")
    if origin not in origins:
        raise Stop("unsaid" if origin == "null" else "elsewhere", 403)


def _reference() -> str:
    """What a page and the log have in common."""
    return f"ref_{secrets.token_hex(5)}"
