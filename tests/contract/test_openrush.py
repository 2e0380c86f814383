"""The OpenRush example, over HTTP, against its documentation (contract O1 to O7, O11 to O22)."""

from __future__ import annotations

import importlib.util
import json
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keyrush import Gate
from keyrush.operations.keys import NewKey
from keyrush.store.memory import MemoryStore
from tests.conftest import CHEAP, Clock, settings
from tests.support.activity import Noting
from tests.support.dashboard import Page
from tests.support.serving import serve, serve_process

KEYS = "/v1/me/api-credentials"

CONFIG = Path(__file__).parents[2] / "examples" / "openrush.toml"

#: A body that each tool accepts, what it costs (O11), and what it answers.
TOOLS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "inspect_domain": (
        3,
        {"domain": "news.example.com"},
        {
            "domain": "news.example.com",
            "tld": "com",
            "labels": ["news", "example", "com"],
            "depth": 3,
        },
    ),
    "discover_competitors": (
        5,
        {
            "domain": "a.com",
            "keywords": ["red shoes", "hats"],
            "sites": {"a.com": "hats", "b.com": "Hats!", "c.com": "red hats and shoes"},
        },
        {
            "competitors": [
                {"domain": "c.com", "shared": ["hats", "red shoes"]},
                {"domain": "b.com", "shared": ["hats"]},
            ]
        },
    ),
    "research_keywords": (
        3,
        {"text": "to be or not to be"},
        {
            "dataset_id": "ds_2e9d72a733ae5a6c",
            "keywords": [
                {"keyword": "be", "count": 2},
                {"keyword": "to", "count": 2},
                {"keyword": "not", "count": 1},
                {"keyword": "or", "count": 1},
            ],
        },
    ),
    "compare_keyword_coverage": (
        5,
        {"keywords": ["hats"], "sites": {"a.com": "Hats", "b.com": "caps"}},
        {"coverage": {"a.com": {"hats": True}, "b.com": {"hats": False}}},
    ),
    "inspect_serp": (
        2,
        {"results": ["https://a.com/1", "https://b.com/", "https://a.com/2"]},
        {"results": 3, "domains": {"a.com": 2, "b.com": 1}},
    ),
    "inspect_search_visibility": (
        3,
        {"domain": "a.com", "results": ["https://a.com/1", "https://b.com/"]},
        {"positions": [1], "visibility": 0.6667},
    ),
    "audit_site": (
        10,
        {
            "pages": {
                "/": {"title": "Home", "text": "x"},
                "/a": {"title": "Home", "text": "x"},
                "/b": {"title": " ", "text": "x"},
                "/c": {"title": "C", "text": "x"},
            }
        },
        {
            "pages": 4,
            "issues": [
                {"page": "/", "issue": "title_not_unique"},
                {"page": "/a", "issue": "title_not_unique"},
                {"page": "/b", "issue": "title_missing"},
            ],
        },
    ),
    "inspect_keyword": (
        2,
        {"keyword": "red shoes"},
        {"keyword": "red shoes", "words": 2, "characters": 9},
    ),
    "inspect_page": (
        2,
        {"title": "Home", "text": "to be or not to be"},
        {"title_length": 4, "words": 6, "unique": 4},
    ),
}


def open_gate(clock: Clock, **values: Any) -> Gate:
    """A gate as openrush.toml describes it, with one account that has 500 credits."""
    gate = Gate.open(settings(config=CONFIG), clock=clock, **values)
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 500)
    return gate


@pytest.fixture
def openrush(clock: Clock) -> Iterator[Gate]:
    """The gate that the example is behind."""
    gate = open_gate(clock)
    yield gate
    gate.close()


@pytest.fixture
def noting(openrush: Gate) -> Noting:
    """Knows when the gate has noted requests."""
    return Noting(openrush)


@contextmanager
def client_of(gate: Gate) -> Iterator[httpx2.Client]:
    """A client of the example behind the gate."""
    spec = importlib.util.spec_from_file_location("openrush", CONFIG.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with serve(example.create_app(gate)) as url, httpx2.Client(base_url=url) as client:
        yield client


@pytest.fixture
def client(openrush: Gate) -> Iterator[httpx2.Client]:
    """A client of the example."""
    with client_of(openrush) as opened:
        yield opened


@pytest.fixture
def key(openrush: Gate) -> NewKey:
    """A key of the account with 500 credits."""
    return openrush.keys.create("acct_a", "agent")


def bearer(key: NewKey | str) -> dict[str, str]:
    """The header that presents the key."""
    return {"Authorization": f"Bearer {key if isinstance(key, str) else key.text}"}


def call(
    client: httpx2.Client, key: NewKey | str, tool: str, body: object = None
) -> httpx2.Response:
    """Call a tool, with a body that it accepts unless one is given."""
    sent = TOOLS[tool][1] if body is None else body
    return client.post(f"/v1/tools/{tool}", headers=bearer(key), json=sent)


# --- the dashboard ---


def test_dashboard(client: httpx2.Client, openrush: Gate, noting: Noting, key: NewKey) -> None:
    """O10: Setup, API access, Activity and Billing, for whoever is signed in: the key of a call,
    the call and what it cost.
    """
    assert client.get("/dashboard/").status_code == 401
    assert call(client, key, "inspect_domain").status_code == 200
    noting.flush(1)
    path = f"/dashboard/link/{openrush.portal.link('acct_a')}"
    shown = Page(200, [], client.get(path).content, path)
    signed_in = client.post(
        path, data=dict(shown.form(path).fields), headers={"Sec-Fetch-Site": "same-origin"}
    )
    assert signed_in.status_code == 303
    for page, said in (
        ("", "Setup"),
        ("keys", key.key.id),
        ("activity", "inspect_domain"),
        ("billing", "497"),
    ):
        answer = client.get(f"/dashboard/{page}")
        assert answer.status_code == 200
        assert said in answer.text
        assert key.text not in answer.text


# --- keys ---


@pytest.mark.parametrize("header", ["Authorization", "authorization", "X-API-Key"])
def test_credential(client: httpx2.Client, key: NewKey, header: str) -> None:
    """O1: the key comes as a bearer token or in X-API-Key."""
    value = key.text if header == "X-API-Key" else f"Bearer {key.text}"
    assert client.get("/v1/me/credits", headers={header: value}).status_code == 200


def test_key_text(client: httpx2.Client, openrush: Gate, key: NewKey) -> None:
    """O2: keys begin with `or_`; the text is in the answer to the creation and nowhere else."""
    made = client.post(KEYS, headers=bearer(key), json={"name": "agent"}).json()
    assert made["key"].startswith("or_")
    assert made["api_credential"]["prefix"] == made["key"][:9] + "..."
    listed = client.get(KEYS, headers=bearer(key))
    assert made["key"] not in listed.text
    stored = openrush.keys.get(made["api_credential"]["id"])
    assert made["key"] not in str([getattr(stored, name) for name in stored.__slots__])
    assert stored.hash.startswith("$argon2id$")


def test_credits(client: httpx2.Client, key: NewKey) -> None:
    """O3: the balance."""
    assert client.get("/v1/me/credits", headers=bearer(key)).json() == {"balance": 500}


def test_create_list_revoke(client: httpx2.Client, key: NewKey, clock: Clock) -> None:
    """O4, O5, O6, O17: a key makes another, with a name of 120 characters, finds it in the list and
    revokes it.
    """
    clock.advance(1000)
    name = "Production" * 12
    created = client.post(
        KEYS,
        headers=bearer(key),
        json={"name": name, "expires_at": "2027-01-31T12:00:00Z"},
    )
    assert created.status_code == 201
    credential = created.json()["api_credential"]
    assert credential == {
        "id": credential["id"],
        "account_id": "acct_a",
        "name": name,
        "prefix": credential["prefix"],
        "is_active": True,
        "created_at": "2026-11-18T11:07:01Z",
        "last_used_at": None,
        "expires_at": "2027-01-31T12:00:00Z",
    }
    new = created.json()["key"]
    assert client.get("/v1/me/credits", headers=bearer(new)).status_code == 200
    listed = client.get(KEYS, headers=bearer(key)).json()
    assert [item["id"] for item in listed] == [key.key.id, credential["id"]]
    assert listed[1] | {"last_used_at": None} == credential
    revoked = client.post(f"{KEYS}/{credential['id']}/revoke", headers=bearer(key))
    assert revoked.json()["is_active"] is False
    assert client.get("/v1/me/credits", headers=bearer(new)).status_code == 401


def test_credential_of_another_account(client: httpx2.Client, openrush: Gate, key: NewKey) -> None:
    """O6: another account's credential is not found."""
    openrush.accounts.create("acct_b")
    foreign = openrush.keys.create("acct_b", "theirs")
    response = client.post(f"{KEYS}/{foreign.key.id}/revoke", headers=bearer(key))
    assert (response.status_code, response.json()["statusCode"]) == (404, 404)
    assert client.get("/v1/me/credits", headers=bearer(foreign)).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_capabilities(client: httpx2.Client, method: str) -> None:
    """O7, O11: anybody may read the tools with their costs, and the sources."""
    response = client.request(method, "/v1/capabilities")
    assert response.status_code == 200
    assert {tool["name"]: tool["credits"] for tool in response.json()["tools"]} == {
        "inspect_domain": 3,
        "discover_competitors": 5,
        "research_keywords": 3,
        "compare_keyword_coverage": 5,
        "inspect_serp": 2,
        "inspect_search_visibility": 3,
        "audit_site": 10,
        "inspect_keyword": 2,
        "inspect_page": 2,
        "export_dataset": 0,
    }
    assert all(tool["enabled"] for tool in response.json()["tools"])
    assert response.json()["sources"] == ["request"]


@pytest.mark.parametrize("text", ["capabilities/", "capabilities/..", "Capabilities"])
def test_only_the_capabilities_are_public(client: httpx2.Client, text: str) -> None:
    """O7: no other spelling of the public path is open."""
    assert client.get(f"/v1/{text}").status_code == 401


# --- credits ---


@pytest.mark.parametrize("tool", TOOLS)
def test_tool(client: httpx2.Client, key: NewKey, tool: str) -> None:
    """O11, O18: each tool answers at its path, and costs what the table says."""
    cost, _, answer = TOOLS[tool]
    response = call(client, key, tool)
    assert (response.status_code, response.json()) == (200, answer)
    balance = client.get("/v1/me/credits", headers=bearer(key)).json()["balance"]
    assert balance == 500 - cost


def test_export(client: httpx2.Client, openrush: Gate, key: NewKey) -> None:
    """O11, O15: a dataset is exported for nothing, and only by the account that made it."""
    made = call(client, key, "research_keywords").json()
    wanted = {"dataset_id": made["dataset_id"]}
    response = call(client, key, "export_dataset", wanted)
    assert response.json() == {"csv": "keyword,count\nbe,2\nto,2\nnot,1\nor,1"}
    assert client.get("/v1/me/credits", headers=bearer(key)).json() == {"balance": 497}
    openrush.accounts.create("acct_b")
    foreign = openrush.keys.create("acct_b", "theirs")
    refused = call(client, foreign, "export_dataset", wanted)
    assert refused.status_code == 404
    assert refused.json() == {"success": False, "error": "Not found.", "statusCode": 404}


def test_not_enough_credits(client: httpx2.Client, openrush: Gate) -> None:
    """O12: a tool beyond the balance is 402; it takes nothing, and cheaper ones still work."""
    openrush.accounts.create("acct_poor")
    openrush.credits.grant("acct_poor", 9)
    poor = openrush.keys.create("acct_poor", "agent")
    refused = call(client, poor, "audit_site")
    assert refused.status_code == 402
    assert refused.json() == {"success": False, "error": "Not enough credits.", "statusCode": 402}
    assert refused.headers["x-ratelimit-remaining"] == "60"
    assert call(client, poor, "inspect_domain").status_code == 200
    assert client.get("/v1/me/credits", headers=bearer(poor)).json() == {"balance": 6}


def test_nothing_is_done_unpaid(client: httpx2.Client, openrush: Gate) -> None:
    """O11, O12: credits are charged before the work: of a call that is refused for them there is no
    dataset.
    """
    openrush.accounts.create("acct_poor")
    openrush.credits.grant("acct_poor", 2)
    poor = openrush.keys.create("acct_poor", "agent")
    assert call(client, poor, "research_keywords").status_code == 402
    wanted = {"dataset_id": TOOLS["research_keywords"][2]["dataset_id"]}
    assert call(client, poor, "export_dataset", wanted).status_code == 404
    openrush.credits.grant("acct_poor", 1)
    assert call(client, poor, "research_keywords").status_code == 200
    assert call(client, poor, "export_dataset", wanted).status_code == 200


def test_gated_feature(clock: Clock) -> None:
    """O12: a tool that the account's plan does not have is 402, and takes nothing."""
    gated = {"path": "/v1/tools/audit_site", "tool": "audit_site", "credits": 10}
    plans = {"standard": {}, "business": {"modules": ["audits"]}}
    gate = Gate.open(
        settings(config=CONFIG, plans=plans, rules=[gated | {"modules": ["audits"]}]), clock=clock
    )
    for name, plan, status in (("acct_a", "standard", 402), ("acct_b", "business", 200)):
        gate.accounts.create(name, plan=plan)
        gate.credits.grant(name, 10)
        key = gate.keys.create(name, "agent")
        with client_of(gate) as client:
            answer = call(client, key, "audit_site")
        assert answer.status_code == status
        assert gate.credits.balance(name) == (10 if status == 402 else 0)
    gate.close()


def test_top_up(client: httpx2.Client, openrush: Gate) -> None:
    """O12, O19: after a top-up the same key goes on at once."""
    openrush.accounts.create("acct_poor")
    poor = openrush.keys.create("acct_poor", "agent")
    assert call(client, poor, "inspect_page").status_code == 402
    openrush.credits.grant("acct_poor", 1000)
    assert call(client, poor, "inspect_page").status_code == 200


def test_ledger(client: httpx2.Client, openrush: Gate, key: NewKey) -> None:
    """O3, O11, O12, O19: each call of a tool is an entry of the ledger, with its key and its tool;
    what was refused is none, what came to nothing is given back, and a top-up is there once.
    """
    for _ in range(2):
        openrush.credits.add("acct_a", 1000, reason="top_up", reference="inv_1")
    assert call(client, key, "audit_site").status_code == 200
    assert call(client, key, "inspect_page", {}).status_code == 422
    found = client.get("/v1/me/credits/ledger", headers=bearer(key)).json()["entries"]
    told = [(one["reason"], one["amount"], one["balance"]) for one in found]
    assert told == [
        ("reversal", 2, 1490),
        ("charge", -2, 1488),
        ("charge", -10, 1490),
        ("top_up", 1000, 1500),
        ("grant", 500, 500),
    ]
    assert found[0]["reverses"] == found[1]["reference"]
    assert (found[2]["source"], found[2]["credential_id"]) == ("api", key.key.id)
    assert found[3]["reference"] == "inv_1"
    balance = client.get("/v1/me/credits", headers=bearer(key)).json()["balance"]
    assert balance == sum(one["amount"] for one in found)


def test_activity(
    client: httpx2.Client, openrush: Gate, noting: Noting, key: NewKey, clock: Clock
) -> None:
    """O20: each request is a row: time, credential, source, method, path, status, credits,
    duration; the credits in sum are those that the ledger has.
    """
    headers = bearer(key) | {"X-Request-ID": "r-1", "User-Agent": "agent/1"}
    client.post("/v1/tools/inspect_serp?q=1", headers=headers, json=TOOLS["inspect_serp"][1])
    call(client, key, "inspect_page", {})
    noting.flush(2)
    page = client.get("/v1/me/activity", headers=bearer(key)).json()
    failed, done = page["activity"]
    assert done["duration_ms"] >= 0
    assert done["id"] != failed["id"]
    assert done == done | {
        "at": "2026-11-18T11:07:00Z",
        "credential_id": key.key.id,
        "subject": None,
        "source": "api",
        "method": "POST",
        "path": "/v1/tools/inspect_serp",
        "rule": "/v1/tools/inspect_serp",
        "status": 200,
        "outcome": "ok",
        "reason": None,
        "credits": 2,
        "request_id": "r-1",
        "address": "127.0.0.0/24",
        "agent": "agent/1",
    }
    assert (failed["status"], failed["outcome"], failed["credits"]) == (422, "error", 0)
    spent = 500 - openrush.credits.balance("acct_a")
    assert sum(one["credits"] for one in page["activity"]) == spent


# --- limits ---


def test_limits_are_of_the_account(
    client: httpx2.Client, openrush: Gate, key: NewKey, clock: Clock
) -> None:
    """O13 to O15: 60 requests a minute for all keys of an account, whatever others do; then 429,
    with when to try again.
    """
    second = openrush.keys.create("acct_a", "second")
    for number in range(60):
        response = client.get("/v1/me/credits", headers=bearer(second if number % 2 else key))
        assert response.status_code == 200
        assert response.headers["x-ratelimit-remaining"] == str(59 - number)
    refused = client.get("/v1/me/credits", headers=bearer(second))
    assert refused.status_code == 429
    wait = int(refused.headers["retry-after"])
    assert refused.json() == {
        "success": False,
        "error": f"Rate limit exceeded. Try again in {wait} seconds.",
        "statusCode": 429,
    }
    assert int(refused.headers["x-ratelimit-reset"]) == clock.now // 1000 + wait
    openrush.accounts.create("acct_b")
    other = openrush.keys.create("acct_b", "theirs")
    assert client.get("/v1/me/credits", headers=bearer(other)).status_code == 200
    clock.advance(wait * 1000)
    assert client.get("/v1/me/credits", headers=bearer(key)).status_code == 200


def test_most_constrained_window(
    client: httpx2.Client, openrush: Gate, key: NewKey, clock: Clock
) -> None:
    """O14: the fields show the window that has least left, be it minute, hour or day."""
    shown = client.get("/v1/me/credits", headers=bearer(key)).headers
    assert (shown["x-ratelimit-limit"], shown["x-ratelimit-remaining"]) == ("60", "59")
    assert int(shown["x-ratelimit-reset"]) == clock.now // 1000 + 60
    openrush.accounts.set_limits("acct_a", "60/minute;20/hour;10000/day")
    shown = client.get("/v1/me/credits", headers=bearer(key)).headers
    # The hour counted the first request too: amounts change, counts stay.
    assert (shown["x-ratelimit-limit"], shown["x-ratelimit-remaining"]) == ("20", "18")
    hour = clock.now // 3_600_000 * 3600 + 3600
    assert int(shown["x-ratelimit-reset"]) == hour


def test_limits_that_an_account_has(clock: Clock) -> None:
    """O13: an account may ask 60 times a minute, 1,000 times an hour and 10,000 times a day."""
    gate = Gate.open(settings(config=CONFIG, headers="both"), clock=clock)
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "agent")
    with client_of(gate) as client:
        answer = client.get("/v1/me/credits", headers=bearer(key))
    said = [policy.partition(";")[2] for policy in answer.headers["ratelimit-policy"].split(", ")]
    assert said == ["q=60;w=60", "q=1000;w=3600", "q=10000;w=86400"]
    gate.close()


def test_own_limits(client: httpx2.Client, openrush: Gate) -> None:
    """O13: an account or a credential may have limits of its own."""
    openrush.accounts.create("acct_own", limits="7/minute")
    of_account = openrush.keys.create("acct_own", "agent")
    of_key = openrush.keys.create("acct_own", "agent", limits="3/hour")
    for key, limit in ((of_account, "7"), (of_key, "3")):
        response = client.get("/v1/me/credits", headers=bearer(key))
        assert response.headers["x-ratelimit-limit"] == limit


def test_public_calls_are_not_limited(client: httpx2.Client) -> None:
    """O7, O14: public answers carry no fields of a limit."""
    assert "x-ratelimit-limit" not in client.get("/v1/capabilities").headers


# --- refusals ---


def test_invalid_keys_look_alike(
    client: httpx2.Client, openrush: Gate, key: NewKey, clock: Clock
) -> None:
    """O15, O21: revoked, expired, unknown and malformed keys get the same 401, byte for byte."""
    revoked = openrush.keys.create("acct_a", "revoked")
    openrush.keys.revoke(revoked.key.id)
    expired = openrush.keys.create("acct_a", "expired", expires_at=clock.now + 1)
    clock.advance(1)
    unknown = Gate.open(openrush.settings, clock=clock)
    unknown.accounts.create("acct_x")
    texts = [
        revoked.text,
        expired.text,
        unknown.keys.create("acct_x", "x").text,
        "or_" + "0" * 36,
        key.text[:-1],
        "rsh_live_x",
        "~",
    ]
    responses = [client.get("/v1/me/credits", headers=bearer(text)) for text in texts]
    assert {response.status_code for response in responses} == {401}
    assert len({response.content for response in responses}) == 1
    fields = {tuple(item for item in r.headers.items() if item[0] != "date") for r in responses}
    assert len(fields) == 1
    challenge = responses[0].headers["www-authenticate"]
    assert challenge == (
        'Bearer realm="api", error="invalid_token", '
        'error_description="The credential is invalid or expired"'
    )


def test_no_key(client: httpx2.Client) -> None:
    """O15: without a key the answer is 401, on tools that don't exist too."""
    for path in ("/v1/tools/inspect_page", "/v1/tools/nothing", KEYS):
        response = client.post(path, json={})
        assert response.status_code == 401
        assert response.json() == {
            "success": False,
            "error": "Invalid or missing API key.",
            "statusCode": 401,
        }


def test_two_keys(client: httpx2.Client, openrush: Gate, key: NewKey) -> None:
    """O15, S7: two different keys in one request are bad input."""
    second = openrush.keys.create("acct_a", "second")
    headers = {**bearer(key), "X-API-Key": second.text}
    assert client.get("/v1/me/credits", headers=headers).status_code == 400


def test_unknown_tool(client: httpx2.Client, key: NewKey) -> None:
    """O15, O18: a tool that does not exist is 404."""
    assert client.post("/v1/tools/nothing", headers=bearer(key), json={}).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "loc"),
    [
        ("/v1/tools/inspect_domain", {}, ["body", "domain"]),
        ("/v1/tools/inspect_domain", {"domain": "no domain"}, ["body", "domain"]),
        ("/v1/tools/inspect_serp", {"results": ["x"]}, ["body", "results", 0]),
        (KEYS, {}, ["body", "name"]),
        (KEYS, {"name": ""}, ["body", "name"]),
        (KEYS, {"name": "a" * 121}, ["body", "name"]),
    ],
)
def test_validation(
    client: httpx2.Client, key: NewKey, path: str, body: object, loc: list[object]
) -> None:
    """O4, O15, O16: the tools and the account API describe wrong bodies in the same form."""
    response = client.post(path, headers=bearer(key), json=body)
    assert response.status_code == 422
    [problem] = response.json()["detail"]
    assert problem["loc"] == loc
    assert {"type", "loc", "msg", "input"} <= problem.keys()


class Faulty(MemoryStore):
    """A store that can look keys up but not charge, once `away` is set."""

    away = False

    def charge(self, *args: Any, **named: Any) -> int | None:
        """As the protocol says."""
        if self.away:
            raise OSError("gone")
        return super().charge(*args, **named)


def test_store_away(clock: Clock) -> None:
    """O15, S19: a tool that can't be charged is 503; what costs nothing goes on."""
    store = Faulty()
    gate = open_gate(clock, store=store)
    key = gate.keys.create("acct_a", "agent")
    with client_of(gate) as client:
        store.away = True
        refused = call(client, key, "inspect_page")
        free = client.get("/v1/me/credits", headers=bearer(key))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["statusCode"] == 503
    assert free.json() == {"balance": 500}
    gate.close()


def test_keys_are_not_logged(
    client: httpx2.Client, key: NewKey, caplog: pytest.LogCaptureFixture
) -> None:
    """O22: no key is logged, whatever becomes of its request."""
    caplog.set_level(logging.DEBUG)
    made = client.post(KEYS, headers=bearer(key), json={"name": "agent"}).json()
    client.post(KEYS, headers=bearer(key), json={"name": made["key"]})
    client.get("/v1/me/credits", headers=bearer(made["key"] + "x"))
    call(client, key, "audit_site", {"pages": made["key"]})
    assert key.text not in caplog.text
    assert made["key"] not in caplog.text


# --- OpenAPI ---


def test_openapi(client: httpx2.Client, key: NewKey) -> None:
    """O1, O15: the document says of each tool how to send a key and what is refused."""
    schema = client.get("/openapi.json", headers=bearer(key)).json()
    assert sorted(schema["paths"]) == sorted(
        f"/v1/tools/{tool}" for tool in [*TOOLS, "export_dataset"]
    )
    for path in schema["paths"].values():
        assert {"200", "401", "403", "422", "429"} <= path["post"]["responses"].keys()
        assert len(path["post"]["security"]) == 2


# --- as its documentation has it, in a process of its own ---

#: The calls of contract O1 to O7, as a reader would paste them.
COMMANDS = """
curl $URL/v1/me/credits -H "Authorization: Bearer $KEY"
curl $URL/v1/me/credits -H "X-API-Key: $KEY"
curl -X POST $URL/v1/me/api-credentials -H "Authorization: Bearer $KEY" -d '{"name": "Agent"}'
curl $URL/v1/me/api-credentials -H "Authorization: Bearer $KEY"
curl -X POST $URL/v1/me/api-credentials/$CREDENTIAL/revoke -H "Authorization: Bearer $KEY"
curl $URL/v1/capabilities
curl -X POST $URL/v1/capabilities
curl -X POST $URL/v1/tools/inspect_page -H "X-API-Key: $KEY" -d '{"title": "", "text": "a b"}'
"""


def run(command: str) -> httpx2.Response:
    """Send the request that a curl command would."""
    _, *words = shlex.split(command)
    method, headers, content, url = "GET", {}, None, ""
    while words:
        match words.pop(0):
            case "-X":
                method = words.pop(0)
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-d":
                content = words.pop(0)
                headers["Content-Type"] = "application/json"
            case url:
                pass
    return httpx2.request(method, url, headers=headers, content=content)


def test_commands(tmp_path: Path) -> None:
    """O1 to O7, O18: the documented commands work on the example as it is started by hand."""
    env = {
        "KEYRUSH_STORE_URL": f"sqlite:///{tmp_path}/openrush.db",
        **{f"KEYRUSH_{name.upper()}": str(value) for name, value in CHEAP.items()},
    }
    gate = Gate.open(settings(config=CONFIG, store_url=env["KEYRUSH_STORE_URL"]))
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 500)
    key = gate.keys.create("acct_a", "agent")
    target = gate.keys.create("acct_a", "old")
    answers = []
    with serve_process("openrush:app", env=env, folder=CONFIG.parent) as server:
        for line in COMMANDS.strip().splitlines():
            command = line.replace("$URL", server.url).replace("$KEY", key.text)
            answers.append(run(command.replace("$CREDENTIAL", target.key.id)))
    assert [answer.status_code for answer in answers] == [200, 200, 201, 200, 200, 200, 200, 200]
    bodies = [answer.json() for answer in answers]
    assert bodies[0] == bodies[1] == {"balance": 500}
    assert bodies[2]["key"].startswith("or_")
    assert sorted(item["name"] for item in bodies[3]) == ["Agent", "agent", "old"]
    assert (bodies[4]["id"], bodies[4]["is_active"]) == (target.key.id, False)
    assert bodies[5] == bodies[6]
    assert bodies[7] == {"title_length": 0, "words": 2, "unique": 2}
    assert gate.accounts.get("acct_a").balance == 498
    assert key.text not in json.dumps(server.lines)
    gate.close()
    for file in tmp_path.iterdir():
        assert key.text.encode() not in file.read_bytes()
