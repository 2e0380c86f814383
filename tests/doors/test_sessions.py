"""Sessions and OAuth clients at the account API and in open connections (contract O3, O8, O17)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route

from keyrush import Gate, KeyrushMiddleware
from keyrush.apps.account_api import account_api
from keyrush.core.model import Link
from tests.conftest import Clock, settings
from tests.support.issuer import Issuer, served
from tests.support.serving import serve

KEYS = "/v1/me/api-credentials"

PLANS: dict[str, Any] = {"only": {"limits": "100/minute", "monthly_quota": 50, "per": "key"}}


def app_of(gate: Gate) -> Starlette:
    """The account API, a stream that goes on until it is ended, and who calls."""
    began = threading.Event()

    async def stream(_: Any) -> StreamingResponse:
        async def items() -> Any:
            import anyio  # noqa: PLC0415  # for this alone

            yield b"begun\n"
            began.set()
            await anyio.sleep(60)

        return StreamingResponse(items())

    async def who(request: Any) -> JSONResponse:
        caller = request.scope["keyrush"]
        return JSONResponse({"account": caller.account_id, "source": caller.source})

    app = Starlette(
        routes=[Route("/stream", stream), Route("/who", who), Mount("/v1", app=account_api)]
    )
    app.add_middleware(KeyrushMiddleware, gate=gate)
    return app


class World:
    """A gate that knows sessions and clients of two issuers, and its app served."""

    def __init__(self, url: str, gate: Gate, clock: Clock, people: Issuer, clients: Issuer) -> None:
        self.gate, self.clock, self.people, self.clients = gate, clock, people, clients
        self.client = httpx2.Client(base_url=url)

    def session(self, **claims: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.people.token(self.clock(), **claims)}"}

    def oauth(self, scope: str, **claims: Any) -> dict[str, str]:
        token = self.clients.token(self.clock(), client_id="c1", scope=scope, **claims)
        return {"Authorization": f"Bearer {token}"}

    def create(self, headers: dict[str, str], **body: Any) -> httpx2.Response:
        return self.client.post(KEYS, headers=headers, json={"name": "ci"} | body)

    @property
    def link(self) -> Link:
        """Of `user-1`, whose sessions act for `acct_a`."""
        links = self.gate.accounts.links("acct_a")
        return next(link for link in links if link.issuer == self.people.url)

    def who(self, key: str) -> Any:
        return self.client.get("/who", headers={"X-API-Key": key}).json()


@pytest.fixture
def world(clock: Clock) -> Iterator[World]:
    with served() as people, served() as clients:
        gate = Gate.open(
            settings(
                plans=PLANS,
                scopes="read,write",
                issuers=[
                    {
                        "issuer": people.url,
                        "kind": "session",
                        "audience": "api",
                        "scope_claim": "permissions",
                        "accounts": "create",
                    },
                    {"issuer": clients.url, "kind": "oauth", "audience": "api"},
                ],
            ),
            clock=clock,
        )
        gate.accounts.create("acct_a")
        for issuer in (people, clients):
            gate.accounts.link("acct_a", issuer=issuer.url, subject="user-1")
        with serve(app_of(gate)) as url:
            made = World(url, gate, clock, people, clients)
            yield made
            made.client.close()
        gate.close()


def test_all_that_keys_do(world: World) -> None:
    """O17, O3 to O6: a session creates, lists, rotates and revokes keys of its account, and asks
    for credits and usage; the keys work, for that account.
    """
    session = world.session(permissions=["*"])
    made = world.create(session)
    assert made.status_code == 201
    assert world.who(made.json()["key"]) == {"account": "acct_a", "source": "key"}
    key_id = made.json()["api_credential"]["id"]
    stored = world.gate.keys.get(key_id)
    link = world.link
    assert (stored.created_by, stored.scopes, stored.expires_at) == (link.id, ("*",), None)
    assert [it["id"] for it in world.client.get(KEYS, headers=session).json()] == [key_id]
    rotated = world.client.post(f"{KEYS}/{key_id}/rotate", headers=session, json={"grace": 0})
    assert rotated.status_code == 201
    new_id = rotated.json()["api_credential"]["id"]
    revoked = world.client.post(f"{KEYS}/{new_id}/revoke", headers=session)
    assert (revoked.status_code, revoked.json()["is_active"]) == (200, False)
    assert "error" in world.who(rotated.json()["key"])
    assert world.client.get("/v1/me/credits", headers=session).json() == {"balance": 0}
    usage = world.client.get("/v1/me/usage", headers=session).json()
    assert (usage["counted"], usage["limit"]) == (6, 50)


def test_keys_of_any_environment(world: World) -> None:
    """O17: a session stands for a person, who may rotate keys of each environment."""
    made = world.gate.keys.create("acct_a", "t", environment="test", scopes=["read"])
    answer = world.client.post(
        f"{KEYS}/{made.key.id}/rotate", headers=world.session(permissions="read")
    )
    assert answer.status_code == 201


def test_within_its_scopes(world: World) -> None:
    """O17, S17: a session makes no key that may do more than itself, nor rotates one."""
    session = world.session(permissions=["read", "openid"])
    assert world.create(session, scopes=["write"]).status_code == 403
    assert world.create(session, scopes=["*"]).status_code == 403
    made = world.create(session)
    assert made.status_code == 201
    stored = world.gate.keys.get(made.json()["api_credential"]["id"])
    assert stored.scopes == ("read",)
    assert world.create(world.session(permissions=[])).status_code == 403
    mighty = world.gate.keys.create("acct_a", "mighty").key.id
    assert world.client.post(f"{KEYS}/{mighty}/rotate", headers=session).status_code == 403


def test_of_its_account_alone(world: World) -> None:
    """O6: another account's keys are not there for a session."""
    other = world.create(world.session(sub="user-2", permissions="*")).json()["api_credential"]
    assert other["account_id"] != "acct_a"
    session = world.session(permissions="*")
    for operation in ("revoke", "rotate"):
        answer = world.client.post(f"{KEYS}/{other['id']}/{operation}", headers=session)
        assert answer.status_code == 404
    assert world.client.get(KEYS, headers=session).json() == []


def test_clients_need_to_be_granted_it(world: World) -> None:
    """O17, closed by default: an OAuth client makes, sees, replaces and revokes keys with the scope
    for that alone, and none that may do more than itself; credits it sees.
    """
    key_id = world.gate.keys.create("acct_a", "k", scopes=["read"]).key.id
    plain = world.oauth("read write")
    assert world.client.get("/v1/me/credits", headers=plain).status_code == 200
    for answer in (
        world.create(plain),
        world.client.get(KEYS, headers=plain),
        world.client.post(f"{KEYS}/{key_id}/rotate", headers=plain),
        world.client.post(f"{KEYS}/{key_id}/revoke", headers=plain),
    ):
        assert answer.status_code == 403
        assert 'scope="api-credentials"' in answer.headers["www-authenticate"]
    granted = world.oauth("read api-credentials")
    made = world.create(granted)
    assert made.status_code == 201
    assert world.gate.keys.get(made.json()["api_credential"]["id"]).scopes == ("read",)
    assert world.create(granted, scopes=["write"]).status_code == 403
    assert world.client.post(f"{KEYS}/{key_id}/revoke", headers=granted).status_code == 200


def test_revoked_while_it_asks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """O17: a session that is revoked while it asks for a key gets none, as if it had come later."""
    store = world.gate.store
    add_keys = store.add_keys

    def late(*args: Any) -> Any:
        store.revoke_sessions(world.link.id, world.clock() + 1)
        return add_keys(*args)

    session = world.session(permissions="*")
    monkeypatch.setattr(store, "add_keys", late)
    answer = world.create(session)
    assert answer.status_code == 401
    assert world.gate.keys.list("acct_a").items == ()


@pytest.mark.parametrize("how", ["revoke", "unlink"])
def test_connections_end(world: World, how: str) -> None:
    """A stream that a session has opened ends when the session is revoked, or its subject unlinked,
    and goes on when another one is.
    """
    other = world.session(sub="user-2", permissions="*")
    assert world.client.get("/who", headers=other).status_code == 200
    with world.client.stream("GET", "/stream", headers=world.session()) as response:
        lines = response.iter_lines()
        assert next(lines) == "begun"
        world.gate.sessions.revoke("user-2")
        if how == "revoke":
            world.gate.sessions.revoke("user-1", issuer=world.people.url)
        else:
            world.gate.accounts.unlink("acct_a", issuer=world.people.url, subject="user-1")
        assert list(lines) == []
    assert world.client.get("/who", headers=world.session()).status_code == 401


def test_over_a_websocket_protocol(clock: Clock) -> None:
    """O8: a browser's session may open a WebSocket: its token comes where a key may."""
    from tests.support.calls import Asgi, Sent  # noqa: PLC0415  # for this alone

    with served() as issuer:
        gate = Gate.open(
            settings(
                credential_headers="authorization,x-session",
                issuers=[
                    {
                        "issuer": issuer.url,
                        "kind": "session",
                        "audience": "api",
                        "scopes": [],
                        "accounts": "create",
                    }
                ],
            ),
            clock=clock,
        )
        token = issuer.token(clock(), pad="x" * 1000)
        assert Asgi(gate).send(Sent("/", [("X-Session", token)])).status == 200
        gate.close()


@pytest.mark.parametrize(
    "path", ["/v1/me/credits/ledger", "/v1/me/activity", "/v1/me/activity/summary"]
)
def test_history_for_sessions_and_clients(world: World, path: str) -> None:
    """O8, O9, O20: a session reads its account's ledger and activity, whatever its scopes; an OAuth
    client does with the scope `activity` alone.
    """
    assert world.client.get(path, headers=world.session(permissions=["read"])).status_code == 200
    assert world.client.get(path, headers=world.oauth("read activity")).status_code == 200
    for scope in ("read", "api-credentials", "activity:read"):
        refused = world.client.get(path, headers=world.oauth(scope))
        assert refused.status_code == 403
        assert 'scope="activity"' in refused.headers["www-authenticate"]
