"""The account API, served by uvicorn behind the gate (contract O3 to O7, O15 to O17)."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote, urljoin

import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from keyrush import Gate, KeyrushMiddleware, StoreError, TooManyKeys
from keyrush.apps.account_api import MAX_BODY, account_api
from keyrush.core.model import Account, ApiKey
from keyrush.core.paging import Place
from keyrush.operations.keys import NewKey
from keyrush.runtime.workers import Busy
from keyrush.store.memory import MemoryStore
from tests.conftest import Clock, settings
from tests.support.serving import serve
from tests.support.values import HIDINGS

KEYS = "/v1/me/api-credentials"
UNAVAILABLE = {
    "success": False,
    "error": "Service unavailable. Try again in 5 seconds.",
    "statusCode": 503,
}
NOT_FOUND = {"success": False, "error": "Not found.", "statusCode": 404}


async def whoami(request: Request) -> Response:
    """Say which key was used."""
    return JSONResponse({"key_id": request.scope["keyrush"].key_id})


def behind(gate: Gate) -> Starlette:
    """An app with the account API at /v1 behind the gate."""
    app = Starlette(routes=[Route("/whoami", whoami), Mount("/v1", app=account_api)])
    app.add_middleware(KeyrushMiddleware, gate=gate)
    return app


@contextmanager
def client_of(gate: Gate) -> Iterator[httpx2.Client]:
    """A client of `behind(gate)`, served by uvicorn."""
    with serve(behind(gate)) as url, httpx2.Client(base_url=url) as client:
        yield client


@pytest.fixture
def client(gate: Gate) -> Iterator[httpx2.Client]:
    """A client of the account API over `gate`."""
    with client_of(gate) as opened:
        yield opened


def key_of(gate: Gate, account: str = "acct_a", **values: Any) -> NewKey:
    """A new key of an account that is made where there is none."""
    if gate.store.account(account) is None:
        gate.accounts.create(account)
    return gate.keys.create(account, "first", **values)


def bearer(key: NewKey | str) -> dict[str, str]:
    """The header that presents the key."""
    return {"Authorization": f"Bearer {key if isinstance(key, str) else key.text}"}


def kept(gate: Gate) -> list[ApiKey]:
    """The account's keys as they are stored, but for when they were last used."""
    return [replace(key, last_used_at=None) for key in gate.keys.list("acct_a")]


def problems(response: httpx2.Response) -> list[dict[str, Any]]:
    """The `detail` of a 422, after a look at its shape (O16)."""
    assert response.status_code == 422, response.text
    assert list(response.json()) == ["detail"]
    detail: list[dict[str, Any]] = response.json()["detail"]
    for problem in detail:
        assert set(problem) == {"type", "loc", "msg", "input"}
        assert isinstance(problem["msg"], str)
    return detail


# --- create, list, revoke ---


def test_create(gate: Gate, client: httpx2.Client) -> None:
    """O4, S22: a new key comes once, with its credential and 201, and is not cached."""
    caller = key_of(gate)
    response = client.post(KEYS, headers=bearer(caller), json={"name": " production "})
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert set(body) == {"key", "api_credential"}
    credential = body["api_credential"]
    assert credential == {
        "id": credential["id"],
        "account_id": "acct_a",
        "name": "production",
        "prefix": body["key"][: len("kr_live_") + 6] + "...",
        "is_active": True,
        "created_at": "2026-11-18T11:07:00Z",
        "last_used_at": None,
        "expires_at": None,
    }
    assert credential["id"].startswith("cred_")
    used = client.get("/whoami", headers=bearer(body["key"]))
    assert used.json() == {"key_id": credential["id"]}


def test_create_with_expiry(gate: Gate, client: httpx2.Client, clock: Clock) -> None:
    """R5, O4: a key made with `expires_at`, in any zone, is refused from that instant on."""
    response = client.post(
        KEYS,
        headers=bearer(key_of(gate)),
        json={"name": "short", "expires_at": "2026-11-18T13:08:00+02:00"},
    )
    assert response.json()["api_credential"]["expires_at"] == "2026-11-18T11:08:00Z"
    key = response.json()["key"]
    assert client.get("/whoami", headers=bearer(key)).status_code == 200
    clock.advance(60_000)
    assert client.get("/whoami", headers=bearer(key)).status_code == 401


def test_list(gate: Gate, client: httpx2.Client, clock: Clock) -> None:
    """O5: the list is a JSON array of all keys of the account alone, never a key's text."""
    caller = key_of(gate)
    clock.advance(1)
    other = key_of(gate, scopes=["read:a"])
    foreign = key_of(gate, "acct_b")
    gate.keys.revoke(other.key.id)
    response = client.get(KEYS, headers=bearer(caller))
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    listed = response.json()
    assert [(item["id"], item["is_active"]) for item in listed] == [
        (caller.key.id, True),
        (other.key.id, False),
    ]
    for key in (caller, other, foreign):
        assert key.text not in response.text
        assert key.key.hash not in response.text
        assert key.key.fingerprint not in response.text


def test_revoke(gate: Gate, client: httpx2.Client) -> None:
    """O6, O17: a key of the account revokes another, of whatever scope, at once."""
    caller = key_of(gate, scopes=["read:a"])
    target = key_of(gate)
    assert client.get("/whoami", headers=bearer(target)).status_code == 200
    response = client.post(f"{KEYS}/{target.key.id}/revoke", headers=bearer(caller))
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["id"] == target.key.id
    assert response.json()["is_active"] is False
    assert client.get("/whoami", headers=bearer(target)).status_code == 401


def test_revoke_oneself(gate: Gate, client: httpx2.Client) -> None:
    """O6: a key may revoke itself, and that was its last request."""
    caller = key_of(gate)
    path = f"{KEYS}/{caller.key.id}/revoke"
    assert client.post(path, headers=bearer(caller)).json()["is_active"] is False
    assert client.post(path, headers=bearer(caller)).status_code == 401


@pytest.mark.parametrize("operation", ["revoke", "rotate"])
def test_not_of_the_account(gate: Gate, client: httpx2.Client, operation: str) -> None:
    """O6, O15: another account's id and an unknown one get the same 404, and nothing happens."""
    caller, foreign = key_of(gate), key_of(gate, "acct_b")
    responses = [
        client.post(f"{KEYS}/{key_id}/{operation}", headers=bearer(caller))
        for key_id in (foreign.key.id, "cred_unknown", foreign.text)
    ]
    assert {response.status_code for response in responses} == {404}
    assert all(response.json() == NOT_FOUND for response in responses)
    assert all(response.headers["cache-control"] == "no-store" for response in responses)
    assert gate.keys.get(foreign.key.id).is_active(gate.clock())
    assert list(gate.keys.list("acct_b")) == [foreign.key]


# --- rotate ---


def test_rotate(gate: Gate, client: httpx2.Client, clock: Clock) -> None:
    """R17: after a rotation both keys work for the grace, then the replacement alone."""
    caller = key_of(gate)
    target = key_of(gate, scopes=["read:a"])
    response = client.post(
        f"{KEYS}/{target.key.id}/rotate", headers=bearer(caller), json={"grace": 30}
    )
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    new = response.json()["key"]
    assert response.json()["api_credential"]["name"] == "first"
    assert gate.keys.get(response.json()["api_credential"]["id"]).scopes == ("read:a",)
    for key in (new, target.text):
        assert client.get("/whoami", headers=bearer(key)).status_code == 200
    clock.advance(30_000)
    assert client.get("/whoami", headers=bearer(new)).status_code == 200
    assert client.get("/whoami", headers=bearer(target)).status_code == 401


@pytest.mark.parametrize("body", [b"", b"  ", b"null", b"{}"])
def test_rotate_without_body(gate: Gate, client: httpx2.Client, body: bytes) -> None:
    """R17: rotating needs no body; the old key then works for a day more."""
    caller = key_of(gate)
    path = f"{KEYS}/{caller.key.id}/rotate"
    assert client.post(path, headers=bearer(caller), content=body).status_code == 201
    assert gate.keys.get(caller.key.id).retires_at == gate.clock() + 86_400_000


def test_rotate_with_expiry(gate: Gate, client: httpx2.Client) -> None:
    """R5, R17: the replacement may have an expiry of its own."""
    caller = key_of(gate)
    response = client.post(
        f"{KEYS}/{caller.key.id}/rotate",
        headers=bearer(caller),
        json={"grace": 0, "expires_at": "2027-01-31T00:00:00Z"},
    )
    assert response.json()["api_credential"]["expires_at"] == "2027-01-31T00:00:00Z"
    assert client.get("/whoami", headers=bearer(caller)).status_code == 401


def test_rotate_revoked(gate: Gate, client: httpx2.Client) -> None:
    """O16: a revoked key is not rotated; the answer names the path's credential."""
    caller, target = key_of(gate), key_of(gate)
    gate.keys.revoke(target.key.id)
    [problem] = problems(
        client.post(f"{KEYS}/{target.key.id}/rotate", headers=bearer(caller), json={})
    )
    assert problem["loc"] == ["path", "credential_id"]
    assert problem["input"] == target.key.id


@pytest.mark.parametrize("grace", [-1, 30 * 86_400 + 1, 1.5, "60", True])
def test_rotate_with_wrong_grace(gate: Gate, client: httpx2.Client, grace: object) -> None:
    """R17, O16: the grace is whole seconds, from 0 to 30 days."""
    caller = key_of(gate)
    [problem] = problems(
        client.post(f"{KEYS}/{caller.key.id}/rotate", headers=bearer(caller), json={"grace": grace})
    )
    assert problem["loc"] == ["body", "grace"]
    assert problem["input"] == grace
    assert gate.keys.get(caller.key.id).expires_at is None


def test_rotate_into_the_past(gate: Gate, client: httpx2.Client) -> None:
    """R5, O16: the replacement's expiry must lie in the future."""
    caller = key_of(gate)
    [problem] = problems(
        client.post(
            f"{KEYS}/{caller.key.id}/rotate",
            headers=bearer(caller),
            json={"expires_at": "2026-11-18T11:07:00Z"},
        )
    )
    assert problem["loc"] == ["body", "expires_at"]


# --- no key makes one that may do more than itself ---


@pytest.mark.parametrize(
    ("own", "wanted", "given"),
    [
        (["read:a", "read:b"], None, {"read:a", "read:b"}),
        (["read:a", "read:b"], [], {"read:a", "read:b"}),
        (["read:a", "read:b"], ["read:b"], {"read:b"}),
        (["read:*"], ["read:a"], {"read:a"}),
        (["read:*"], None, {"read:*"}),
        (["*"], None, {"*"}),
        (["*"], ["read:a", "*"], {"read:a", "*"}),
    ],
)
def test_scopes_within_the_callers(
    gate: Gate,
    client: httpx2.Client,
    own: Sequence[str],
    wanted: Sequence[str] | None,
    given: set[str],
) -> None:
    """O17, S17: a new key has the caller's scopes, or those asked for that the caller covers."""
    caller = key_of(gate, scopes=own)
    response = client.post(KEYS, headers=bearer(caller), json={"name": "n", "scopes": wanted})
    assert response.status_code == 201
    assert set(gate.keys.get(response.json()["api_credential"]["id"]).scopes) == given


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        (["read:a"], ["read:b"]),
        (["read:a"], ["read:a", "read:*"]),
        (["read:*"], ["*"]),
        (["read:*"], ["write:a", "read:a"]),
    ],
)
def test_scopes_beyond_the_callers(
    gate: Gate, client: httpx2.Client, own: Sequence[str], wanted: Sequence[str]
) -> None:
    """S16, S17: asking for a scope that the caller lacks is refused without naming it."""
    caller = key_of(gate, scopes=own)
    response = client.post(KEYS, headers=bearer(caller), json={"name": "n", "scopes": wanted})
    assert response.status_code == 403
    assert response.json()["error"] == "The API key lacks a scope."
    challenge = 'Bearer realm="api", error="insufficient_scope"'
    assert response.headers["www-authenticate"] == challenge
    assert kept(gate) == [caller.key]


def test_caller_without_any_scope(clock: Clock) -> None:
    """R4, S17: a key that a store of the user's own gave no scope can't make one with `*`."""
    common = settings(pepper="p" * 32)
    origin = Gate.open(common, clock=clock)
    caller = key_of(origin)
    store = MemoryStore()
    store.add_account(origin.accounts.get("acct_a"))
    store.add_keys([replace(caller.key, scopes=())])
    with client_of(Gate.open(common, store=store, clock=clock)) as client:
        response = client.post(KEYS, headers=bearer(caller), json={"name": "n"})
    assert response.status_code == 403
    assert len(store.keys("acct_a")) == 1


def test_environment_is_the_callers(gate: Gate, client: httpx2.Client) -> None:
    """R2, O17: a sandbox key makes sandbox keys, and can't ask for another environment."""
    caller = key_of(gate, environment="test")
    response = client.post(KEYS, headers=bearer(caller), json={"name": "n"})
    assert response.json()["key"].startswith("kr_test_")
    [problem] = problems(
        client.post(KEYS, headers=bearer(caller), json={"name": "n", "environment": "live"})
    )
    assert problem["loc"] == ["body", "environment"]


@pytest.mark.parametrize("bounds", [{"limits": "9/minute"}, {"max_concurrent": 9}])
def test_limited_keys_make_none(gate: Gate, client: httpx2.Client, bounds: dict[str, Any]) -> None:
    """O13: a key with limits of its own makes no other, which would be as much again, and gets no
    replacement of one that may ask more; its own is as it is.
    """
    caller, wide = key_of(gate, **bounds), key_of(gate)
    for path in (KEYS, f"{KEYS}/{wide.key.id}/rotate"):
        refused = client.post(
            path, headers=bearer(caller), json={"name": "n"} if path == KEYS else {}
        )
        assert refused.status_code == 403
        assert "may do more than itself" in refused.json()["error"]
        assert "www-authenticate" not in refused.headers
    own = client.post(f"{KEYS}/{caller.key.id}/rotate", headers=bearer(caller))
    assert own.status_code == 201
    replacement = gate.keys.get(own.json()["api_credential"]["id"])
    assert replacement.limits == caller.key.limits
    assert replacement.max_concurrent == caller.key.max_concurrent


@pytest.mark.parametrize(
    ("wanted", "status"),
    [(None, 201), ("2026-12-01T00:00:00Z", 201), ("2027-06-01T00:00:00Z", 422)],
)
def test_no_key_outlives_its_maker(
    gate: Gate, client: httpx2.Client, wanted: str | None, status: int
) -> None:
    """R5: what an expiring key makes ends with it at the latest."""
    ends_at = 1_798_761_600_000  # 2027-01-01
    caller = key_of(gate, expires_at=ends_at)
    body = {"name": "n"} if wanted is None else {"name": "n", "expires_at": wanted}
    made = client.post(KEYS, headers=bearer(caller), json=body)
    assert made.status_code == status
    if status == 201:
        expected = "2027-01-01T00:00:00Z" if wanted is None else wanted
        assert made.json()["api_credential"]["expires_at"] == expected
    else:
        assert made.json()["detail"][0]["loc"] == ["body", "expires_at"]
    path = f"{KEYS}/{caller.key.id}/rotate"
    body.pop("name")
    assert client.post(path, headers=bearer(caller), json=body).status_code == status


def test_guessing_ids_is_limited(gate: Gate, client: httpx2.Client) -> None:
    """O6, R7: an unknown credential counts against the limit: ids can't be tried at will."""
    caller = key_of(gate, limits="3/minute")
    path = f"{KEYS}/cred_unknown/revoke"
    statuses = [client.post(path, headers=bearer(caller)).status_code for _ in range(5)]
    assert statuses == [404, 404, 404, 429, 429]


def test_rotate_needs_the_scopes_of_the_target(gate: Gate, client: httpx2.Client) -> None:
    """S17: a key can't get at a wider one by rotating it."""
    caller, target = key_of(gate, scopes=["read:*"]), key_of(gate, scopes=["read:a", "write:a"])
    response = client.post(f"{KEYS}/{target.key.id}/rotate", headers=bearer(caller))
    assert response.status_code == 403
    assert response.json()["error"] == "The API key lacks the scope write:a."
    assert set(kept(gate)) == {caller.key, target.key}


@pytest.mark.parametrize(("own", "other"), [("test", "live"), ("live", "test")])
def test_rotate_needs_the_environment_of_the_target(
    gate: Gate, client: httpx2.Client, own: str, other: str
) -> None:
    """R2, S17: a sandbox key can't get at a live one by rotating it, nor the other way round."""
    caller, target = key_of(gate, environment=own), key_of(gate, environment=other)
    response = client.post(f"{KEYS}/{target.key.id}/rotate", headers=bearer(caller))
    assert response.status_code == 403
    assert response.json()["statusCode"] == 403
    assert set(kept(gate)) == {caller.key, target.key}


# --- keys that manage keys -----------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["create", "rotate", "rotate itself", "revoke"])
def test_caller_that_has_ended_meanwhile(
    gate: Gate, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """O6, O21: a key that is revoked while its request is on the way gets what it gets from then
    on, byte for byte, and nothing is done.
    """
    caller, other = key_of(gate), key_of(gate)
    calls = {
        "create": (KEYS, {"name": "n"}),
        "rotate": (f"{KEYS}/{other.key.id}/rotate", {}),
        "rotate itself": (f"{KEYS}/{caller.key.id}/rotate", {}),
        "revoke": (f"{KEYS}/{other.key.id}/revoke", {}),
    }
    read = gate.store.key

    def key(key_id: str) -> ApiKey | None:
        found = read(key_id)  # as it was when it was read
        gate.store.revoke(caller.key.id, gate.clock())
        return found

    monkeypatch.setattr(gate.store, "key", key)
    path, body = calls[operation]
    late = client.post(path, headers=bearer(caller), json=body)
    monkeypatch.undo()
    gate.cache.drop({"acct_a"})
    after = client.post(path, headers=bearer(caller), json=body)
    assert (late.status_code, late.content) == (after.status_code, after.content)
    assert late.status_code == 401
    challenge = late.headers["www-authenticate"]
    assert challenge == after.headers["www-authenticate"]
    assert len(gate.keys.list("acct_a")) == 2
    assert gate.keys.get(other.key.id) == other.key


def test_caller_that_retires(gate: Gate, client: httpx2.Client) -> None:
    """O17, R17: a key that has been replaced makes, rotates and revokes no other; itself it may
    still revoke, but nothing along with it.
    """
    caller, other = key_of(gate), key_of(gate)
    gate.keys.rotate(caller.key.id)
    itself = f"{KEYS}/{caller.key.id}/revoke"
    for path, body in (
        (KEYS, {"name": "n"}),
        (f"{KEYS}/{other.key.id}/rotate", {}),
        (f"{KEYS}/{caller.key.id}/rotate", {}),
        (f"{KEYS}/{other.key.id}/revoke", {}),
        (itself, {"descendants": True}),
    ):
        refused = client.post(path, headers=bearer(caller), json=body)
        assert refused.status_code == 403, path
        assert "www-authenticate" not in refused.headers
    assert len(gate.keys.list("acct_a")) == 3
    assert gate.keys.get(other.key.id) == other.key
    assert client.post(itself, headers=bearer(caller)).json()["is_active"] is False


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        (("test", "live"), 403),
        (("test", "test"), 200),
        (("live", "test"), 200),
        (("live", "live"), 200),
    ],
)
@pytest.mark.parametrize("descendants", [False, True])
def test_sandbox_keys_manage_their_own_kind(
    gate: Gate, client: httpx2.Client, kinds: tuple[str, str], status: int, descendants: bool
) -> None:
    """R2, O6: a sandbox key revokes sandbox keys alone; a live one any."""
    own, other = kinds
    caller, target = key_of(gate, environment=own), key_of(gate, environment=other)
    path = f"{KEYS}/{target.key.id}/revoke"
    answer = client.post(path, headers=bearer(caller), json={"descendants": descendants})
    assert answer.status_code == status
    assert gate.keys.get(target.key.id).is_active(gate.clock()) == (status == 403)


def test_revoke_with_descendants(gate: Gate, client: httpx2.Client) -> None:
    """O6: what a key has made over the API goes along with it, and nothing else."""
    caller, first = key_of(gate), key_of(gate)
    made = client.post(KEYS, headers=bearer(first), json={"name": "n"}).json()
    path = f"{KEYS}/{made['api_credential']['id']}/rotate"
    rotated = client.post(path, headers=bearer(made["key"]), json={}).json()
    path = f"{KEYS}/{first.key.id}/revoke"
    revoked = client.post(path, headers=bearer(caller), json={"descendants": True})
    assert (revoked.status_code, revoked.json()["id"]) == (200, first.key.id)
    for key in (first.text, made["key"], rotated["key"]):
        assert client.get("/whoami", headers=bearer(key)).status_code == 401
    assert client.get("/whoami", headers=bearer(caller)).status_code == 200


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"descendants": "yes"}, ["body", "descendants"]),
        ({"descendants": 1}, ["body", "descendants"]),
        ({"descendant": True}, ["body", "descendant"]),
        ([], ["body"]),
    ],
)
def test_wrong_body_of_revoke(
    gate: Gate, client: httpx2.Client, body: object, loc: list[str]
) -> None:
    """O16: a misspelt wish revokes nothing."""
    caller = key_of(gate)
    [problem] = problems(
        client.post(f"{KEYS}/{caller.key.id}/revoke", headers=bearer(caller), json=body)
    )
    assert problem["loc"] == loc
    assert kept(gate) == [caller.key]


@pytest.mark.parametrize("body", [b"", b" ", b"null", b"{}"])
def test_revoke_without_body(gate: Gate, client: httpx2.Client, body: bytes) -> None:
    """O6: revoking needs no body, and then takes nothing along."""
    caller = key_of(gate)
    made = client.post(KEYS, headers=bearer(caller), json={"name": "n"}).json()["key"]
    path = f"{KEYS}/{caller.key.id}/revoke"
    assert client.post(path, headers=bearer(caller), content=body).status_code == 200
    assert client.get("/whoami", headers=bearer(made)).status_code == 200


def test_too_many_keys(clock: Clock) -> None:
    """S18, R8: beyond what the plan allows creating is 403, without a challenge, and names the
    number; so is rotating, once twice as many work.
    """
    gate = Gate.open(settings(plans={"two": {"max_keys": 2}}), clock=clock)
    with client_of(gate) as client:
        caller, other = key_of(gate), key_of(gate)
        for path, number in (
            (KEYS, 2),
            (f"{KEYS}/{other.key.id}/rotate", None),
            (f"{KEYS}/{caller.key.id}/rotate", None),
        ):
            answer = client.post(
                path, headers=bearer(caller), json={"name": "n"} if path == KEYS else {}
            )
            assert answer.status_code == (403 if number else 201)
            if number:
                assert answer.json() == {
                    "success": False,
                    "error": "The account has 2 active keys, as many as its plan allows.",
                    "statusCode": 403,
                }
                assert "www-authenticate" not in answer.headers
        newest = list(gate.keys.list("acct_a"))
        [fresh, *_] = [key for key in newest if key.retires_at is None]
        with pytest.raises(TooManyKeys, match="4 active keys"):
            gate.keys.rotate(fresh.id)
    gate.close()


# --- pages ---------------------------------------------------------------------------------------


@contextmanager
def mounted(gate: Gate, root_path: str) -> Iterator[httpx2.Client]:
    """A client of the account API, mounted twice over and told of a prefix by its server."""
    inner = Starlette(routes=[Mount("/inner", app=account_api)])
    app = Starlette(routes=[Mount("/outer", app=inner)])
    app.add_middleware(KeyrushMiddleware, gate=gate)
    with serve(app, root_path=root_path) as url, httpx2.Client(base_url=url) as client:
        yield client


@pytest.mark.parametrize("limit", [None, 1, 7, 24, 25, 100])
def test_pages(gate: Gate, client: httpx2.Client, clock: Clock, limit: int | None) -> None:
    """O5: pages are lists as ever; the `Link` header leads from each to the next, to the last."""
    caller = key_of(gate)
    for number in range(24):
        clock.advance(number % 3)
        key_of(gate)
    key_of(gate, "acct_b")
    path: str | None = KEYS if limit is None else f"{KEYS}?limit={limit}&other=1"
    seen, pages = [], 0
    while path:
        answer = client.get(path, headers=bearer(caller))
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        seen += [item["id"] for item in answer.json()]
        pages += 1
        assert len(answer.json()) <= (limit or 50)
        following = answer.links.get("next", {}).get("url")
        path = following and urljoin(str(answer.request.url), following)
    assert pages == -(-25 // (limit or 50))
    assert seen == [key.id for key in gate.keys.list("acct_a")]
    assert len(set(seen)) == 25


@pytest.mark.parametrize("root_path", ["", "/prefix"])
def test_next_page_wherever_it_is_mounted(gate: Gate, root_path: str) -> None:
    """O5: the reference to the next page is relative, and so holds under any mount or prefix."""
    caller = key_of(gate)
    key_of(gate)
    with mounted(gate, root_path) as client:
        first = client.get("/outer/inner/me/api-credentials?limit=1", headers=bearer(caller))
        link = first.headers["link"]
        assert re.fullmatch(r'<\?limit=1&cursor=[A-Za-z0-9_-]+>; rel="next"', link)
        url = urljoin(str(first.request.url), first.links["next"]["url"])
        second = client.get(url, headers=bearer(caller))
    assert len(second.json()) == 1
    assert second.json() != first.json()
    assert "link" not in second.headers


@pytest.mark.parametrize(
    ("query", "kind", "given"),
    [
        ("limit=0", "greater_than_equal", "0"),
        ("limit=-1", "greater_than_equal", "-1"),
        ("limit=101", "less_than_equal", "101"),
        ("limit=", "int_parsing", ""),
        ("limit=many", "int_parsing", "many"),
        ("limit=1.5", "int_parsing", "1.5"),
        ("limit=" + "9" * 5000, "int_parsing_size", "9" * 5000),
        ("cursor=", "value_error", ""),
        ("cursor=x", "value_error", "x"),
        ("cursor=%00", "value_error", "\0"),
        ("cursor=%ff", "value_error", "\ufffd"),
        ("cursor=" + "a" * 5000, "value_error", "a" * 5000),
    ],
)
def test_wrong_query(gate: Gate, client: httpx2.Client, query: str, kind: str, given: str) -> None:
    """O16: a wrong limit or cursor is named, with what was given."""
    answer = client.get(f"{KEYS}?{query}", headers=bearer(key_of(gate)))
    [problem] = problems(answer)
    name = query.partition("=")[0]
    assert (problem["type"], problem["loc"], problem["input"]) == (kind, ["query", name], given)
    assert answer.headers["cache-control"] == "no-store"


def test_key_in_query(gate: Gate, client: httpx2.Client) -> None:
    """O22: a key in the query is not echoed."""
    caller = key_of(gate)
    answer = client.get(f"{KEYS}?cursor={caller.text}", headers=bearer(caller))
    [problem] = problems(answer)
    assert (problem["loc"], problem["input"]) == (["query"], None)
    assert caller.text not in answer.text


# --- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["revoke", "rotate"])
@pytest.mark.parametrize(
    "key_id", ["%00", "cred_%00", "%ED%A0%80", "%ff", "a" * 65, "a b", "'--", "%E2%80%AE"]
)
def test_ids_that_can_not_be_ids(clock: Clock, operation: str, key_id: str) -> None:
    """O6, O15: what can't be an id is 404 as any unknown one, without a question to the store."""
    store = Faulty()
    gate = Gate.open(settings(), store=store, clock=clock)
    with client_of(gate) as client:
        caller = key_of(gate)
        store.error = AssertionError("asked")
        answer = client.post(f"{KEYS}/{key_id}/{operation}", headers=bearer(caller))
    store.error = None
    assert (answer.status_code, answer.json()) == (404, NOT_FOUND)
    gate.close()


# --- bodies that are wrong ---


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ("missing", ["name"], {})),
        ({"name": ""}, ("string_too_short", ["name"], "")),
        ({"name": "   "}, ("string_too_short", ["name"], "   ")),
        ({"name": "x" * 121}, ("string_too_long", ["name"], "x" * 121)),
        ({"name": 5}, ("string_type", ["name"], 5)),
        ({"name": None}, ("string_type", ["name"], None)),
        ({"name": "<b>x</b>"}, ("value_error", ["name"], "<b>x</b>")),
        ({"name": "a\x00b"}, ("value_error", ["name"], "a\x00b")),
        (
            {"name": "n", "expires_at": "soon"},
            ("datetime_from_date_parsing", ["expires_at"], "soon"),
        ),
        (
            {"name": "n", "expires_at": "2027-01-31"},
            ("timezone_aware", ["expires_at"], "2027-01-31"),
        ),
        (
            {"name": "n", "expires_at": "2027-01-31T00:00:00"},
            ("timezone_aware", ["expires_at"], "2027-01-31T00:00:00"),
        ),
        (
            {"name": "n", "expires_at": "2026-11-18T11:07:00Z"},
            ("value_error", ["expires_at"], "2026-11-18T11:07:00Z"),
        ),
        (
            {"name": "n", "expires_at": "9999-12-31T23:59:59-12:00"},
            ("less_than", ["expires_at"], "9999-12-31T23:59:59-12:00"),
        ),
        ({"name": "n", "expires_at": []}, ("datetime_type", ["expires_at"], [])),
        ({"name": "n", "expire_at": "x"}, ("extra_forbidden", ["expire_at"], "x")),
        ({"name": "n", "scopes": "read:a"}, ("list_type", ["scopes"], "read:a")),
        ({"name": "n", "scopes": ['a"b']}, ("string_pattern_mismatch", ["scopes", 0], 'a"b')),
        ({"name": "n", "scopes": ["a b"]}, ("string_pattern_mismatch", ["scopes", 0], "a b")),
        ({"name": "n", "scopes": [1]}, ("string_type", ["scopes", 0], 1)),
        ([], ("model_attributes_type", [], [])),
        ("n", ("model_attributes_type", [], "n")),
        (None, ("missing", [], None)),
    ],
)
def test_wrong_body(
    gate: Gate, client: httpx2.Client, body: object, expected: tuple[str, list[object], object]
) -> None:
    """O4, O16: a wrong field is named, with what was given, and no key is made."""
    caller = key_of(gate)
    response = client.post(KEYS, headers=bearer(caller), json=body)
    [problem] = problems(response)
    kind, loc, given = expected
    assert (problem["type"], problem["loc"]) == (kind, ["body", *loc])
    assert problem["input"] == given
    assert response.headers["cache-control"] == "no-store"
    assert kept(gate) == [caller.key]


@pytest.mark.parametrize(
    ("path", "body", "allowed"),
    [
        (KEYS, {"name": "n", "expire_at": "x"}, "name, expires_at, scopes"),
        (KEYS, [], "name, expires_at, scopes"),
        (f"{KEYS}/{{id}}/rotate", {"Grace": 5}, "grace, expires_at"),
        (f"{KEYS}/{{id}}/rotate", "x", "grace, expires_at"),
        (f"{KEYS}/{{id}}/revoke", {"all": True}, "descendants"),
    ],
)
def test_allowed_fields_are_named(
    gate: Gate, client: httpx2.Client, path: str, body: object, allowed: str
) -> None:
    """O16: who has mistyped a field reads what there is."""
    caller = key_of(gate)
    path = path.format(id=caller.key.id)
    [problem] = problems(client.post(path, headers=bearer(caller), json=body))
    assert problem["msg"].endswith(f"; allowed are {allowed}")


def test_all_that_is_wrong_is_named(gate: Gate, client: httpx2.Client) -> None:
    """O16: one answer names every wrong field."""
    caller = key_of(gate)
    body = {"name": "", "expires_at": "soon", "scopes": 5}
    found = problems(client.post(KEYS, headers=bearer(caller), json=body))
    assert [problem["loc"][1] for problem in found] == ["name", "expires_at", "scopes"]


@pytest.mark.parametrize("length", [1, 120])
def test_longest_and_shortest_name(gate: Gate, client: httpx2.Client, length: int) -> None:
    """O4: a name has 1 to 120 characters, whatever they take as bytes."""
    name = "ü" * length
    made = client.post(KEYS, headers=bearer(key_of(gate)), json={"name": name})
    assert made.json()["api_credential"]["name"] == name


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"\xff\xfe",
        b'{"name": "n"} more',
        b'{"name": NaN}',
        b'"\\ud800"',
        b"[" * 10_000,
        b"1" * 10_000,
    ],
)
def test_no_json(gate: Gate, client: httpx2.Client, raw: bytes) -> None:
    """O15, O16: what is no JSON gets 422, however it is broken."""
    [problem] = problems(client.post(KEYS, headers=bearer(key_of(gate)), content=raw))
    assert (problem["type"], problem["loc"], problem["input"]) == ("json_invalid", ["body"], {})


def test_number_beyond_json(gate: Gate, client: httpx2.Client) -> None:
    """O16: a number that JSON can't write back is shown as null."""
    raw = b'{"name": 1e999}'
    [problem] = problems(client.post(KEYS, headers=bearer(key_of(gate)), content=raw))
    assert (problem["loc"], problem["input"]) == (["body", "name"], None)


def test_no_body(gate: Gate, client: httpx2.Client) -> None:
    """O16: creating needs a body."""
    [problem] = problems(client.post(KEYS, headers=bearer(key_of(gate))))
    assert (problem["type"], problem["loc"], problem["input"]) == ("missing", ["body"], None)


def test_body_too_large(gate: Gate, client: httpx2.Client) -> None:
    """O15: a body beyond 64 KiB is refused before it is all read; one of 64 KiB is not."""
    caller = key_of(gate)
    fits = b'{"name": "n"}'.ljust(MAX_BODY)
    assert client.post(KEYS, headers=bearer(caller), content=fits).status_code == 201

    def chunks() -> Iterator[bytes]:
        for _ in range(17):
            yield b" " * 4096

    for content in (fits + b" ", chunks()):
        response = client.post(KEYS, headers=bearer(caller), content=content)
        assert response.status_code == 413
        text = "The request body has more than 65,536 bytes."
        assert response.json() == {"success": False, "error": text, "statusCode": 413}
        assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "body", [{"name": "{}"}, {"name": 1, "{}": 2}, {"name": "n", "scopes": ["{}"]}, ["my {}"]]
)
def test_key_in_body(gate: Gate, client: httpx2.Client, body: object) -> None:
    """O22: a key that is pasted into a body is neither echoed nor stored."""
    caller = key_of(gate)
    raw = str(body).replace("'", '"').replace("{}", caller.text)
    response = client.post(KEYS, headers=bearer(caller), content=raw)
    [problem] = problems(response)
    assert (problem["loc"], problem["input"]) == (["body"], None)
    assert caller.text not in response.text
    assert kept(gate) == [caller.key]


@pytest.mark.parametrize("way", sorted(HIDINGS))
@pytest.mark.parametrize(
    "body", [{"name": "{}"}, {"name": 1, "{}": 2}, {"name": "n", "scopes": ["{}"]}, ["{}"], "{}"]
)
def test_key_in_disguise_in_body(gate: Gate, client: httpx2.Client, body: object, way: str) -> None:
    """O22: a key is found in the decoded text, however JSON or percent-encoding writes it."""
    caller = key_of(gate)
    raw = json.dumps(body).replace("{}", HIDINGS[way](caller.text))
    raw = raw.replace(caller.text, "".join(f"\\u{ord(char):04x}" for char in caller.text))
    paths = (KEYS, f"{KEYS}/{caller.key.id}/rotate")
    for path in paths:
        response = client.post(path, headers=bearer(caller), content=raw)
        [problem] = problems(response)
        assert (problem["loc"], problem["input"]) == (["body"], None)
        assert caller.text[-30:] not in unquote(response.text)
    assert [key.id for key in gate.keys.list("acct_a")] == [caller.key.id]


@pytest.mark.parametrize("way", sorted(HIDINGS))
@pytest.mark.parametrize("action", ["revoke", "rotate"])
def test_key_as_id(gate: Gate, client: httpx2.Client, action: str, way: str) -> None:
    """O6, O22: a key is the id of no credential: 404, and not echoed."""
    caller = key_of(gate)
    path = quote(HIDINGS[way](caller.text), safe="")
    response = client.post(f"{KEYS}/{path}/{action}", headers=bearer(caller))
    assert response.status_code == 404
    assert caller.text[-30:] not in unquote(response.text)
    assert [key.id for key in gate.keys.list("acct_a")] == [caller.key.id]


def test_unknown_scope(clock: Clock) -> None:
    """R4, O16: where the configuration names the scopes, a key can't have others."""
    gate = Gate.open(settings(scopes=["read:a"]), clock=clock)
    with client_of(gate) as client:
        caller = key_of(gate)
        body = {"name": "n", "scopes": ["read:z"]}
        [problem] = problems(client.post(KEYS, headers=bearer(caller), json=body))
    assert (problem["type"], problem["loc"]) == ("value_error", ["body", "scopes"])
    assert problem["input"] == ["read:z"]
    gate.close()


# --- credits and usage ---


def test_credits(gate: Gate, client: httpx2.Client) -> None:
    """O3: the balance of the account, the same for each of its keys."""
    first, second = key_of(gate), key_of(gate)
    gate.credits.grant("acct_a", 500)
    for key in (first, second):
        response = client.get("/v1/me/credits", headers=bearer(key))
        assert response.json() == {"balance": 500}
        assert response.headers["cache-control"] == "no-store"


def test_usage(gate: Gate, client: httpx2.Client) -> None:
    """R12, R18: this month of the calling key, the request that asks included."""
    caller, other = key_of(gate), key_of(gate)
    client.get("/whoami", headers=bearer(caller))
    client.get("/whoami", headers=bearer(other))
    response = client.get("/v1/me/usage", headers=bearer(caller))
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {
        "month": "2026-11",
        "counted": 2,
        "limit": 500_000,
        "remaining": 499_998,
        "overage": 0,
        "overage_price_per_1000": None,
        "resets_at": "2026-12-01T00:00:00Z",
    }
    assert response.headers["x-ratelimit-monthly-remaining"] == "499998"


def test_usage_over_the_quota(clock: Clock) -> None:
    """R13: what is above the quota is the overage, at the plan's price; nothing remains."""
    gate = Gate.open(
        settings(plans={"one": {"monthly_quota": 1, "overage_price": 0.5}}), clock=clock
    )
    with client_of(gate) as client:
        caller = key_of(gate)
        for _ in range(2):
            client.get("/whoami", headers=bearer(caller))
        used = client.get("/v1/me/usage", headers=bearer(caller)).json()
    assert (used["counted"], used["remaining"], used["overage"]) == (3, 0, 2)
    assert used["overage_price_per_1000"] == "0.5"
    gate.close()


def test_usage_of_an_account(clock: Clock) -> None:
    """O13, R12: where the plan counts accounts, the usage is that of all keys; no quota is null."""
    gate = Gate.open(settings(plans={"team": {"per": "account"}}), clock=clock)
    with client_of(gate) as client:
        first, second = key_of(gate), key_of(gate)
        client.get("/whoami", headers=bearer(second))
        used = client.get("/v1/me/usage", headers=bearer(first)).json()
    assert (used["counted"], used["limit"], used["remaining"]) == (2, None, None)
    gate.close()


# --- capabilities ---


RULES = [
    {"path": "/v1/tools/audit", "credits": 10, "tool": "audit"},
    {"path": "/v1/tools/audit/{id}", "credits": 3, "tool": "audit"},
    {"path": "/v1/tools/export", "tool": "export"},
    {"path": "/v1/other"},
]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_capabilities(clock: Clock, method: str) -> None:
    """O7: once listed public, anybody may read tools, prices and sources."""
    public = ["GET /v1/capabilities", "POST /v1/capabilities"]
    gate = Gate.open(
        settings(rules=RULES, sources=["serp", "crawl"], public_paths=public), clock=clock
    )
    with client_of(gate) as client:
        response = client.request(method, "/v1/capabilities")
    assert response.status_code == 200
    assert response.json() == {
        "tools": [
            {"name": "audit", "credits": 10, "enabled": True},
            {"name": "export", "credits": 0, "enabled": True},
        ],
        "sources": ["serp", "crawl"],
    }
    gate.close()


def test_capabilities_are_closed_by_default(gate: Gate, client: httpx2.Client) -> None:
    """R1: what is not listed public needs a key, the capabilities too."""
    assert client.get("/v1/capabilities").status_code == 401
    response = client.get("/v1/capabilities", headers=bearer(key_of(gate)))
    assert response.json() == {"tools": [], "sources": []}


# --- in front and behind ---


@pytest.mark.parametrize("path", ["/v1/me/credits", "/v1/me/usage", KEYS])
def test_needs_a_key(client: httpx2.Client, path: str) -> None:
    """R7, S4: without a key there is nothing to see under /me."""
    response = client.get(path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="api"'


@pytest.mark.parametrize("errors", ["documented", "problem"])
def test_me_listed_public(clock: Clock, errors: str) -> None:
    """R1: listing /me as public opens nothing: nobody has credits. S13, S22 hold for the 401."""
    gate = Gate.open(settings(public_paths=["/v1/me/credits"], errors=errors), clock=clock)
    with client_of(gate) as client:
        public = client.get("/v1/me/credits")
        closed = client.get("/v1/me/usage")
    assert public.status_code == 401
    assert public.content == closed.content
    for name in ("content-type", "cache-control", "www-authenticate"):
        assert public.headers.get_list(name) == closed.headers.get_list(name)
    gate.close()


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_without_the_gate(kind: str) -> None:
    """R1: mounted without the middleware in front, the API answers nothing."""

    async def never(*_: object) -> Any:
        raise AssertionError("nothing is read or sent")

    scope = {"type": kind, "path": "/v1/capabilities", "method": "GET", "headers": []}
    with pytest.raises(RuntimeError, match="add_middleware\\(KeyrushMiddleware\\)"):
        asyncio.run(account_api(scope, never, never))


def test_alone_behind_the_middleware(gate: Gate) -> None:
    """O3: the API needs no framework around it: the middleware may wrap it directly."""
    gate.accounts.create("acct_a")
    with serve(KeyrushMiddleware(account_api, gate=gate), lifespan="on") as url:
        response = httpx2.get(f"{url}/me/credits", headers=bearer(key_of(gate)))
        assert response.json() == {"balance": 0}
        missing = httpx2.get(f"{url}/me/nothing", headers=bearer(key_of(gate)))
        assert missing.status_code == 404


def test_wrong_method(gate: Gate, client: httpx2.Client) -> None:
    """O15: paths answer to their own methods alone."""
    caller = bearer(key_of(gate))
    said = {"success": False, "error": "Method not allowed.", "statusCode": 405}
    for method, path, allowed in (
        ("DELETE", KEYS, "GET, HEAD, POST"),
        ("GET", f"{KEYS}/cred_x", "PATCH"),
        ("GET", f"{KEYS}/cred_x/revoke", "POST"),
        ("PUT", f"{KEYS}/cred_x/rotate", "POST"),
        ("POST", "/v1/me/credits", "GET, HEAD"),
        ("OPTIONS", "/v1/me/usage", "GET, HEAD"),
        ("PATCH", "/v1/capabilities", "GET, HEAD, POST"),
    ):
        response = client.request(method, path, headers=caller)
        assert (response.status_code, response.headers["allow"]) == (405, allowed)
        assert response.json() == said
        assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/me", "/v1/me/nothing", f"{KEYS}/cred_x/y", "/v1/x"]
)
@pytest.mark.parametrize("framework", [Starlette, FastAPI])
def test_no_such_path(gate: Gate, framework: Any, path: str) -> None:
    """R8, O15: what is not there is 404 in the documented form, whatever framework is around."""
    app = framework()
    app.mount("/v1", account_api)
    app.add_middleware(KeyrushMiddleware, gate=gate)
    caller = bearer(key_of(gate))
    with serve(app) as url, httpx2.Client(base_url=url, follow_redirects=True) as client:
        response = client.get(path, headers=caller)
        wrong = client.delete(KEYS, headers=caller)
    assert (response.status_code, response.json()) == (404, NOT_FOUND)
    assert response.headers["cache-control"] == "no-store"
    assert (wrong.status_code, wrong.json()["statusCode"]) == (405, 405)


def test_errors_of_ones_own(clock: Clock) -> None:
    """S25: they have the form that is chosen, all but the 422."""
    gate = Gate.open(settings(errors="problem"), clock=clock)
    with client_of(gate) as client:
        caller = bearer(key_of(gate))
        for method, path, body in (
            ("GET", "/v1/nothing", b""),
            ("DELETE", KEYS, b""),
            ("POST", KEYS, b" " * (MAX_BODY + 1)),
            ("POST", f"{KEYS}/cred_x/revoke", b""),
        ):
            response = client.request(method, path, headers=caller, content=body)
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["status"] == response.status_code
    gate.close()


def test_head(gate: Gate, client: httpx2.Client) -> None:
    """S24: HEAD gets the headers of GET and no body."""
    response = client.head("/v1/me/credits", headers=bearer(key_of(gate)))
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["cache-control"] == "no-store"


def test_refusals_consume_nothing(gate: Gate, client: httpx2.Client) -> None:
    """R7, O14: what is refused inside the API is given back to the limit."""
    caller = key_of(gate, scopes=["read:a"])
    before = client.get("/v1/me/credits", headers=bearer(caller)).headers["x-ratelimit-remaining"]
    refused = client.post(KEYS, headers=bearer(caller), json={"name": "n", "scopes": ["*"]})
    assert refused.headers["x-ratelimit-remaining"] == before


# --- a store that is away ---


class Faulty(MemoryStore):
    """A store that answers look-ups of the cold path alone, once `error` is set."""

    error: Exception | None = None

    def _answers(self) -> None:
        if self.error is not None:
            raise self.error

    def account(self, account_id: str) -> Account | None:
        """As the protocol says."""
        self._answers()
        return super().account(account_id)

    def key(self, key_id: str) -> ApiKey | None:
        """As the protocol says."""
        self._answers()
        return super().key(key_id)

    def keys(
        self, account_id: str | None = None, limit: int = 50, after: Place | None = None
    ) -> Sequence[ApiKey]:
        """As the protocol says."""
        self._answers()
        return super().keys(account_id, limit, after)


@pytest.mark.parametrize(
    "error",
    [StoreError("away"), Busy("no thread is free"), OSError("gone")],
    ids=["StoreError", "Busy", "other"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", KEYS),
        ("GET", KEYS),
        ("POST", f"{KEYS}/cred_x/revoke"),
        ("POST", f"{KEYS}/cred_x/rotate"),
        ("GET", "/v1/me/credits"),
        ("GET", "/v1/me/usage"),
    ],
)
def test_store_away(
    clock: Clock, caplog: pytest.LogCaptureFixture, error: Exception, method: str, path: str
) -> None:
    """O15, S19: while the store is away, or no thread is free to ask it, the answer is 503 with
    Retry-After, and costs nothing; it is one line in the log.
    """
    store = Faulty()
    gate = Gate.open(settings(), store=store, clock=clock)
    with client_of(gate) as client:
        caller = key_of(gate)
        store.error = error
        response = client.request(
            method, path, headers=bearer(caller), json={"name": "n"} if path == KEYS else None
        )
    assert response.status_code == 503
    assert response.json() == UNAVAILABLE
    assert response.headers["retry-after"] == "5"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-ratelimit-remaining"] == "100"
    lines = [one for one in caplog.records if one.name == "keyrush" and one.levelno > logging.INFO]
    assert [line.exc_info for line in lines] == [None]
    assert lines[0].getMessage().startswith("the store can't answer the account API")
    store.error = None
    gate.close()


# --- without Starlette ---


def test_starlette_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, importing the module says what to install."""
    for name in [name for name in sys.modules if name.split(".")[0] == "starlette"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "keyrush.apps.account_api")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keyrush\[api\]'"):
        importlib.import_module("keyrush.apps.account_api")


@pytest.mark.parametrize(
    ("limits", "status"), [(None, 201), ("2/minute", 201), ("100000/minute", 403), ("5/hour", 403)]
)
def test_no_key_rotates_one_that_may_ask_more(
    gate: Gate, client: httpx2.Client, limits: str | None, status: int
) -> None:
    """R3: what is rotated may make no more requests than the key that asks, in any window."""
    caller = key_of(gate)
    other = gate.keys.create("acct_a", "other", limits=limits)
    response = client.post(f"{KEYS}/{other.key.id}/rotate", headers=bearer(caller))
    assert response.status_code == status
