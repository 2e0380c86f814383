"""The account API (contract O3 to O7, O12, O15 to O17): an ASGI app to mount behind the gate.

    Mount("/v1", app=account_api)        # Starlette
    app.mount("/v1", account_api)        # FastAPI, after the app's own routes under /v1

serves, under that path:

- `POST /me/api-credentials` `{"name", "expires_at"?, "scopes"?}`: a new key, shown this once
- `GET /me/api-credentials?limit&cursor`: the account's keys, without their texts, oldest first;
  where there are more, a `Link` header names the next page
- `POST /me/api-credentials/{id}/revoke` `{"descendants"?: also what it has made}`
- `POST /me/api-credentials/{id}/rotate` `{"grace"?: seconds, "expires_at"?}`
- `GET /me/credits` and `GET /me/usage`
- `GET` or `POST /capabilities`: tools and their prices. Public once `public_paths` lists it.
- `GET /openapi.json`: what `openapi` gives

A body or a query that is wrong is answered 422 (O16); every other error, an unknown path and a
wrong method too, in the documented form (R8), or the one that `KEYRUSH_ERRORS` names.

No key makes one that may do more than itself: what is created or rotated has no scope that the
caller lacks, the caller's environment, and no later end; a key with limits of its own makes no
other. Revoking needs no more than a key of the account, but that a key of an environment that is
not metered manages no other keys than such. A key that has been replaced manages none but itself,
and one that ends while it asks gets nothing done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import pydantic_core

from keyrush.apps.bodies import (
    MAX_BODY,
    BadBody,
    Creation,
    Model,
    Revocation,
    Rotation,
    TooLarge,
    paging,
    read,
    wrong,
)
from keyrush.apps.openapi import add_openapi, openapi
from keyrush.core.checks import is_id
from keyrush.core.key_text import KeyFormat
from keyrush.core.model import ApiKey
from keyrush.core.refusal import UNAVAILABLE, Refusal, Refused
from keyrush.core.times import SECOND, iso
from keyrush.errors import (
    BeyondCaller,
    CallerEnded,
    InvalidArgument,
    KeyrushError,
    NotFound,
    TooManyKeys,
    Unavailable,
)
from keyrush.gate.gate import GATE, Gate
from keyrush.gate.principal import Principal
from keyrush.operations.documents import as_json
from keyrush.operations.keys import NewKey
from keyrush.operations.usage import MonthlyUsage
from keyrush.runtime.logs import log_fault
from keyrush.runtime.workers import Pool
from keyrush.wire.request import INVALID, MISSING

try:
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route, Router
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.websockets import WebSocketClose
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "keyrush.apps.account_api needs Starlette: pip install 'keyrush[api]'", name=error.name
    ) from error

#: Keys are shown once and balances change: nothing under /me may be kept by a cache.
_NO_STORE = {"Cache-Control": "no-store"}

T = TypeVar("T")
Handler = Callable[[Request, Gate, Principal], Awaitable[object]]


# --- the frame around every handler ------------------------------------------------------------


def _me(handler: Handler, status: int = 200) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint that answers with what `handler` returns, as JSON that is not cached."""

    async def endpoint(request: Request) -> Response:
        gate, principal = request.scope[GATE], request.scope["keyrush"]
        if principal is None:  # somebody has listed the path as public
            return _refused(gate, MISSING)
        try:
            answer = await handler(request, gate, principal)
        except BadBody as bad:
            # An input such as 1e999 is no JSON when written as it was understood.
            content = pydantic_core.to_json({"detail": bad.detail}, inf_nan_mode="null")
            return Response(content, 422, _NO_STORE, "application/json")
        except TooLarge:
            return _refused(gate, Refusal("body_too_large", (f"{MAX_BODY:,}",)))
        except NotFound:
            # An answer and no refusal: it counts, so that ids can't be guessed for nothing.
            return _refused(gate, Refusal("not_found"))
        except CallerEnded:  # as the gate will say from now on (S26)
            principal.refuse(INVALID)
        except BeyondCaller:
            principal.refuse(Refusal("beyond_caller"))
        except TooManyKeys as full:
            principal.refuse(Refusal("too_many_keys", (f"{full.limit:,}",)))
        if isinstance(answer, Response):
            return answer
        return JSONResponse(answer, status, _NO_STORE)

    return endpoint


def _refused(gate: Gate, refusal: Refusal) -> Response:
    status, headers, body = gate.refusals.response(refusal)
    response = Response(body, status)
    response.raw_headers = headers
    return response


def _keys(gate: Gate) -> KeyFormat:
    return KeyFormat(gate.settings.key_prefix, gate.settings.key_environments)


async def _read(request: Request, gate: Gate, model: type[Model]) -> Model:
    return await read(request.stream(), _keys(gate), model)


async def _run(
    gate: Gate, principal: Principal, pool: Pool, function: Callable[..., T], *args: Any
) -> T:
    """`function(*args)`, off the event loop.

    Raises:
        Refused: 503, where the store can't answer (contract O15, S19).
        KeyrushError: Whatever else `function` raises.
    """
    try:
        return await gate.workers.run(pool, function, *args)
    except Exception as error:
        if isinstance(error, KeyrushError) and not isinstance(error, Unavailable):
            raise
        log_fault("the store can't answer the account API", error)
        principal.refusal = UNAVAILABLE
        raise Refused(UNAVAILABLE) from error


# --- keys --------------------------------------------------------------------------------------


async def _create(request: Request, gate: Gate, principal: Principal) -> object:
    wanted = await _read(request, gate, Creation)
    caller = await _run(gate, principal, "io", _caller, gate, principal)
    if caller.limits is not None:  # each new key would be as much again
        principal.refuse(Refusal("beyond_caller"))
    scopes = wanted.scopes or list(principal.scopes)
    # Without any scope, `create_key` would give `*`.
    missing = {scope for scope in scopes or ["*"] if scope not in principal.scopes}
    if missing:  # named only where the configuration does, never because the request did (S16)
        names = tuple(sorted(missing & gate.settings.known_scopes))
        principal.refuse(Refusal("insufficient_scope", names))
    expires_at = _no_later(caller.ends_at, wanted)

    def create() -> NewKey:
        return gate.accounts.create_key(
            principal.account_id,
            wanted.name,
            scopes=scopes,
            environment=principal.environment,
            expires_at=expires_at,
            by=principal.key_id,
        )

    try:
        return _shown_once(gate, await _run(gate, principal, "hash", create))
    except InvalidArgument as error:
        raise wrong(error, wanted) from None


def _caller(gate: Gate, principal: Principal) -> ApiKey:
    """The calling key as it is stored now, if it may make others.

    Raises:
        CallerEnded: It is no longer active.
        BeyondCaller: It has been replaced.
    """
    try:
        caller = gate.accounts.key(principal.key_id, principal.account_id)
    except NotFound:
        caller = None
    if caller is None or not caller.is_active(gate.clock()):
        raise CallerEnded("the calling key has ended")
    if caller.retires_at is not None:
        raise BeyondCaller("the calling key has been replaced")
    return caller


def _credential_id(request: Request) -> str:
    """The id in the path.

    Raises:
        NotFound: It can't be one.
    """
    key_id: str = request.path_params["credential_id"]
    if not is_id(key_id):
        raise NotFound("no such credential")
    return key_id


async def _list(request: Request, gate: Gate, principal: Principal) -> object:
    wanted = paging(request.query_params, _keys(gate))
    list_keys = partial(
        gate.accounts.keys, principal.account_id, limit=wanted.limit, after=wanted.cursor
    )
    try:
        page = await _run(gate, principal, "io", list_keys)
    except InvalidArgument as error:
        loc: list[str | int] = ["query", error.field]
        raise BadBody("value_error", loc, error.message, wanted.cursor) from None
    now = gate.clock()
    headers = dict(_NO_STORE)
    if page.cursor is not None:  # relative to what was asked for, wherever that is mounted
        headers["Link"] = f'<?limit={wanted.limit}&cursor={page.cursor}>; rel="next"'
    return JSONResponse([as_json(key, now) for key in page], headers=headers)


async def _revoke(request: Request, gate: Gate, principal: Principal) -> object:
    key_id = _credential_id(request)
    wanted = await _read(request, gate, Revocation)

    def revoke() -> ApiKey:
        key = gate.accounts.key(key_id, principal.account_id)
        sandbox = gate.settings.unmetered_environments
        if principal.environment in sandbox and key.environment not in sandbox:
            principal.refuse(Refusal("beyond_caller"))
        done = gate.accounts.revoke_with_descendants if wanted.descendants else gate.accounts.revoke
        revoked = done(key_id, principal.account_id, by=principal.key_id)
        return revoked if isinstance(revoked, ApiKey) else revoked[0]

    return as_json(await _run(gate, principal, "io", revoke), gate.clock())


async def _rotate(request: Request, gate: Gate, principal: Principal) -> object:
    key_id = _credential_id(request)
    wanted = await _read(request, gate, Rotation)
    caller = await _run(gate, principal, "io", _caller, gate, principal)
    key = await _run(gate, principal, "io", gate.accounts.key, key_id, principal.account_id)
    principal.require_scope(*(scope for scope in key.scopes if scope not in principal.scopes))
    if key.environment != principal.environment or _may_ask_more(key, caller, principal):
        principal.refuse(Refusal("beyond_caller"))
    expires_at = _no_later(caller.ends_at, wanted, default=key.expires_at)

    def rotate() -> NewKey:
        return gate.accounts.rotate(
            key_id,
            principal.account_id,
            grace=wanted.grace,
            expires_at=expires_at,
            by=principal.key_id,
        )

    try:
        return _shown_once(gate, await _run(gate, principal, "hash", rotate))
    except InvalidArgument as error:
        if error.field != "credential":
            raise wrong(error, wanted) from None
        loc: list[str | int] = ["path", "credential_id"]
        raise BadBody("value_error", loc, error.message, key_id) from None


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _may_ask_more(key: ApiKey, caller: ApiKey, principal: Principal) -> bool:
    """Whether a key may make more requests than the calling one, in any of its windows."""
    if key.limits is None:
        return caller.limits is not None
    own = {limit.seconds * SECOND: limit.amount for limit in key.limits}
    return any(own.get(w.length, w.amount + 1) > w.amount for w in principal.resolved.windows)


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
    return {"key": new.text, "api_credential": as_json(new.key, gate.clock())}


# --- credits, usage, capabilities --------------------------------------------------------------


async def _credits(_: Request, gate: Gate, principal: Principal) -> object:
    account = await _run(gate, principal, "io", gate.accounts.account, principal.account_id)
    return {"balance": account.balance}


async def _usage(_: Request, gate: Gate, principal: Principal) -> object:
    """This month of whatever the plan counts, this request included (contract R12, R13, R18)."""

    def usage() -> MonthlyUsage:
        gate.usage.flush()
        return gate.accounts.usage(principal.account_id, principal.key_id)

    used = await _run(gate, principal, "io", usage)
    return {
        "month": used.month,
        "counted": used.counted,
        "limit": used.limit,
        "remaining": None if used.limit is None else max(0, used.limit - used.counted),
        "overage": used.overage,
        "overage_price_per_1000": None if used.overage_price is None else str(used.overage_price),
        "resets_at": iso(used.resets_at),
    }


async def _capabilities(request: Request) -> Response:
    settings = request.scope[GATE].settings
    prices: dict[str, int] = {}
    for rule in settings.rule_values:
        if rule.tool is not None:
            prices.setdefault(rule.tool, rule.credits)
    tools = [{"name": name, "credits": price, "enabled": True} for name, price in prices.items()]
    return JSONResponse({"tools": tools, "sources": list(settings.sources)})


async def _document(request: Request) -> Response:
    mounted_at: str = request.scope.get("root_path", "")
    if not mounted_at:  # some frameworks tell by the path as it was sent, or not at all
        sent: bytes = request.scope.get("raw_path") or b""
        mounted_at = sent.decode("ascii", "replace").removesuffix("/openapi.json")
    return JSONResponse(openapi(mounted_at))


# --- what is served where ----------------------------------------------------------------------


class _WrongMethod:
    """Answers what none of a path's routes do, with the documented body (R8)."""

    def __init__(self, methods: set[str]) -> None:
        self._allow = (b"allow", ", ".join(sorted(methods)).encode("ascii"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = Refusal("method_not_allowed", headers=(self._allow,))
        await _refused(scope[GATE], refusal)(scope, receive, send)


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    answer: ASGIApp = WebSocketClose()
    if scope["type"] == "http":
        answer = _refused(scope[GATE], Refusal("not_found"))
    await answer(scope, receive, send)


_routes = [
    Route("/me/api-credentials", _me(_create, 201), methods=["POST"]),
    Route("/me/api-credentials", _me(_list), methods=["GET"]),
    Route("/me/api-credentials/{credential_id}/revoke", _me(_revoke), methods=["POST"]),
    Route("/me/api-credentials/{credential_id}/rotate", _me(_rotate, 201), methods=["POST"]),
    Route("/me/credits", _me(_credits), methods=["GET"]),
    Route("/me/usage", _me(_usage), methods=["GET"]),
    Route("/capabilities", _capabilities, methods=["GET", "POST"]),
    Route("/openapi.json", _document, methods=["GET"]),
]


def _methods(path: str) -> set[str]:
    return set[str]().union(*(one.methods or () for one in _routes if one.path == path))


_router = Router(
    [
        *_routes,
        *(Route(path, _WrongMethod(_methods(path))) for path in {one.path: 0 for one in _routes}),
    ],
    default=_no_route,
    redirect_slashes=False,
)


async def account_api(scope: Scope, receive: Receive, send: Send) -> None:
    """The account API, an ASGI app. See the module for what it serves.

    Raises:
        RuntimeError: There is no `KeyrushMiddleware` in front of it.
    """
    if scope["type"] != "lifespan" and GATE not in scope:
        raise RuntimeError(
            "keyrush.apps.account_api must not be reached but through KeyrushMiddleware: "
            "app.add_middleware(KeyrushMiddleware)"
        )
    path = scope.get("path", "")
    if path.endswith("/"):  # which never matters, and which Litestar puts at the end of a mount's
        scope = {**scope, "path": path[:-1]}
    await _router(scope, receive, send)


__all__ = ["MAX_BODY", "account_api", "add_openapi", "openapi"]
