"""The frame around every handler: who asks, what is read, how answers and errors are written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pydantic_core
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from keyrush.apps.account_api.bodies import MAX_BODY, BadBody, Model, TooLarge, read_body
from keyrush.core.key_text import KeyFormat
from keyrush.core.refusal import UNAVAILABLE, Refusal, Refused
from keyrush.errors import (
    BeyondCaller,
    CallerEnded,
    KeyrushError,
    NotFound,
    TooManyKeys,
    Unavailable,
)
from keyrush.gate.gate import GATE, Gate
from keyrush.gate.principal import Principal
from keyrush.runtime.logs import log_fault
from keyrush.runtime.workers import Pool
from keyrush.wire.request import INVALID, MISSING

#: Keys are shown once and balances change: nothing under /me may be kept by a cache.
NO_STORE = {"Cache-Control": "no-store"}

T = TypeVar("T")
Handler = Callable[[Request, Gate, Principal], Awaitable[object]]


def answering(handler: Handler, status: int = 200) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint that answers with what `handler` returns, as JSON that is not cached."""

    async def endpoint(request: Request) -> Response:
        gate, principal = request.scope[GATE], request.scope["keyrush"]
        if principal is None:  # somebody has listed the path as public
            return refused(gate, MISSING)
        try:
            answer = await handler(request, gate, principal)
        except BadBody as bad:
            # An input such as 1e999 is no JSON when written as it was understood.
            content = pydantic_core.to_json({"detail": bad.detail}, inf_nan_mode="null")
            return Response(content, 422, NO_STORE, "application/json")
        except TooLarge:
            return refused(gate, Refusal("body_too_large", (f"{MAX_BODY:,}",)))
        except NotFound:
            # An answer and no refusal: it counts, so that ids can't be guessed for nothing.
            return refused(gate, Refusal("not_found"))
        except CallerEnded:  # as the gate will say from now on (S26)
            principal.refuse(INVALID)
        except BeyondCaller:
            principal.refuse(Refusal("beyond_caller"))
        except TooManyKeys as full:
            principal.refuse(Refusal("too_many_keys", (f"{full.limit:,}",)))
        if isinstance(answer, Response):
            return answer
        return JSONResponse(answer, status, NO_STORE)

    return endpoint


def refused(gate: Gate, refusal: Refusal) -> Response:
    """The response that the gate itself would give."""
    status, headers, body = gate.refusals.response(refusal)
    response = Response(body, status)
    response.raw_headers = headers
    return response


def key_format(gate: Gate) -> KeyFormat:
    """What keys look like here."""
    return KeyFormat(gate.settings.key_prefix, gate.settings.key_environments)


async def read(request: Request, gate: Gate, model: type[Model]) -> Model:
    """The body, as `model` says it.

    Raises:
        BadBody: It is no JSON, not what `model` says, or holds a key (O22).
        TooLarge: It has more than `MAX_BODY` bytes.
    """
    return await read_body(request.stream(), key_format(gate), model)


async def run(
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
