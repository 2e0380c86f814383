"""API access: the keys of the account, looked for by text, status and environment, in an order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from markupsafe import Markup
from starlette.responses import Response

from keyrush.apps.dashboard.charts import spark
from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.figures import figures
from keyrush.apps.dashboard.key_status import Pill, pill
from keyrush.apps.dashboard.ranges import named
from keyrush.apps.dashboard.visit import Visit
from keyrush.core.activity import Total
from keyrush.core.key_search import MOST, Hits, Order, Outline, Search, Status
from keyrush.core.key_text import KeyFormat
from keyrush.gate.gate import Gate

#: Characters of what is looked for; a name has no more.
_LONGEST = 120


class _Row(NamedTuple):
    key: Outline
    pill: Pill
    scopes: list[str]
    spark: Markup


def asked(query: Mapping[str, str], environments: tuple[str, ...]) -> Search:
    """What the query looks for; what can't be meant stands for all."""
    sort = query.get("sort", "-used")
    status, environment = query.get("status", ""), query.get("env", "")
    number = query.get("page", "")
    return Search(
        query.get("q", "").strip()[:_LONGEST],
        status=next((one for one in get_args(Status) if one == status), None),
        environment=environment if environment in environments else None,
        order=next((one for one in get_args(Order) if one == sort.removeprefix("-")), "used"),
        descending=sort.startswith("-"),
        page=int(number) if number.isascii() and number.isdecimal() and len(number) <= 5 else 1,  # noqa: PLR2004  # digits
    )


def query_of(search: Search) -> dict[str, Any]:
    """The query that looks for it again, without what is so anyway."""
    sort = ("-" if search.descending else "") + search.order
    return {
        "q": search.text or None,
        "status": search.status,
        "env": search.environment,
        "sort": None if sort == "-used" else sort,
        "page": None if search.page == 1 else search.page,
    }


async def show(visit: Visit) -> Response:
    """The list."""
    keys = visit.gate.key_format
    query = visit.request.query_params
    search = asked(query, keys.environments)
    if keys.is_in(query.get("q", "")):  # a key belongs in no address: not for longer than this
        cut = search._replace(text=_begin(search.text, keys))
        return visit.redirect("/keys", **query_of(cut))
    hits, totals = await visit.run(_read, visit.gate, visit.account_id, search)
    rows = [
        _Row(key, pill(visit, key), key.scopes.split(), _spark(visit, totals[key.id]))
        for key in hits.keys
    ]
    return visit.render(
        "keys.html",
        rows=rows,
        hits=hits,
        first=(hits.page - 1) * search.per_page + 1,
        search=search,
        is_filtered=bool(search.text or search.status or search.environment),
        is_cut=hits.every >= MOST,
        statuses=get_args(Status),
        environments=keys.environments,
        link=lambda **changes: visit.path("/keys", **(query_of(search) | changes)),
        sorted_by=lambda order: _sorting(search, order),
    )


def _read(gate: Gate, account_id: str, search: Search) -> tuple[Hits, dict[str, list[Total]]]:
    hits = gate.key_records.search(account_id, search)
    totals: dict[str, list[Total]] = {key.id: [] for key in hits.keys}
    for day in gate.activity.days_of_keys(account_id, [*totals]):
        total = Total(day.at, day.outcome, day.requests, 0, 0, 0, ())
        totals[day.credential_id].append(total)
    return hits, totals


def _spark(visit: Visit, totals: list[Total]) -> Markup:
    found = figures(totals, named("30d", visit.now))
    number = visit.formats.number
    label = visit.t(
        "keys.spark", ok=number(found.total.ok), bad=number(found.total.requests - found.total.ok)
    )
    requests = [one.requests for one in found.bins]
    return spark(requests, [one.requests - one.ok for one in found.bins], label)


def _begin(text: str, keys: KeyFormat) -> str:
    """How the key in a text begins, as far as that may be shown; empty where it is no whole one."""
    found = keys.parse(text.encode("utf-8", "replace"))
    return "" if found is None else found.display.removesuffix("...")


def _sorting(search: Search, order: Order) -> tuple[str, str | None]:
    """What a column's head sorts by when it is followed, and how it is sorted now (ARIA)."""
    if search.order != order:
        return ("" if order == "name" else "-") + order, None
    now = "descending" if search.descending else "ascending"
    return ("" if search.descending else "-") + order, now


ROUTES = [page("/keys", show)]
