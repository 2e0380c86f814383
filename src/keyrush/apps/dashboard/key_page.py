"""What the pages about one key have in common: the key, and when and by what it was used last."""

from __future__ import annotations

from typing import NamedTuple

from starlette.responses import Response

from keyrush.apps.dashboard.key_status import Pill, pill
from keyrush.apps.dashboard.visit import Visit
from keyrush.core.activity import Activity, Where
from keyrush.core.model import ApiKey
from keyrush.core.times import DAY, SECOND
from keyrush.gate.gate import Gate

_HOUR = 3600 * SECOND

#: A key was in use where its last request is no longer ago.
_IN_USE = 7 * DAY


class Known(NamedTuple):
    """A key of the account. `last` is its last request, as far as that is kept; `lately` is how
    many there were in a day.
    """

    key: ApiKey
    pill: Pill
    last: Activity | None
    last_at: int | None
    lately: int
    is_in_use: bool


async def known(visit: Visit) -> Known:
    """The key that the path names.

    Raises:
        NotFound: It is none of the account's.
    """
    key_id = visit.request.path_params["key_id"]
    key, last, lately = await visit.run(_read, visit.gate, key_id, visit.account_id, visit.now)
    at = max((one for one in (key.last_used_at, last and last.at) if one), default=None)
    in_use = at is not None and at >= visit.now - _IN_USE
    return Known(key, pill(visit, key), last, at, lately, in_use)


def _read(
    gate: Gate, key_id: str, account_id: str, now: int
) -> tuple[ApiKey, Activity | None, int]:
    key = gate.keys.get(key_id, account_id)
    of_key = Where(credential_id=key.id)
    rows = gate.activity.page(account_id, of_key, limit=1)
    day = gate.activity.summary(
        account_id, of_key._replace(since=now - DAY + _HOUR), by="hour", durations=False
    )
    return key, rows[0] if rows else None, sum(total.requests for total in day)


def unable(visit: Visit, of: Known, reason: str) -> Response:
    """The page that says why something can't be done to the key as it is."""
    return visit.render("key_unable.html", status=409, of=of, reason=reason)
