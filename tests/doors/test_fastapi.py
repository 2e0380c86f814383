"""The FastAPI dependency, behind the middleware on uvicorn, and what it adds to OpenAPI."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Security, WebSocket
from fastapi.openapi.utils import get_openapi
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import keyrush.fastapi
from keyrush import Gate, KeyrushMiddleware, Principal
from keyrush.operations.keys import NewKey
from tests.conftest import Clock, settings
from tests.support.serving import serve

Anybody = Annotated[Principal, Security(keyrush.fastapi.principal)]
Reader = Annotated[Principal, Security(keyrush.fastapi.principal, scopes=["read:a"])]
Writer = Annotated[Principal, Security(keyrush.fastapi.principal, scopes=["write:a", "write:b"])]

writing = APIRouter(
    prefix="/writing",
    dependencies=[Security(keyrush.fastapi.principal, scopes=["read:a"])],
)


@writing.post("/a")
async def write(caller: Writer) -> dict[str, str | None]:
    """Need two scopes here and one from the router."""
    return {"key_id": caller.key_id}


def plain() -> FastAPI:
    """An app that uses the dependency, without the middleware."""
    app = FastAPI()

    @app.get("/whoami")
    async def whoami(caller: Anybody) -> dict[str, str | None]:
        return {"key_id": caller.key_id}

    @app.get("/read")
    def read(caller: Reader) -> dict[str, str | None]:
        return {"key_id": caller.key_id}

    @app.get("/health")
    async def health(caller: Anybody) -> dict[str, str | None]:
        return {"key_id": caller.key_id}

    @app.get("/free")
    async def free() -> dict[str, str]:
        return {}

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, caller: Reader) -> None:
        await websocket.accept()
        await websocket.send_text(caller.identity)
        await websocket.close()

    app.include_router(writing)
    keyrush.fastapi.document(app)
    return app


@contextmanager
def client_of(gate: Gate) -> Iterator[httpx2.Client]:
    """A client of `plain()` behind the gate."""
    app = plain()
    app.add_middleware(KeyrushMiddleware, gate=gate)
    with serve(app) as url, httpx2.Client(base_url=url) as client:
        yield client


@pytest.fixture
def client(gate: Gate) -> Iterator[httpx2.Client]:
    """A client of `plain()` behind the gate."""
    gate.accounts.create("acct_a")
    with client_of(gate) as opened:
        yield opened


def key_of(gate: Gate, *scopes: str) -> NewKey:
    """A new key of the account."""
    return gate.keys.create("acct_a", "key", scopes=scopes)


def bearer(key: NewKey) -> dict[str, str]:
    """The header that presents the key."""
    return {"Authorization": f"Bearer {key.text}"}


# --- requests ---


def test_principal(gate: Gate, client: httpx2.Client) -> None:
    """The dependency is the caller, whichever header brought the key (O1)."""
    key = key_of(gate)
    for headers in (bearer(key), {"X-API-Key": key.text}):
        response = client.get("/whoami", headers=headers)
        assert response.json() == {"key_id": key.key.id}
        assert response.headers["x-ratelimit-limit"] == "100"


@pytest.mark.parametrize("scope", ["read:a", "read:*", "*"])
def test_scope_granted(gate: Gate, client: httpx2.Client, scope: str) -> None:
    """R4: the scope itself or a wildcard over it lets the request through."""
    assert client.get("/read", headers=bearer(key_of(gate, scope))).status_code == 200


def test_scope_missing(gate: Gate, client: httpx2.Client) -> None:
    """R8, S17: a missing scope is the documented 403, which consumes nothing."""
    response = client.get("/read", headers=bearer(key_of(gate, "write:a")))
    assert response.status_code == 403
    assert response.json() == {
        "success": False,
        "error": "The API key lacks the scope read:a.",
        "statusCode": 403,
    }
    challenge = 'Bearer realm="api", error="insufficient_scope", scope="read:a"'
    assert response.headers["www-authenticate"] == challenge
    assert response.headers["x-ratelimit-remaining"] == "100"


@pytest.mark.parametrize(
    ("scopes", "status"),
    [
        (["read:a", "write:a", "write:b"], 200),
        (["read:*", "write:*"], 200),
        (["write:a", "write:b"], 403),
        (["read:a", "write:a"], 403),
    ],
)
def test_all_scopes_are_needed(
    gate: Gate, client: httpx2.Client, scopes: list[str], status: int
) -> None:
    """S17: the scopes of the router and of the route are all needed."""
    response = client.post("/writing/a", headers=bearer(key_of(gate, *scopes)))
    assert response.status_code == status


def test_without_key(client: httpx2.Client) -> None:
    """R8, S4: without a key the answer is the gate's 401."""
    response = client.get("/read")
    assert (response.status_code, response.json()["statusCode"]) == (401, 401)


@pytest.mark.parametrize("key_sent", [False, True])
def test_on_a_public_path(gate: Gate, client: httpx2.Client, key_sent: bool) -> None:
    """R8, S13: on a public path nobody is known, which is the documented 401."""
    headers = bearer(key_of(gate)) if key_sent else {}
    public, closed = client.get("/health", headers=headers), client.get("/read")
    assert public.status_code == 401
    assert public.content == closed.content
    assert public.headers["www-authenticate"] == closed.headers["www-authenticate"]


def test_rate_limited(clock: Clock) -> None:
    """R10: the limit holds in front of the dependency."""
    gate = Gate.open(settings(plans={"one": {"limits": "1/minute"}}), clock=clock)
    gate.accounts.create("acct_a")
    key = key_of(gate)
    with client_of(gate) as client:
        assert client.get("/whoami", headers=bearer(key)).status_code == 200
        response = client.get("/whoami", headers=bearer(key))
    assert (response.status_code, response.json()["statusCode"]) == (429, 429)
    gate.close()


def test_websocket(gate: Gate, client: httpx2.Client) -> None:
    """S70: a WebSocket route may use it; a missing scope refuses the handshake with 403."""
    url = str(client.base_url).replace("http:", "ws:") + "/socket"
    key = key_of(gate, "read:a")
    with connect(url, additional_headers=bearer(key)) as websocket:
        assert websocket.recv() == key.key.id
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(url, additional_headers=bearer(key_of(gate, "write:a"))),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_without_the_middleware() -> None:
    """R1: without the middleware in front the app fails and says so, and lets nobody in."""
    failures: list[BaseException] = []
    app = plain()

    async def watching(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except RuntimeError as error:
            failures.append(error)

    with serve(watching) as url:
        assert httpx2.get(f"{url}/whoami").status_code == 500
    assert "app.add_middleware(KeyrushMiddleware)" in str(failures[0])


# --- OpenAPI ---

BOTH = {"KeyrushBearer", "KeyrushHeader"}


def scopes_in(operation: dict[str, Any]) -> list[dict[str, list[str]]]:
    """The security requirements of an operation."""
    requirements: list[dict[str, list[str]]] = operation["security"]
    return requirements


def test_schemes() -> None:
    """O1: the document shows both ways to send a key, as alternatives."""
    schema = plain().openapi()
    assert schema["components"]["securitySchemes"] == {
        "KeyrushBearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "The API key as a bearer token.",
        },
        "KeyrushHeader": {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "The API key.",
        },
    }
    operation = schema["paths"]["/read"]["get"]
    assert scopes_in(operation) == [{"KeyrushBearer": ["read:a"]}, {"KeyrushHeader": ["read:a"]}]
    assert "parameters" not in operation


def test_responses() -> None:
    """R7: each operation that uses the dependency, and no other, shows 401, 403 and 429."""
    paths = plain().openapi()["paths"]
    for path, method in [("/whoami", "get"), ("/read", "get"), ("/writing/a", "post")]:
        responses = paths[path][method]["responses"]
        assert {"200", "401", "403", "429"} <= responses.keys()
        for status in ("401", "403", "429"):
            content = responses[status]["content"]["application/json"]["schema"]
            assert content == {"$ref": "#/components/schemas/KeyrushRefusal"}
    assert set(paths["/free"]["get"]["responses"]) == {"200"}
    assert "security" not in paths["/free"]["get"]


def test_responses_say_what_refusals_say() -> None:
    """R9, R10: the document describes refusals in the very words of their bodies."""
    responses = plain().openapi()["paths"]["/read"]["get"]["responses"]
    said = {status: responses[status]["description"] for status in ("401", "403", "429")}
    assert said == {
        "401": "Invalid or missing API key.",
        "403": "The API key lacks a scope. Your plan does not include a requested module.",
        "429": "Rate limit exceeded. Try again in N seconds. "
        "Monthly quota exceeded. Try again in N seconds.",
    }


def test_schema_of_refusals() -> None:
    """R8: the document describes the documented refusal body."""
    schema = plain().openapi()["components"]["schemas"]["KeyrushRefusal"]
    assert set(schema["properties"]) == {"success", "error", "statusCode"}
    assert schema["required"] == ["success", "error", "statusCode"]


def test_served_document(gate: Gate, client: httpx2.Client) -> None:
    """The document that the app serves is the same, the first time and later."""
    key = key_of(gate)
    first, second = (client.get("/openapi.json", headers=bearer(key)).json() for _ in range(2))
    assert first == second == plain().openapi()


def test_own_responses_stay() -> None:
    """A response that a route documents itself is left as it is."""
    app = FastAPI()
    keyrush.fastapi.document(app)

    @app.get("/own", responses={403: {"description": "mine"}})
    async def own(caller: Anybody) -> None:
        """Nothing."""

    responses = app.openapi()["paths"]["/own"]["get"]["responses"]
    assert responses["403"] == {"description": "mine"}
    assert "429" in responses


def test_apps_without_it_are_unchanged() -> None:
    """The document of an app that does not use the dependency has nothing of keyrush."""
    app = FastAPI()
    keyrush.fastapi.document(app)

    @app.get("/free")
    async def free() -> None:
        """Nothing."""

    assert "eyrush" not in str(app.openapi())


def test_documents_share_nothing() -> None:
    """Changing the document of one app leaves that of another as it was."""
    one, other = plain().openapi(), plain().openapi()
    one["paths"]["/read"]["get"]["responses"]["401"]["description"] = "changed"
    assert other["paths"]["/read"]["get"]["responses"]["401"]["description"] != "changed"
    assert one["paths"]["/whoami"]["get"]["responses"]["401"]["description"] != "changed"


def test_own_document() -> None:
    """A document made with `get_openapi` gets the responses from `add_responses`, once."""
    app = plain()
    schema = get_openapi(title="t", version="1", routes=app.routes)
    assert "401" not in schema["paths"]["/read"]["get"]["responses"]
    once = keyrush.fastapi.add_responses(schema)
    assert once is schema
    assert "401" in once["paths"]["/read"]["get"]["responses"]
    copy = importlib.import_module("copy").deepcopy(once)
    assert keyrush.fastapi.add_responses(schema) == copy


def test_documented_once() -> None:
    """Documenting an app again changes nothing, and neither does importing the module again."""
    app = plain()
    documented, document = app.openapi, app.openapi()
    keyrush.fastapi.document(app)
    assert app.openapi is documented
    importlib.reload(keyrush.fastapi).document(app)
    assert app.openapi() == document == plain().openapi()


def test_one_app_is_documented() -> None:
    """R7: only the app that is documented shows the responses, as other apps do without keyrush;
    what it shows is said once more when a route is added.
    """
    assert FastAPI.openapi.__module__ == "fastapi.applications"
    app, other = FastAPI(), FastAPI()
    for one in (app, other):

        @one.get("/read")
        def read(caller: Reader) -> None:
            """Nothing."""

    keyrush.fastapi.document(app)
    assert {"401", "403", "429"} <= app.openapi()["paths"]["/read"]["get"]["responses"].keys()
    schema = other.openapi()
    assert set(schema["paths"]["/read"]["get"]["responses"]) == {"200"}
    assert set(schema["components"]["securitySchemes"]) == BOTH

    @app.get("/later")
    def later(caller: Anybody) -> None:
        """Nothing."""

    app.openapi_schema = None  # as FastAPI has it where routes come late
    assert "401" in app.openapi()["paths"]["/later"]["get"]["responses"]


def test_own_way_to_make_the_document() -> None:
    """The `openapi` that an app has been given, before or after, goes on making the document."""
    app = plain()
    documented = app.openapi

    def titled() -> dict[str, Any]:
        schema = documented()
        schema["info"]["title"] = "own"
        return schema

    app.openapi = titled  # type: ignore[method-assign]  # as FastAPI has it extended
    for _ in range(2):
        schema = app.openapi()
        assert schema["info"]["title"] == "own"
        assert "401" in schema["paths"]["/read"]["get"]["responses"]
        keyrush.fastapi.document(app)


def test_fastapi_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, importing the module says what to install."""
    for name in [name for name in sys.modules if name.split(".")[0] == "fastapi"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "keyrush.fastapi")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keyrush\[fastapi\]'"):
        importlib.import_module("keyrush.fastapi")
