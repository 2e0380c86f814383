"""Sessions of MCP servers: whoever was told of one has it, in all workers, and nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest

from keyrush import Gate
from keyrush.gate.mcp_sessions import LASTS
from keyrush.sql.engine import Database
from keyrush.store import bindings, bindings_in_memory
from keyrush.store.memory import MemoryStore
from keyrush.store.opening import open_store
from keyrush.store.protocol import MAX_BINDINGS, BindingStore
from tests.conftest import Clock, settings, still
from tests.support.calls import Reply
from tests.support.resources import DOORS, RESOURCE, App, Door, call, message, result

PEPPER = "p" * 32

ID = ("mcp-session-id", "9a3fae456e4947ae9a65487a85eaedd1")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[list[Any]]:
    """One store as two workers have it."""
    if request.param == "memory":
        yield [MemoryStore()] * 2
        return
    url = f"sqlite:///{tmp_path}/keyrush.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("bare_postgres_url")
    opened = [open_store(url).store for _ in range(2)]
    yield opened
    for store in opened:
        store.close()


def workers(stores: list[Any], clock: Clock, kind: Any, app: App, **values: Any) -> list[Door]:
    """Two workers of one app, with the keys of two accounts."""
    known = settings(resources=[RESOURCE | values], pepper=PEPPER)
    gates = [still(Gate.open(known, store=store, clock=clock)) for store in stores]
    doors = [kind(gate, app) for gate in gates]
    for account in ("acct_a", "acct_b"):
        gates[0].accounts.create(account)
    return doors


def keys(door: Door) -> tuple[str, str]:
    """A key of each account."""
    gate: Gate = door.middleware.gate  # type: ignore[attr-defined]  # of both kinds
    first, second = (gate.keys.create(account, "k").text for account in ("acct_a", "acct_b"))
    return first, second


def in_a_thread(function: Callable[[], object]) -> None:
    """Call it where no event loop runs."""
    thread = Thread(target=function)
    thread.start()
    thread.join()


def opened(door: Door, key: str) -> Reply:
    """The answer to `initialize`, in which a server of 2025 names a session."""
    door.app.headers = [("content-type", "application/json"), ID]
    reply = door.post(message("initialize"), key)
    assert (reply.status, reply["mcp-session-id"]) == (200, ID[1])
    door.app.headers = [("content-type", "application/json")]
    return reply


@pytest.mark.parametrize("kind", DOORS)
def test_a_session_is_its_accounts(stores: list[Any], clock: Clock, kind: Any) -> None:
    """S60: another account's session is not found, by any method, in any worker."""
    doors = workers(stores, clock, kind, App())
    mine, theirs = keys(doors[0])
    opened(doors[0], mine)
    for door in doors:
        for method in ("POST", "GET", "DELETE"):
            assert door.send(method, call("x"), mine, ID).status == 200
            reply = door.send(method, call("x"), theirs, ID)
            assert (reply.status, "www-authenticate" in reply) == (404, False)
            assert door.send(method, call("x"), mine, ("mcp-session-id", "guess")).status == 404
        assert door.post(call("x"), theirs).status == 200
    assert reply["x-ratelimit-limit"] == "100"
    assert len(doors[0].app.bodies) == 9  # nothing of the others was seen


@pytest.mark.parametrize("kind", DOORS)
def test_a_session_ends(stores: list[Any], clock: Clock, kind: Any) -> None:
    """S60: a session that is not used is nobody's after a day; one that is used goes on."""
    doors = workers(stores, clock, kind, App())
    mine, _ = keys(doors[0])
    opened(doors[0], mine)
    for _ in range(3):
        clock.advance(LASTS - 1)
        assert doors[1].post(message("ping"), mine, ID).status == 200
    clock.advance(LASTS)
    for door in doors:
        assert door.post(message("ping"), mine, ID).status == 404


@pytest.mark.parametrize("kind", DOORS)
@pytest.mark.parametrize(
    "ids", [[""], [" "], ["a b"], ["\x80"], ["x" * 2000], [ID[1], "other"], [ID[1]] * 2]
)
def test_what_is_no_session(clock: Clock, kind: Any, ids: list[str]) -> None:
    """S60: what names no session, or two, is not found, and nothing is asked for."""
    store = MemoryStore()
    door = workers([store], clock, kind, App())[0]
    mine, _ = keys(door)
    opened(door, mine)
    store.bound = None  # type: ignore[method-assign, assignment]  # to be called by nobody
    if kind is DOORS[0] or len(ids) == 1:
        given = [("mcp-session-id", one) for one in ids]
        assert door.post(message("ping"), mine, *given).status == 404


@pytest.mark.parametrize("kind", DOORS)
def test_without_sessions(clock: Clock, kind: Any) -> None:
    """S60: a resource that is stateless takes no session, not even one that it has named."""
    door = workers([MemoryStore()], clock, kind, App(), stateless=True)[0]
    mine, _ = keys(door)
    opened(door, mine)
    assert door.post(message("ping"), mine, ID).status == 404
    assert door.post(message("ping"), mine).status == 200


@pytest.mark.parametrize("kind", DOORS)
def test_guesses_have_an_end(clock: Clock, kind: Any) -> None:
    """S60: who guesses sessions is refused from memory, after as many guesses as requests."""
    store = MemoryStore()
    door = workers([store], clock, kind, App())[0]
    mine, _ = keys(door)
    guesses = [door.post(message("ping"), mine, ("mcp-session-id", str(n))) for n in range(100)]
    assert {reply.status for reply in guesses} == {404}
    store.bound = None  # type: ignore[method-assign, assignment]  # to be called by nobody
    assert door.post(message("ping"), mine, ("mcp-session-id", "more")).status == 429


@pytest.mark.parametrize("kind", DOORS)
def test_an_id_is_of_one_call(clock: Clock, kind: Any) -> None:
    """S60, O11: while a call of a session waits, no other has its id, of whatever type: servers
    would take the answer to one for the other's. In other sessions, and afterwards, it is free.
    """
    app = App()
    door = workers([MemoryStore()], clock, kind, app)[0]
    mine, _ = keys(door)
    opened(door, mine)
    replies: list[Reply] = []

    def meanwhile() -> None:
        app.during = lambda: None
        for number in (1, "1"):
            replies.append(door.post(call("x", number), mine, ID))
            replies.append(door.post(message("ping", number), mine, ID))
        replies.append(door.post(call("x", "2"), mine, ID))
        replies.append(door.post(call("x", 1), mine))

    app.answers(result(1))
    app.during = lambda: in_a_thread(meanwhile)
    assert door.post(call("x", 1), mine, ID).status == 200
    assert [reply.status for reply in replies] == [400] * 4 + [200] * 2
    error = replies[0].json["error"]
    assert (replies[0].json["id"], error["code"]) == (1, -32600)
    assert door.post(call("x", 1), mine, ID).status == 200


#: What a client does while its call waits, and what is left of 100 credits where that has failed.
MEANWHILE: list[tuple[str, Any, int]] = [
    ("POST", message("notifications/cancelled", None, params={"requestId": 1}), 90),
    ("POST", message("notifications/cancelled", None, params={"requestId": "1"}), 90),
    ("POST", message("notifications/cancelled", None, params={"requestId": 2}), 100),
    ("POST", message("notifications/cancelled", None, params={"requestId": [1]}), 100),
    ("DELETE", b"", 90),
    ("GET", b"", 100),
]


@pytest.mark.parametrize("kind", DOORS)
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(("method", "body", "left"), MEANWHILE)
def test_who_ends_a_call_pays_for_it(  # noqa: PLR0917  # all that there is of a call
    clock: Clock, kind: Any, method: str, body: Any, left: int, status: int
) -> None:
    """S60, O11: a call that its own client ends, or its session, is no failed one."""
    app = App()
    rules = [{"path": "/mcp", "mcp": "tools/call", "credits": 10}]
    gate = still(Gate.open(settings(resources=[RESOURCE], rules=rules), clock=clock))
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 100)
    door, key = kind(gate, app), gate.keys.create("acct_a", "k").text
    opened(door, key)
    app.answers(result(1, isError=True))
    other = kind(gate, App())

    def meanwhile() -> None:
        in_a_thread(lambda: other.send(method, body, key, ID))
        app.status = status

    app.before = meanwhile
    assert door.post(call("x"), key, ID).status == status
    gate.close()
    assert gate.credits.balance("acct_a") == left


#: What a server answers in a session, and whether the id is free then.
ANSWERED: list[tuple[int, bool, list[Any], bool]] = [
    (200, True, [result(1)], True),
    (200, True, [message(None, 1, error={})], True),
    (200, True, [message("notifications/progress", None, params={"result": 1})], False),
    (200, True, [result("1")], False),
    (200, True, [], False),
    (200, False, [{}], True),
    (500, True, [], True),
]


@pytest.mark.parametrize("kind", DOORS)
@pytest.mark.parametrize(("status", "events", "answer", "is_free"), ANSWERED)
def test_an_id_is_taken_until_the_answer(  # noqa: PLR0917  # all that there is of an answer
    clock: Clock, kind: Any, status: int, events: bool, answer: list[Any], is_free: bool
) -> None:
    """S60, O11: where a stream ends without the answer, it comes elsewhere: the id stays taken."""
    app = App()
    door = workers([MemoryStore()], clock, kind, app)[0]
    mine, _ = keys(door)
    opened(door, mine)
    app.answers(*answer, events=events).status = status
    assert door.post(message("ping"), mine, ID).status == status
    app.answers(result(1)).status = 200
    assert door.post(call("x"), mine, ID).status == (200 if is_free else 400)


@pytest.mark.parametrize("kind", DOORS)
def test_the_store_is_away(clock: Clock, kind: Any) -> None:
    """S19: a session that is known goes on while the store is away, one that is not is 503."""

    class Away(MemoryStore):
        is_away = False

        def bound(self, name: str, now: int) -> str | None:
            if self.is_away:
                raise ConnectionError
            return super().bound(name, now)

        def bind(self, name: str, account_id: str, now: int, ends_at: int) -> str:
            if self.is_away:
                raise ConnectionError
            return super().bind(name, account_id, now, ends_at)

    store = Away()
    doors = workers([store, store], clock, kind, App())
    mine, _ = keys(doors[0])
    assert doors[1].post(message("ping"), mine).status == 200  # the key is known
    store.is_away = True
    opened(doors[0], mine)
    assert doors[0].post(message("ping"), mine, ID).status == 200
    assert doors[1].post(message("ping"), mine, ID).status == 503


# --- where they are kept -------------------------------------------------------------------------


def test_bindings(stores: list[BindingStore]) -> None:
    """S60: a session stays with the account that it was first of, until it ends."""
    first, second = stores
    assert first.bound("s", 0) is None
    assert first.bind("s", "acct_a", 0, 10) == "acct_a"
    assert second.bind("s", "acct_b", 5, 15) == "acct_a"
    assert second.bound("s", 9) == "acct_a"
    assert second.bind("s", "acct_a", 9, 20) == "acct_a"
    assert first.bound("s", 19) == "acct_a"
    assert first.bound("s", 20) is None
    assert first.bind("s", "acct_b", 20, 30) == "acct_b"
    assert second.bound("s", 21) == "acct_b"


def test_bindings_have_a_bound(stores: list[BindingStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """S60: of an account those sessions are kept that end last, and none that has ended."""
    bound = 20
    for module in (bindings, bindings_in_memory):  # a thousand take as long, and prove no more
        assert module.MAX_BINDINGS == MAX_BINDINGS
        monkeypatch.setattr(module, "MAX_BINDINGS", bound)
    store = stores[0]
    store.bind("other", "acct_b", 0, 10**6)
    for number in range(bound + 5):
        store.bind(f"s{number}", "acct_a", 0, 1000 + number)
    assert [store.bound(f"s{number}", 0) for number in (0, 4)] == [None, None]
    assert store.bound("s5", 0) == store.bound(f"s{bound + 4}", 0) == "acct_a"
    assert store.bound("other", 0) == "acct_b"
    store.bind("last", "acct_a", 10**6, 10**7)  # by when the others have ended
    if isinstance(database := getattr(store, "database", None), Database):
        with database.engine.connect() as connection:
            left = connection.exec_driver_sql("SELECT count(*) FROM keyrush_bindings").scalar()
        assert left is not None
        assert left <= bound
