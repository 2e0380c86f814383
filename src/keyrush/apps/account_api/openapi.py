"""The OpenAPI document of the account API, alone or as a part of the app's own."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from keyrush.apps.account_api.bodies import Change, Creation, Revocation, Rotation
from keyrush.apps.account_api.queries import ActivityQuery, LedgerQuery, Paging, SummaryQuery
from keyrush.core.activity import Group, Outcome, Source
from keyrush.core.ledger import Reason
from keyrush.core.ledger import Source as LedgerSource
from keyrush.operations.activity import Bins

_STRING: dict[str, Any] = {"type": "string"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_NUMBER: dict[str, Any] = {"type": "number"}
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


def _one_of(literal: Any) -> dict[str, Any]:
    return {"type": "string", "enum": [*_values(literal)]}


def _values(literal: Any) -> list[str]:
    """What a literal, or a union of them, may be."""
    found = [get_args(one) or (one,) for one in get_args(literal)]
    return [value for values in found for value in values]


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
    "Ledger": _object(
        "Some of what has changed the balance, newest first; `next_cursor` names what follows.",
        entries=_list(_ref("Entry")),
        next_cursor=_or_null(_STRING),
    ),
    "Entry": _object(
        "A change of the balance; `amount` is negative where credits went.",
        id=_INTEGER,
        at=_MOMENT,
        amount=_INTEGER,
        balance=_INTEGER | {"description": "After it."},
        reason=_one_of(Reason),
        reference=_or_null(_STRING),
        reverses=_or_null(_STRING | {"description": "The reference of a charge."}),
        source=_one_of(LedgerSource),
        credential_id=_or_null(_STRING),
        subject=_or_null(_STRING),
        rule=_or_null(_STRING),
        request_id=_or_null(_STRING),
        note=_or_null(_STRING),
        expires_at=_or_null(_MOMENT),
    ),
    "Activity": _object(
        "Some of what was asked, newest first; `next_cursor` names what follows.",
        activity=_list(_ref("Request")),
        next_cursor=_or_null(_STRING),
        total=_INTEGER | {"description": "Counted no further than 1,000."},
        has_more_than_total={"type": "boolean"},
    ),
    "Request": _object(
        "A request, or a call of an MCP server (contract O20).",
        id=_STRING,
        at=_MOMENT,
        credential_id=_STRING,
        subject=_or_null(_STRING),
        source=_one_of(Source),
        method=_STRING,
        path=_STRING | {"description": "Or the tool."},
        rule=_or_null(_STRING),
        status=_INTEGER | {"description": "0 where there was no answer."},
        outcome=_one_of(Outcome),
        reason=_or_null(_STRING | {"description": "Why it was refused."}),
        credits=_INTEGER,
        duration_ms=_NUMBER,
        request_id=_or_null(_STRING),
        address=_or_null(_STRING),
        agent=_or_null(_STRING),
    ),
    "Summary": _object(
        "Totals of what was asked in bins, from `since` on and before `until`; bins of nothing are "
        "left out.",
        by=_one_of(Bins),
        group=_or_null(_one_of(Group)),
        since=_MOMENT,
        until=_MOMENT,
        durations_up_to_ms=_list(_NUMBER),
        totals=_list(
            _object(
                "What has one value of `group` in common, within a bin.",
                at=_MOMENT,
                value=_or_null(_STRING),
                requests=_INTEGER,
                credits=_INTEGER,
                duration_ms=_NUMBER | {"description": "Their sum."},
                longest_ms=_NUMBER,
                durations=_list(_INTEGER)
                | {"description": "How many are up to each bound, and last how many are above."},
            )
        ),
    ),
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


def _query(model: type[BaseModel]) -> list[dict[str, Any]]:
    fields = _schema(model)["properties"].items()
    return [{"name": name, "in": "query", "schema": schema} for name, schema in fields]


def _listing(summary: str, answer: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """What reads by a query."""
    return _operation(summary, answer, refused=(422,), parameters=_query(model))


def _paths() -> dict[str, Any]:
    keys, one = "/me/api-credentials", "/me/api-credentials/{credential_id}"
    on_id: Any = {"refused": (404, 413, 422), "parameters": [_ID]}
    listed = _listing("List the account's keys, oldest first", _list(_ref("Credential")), Paging)
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
        "/me/credits/ledger": {
            "get": _listing("What has changed the balance", _ref("Ledger"), LedgerQuery)
        },
        "/me/activity": {"get": _listing("What was asked", _ref("Activity"), ActivityQuery)},
        "/me/activity/summary": {
            "get": _listing("Totals of what was asked", _ref("Summary"), SummaryQuery)
        },
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
