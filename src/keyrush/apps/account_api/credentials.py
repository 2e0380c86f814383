"""The operations on keys, asked for by a key or a session (contract O17): none makes a key that
may do more than itself.

A key that a session makes may outlive it, because the session stands for a person. An OAuth client
stands for one by what it was granted: it is let in here with the scope `CREDENTIALS` alone.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse

from keyrush.apps.account_api.bodies import (
    BadBody,
    Change,
    Creation,
    Revocation,
    Rotation,
    wrong,
)
from keyrush.apps.account_api.frame import NO_STORE, key_format, read, run
from keyrush.apps.account_api.queries import Paging, read_query, wrong_query
from keyrush.core.checks import is_id
from keyrush.core.identity import KEY
from keyrush.core.issuers import KINDS, OAUTH
from keyrush.core.model import ApiKey, Limit, Scopes
from keyrush.core.refusal import Refusal
from keyrush.core.times import NEVER, SECOND, iso
from keyrush.errors import BeyondCaller, CallerEnded, InvalidArgument, NotFound
from keyrush.gate.gate import Gate
from keyrush.gate.principal import Principal
from keyrush.operations.documents import credential_json, new_key_json
from keyrush.operations.keys import NewKey

#: Of a token of an OAuth client, what lets it list, make, replace and revoke keys.
CREDENTIALS = "api-credentials"


def _admit(principal: Principal) -> None:
    """Go on only if the caller may ask for anything here.

    Raises:
        Refused: 403; it is an OAuth client that was not granted it.
    """
    if principal.source == OAUTH:
        principal.require_scope(CREDENTIALS)


async def create(request: Request, gate: Gate, principal: Principal) -> object:
    """A new key of the account (contract O4)."""
    _admit(principal)
    wanted = await read(request, gate, Creation)
    caller = await run(gate, principal, "io", _caller, gate, principal)
    if caller.is_limited:  # each new key would be as much again
        principal.refuse(Refusal("beyond_caller"))
    scopes = wanted.scopes or _given(gate, principal)
    # Without any scope, `Keys.create` would give `*`.
    missing = {scope for scope in scopes or ["*"] if scope not in principal.scopes}
    if missing:  # named only where the configuration does, never because the request did (S16)
        names = tuple(sorted(missing & gate.catalog.known_scopes))
        principal.refuse(Refusal("insufficient_scope", names))
    expires_at = _no_later(caller.ends_at, wanted)

    def create() -> NewKey:
        return gate.keys.create(
            principal.account_id,
            wanted.name,
            scopes=scopes,
            environment=principal.environment,
            expires_at=expires_at,
            **_by(principal),
        )

    try:
        return _shown_once(gate, await run(gate, principal, "hash", create))
    except InvalidArgument as error:
        raise wrong(error, wanted) from None


class _Caller(NamedTuple):
    """What bounds the keys that a caller makes."""

    limits: tuple[Limit, ...] | None = None
    ends_at: int | None = None
    is_limited: bool = False


def _caller(gate: Gate, principal: Principal) -> _Caller:
    """The calling key or session as it is stored now, if it may make keys.

    Raises:
        CallerEnded: It is no longer active.
        BeyondCaller: It is a key that has been replaced.
    """
    known = principal.verified
    if known.source in KINDS:
        link = gate.store.link(known.key_id)
        if link is None or not link.admits(_issued_at(principal)):
            raise CallerEnded("the calling session has ended")
        return _Caller()
    try:
        caller = gate.keys.get(known.key_id, known.account_id)
    except NotFound:
        caller = None
    if caller is None or not caller.is_active(gate.clock()):
        raise CallerEnded("the calling key has ended")
    if caller.retires_at is not None:
        raise BeyondCaller("the calling key has been replaced")
    return _Caller(caller.limits, caller.ends_at, caller.is_limited)


def _issued_at(principal: Principal) -> int | None:
    session = principal.verified.session
    return None if session is None else session.issued_at


def _by(principal: Principal) -> dict[str, Any]:
    """Who asks, as the operations take it."""
    return {"by": principal.verified.key_id, "issued_at": _issued_at(principal)}


def _granted(principal: Principal) -> list[str] | None:
    """The scopes of the token by which a link asks; None of a key, whose own are in the store."""
    return None if principal.source == KEY else list(principal.scopes)


def _given(gate: Gate, principal: Principal) -> list[str]:
    """The scopes of a new key where none are named: the caller's, but those of a token that are
    for something else, as `openid` is.
    """
    known = gate.catalog.known_scopes
    if principal.source == KEY or not known:
        return list(principal.scopes)
    return [scope for scope in principal.scopes if any(name in Scopes([scope]) for name in known)]


def _credential_id(request: Request) -> str:
    """The id in the path.

    Raises:
        NotFound: It can't be one.
    """
    key_id: str = request.path_params["credential_id"]
    if not is_id(key_id):
        raise NotFound("no such credential")
    return key_id


async def list_(request: Request, gate: Gate, principal: Principal) -> object:
    """A page of the account's keys (contract O5)."""
    _admit(principal)
    wanted = read_query(request.query_params.multi_items(), key_format(gate), Paging)
    list_keys = partial(
        gate.keys.list, principal.account_id, limit=wanted.limit, after=wanted.cursor
    )
    try:
        page = await run(gate, principal, "io", list_keys)
    except InvalidArgument as error:
        raise wrong_query(error, wanted) from None
    now = gate.clock()
    headers = dict(NO_STORE)
    if page.cursor is not None:  # relative to what was asked for, wherever that is mounted
        headers["Link"] = f'<?limit={wanted.limit}&cursor={page.cursor}>; rel="next"'
    return JSONResponse([credential_json(key, now) for key in page], headers=headers)


async def revoke(request: Request, gate: Gate, principal: Principal) -> object:
    """Revoke a key of the account, on request with what it has made (contract O6)."""
    _admit(principal)
    key_id = _credential_id(request)
    wanted = await read(request, gate, Revocation)

    def revoke() -> ApiKey:
        _look_at_sandbox(gate, principal, gate.keys.get(key_id, principal.account_id))
        done = gate.keys.revoke_with_descendants if wanted.descendants else gate.keys.revoke
        revoked = done(key_id, principal.account_id, **_by(principal))
        return revoked if isinstance(revoked, ApiKey) else revoked[0]

    return credential_json(await run(gate, principal, "io", revoke), gate.clock())


async def rotate(request: Request, gate: Gate, principal: Principal) -> object:
    """Replace a key of the account by one that may do no more than the caller (contract R17)."""
    _admit(principal)
    key_id = _credential_id(request)
    wanted = await read(request, gate, Rotation)
    caller = await run(gate, principal, "io", _caller, gate, principal)
    key = await run(gate, principal, "io", gate.keys.get, key_id, principal.account_id)
    principal.require_scope(*(scope for scope in key.scopes if scope not in principal.scopes))
    is_of_another = principal.source == KEY and key.environment != principal.environment
    if is_of_another or _may_ask_more(key, caller, principal):
        principal.refuse(Refusal("beyond_caller"))
    expires_at = _no_later(caller.ends_at, wanted, default=key.expires_at)

    def rotate() -> NewKey:
        return gate.keys.rotate(
            key_id,
            principal.account_id,
            grace=wanted.grace,
            expires_at=expires_at,
            granted=_granted(principal),
            **_by(principal),
        )

    try:
        return _shown_once(gate, await run(gate, principal, "hash", rotate))
    except InvalidArgument as error:
        raise _wrong(error, wanted, key_id) from None


async def edit(request: Request, gate: Gate, principal: Principal) -> object:
    """Change the name, the scopes or the end of a key of the account: what takes from it as who may
    revoke it, what gives as who could make it so.
    """
    _admit(principal)
    key_id = _credential_id(request)
    wanted = await read(request, gate, Change)
    given = _milliseconds(wanted.expires_at)
    ends = NEVER if given is None and "expires_at" in wanted.model_fields_set else given

    def edit() -> ApiKey:
        _look_at_sandbox(gate, principal, gate.keys.get(key_id, principal.account_id))
        return gate.keys.edit(
            key_id,
            principal.account_id,
            name=wanted.name,
            scopes=wanted.scopes,
            expires_at=ends,
            granted=_granted(principal),
            **_by(principal),
        )

    try:
        return credential_json(await run(gate, principal, "io", edit), gate.clock())
    except InvalidArgument as error:
        raise _wrong(error, wanted, key_id) from None


def _wrong(error: InvalidArgument, wanted: Change | Rotation, key_id: str) -> BadBody:
    """What an operation found wrong with a field of the body, or with the key itself."""
    if error.field != "credential":
        return wrong(error, wanted)
    loc: list[str | int] = ["path", "credential_id"]
    return BadBody("value_error", loc, error.message, key_id)


def _look_at_sandbox(gate: Gate, principal: Principal, key: ApiKey) -> None:
    """Go on only if it is no sandbox key that would manage one that is none.

    Raises:
        Refused: 403; it is.
    """
    sandbox = gate.catalog.unmetered
    if principal.environment in sandbox and key.environment not in sandbox:
        principal.refuse(Refusal("beyond_caller"))


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _may_ask_more(key: ApiKey, caller: _Caller, principal: Principal) -> bool:
    """Whether a key may make more requests than the calling one, in any of its windows, or at
    once.
    """
    most, at_once = principal.verified.max_concurrent, key.max_concurrent
    if at_once is None:
        at_once = principal.verified.plan.max_concurrent
    if most is not None and (at_once is None or at_once > most):
        return True
    if key.limits is None:
        return caller.limits is not None
    own = {limit.seconds * SECOND: limit.amount for limit in key.limits}
    return any(own.get(w.length, w.amount + 1) > w.amount for w in principal.verified.windows)


def _no_later(
    ends_at: int | None, wanted: Creation | Rotation, *, default: int | None = None
) -> int | None:
    """When the new key is to expire: as wanted, but not later than the caller itself ends.

    Raises:
        BadBody: It is wanted to live longer.
    """
    given = _milliseconds(wanted.expires_at)
    expires_at = default if given is None else given
    if ends_at is None or (expires_at is not None and expires_at <= ends_at):
        return expires_at
    if wanted.expires_at is not None:
        message = f"should not be later than the calling key's own end, {iso(ends_at)}"
        raise wrong(InvalidArgument("expires_at", message), wanted)
    return ends_at


def _shown_once(gate: Gate, new: NewKey) -> object:
    return new_key_json(new, credential_json(new.key, gate.clock()))
