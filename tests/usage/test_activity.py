"""Activity as the gate records it: a row for each request of a known caller, at its end."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import anyio
import pytest

from keyrush import Gate, Refusal, Refused
from keyrush.core.activity import Activity
from keyrush.core.identity import account_subject
from keyrush.core.times import DAY, month_of
from keyrush.errors import DataError
from keyrush.runtime import workers
from keyrush.store.memory import MemoryStore
from keyrush.store.protocol import Batch
from keyrush.usage import activity as recording
from keyrush.usage.activity import PORTION, REFUSALS_A_MINUTE
from keyrush.usage.shown import Addresses, shown_agent, shown_id, shown_path
from tests.conftest import Clock, settings, still
from tests.support.calls import Asgi, Sent, Wsgi, environ_of, run, scope_of
from tests.support.resources import DOORS, RESOURCE, App, Door, call, message, result

RULES: list[dict[str, Any]] = [
    {"path": "/api/articles/{id}", "credits": 3},
    {"path": "/api/admin", "scopes": ["admin"]},
    {"path": "/mcp", "mcp": "tools/call", "tool": "audit_site", "credits": 10, "scopes": ["seo"]},
    {"path": "/mcp", "mcp": "tools/call", "tool": "inspect_page", "credits": 2},
]

KEY = "kr_live_" + "a1B2c3D4e5" * 3 + "f6G7h8"

PLANS = {"standard": {"limits": "1000/minute", "per": "account"}}

#: Much else that is asked of the gate in tests is on this path.
ARTICLE, ARTICLES = "/api/articles/7", "/api/articles/{id}"


@pytest.fixture
def more() -> dict[str, Any]:
    """Settings of a test's own."""
    return {}


@pytest.fixture
def gate(clock: Clock, more: dict[str, Any]) -> Iterator[Gate]:
    """A gate with rules and a resource, an account with credits, and nothing in the background."""
    values = {"rules": RULES, "plans": PLANS, "resources": [RESOURCE], "scopes": ["read"]}
    opened = still(Gate.open(settings(**values | more), clock=clock))
    opened.accounts.create("acct_a")
    opened.credits.grant("acct_a", 100)
    yield opened
    opened.close()


@pytest.fixture
def key(gate: Gate) -> str:
    """A key of acct_a."""
    return gate.keys.create("acct_a", "a", scopes=["read"]).text


def recorded(gate: Gate, account_id: str = "acct_a") -> list[Activity]:
    """The rows of the account by now, oldest first."""
    gate.flush()
    return [*gate.activity.page(account_id, limit=100).items][::-1]


def counted(gate: Gate) -> int:
    """The requests of acct_a this month, as the store has them."""
    return gate.store.usage(account_subject("acct_a"), month_of(gate.clock()))


def charged(gate: Gate) -> int:
    """The credits that acct_a has spent of its hundred."""
    return 100 - gate.credits.balance("acct_a")


# --- an app that does as it is told -------------------------------------------------------------


class Doing:
    """An app of both kinds: by its path it answers with a status, raises, charges or refuses."""

    def __call__(self, principal: Any, path: str) -> int:
        what = path.rsplit("/", 1)[-1]
        if what == "charge":
            principal.charge(5)
        elif what == "raise":
            principal.charge(5)
            raise ValueError("of the app")
        elif what == "forbid":
            principal.require_scope("other")
        elif what == "poor":
            principal.charge(1000)
        elif what == "limit":
            raise Refused(Refusal("rate_limited", retry_after=1))
        return int(what) if what.isdigit() and len(what) == 3 else 200

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        status = self(scope["keyrush"], scope["path"])
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    def wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        status = self(environ["keyrush.principal"], environ["PATH_INFO"])
        start_response(f"{status} Said", [("Content-Type", "text/plain")])
        return [b"ok"]


def asgi(gate: Gate) -> Asgi:
    """The app behind ASGI."""
    return Asgi(gate, Doing().asgi)


def over_wsgi(gate: Gate) -> Wsgi:
    """The app behind WSGI."""
    return Wsgi(gate, Doing().wsgi)


Opening = Callable[[Gate], Any]


@pytest.fixture(params=[asgi, over_wsgi])
def opening(request: pytest.FixtureRequest) -> Opening:
    """Either door to it."""
    found: Opening = request.param
    return found


#: A request, and the path, rule, status, outcome, reason and credits of its row.
ROWS: list[tuple[str, tuple[str, str, int, str, str | None, int]]] = [
    ("/plain", ("/plain", "", 200, "ok", None, 0)),
    ("/plain?key=secret", ("/plain", "", 200, "ok", None, 0)),
    (ARTICLE, (ARTICLES, ARTICLES, 200, "ok", None, 3)),
    (f"{ARTICLE}/", (ARTICLES, ARTICLES, 200, "ok", None, 3)),
    ("/api/articles/404", (ARTICLES, ARTICLES, 404, "error", None, 0)),
    ("/api/articles/500", (ARTICLES, ARTICLES, 500, "error", None, 0)),
    ("/api/articles/302", (ARTICLES, ARTICLES, 302, "ok", None, 0)),
    ("/api/admin", ("/api/admin", "/api/admin", 403, "refused", "insufficient_scope", 0)),
    ("/x/charge", ("/x/charge", "", 200, "ok", None, 5)),
    ("/x/raise", ("/x/raise", "", 500, "error", None, 0)),
    ("/x/forbid", ("/x/forbid", "", 403, "refused", "insufficient_scope", 0)),
    ("/x/poor", ("/x/poor", "", 402, "refused", "insufficient_credits", 0)),
    ("/x/limit", ("/x/limit", "", 429, "limited", "rate_limited", 0)),
]


@pytest.mark.parametrize(("path", "expected"), ROWS)
def test_a_request(
    gate: Gate, key: str, opening: Opening, path: str, expected: tuple[Any, ...]
) -> None:
    """O20: a request is one row, and what it says of counts and credits is what these say."""
    door = opening(gate)
    sent = Sent(path, [("x-api-key", key), ("user-agent", "curl/8"), ("x-request-id", "r-1")])
    if path.endswith("raise"):
        with pytest.raises(ValueError, match="of the app"):
            door.send(sent)
        gate.workers.close()  # what gives it back
    else:
        assert door.send(sent).status == expected[2]
    (row,) = recorded(gate)
    assert (row.path, row.rule, row.status, row.outcome, row.reason, row.credits) == expected
    (known,) = gate.keys.list("acct_a")
    assert (row.account_id, row.credential_id, row.subject) == ("acct_a", known.id, None)
    assert (row.source, row.method, row.at) == ("api", "GET", gate.clock())
    assert (row.agent, row.request_id, row.address) == ("curl/8", "r-1", "127.0.0.0/24")
    assert 0 <= row.duration < 60_000_000
    assert counted(gate) == (row.outcome in {"ok", "error"})
    assert charged(gate) == row.credits


def test_nobody(gate: Gate, opening: Opening) -> None:
    """O20: a caller that nobody knows, or that needs no key, is nobody's activity."""
    door = opening(gate)
    door.send(Sent("/plain"))
    door.send(Sent("/plain", [("x-api-key", "kr_live_" + "0" * 36)]))
    door.send(Sent("/health"))
    assert recorded(gate) == []


def test_limits(gate: Gate, opening: Opening) -> None:
    """R8: what the gate itself limits is `limited`, warm or cold, and spends nothing."""
    key = gate.keys.create("acct_a", "slow", scopes=["read"], limits="1/minute").text
    door = opening(gate)
    statuses = [door.send(Sent("/plain", [("x-api-key", key)])).status for _ in range(3)]
    assert statuses == [200, 429, 429]
    assert [row.outcome for row in recorded(gate)] == ["ok", "limited", "limited"]
    assert counted(gate) == 1


def test_sandbox_keys(gate: Gate, opening: Opening) -> None:
    """R2: requests of sandbox keys are recorded, and neither counted nor charged."""
    key = gate.keys.create("acct_a", "test", environment="test", scopes=["read"]).text
    opening(gate).send(Sent(ARTICLE, [("x-api-key", key)]))
    (row,) = recorded(gate)
    assert (row.outcome, row.credits, counted(gate), charged(gate)) == ("ok", 0, 0, 0)


def test_a_gate_within_the_gate(gate: Gate, key: str) -> None:
    """S66: a request that passes two gates of one kind is recorded once."""
    inner = Asgi(gate, Doing().asgi).middleware
    Asgi(gate, inner).send(Sent(ARTICLE, [("x-api-key", key)]))
    (row,) = recorded(gate)
    assert (row.credits, row.outcome) == (3, "ok")


def test_what_the_principal_tells(gate: Gate, key: str) -> None:
    """S82: the rule and the id of the request are the principal's, but never a key."""
    told: list[tuple[str | None, str | None]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.append((scope["keyrush"].rule, scope["keyrush"].request_id))
        await Doing().asgi(scope, receive, send)

    door = Asgi(gate, app)
    for path, request_id in ((ARTICLE, "r-1"), ("/plain", "no spaces"), ("/plain", key)):
        door.send(Sent(path, [("x-api-key", key), ("X-Request-ID", request_id)]))
    assert told == [(ARTICLES, "r-1"), (None, None), (None, None)]


# --- how responses end --------------------------------------------------------------------------


async def play(gate: Gate, app: Any, scope: dict[str, Any], *received: Any) -> list[Any]:
    """The messages that the app sends through the gate; it may receive these."""
    waiting, sent = [*received], []

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await Asgi(gate, app).middleware(scope, receive, send)
    return sent


START = {"type": "http.response.start", "status": 200, "headers": []}
LEFT = {"type": "http.disconnect"}


def http(key: str) -> dict[str, Any]:
    """The scope of a request."""
    return scope_of(Sent("/stream", [("x-api-key", key)]))


async def whole(receive: Any, send: Any) -> None:
    """A stream to its end."""
    await send(START)
    for more in (True, True, False):
        await send({"type": "http.response.body", "body": b"x", "more_body": more})


async def torn(receive: Any, send: Any) -> None:
    """A stream that the app leaves off."""
    await send(START)
    await send({"type": "http.response.body", "body": b"x", "more_body": True})


async def broken_off(receive: Any, send: Any) -> None:
    """One that the client leaves."""
    await torn(receive, send)
    await receive()


async def silent(receive: Any, send: Any) -> None:
    """No answer at all."""
    await receive()


async def failing(receive: Any, send: Any) -> None:
    """One that fails in the middle."""
    await torn(receive, send)
    raise ValueError("of the app")


async def afterwards(receive: Any, send: Any) -> None:
    """One that fails when all has been said."""
    await whole(receive, send)
    raise ValueError("of the app")


ENDS = [
    (whole, 200, "ok"),
    (torn, 200, "error"),
    (broken_off, 200, "ok"),
    (silent, 0, "error"),
    (failing, 200, "error"),
    (afterwards, 200, "ok"),
]


@pytest.mark.parametrize(("does", "status", "outcome"), ENDS)
def test_how_it_ends(gate: Gate, key: str, does: Any, status: int, outcome: str) -> None:
    """O20: a stream is one row at its end, whoever has ended it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await does(receive, send)

    if does in {failing, afterwards}:
        with pytest.raises(ValueError, match="of the app"):
            run(play(gate, app, http(key)))
    else:
        run(play(gate, app, http(key), LEFT))
    (row,) = recorded(gate)
    assert (row.status, row.outcome) == (status, outcome)
    assert counted(gate) == 1


ACCEPT, CLOSE = {"type": "websocket.accept"}, {"type": "websocket.close", "code": 1000}
SOCKETS = [
    ([ACCEPT, CLOSE], 101, "ok"),
    ([ACCEPT], 101, "ok"),
    ([CLOSE], 403, "error"),
    ([ACCEPT, ValueError("of the app")], 101, "error"),
]


def test_a_charge_that_nobody_waits_for(
    gate: Gate, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O11, O20: a charge whose task is cancelled as it is made is none of the request's, however
    late it is undone.
    """
    entered, go, made, over = (threading.Event() for _ in range(4))
    charge, undo = gate.store.charge, workers._undo  # noqa: SLF001  # it may come late

    def slow(*args: Any, **named: Any) -> int | None:
        balance = charge(*args, **named)
        entered.set()
        assert go.wait(10)
        return balance

    def undo_later(*done: Any) -> None:
        made.set()
        assert over.wait(10)
        undo(*done)

    monkeypatch.setattr(gate.store, "charge", slow)
    monkeypatch.setattr(workers, "_undo", undo_later)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with anyio.create_task_group() as charging:
            charging.start_soon(scope["keyrush"].charge_async, 5)
            await anyio.to_thread.run_sync(entered.wait)
            charging.cancel_scope.cancel()
            go.set()
        await anyio.to_thread.run_sync(made.wait)
        await send({"type": "http.response.body", "body": b"ok"})

    assert Asgi(gate, app).send(Sent("/x", [("X-API-Key", key)])).status == 200
    over.set()
    gate.workers.close()
    [row] = recorded(gate)
    assert (row.credits, charged(gate)) == (0, 0)


@pytest.mark.parametrize(("does", "status", "outcome"), SOCKETS)
def test_websockets(gate: Gate, key: str, does: list[Any], status: int, outcome: str) -> None:
    """O20: a WebSocket is one row, at its end."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for one in does:
            if isinstance(one, Exception):
                raise one
            await send(one)

    scope = scope_of(Sent("/ws", [("x-api-key", key)]), type="websocket")
    del scope["method"]
    if outcome == "error" and status == 101:
        with pytest.raises(ValueError, match="of the app"):
            run(play(gate, app, scope, {"type": "websocket.connect"}))
    else:
        run(play(gate, app, scope, {"type": "websocket.connect"}))
    (row,) = recorded(gate)
    assert (row.method, row.status, row.outcome) == ("GET", status, outcome)


def test_wsgi_streams(gate: Gate, key: str) -> None:
    """S72: over WSGI the row is written when the server closes the iterable, once."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"a"
        yield b"b"

    middleware = Wsgi(gate).middleware
    middleware.app = app
    items = middleware(environ_of(Sent(ARTICLE, [("x-api-key", key)])), lambda *_: lambda _: None)
    assert next(iter(items)) == b"a"
    assert recorded(gate) == []
    items.close()  # type: ignore[attr-defined]  # as servers do
    items.close()  # type: ignore[attr-defined]
    (row,) = recorded(gate)
    assert (row.status, row.outcome, row.credits) == (200, "ok", 3)


# --- MCP ----------------------------------------------------------------------------------------


@pytest.fixture
def app() -> App:
    """The server behind the resource."""
    return App()


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest, gate: Gate, app: App) -> Door:
    """The gate in front of it, over ASGI and over WSGI."""
    found: Door = request.param(gate, app)
    return found


@pytest.fixture
def agent(gate: Gate) -> str:
    """A key that may call all tools."""
    return gate.keys.create("acct_a", "agent", scopes=["seo"]).text


def seen(row: Activity) -> tuple[Any, ...]:
    """What differs from call to call."""
    return row.method, row.path, row.rule, row.status, row.outcome, row.reason, row.credits


AUDIT = ("tools/call", "audit_site", "audit_site")
CALLS: list[tuple[Any, Any, list[tuple[Any, ...]]]] = [
    (call("audit_site"), result(), [(*AUDIT, 200, "ok", None, 10)]),
    (call("audit_site"), result(isError=True), [(*AUDIT, 200, "error", None, 0)]),
    (
        call("audit_site"),
        message(None, 1, error={"code": -32000, "message": "no"}),
        [(*AUDIT, 200, "error", None, 0)],
    ),
    (call("free"), result(), [("tools/call", "free", "free", 200, "ok", None, 0)]),
    (call("none"), result(isError=True), [("tools/call", "none", "", 200, "error", None, 0)]),
    (message("tools/list"), message(None, 1, result={"tools": []}), []),
    (message("initialize"), message(None, 1, result={}), []),
    (
        message("resources/read", params={"uri": "file:///a?token=secret"}),
        message(None, 1, result={}),
        [("resources/read", "file:///a", "", 200, "ok", None, 0)],
    ),
]


@pytest.mark.parametrize(("asked", "answer", "expected"), CALLS)
def test_a_call(  # noqa: PLR0917  # fixtures
    gate: Gate, door: Door, app: App, agent: str, asked: Any, answer: Any, expected: Any
) -> None:
    """O20: a call over MCP is a row, by its tool; what is free is no request, and none."""
    app.answers(answer)
    door.post(asked, agent)
    rows = recorded(gate)
    assert [seen(row) for row in rows] == expected
    assert all(row.source == "mcp" for row in rows)
    assert counted(gate) == len(rows)
    assert charged(gate) == sum(row.credits for row in rows)


def test_a_refused_call(gate: Gate, door: Door, app: App, key: str, agent: str) -> None:
    """O20: what the gate refuses of MCP is one row with its reason, read or unread."""
    door.post(call("audit_site"), key)  # without the scope
    door.post(b"{", agent)
    door.post([call("audit_site", 1), call("audit_site", 2)], agent)
    found = [seen(row) for row in recorded(gate)]
    assert found == [
        (*AUDIT, 403, "refused", "insufficient_scope", 0),
        ("POST", "/mcp", "", 400, "refused", "not_json", 0),
        ("POST", "/mcp", "", 400, "refused", "batch_refused", 0),
    ]
    assert (counted(gate), charged(gate)) == (0, 0)


class TestBatches:
    """Batches, where a resource takes them."""

    @pytest.fixture
    def more(self) -> dict[str, Any]:
        """A resource that takes them."""
        return {"resources": [RESOURCE | {"batches": "sum"}]}

    def test_each_call(self, gate: Gate, door: Door, app: App, agent: str) -> None:
        """O20: each call of a batch is a row with its own credits and outcome."""
        app.answers([result(1), result(2, isError=True), result(4)])
        calls = [call("audit_site", 1), call("audit_site", 2), message("ping", 3)]
        door.post([*calls, call("inspect_page", 4)], agent)
        rows = [(row.rule, row.outcome, row.credits) for row in recorded(gate)]
        assert rows == [
            ("audit_site", "ok", 10),
            ("audit_site", "error", 0),
            ("inspect_page", "ok", 2),
        ]
        assert (counted(gate), charged(gate)) == (3, 12)


def test_tools_that_no_rule_names(gate: Gate, door: Door, app: App, agent: str) -> None:
    """O20: totals tell as many tools apart as there is room for, whatever a client calls."""
    app.answers(result())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "_TOOLS", 2)
        for name in ("a", "b", "c", "a"):
            door.post(call(name), agent)
    assert [(row.path, row.rule) for row in recorded(gate)] == [
        ("a", "a"),
        ("b", "b"),
        ("c", ""),
        ("a", "a"),
    ]


@pytest.mark.parametrize(
    "asked", [call(KEY), call(f"x {KEY}"), call(KEY.replace("_", "%5f")), message(KEY)]
)
def test_calls_that_are_named_like_a_key(
    gate: Gate, door: Door, app: App, agent: str, asked: Any
) -> None:
    """S82: a key for the name of a tool or a method is in no row and in no total, although the
    server answers as if there were one.
    """
    app.answers(result())
    door.post(asked, agent)
    (row,) = recorded(gate)
    (total,) = gate.activity.summary("acct_a", group="rule")
    assert KEY[10:] not in repr((row, total))
    assert (row.rule, total.value) == ("", "")


# --- what is kept of people ---------------------------------------------------------------------

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"

PATHS = [
    ("/a/b", "/a/b"),
    ("/users/cred_0123456789abcdef", "/users/cred_0123456789abcdef"),
    ("/a" * 150, "/a" * 100),
    (f"/hooks/{KEY}/x", "/hooks/…/x"),
    (f"/hooks/x{KEY}", "/hooks/…"),
    (f"/{JWT}/x", "/…/x"),
    ("/auth/Bearer abc123", "/auth/…"),
    ("/" + KEY.replace("k", "%6b").replace("_", "%5f"), "…"),
    ("/" + KEY.replace("_", "%255f"), "…"),
    ("/" + "a" * 190 + "/" + KEY, "/" + "a" * 190 + "/…"),
    ("/a\n\x1b[1m\u202e", "/a\\n\\x1b[1m\\u202e"),
]


@pytest.mark.parametrize(("path", "shown"), PATHS)
def test_paths_without_a_rule(path: str, shown: str) -> None:
    """S82: a path without a rule is cut, stands on one line, and holds no key, however quoted."""
    assert shown_path(path) == shown


def test_a_key_at_the_cut() -> None:
    """S82: of a key that begins before the end of what is looked at, nothing usable is left."""
    for length in range(150, 401):
        assert "a1B2c3D4e5a1B2c3D4e5" not in shown_path("/" + "x" * (length - 2) + "/" + KEY)


HOSTILE = ["_" * 399, "a_" * 190 + "%2525252541", "a" * 399, "_a" * 150 + "%25252541", "eyJ." * 99]


@pytest.mark.parametrize("path", HOSTILE)
def test_what_a_path_costs(path: str) -> None:
    """O20: whatever a client sends, a look for keys takes a time that goes with its length: paths
    that took the square of it held the process up for tens of milliseconds each.
    """
    began = time.thread_time()
    for _ in range(100):
        shown_path(path)
    assert time.thread_time() - began < 0.5


def test_agents() -> None:
    """O20: 80 characters of the user agent, control characters replaced, and none with a key."""
    assert shown_agent(b"curl/8.5.0") == "curl/8.5.0"
    assert shown_agent(b"x" * 100) == "x" * 80
    assert shown_agent(b"a\x00\x1b\xff") == "a??\ufffd"
    assert shown_agent("ä".encode() * 100) == "ä" * 80
    assert [shown_agent(one) for one in (None, b"", KEY.encode(), b"x/" + JWT.encode())] == [
        None
    ] * 4


def test_request_ids() -> None:
    """S82: 1 to 64 visible characters of ASCII, and no key, are the id of a request."""
    assert shown_id(b"01HF-abc/1") == "01HF-abc/1"
    for wrong in (b"", b"a b", b"x" * 65, b"\xc3\xa4", b"a\n", KEY.encode()):
        assert shown_id(wrong) is None


ADDRESSES = [
    ("prefix", "203.0.113.9", "203.0.113.0/24"),
    ("prefix", "2001:db8:1:2::3", "2001:db8:1::/48"),
    ("prefix", "::ffff:203.0.113.9", "203.0.113.0/24"),
    ("full", "203.0.113.9", "203.0.113.9"),
    ("full", "2001:DB8::3%eth0", "2001:db8::3"),
    ("off", "203.0.113.9", None),
    ("prefix", "/run/app.sock", None),
    ("prefix", "203.0.113.9.evil", None),
    ("full", None, None),
]


@pytest.mark.parametrize(("kept", "peer", "shown"), ADDRESSES)
def test_addresses(kept: Any, peer: str | None, shown: str | None) -> None:
    """O20: of addresses the network is kept, all, or nothing."""
    assert Addresses(kept, ()).of(peer, None) == shown


class TestProxies:
    """Behind a proxy."""

    @pytest.fixture
    def more(self) -> dict[str, Any]:
        """One on this machine, and one beside it."""
        return {"trusted_proxies": ["127.0.0.1", "10.0.0.0/8"], "activity_address": "full"}

    def test_forwarded_for(self, gate: Gate, key: str, opening: Opening) -> None:
        """S20: the address is what trusted proxies tell, and not what a client claims."""
        claims = [("x-forwarded-for", "6.6.6.6, " * 200 + "203.0.113.9"), ("x-api-key", key)]
        opening(gate).send(Sent("/plain", [*claims, ("x-forwarded-for", "10.0.0.7")]))
        (row,) = recorded(gate)
        assert row.address == "203.0.113.9"


@pytest.mark.parametrize("before", [50, 64, 79])
def test_an_agent_with_a_key_at_the_cut(
    gate: Gate, key: str, opening: Opening, before: int
) -> None:
    """S82: of a key that begins within the characters that are kept nothing is."""
    agent = "x" * (before - 1) + " " + KEY
    opening(gate).send(Sent("/plain", [("x-api-key", key), ("user-agent", agent)]))
    (row,) = recorded(gate)
    assert row.agent is None


def test_nothing_of_the_key_is_kept(gate: Gate, key: str, opening: Opening) -> None:
    """S82: what waits for the flush holds neither the key nor the headers that it came in."""
    door = opening(gate)
    door.send(Sent(ARTICLE, [("authorization", f"Bearer {key}")]))
    assert gate.recording is not None
    assert key not in repr(list(gate.recording._waiting))  # noqa: SLF001  # that is what waits
    assert key not in repr(recorded(gate))


def test_what_waits_is_short(gate: Gate, key: str, opening: Opening) -> None:
    """O20: of what a client may make as long as it likes, little waits for the flush."""
    long = "x" * 9_000
    noted = [("user-agent", long), ("x-request-id", long)]
    opening(gate).send(Sent(f"/plain/{long}", [("x-api-key", key), *noted]))
    assert gate.recording is not None
    (happened,) = gate.recording._waiting  # noqa: SLF001  # that is what waits
    assert len(repr(happened)) < 1_500
    (row,) = recorded(gate)
    assert (len(row.path), row.request_id) == (200, None)


def test_what_waits_is_nothing_to_the_garbage_collector(
    gate: Gate, key: str, opening: Opening
) -> None:
    """However many requests wait for the flush, the garbage collector goes through none of them."""
    opening(gate).send(Sent(ARTICLE, [("x-api-key", key), ("user-agent", "curl/8")]))
    assert gate.recording is not None
    gc.collect()
    (happened,) = gate.recording._waiting  # noqa: SLF001  # that is what waits
    assert not gc.is_tracked(happened)


# --- floods and outages -------------------------------------------------------------------------


def test_a_flood_of_refusals(gate: Gate, clock: Clock, key: str, opening: Opening) -> None:
    """O20: of what one key is refused, 60 rows a minute are kept, and all in the totals."""
    door = opening(gate)
    for _ in range(REFUSALS_A_MINUTE + 40):
        door.send(Sent("/x/limit", [("x-api-key", key)]))
    door.send(Sent("/plain", [("x-api-key", key)]))
    assert Counter(row.outcome for row in recorded(gate)) == {"limited": 60, "ok": 1}
    totals = gate.activity.summary("acct_a", by="minute", group="outcome")
    assert {total.value: total.requests for total in totals} == {"limited": 100, "ok": 1}
    clock.advance(60_000)
    door.send(Sent("/x/limit", [("x-api-key", key)]))
    assert len(recorded(gate)) == 62


class FaultyStore(MemoryStore):
    """A store that fails when told to, before or after it has written."""

    fails: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch | None] = []

    def add_activity(self, rows: Sequence[Activity], batch: Batch | None = None) -> None:
        self.batches.append(batch)
        if self.fails == "before":
            raise OSError("away")
        if self.fails == "data":
            raise DataError("can't be taken")
        super().add_activity(rows, batch)
        if self.fails == "after":
            raise OSError("away")


@pytest.fixture
def faulty(clock: Clock) -> Iterator[tuple[Gate, FaultyStore, Asgi, Sent]]:
    """A gate over such a store, with a request to it."""
    store = FaultyStore()
    opened = still(Gate.open(settings(), store=store, clock=clock))
    opened.accounts.create("acct_a")
    key = opened.keys.create("acct_a", "a").text
    yield opened, store, Asgi(opened), Sent("/plain", [("x-api-key", key)])
    store.fails = None
    opened.close()


@pytest.mark.parametrize("fails", ["before", "after"])
def test_an_unknown_outcome(faulty: Any, fails: str) -> None:
    """O20: a batch whose outcome is unknown is written again under its number, and adds once."""
    gate, store, door, sent = faulty
    for _ in range(PORTION + 10):
        door.send(sent)
    store.fails = fails
    assert gate.recording.flush() is False
    store.fails = None
    gate.circuit.succeeded()
    assert gate.recording.flush() is True
    assert store.batches[0] == store.batches[1]
    assert sum(one.requests for one in gate.activity.summary("acct_a")) == PORTION + 10


def test_what_is_never_taken(faulty: Any) -> None:
    """O20: rows that the store will never take are let go of, counted, and hold nothing up."""
    gate, store, door, sent = faulty
    store.fails = "data"
    door.send(sent)
    assert gate.recording.flush() is True
    store.fails = None
    assert gate.health().unrecorded == 1
    door.send(sent)
    assert len(recorded(gate)) == 1


def test_pressure(
    faulty: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """O20: what is too much is let go of, counted, and said once; requests don't notice."""
    gate, _, door, sent = faulty
    monkeypatch.setattr(recording, "MOST_WAITING", 5)
    with caplog.at_level(logging.WARNING, "keyrush"):
        for _ in range(2):
            assert all(door.send(sent).status == 200 for _ in range(8))
            gate.flush()
            gate.flush()
    assert gate.health().unrecorded == 6
    assert sum("3 requests came while" in record.message for record in caplog.records) == 2
    assert len(recorded(gate)) == 10
    assert counted(gate) == 16


def test_a_fork_writes_its_own(faulty: Any) -> None:
    """O20: in a forked child, what waits is the parent's to write."""
    gate, _, door, sent = faulty
    door.send(sent)
    gate.recording._reset()  # noqa: SLF001  # what `after_fork` calls in the child
    assert recorded(gate) == []


def test_the_last_flush(faulty: Any) -> None:
    """O20: what is recorded last is written when the gate is closed."""
    gate, _, door, sent = faulty
    door.send(sent)
    gate.close()
    assert len(gate.activity.page("acct_a").items) == 1


def test_many_threads(faulty: Any) -> None:
    """O20: with flushes meanwhile nothing is lost and nothing is written twice."""
    gate, _, door, sent = faulty
    done = threading.Event()

    def flushing() -> None:
        while not done.is_set():
            gate.recording.flush()

    threads = [
        threading.Thread(target=lambda: [door.send(sent) for _ in range(100)]) for _ in range(4)
    ]
    flusher = threading.Thread(target=flushing)
    for one in [flusher, *threads]:
        one.start()
    for one in threads:
        one.join()
    done.set()
    flusher.join()
    gate.flush()
    statuses = gate.activity.summary("acct_a", group="outcome")
    assert sum(one.requests for one in statuses) == 400


def test_exact(clock: Clock) -> None:
    """O20: where counts are exact, a row is written as soon as its request has ended."""
    gate = still(Gate.open(settings(usage_durability="exact"), clock=clock))
    gate.accounts.create("acct_a")
    sent = Sent("/plain", [("x-api-key", gate.keys.create("acct_a", "a").text)])
    for door in (asgi(gate), over_wsgi(gate)):
        door.send(sent)
    gate.workers.close()  # without a flush
    assert len(gate.activity.page("acct_a").items) == counted(gate) == 2
    gate.close()


def test_a_process_that_is_told_to_stop(faulty: Any) -> None:
    """O20: what ends after a process was told to stop is written at once, too."""
    gate, _, door, sent = faulty
    gate.prepare_to_stop()
    door.send(sent)
    gate.workers.close()
    assert len(gate.activity.page("acct_a").items) == counted(gate) == 1


# --- settings -----------------------------------------------------------------------------------


class TestRefusalsAlone:
    """`KEYRUSH_ACTIVITY=refusals`."""

    @pytest.fixture
    def more(self) -> dict[str, Any]:
        """Of refusals alone."""
        return {"activity": "refusals"}

    def test_refusals(self, gate: Gate, key: str, opening: Opening) -> None:
        """O20: then what is answered by the app is recorded nowhere."""
        for path in ("/plain", "/x/500", "/api/admin"):
            opening(gate).send(Sent(path, [("x-api-key", key)]))
        assert [row.outcome for row in recorded(gate)] == ["refused"]
        assert sum(one.requests for one in gate.activity.summary("acct_a")) == 1


class TestOff:
    """`KEYRUSH_ACTIVITY=off`."""

    @pytest.fixture
    def more(self) -> dict[str, Any]:
        """None."""
        return {"activity": "off"}

    def test_nothing(self, gate: Gate, key: str, door: Door, opening: Opening) -> None:
        """O20: then nothing is recorded, and the user agent is not even looked at."""
        for path in ("/plain", "/api/admin", ARTICLE):
            opening(gate).send(Sent(path, [("x-api-key", key), ("user-agent", "curl/8")]))
        door.post(call("audit_site"), key)
        assert recorded(gate) == []
        assert gate.credential_headers.noted == (b"x-request-id",)


class NoActivity(MemoryStore):
    """A store of a user's own that can't keep activity."""

    activity = None  # type: ignore[assignment]  # which is how it has none


def test_a_store_that_keeps_none(caplog: pytest.LogCaptureFixture) -> None:
    """O20: of a store that can't keep activity it is said at start-up that each process does."""
    caplog.set_level(logging.INFO, "keyrush")
    store: Any = NoActivity()
    with closing(Gate.open(settings(), store=store)) as gate:
        assert not gate.keeps_activity
    (line,) = (one.message for one in caplog.records if "keyrush: store" in one.message)
    assert "activity in each process by itself" in line


# --- clocks that are set -------------------------------------------------------------------------


def test_what_is_refused_while_the_clock_is_set(
    gate: Gate, clock: Clock, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O20: rows of refusals are so many a minute that passes, whatever the clock says meanwhile."""
    passed = [0.0]
    monkeypatch.setattr(gate.recording, "_monotonic", lambda: passed[0])
    door = Asgi(gate, Doing().asgi)
    for minute, set_by in enumerate((365 * DAY, -365 * DAY, 0), start=1):
        clock.advance(set_by)
        passed[0] += 60
        for _ in range(REFUSALS_A_MINUTE + 3):
            door.send(Sent("/x/limit", [("x-api-key", key)]))
        gate.flush()
        assert gate.activity.count("acct_a") == minute * REFUSALS_A_MINUTE
