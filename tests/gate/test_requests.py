"""One table of requests and answers, sent through the ASGI and the WSGI middleware alike."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate, Refusal
from keyrush.core.policy import Policy, Rule
from keyrush.store.memory import MemoryStore
from tests.conftest import Clock, settings
from tests.support.calls import Asgi, Headers, Reply, Sent, Trio, Wsgi

KEYS_URL = "https://dash.therushed.com.br/api-keys"
TEXT_401 = f"Invalid or missing API key. Get your key at {KEYS_URL}"
BARE = 'Bearer realm="api"'
INVALID = (
    'Bearer realm="api", error="invalid_token", '
    'error_description="The credential is invalid or expired"'
)
TWO = 'Bearer realm="api", error="invalid_request", error_description="Send exactly one credential"'
NO_SCOPE = 'Bearer realm="api", error="insufficient_scope", scope="read:entities"'
UNKNOWN = "rsh_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17"  # well-formed: the vector of S80

#: Contract R6 and R16.
PLANS = tomllib.loads((Path(__file__).parents[2] / "examples/rushed.toml").read_text())["plans"]


class CountingStore:
    """Passes calls on to a store and counts look-ups; fails them all while `away`."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.finds = 0
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def find(self, *args: Any) -> Any:
        self.finds += 1
        if self.away:
            raise ConnectionError("the store is away")
        return self._store.find(*args)


class World:
    """A gate configured like Rushed, with keys of every kind, and a way to send requests."""

    def __init__(self, clock: Clock, adapter: Any) -> None:
        self.clock = clock
        self.store = CountingStore(MemoryStore())
        self.gate = Gate.open(
            settings(
                key_prefix="rsh",
                keys_url=KEYS_URL,
                public_paths="GET /health",
                plans=PLANS,
                rules=[
                    {
                        "path": "/api/articles",
                        "methods": ["GET"],
                        "scopes": ["read:articles"],
                        "modules_from": "include",
                    },
                    {"path": "/api/articles/{id}", "scopes": ["read:articles"]},
                    {"path": "/api/entities", "scopes": ["read:entities"]},
                    {"path": "/paid", "credits": 3},
                ],
            ),
            store=self.store,
            clock=clock,
        )
        for account, plan in (("acct_s", "starter"), ("acct_p", "pro"), ("acct_b", "business")):
            self.gate.accounts.create(account, plan=plan)
        self.keys = {"unknown": UNKNOWN, "malformed": UNKNOWN[:-1] + "8"}
        self.ids: dict[str, str] = {}
        for name, account, options in (
            ("live", "acct_s", {}),
            ("test", "acct_s", {"environment": "test"}),
            ("articles", "acct_s", {"scopes": ["read:articles"]}),
            ("reader", "acct_s", {"scopes": ["read:*"]}),
            ("tight", "acct_s", {"limits": "2/minute"}),
            ("nothing", "acct_s", {"limits": "0/minute"}),
            ("free", "acct_s", {"limits": "unlimited"}),
            ("expired", "acct_s", {"expires_at": clock.now + 1}),
            ("revoked", "acct_s", {}),
            ("pro", "acct_p", {}),
            ("business", "acct_b", {}),
        ):
            made = self.gate.keys.create(account, name, **options)
            self.keys[name], self.ids[name] = made.text, made.key.id
        self.gate.keys.revoke(self.ids["revoked"])
        clock.advance(1)
        self.send_one = adapter(self.gate).send

    def send(self, sent: Sent) -> Reply:
        headers: Headers = [
            (name, value.format(**self.keys) if isinstance(value, str) else value)
            for name, value in sent.headers
        ]
        reply: Reply = self.send_one(Sent(sent.path, headers, sent.method))
        return reply

    def get(self, key: str, path: str = "/api/articles", method: str = "GET") -> Reply:
        return self.send(Sent(path, [("X-API-Key", self.keys[key])], method))


@pytest.fixture(params=[Asgi, Trio, Wsgi], ids=["asgi", "trio", "wsgi"])
def world(request: pytest.FixtureRequest, clock: Clock) -> Iterator[World]:
    made = World(clock, request.param)
    yield made
    made.gate.close()


@dataclass
class Case:
    """A request, and what must come back. A header expected as None must be absent."""

    says: str
    status: int
    headers: Headers
    path: str = "/api/articles"
    method: str = "GET"
    expect: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    text: str | None = None


def _key(name: str) -> Headers:
    return [("X-API-Key", f"{{{name}}}")]


def _bearer(name: str, scheme: str = "Bearer ") -> Headers:
    return [("Authorization", f"{scheme}{{{name}}}")]


CHALLENGED = {"www-authenticate": INVALID, "cache-control": "no-store", "vary": None}
LIMITED = {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "99"}

CASES = [
    # who
    Case("R1: X-API-Key", 200, _key("live"), body=b"acct_s live live", expect=LIMITED),
    Case("O1: Bearer", 200, _bearer("live"), body=b"acct_s live live", expect=LIMITED),
    Case("R2: a test key", 200, _key("test"), body=b"acct_s test test"),
    Case("S1: the scheme in any case", 200, _bearer("live", "bEaReR ")),
    Case("S2: several spaces", 200, _bearer("live", "Bearer   ")),
    Case("S2: a tab", 401, _bearer("live", "Bearer\t"), expect={"www-authenticate": BARE}),
    Case("S7: both, alike", 200, _bearer("live") + _key("live")),
    Case(
        "S7: both, different", 400, _bearer("live") + _key("test"), expect={"www-authenticate": TWO}
    ),
    Case("S8: two Authorization lines", 400, _bearer("live") + _bearer("live")),
    Case("S8: two in one line", 400, [("Authorization", "Bearer a, Bearer b")]),
    Case(
        "S8: two X-API-Key lines",
        400,
        _key("live") + _key("test"),
        expect={"www-authenticate": TWO},
    ),
    Case("S11: a header name in any case", 200, [("x-Api-KEY", "{live}")]),
    Case("S5: another scheme beside a key", 200, [("Authorization", "Basic eA=="), *_key("live")]),
    Case(
        "R1: /health is public",
        200,
        [],
        "/health",
        body=b"nobody",
        expect={"x-ratelimit-limit": None},
    ),
    Case("R1: /health with a bad key", 200, _key("unknown"), "/health", body=b"nobody"),
    Case("R1: only GET", 401, [], "/health", "POST"),
    Case(
        "S76: a CORS preflight",
        401,
        [("Origin", "http://x"), ("Access-Control-Request-Method", "GET")],
        method="OPTIONS",
        text=TEXT_401,
        expect={"www-authenticate": BARE},
    ),
    Case("S76: any other OPTIONS", 401, [("Origin", "http://x")], method="OPTIONS"),
    # 401
    Case(
        "R7, R9, S4: no key",
        401,
        [],
        text=TEXT_401,
        expect={"www-authenticate": BARE, "cache-control": "no-store"},
    ),
    Case("S5: Basic", 401, [("Authorization", "Basic eA==")], expect={"www-authenticate": BARE}),
    Case("S6: an empty Bearer", 401, [("Authorization", "Bearer ")], expect=CHALLENGED),
    Case("S6: an empty X-API-Key", 401, [("X-API-Key", "")], expect=CHALLENGED),
    Case("R7: an unknown key", 401, _key("unknown"), text=TEXT_401, expect=CHALLENGED),
    Case("R7: an expired key", 401, _key("expired"), text=TEXT_401, expect=CHALLENGED),
    Case("O21: a revoked key", 401, _bearer("revoked"), text=TEXT_401, expect=CHALLENGED),
    Case("O21: a malformed key", 401, _bearer("malformed"), text=TEXT_401, expect=CHALLENGED),
    Case("S3: characters no token has", 401, [("Authorization", "Bearer a b§")], expect=CHALLENGED),
    Case("S12: NUL", 401, [("X-API-Key", b"\x00")], expect=CHALLENGED),
    Case("S12: high bytes", 401, [("X-API-Key", b"\x80\xff")], expect=CHALLENGED),
    Case(
        "S12: high bytes in Authorization",
        401,
        [("Authorization", b"Bearer \x80\xff")],
        expect=CHALLENGED,
    ),
    Case("S12: a 64 KiB key", 401, [("X-API-Key", "k" * 65_536)], expect=CHALLENGED),
    Case(
        "S9: a key in the query",
        401,
        [],
        "/api/articles?api_key={live}",
        expect={"www-authenticate": BARE},
    ),
    Case("traps: /health/ is not public", 401, [], "/health/"),
    Case("traps: /health%2f is not public", 401, [], "/health%2f"),
    Case("traps: /%68ealth is not public", 401, [], "/%68ealth"),
    # 400: where there are rules, a path that is not in plain form
    Case(
        "traps: // is not plain",
        400,
        [],
        "//health",
        text="The path must be in plain form, without empty or dot segments.",
        expect={"www-authenticate": None, "cache-control": "no-store"},
    ),
    Case("traps: .. is not plain", 400, [], "/x/../health"),
    Case("traps: a newline is not plain", 400, [], "/health%0a"),
    Case("traps: a backslash is not plain", 400, _key("live"), "/x%5chealth"),
    Case("traps: quoted dots are not plain", 400, _key("live"), "/x/%2e%2e/api/entities"),
    Case("traps: it comes before who calls", 400, _key("unknown"), "//x"),
    # 403
    Case(
        "R7, S17: the scope is missing",
        403,
        _key("articles"),
        "/api/entities",
        text="The API key lacks the scope read:entities.",
        expect={
            "www-authenticate": NO_SCOPE,
            "x-ratelimit-remaining": "100",
            "cache-control": "no-store",
        },
    ),
    Case("R4: a wildcard scope", 200, _key("reader"), "/api/entities"),
    Case("R4: no scopes are all", 200, _key("live"), "/api/entities"),
    Case(
        "the rule of HEAD is that of GET", 403, _key("articles"), "/api/entities", "HEAD", body=b""
    ),
    Case("traps: %2f keeps its rule", 403, _key("articles"), "/api%2fentities"),
    Case("traps: a trailing slash keeps its rule", 403, _key("articles"), "/api/entities/"),
    Case(
        "R7, R16, S18: the module is not in the plan",
        403,
        _key("live"),
        "/api/articles?include=meta,sentiment",
        text="Your plan does not include sentiment.",
        expect={"www-authenticate": None, "x-ratelimit-remaining": "100"},
    ),
    Case("R16: a module of the plan", 200, _key("live"), "/api/articles?include=meta,translations"),
    Case("R16: a module of the larger plan", 200, _key("pro"), "/api/articles?include=sentiment"),
    Case(
        "R16, S16: an unknown module is not echoed",
        403,
        _key("pro"),
        "/api/articles?include=x%3Cy",
        text="Your plan does not include a requested module.",
    ),
    Case(
        "R16: named in a second parameter",
        403,
        _key("live"),
        "/api/articles?include=meta&include=%73entiment",
    ),
    # limits
    Case(
        "R6: pro",
        200,
        _key("pro"),
        expect={"x-ratelimit-limit": "500", "x-ratelimit-monthly-limit": "3000000"},
    ),
    Case(
        "R6, R12: business",
        200,
        _key("business"),
        expect={
            "x-ratelimit-limit": "2000",
            "x-ratelimit-monthly-limit": None,
            "x-ratelimit-monthly-remaining": None,
        },
    ),
    Case(
        "R11: reset is Unix seconds", 200, _key("live"), expect={"x-ratelimit-reset": "1795000080"}
    ),
    Case(
        "R12: monthly",
        200,
        _key("live"),
        expect={
            "x-ratelimit-monthly-limit": "500000",
            "x-ratelimit-monthly-remaining": "499999",
            "x-ratelimit-monthly-overage": None,
        },
    ),
    Case(
        "R2: a test key is not counted",
        200,
        _key("test"),
        expect={"x-ratelimit-remaining": "99", "x-ratelimit-monthly-remaining": "500000"},
    ),
    Case(
        "traps: 0 admits nothing",
        429,
        _key("nothing"),
        expect={"x-ratelimit-limit": "0", "x-ratelimit-remaining": "0"},
    ),
    Case(
        "traps: unlimited is not 0",
        200,
        _key("free"),
        expect={"x-ratelimit-limit": None, "x-ratelimit-remaining": None},
    ),
    # credits
    Case(
        "O12: too few credits",
        402,
        _key("live"),
        "/paid",
        text="Not enough credits.",
        expect={"www-authenticate": None, "x-ratelimit-remaining": "100"},
    ),
    Case("R2: a test key is not charged", 200, _key("test"), "/paid"),
    # caches
    Case("S23: by header", 200, _key("live"), expect={"vary": "Authorization, X-API-Key"}),
    Case("S23: by scheme", 200, _bearer("live"), expect={"vary": "Authorization, X-API-Key"}),
    Case("S23: not where no key is asked for", 200, [], "/health", expect={"vary": None}),
    Case("O1: the scheme Api-Key", 200, _bearer("live", "Api-Key ")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_answer(world: World, case: Case) -> None:
    """Every request of the table gets its answer, by ASGI and by WSGI."""
    sent = Sent(case.path.format(**world.keys), case.headers, case.method)
    reply = world.send(sent)
    assert reply.status == case.status
    for name, value in case.expect.items():
        if value is None:
            assert name not in reply
        else:
            assert reply[name] == value
    if case.text is not None:
        assert reply["content-type"] == "application/json"
        assert reply.json == {"success": False, "error": case.text, "statusCode": case.status}
    if case.body is not None:
        assert reply.body == case.body
    if case.status >= 400:
        assert reply["cache-control"] == "no-store"


def test_malformed_keys_cost_no_look_up(world: World) -> None:
    """S3, S12, S80: what can't be a key is refused without a store call."""
    for text in ("x", "k" * 65_536, world.keys["malformed"], world.keys["live"] + "\n", "\x00"):
        assert world.send(Sent(headers=[("X-API-Key", text.replace("\n", "%0a"))])).status == 401
    assert world.store.finds == 0


def test_unknown_key_is_looked_up_once(world: World) -> None:
    """O21: an unknown key is remembered for CACHE_TTL, so that repeating it costs nothing."""
    for _ in range(5):
        assert world.get("unknown").status == 401
    assert world.store.finds == 1
    world.clock.advance(5000)
    assert world.get("unknown").status == 401
    assert world.store.finds == 2


def test_refused_bodies_are_identical(world: World) -> None:
    """O21, S26: unknown, revoked, malformed and expired keys get byte-identical bodies."""
    kinds = ("unknown", "revoked", "malformed", "expired")
    replies = [world.get(kind) for kind in kinds]
    assert len({(reply.body, tuple(reply.headers)) for reply in replies}) == 1


def test_rate_limit_wait_is_real(world: World) -> None:
    """R10, R15, S21, S30: Retry-After, Reset and the text are one number; waiting it succeeds."""
    world.clock.advance(250)
    assert [world.get("tight").status for _ in range(3)] == [200, 200, 429]
    reply = world.get("tight")
    wait = int(reply["retry-after"])
    assert reply.json == {
        "success": False,
        "error": f"Rate limit exceeded. Try again in {wait} seconds.",
        "statusCode": 429,
    }
    assert int(reply["x-ratelimit-reset"]) - world.clock.now // 1000 == wait
    assert reply["x-ratelimit-remaining"] == "0"
    assert "www-authenticate" not in reply
    start = world.clock.now
    world.clock.now = int(reply["x-ratelimit-reset"]) * 1000
    assert world.get("tight").status == 200
    world.clock.now = start + wait * 1000
    assert world.get("tight").status == 429  # the one before took it


def test_denials_do_not_lengthen_the_wait(world: World) -> None:
    """S35: hammering while refused changes nothing."""
    for _ in range(2):
        world.get("tight")
    resets = {world.get("tight")["x-ratelimit-reset"] for _ in range(50)}
    assert len(resets) == 1


@pytest.mark.parametrize(
    ("key", "path"),
    [("articles", "/api/entities"), ("live", "/api/articles?include=scoring"), ("live", "/paid")],
)
def test_refused_requests_consume_nothing(world: World, key: str, path: str) -> None:
    """A request refused for scope, module or credits takes from no window and no quota."""
    for _ in range(3):
        assert world.get(key, path).status in (402, 403)
    reply = world.get(key, "/other")
    assert reply["x-ratelimit-remaining"] == "99"
    assert reply["x-ratelimit-monthly-remaining"] == "499999"


def test_overage_is_counted_and_never_blocks(clock: Clock) -> None:
    """R13, R14: above the monthly quota requests pass, and the overage says how many they are."""
    plans = {"small": {"limits": "100/minute", "monthly_quota": 2}}
    gate = Gate.open(settings(plans=plans), clock=clock)
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k").text
    replies = [Wsgi(gate).send(Sent(headers=[("X-API-Key", key)])) for _ in range(4)]
    assert [reply.status for reply in replies] == [200] * 4
    assert [reply["x-ratelimit-monthly-remaining"] for reply in replies] == ["1", "0", "0", "0"]
    assert "x-ratelimit-monthly-overage" not in replies[1]
    assert [reply["x-ratelimit-monthly-overage"] for reply in replies[2:]] == ["1", "2"]
    gate.close()


def test_blocking_quota_refuses_until_the_month_ends(clock: Clock) -> None:
    """R18: with on_exceed = block, 429 until the calendar month ends in UTC; nothing is taken."""
    plans = {"small": {"limits": "10/minute", "monthly_quota": 1, "on_exceed": "block"}}
    gate = Gate.open(settings(plans=plans), clock=clock)
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k").text
    sent = Sent(headers=[("X-API-Key", key)])
    assert Wsgi(gate).send(sent).status == 200
    refused = Wsgi(gate).send(sent)
    assert refused.status == 429
    shown = (refused["x-ratelimit-limit"], refused["x-ratelimit-remaining"])
    assert shown == ("1", "0")
    wait = int(refused["x-ratelimit-reset"]) - clock.now // 1000
    assert wait == int(refused["retry-after"])
    clock.advance(int(refused["retry-after"]) * 1000)
    assert Wsgi(gate).send(sent).status == 200
    gate.close()


def test_account_limits_are_shared_by_keys(clock: Clock) -> None:
    """O13, O14: with per = account all keys share windows, and the most constrained is shown."""
    limits = ["60/minute", "70/hour"]
    gate = Gate.open(settings(plans={"open": {"limits": limits, "per": "account"}}), clock=clock)
    gate.accounts.create("acct_a")
    one, two = (gate.keys.create("acct_a", name).text for name in ("one", "two"))
    send = Wsgi(gate).send
    for _ in range(40):
        send(Sent(headers=[("X-API-Key", one)]))
    reply = send(Sent(headers=[("X-API-Key", two)]))
    assert (reply["x-ratelimit-limit"], reply["x-ratelimit-remaining"]) == ("60", "19")
    clock.advance(120_000)
    for _ in range(20):
        reply = send(Sent(headers=[("X-API-Key", two)]))
    assert (reply["x-ratelimit-limit"], reply["x-ratelimit-remaining"]) == ("70", "9")
    gate.close()


def test_changes_take_effect_at_once(world: World) -> None:
    """Revoking, changing plan or limits in the same process needs no CACHE_TTL."""
    gate = world.gate
    assert world.get("live")["x-ratelimit-limit"] == "100"
    gate.accounts.set_plan("acct_s", "pro")
    reply = world.get("live")
    assert (reply["x-ratelimit-limit"], reply["x-ratelimit-remaining"]) == ("500", "498")
    gate.accounts.set_limits("acct_s", "7/minute")
    assert world.get("live")["x-ratelimit-limit"] == "7"
    gate.keys.set_limits(world.ids["live"], "8/minute")
    assert world.get("live")["x-ratelimit-limit"] == "8"
    gate.keys.revoke(world.ids["live"])
    assert world.get("live").status == 401


def test_rotation_without_downtime(world: World) -> None:
    """R17: both keys work until the grace ends, and share one limit; then the new one alone."""
    assert world.get("live").status == 200
    made = world.gate.keys.rotate(world.ids["live"], grace=60)
    world.keys["new"] = made.text
    assert world.get("live")["x-ratelimit-remaining"] == "98"
    assert world.get("new")["x-ratelimit-remaining"] == "97"
    world.clock.advance(60_000)
    assert world.get("live").status == 401
    assert world.get("new").status == 200


def test_expiry_is_checked_on_every_hit(world: World) -> None:
    """R5: a cached key stops at the very millisecond at which it expires."""
    expires_at = world.clock.now + 1000
    world.keys["short"] = world.gate.keys.create("acct_s", "short", expires_at=expires_at).text
    assert world.get("short").status == 200
    world.clock.now = expires_at - 1
    assert world.get("short").status == 200
    world.clock.now = expires_at
    assert world.get("short").status == 401


def test_store_away(world: World) -> None:
    """S19: with the store away, cached keys go on; others get 503 with Retry-After, never 401."""
    assert world.get("live").status == 200
    world.store.away = True
    world.clock.advance(6000)  # past CACHE_TTL
    assert world.get("live").status == 200
    reply = world.get("pro")
    assert reply.status == 503
    assert reply["retry-after"] == "5"
    assert "www-authenticate" not in reply
    assert reply.json["error"] == "Service unavailable. Try again in 5 seconds."
    world.clock.advance(60_000)  # past STALE_IF_ERROR
    assert world.get("live").status == 503
    world.store.away = False
    world.clock.advance(1000)  # for so long, what has failed is left alone
    assert world.get("live").status == 200


def test_head_refusals_have_no_body(world: World) -> None:
    """S24: a refused HEAD has GET's status and headers, and no body."""
    get, head = world.get("unknown"), world.get("unknown", method="HEAD")
    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")


def test_credits_are_charged_before_the_work(world: World) -> None:
    """O11, O12: a priced path takes its credits, and is refused when they are short."""
    world.gate.credits.grant("acct_p", 7)
    assert [world.get("pro", "/paid").status for _ in range(3)] == [200, 200, 402]
    assert world.gate.accounts.get("acct_p").balance == 1


@pytest.mark.parametrize("rule", ["/admin", "/admin/", "/admin/{rest:path}"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/admin", 403),
        ("/admin/", 403),
        ("/%61dmin", 403),
        ("/admin%2f", 403),
        ("//admin", 400),
        ("/admin/%0A", 400),
        ("/admin%0A", 400),
        ("/./admin/", 400),
    ],
)
def test_rules_hold_for_every_spelling(world: World, rule: str, path: str, status: int) -> None:
    """Traps: however a rule and a path are spelled, the scope is needed."""
    policy = Policy((), [Rule(rule, scopes=("admin",))])
    world.gate.admission.policy = world.gate.finishing.policy = policy
    assert world.get("articles", path).status == status


@pytest.mark.parametrize(
    ("style", "expected"), [("text", b"text"), ("fails", None), ("crlf", None)]
)
def test_own_error_body(clock: Clock, style: str, expected: bytes | None) -> None:
    """S27: a body of the user's own is sent; where making it fails, the documented one is."""

    def own(refusal: Refusal, text: str) -> Any:
        if style == "fails":
            raise ZeroDivisionError
        return ("text/plain\r\nx: y" if style == "crlf" else "text/plain", "text")

    gate = Gate.open(settings(errors=own), clock=clock)
    reply = Asgi(gate).send(Sent())
    assert reply.status == 401
    if expected is None:
        assert reply.json["error"] == "Invalid or missing API key."
    else:
        assert (reply["content-type"], reply.body) == ("text/plain", expected)
    gate.close()


@pytest.mark.parametrize(("status", "text"), [(403, "403"), (402, "402")])
def test_gated_feature(clock: Clock, status: int, text: str) -> None:
    """R7, O12: what the plan lacks is 403, or 402 by GATED_STATUS, without a challenge."""
    rules = [{"path": "/x", "modules": ["scoring"]}]
    gate = Gate.open(settings(gated_status=text, rules=rules, plans=PLANS), clock=clock)
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k").text
    reply = Asgi(gate).send(Sent("/x", [("X-API-Key", key)]))
    assert reply.status == reply.json["statusCode"] == status
    assert reply.json["error"] == "Your plan does not include scoring."
    assert "www-authenticate" not in reply
    gate.close()


@pytest.mark.parametrize(("style", "x", "ietf"), [("ietf", False, True), ("both", True, True)])
def test_header_styles(clock: Clock, style: str, x: bool, ietf: bool) -> None:
    """S28, S29: HEADERS chooses the fields."""
    gate = Gate.open(settings(headers=style), clock=clock)
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k").text
    reply = Asgi(gate).send(Sent(headers=[("X-API-Key", key)]))
    assert ("x-ratelimit-limit" in reply) is x
    assert ("ratelimit" in reply) is ietf
    assert reply["ratelimit-policy"] == '"minute";q=100;w=60, "month";q=500000;w=2592000'
    assert reply["ratelimit"] == '"minute";r=99;t=60'
    gate.close()


# --- what may be set ------------------------------------------------------------------------------


@pytest.fixture(params=[Asgi, Wsgi], ids=["asgi", "wsgi"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Either middleware."""
    return request.param


class Opened:
    """Opens gates with settings, each with a key of acct_a that may read, and closes them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gates: list[Gate] = []

    def __call__(self, **values: Any) -> tuple[Gate, str]:
        gate = Gate.open(settings(scopes="read", **values), clock=self._clock)
        self._gates.append(gate)
        gate.accounts.create("acct_a")
        gate.credits.grant("acct_a", 10)
        return gate, gate.keys.create("acct_a", "k", scopes=["read"]).text

    def close(self) -> None:
        for gate in self._gates:
            gate.close()


@pytest.fixture
def opened(clock: Clock) -> Iterator[Opened]:
    made = Opened(clock)
    yield made
    made.close()


PREFLIGHT: Headers = [("Origin", "http://x"), ("Access-Control-Request-Method", "GET")]


def test_preflights_may_pass(
    opened: Opened, adapter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """S76: with PREFLIGHT=pass a preflight reaches the app, from nobody; a start warns of it."""
    gate, _ = opened(preflight="pass", rules=[{"path": "/x", "scopes": ["admin"]}])
    assert "KEYRUSH_PREFLIGHT=pass" in caplog.text
    send = adapter(gate).send
    reply = send(Sent("/x", PREFLIGHT, "OPTIONS"))
    assert (reply.status, reply.body) == (200, b"nobody")
    assert "x-ratelimit-limit" not in reply
    assert send(Sent("/x", PREFLIGHT[:1], "OPTIONS")).status == 401
    assert send(Sent("/x", PREFLIGHT, "GET")).status == 401
    assert send(Sent("//x", PREFLIGHT, "OPTIONS")).status == 400


def test_a_refused_preflight_is_advised_upon_once(
    opened: Opened, adapter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """S76: the log says once what to do, where a preflight is refused."""
    gate, key = opened()
    send = adapter(gate).send
    send(Sent("/x", [], "OPTIONS"))
    assert "CORS" not in caplog.text
    for _ in range(3):
        assert send(Sent("/x", PREFLIGHT, "OPTIONS")).status == 401
    assert caplog.text.count("put your CORS middleware outside") == 1
    assert send(Sent("/x", [*PREFLIGHT, ("X-API-Key", key)], "OPTIONS")).status == 200


@pytest.mark.parametrize(
    ("names", "headers", "status"),
    [
        ("x-api-key", [("Authorization", "Bearer infra"), ("X-API-Key", "{key}")], 200),
        ("x-api-key", [("Authorization", "Bearer {key}")], 401),
        ("authorization", [("Authorization", "Bearer {key}"), ("X-API-Key", "other")], 200),
        ("X-Rushed-Key", [("x-rushed-key", "{key}")], 200),
        ("X-Rushed-Key", [("X-API-Key", "{key}")], 401),
    ],
)
def test_credential_headers(
    opened: Opened, adapter: Any, names: str, headers: Headers, status: int
) -> None:
    """R1, S23: only the headers that are set are read, and caches are told of exactly these."""
    gate, key = opened(credential_headers=names)
    given: Headers = [(name, str(value).format(key=key)) for name, value in headers]
    reply = adapter(gate).send(Sent("/x", given))
    assert reply.status == status
    if status == 200:
        spelled = {"x-api-key": "X-API-Key", "authorization": "Authorization"}
        assert reply["vary"] == spelled.get(names, names)


def seen_by_asgi(seen: list[str]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(name.decode().lower() for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    return app


def seen_by_wsgi(seen: list[str]) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        names = [name for name in environ if name.startswith("HTTP_")]
        seen.extend(name[5:].lower().replace("_", "-") for name in names)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    return app


@pytest.mark.parametrize("hide", [True, False])
@pytest.mark.parametrize("path", ["/x", "/health"])
def test_credentials_may_be_hidden(opened: Opened, adapter: Any, hide: bool, path: str) -> None:
    """With HIDE_CREDENTIALS the app sees the request without its key, on public paths too."""
    gate, key = opened(hide_credentials=hide)
    seen: list[str] = []
    app = seen_by_asgi(seen) if adapter is Asgi else seen_by_wsgi(seen)
    headers: Headers = [("Host", "h"), ("X-API-Key", key), ("Authorization", f"Bearer {key}")]
    assert adapter(gate, app).send(Sent(path, headers)).status == 200
    assert "host" in seen
    assert ("x-api-key" in seen) is not hide
    assert ("authorization" in seen) is not hide


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/named", 200),
        ("HEAD", "/named", 200),
        ("GET", "/named/", 200),
        ("PUT", "/named", 403),
        ("TRACE", "/named", 403),
        ("DELETE", "/named", 403),
        ("GET", "/unnamed", 403),
        ("GET", "/health", 200),
    ],
)
def test_what_no_rule_names(
    opened: Opened, adapter: Any, method: str, path: str, status: int
) -> None:
    """Closed by default: with UNRULED=refuse, a path or method that no rule names is 403, without a
    challenge, with the fields, and consumes nothing; without a key it is 401 as anywhere.
    """
    gate, key = opened(unruled="refuse", rules=[{"path": "/named", "methods": ["GET"]}])
    send = adapter(gate).send
    reply = send(Sent(path, [("X-API-Key", key)], method))
    assert reply.status == status
    if status == 403:
        assert "www-authenticate" not in reply
        assert reply["x-ratelimit-remaining"] == "100"
        assert send(Sent(path, [], method)).status == 401


# --- a gate within the gate -----------------------------------------------------------------------


class Nested:
    """An outer gate, and an app mounted in it at `/sub` behind one from the same settings."""

    def __init__(self, adapter: Any, gate: Gate) -> None:
        self._adapter = adapter
        self._inner = adapter(gate).middleware
        mounted = self._in_asgi if adapter is Asgi else self._in_wsgi
        self.outer = adapter(gate, mounted)

    async def _in_asgi(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/sub/"):
            scope = {**scope, "root_path": "/sub"}
        await self._inner(scope, receive, send)

    def _in_wsgi(self, environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"].startswith("/sub/"):
            environ["SCRIPT_NAME"] = "/sub"
            environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/sub")
        return self._inner(environ, start_response)

    def get(self, path: str, key: str | None) -> Reply:
        headers: Headers = [("X-API-Key", key)] if key else []
        reply: Reply = self.outer.send(Sent(path, headers))
        return reply


INNER_RULES = [
    {"path": "/secret", "scopes": ["admin"]},
    {"path": "/module", "modules": ["scoring"]},
    {"path": "/paid", "credits": 3},
    {"path": "/sub/both", "credits": 2},
    {"path": "/both", "credits": 5},
]


@pytest.mark.parametrize(
    ("path", "status", "balance"),
    [
        ("/sub/open", 200, 10),
        ("/sub/secret", 403, 10),
        ("/sub/module?x=1", 403, 10),
        ("/sub/paid", 200, 7),
        ("/sub/both", 200, 5),
        ("/paid", 200, 7),
    ],
)
def test_an_inner_gate_keeps_its_rules(
    opened: Opened, adapter: Any, path: str, status: int, balance: int
) -> None:
    """Traps: behind a gate from the same settings, counting is skipped, never the rules: what they
    refuse is refused, what they cost is paid, once.
    """
    gate, key = opened(rules=INNER_RULES)
    nested = Nested(adapter, gate)
    reply = nested.get(path, key)
    assert reply.status == status
    assert reply["x-ratelimit-remaining"] == ("99" if status == 200 else "100")
    assert gate.accounts.get("acct_a").balance == balance
    assert nested.get(path, None).status == 401


def test_an_inner_gate_asks_those_whom_the_outer_did_not(opened: Opened, adapter: Any) -> None:
    """R1: a path that is public outside alone is closed inside."""
    gate, key = opened(public_paths="/sub/x")
    nested = Nested(adapter, gate)
    assert nested.get("/sub/x", None).status == 401
    reply = nested.get("/sub/x", key)
    assert (reply.status, reply["x-ratelimit-remaining"]) == (200, "99")


def test_an_inner_gate_charges_no_more_than_there_is(opened: Opened, adapter: Any) -> None:
    """O12: what only the inner rules cost is refused where the balance is short."""
    gate, key = opened(rules=[{"path": "/dear", "credits": 11}])
    reply = Nested(adapter, gate).get("/sub/dear", key)
    assert (reply.status, reply["x-ratelimit-remaining"]) == (402, "100")
    assert gate.accounts.get("acct_a").balance == 10
