"""The OpenAPI document of the account API: valid, whole, and true of what is answered."""
# jsonschema brings no types.
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from typing import Annotated, Any

import httpx2
import jsonschema
import pytest
from fastapi import FastAPI, Security
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.routing import Mount

import keyrush.fastapi
from keyrush import Gate, KeyrushMiddleware
from keyrush.apps.account_api import account_api, add_openapi, openapi
from keyrush.apps.account_api.app import ROUTES
from keyrush.store.opening import activity_of
from tests.conftest import Clock, settings
from tests.support.activity import row
from tests.support.serving import serve

METHODS = {"get", "post", "put", "delete", "patch"}


def fits(document: dict[str, Any], path: str, method: str, reply: httpx2.Response) -> None:
    """Fail unless the document has this status for the operation, and its schema for the body."""
    responses = document["paths"][path][method]["responses"]
    schema = responses[str(reply.status_code)]["content"]["application/json"]["schema"]
    jsonschema.validate(reply.json(), schema | {"components": document["components"]})


@pytest.mark.parametrize("prefix", ["/v1", "/v1/", "", "/api/account"])
def test_document(prefix: str) -> None:
    """It is valid, and has every route of the account API but its own, by each of its methods."""
    document = openapi(prefix)
    validate(document)
    told = {
        (path, method)
        for path, operations in document["paths"].items()
        for method in operations
        if method in METHODS
    }
    served = {
        (prefix.rstrip("/") + one.path, method.lower())
        for one in ROUTES
        for method in set(one.methods or ()) - {"HEAD"}
    }
    assert told == served - {(prefix.rstrip("/") + "/openapi.json", "get")}


def test_it_is_true(clock: Clock) -> None:
    """O3 to O7, O16, O20: what is answered, and what is refused, is as the document says."""
    document = openapi()
    gate = Gate.open(settings(plans={"one": {"limits": "26/minute"}}), clock=clock)
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "first")
    gate.credits.add("acct_a", 5, note="n", expires_at=clock() + 60_000)
    mcp = row(2, source="mcp", subject="user-1", rule="", outcome="limited", reason="rate_limited")
    activity_of(gate.store).add_activity([row(1, at=clock()), mcp])
    app = Starlette(routes=[Mount("/v1", app=account_api)])
    app.add_middleware(KeyrushMiddleware, gate=gate)
    one = "/v1/me/api-credentials/{credential_id}"
    keys = "/v1/me/api-credentials"
    requests: list[tuple[str, str, Any, int]] = [
        ("post", keys, {"name": "n", "expires_at": "2027-01-01T00:00:00Z"}, 201),
        ("post", keys, {"name": "n", "scopes": ["read:a"]}, 201),
        ("post", keys, {"nam": "n"}, 422),
        ("post", keys, [" " * 70_000], 413),
        ("get", keys, None, 200),
        ("get", f"{keys}?limit=0", None, 422),
        ("get", "/v1/me/credits", None, 200),
        ("get", "/v1/me/credits/ledger", None, 200),
        ("get", "/v1/me/credits/ledger?reason=gift", None, 422),
        ("get", "/v1/me/activity", None, 200),
        ("get", "/v1/me/activity?since=now", None, 422),
        ("get", "/v1/me/activity/summary?group=source", None, 200),
        ("get", "/v1/me/activity/summary?by=week", None, 422),
        ("get", "/v1/me/activity/summary?by=all", None, 422),
        ("get", "/v1/me/usage", None, 200),
        ("get", "/v1/capabilities", None, 200),
        ("post", "/v1/capabilities", None, 200),
        ("patch", one, {"name": "other", "scopes": ["read:a"]}, 200),
        ("patch", one, {"expires_at": None}, 200),
        ("patch", one, {"scopes": []}, 422),
        ("post", f"{one}/revoke", {"all": 1}, 422),
        ("post", f"{one}/rotate", {"grace": 60}, 201),
        ("post", f"{one}/revoke", {"descendants": True}, 200),
    ]
    with serve(app) as url, httpx2.Client(base_url=url) as client:
        made = gate.keys.create("acct_a", "second").key
        for method, path, body, status in requests:
            sent = path.replace("{credential_id}", made.id)
            reply = client.request(method, sent, headers={"X-API-Key": key.text}, json=body)
            assert reply.status_code == status, (path, reply.text)
            fits(document, path.partition("?")[0], method, reply)
            if body is not None and status < 300:
                name = path.rpartition("/")[2]
                kinds = {"rotate": "Rotation", "revoke": "Revocation"}
                kind = "Change" if method == "patch" else kinds.get(name, "Creation")
                jsonschema.validate(body, document["components"]["schemas"][f"Keyrush{kind}"])
        fits(document, keys, "get", client.get(keys))
        unknown = f"{keys}/cred_unknown/revoke"
        gone = client.post(unknown, headers={"X-API-Key": key.text})
        fits(document, f"{one}/revoke", "post", gone)
        while gone.status_code != 429:
            gone = client.post(unknown, headers={"X-API-Key": key.text})
        fits(document, f"{one}/revoke", "post", gone)
    gate.close()


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"nam": "n"}, {"name": "n", "scopes": "a"}, {}, []]
)
def test_it_refuses_what_is_refused(wrong: Any) -> None:
    """O16: a client that is made from the document knows what is wrong before it asks."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, openapi()["components"]["schemas"]["KeyrushCreation"])


def test_served(gate: Gate) -> None:
    """It is served beside the API, for the place where that is mounted, to whoever has a key."""
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "first").text
    app = Starlette(routes=[Mount("/account", app=account_api)])
    app.add_middleware(KeyrushMiddleware, gate=gate)
    with serve(app) as url:
        reply = httpx2.get(f"{url}/account/openapi.json", headers={"X-API-Key": key})
        assert httpx2.get(f"{url}/account/openapi.json").status_code == 401
    assert reply.json() == openapi("/account")


def test_within_the_apps_own() -> None:
    """The app's document and that of the account API are one, which is valid; twice is once."""
    app = FastAPI()

    @app.get("/articles")
    def articles(caller: Annotated[Any, Security(keyrush.fastapi.principal)]) -> None:
        """What an app serves itself."""

    app.mount("/v1", account_api)
    own = app.openapi()
    before = dict(own["paths"])
    document = add_openapi(own)
    validate(document)
    assert document["paths"] == openapi()["paths"] | before
    assert add_openapi(document) == document
    schemas = document["components"]["schemas"]
    assert schemas["KeyrushRefusal"] == openapi()["components"]["schemas"]["KeyrushRefusal"]
    assert document["components"]["securitySchemes"] == openapi()["components"]["securitySchemes"]
