"""`max_concurrent`: so many requests are under way at once, whatever becomes of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from keyrush import Gate, KeyrushMiddleware, Refusal, Refused, wsgi
from keyrush.authentication.protocol import Proof
from keyrush.core.activity import Where
from keyrush.core.identity import Claims
from keyrush.errors import Away, ConfigurationError
from keyrush.limiter.memory import MemoryLimiter
from keyrush.limiter.protocol import LimiterState
from keyrush.operations.keys import NewKey
from keyrush.store.memory import MemoryStore
from keyrush.wire.request import Credential
from tests.conftest import Clock, settings, still
from tests.support.calls import Sent, Wsgi, asgi_app, environ_of, run, scope_of
from tests.support.holding import AsgiHolding, Going, Holding, WsgiHolding, held

MOST = 3

#: For stores that have none beside them.
PEPPER = "p" * 32


def plan(**values: Any) -> dict[str, Any]:
    """One plan, with a limit that is not reached."""
    return {"starter": {"limits": "100/minute", "max_concurrent": MOST, **values}}


class World:
    """A gate behind one of the doors, whose requests go on."""

    def __init__(self, gate: Gate, holding: Callable[[Gate], Holding]) -> None:
        self.gate = gate
        self.holding = holding(gate)
        gate.accounts.create("acct_a")

    def key(self, **values: Any) -> NewKey:
        return self.gate.keys.create("acct_a", "agent", **values)

    def begin(self, key: NewKey, path: str = "/any") -> Going:
        return self.holding.begin(Sent(path, [("x-api-key", key.text)]))

    def statuses(self, key: NewKey, times: int, path: str = "/any") -> list[int]:
        """Of so many requests, none of which ends."""
        return [self.begin(key, path).reply.status for _ in range(times)]

    def held(self, key: NewKey, of: str = "") -> int:
        return held(self.gate, f"key:{key.key.lineage}{of}", MOST)


Opening = Callable[..., World]


@pytest.fixture(params=[AsgiHolding, WsgiHolding])
def opened(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Opening]:
    """Opens a gate with these settings behind each door."""
    worlds: list[World] = []

    def opening(*rules: dict[str, Any], **values: Any) -> World:
        known = {"plans": plan(), "rules": rules, "scopes": "x,y", **values}
        gate = Gate.open(settings(**known), clock=clock)
        worlds.append(World(still(gate), request.param))
        return worlds[-1]

    yield opening
    for world in worlds:
        world.holding.close()
        world.gate.close()


# --- who shares what ------------------------------------------------------------------------------


def test_a_plan(opened: Opening) -> None:
    """R7: as many requests of a key are under way as its plan says, another is 429 and takes
    nothing; when one has ended, the next may go on.
    """
    world = opened()
    key, other = world.key(), world.key()
    going = [world.begin(key) for _ in range(MOST)]
    assert [one.reply.status for one in going] == [200] * MOST
    for _ in range(5):
        refused = world.begin(key).reply
        assert (refused.status, refused["retry-after"]) == (429, "1")
        assert refused["x-ratelimit-remaining"] == "97"
        assert refused.json == {
            "success": False,
            "error": "Rate limit exceeded. Try again in 1 seconds. 3 requests are under way, "
            "as many as may be at once.",
            "statusCode": 429,
        }
    assert world.begin(other).reply.status == 200
    going[0].end()
    assert world.begin(key).reply["x-ratelimit-remaining"] == "96"
    assert world.begin(key).reply.status == 429


def test_an_account(opened: Opening) -> None:
    """O13: where the plan counts by account, all its keys share what may be under way."""
    world = opened(plans=plan(per="account"))
    one, two = world.key(), world.key()
    assert world.statuses(one, 2) + world.statuses(two, 2) == [200, 200, 200, 429]


def test_a_rotation(opened: Opening) -> None:
    """R17: a key shares its slots with the one that replaces it."""
    world = opened()
    old = world.key()
    assert world.statuses(old, 2) == [200, 200]
    new = world.gate.keys.rotate(old.key.id)
    assert world.statuses(new, 2) == [200, 429]


@pytest.mark.parametrize(("per", "shares"), [("key", False), ("account", True), ("address", True)])
def test_a_rule(opened: Opening, per: str, shares: bool) -> None:
    """A rule says it of its own requests, by key, account or address; others go on."""
    rule = {"path": "/export", "max_concurrent": 1, "per": per}
    world = opened(rule, plans={"starter": {"limits": "100/minute"}})
    one, two = world.key(), world.key()
    assert world.statuses(one, 2, "/export") == [200, 429]
    assert world.statuses(two, 1, "/export") == [429 if shares else 200]
    assert world.statuses(one, 5) == [200] * 5


def test_nobody(opened: Opening) -> None:
    """Who comes without a key has the slots of a rule by address, and gives them back."""
    rule = {"path": "/open", "max_concurrent": 1}
    world = opened(rule, optional_paths=["/open", "/any"])
    sent = Sent("/open")
    first = world.holding.begin(sent)
    refused = world.holding.begin(sent).reply
    assert (first.reply.status, refused.status, refused["retry-after"]) == (200, 429, "1")
    assert world.statuses(world.key(), 1, "/open") == [200]
    assert world.holding.begin(Sent("/any")).reply.status == 200
    first.end()
    again = world.holding.begin(sent)
    assert again.reply.status == 200
    again.end()
    assert held(world.gate, "address:127.0.0.1|rule /open", 1) == 0


@pytest.mark.parametrize("per", ["key", "address"])
@pytest.mark.parametrize("where", ["public_paths", "optional_paths"])
def test_without_a_key(opened: Opening, where: str, per: str) -> None:
    """A rule's maximum holds for who comes without a key too, by address, whatever `per` says."""
    rule = {"path": "/open", "max_concurrent": 2, "per": per}
    world = opened(rule, **{where: ["/open"]})
    going = [world.holding.begin(Sent("/open")) for _ in range(3)]
    assert [one.reply.status for one in going] == [200, 200, 429]
    assert going[2].reply["retry-after"] == "1"
    going[0].end()
    assert world.holding.begin(Sent("/open")).reply.status == 200
    assert world.holding.begin(Sent("/open")).reply.status == 429


def test_a_rule_and_a_plan(opened: Opening) -> None:
    """A request takes a slot of each that says so, or none: what the rule refuses the key keeps."""
    rules = [{"path": path, "limit_group": "heavy"} for path in ("/a", "/b")]
    world = opened({**rules[0], "max_concurrent": 1}, rules[1])
    key = world.key()
    first = world.begin(key, "/a")
    assert world.statuses(key, 9, "/b") == [429] * 9
    assert (world.held(key), world.held(key, "|group heavy")) == (1, 1)
    first.end()
    assert world.statuses(key, 1, "/b") + world.statuses(key, 3) == [200, 200, 200, 429]


# --- what is refused consumes nothing -------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "path", "status"),
    [
        pytest.param({"plans": plan(limits="1/minute")}, "/any", 429, id="window"),
        pytest.param({"plans": plan(monthly_quota=1, on_exceed="block")}, "/any", 429, id="quota"),
        pytest.param(
            {"plans": plan(monthly_quota=1, on_exceed="block"), "usage_durability": "exact"},
            "/any",
            429,
            id="quota-exact",
        ),
        pytest.param({"rules": ({"path": "/any", "credits": 5},)}, "/any", 402, id="credits"),
        pytest.param({"rules": ({"path": "/any", "scopes": ["x"]},)}, "/any", 403, id="scope"),
    ],
)
def test_refused_later(opened: Opening, values: Any, path: str, status: int) -> None:
    """Whatever refuses a request after its slot was taken, the slot is free again."""
    world = opened(**values)
    key = world.key(scopes=["y"])
    world.begin(key, path).end()
    assert world.statuses(key, 20, path) == [status] * 20
    assert world.held(key) == 0


@pytest.mark.parametrize("path", ["/any", "/priced"])
def test_who_is_out_asks_for_no_slot(
    opened: Opening, valkey_url: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Where a server counts slots it is not asked for one that a window, as is known, refuses:
    whoever is out can't have it asked as often as they like. Else slots come first.
    """
    priced = {"path": "/priced", "credits": 1}
    world = opened(priced, plans=plan(limits="4/minute"), limiter_url=valkey_url)
    world.gate.credits.grant("acct_a", 100)
    key = world.key()
    going = [world.begin(key, path) for _ in range(MOST + 1)]
    assert [one.reply.status for one in going] == [200] * MOST + [429]
    assert (going[-1].reply["retry-after"], world.held(key)) == ("1", MOST)
    going[0].end()
    world.begin(key, path).end()
    assert int(world.begin(key, path).reply["retry-after"]) > 1
    slots = world.gate.concurrency.open().slots
    asked: list[object] = []
    monkeypatch.setattr(slots, "take", asked.append)
    monkeypatch.setattr(slots, "take_async", asked.append)
    assert world.statuses(key, 20, path) == [429] * 20
    assert not asked
    monkeypatch.undo()
    assert world.held(key) == MOST - 1


def test_order(opened: Opening) -> None:
    """What a caller may not do is 403 though all slots are held: scopes come before limits."""
    world = opened({"path": "/closed", "scopes": ["x"]})
    key = world.key(scopes=["y"])
    assert world.statuses(key, MOST) == [200] * MOST
    assert world.statuses(key, 1, "/closed") == [403]


def test_who_waits_holds_none(opened: Opening) -> None:
    """A request that waits for a window in vain holds no slot, and none waits for a slot."""
    rule = {"path": "/slow", "wait": "1s", "limits": ["1/minute"]}
    world = opened(rule, plans=plan(limits="2/minute"))
    key = world.key()
    first = world.begin(key, "/slow")
    assert (first.reply.status, world.begin(key, "/slow").reply.status) == (200, 429)
    assert world.held(key) == 1
    world = opened({"path": "/slow", "wait": "1s", "max_concurrent": 1})
    assert world.statuses(world.key(), 2, "/slow") == [200, 429]


def test_what_fails(opened: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: where windows can't be told a request is 503, and holds nothing."""
    world = opened()
    key = world.key()

    def away(*_: object) -> None:
        raise Away("the limiter is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.gate.limiter, "take", away)
        patch.setattr(world.gate.limiter, "take_together", away)
        patch.setattr(world.gate.limiter, "take_at_once", away)
        patch.setattr(world.gate.deciding, "_take_at_once", away)
        assert world.statuses(key, 5) == [503] * 5
    assert world.held(key) == 0


def test_away(opened: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: where slots can't be told, and nothing may pass, a request is 503."""
    world = opened()
    key = world.key()
    world.begin(key).end()

    def away(_: object) -> None:
        raise Away("the limiter is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.gate.concurrency.open().slots, "take_at_once", away)
        assert world.begin(key).reply["retry-after"] == "5"
    assert world.statuses(key, 1) == [200]


def test_activity(opened: Opening) -> None:
    """O20: such a refusal is a row, with the outcome `limited`."""
    world = opened()
    key = world.key()
    assert world.statuses(key, MOST + 1)[-1] == 429
    world.gate.flush()
    (row,) = world.gate.activity.page("acct_a", Where()).items
    assert (row.status, row.outcome, row.reason) == (429, "limited", "rate_limited")


# --- trying out -----------------------------------------------------------------------------------

WOULD = "x-ratelimit-would-limit"


def test_an_observed_rule(opened: Opening) -> None:
    """Beyond what is only observed a request goes on, is told of, and holds no slot."""
    world = opened({"path": "/export", "max_concurrent": 2, "mode": "observe"})
    key = world.key()
    one, two, three = (world.begin(key, "/export") for _ in range(3))
    assert WOULD not in one.reply
    assert WOULD not in two.reply
    assert (three.reply.status, three.reply[WOULD]) == (200, "/export-concurrent")
    assert world.held(key, "|rule /export") == 2
    assert world.begin(key).reply.status == 429  # the plan is enforced
    for going in (one, three):
        going.end()
    assert WOULD not in world.begin(key, "/export").reply


def test_an_observed_plan(opened: Opening) -> None:
    """The same of a plan."""
    world = opened(plans=plan(mode="observe"))
    key = world.key()
    replies = [world.begin(key).reply for _ in range(MOST + 1)]
    assert [reply.status for reply in replies] == [200] * (MOST + 1)
    assert [WOULD in reply for reply in replies] == [False] * MOST + [True]
    assert replies[-1][WOULD] == "concurrent"


# --- where they are counted -----------------------------------------------------------------------


def test_nowhere() -> None:
    """A setting that asks for what can't be counted stops the start-up, and says which."""
    with pytest.raises(ConfigurationError, match=r"^plans\.starter\.max_concurrent: KEYRUSH_LIM"):
        Gate.open(settings(plans=plan(), limiter_url="limits+memory://"))
    rules = [{"path": "/a"}, {"path": "/b", "max_concurrent": 1}]
    with pytest.raises(ConfigurationError, match=r"^rules\.1\.max_concurrent: a limiter of your"):
        Gate.open(settings(rules=rules), limiter=MemoryLimiter())


def test_opened_by_who_wants_them(opened: Opening) -> None:
    """Where no setting asks for slots, nothing is opened for requests that want none."""
    world = opened(plans={"starter": {}})
    assert world.statuses(world.key(), 2) == [200, 200]
    assert world.gate.concurrency.opened is None
    world.gate.close()


# --- how requests end -----------------------------------------------------------------------------


class Ended(Exception):
    """What apps raise here."""


async def _sends(send: Any, *, is_whole: bool = True) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a", "more_body": not is_whole})


async def returns(scope: Any, receive: Any, send: Any) -> None:
    await _sends(send)


async def works_on(scope: Any, receive: Any, send: Any) -> None:
    """As a background task of Starlette's does."""
    await _sends(send)
    await asyncio.sleep(0)


async def says_nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise Ended


async def raises_midway(scope: Any, receive: Any, send: Any) -> None:
    await _sends(send, is_whole=False)
    raise Ended


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    scope["keyrush"].refuse(Refusal("not_found"))


async def refuses_midway(scope: Any, receive: Any, send: Any) -> None:
    await _sends(send, is_whole=False)
    scope["keyrush"].require_scope("nobody has it")


async def sends_to_nobody(scope: Any, receive: Any, send: Any) -> None:
    raise OSError("the client has left")


async def waits(scope: Any, receive: Any, send: Any) -> None:
    """Until it is cancelled."""
    await _sends(send, is_whole=False)
    await asyncio.Event().wait()


async def hangs(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


async def accepts(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()


async def denies(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 4000})


HTTP = [
    returns,
    works_on,
    says_nothing,
    raises,
    raises_midway,
    refuses,
    refuses_midway,
    sends_to_nobody,
    waits,
    hangs,
]
SOCKETS = [accepts, denies, raises, waits, hangs, refuses]

#: Of each kind, over ASGI.
TIMES = 400


#: Credentials that have proved to have a number of their own.
TOKEN = "tok_of_their_own"


class Tokens:
    """Knows one token, of which one request may be under way."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def may_be_mine(self, credential: Credential) -> bool:
        return credential.text == TOKEN.encode()

    def prove(self, credential: Credential, known: str | None, now: int) -> Proof[str]:
        account = self._store.account("acct_a")
        assert account is not None
        claims = Claims(
            id="t", lineage="t", name="t", prefix="t", scopes=("*",), max_concurrent=1, source="t"
        )
        return Proof(claims, account, 0, 0, "t")

    def renew(self, known: str, now: int) -> None:
        """Never asked here."""


def test_a_number_of_its_own(clock: Clock) -> None:
    """What a credential was given itself is counted though no setting asks for any, and holds in
    place of its plan's.
    """
    store = MemoryStore()
    gate = Gate.open(
        settings(plans={"starter": {}}), store=store, clock=clock, authenticators=[Tokens(store)]
    )
    gate.accounts.create("acct_a")
    holding = AsgiHolding(gate)
    sent = Sent("/any", [("x-api-key", TOKEN)])
    assert [holding.begin(sent).reply.status for _ in range(3)] == [200, 429, 429]
    assert held(gate, "key:t", 1) == 1
    holding.close()
    assert held(gate, "key:t", 1) == 0
    gate.close()


def test_a_number_of_its_own_nowhere(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """S19: where it can't be counted such a credential is 503, which is said once, and no other."""
    store = MemoryStore()
    values = {"plans": {"starter": {}}, "limiter_url": "limits+memory://"}
    gate = Gate.open(settings(**values), store=store, clock=clock, authenticators=[Tokens(store)])
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "agent").text
    door = Wsgi(gate)
    with caplog.at_level(logging.ERROR, "keyrush"):
        for _ in range(3):
            assert door.send(Sent("/any", [("x-api-key", TOKEN)])).status == 503
    assert caplog.text.count("max_concurrent is counted in `store`") == 1
    assert door.send(Sent("/any", [("x-api-key", key)])).status == 200
    assert gate.health().is_well
    gate.close()


async def _each_end(gate: Gate, key: str, times: int) -> int:
    """So many requests of each kind of end, a few under way at once; how many reach the app."""
    entered = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal entered
        entered += 1
        await scope["app"](scope, receive, send)

    middleware = KeyrushMiddleware(app, gate=gate)
    tasks: set[asyncio.Task[None]] = set()

    async def one(kind: str, ending: Any) -> None:
        messages = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect"}])

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            await asyncio.sleep(0)

        scope = scope_of(Sent("/any", [("x-api-key", key)]), type=kind, app=ending)
        await middleware(scope, receive, send)

    kinds = [("http", ending) for ending in HTTP] + [("websocket", ending) for ending in SOCKETS]
    for number, (kind, ending) in enumerate(islice(cycle(kinds), times * len(kinds))):
        task = asyncio.create_task(one(kind, ending))
        tasks.add(task)
        if number % 3 == 0:
            await asyncio.sleep(0)
        if len(tasks) >= MOST - 1:
            for turns, old in enumerate(tasks):
                for _ in range((number + turns) % 5):
                    await asyncio.sleep(0)
                old.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            tasks.clear()
    await asyncio.gather(*tasks, return_exceptions=True)
    return entered


@pytest.fixture
def on_file(tmp_path: Path) -> Iterator[tuple[Gate, NewKey]]:
    """A gate whose slots are in a file, and a key."""
    gate = Gate.open(
        settings(
            plans=plan(limits="1000000/day"),  # as many may be refused, too
            limiter_url=f"file://{tmp_path}/windows",
            activity="off",
        )
    )
    gate.accounts.create("acct_a")
    yield gate, gate.keys.create("acct_a", "agent")
    gate.close()


def test_asgi_ends(on_file: tuple[Gate, NewKey]) -> None:
    """After 6,400 requests that ended in every way, or were cancelled anywhere, none is held."""
    gate, key = on_file
    assert run(_each_end(gate, key.text, TIMES)) > 0.8 * TIMES * len(HTTP + SOCKETS)
    assert held(gate, f"key:{key.key.lineage}", MOST) == 0


class Body:
    """What a WSGI app gives a server: `close` may fail, too."""

    def __init__(self, *items: bytes, fails: str = "") -> None:
        self._items = list(items)
        self._fails = fails

    def __iter__(self) -> Body:
        if self._fails == "iter":
            raise Ended
        return self

    def __next__(self) -> bytes:
        if self._items:
            return self._items.pop(0)
        raise Ended if self._fails == "next" else StopIteration

    def close(self) -> None:
        if self._fails == "close":
            raise Ended


class TimedOut(BaseException):
    """As a time-out of gevent's."""


def _wsgi(body: Any = (), raises: BaseException | None = None, *, starts: bool = True) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        if starts:
            start_response("200 OK", [])
        if raises is not None:
            raise raises
        return body()

    return app


WSGI = [
    _wsgi(lambda: [b"a"]),
    _wsgi(list),
    _wsgi(lambda: Body(b"a", b"b")),
    _wsgi(lambda: Body(b"a", fails="next")),
    _wsgi(lambda: Body(fails="next")),
    _wsgi(lambda: Body(b"a", fails="close")),
    _wsgi(lambda: Body(fails="iter")),
    _wsgi(list, starts=False),
    _wsgi(raises=Ended()),
    _wsgi(raises=Ended(), starts=False),
    _wsgi(raises=Refused(Refusal("not_found")), starts=False),
    _wsgi(raises=TimedOut()),
]


def test_wsgi_ends(on_file: tuple[Gate, NewKey]) -> None:
    """The same of 3,600 over WSGI, of which servers read all, a part or nothing, and then close,
    once or twice.
    """
    gate, key = on_file
    sent = Sent("/any", [("x-api-key", key.text)])
    doors = [wsgi.KeyrushMiddleware(app, gate=gate) for app in WSGI]
    statuses = set()

    def start_response(status: str, *_: Any) -> Any:
        statuses.add(status[:3])

    for number in range(3600):
        items: Any = None
        try:
            items = doors[number % len(doors)](environ_of(sent), start_response)
            for _ in islice(items, number % 4):
                pass
        except (Ended, TimedOut):
            pass
        for _ in range(number % 3 % 2 + 1):
            with suppress(Ended):
                getattr(items, "close", lambda: None)()
    assert statuses == {"200", "404"}
    assert held(gate, f"key:{key.key.lineage}", MOST) == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"], indirect=True)
@pytest.mark.parametrize("where", ["postgres_url", "valkey_url"])
def test_cancelled_anywhere(
    where: str, backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Requests that are cancelled while a server is asked for their slot hold none afterwards."""
    url = request.getfixturevalue(where)
    limiter = {} if where == "postgres_url" else {"limiter_url": url}
    store = url if where == "postgres_url" else f"sqlite:///{tmp_path}/keyrush.db"
    gate = Gate.open(
        settings(store_url=store, pepper=PEPPER, plans=plan(limits="unlimited"), **limiter)
    )
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "agent")
    middleware = KeyrushMiddleware(asgi_app, gate=gate)
    sent = Sent("/any", [("x-api-key", key.text)])

    async def nowhere(_: Any = None) -> Any:
        return None

    async def one(turns: int) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(middleware, scope_of(sent), nowhere, nowhere)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    async def all_of_them() -> None:
        await middleware(scope_of(sent), nowhere, nowhere)
        for turns in range(60):
            await one(turns)

    run(all_of_them())
    gate.workers.close()  # what was left to undo is done
    assert held(gate, f"key:{key.key.lineage}", MOST) == 0
    gate.close()


def test_a_loop_that_ends(postgres_url: str) -> None:
    """What a thread takes for a coroutine that an event loop has left behind is given back."""
    gate = Gate.open(
        settings(store_url=postgres_url, pepper=PEPPER, plans=plan(), usage_durability="exact")
    )
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "agent")
    middleware = KeyrushMiddleware(asgi_app, gate=gate)
    scope = scope_of(Sent("/any", [("x-api-key", key.text)]))

    async def nowhere(_: Any = None) -> Any:
        return None

    async def leave_behind() -> None:
        await middleware(dict(scope), nowhere, nowhere)  # and the key is known
        coroutine = middleware(scope, nowhere, nowhere)
        coroutine.send(None)  # until it waits for a thread
        coroutine.close()

    run(leave_behind())
    gate.workers.close()
    assert held(gate, f"key:{key.key.lineage}", MOST) == 0
    gate.close()


# --- the end of the gate --------------------------------------------------------------------------


def test_closed_meanwhile(opened: Opening) -> None:
    """A gate that is closed holds nothing, and requests that end afterwards take nothing from
    those that came next.
    """
    world = opened()
    key = world.key()
    going = [world.begin(key) for _ in range(MOST)]
    world.gate.close()
    assert world.held(key) == 0
    assert world.statuses(key, MOST + 1) == [200] * MOST + [429]
    for one in going:
        one.end()
    assert world.held(key) == MOST


def test_health(monkeypatch: pytest.MonkeyPatch, opened: Opening) -> None:
    """Health says that slots are away, for how long, and what holds meanwhile."""
    world = opened()
    assert world.gate.health().is_well
    monkeypatch.setattr(
        world.gate.concurrency.open().slots, "state", lambda: LimiterState(True, 7.0, "closed", 3)
    )
    health = world.gate.health()
    assert (health.is_well, health.limiter_away, health.limits_meanwhile, health.workers) == (
        False,
        7.0,
        "closed",
        3,
    )
