"""Name, end and scopes of a key, as they are and as they are to be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

from starlette.responses import Response

from keyrush.apps.dashboard.acting import acting, granted
from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.forms import Fields
from keyrush.apps.dashboard.key_forms import Wrong, read_end, read_name, read_scopes
from keyrush.apps.dashboard.key_page import Known, known, unable
from keyrush.apps.dashboard.key_status import why_not
from keyrush.apps.dashboard.scopes import groups
from keyrush.apps.dashboard.visit import Stop, Visit
from keyrush.core.model import ApiKey
from keyrush.core.times import NEVER
from keyrush.errors import BeyondCaller, CallerEnded, InvalidArgument

#: The field that says what the form has shown.
_SEEN = "seen"


async def show(visit: Visit) -> Response:
    """The form."""
    of = await known(visit)
    reason = why_not(visit, of.key)
    return unable(visit, of, reason) if reason else _form(visit, of, _fields(of.key))


async def edit(visit: Visit) -> Response:
    """Change what was changed."""
    fields = await visit.form()
    of = await known(visit)
    key = of.key
    if reason := why_not(visit, key):
        return unable(visit, of, reason)
    if fields.get(_SEEN) != _seen(key):
        return _form(visit, of, _fields(key), [Wrong("", "keys.wrong_meanwhile")])
    name = read_name(fields, visit.gate.key_format)
    keeps = fields.get("expires") == "same"
    ends = key.expires_at if keeps else read_end(fields, visit.now)
    known_scopes = visit.gate.catalog.known_scopes
    scopes = read_scopes(fields, known_scopes, visit.may.scopes, key.scopes)
    wrong = [one for one in (name, ends, scopes) if isinstance(one, Wrong)]
    if wrong or isinstance(name, Wrong) or isinstance(ends, Wrong) or isinstance(scopes, Wrong):
        return _form(visit, of, fields, wrong)
    change = partial(
        visit.gate.keys.edit,
        key.id,
        visit.account_id,
        name=None if name == key.name else name,
        scopes=None if set(scopes) == set(key.scopes) else scopes,
        expires_at=None if ends == key.expires_at else NEVER if ends is None else ends,
        granted=granted(visit.may),
        **acting(visit.may)._asdict(),
    )
    try:
        await visit.run(change)
    except BeyondCaller:
        return _form(visit, of, fields, [Wrong("scopes", "keys.wrong_scopes_beyond")])
    except CallerEnded:
        raise Stop("ended", 401) from None
    except InvalidArgument:
        return unable(visit, of, visit.t("key.not_as_it_was"))
    return visit.redirect(f"/keys/{key.id}", said=visit.t("key.edited", name=name).unescape())


def _fields(key: ApiKey) -> Fields:
    """The form as the key is."""
    access = "full" if key.scopes == ("*",) else "some"
    return Fields(
        [
            ("name", key.name),
            ("expires", "same"),
            ("access", access),
            *(("scope", scope) for scope in key.scopes),
        ]
    )


def _seen(key: ApiKey) -> str:
    """Stands for what can be changed of a key, as it is: two tabs must not undo each other."""
    text = repr((key.name, key.scopes, key.expires_at))
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def _form(visit: Visit, of: Known, fields: Fields, wrong: Sequence[Wrong] = ()) -> Response:
    gate = visit.gate
    scopes = groups(gate.catalog, visit.may.scopes, of.key.scopes)
    return visit.render(
        "key_edit.html",
        status=422 if wrong else 200,
        of=of,
        seen=_seen(of.key),
        fields=fields,
        chosen=fields.all("scope"),
        wrong={one.field: one.text for one in wrong},
        name=fields.get("name", "") if not gate.key_format.is_in(fields.get("name", "")) else "",
        groups=scopes,
        has=of.key.scopes,
        may_full="*" in visit.may.scopes or "*" in of.key.scopes,
        may_all=all(
            choice.is_open or choice.scope in of.key.scopes
            for group in scopes
            for choice in group.choices
        ),
    )


ROUTES = [page("/keys/{key_id}/edit", show, post=edit)]
