"""The OpenAPI document of the account API, alone or as a part of the app's own."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from keyrush.apps.account_api.bodies import Change, Creation, Paging, Revocation, Rotation

_STRING: dict[str, Any] = {"type": "string"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_MOMENT: dict[str, Any] = {"type": "string", "format": "date-time"}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    """An object that has all of its properties."""
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "required": [*properties],
    }


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/Keyrush{name}"}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


_SCHEMAS: dict[str, Any] = {
    "Creation": _schema(Creation),
    "Change": _schema(Change),
    "Rotation": _schema(Rotation),
    "Revocation": _schema(Revocation),
    "Credential": _object(
        "A key, without its text (contract O4).",
        id=_STRING,
        account_id=_STRING,
        name=_STRING,
        prefix=_STRING | {"description": "What the key begins with, to know it by."},
        is_active={"type": "boolean"},
        created_at=_MOMENT,
        last_used_at=_or_null(_MOMENT),
        expires_at=_or_null(_MOMENT),
    ),
    "NewKey": _object(
        "A key and its text, which is shown this once.",
        key=_STRING,
        api_credential=_ref("Credential"),
    ),
    "Credits": _object("The account's balance.", balance=_INTEGER),
    "Usage": _object(
        "What is counted this month, UTC; without a quota `limit` and `remaining` are null.",
        month=_STRING | {"pattern": "^[0-9]{4}-[0-9]{2}$"},
        counted=_INTEGER,
        limit=_or_null(_INTEGER),
        remaining=_or_null(_INTEGER),
        overage=_INTEGER,
        overage_price_per_1000=_or_null(_STRING),
        resets_at=_MOMENT,
    ),
    "Capabilities": _object(
        "Tools with their prices in credits, and data sources.",
        tools=_list(
            _object("A tool.", name=_STRING, credits=_INTEGER, enabled={"type": "boolean"})
        ),
        sources=_list(_STRING),
    ),
    "Refusal": {  # as `keyrush.fastapi` has it, so that the two are one in a document of both
        "title": "KeyrushRefusal",
        "description": "Why a request was refused.",
        "type": "object",
        "properties": {
            "success": {"type": "boolean", "const": False},
            "error": _STRING,
            "statusCode": _INTEGER,
        },
        "required": ["success", "error", "statusCode"],
    },
    "Problems": _object(
        "What is wrong with a body or a query (contract O16).",
        detail=_list(
            _object(
                "One thing that is wrong, and where.",
                type=_STRING,
                loc=_list({"anyOf": [_STRING, _INTEGER]}),
                msg=_STRING,
                input={},
            )
        ),
    ),
}

#: As `keyrush.fastapi` names them.
_SECURITY = {
    "KeyrushBearer": {
        "type": "http",
        "description": "The API key as a bearer token.",
        "scheme": "bearer",
    },
    "KeyrushHeader": {
        "type": "apiKey",
        "description": "The API key.",
        "in": "header",
        "name": "X-API-Key",
    },
}

_REFUSED = {
    401: "The API key is missing, invalid or expired",
    403: "The API key may not do this",
    404: "There is no such credential of the account",
    413: "The body is too large",
    422: "The body or the query is wrong",
    429: "Rate limit exceeded",
    503: "Service unavailable",
}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _operation(
    summary: str,
    answer: dict[str, Any],
    *,
    status: int = 200,
    body: str | None = None,
    refused: tuple[int, ...] = (),
    **more: Any,
) -> dict[str, Any]:
    """One operation; `body` names its schema, and `refused` are statuses besides the usual ones."""
    responses = {str(status): {"description": "Done", "content": _content(answer)}}
    for code in sorted({401, 403, 429, 503, *refused}):
        said = _ref("Problems" if code == 422 else "Refusal")  # noqa: PLR2004  # O16's own shape
        responses[str(code)] = {"description": _REFUSED[code], "content": _content(said)}
    operation = {
        "summary": summary,
        "tags": ["account"],
        "security": [{name: []} for name in _SECURITY],
        "responses": responses,
        **more,
    }
    if body is not None:
        is_required = "required" in _SCHEMAS[body]
        operation["requestBody"] = {"required": is_required, "content": _content(_ref(body))}
    return operation


_ID = {
    "name": "credential_id",
    "in": "path",
    "required": True,
    "schema": _STRING,
    "description": "The `id` of one of the account's credentials.",
}


def _paging() -> list[dict[str, Any]]:
    fields = _schema(Paging)["properties"].items()
    return [{"name": name, "in": "query", "schema": schema} for name, schema in fields]


def _paths() -> dict[str, Any]:
    keys, one = "/me/api-credentials", "/me/api-credentials/{credential_id}"
    on_id: Any = {"refused": (404, 413, 422), "parameters": [_ID]}
    listed = _operation(
        "List the account's keys, oldest first",
        _list(_ref("Credential")),
        refused=(422,),
        parameters=_paging(),
    )
    listed["responses"]["200"]["headers"] = {
        "Link": {
            "description": 'The next page, `rel="next"`, where there is one',
            "schema": _STRING,
        }
    }
    capabilities = _operation("Tools, prices and sources", _ref("Capabilities"))
    create, revoke, rotate = ("Creation", "Revocation", "Rotation")
    return {
        keys: {
            "get": listed,
            "post": _operation(
                "Create a key", _ref("NewKey"), status=201, body=create, refused=(413, 422)
            ),
        },
        one: {"patch": _operation("Edit a key", _ref("Credential"), body="Change", **on_id)},
        f"{one}/revoke": {
            "post": _operation("Revoke a key", _ref("Credential"), body=revoke, **on_id)
        },
        f"{one}/rotate": {
            "post": _operation("Replace a key", _ref("NewKey"), status=201, body=rotate, **on_id)
        },
        "/me/credits": {"get": _operation("The balance", _ref("Credits"), refused=(404,))},
        "/me/usage": {"get": _operation("This month's use", _ref("Usage"), refused=(404,))},
        "/capabilities": {"get": capabilities, "post": capabilities},
    }


def openapi(prefix: str = "/v1") -> dict[str, Any]:
    """The OpenAPI 3.1 document of the account API, mounted at `prefix`."""
    from keyrush import __version__  # noqa: PLC0415  # the package imports what it is made of

    info = {"title": "Account API", "version": __version__}
    return add_openapi({"openapi": "3.1.0", "info": info, "paths": {}}, prefix)


def add_openapi(schema: dict[str, Any], prefix: str = "/v1") -> dict[str, Any]:
    """Add the account API, mounted at `prefix`, to the app's own document, and return that.

    What the document has stays as it is. Calling it twice changes nothing.
    """
    own = {prefix.rstrip("/") + path: operations for path, operations in _paths().items()}
    schema["paths"] = own | schema.get("paths", {})
    components = schema.setdefault("components", {})
    named = {f"Keyrush{name}": dict(content) for name, content in _SCHEMAS.items()}
    components["schemas"] = named | components.get("schemas", {})
    components["securitySchemes"] = _SECURITY | components.get("securitySchemes", {})
    return schema
