"""The caller as a FastAPI dependency, with its place in the OpenAPI document.

    from keyrush.fastapi import principal

    @app.get("/articles")
    async def articles(caller: Annotated[Principal, Security(principal, scopes=["read:articles"])]):
        ...

    document(app)

It reads what `KeyrushMiddleware` has found out, so the middleware must be in front of the app. Only
routes that use it show the two ways to send a key in `app.openapi()`, and after `document(app)`
also the 401, 403 and 429 responses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Annotated, Any

from keyrush.core.refusal import MEANINGS, Reason
from keyrush.gate.gate import GATE
from keyrush.gate.principal import Caller, Principal
from keyrush.wire.request import MISSING

try:
    from fastapi import FastAPI, Security
    from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBearer
    from fastapi.openapi.models import SecurityBase as SchemeModel
    from fastapi.requests import HTTPConnection
    from fastapi.security import SecurityScopes
    from fastapi.security.base import SecurityBase
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "keyrush.fastapi needs FastAPI: pip install 'keyrush[fastapi]'", name=error.name
    ) from error


class _Scheme(SecurityBase):
    """A way to send a key, for the document alone: the middleware has read the key."""

    def __init__(self, name: str, model: SchemeModel) -> None:
        self.scheme_name = name
        self.model = model

    async def __call__(self) -> None:
        """Ask nothing of the request, so that it works for WebSockets too."""


_BEARER = _Scheme("KeyrushBearer", HTTPBearer(description="The API key as a bearer token."))
_HEADER = _Scheme(
    "KeyrushHeader",
    APIKey.model_validate(
        {"in": APIKeyIn.header, "name": "X-API-Key", "description": "The API key."}
    ),
)


async def principal(
    connection: HTTPConnection,
    security_scopes: SecurityScopes,
    _bearer: Annotated[None, Security(_BEARER)],
    _header: Annotated[None, Security(_HEADER)],
) -> Principal:
    """The caller, who has all scopes named in `Security(principal, scopes=[...])`.

    Raises:
        Refused: 403 if a scope is missing (S17); 401 on a public path, where nobody is known.
        RuntimeError: There is no `KeyrushMiddleware` in front of the app.
    """
    if GATE not in connection.scope:
        raise RuntimeError(
            "keyrush.fastapi.principal needs KeyrushMiddleware in front of the app: "
            "app.add_middleware(KeyrushMiddleware)"
        )
    caller: Caller = connection.scope["keyrush.caller"]
    if not isinstance(caller, Principal):
        caller.refuse(MISSING)
    caller.require_scope(*security_scopes.scopes)
    return caller


# --- the OpenAPI document ----------------------------------------------------------------------

_SCHEMA = {
    "title": "KeyrushRefusal",
    "description": "Why a request was refused.",
    "type": "object",
    "properties": {
        "success": {"type": "boolean", "const": False},
        "error": {"type": "string"},
        "statusCode": {"type": "integer"},
    },
    "required": ["success", "error", "statusCode"],
}


def _response(header: str, meaning: str, kind: str, *reasons: Reason) -> dict[str, Any]:
    said = dict.fromkeys(MEANINGS[reason].said() for reason in reasons)
    return {
        "description": " ".join(said),
        "headers": {header: {"description": meaning, "schema": {"type": kind}}},
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/KeyrushRefusal"}}
        },
    }


_RESPONSES = {
    "401": _response(
        "WWW-Authenticate", "RFC 6750", "string", "missing_credential", "invalid_credential"
    ),
    "403": _response(
        "WWW-Authenticate",
        "RFC 6750, with the missing scope; absent where no scope would help",
        "string",
        "insufficient_scope",
        "module_not_in_plan",
    ),
    "429": _response(
        "Retry-After",
        "Seconds to wait before trying again",
        "integer",
        "rate_limited",
        "quota_exceeded",
    ),
}


def add_responses(schema: dict[str, Any]) -> dict[str, Any]:
    """Add the 401, 403 and 429 responses to every operation that needs a key, and return `schema`.

    Call it if you make the document yourself with `get_openapi`; `document` makes `app.openapi()`
    do it. Responses that a route documents itself stay as they are, for example if you use another
    `KEYRUSH_ERRORS`. Calling it twice changes nothing.
    """
    names = {_BEARER.scheme_name, _HEADER.scheme_name}
    for path in schema.get("paths", {}).values():
        for operation in path.values():
            security = operation.get("security", ()) if isinstance(operation, dict) else ()
            if any(names & requirement.keys() for requirement in security):
                schema["components"].setdefault("schemas", {})["KeyrushRefusal"] = copy.deepcopy(
                    _SCHEMA
                )
                for status, response in _RESPONSES.items():
                    operation["responses"].setdefault(status, copy.deepcopy(response))
    return schema


class _Documented:
    """An app's own way to make its document, with the responses added."""

    def __init__(self, openapi: Callable[[], dict[str, Any]]) -> None:
        self._openapi = openapi

    def __call__(self) -> dict[str, Any]:
        return add_responses(self._openapi())


def document(app: FastAPI) -> None:
    """Make `app.openapi()`, and what the app serves of it, show the 401, 403 and 429 responses of
    each operation that needs a key, of present and later routes, by `add_responses`.

    If you have given the app its own `openapi`, that still makes the document. Calling it twice
    changes nothing; a mounted app has its own document.
    """
    # FastAPI takes responses from routes, routers and apps, but not from dependencies, and tells
    # a dependency nothing of the route it is in.
    if not isinstance(app.openapi, _Documented):
        app.openapi = _Documented(app.openapi)  # type: ignore[method-assign]  # as FastAPI extends it
