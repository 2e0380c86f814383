"""What requests are charged: kept for an answer, else given back, and never lost."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from waitress.channel import ClientDisconnected  # type: ignore[import-untyped]  # it has no types

from keyrush import Gate, KeyrushMiddleware, Refusal, wsgi
from keyrush.core.entitlement import verified as entitled
from keyrush.core.identity import Claims, MonthlyCount
from keyrush.core.ledger import By
from keyrush.core.times import month_bounds
from keyrush.errors import InvalidArgument
from keyrush.gate.charging import A_TURN
from keyrush.gate.principal import Principal
from keyrush.store.memory import MemoryStore
from tests.conftest import Clock, settings, still
from tests.support.calls import Asgi, Sent, Wsgi, environ_of, scope_of

RULES = [{"path": "/paid", "credits": 3}]
KEPT, GIVEN_BACK = 7, 10


class FaultyStore(MemoryStore):
    """Does not answer while `away`; loses the answer to the next reversal while `deaf`, and to
    the next charge while `deaf_to_charges`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.away = self.deaf = self.deaf_to_charges = False
        self.lost: type[BaseException] = ConnectionError
        self.reversed: list[str] = []

    def charge(self, *args: Any, **named: Any) -> int | None:
        balance = super().charge(*args, **named)
        if self.deaf_to_charges:
            self.deaf_to_charges = False
            raise self.lost("on the way back")
        return balance

    def reverse(
        self, account_id: str, reference: str, at: int, credits: int | None = None
    ) -> int | None:
        if self.away:
            raise ConnectionError("away")
        self.reversed.append(reference)
        balance = super().reverse(account_id, reference, at, credits)
        if self.deaf:
            self.deaf = False
            raise ConnectionError("lost on the way back")
        return balance


class World:
    """A gate over a store that may fail, and a key whose account has ten credits."""

    def __init__(self, clock: Clock) -> None:
        self.store = FaultyStore()
        self.gate = still(Gate.open(settings(rules=RULES), store=self.store, clock=clock))
        self.gate.accounts.create("acct_a")
        self.gate.credits.grant("acct_a", 10)
        key = self.gate.keys.create("acct_a", "k").text
        self.sent = Sent("/paid", [("X-API-Key", key)])

    @property
    def balance(self) -> int:
        self.gate.workers.close()  # waits for what nobody waited for
        return self.gate.accounts.get("acct_a").balance


@pytest.fixture
def world(clock: Clock) -> Iterator[World]:
    made = World(clock)
    yield made
    made.store.away = False
    made.gate.close()


# --- ASGI: which answers are kept ----------------------------------------------------------------


def start(status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": []}


def part(*, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"x", "more_body": more}


PATHSEND = {"type": "http.response.pathsend", "path": "/x"}
ZEROCOPY = {"type": "http.response.zerocopysend", "file": 0}
TRAILERS = {"type": "http.response.trailers", "headers": []}
DISCONNECT = {"type": "http.disconnect"}

#: What the app does, one after the other: messages are sent, functions called, exceptions raised.
LISTEN = "listen"  # receives once, and hears that the client has left

ANSWERS = [
    ("an answer", [start(), part(more=False)], KEPT),
    ("created", [start(201), part(more=False)], KEPT),
    ("no content", [start(204), part(more=False)], KEPT),
    ("a stream", [start(), part(more=True), part(more=False)], KEPT),
    ("a file by its path", [start(), PATHSEND], KEPT),
    ("a file by its descriptor", [start(), ZEROCOPY], KEPT),
    ("trailers", [start() | {"trailers": True}, part(more=False), TRAILERS], KEPT),
    ("a redirect", [start(307), part(more=False)], GIVEN_BACK),
    ("not modified", [start(304), part(more=False)], GIVEN_BACK),
    ("an error", [start(404), part(more=False)], GIVEN_BACK),
    ("a fault", [start(503), part(more=False)], GIVEN_BACK),
    ("nothing at all", [], GIVEN_BACK),
    ("no body", [start()], GIVEN_BACK),
    ("no end", [start(), part(more=True)], GIVEN_BACK),
    ("an exception at once", [ZeroDivisionError()], GIVEN_BACK),
    ("an exception after the start", [start(), ZeroDivisionError()], GIVEN_BACK),
    ("one in the middle", [start(), part(more=True), ZeroDivisionError()], GIVEN_BACK),
    ("the client leaves in the middle", [start(), part(more=True), LISTEN], KEPT),
    ("it leaves, and the app fails", [start(), part(more=True), LISTEN, KeyError()], KEPT),
    ("it leaves before the answer", [LISTEN], GIVEN_BACK),
    ("it leaves, and the app fails before", [LISTEN, KeyError()], GIVEN_BACK),
    ("cancelled in the middle", [start(), part(more=True), asyncio.CancelledError()], KEPT),
    ("cancelled before", [asyncio.CancelledError()], GIVEN_BACK),
    ("cancelled in an error", [start(503), part(more=True), asyncio.CancelledError()], GIVEN_BACK),
    ("it fails after the end", [start(), part(more=False), ZeroDivisionError()], KEPT),
]


def asgi_app(steps: Sequence[Any], charge: int = 0) -> Any:
    """An app that does so; with `charge`, it charges by itself first."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if charge:
            await scope["keyrush"].charge_async(charge)
        for step in steps:
            if isinstance(step, BaseException):
                raise step
            if step == LISTEN:
                assert await receive() == DISCONNECT
            else:
                await send(dict(step))

    return app


def run_asgi(
    world: World,
    app: Any,
    path: str = "/paid",
    fails_at: int | None = None,
    error: type[Exception] = OSError,
) -> None:
    """A request, to its end, however that is; sending fails from the message of this number on."""
    count = 0

    async def receive() -> Any:
        return DISCONNECT

    async def send(_: Any) -> None:
        nonlocal count
        count += 1
        if fails_at is not None and count >= fails_at:
            raise error("unable to perform operation on <TCPTransport>; the handler is closed")

    async def run() -> None:
        scope = scope_of(Sent(path, world.sent.headers))
        middleware = KeyrushMiddleware(app, gate=world.gate)
        await asyncio.wait([asyncio.ensure_future(middleware(scope, receive, send))])

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore:.*never retrieved")
@pytest.mark.parametrize("by", ["rule", "app"])
@pytest.mark.parametrize(
    ("steps", "balance"), [row[1:] for row in ANSWERS], ids=[r[0] for r in ANSWERS]
)
def test_credits_are_kept_for_an_answer(world: World, steps: Any, balance: int, by: str) -> None:
    """O11: for an answer below 300 that came to its end, or that the client broke off; otherwise
    they are given back. The same for what a rule and what the app itself charges.
    """
    if by == "rule":
        run_asgi(world, asgi_app(steps))
    else:
        run_asgi(world, asgi_app(steps, 3), path="/free")
    assert world.balance == balance


@pytest.mark.filterwarnings("ignore:.*never retrieved")
@pytest.mark.parametrize("error", [OSError, RuntimeError], ids=["any server", "uvloop"])
@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_client_that_is_found_to_have_left(
    world: World, fails_at: int, error: type[Exception]
) -> None:
    """O11: who breaks an answer off gets nothing back, whenever, however the server tells."""
    steps = [start(), part(more=True), part(more=True), part(more=False)]
    run_asgi(world, asgi_app(steps), fails_at=fails_at, error=error)
    assert world.balance == KEPT


def test_a_redirect_to_the_slash_form_costs_once(world: World) -> None:
    """O11: `307` to the path with a slash, and then the answer: charged once, for the answer."""
    run_asgi(world, asgi_app([start(307), part(more=False)]))
    run_asgi(world, asgi_app([start(), part(more=False)]), path="/paid/")
    assert world.balance == KEPT


WEBSOCKETS = [
    ("accepted and closed", ["accept", "close"], KEPT),
    ("accepted, and the client leaves", ["accept", LISTEN, KeyError()], KEPT),
    ("accepted, and it returns", ["accept"], KEPT),
    ("accepted, and it fails", ["accept", KeyError()], KEPT),
    ("denied", ["close"], GIVEN_BACK),
    ("neither", [], GIVEN_BACK),
    ("it fails", [KeyError()], GIVEN_BACK),
]


@pytest.mark.filterwarnings("ignore:.*never retrieved")
@pytest.mark.parametrize(
    ("steps", "balance"), [row[1:] for row in WEBSOCKETS], ids=[row[0] for row in WEBSOCKETS]
)
def test_credits_of_websockets(world: World, steps: list[Any], balance: int) -> None:
    """O11, S70: a handshake that is accepted is paid: what a client sends may make the app fail."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for step in steps:
            if isinstance(step, BaseException):
                raise step
            if step == LISTEN:
                await receive()
            else:
                await send({"type": f"websocket.{step}"})

    async def run() -> None:
        received = iter(["connect", "disconnect"])

        async def receive() -> Any:
            return {"type": f"websocket.{next(received)}"}

        async def send(_: Any) -> None: ...

        scope = scope_of(world.sent, type="websocket")
        middleware = KeyrushMiddleware(app, gate=world.gate)
        await asyncio.wait([asyncio.ensure_future(middleware(scope, receive, send))])

    asyncio.run(run())
    assert world.balance == balance


# --- WSGI: which answers are kept ----------------------------------------------------------------


def _answers(status: str, items: Sequence[Any], *, late: bool = False) -> Any:
    """An app that starts so and gives these items; exceptions among them are raised."""

    def produce(start_response: Any) -> Iterator[bytes]:
        if late and status:
            start_response(status, [("Content-Type", "text/plain")])
        for item in items:
            if isinstance(item, BaseException):
                raise item
            yield item

    def app(environ: Any, start_response: Any) -> Any:
        if status and not late:
            start_response(status, [("Content-Type", "text/plain")])
        return produce(start_response)

    return app


def _all(items: Any) -> None:
    try:
        list(items)
    except ZeroDivisionError:
        pass
    finally:
        items.close()


def _one(items: Any) -> None:
    next(iter(items))
    items.close()


WSGI_ANSWERS: list[tuple[str, Any, Callable[[Any], None], int]] = [
    ("an answer", _answers("200 OK", [b"a"]), _all, KEPT),
    ("no content", _answers("204 No Content", []), _all, KEPT),
    ("a late start", _answers("200 OK", [b"a"], late=True), _all, KEPT),
    ("a redirect", _answers("307 Temporary Redirect", [b""]), _all, GIVEN_BACK),
    ("not modified", _answers("304 Not Modified", []), _all, GIVEN_BACK),
    ("an error", _answers("404 Not Found", [b"a"]), _all, GIVEN_BACK),
    ("nothing at all", _answers("", []), _all, GIVEN_BACK),
    ("fails at once", _answers("200 OK", [ZeroDivisionError()]), _all, GIVEN_BACK),
    ("fails in the middle", _answers("200 OK", [b"a", ZeroDivisionError()]), _all, GIVEN_BACK),
    ("the client leaves", _answers("200 OK", [b"a", b"b"]), _one, KEPT),
    ("it leaves an error", _answers("404 Not Found", [b"a", b"b"]), _one, GIVEN_BACK),
]


@pytest.mark.parametrize(
    ("app", "read", "balance"), [row[1:] for row in WSGI_ANSWERS], ids=[r[0] for r in WSGI_ANSWERS]
)
def test_credits_are_kept_for_a_wsgi_answer(
    world: World, app: Any, read: Any, balance: int
) -> None:
    """O11: as in ASGI; servers close early where the client breaks off."""
    middleware = wsgi.KeyrushMiddleware(app, gate=world.gate)
    read(middleware(environ_of(world.sent), lambda *_: lambda _: None))
    assert world.balance == balance


@pytest.mark.parametrize("error", [BrokenPipeError, ClientDisconnected, ZeroDivisionError])
def test_a_client_that_is_found_to_have_left_by_write(world: World, error: type[Exception]) -> None:
    """O11: the same by the `write` of `start_response`: servers tell by an OSError, waitress by an
    exception of its own; any other is a fault.
    """

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        for _ in range(3):
            write(b"a")
        return []

    written: list[bytes] = []

    def write(data: bytes) -> None:
        if written:
            raise error
        written.append(data)

    with pytest.raises(error):
        wsgi.KeyrushMiddleware(app, gate=world.gate)(environ_of(world.sent), lambda *_: write)
    assert world.balance == (GIVEN_BACK if error is ZeroDivisionError else KEPT)


# --- owed to a store that is away ----------------------------------------------------------------


def failing(environ: Any, start_response: Any) -> Any:
    start_response("500 Oops", [("Content-Type", "text/plain")])
    return [b"oops"]


@pytest.mark.parametrize("through", ["asgi", "wsgi"])
def test_what_can_not_be_given_back_is_owed(world: World, clock: Clock, through: str) -> None:
    """O11: a give-back while the store is away is told when it answers again, once."""

    def send() -> None:
        if through == "asgi":
            Asgi(world.gate, asgi_app([start(500), part(more=False)])).send(world.sent)
        else:
            Wsgi(world.gate, failing).send(world.sent)

    world.store.away = True
    send()
    assert world.balance == KEPT
    clock.advance(1000)  # for so long what has failed is left alone
    world.gate.flush()
    assert world.balance == KEPT
    world.store.away = False
    clock.advance(1000)
    for _ in range(3):
        world.gate.flush()
        clock.advance(1000)
    assert world.balance == GIVEN_BACK
    assert len(world.store.reversed) == 1


def test_a_lost_answer_gives_nothing_back_twice(world: World, clock: Clock) -> None:
    """O11: where it is unknown whether a give-back was done, it is told again under its number."""
    world.store.deaf = True
    Wsgi(world.gate, failing).send(world.sent)
    clock.advance(1000)
    world.gate.flush()
    assert len(world.store.reversed) == 2
    assert len(set(world.store.reversed)) == 1
    assert world.balance == GIVEN_BACK


@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
def test_a_charge_whose_answer_is_lost_is_given_back(
    world: World, clock: Clock, adapter: Any
) -> None:
    """O11, S19: where it is unknown whether a charge was made, the request is 503 and the charge is
    reversed; nothing is while the store is not asked.
    """
    door = adapter(world.gate)
    world.store.deaf_to_charges = True
    assert door.send(world.sent).status == 503
    assert door.send(world.sent).status == 503  # not asked: the circuit is open
    assert world.balance == KEPT
    clock.advance(1000)
    world.gate.flush()
    assert world.balance == GIVEN_BACK
    assert len(world.store.reversed) == 1
    assert door.send(world.sent).status == 200
    assert world.balance == KEPT


def test_charges_of_one_request(world: World) -> None:
    """O11: a request may be charged more than once; all of it is given back."""
    balances: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        caller = environ["keyrush.principal"]
        balances.extend([caller.charge(2), caller.charge(0), caller.charge(4), caller.charged])
        return failing(environ, start_response)

    assert Wsgi(world.gate, app).send(world.sent).status == 500
    assert balances == [5, 5, 1, 9]
    assert world.balance == GIVEN_BACK
    assert len(set(world.store.reversed)) == 3


def test_owed_is_told_in_turns(world: World, clock: Clock) -> None:
    """Much that is owed does not keep the thread in the background from its other work."""
    world.gate.credits.grant("acct_a", 1000)
    world.store.away = True

    def app(environ: Any, start_response: Any) -> Any:
        for _ in range(A_TURN + 50):
            environ["keyrush.principal"].charge(1)
        return failing(environ, start_response)

    Wsgi(world.gate, app).send(world.sent)
    world.store.away = False
    clock.advance(1000)
    for told in (A_TURN, A_TURN + 51, A_TURN + 51):
        world.gate.charging.settle(A_TURN)
        assert len(world.store.reversed) == told
    assert world.balance == 1010


def test_closing_tells_what_is_owed(world: World, clock: Clock) -> None:
    """A normal stop loses nothing of it."""
    world.store.away = True
    Wsgi(world.gate, failing).send(world.sent)
    world.store.away = False
    clock.advance(1000)
    world.gate.close()
    assert world.store.account("acct_a") is not None
    assert world.balance == GIVEN_BACK


def test_what_is_lost_at_the_end_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """O11: a charge that can't be given back before the process ends is named."""
    world.store.away = True
    Wsgi(world.gate, failing).send(world.sent)
    world.gate.close()
    charge = world.gate.credits.ledger("acct_a")[0]
    assert f"charges not given back, as the store is away: 1, as acct_a {charge.reference}" in (
        caplog.text
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_charge_in_which_a_worker_is_told_to_end(
    world: World, error: type[BaseException], clock: Clock
) -> None:
    """O11: what is raised into a thread while it waits for the store leaves nothing charged."""
    world.store.deaf_to_charges = True
    world.store.lost = error
    with pytest.raises(error):
        Wsgi(world.gate).send(world.sent)
    assert world.gate.accounts.get("acct_a").balance == KEPT
    clock.advance(1000)
    world.gate.flush()
    assert world.balance == GIVEN_BACK


def test_a_forked_child_tells_nothing_of_its_parent(world: World, clock: Clock) -> None:
    """What a parent owes is the parent's to tell."""
    world.store.away = True
    Wsgi(world.gate, failing).send(world.sent)
    world.gate.background.close()  # which might tell it before
    world.store.away = False
    clock.advance(1000)
    world.gate.charging._reset()  # noqa: SLF001  # as in the child
    world.gate.flush()
    assert not world.store.reversed


STEPS = ["charge", "away", "here", "deaf", "unheard", "flush"]


@hypothesis_settings(deadline=None)  # timings decide nothing
@given(
    st.lists(st.sampled_from(["charge", "away", "here", "deaf", "unheard", "flush"]), max_size=30)
)
def test_nothing_is_lost_and_nothing_doubled(steps: list[str]) -> None:
    """O11: whatever the store does, in the end the balance is as if nothing had failed."""
    clock = Clock()
    world = World(clock)
    world.gate.credits.grant("acct_a", 90)
    for step in steps:
        if step == "charge":
            clock.advance(60_000)
            Wsgi(world.gate, failing).send(world.sent)
        elif step == "flush":
            clock.advance(1000)
            world.gate.flush()
        elif step == "deaf":
            world.store.deaf = True
        elif step == "unheard":
            world.store.deaf_to_charges = True
        else:
            world.store.away = step == "away"
    world.store.away = world.store.deaf = world.store.deaf_to_charges = False
    clock.advance(1000)
    world.gate.flush()
    assert world.balance == 100
    assert_adds_up(world.gate)
    world.gate.close()


def test_nothing_owed_costs_nothing(world: World) -> None:
    """With nothing to give back, the store is not asked."""
    for _ in range(10):
        world.gate.flush()
    assert not world.store.reversed


@pytest.mark.parametrize("how", ["answers 500", "refuses"])
def test_a_task_that_is_cancelled_gives_back_all_the_same(world: World, how: str) -> None:
    """O11: what is given back may wait for a thread: a task that is cancelled loses nothing."""
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["keyrush"].charge_async(3)
        for _ in range(16):  # every thread is busy
            world.gate.workers.submit("io", go.wait, 10)
        if how == "refuses":
            scope["keyrush"].refuse(Refusal("not_found"))
        await send(start(500))

    async def run() -> None:
        async def receive() -> Any: ...

        async def send(_: Any) -> None: ...

        scope = scope_of(Sent("/free", world.sent.headers))
        middleware = KeyrushMiddleware(app, gate=world.gate)
        task = asyncio.ensure_future(middleware(scope, receive, send))
        done, _ = await asyncio.wait([task], timeout=0.5)
        assert not done
        task.cancel()
        await asyncio.wait([task])
        go.set()

    asyncio.run(run())
    assert world.balance == GIVEN_BACK


# --- what the ledger has of it -------------------------------------------------------------------


def assert_adds_up(gate: Gate) -> None:
    """The ledger has what callers were told."""
    assert gate.credits.check().discrepancies == ()


def test_who_was_charged(world: World) -> None:
    """O20: an entry says whose credential it was, and for what, and a reversal says the same of
    its charge.
    """
    headers = [*world.sent.headers, ("X-Request-ID", "req-1")]
    Wsgi(world.gate, failing).send(Sent("/paid", headers))
    [key] = world.gate.keys.list("acct_a")
    reversal, charge, _ = world.gate.credits.ledger("acct_a")
    assert (charge.reason, charge.amount, charge.by) == (
        "charge",
        -3,
        By("api", key.id, None, "/paid", "req-1"),
    )
    assert (reversal.reason, reversal.amount, reversal.by) == ("reversal", 3, charge.by)
    assert reversal.reverses == charge.reference
    assert_adds_up(world.gate)


def test_references_of_charges(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """O20, O22: each charge has a reference of its own, also of processes that are copies of one
    another, that no operator may give, and that tells of neither machine nor process.
    """
    monkeypatch.setattr("socket.gethostname", lambda: "inner-7")
    for _ in range(3):
        Wsgi(world.gate).send(world.sent)
        world.gate.charging._reset()  # noqa: SLF001  # as in a new process
    charges = [one.reference or "" for one in world.gate.credits.ledger("acct_a", limit=3)]
    assert len(set(charges)) == 3
    assert all(re.fullmatch(r"charge:[0-9a-f]+-[0-9a-f]{16}", one) for one in charges)
    with pytest.raises(InvalidArgument, match="reference"):
        world.gate.credits.add("acct_a", 5, reference=charges[0])


@pytest.mark.parametrize(
    ("source", "expected"), [("key", "api"), ("session", "dashboard"), ("oauth", "api")]
)
def test_by_which_door(world: World, source: str, expected: str) -> None:
    """O20: a person's session is the dashboard's; whoever is known by an issuer has a subject."""
    [key] = world.gate.keys.list("acct_a")
    known = world.gate.accounts.get("acct_a")
    counts = MonthlyCount("key:x", "2026-11"), MonthlyCount("account:acct_a", "2026-11")
    claims = Claims(
        id=key.id, lineage=key.id, name="n", prefix="", scopes=("*",), source=source, subject="s"
    )
    caller = Principal(
        entitled(claims, known, world.gate.catalog, counts, world.gate.clock()),
        world.gate.deciding.means,
        world.gate.clock(),
        [],
    )
    assert caller.charge(3) == KEPT
    charge = world.gate.credits.ledger("acct_a")[0]
    assert charge.by == By(expected, key.id, None if source == "key" else "s")  # type: ignore[arg-type]  # one of them


@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
def test_a_months_credits_are_there_when_they_are_needed(clock: Clock, adapter: Any) -> None:
    """O3, O12: a charge brings the month's credits by itself; who was short a moment ago has the
    next month's with its first millisecond.
    """
    plans = {"starter": {"credits_per_month": {"amount": 4}}}
    store = MemoryStore()
    opened = Gate.open(settings(rules=RULES, plans=plans), store=store, clock=clock)
    gate = still(opened)
    gate.accounts.create("acct_a")
    sent = Sent("/paid", [("X-API-Key", gate.keys.create("acct_a", "k").text)])
    door = adapter(gate)
    clock.now = month_bounds(clock.now)[1] - 100
    assert [door.send(sent).status for _ in range(3)] == [200, 402, 402]
    assert gate.credits.balance("acct_a") == 1
    clock.advance(99)
    assert door.send(sent).status == 402
    clock.advance(1)
    assert door.send(sent).status == 200
    amounts = [one.amount for one in reversed(gate.credits.ledger("acct_a"))]
    assert amounts == [4, -3, -1, 4, -3]
    assert_adds_up(gate)
    gate.close()
