"""Edits of keys over the account API."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from keyrush import Gate
from keyrush.core.times import iso
from tests.conftest import Clock
from tests.doors.test_api import KEYS, bearer, client, client_of, kept, key_of, problems
from tests.doors.test_sessions import World, world
from tests.support.values import HIDINGS

__all__ = ["client", "client_of", "world"]  # fixtures

LATER = "2098-01-01T00:00:00Z"


def test_edit(gate: Gate, client: httpx2.Client, clock: Clock) -> None:
    """O4, O17: what is named of a key is changed, and holds at once; what is not stays."""
    caller, target = key_of(gate), key_of(gate, scopes=["read:a", "write:a"])
    path = f"{KEYS}/{target.key.id}"
    answer = client.patch(path, headers=bearer(caller), json={"name": " other "})
    assert (answer.status_code, answer.json()["name"]) == (200, "other")
    assert answer.headers["cache-control"] == "no-store"
    body = {"scopes": ["read:a"], "expires_at": LATER}
    answer = client.patch(path, headers=bearer(caller), json=body)
    assert answer.json()["expires_at"] == LATER
    key = gate.keys.get(target.key.id)
    assert (key.name, key.scopes, iso(key.expires_at)) == ("other", ("read:a",), LATER)
    client.patch(path, headers=bearer(caller), json={"expires_at": None})
    assert gate.keys.get(target.key.id).expires_at is None
    assert client.patch(path, headers=bearer(caller)).status_code == 200
    whats = [(one.what, one.by) for one in gate.key_records.history(target.key.id)]
    assert whats == [("edited", caller.key.id)] * 3 + [("created", None)]


def test_an_edit_holds_at_once(gate: Gate, client: httpx2.Client, clock: Clock) -> None:
    """R5: a key that is to end earlier ends then, though the gate has known it for longer."""
    caller, target = key_of(gate), key_of(gate)
    assert client.get("/whoami", headers=bearer(target)).status_code == 200
    ends = clock.now + 5000
    body = {"expires_at": iso(ends)}
    assert client.patch(f"{KEYS}/{target.key.id}", headers=bearer(caller), json=body).is_success
    assert client.get("/whoami", headers=bearer(target)).status_code == 200
    clock.now = ends
    assert client.get("/whoami", headers=bearer(target)).status_code == 401


@pytest.mark.parametrize(
    ("caller", "body", "status"),
    [
        ({"scopes": ["x"]}, {"name": "other"}, 200),
        ({"scopes": ["x"]}, {"scopes": ["read:a"]}, 200),
        ({"scopes": ["x"]}, {"scopes": ["x"]}, 200),
        ({"scopes": ["read:*"]}, {"scopes": ["*"]}, 403),
        ({"scopes": ["read:*"]}, {"scopes": ["read:*", "y"]}, 403),
        ({"scopes": ["read:*"]}, {"expires_at": None}, 403),
        ({"limits": "1/hour"}, {"expires_at": None}, 403),
        ({"environment": "test"}, {"name": "other"}, 403),
        ({}, {"scopes": ["*"], "expires_at": None}, 200),
    ],
)
def test_who_may(
    gate: Gate, client: httpx2.Client, caller: dict[str, Any], body: dict[str, Any], status: int
) -> None:
    """O17: no key gives another what it could not give to a new one; to take away is open to all
    that may revoke it.
    """
    asks = key_of(gate, **caller)
    target = key_of(gate, scopes=["read:a", "write:a"], expires_at=4_000_000_000_000)
    before = kept(gate)
    answer = client.patch(f"{KEYS}/{target.key.id}", headers=bearer(asks), json=body)
    assert answer.status_code == status
    assert (kept(gate) == before) == (status == 403)


def test_of_others(gate: Gate, client: httpx2.Client) -> None:
    """O6: a key of another account is not found, and not changed."""
    caller, foreign = key_of(gate), key_of(gate, "acct_b")
    for key_id in (foreign.key.id, "cred_none", "..", "%00"):
        answer = client.patch(f"{KEYS}/{key_id}", headers=bearer(caller), json={"name": "x"})
        assert answer.status_code in {404, 400}
    assert gate.keys.get(foreign.key.id).name == "first"


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "x" * 121},
        {"name": "<b>"},
        {"scopes": []},
        {"scopes": ["a b"]},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "tomorrow"},
        {"expires": LATER},
        {"environment": "test"},
        [],
    ],
)
def test_wrong_bodies(gate: Gate, client: httpx2.Client, body: Any) -> None:
    """O16: nothing is changed by a body that is wrong; it says what is."""
    caller, target = key_of(gate), key_of(gate)
    before = kept(gate)
    problems(client.patch(f"{KEYS}/{target.key.id}", headers=bearer(caller), json=body))
    assert kept(gate) == before


@pytest.mark.parametrize("way", sorted(HIDINGS))
def test_a_key_for_a_name(gate: Gate, client: httpx2.Client, way: str) -> None:
    """O22: a key in the body is neither stored nor echoed."""
    caller = key_of(gate)
    body = {"name": HIDINGS[way](caller.text)}
    answer = client.patch(f"{KEYS}/{caller.key.id}", headers=bearer(caller), json=body)
    assert problems(answer)
    assert caller.text[-30:] not in answer.text


def test_ended(gate: Gate, client: httpx2.Client) -> None:
    """O16: a key that is revoked is not edited; the answer names the path's credential."""
    caller, target = key_of(gate), key_of(gate)
    gate.keys.revoke(target.key.id)
    answer = client.patch(f"{KEYS}/{target.key.id}", headers=bearer(caller), json={"name": "other"})
    assert problems(answer)[0]["loc"] == ["path", "credential_id"]


def test_sessions(world: World) -> None:
    """O9, O17: a session gives a key what its token has, and no more; revoked, nothing."""
    made = world.create(world.session(permissions=["*"]), scopes=["read"])
    path = f"{KEYS}/{made.json()['api_credential']['id']}"

    def edit(body: dict[str, Any], *permissions: str) -> int:
        headers = world.session(permissions=[*permissions])
        return world.client.patch(path, headers=headers, json=body).status_code

    assert edit({"scopes": ["read", "write"]}, "read") == 403
    assert edit({"name": "x", "expires_at": LATER}, "nothing") == 200
    assert edit({"scopes": ["read", "write"]}, "read", "write") == 200
    assert edit({"scopes": ["*"]}, "read", "write") == 403
    assert edit({"expires_at": None}, "read") == 403
    assert edit({"scopes": ["read"]}, "nothing") == 200
