"""Signing in by a link, and out: `/link/{code}` and `/sign-out`; and what else is for everybody.

Opening a link does not use it up, since mail scanners and previews open links: its page has one
button, whose POST does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from starlette.responses import Response

from keyrush.apps.dashboard.addresses import seconds
from keyrush.apps.dashboard.cookies import Cookies
from keyrush.apps.dashboard.endpoints import page, state
from keyrush.apps.dashboard.signing_in import address_of, guessing
from keyrush.apps.dashboard.visit import Stop, Visit
from keyrush.errors import NotFound

T = TypeVar("T")


async def _looked_up(visit: Visit, ask: Callable[[str], T | None]) -> T | None:
    """What `ask` has for the link's code; an address may try so many.

    Raises:
        Stop: It has tried too many.
    """
    tally = visit.frame.links.take(address_of(visit.frame, visit.request), visit.now)
    if not tally.admitted:
        raise Stop("too_many", 429, wait=seconds(tally, visit.now))
    return await guessing(visit.frame, visit.request, ask, visit.request.path_params["code"])


async def _link(visit: Visit) -> Response:
    """The page with the button, while the link is good."""
    link = await _looked_up(visit, visit.gate.portal.linked)
    if link is None:
        return state(visit, "link_used", 404)
    return visit.render("link.html", link=link)


async def _enter(visit: Visit) -> Response:
    """The session, if the link was good until now."""
    await visit.form()
    entered = await _looked_up(visit, visit.gate.portal.enter)
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
