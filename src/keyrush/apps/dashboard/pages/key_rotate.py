"""A key in place of another, which goes on working for a while."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from starlette.responses import Response

from keyrush.apps.dashboard.acting import acting, granted
from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.key_forms import GRACES
from keyrush.apps.dashboard.key_page import Known, known, unable
from keyrush.apps.dashboard.key_status import why_not
from keyrush.apps.dashboard.revealing import revealed, sent_before
from keyrush.apps.dashboard.visit import Stop, Visit
from keyrush.core.model import Scopes
from keyrush.errors import BeyondCaller, CallerEnded, InvalidArgument, TooManyKeys


async def show(visit: Visit) -> Response:
    """The form."""
    of = await known(visit)
    reason = why_not(visit, of.key, rotating=True) or _beyond(visit, of)
    return unable(visit, of, reason) if reason else _form(visit, of)


async def rotate(visit: Visit) -> Response:
    """Replace the key, and show the new one."""
    fields = await visit.form()
    of = await known(visit)
    reason = why_not(visit, of.key, rotating=True) or _beyond(visit, of)
    grace = GRACES.get(fields.get("grace", ""))
    if grace is None and reason is None:
        return _form(visit, of, wrong="keys.wrong_grace")
    if not await visit.spend():
        return sent_before(visit)
    if reason is not None:
        return unable(visit, of, reason)
    make = partial(
        visit.gate.keys.rotate,
        of.key.id,
        visit.account_id,
        grace=grace or 0,
        granted=granted(visit.may),
        **acting(visit.may)._asdict(),
    )
    try:
        new = await visit.run(make, pool="hash")
    except TooManyKeys as full:
        return _form(visit, of, wrong="keys.wrong_too_many_active", most=full.limit)
    except (InvalidArgument, BeyondCaller):  # it was changed meanwhile
        return unable(visit, of, visit.t("key.not_as_it_was"))
    except CallerEnded:
        raise Stop("ended", 401) from None
    # Nothing is asked of the store any more: were it away now, nobody would ever see the key.
    old = replace(of.key, retires_at=visit.now + 1000 * (grace or 0))
    return revealed(visit, new, old)


def _beyond(visit: Visit, of: Known) -> str | None:
    """Why who is signed in may not have what the key may; None where they may."""
    lacks = [scope for scope in of.key.scopes if scope not in Scopes(visit.may.scopes)]
    return visit.t("key.not_beyond", scopes=", ".join(lacks)) if lacks else None


def _form(
    visit: Visit, of: Known, *, wrong: str | None = None, most: int | None = None
) -> Response:
    return visit.render(
        "key_rotate.html",
        status=422 if wrong else 200,
        of=of,
        graces=list(GRACES),
        wrong=None if wrong is None else visit.t(wrong, most=most),
    )


ROUTES = [page("/keys/{key_id}/rotate", show, post=rotate)]
