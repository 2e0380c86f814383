"""Who is signed in, by any of the ways there are: a link that was opened, the session of the app
around, or a session token of an issuer. An API key is none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from keyrush.apps.dashboard.cookies import Cookies, cookie
from keyrush.apps.dashboard.frame import Frame
from keyrush.apps.dashboard.visit import May, Stop, asked
from keyrush.core.checks import is_id
from keyrush.core.identity import Verified
from keyrush.core.issuers import SESSION
from keyrush.core.model import Account
from keyrush.core.refusal import Refusal
from keyrush.errors import Unavailable
from keyrush.gate.principal import Principal
from keyrush.wire.request import AUTHORIZATION, INVALID, MAX_TOKEN, Credential

T = TypeVar("T")

#: The dots of a token (S50); an API key has none.
_DOTS = 2


class SignedIn(NamedTuple):
    """Somebody who is."""

    may: May
    account: Account


async def signed_in(frame: Frame, request: Request) -> SignedIn | None:
    """Who is signed in, None where nobody is. A link comes first, since it was opened on purpose.

    Raises:
        Stop: Somebody is, and may see nothing here.
        Unavailable: The store can't say, or the issuer.
    """
    found = (
        await _by_link(frame, request)
        or await _by_host(frame, request)
        or await _by_issuer(frame, request)
    )
    if found is not None and frame.only not in {None, found.account.id}:
        raise Stop("not_permitted", 403)
    return found


async def guessing(
    frame: Frame, request: Request, ask: Callable[[str], T | None], secret: str
) -> T | None:
    """`ask(secret)` in a worker thread: a look-up that an address is not let make too often for
    nothing.

    Raises:
        Stop: It has made too many.
        Unavailable: The store can't answer.
    """
    strangers = frame.gate.finishing.strangers
    address = address_of(frame, request)
    if not strangers.enter(address):
        raise Stop("too_many", 429)
    is_unknown = False
    try:
        found = await asked(frame.gate, ask, secret)
        is_unknown = found is None
    finally:
        strangers.leave(address, is_unknown=is_unknown)
    return found


async def _by_link(frame: Frame, request: Request) -> SignedIn | None:
    token = Cookies.of(request).session
    if not token:
        return None
    found = await guessing(frame, request, frame.gate.portal.signed_in, token)
    if found is None:
        return None
    session = found.session
    may = May("link", mark=f"link {session.id}", write=session.write, session_id=session.id)
    return SignedIn(may, found.account)


async def _by_host(frame: Frame, request: Request) -> SignedIn | None:
    """By the app around, which may block: it is asked in a thread, but for coroutines."""
    ask = frame.account_of
    if ask is None:
        return None
    if inspect.iscoroutinefunction(ask) or inspect.iscoroutinefunction(type(ask).__call__):
        answer = ask(request)
    else:
        answer = await run_in_threadpool(ask, request)
    found = await answer if inspect.isawaitable(answer) else answer
    if found is None:
        return None
    return await _with(frame, May("host", mark=f"host {found}"), found)


async def _by_issuer(frame: Frame, request: Request) -> SignedIn | None:
    verified = await _verified(frame, request)
    if verified is None:
        return None
    session = verified.session
    may = May(
        "session",
        mark=f"session {verified.key_id}",
        scopes=verified.scopes,
        by=verified.key_id,
        subject=None if session is None else session.subject,
        issued_at=None if session is None else session.issued_at,
    )
    return await _with(frame, may, verified.account_id)


async def _with(frame: Frame, may: May, account_id: object) -> SignedIn:
    account = None
    if isinstance(account_id, str) and is_id(account_id):
        account = await asked(frame.gate, frame.gate.store.account, account_id)
    if account is None:
        raise Stop("not_permitted", 403)
    return SignedIn(may, account)


async def _verified(frame: Frame, request: Request) -> Verified | None:
    """Whom an issuer's session token is of, by the gate's own authentication: what it has let
    through itself, or what comes in `Authorization` or the cookie that the settings name.
    """
    principal = request.scope.get("keyrush")
    if isinstance(principal, Principal):
        return principal.verified if principal.source == SESSION else None
    for text in _tokens(frame, request):
        if len(text) > MAX_TOKEN or text.count(b".") != _DOTS:
            continue
        scope = request.scope
        place = scope["method"], scope["path"], scope["root_path"], b""
        found = await frame.gate.finishing.identify_async(
            Credential(text), place, lambda: address_of(frame, request)
        )
        if isinstance(found, Refusal):
            if found.reason == "rate_limited":
                raise Stop("too_many", 429)
            if found is not INVALID:
                raise Unavailable(f"a session can't be verified: {found.reason}")
        elif found.source == SESSION:
            return found
    return None


def _tokens(frame: Frame, request: Request) -> list[bytes]:
    found = []
    headers = [(name, value) for name, value in request.headers.raw if name == AUTHORIZATION]
    if headers:
        sent = frame.gate.credential_headers.credential(headers)
        if isinstance(sent, Credential):
            found.append(sent.text)
    name = frame.gate.settings.dashboard_cookie
    if name is not None and (text := cookie(request, name)):
        found.append(text.encode("latin-1", "replace"))
    return found


def address_of(frame: Frame, request: Request) -> str | None:
    """The client's address, as far as the trusted proxies tell it."""
    peer = request.client
    forwarded = [value for name, value in request.headers.raw if name == b"x-forwarded-for"]
    return frame.gate.address(peer and peer.host, forwarded)
