"""The end of a key, for good."""

from __future__ import annotations

import unicodedata
from functools import partial

from starlette.responses import Response

from keyrush.apps.dashboard.acting import acting
from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.key_page import Known, known, unable
from keyrush.apps.dashboard.key_status import why_not_revoke
from keyrush.apps.dashboard.visit import Stop, Visit
from keyrush.errors import BeyondCaller, CallerEnded

#: Characters of a name that somebody is asked to type.
_TYPED = 40

#: The first character that is no Latin letter, or sign of those who write them.
_BEYOND_LATIN = "\u0250"


async def show(visit: Visit) -> Response:
    """What is about to end, and the form."""
    of = await known(visit)
    if of.key.revoked_at is not None:
        return unable(visit, of, visit.t("key.not_revoked"))
    return _form(visit, of)


async def revoke(visit: Visit) -> Response:
    """Revoke the key. One that was revoked meanwhile stays as it is."""
    fields = await visit.form()
    of = await known(visit)
    if of.key.revoked_at is None:
        typed = " ".join(fields.get("typed", "").split())
        sure = typed == " ".join(of.key.name.split()) if _is_typed(of) else "sure" in fields
        if not sure:
            return _form(visit, of, is_wrong=True)
    end = partial(
        visit.gate.keys.revoke, of.key.id, visit.account_id, **acting(visit.may)._asdict()
    )
    try:
        await visit.run(end)
    except (CallerEnded, BeyondCaller):
        raise Stop("ended", 401) from None
    return visit.redirect("/keys", said=visit.t("key.revoked", name=of.key.name).unescape())


def _is_typed(of: Known) -> bool:
    """Whether the name can be typed: any other is ticked, as one in letters of many directions."""
    name = of.key.name
    return len(name) <= _TYPED and all(
        unicodedata.category(char)[0] in "LNPZS" and char < _BEYOND_LATIN for char in name
    )


def _form(visit: Visit, of: Known, *, is_wrong: bool = False) -> Response:
    return visit.render(
        "key_revoke.html",
        status=422 if is_wrong else 200,
        of=of,
        is_typed=_is_typed(of),
        is_wrong=is_wrong,
        why=why_not_revoke(visit, of.key),
    )


ROUTES = [page("/keys/{key_id}/revoke", show, post=revoke)]
