"""A key's own page: its use, what it may do, why it was refused, and what was done to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup
from starlette.responses import Response

from keyrush.apps.dashboard.acting import who
from keyrush.apps.dashboard.callers import names
from keyrush.apps.dashboard.charting import chart
from keyrush.apps.dashboard.charts import share
from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.figures import Figures, figures
from keyrush.apps.dashboard.key_page import known
from keyrush.apps.dashboard.key_status import why_not, why_not_revoke
from keyrush.apps.dashboard.ranges import named
from keyrush.apps.dashboard.visit import Visit
from keyrush.apps.dashboard.wording import why_refused
from keyrush.core.activity import Activity, Where
from keyrush.core.model import ApiKey, Limit, Override
from keyrush.core.paging import MAX_LIMIT
from keyrush.core.times import DAY
from keyrush.gate.gate import Gate
from keyrush.operations.key_records import Record

#: Refusals are told of so long ago at most, and rules that most went to.
_REFUSED_FOR, _REFUSALS, _RULES = 7 * DAY, 5, 5


class _Refused(NamedTuple):
    """Refusals that have reason and rule in common."""

    reason: str
    status: int
    at: int  #: the last of them
    rule: str
    method: str
    times: int


class _Found(NamedTuple):
    figures: Figures
    rules: Sequence[tuple[str, int]]
    refused: Sequence[Activity]
    history: Sequence[Record]
    names: Mapping[str, str]
    limits: tuple[Limit, ...]
    limits_until: int | None
    max_concurrent: int | None


def _read(gate: Gate, key: ApiKey, now: int) -> _Found:
    account_id, span = key.account_id, named("30d", now)
    log = gate.activity
    month = Where(credential_id=key.id, since=span.since, until=span.until)
    week = Where(credential_id=key.id, since=now - _REFUSED_FOR)
    refused = [
        *log.page(account_id, week._replace(outcome="limited"), limit=MAX_LIMIT),
        *log.page(account_id, week._replace(outcome="refused"), limit=MAX_LIMIT),
    ]
    history = gate.key_records.history(key.id, account_id)
    account = gate.accounts.get(account_id)
    plan = gate.catalog.plans.get(account.plan)
    of_plan = () if plan is None else plan.limits
    limits, override = account.limits_at(now), account.override_at(now)
    at_once = key.max_concurrent
    if at_once is None and plan is not None:
        at_once = plan.max_concurrent
    return _Found(
        figures(log.summary(account_id, month, by="day", group="outcome", durations=False), span),
        log.most(account_id, month, group="rule", at_most=_RULES),
        refused,
        history,
        names(gate, account_id, _ids(history)),
        *_limits(key, of_plan if limits is None else limits, override),
        at_once,
    )


def _limits(
    key: ApiKey, others: tuple[Limit, ...], override: Override | None
) -> tuple[tuple[Limit, ...], int | None]:
    """The limits of a key, and until when they are those; `others` where it has none of its own."""
    if key.limits is not None:
        return key.limits, None
    return others, None if override is None else override.until


def _ids(history: Iterable[Record]) -> list[str | None]:
    others = [
        str(change[1])
        for record in history
        for name, change in record.changes.items()
        if name in {"predecessor", "successor"}
    ]
    return [*(record.by for record in history), *others]


def grouped(rows: Iterable[Activity]) -> list[_Refused]:
    """Refusals by reason and rule, those that came last first."""
    times: Counter[tuple[str, str]] = Counter()
    last: dict[tuple[str, str], Activity] = {}
    for row in rows:
        place = (row.reason or "other", row.rule or row.path)
        times[place] += 1
        if place not in last or row.at > last[place].at:
            last[place] = row
    found = [
        _Refused(place[0], row.status, row.at, place[1], row.method, times[place])
        for place, row in last.items()
    ]
    return sorted(found, key=lambda one: -one.at)


async def show(visit: Visit) -> Response:
    """The page."""
    of = await known(visit)
    found = await visit.run(_read, visit.gate, of.key, visit.now)
    top = found.rules[0][1] if found.rules else 0
    return visit.render(
        "key.html",
        of=of,
        chart=chart(visit, found.figures, named("30d", visit.now)),
        figures=found.figures,
        rules=[(_rule(visit, rule), n, share(n, top)) for rule, n in found.rules],
        refusals=[
            (one, why_refused(visit, of.key, found.limits, one.reason, one.rule))
            for one in grouped(found.refused)[:_REFUSALS]
        ],
        most=MAX_LIMIT,
        history=[_event(visit, record, found.names) for record in found.history],
        limits=[str(limit).replace("/", " / ") for limit in found.limits],
        limits_until=found.limits_until,
        max_concurrent=found.max_concurrent,
        why_edit=why_not(visit, of.key),
        why_rotate=why_not(visit, of.key, rotating=True),
        why_revoke=why_not_revoke(visit, of.key),
    )


def _rule(visit: Visit, rule: str) -> str:
    return rule or visit.t("activity.no_rule")


class _Event(NamedTuple):
    what: Markup
    more: list[Markup]
    who: Markup
    at: int


def _event(visit: Visit, record: Record, known: Mapping[str, str]) -> _Event:
    t, more = visit.t, []
    for name, (was, became) in record.changes.items():
        if name in {"predecessor", "successor"}:
            link = Markup('<a href="{}" class="mono">{}</a>').format(
                visit.path(f"/keys/{became}"), became
            )
            more.append(t(f"key.changed_{name}", key=link))
        elif name == "scopes" and isinstance(was, list) and isinstance(became, list):
            gone = [scope for scope in was if scope not in became]
            new = [scope for scope in became if scope not in was]
            more += [t("key.changed_scopes_gone", scopes=", ".join(gone))] if gone else []
            more += [t("key.changed_scopes_new", scopes=", ".join(new))] if new else []
        elif name in {"expires_at", "retires_at"}:
            when = visit.formats.moment(became) if isinstance(became, int) else t("key.never")
            more.append(t(f"key.changed_{name}", when=when))
        elif name == "max_concurrent":
            n = visit.formats.number(became) if isinstance(became, int) else t("key.of_plan")
            more.append(t("key.changed_max_concurrent", n=n))
        else:
            isolated = Markup("<bdi>{}</bdi>").format(was)
            more.append(t("key.changed_name", name=isolated))
    return _Event(t(f"key.was_{record.what}"), more, who(visit, record.by, known), record.at)


ROUTES = [page("/keys/{key_id}", show)]
