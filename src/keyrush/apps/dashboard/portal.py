"""Signing in by a link, and out: `/link/{code}` and `/sign-out`; and what else is for everybody.

Opening a link does not use it up, since mail scanners and previews open links: its page has one
button, whose POST does.
"""

from __future__ import annotations

from contextlib import suppress

from starlette.responses import Response

from keyrush.apps.dashboard.cookies import Cookies
from keyrush.apps.dashboard.endpoints import page, state
from keyrush.apps.dashboard.signing_in import guessing
from keyrush.apps.dashboard.visit import Visit
from keyrush.errors import NotFound


async def _link(visit: Visit) -> Response:
    """The page with the button, while the link is good."""
    code = visit.request.path_params["code"]
    link = await guessing(visit.frame, visit.request, visit.gate.portal.linked, code)
    if link is None:
        return state(visit, "link_used", 404)
    return visit.render("link.html", link=link)


async def _enter(visit: Visit) -> Response:
    """The session, if the link was good until now."""
    await visit.form()
    code = visit.request.path_params["code"]
    entered = await guessing(visit.frame, visit.request, visit.gate.portal.enter, code)
    if entered is None:
        return state(visit, "link_used", 404)
    response = visit.redirect("/")
    Cookies.of(visit.request).remember(response, entered.token)
    return response


async def _sign_out(visit: Visit) -> Response:
    """The page with the button; of who has signed in elsewhere there is nothing to end here."""
    if visit.may.session_id is None:
        return visit.redirect("/")
    return visit.render("sign_out.html")


async def _end(visit: Visit) -> Response:
    """The session's end, in the store and in the browser."""
    await visit.form(write=False)
    if visit.may.session_id is not None:
        with suppress(NotFound):  # ended meanwhile, as by another tab
            await visit.run(visit.gate.portal.end, visit.may.session_id)
    response = visit.redirect("/")
    Cookies.of(visit.request).forget(response)
    return response


async def _theme(visit: Visit) -> Response:
    """Light or dark by choice, in a cookie that the server reads: nothing flashes."""
    form = await visit.form()
    response = visit.redirect_back(form.get("to", ""))
    visit.set_theme(response, form.get("theme", ""))
    return response


ROUTES = [
    page("/link/{code}", _link, post=_enter, is_open=True),
    page("/sign-out", _sign_out, post=_end),
    page("/theme", post=_theme, is_open=True),
]
