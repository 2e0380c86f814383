"""A new key: the form, and the key itself, which is shown this once."""

from __future__ import annotations

from functools import partial

from starlette.responses import Response

from keyrush.apps.dashboard.acting import acting
from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.forms import Fields
from keyrush.apps.dashboard.key_forms import Wrong, read_end, read_name, read_scopes
from keyrush.apps.dashboard.revealing import revealed, sent_before
from keyrush.apps.dashboard.scopes import groups
from keyrush.apps.dashboard.visit import Stop, Visit
from keyrush.errors import BeyondCaller, CallerEnded, TooManyKeys

_EMPTY = Fields([("expires", "90d"), ("access", "some")])


async def show(visit: Visit) -> Response:
    """The form."""
    return await _form(visit, _EMPTY, ())


async def create(visit: Visit) -> Response:
    """Make the key, and show it."""
    fields = await visit.form()
    keys, catalog = visit.gate.key_format, visit.gate.catalog
    name = read_name(fields, keys)
    ends = read_end(fields, visit.now)
    scopes = read_scopes(fields, catalog.known_scopes, visit.may.scopes)
    environment = (fields.get("env") or None) if keys.environments else None
    wrong = [one for one in (name, ends, scopes) if isinstance(one, Wrong)]
    if keys.environments and environment not in keys.environments:
        wrong.append(Wrong("env", "keys.wrong_environment"))
    if wrong or isinstance(name, Wrong) or isinstance(ends, Wrong) or isinstance(scopes, Wrong):
        return await _form(visit, fields, wrong)
    if not await visit.spend():
        return sent_before(visit)
    make = partial(
        visit.gate.keys.create,
        visit.account_id,
        name,
        scopes=scopes,
        environment=environment,
        expires_at=ends,
        **acting(visit.may)._asdict(),
    )
    try:
        new = await visit.run(make, pool="hash")
    except TooManyKeys as full:
        return await _form(visit, fields, (), most=full.limit)
    except (CallerEnded, BeyondCaller):
        raise Stop("ended", 401) from None
    return revealed(visit, new)


async def _form(
    visit: Visit, fields: Fields, wrong: list[Wrong] | tuple[()], *, most: int | None = None
) -> Response:
    gate = visit.gate
    scopes = groups(gate.catalog, visit.may.scopes)
    is_full = "*" in visit.may.scopes
    return visit.render(
        "key_create.html",
        status=422 if wrong or most is not None else 200,
        fields=fields,
        chosen=fields.all("scope"),
        wrong={one.field: one.text for one in wrong},
        most=most,
        name=fields.get("name", "") if not gate.key_format.is_in(fields.get("name", "")) else "",
        environments=gate.key_format.environments,
        unmetered=gate.catalog.unmetered,
        groups=scopes,
        may_full=is_full,
        may_all=all(choice.is_open for group in scopes for choice in group.choices),
        why=None if visit.may.write else visit.t("key.not_read_only"),
    )


ROUTES = [page("/keys/new", show, post=create)]
