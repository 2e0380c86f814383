"""Who is signed in, by any of the ways there are: a link that was opened, the session of the app
around, or a session token of an issuer. An API key is none.
"""

from __future__ import annotations

import inspect
from typing import NamedTuple

from starlette.requests import Request

from keyrush.apps.dashboard.frame import Frame
from keyrush.apps.dashboard.visit import May, Stop
from keyrush.core.checks import is_id
from keyrush.core.model import Account
from keyrush.errors import KeyrushError, Unavailable


class SignedIn(NamedTuple):
    """Somebody who is."""

    may: May
    account: Account


async def signed_in(frame: Frame, request: Request) -> SignedIn | None:
    """Who is signed in, None where nobody is.

    Raises:
        Stop: Somebody is, and may see nothing here.
        Unavailable: The store can't say.
    """
    account_id = await _of_host(frame, request)
    if account_id is None:
        return None
    may = May("host", mark=f"host {account_id}")
    account = await _account(frame, account_id)
    if account is None:
        raise Stop("not_permitted", 403)
    return SignedIn(may, account)


async def _of_host(frame: Frame, request: Request) -> str | None:
    """The account that the app around has signed somebody in to."""
    if frame.account_of is None:
        return None
    found = frame.account_of(request)
    if inspect.isawaitable(found):
        found = await found
    return found if isinstance(found, str) else None


async def _account(frame: Frame, account_id: str) -> Account | None:
    """The account, if there is one."""
    if not is_id(account_id):
        return None
    try:
        return await frame.gate.workers.run("io", frame.gate.store.account, account_id)
    except KeyrushError:
        raise
    except Exception as error:  # a store of a user's own may raise anything
        raise Unavailable(f"the store can't answer: {type(error).__name__}") from error
