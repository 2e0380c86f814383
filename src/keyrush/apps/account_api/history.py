"""What an account's credits have gone for, and what was asked in its name: pages, newest first.

An OAuth client stands for a person by what it was granted: it is let in here with the scope
`ACTIVITY` alone, as rows tell of other callers and where they are.
"""

from __future__ import annotations

from functools import partial

from starlette.requests import Request

from keyrush.apps.account_api.frame import key_format, run
from keyrush.apps.account_api.queries import (
    ActivityQuery,
    LedgerQuery,
    SummaryQuery,
    read_query,
    wrong_query,
)
from keyrush.core.issuers import OAUTH
from keyrush.errors import InvalidArgument
from keyrush.gate.gate import Gate
from keyrush.gate.principal import Principal
from keyrush.operations.activity import MOST_COUNTED, bins_of
from keyrush.operations.documents import activity_json, entry_json, summary_json

#: Of a token of an OAuth client, what lets it read the account's ledger and activity.
ACTIVITY = "activity"


def _admit(principal: Principal) -> None:
    """Go on only if the caller may read what others have done.

    Raises:
        Refused: 403; it is an OAuth client that was not granted it.
    """
    if principal.source == OAUTH:
        principal.require_scope(ACTIVITY)


async def ledger(request: Request, gate: Gate, principal: Principal) -> object:
    """A page of the account's ledger."""
    _admit(principal)
    wanted = read_query(request.query_params.multi_items(), key_format(gate), LedgerQuery)
    since, until = wanted.bounds()
    read = partial(
        gate.credits.ledger,
        principal.account_id,
        reasons=wanted.reason,
        sources=wanted.source,
        since=since,
        until=until,
        limit=wanted.limit,
        cursor=wanted.cursor,
    )
    try:
        page = await run(gate, principal, "io", read)
    except InvalidArgument as error:
        raise wrong_query(error, wanted) from None
    return {"entries": [entry_json(entry) for entry in page], "next_cursor": page.cursor}


async def activity(request: Request, gate: Gate, principal: Principal) -> object:
    """A page of the account's activity (contract O20), and how much there is of it: counted no
    further than a thousand.
    """
    _admit(principal)
    wanted = read_query(request.query_params.multi_items(), key_format(gate), ActivityQuery)
    account_id, where = principal.account_id, wanted.where()
    read = partial(gate.activity.page, account_id, where, limit=wanted.limit, cursor=wanted.cursor)
    try:
        page = await run(gate, principal, "io", read)
        total = await run(gate, principal, "io", gate.activity.count, account_id, where)
    except InvalidArgument as error:
        raise wrong_query(error, wanted) from None
    return {
        "activity": [activity_json(row) for row in page],
        "next_cursor": page.cursor,
        "total": min(total, MOST_COUNTED - 1),
        "has_more_than_total": total >= MOST_COUNTED,
    }


async def summary(request: Request, gate: Gate, principal: Principal) -> object:
    """Totals of the account's activity, in bins."""
    _admit(principal)
    wanted = read_query(request.query_params.multi_items(), key_format(gate), SummaryQuery)
    since, until, _ = bins_of(wanted.where(), wanted.by, gate.clock())
    read = partial(
        gate.activity.summary,
        principal.account_id,
        wanted.where()._replace(since=since, until=until),
        by=wanted.by,
        group=wanted.group,
    )
    try:
        totals = await run(gate, principal, "io", read)
    except InvalidArgument as error:
        raise wrong_query(error, wanted) from None
    return summary_json(totals, wanted.by, wanted.group, since, until)
