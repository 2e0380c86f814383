"""The Rushed example over real HTTP: every point of the contract, R1 to R20, by configuration."""

from __future__ import annotations

import http.client
import importlib
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keyrush import Gate, Settings
from keyrush.core.identity import key_subject
from keyrush.core.times import DAY, SECOND, month_of
from keyrush.operations.keys import NewKey
from tests.conftest import CHEAP, Clock
from tests.support.running import run_process
from tests.support.serving import serve, serve_process

EXAMPLES = Path(__file__).parents[2] / "examples"

KEY_TEXT = "Invalid or missing API key. Get your key at https://dash.therushed.com.br/api-keys"

#: Contract R19, with the scope of each.
ENDPOINTS = {
    "/api/articles": "read:articles",
    "/api/articles/art_1": "read:articles",
    "/api/articles/search?q=bank": "read:articles",
    "/api/entities": "read:entities",
    "/api/entities/ent_1": "read:entities",
    "/api/breaking": "read:breaking",
}

STARTER = ["translations", "classification", "meta"]
PRO = ["sentiment", "market_impact", "entities", "scoring"]


class Service:
    """The example, served, with its gate at hand for making keys."""

    def __init__(self, url: str, gate: Gate) -> None:
        self.url = url
        self.gate = gate
        self.accounts, self.keys, self.usage = gate.accounts, gate.keys, gate.usage
        self._client = httpx2.Client(base_url=url)

    def key(self, plan: str = "starter", name: str = "production", **options: Any) -> NewKey:
        """A new key of a new account on `plan`."""
        account = self.accounts.create(plan=plan)
        return self.keys.create(account.id, name, **options)

    def get(
        self, path: str = "/api/articles", key: NewKey | str | None = None, method: str = "GET"
    ) -> httpx2.Response:
        """What a client gets that sends the key in X-API-Key."""
        text = key.text if isinstance(key, NewKey) else key
        return self._client.request(method, path, headers={"X-API-Key": text} if text else {})

    def count(self, key: NewKey, counted: int) -> None:
        """Let the key have that many requests this month already."""
        month = month_of(self.gate.clock())
        self.gate.store.add_usage(month, {key_subject(key.key.lineage): counted})

    def close(self) -> None:
        self._client.close()


class Current:
    """The app of the test that runs, so that all tests share one server."""

    app: Any

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Current, str]]:
    """A uvicorn and what it serves."""
    current = Current()
    with serve(current, lifespan="off") as url:
        yield current, url


@pytest.fixture
def service(
    server: tuple[Current, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> Iterator[Service]:
    """The example over a new SQLite file, its clock moved by the test alone."""
    with served(server, tmp_path, monkeypatch, clock) as service:
        yield service


@pytest.fixture
def ticking(
    server: tuple[Current, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """The example over a new SQLite file, on the wall clock."""
    with served(server, tmp_path, monkeypatch, None) as service:
        yield service


@contextmanager
def served(
    server: tuple[Current, str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: Callable[[], int] | None,
) -> Iterator[Service]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    settings = Settings(
        config=EXAMPLES / "rushed.toml", store_url=f"sqlite:///{folder}/rushed.db", **CHEAP
    )
    current, url = server
    gate = Gate.open(settings, clock=clock)
    current.app = importlib.import_module("rushed").create_app(gate=gate)
    service = Service(url, gate)
    yield service
    service.close()
    gate.close()


def refusal(status: int, text: str) -> dict[str, object]:
    """The body of every refusal (R8)."""
    return {"success": False, "error": text, "statusCode": status}


# --- who may come in ---


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ENDPOINTS),
        ("GET", "/"),
        ("GET", "/nothing/here"),
        ("POST", "/health"),
        ("OPTIONS", "/api/articles"),
    ],
)
def test_every_request_needs_a_key(service: Service, method: str, path: str) -> None:
    """R1, R9: without a key there is nothing but 401, whether the path exists or not."""
    response = service.get(path, method=method)
    assert (response.status_code, response.json()) == (401, refusal(401, KEY_TEXT))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health/", 401),
        ("/%68ealth", 401),
        ("/health%2f", 401),
        ("//health", 400),
        ("/api/../health", 400),
        ("/./health", 400),
    ],
)
def test_other_spellings_of_health(service: Service, path: str, status: int) -> None:
    """R1: only `/health` spelled so is open; what is no path in plain form is refused as that."""
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"))
    connection.request("GET", path)  # as it is: other clients make it plain first
    assert connection.getresponse().status == status
    connection.close()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_needs_no_key(service: Service, method: str) -> None:
    """R1: `GET /health` is open, and says nothing of limits."""
    response = service.get("/health", method=method)
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]


def test_live_and_test_keys(service: Service) -> None:
    """R2: the app sees which kind of key it was: live keys get live data, test keys test data."""
    live, test = service.key(), service.key(environment="test")
    assert live.text.startswith("rsh_live_")
    assert test.text.startswith("rsh_test_")
    assert service.get("/api/articles", live).json()["data"][0]["id"] == "art_1"
    assert service.get("/api/articles", test).json()["data"][0]["id"] == "test_art_1"


def test_test_keys_are_not_counted(service: Service) -> None:
    """R2: live requests count against the quota, test requests don't, though they are limited."""
    for environment, counted in (("live", 3), ("test", 0)):
        key = service.key(environment=environment)
        for _ in range(3):
            response = service.get(key=key)
        assert response.headers["x-ratelimit-remaining"] == "97"
        assert response.headers["x-ratelimit-monthly-remaining"] == str(500_000 - counted)
        service.gate.flush()
        assert service.usage.this_month(key.key.account_id, key.key.id).counted == counted


def test_the_key_is_shown_once(service: Service, tmp_path: Path) -> None:
    """R3: name, expiry and scopes are kept with a key; the key itself is kept nowhere."""
    expires_at = service.gate.clock() + 30 * DAY
    key = service.key(name="Mobile app", scopes=["read:articles"], expires_at=expires_at)
    assert service.get(key=key).status_code == 200
    service.gate.flush()
    kept = service.keys.get(key.key.id)
    assert (kept.name, kept.scopes, kept.expires_at) == (
        "Mobile app",
        ("read:articles",),
        expires_at,
    )
    assert key.text not in repr(key) + repr(kept)
    for path in tmp_path.iterdir():
        assert key.text.encode() not in path.read_bytes()


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("scope", ["read:articles", "read:entities", "read:breaking", "*"])
def test_scopes(service: Service, path: str, scope: str) -> None:
    """R4, R7, R19: an endpoint is open to keys with its scope or `*`, else 403."""
    response = service.get(path, service.key(scopes=[scope]))
    if scope in ("*", ENDPOINTS[path]):
        assert response.status_code == 200
    else:
        text = f"The API key lacks the scope {ENDPOINTS[path]}."
        assert (response.status_code, response.json()) == (403, refusal(403, text))


def test_no_scopes_is_full_access_within_the_plan(service: Service) -> None:
    """R4: a key without explicit scopes has `*`: all endpoints, but no module beyond the plan."""
    key = service.key()
    assert service.keys.get(key.key.id).scopes == ("*",)
    assert {service.get(path, key).status_code for path in ENDPOINTS} == {200}
    assert service.get("/api/articles?include=sentiment", key).status_code == 403


@pytest.mark.parametrize("days", [30, 90, 365])
def test_expiry(service: Service, clock: Clock, days: int) -> None:
    """R5, R9: a key works to the last millisecond before its expiry, and then gets 401."""
    key = service.key(expires_at=clock() + days * DAY)
    assert service.get(key=key).status_code == 200
    clock.advance(days * DAY - 1)
    assert service.get(key=key).status_code == 200
    clock.advance(1)
    response = service.get(key=key)
    assert (response.status_code, response.json()) == (401, refusal(401, KEY_TEXT))


def test_no_expiry(service: Service, clock: Clock) -> None:
    """R5: a key without expiry is valid until revoked."""
    key = service.key()
    clock.advance(20 * 365 * DAY)
    assert service.get(key=key).status_code == 200
    service.keys.revoke(key.key.id)
    assert service.get(key=key).status_code == 401


# --- how much ---


@pytest.mark.parametrize(
    ("plan", "per_minute", "monthly"),
    [("starter", "100", "500000"), ("pro", "500", "3000000"), ("business", "2000", None)],
)
def test_plans(service: Service, plan: str, per_minute: str, monthly: str | None) -> None:
    """R6, R11, R12: each plan's limits are in the headers; no monthly ones where there is none."""
    headers = service.get(key=service.key(plan)).headers
    assert headers["x-ratelimit-limit"] == per_minute
    assert headers["x-ratelimit-remaining"] == str(int(per_minute) - 1)
    assert headers.get("x-ratelimit-monthly-limit") == monthly
    left = None if monthly is None else str(int(monthly) - 1)
    assert headers.get("x-ratelimit-monthly-remaining") == left
    assert "x-ratelimit-monthly-overage" not in headers


def test_limits_are_per_key(service: Service) -> None:
    """R6, R7: exactly 100 a minute, then 429; another key of the account is not concerned."""
    key = service.key()
    other = service.keys.create(key.key.account_id, "other")
    answers = [service.get(key=key).status_code for _ in range(101)]
    assert answers == [200] * 100 + [429]
    assert service.get(key=other).headers["x-ratelimit-remaining"] == "99"


@pytest.mark.parametrize(
    "text",
    ["rsh_live_nonsense", "or_key", "rsh_live_" + "0" * 36, "rsh_live_" + "0" * 29 + "c7Y6cD"],
)
def test_keys_that_are_not_valid(service: Service, text: str) -> None:
    """R7, R9: whatever is no key of the service gets 401."""
    response = service.get(key=text)
    assert (response.status_code, response.json()) == (401, refusal(401, KEY_TEXT))


def test_refusal_bodies(service: Service, clock: Clock) -> None:
    """R7, R8: every refusal is JSON of one shape, with its own status in it."""
    limited = service.key(limits="0/minute")
    expired = service.key(expires_at=clock() + 1)
    clock.advance(1)
    for status, response in (
        (401, service.get()),
        (401, service.get(key=expired)),
        (403, service.get(key=service.key(scopes=["read:entities"]))),
        (403, service.get("/api/articles?include=scoring", service.key())),
        (429, service.get(key=limited)),
    ):
        body = response.json()
        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        assert list(body) == ["success", "error", "statusCode"]
        assert (body["success"], body["statusCode"]) == (False, status)
        assert isinstance(body["error"], str)


def test_rate_limit_text_is_the_real_wait(service: Service, clock: Clock) -> None:
    """R10, R11: the text's number is the wait, as Retry-After and Reset are; less does not do."""
    key = service.key(limits="1/minute")
    clock.advance(28 * SECOND)
    service.get(key=key)
    response = service.get(key=key)
    wait = int(response.headers["retry-after"])
    assert response.json() == refusal(429, f"Rate limit exceeded. Try again in {wait} seconds.")
    assert int(response.headers["x-ratelimit-reset"]) == clock() // SECOND + wait
    clock.advance((wait - 1) * SECOND)
    assert service.get(key=key).status_code == 429
    clock.advance(SECOND)
    assert service.get(key=key).status_code == 200


def test_rate_limit_headers(service: Service, clock: Clock) -> None:
    """R11: every authenticated response has the three fields, refusals for other reasons too."""
    key = service.key(scopes=["read:articles"])
    end_of_minute = str(clock() // SECOND + 60)
    clock.advance(5 * SECOND)
    for path, status, remaining in (
        ("/api/articles", 200, "99"),
        ("/api/articles/none", 404, "98"),
        ("/nothing", 404, "97"),
        ("/api/entities", 403, "97"),
        ("/api/articles?limit=x", 400, "96"),
    ):
        response = service.get(path, key)
        assert response.status_code == status
        assert response.headers["x-ratelimit-limit"] == "100"
        assert response.headers["x-ratelimit-remaining"] == remaining
        assert response.headers["x-ratelimit-reset"] == end_of_minute


def test_over_the_quota_nothing_is_blocked(service: Service) -> None:
    """R12 to R14: over the quota requests go on, counted as overage for the bill."""
    key = service.key()
    service.count(key, 499_999)
    last = service.get(key=key)
    assert last.headers["x-ratelimit-monthly-remaining"] == "0"
    assert "x-ratelimit-monthly-overage" not in last.headers
    for overage in range(1, 20):
        response = service.get(key=key)
        assert response.status_code == 200
        assert response.headers["x-ratelimit-monthly-limit"] == "500000"
        assert response.headers["x-ratelimit-monthly-remaining"] == "0"
        assert response.headers["x-ratelimit-monthly-overage"] == str(overage)
    service.gate.flush()
    assert service.usage.this_month(key.key.account_id, key.key.id).overage == 19


def test_429_comes_from_the_minute_alone(service: Service) -> None:
    """R14: far over the quota the limit per minute is what it was, and the only one that blocks."""
    key = service.key(limits="2/minute")
    service.count(key, 10**9)
    assert [service.get(key=key).status_code for _ in range(3)] == [200, 200, 429]
    refused = service.get(key=key)
    assert refused.json()["error"].startswith("Rate limit exceeded.")
    assert refused.headers["x-ratelimit-monthly-overage"] == str(10**9 + 2 - 500_000)


def test_prices_are_data(service: Service) -> None:
    """R13: the price of 1,000 requests over quota is the plan's, as configured."""
    prices = {
        plan: service.usage.this_month(service.accounts.create(plan=plan).id).overage_price
        for plan in ("starter", "pro", "business")
    }
    assert prices == {"starter": Decimal("0.50"), "pro": Decimal("0.15"), "business": None}


def test_backing_off(ticking: Service) -> None:
    """R15: a lone client that waits until X-RateLimit-Reset and retries succeeds."""
    key = ticking.key(limits="1/second")
    while (response := ticking.get(key=key)).status_code == 200:
        """Until the limit is reached."""
    assert response.status_code == 429
    time.sleep(max(0, int(response.headers["x-ratelimit-reset"]) - time.time()))
    assert ticking.get(key=key).status_code == 200


@pytest.mark.parametrize("plan", ["starter", "pro", "business"])
@pytest.mark.parametrize("module", STARTER + PRO)
def test_modules(service: Service, plan: str, module: str) -> None:
    """R16: a module of the plan is in the data, one outside it is 403."""
    response = service.get(f"/api/articles?include={module}", service.key(plan))
    if plan == "starter" and module in PRO:
        text = f"Your plan does not include {module}."
        assert (response.status_code, response.json()) == (403, refusal(403, text))
    else:
        assert response.status_code == 200
        assert module in response.json()["data"][0]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("include=meta,sentiment", "Your plan does not include sentiment."),
        ("include=scoring,meta,sentiment", "Your plan does not include scoring, sentiment."),
        ("include=meta&include=scoring", "Your plan does not include scoring."),
        ("include=%73coring", "Your plan does not include scoring."),
        ("include=<b>weather</b>", "Your plan does not include a requested module."),
    ],
)
def test_several_modules(service: Service, query: str, text: str) -> None:
    """R16: one module outside the plan refuses the request, however it is written."""
    response = service.get(f"/api/articles?{query}", service.key())
    assert (response.status_code, response.json()) == (403, refusal(403, text))
    assert "www-authenticate" not in response.headers


def test_several_modules_of_the_plan(service: Service) -> None:
    """R16: all modules that are named are included."""
    [first, *_] = service.get("/api/articles?include=meta,translations", service.key()).json()[
        "data"
    ]
    assert {"meta", "translations"} <= first.keys()
    assert "classification" not in first


# --- over time ---


def test_rotation(service: Service) -> None:
    """R17: create, switch, verify, revoke: no request fails but those with the revoked key."""
    old = service.key()
    assert service.get(key=old).status_code == 200
    new = service.keys.create(old.key.account_id, "next")
    assert [service.get(key=key).status_code for key in (old, new)] == [200, 200]
    service.keys.revoke(old.key.id)
    assert [service.get(key=key).status_code for key in (old, new)] == [401, 200]


def test_rotation_in_one_step(service: Service, clock: Clock) -> None:
    """R17: `rotate` does the same, counts carried over; the old key ends with its grace."""
    old = service.key(scopes=["read:articles"])
    service.get(key=old)
    new = service.keys.rotate(old.key.id, grace=3600)
    assert service.get(key=old).status_code == 200
    assert service.get(key=new).headers["x-ratelimit-monthly-remaining"] == "499997"
    assert service.get("/api/entities", new).status_code == 403
    clock.advance(3600 * SECOND)
    assert [service.get(key=key).status_code for key in (old, new)] == [401, 200]


def test_month(service: Service, clock: Clock) -> None:
    """R18: the quota is that of the calendar month in UTC, and starts anew with the next one."""
    clock.now = 1_796_083_199_999  # 2026-11-30T23:59:59.999Z
    key = service.key()
    service.count(key, 500_005)
    assert service.get(key=key).headers["x-ratelimit-monthly-overage"] == "6"
    clock.advance(1)
    headers = service.get(key=key).headers
    assert headers["x-ratelimit-monthly-remaining"] == "499999"
    assert "x-ratelimit-monthly-overage" not in headers


# --- what the app says ---


@pytest.mark.parametrize("path", ENDPOINTS)
def test_envelope(service: Service, path: str) -> None:
    """R19, R20: every endpoint answers with the documented envelope."""
    body = service.get(path, service.key()).json()
    assert list(body) == ["success", "data", "pagination"]
    assert body["success"] is True
    assert body["data"]
    assert list(body["pagination"]) == ["limit", "offset", "total", "hasMore"]


@pytest.mark.parametrize(
    ("query", "ids", "pagination"),
    [
        ("", ["art_1", "art_2", "art_3"], (20, 0, 3, False)),
        ("?limit=2", ["art_1", "art_2"], (2, 0, 3, True)),
        ("?limit=2&offset=2", ["art_3"], (2, 2, 3, False)),
        ("?offset=9", [], (20, 9, 3, False)),
    ],
)
def test_pagination(
    service: Service, query: str, ids: list[str], pagination: tuple[int, int, int, bool]
) -> None:
    """R20: `limit` and `offset` choose a part, `hasMore` says whether there is another."""
    body = service.get(f"/api/articles{query}", service.key()).json()
    assert [item["id"] for item in body["data"]] == ids
    assert tuple(body["pagination"].values()) == pagination


def test_what_is_found(service: Service) -> None:
    """R19: the search looks at titles, breaking news are breaking."""
    key = service.key()
    found = service.get("/api/articles/search?q=CHIP", key).json()["data"]
    assert [item["id"] for item in found] == ["art_2"]
    assert all(item["breaking"] for item in service.get("/api/breaking", key).json()["data"])
    assert service.get("/api/entities/ent_2", key).json()["data"]["id"] == "ent_2"


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/api/articles/art_9", 404, "Not found."),
        ("/api/articles?limit=0", 400, "limit must be from 1 to 100."),
        ("/api/articles?limit=101", 400, "limit must be from 1 to 100."),
        ("/api/articles?offset=-1", 400, "offset must be from 0 to 1000000."),
        ("/api/articles?offset=" + "9" * 5000, 400, "offset must be from 0 to 1000000."),
    ],
)
def test_errors_of_the_app(service: Service, path: str, status: int, text: str) -> None:
    """R8: what the app itself refuses has the same body."""
    response = service.get(path, service.key())
    assert (response.status_code, response.json()) == (status, refusal(status, text))


# --- as the authentication page has it ---

CURL = """
curl https://worker.rushed.com.br/health
curl -H "X-API-Key: rsh_live_KEY" https://worker.rushed.com.br/api/articles
curl -H "X-API-Key: rsh_test_KEY" https://worker.rushed.com.br/api/articles
curl -H "X-API-Key: rsh_live_KEY" https://worker.rushed.com.br/api/articles/art_1
curl -H "X-API-Key: rsh_live_KEY" "https://worker.rushed.com.br/api/articles/search?q=bank"
curl -H "X-API-Key: rsh_live_KEY" "https://worker.rushed.com.br/api/articles?include=meta,translations"
curl -H "X-API-Key: rsh_live_KEY" https://worker.rushed.com.br/api/entities
curl -H "X-API-Key: rsh_live_KEY" https://worker.rushed.com.br/api/entities/ent_1
curl -H "X-API-Key: rsh_live_KEY" https://worker.rushed.com.br/api/breaking
"""


def test_from_the_command_line(tmp_path: Path) -> None:
    """R1, R2, R19: keys from the command line, uvicorn as documented, and curl's commands."""
    env = {
        "KEYRUSH_CONFIG": str(EXAMPLES / "rushed.toml"),
        "KEYRUSH_STORE_URL": f"sqlite:///{tmp_path}/rushed.db",
    }
    keys = {}
    for environment in ("live", "test"):
        made = run_process(
            *("keys", "create", "--account", "acct_1", "--name", "production", "--json"),
            *("--environment", environment, "--expires", "90d"),
            folder=tmp_path,
            env=env,
        )
        keys[f"rsh_{environment}_KEY"] = made.json["key"]
    arguments = ("--app-dir", str(EXAMPLES))
    with serve_process("rushed:app", *arguments, env=env, folder=tmp_path) as server:
        for command in CURL.strip().splitlines():
            for name, key in keys.items():
                command = command.replace(name, key)  # noqa: PLW2901  # the placeholder filled in
            response = curl(command.replace("https://worker.rushed.com.br", server.url))
            assert response.status_code == 200, command
        assert curl(f"curl {server.url}/api/articles").json() == refusal(401, KEY_TEXT)
    assert not any(key in line for key in keys.values() for line in server.lines)


def curl(command: str) -> httpx2.Response:
    """What the curl command gets."""
    _, *options, url = shlex.split(command)
    return httpx2.get(url, headers=dict(option.split(": ") for option in options if option != "-H"))


def test_the_app_holds_no_rules() -> None:
    """All of it is configuration: the app names neither scopes nor plans, limits nor headers."""
    source = (EXAMPLES / "rushed.py").read_text().partition('"""\n\n')[2]
    for word in ("scope", "quota", "401", "429", "starter", "X-API-Key", "ratelimit", "rsh_"):
        assert word not in source
