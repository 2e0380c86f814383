"""Setup: a key, a request, an agent; and how each of them is made here."""

from __future__ import annotations

from typing import NamedTuple

from starlette.responses import Response

from keyrush.apps.dashboard.deployment import (
    Snippet,
    agents_of,
    base_url,
    requests_of,
    resource_of,
    written,
)
from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.visit import Visit
from keyrush.core.activity import Activity, Where
from keyrush.core.key_search import MOST, Outline, Search, status_of
from keyrush.core.resources import Resource
from keyrush.gate.gate import Gate


class _Found(NamedTuple):
    active: int
    newest: Outline | None
    used_at: int | None
    last: Activity | None
    agent: Activity | None


def _read(gate: Gate, account_id: str, now: int) -> _Found:
    keys = gate.key_records.search(account_id, Search(order="created", per_page=MOST)).keys
    working = [key for key in keys if status_of(key, now) not in {"revoked", "expired"}]
    api = gate.activity.page(account_id, Where(source="api"), limit=1)
    agent = gate.activity.page(account_id, Where(source="mcp"), limit=1)
    rows = sorted([*api, *agent], key=lambda row: row.at)
    return _Found(
        len(working),
        next((key for key in working if key.retires_at is None), None),
        max((key.last_used_at for key in keys if key.last_used_at is not None), default=None),
        rows[-1] if rows else None,
        agent[0] if agent else None,
    )


async def show(visit: Visit) -> Response:
    """The page."""
    found = await visit.run(_read, visit.gate, visit.account_id, visit.now)
    resource = resource_of(visit)
    done = [found.active > 0, found.last is not None or found.used_at is not None]
    if resource is not None:
        done.append(found.agent is not None)
    keys = visit.gate.key_format
    marks = [f"{keys.prefix}_{name}_…" for name in keys.environments] or [f"{keys.prefix}_…"]
    return visit.render(
        "setup.html",
        found=found,
        done=done,
        next=done.index(False) if False in done else None,
        requests=requests_of(visit),
        resource=resource,
        agents=None if resource is None else _agents(visit, resource),
        base=base_url(visit),
        headers=[
            "Authorization: Bearer" if name == "authorization" else written(name)
            for name in visit.gate.settings.credential_headers
        ],
        resources=visit.gate.catalog.resources,
        marks=marks,
    )


def _agents(visit: Visit, resource: Resource) -> tuple[list[Snippet], list[Snippet]]:
    return (
        agents_of(visit, resource, has_key=False),
        agents_of(visit, resource, has_key=True),
    )


ROUTES = [page("/", show)]
