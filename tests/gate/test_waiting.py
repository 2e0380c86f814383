"""`wait` of a rule: who would be refused by a window waits for its turn instead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from keyrush import Gate, KeyrushMiddleware, wsgi
from keyrush.core import sliding
from keyrush.core.sliding import Tally, Window
from keyrush.gate import lines as gate_lines
from keyrush.gate import waiting as gate_waiting
from keyrush.gate.lines import Lines, Place
from keyrush.operations.keys import NewKey
from tests.conftest import Clock, settings
from tests.support.calls import Reply, Sent, asgi_call, environ_of, scope_of, wsgi_call
from tests.support.scripts import finish, start

#: Seconds after which a test has failed that waits for something.
PATIENCE = 60

RULE = {"path": "/export", "limits": ["1/minute"], "wait": "30s"}
PLANS = {"starter": {"limits": "100/minute"}}

#: Milliseconds to the end of the minute in which these tests begin to wait.
LEFT = 20_000


class Watched(Lines):
    """Tells when another request stands in a line, and when one that did has left."""

    def __init__(self) -> None:
        super().__init__()
        self.stood, self.left = threading.Semaphore(0), threading.Semaphore(0)

    def leave(self, place: Place) -> None:
        has_stood = place.line is not None
        super().leave(place)
        if has_stood:
            self.left.release()

    def _stand(self, place: Place, key: str, tally: Tally) -> bool:
        is_new = place.line is None
        has_room = super()._stand(place, key, tally)
        if is_new and has_room:
            self.stood.release()
        return has_room


class World:
    """A gate whose clock stands still, behind one of the doors, and requests under way."""

    def __init__(
        self, gate: Gate, clock: Clock, submit: Callable[..., Future[Any]], door: str
    ) -> None:
        self.gate = gate
        self.clock = clock
        self.seen: list[str] = []  # the requests that the app has answered, in their order
        self._submit = submit
        self._door = door
        self.lines = gate.finishing.waiting.lines = Watched()
        if door == "wsgi":
            self.middleware: Any = wsgi.KeyrushMiddleware(self._wsgi_app, gate=gate)
        else:
            self.middleware = KeyrushMiddleware(self._asgi_app, gate=gate)

    def key(self, account_id: str = "acct_a", **more: Any) -> NewKey:
        self.gate.accounts.create(account_id)
        return self.gate.keys.create(account_id, "agent", **more)

    def start(self, key: NewKey, path: str = "/export") -> Future[Reply]:
        """A request that is under way, in another thread or in the event loop of one."""
        sent = Sent(path, headers=[("authorization", f"Bearer {key.text}")])
        if self._door == "wsgi":
            return self._submit(wsgi_call, self.middleware, environ_of(sent))
        return self._submit(asgi_call, self.middleware, scope_of(sent))

    def get(self, key: NewKey, path: str = "/export") -> Reply:
        return self.start(key, path).result(PATIENCE)

    def wait(self, key: NewKey, path: str = "/export") -> Future[Reply]:
        """One that stands in a line by now."""
        under_way = self.start(key, path)
        assert self.lines.stood.acquire(timeout=PATIENCE)
        return under_way

    def pass_time(self, milliseconds: int) -> None:
        """Let time pass, of which the first of each line would be told by its timer."""
        self.clock.advance(milliseconds)
        for line in list(self.lines._lines.values()):  # noqa: SLF001  # who they are
            line.places[0].bell.ring()

    async def _asgi_app(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope["query_string"].decode())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    def _wsgi_app(self, environ: Any, start_response: Any) -> list[bytes]:
        self.seen.append(environ["QUERY_STRING"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"done"]


Opening = Callable[..., World]


@pytest.fixture(params=["asyncio", "trio", "wsgi"])
def opened(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Opening]:
    """Opens a gate with these rules, behind each door, a third of a minute before its end."""
    with ExitStack() as stack:
        if request.param == "wsgi":
            submit: Any = stack.enter_context(ThreadPoolExecutor(max_workers=150)).submit
        else:
            portal = stack.enter_context(start_blocking_portal(request.param))
            submit = portal.start_task_soon

        def opening(*rules: dict[str, Any], **values: Any) -> World:
            chosen = settings(rules=list(rules) or [RULE], **{"plans": PLANS, **values})
            gate = Gate.open(chosen, clock=clock)
            stack.callback(gate.close)
            clock.advance(60_000 - LEFT)
            return World(gate, clock, submit, request.param)

        yield opening


def test_it_waits_for_its_turn(opened: Opening) -> None:
    """R15: what would be refused is admitted once its window is ready, and says how long it waited;
    a millisecond before it is not.
    """
    world = opened()
    key = world.key()
    first = world.get(key)
    assert first.status == 200
    assert "x-ratelimit-waited" not in first
    waits = world.wait(key)
    world.pass_time(LEFT)
    later = world.wait(key)
    assert world.seen == [""]
    world.pass_time(1)
    reply = waits.result(PATIENCE)
    assert reply.status == 200
    seconds, _, fraction = reply["x-ratelimit-waited"].partition(".")
    assert (seconds, len(fraction)) == ("0", 3)
    assert reply["x-ratelimit-remaining"] == "0"
    world.gate.finishing.waiting.release()
    assert later.result(PATIENCE).status == 429
    assert not world.lines


def test_what_would_take_too_long(opened: Opening) -> None:
    """Who would not be admitted within the time is refused at once, and stands in no line."""
    world = opened({**RULE, "wait": "19s"})
    key = world.key()
    assert world.get(key).status == 200
    refused = world.get(key)
    assert (refused.status, refused["retry-after"]) == (429, "21")
    assert refused["x-ratelimit-limit"] == "1"
    assert not world.lines
    # It has consumed nothing.
    assert world.get(key, "/other")["x-ratelimit-remaining"] == "98"


def test_the_order_of_arrival(opened: Opening) -> None:
    """A hundred that wait are admitted as they came, one each time that the limit admits one."""
    world = opened({"path": "/export", "limits": ["1/second"], "wait": "30s"})
    key = world.key()
    world.get(key, "/export?first")
    waits = [world.wait(key, f"/export?{number}") for number in range(100)]
    assert len(world.lines) == 100
    for number, one in enumerate(waits):
        world.pass_time(2000)
        assert one.result(PATIENCE).status == 200
        assert world.seen[-1] == str(number)
        assert len(world.seen) == number + 2
    assert not world.lines


def test_a_newcomer_overtakes_nobody(opened: Opening) -> None:
    """Who comes when the window is ready, but somebody waits, stands behind them."""
    world = opened()
    key = world.key()
    world.get(key, "/export?a")
    first = world.wait(key, "/export?b")
    world.clock.advance(LEFT + 1)  # of which it has not been told yet
    second = world.wait(key, "/export?c")
    assert world.seen == ["a"]
    world.lines.ring()
    assert first.result(PATIENCE).status == 200
    assert world.seen == ["a", "b"]
    world.gate.finishing.waiting.release()
    assert second.result(PATIENCE).status == 429


def test_lines_of_others(opened: Opening) -> None:
    """Each key waits for its own window: nobody stands behind another key's requests."""
    world = opened()
    key, other = world.key(), world.key("acct_b")
    world.get(key)
    waits = world.wait(key)
    assert world.get(other).status == 200
    world.pass_time(LEFT + 1)
    assert waits.result(PATIENCE).status == 200


def test_what_else_refuses_is_said_at_once(opened: Opening) -> None:
    """O14: neither a missing scope, nor a quota, nor a balance is waited for, or in a line."""
    paid = {"path": "/paid", "credits": 5, "limits": ["1/minute"], "wait": "30s"}
    scoped = {**RULE, "scopes": ["export"]}
    quota = {"monthly_quota": 1, "on_exceed": "block"}
    known = {"path": "/read", "scopes": ["read"]}
    world = opened(scoped, paid, known, plans={"starter": quota})
    able = world.key()
    unable = world.gate.keys.create("acct_a", "other", scopes=["read"])
    assert world.get(able).status == 200
    waits = world.wait(able)
    assert world.get(unable).status == 403
    assert world.get(able, "/paid").status == 429  # the month
    world.pass_time(LEFT + 1)
    refused = waits.result(PATIENCE)
    assert (refused.status, "x-ratelimit-monthly-remaining" in refused) == (429, True)


def test_it_is_charged_once(opened: Opening) -> None:
    """O11: what waits is charged when it is admitted, and only then."""
    world = opened({**RULE, "credits": 5})
    key = world.key()
    world.gate.credits.grant("acct_a", 20)
    assert world.get(key).status == 200
    waits = world.wait(key)
    assert world.gate.credits.balance("acct_a") == 15
    world.pass_time(LEFT + 1)
    assert waits.result(PATIENCE).status == 200
    assert world.gate.credits.balance("acct_a") == 10


def test_room(opened: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many of one account, and so many in all, who comes is refused at once."""
    monkeypatch.setattr(gate_lines, "MOST", 3)
    monkeypatch.setattr(gate_lines, "MOST_OF_ONE", 2)
    world = opened()
    keys = [world.key(f"acct_{number}") for number in range(3)]
    for key in keys:
        assert world.get(key).status == 200
    waits = [world.wait(keys[0]), world.wait(keys[0])]
    of_one = world.get(keys[0])
    assert (of_one.status, of_one["retry-after"]) == (429, "21")
    waits.append(world.wait(keys[1]))
    assert world.get(keys[2]).status == 429
    world.pass_time(LEFT + 1)
    assert waits[0].result(PATIENCE).status == 200
    world.gate.finishing.waiting.release()
    for one in waits:
        one.result(PATIENCE)
    assert not world.lines


def test_a_stop(opened: Opening) -> None:
    """Told to stop, the gate answers who waits at once, and nobody waits any more."""
    world = opened()
    key = world.key()
    world.get(key)
    waits = [world.wait(key) for _ in range(5)]
    world.gate.prepare_to_stop()
    for one in waits:
        refused = one.result(PATIENCE)
        assert (refused.status, refused["retry-after"]) == (429, "21")
    assert world.get(key).status == 429
    assert world.seen == [""]


def test_a_key_that_ends_meanwhile(opened: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: a key that is revoked while its request waits is good for nothing when its turn comes."""
    world = opened()
    key = world.key()
    world.get(key)
    waits = world.wait(key)
    monkeypatch.setattr(gate_waiting, "_HOLDS", 0.0)
    world.gate.keys.revoke(key.key.id)
    world.pass_time(LEFT + 1)
    assert waits.result(PATIENCE).status == 401
    assert world.seen == [""]


def test_in_vain(opened: Opening, clock: Clock) -> None:
    """Whose time is over is refused, with the second from which there is more: the first of a line,
    and who stands behind it.
    """
    world = opened({**RULE, "wait": "100ms"})
    key = world.key()
    world.get(key)
    clock.advance(LEFT - 50)  # and no more: each tries in vain
    waits = [world.wait(key), world.wait(key)]
    for one in waits:
        refused = one.result(PATIENCE)
        assert (refused.status, refused["retry-after"]) == (429, "2")
        assert refused["x-ratelimit-remaining"] == "0"
    assert not world.lines
    assert world.seen == [""]


def test_activity_has_the_wait(opened: Opening) -> None:
    """The duration of a request in activity has the time that it waited; the row is as any."""
    world = opened()
    key = world.key()
    world.get(key)
    waits = world.wait(key)
    world.pass_time(LEFT + 1)
    waited = float(waits.result(PATIENCE)["x-ratelimit-waited"])
    world.gate.flush()
    rows = world.gate.activity.page("acct_a").items
    assert [(row.outcome, row.reason) for row in rows] == [("ok", None), ("ok", None)]
    assert max(row.duration for row in rows) >= int(waited * 1_000_000) - 1000


# --- lines by themselves ---


class Silent:
    """Notes that it was rung."""

    def __init__(self) -> None:
        self.rung = 0

    def ring(self) -> None:
        self.rung += 1


def full(key: str) -> Tally:
    return Tally(False, Window(key, 1000, 1, "second"), 0, 1)


def test_lines_that_cross() -> None:
    """Who waits for one window and takes from another too overtakes nobody in either: whoever came
    first is behind nobody.
    """
    lines = Lines()
    first = lines.enter("acct_a", ["plan", "rule a"], Silent())
    second = lines.enter("acct_a", ["plan", "rule b"], Silent())
    third = lines.enter("acct_a", ["plan", "rule a"], Silent())
    assert lines.wait_for(first, full("rule a"))
    assert lines.wait_for(second, full("plan"))
    assert lines.is_first(first)
    assert lines.is_first(second)
    assert lines.follow(first) is None
    behind = lines.follow(third)
    assert behind is not None
    assert behind is third.line
    # The first one finds the plan's window full as well, and came before all others there.
    assert lines.wait_for(first, full("plan"))
    assert lines.is_first(first)
    assert not lines.is_first(second)
    lines.leave(first)
    assert isinstance(second.bell, Silent)
    assert second.bell.rung == 1
    lines.leave(second)
    lines.leave(third)
    assert not lines
    assert lines._lines == {}  # noqa: SLF001  # nothing is left behind
    assert not lines._of  # noqa: SLF001  # as above


def test_leaving_twice() -> None:
    """To leave twice, or without having stood anywhere, changes nothing."""
    lines = Lines()
    place, other = (lines.enter("acct_a", ["a"], Silent()) for _ in range(2))
    assert lines.wait_for(place, full("a"))
    for one in (other, place, place, other):
        lines.leave(one)
    assert not lines


# --- in several processes ---


def test_two_gates_on_one_file(clock: Clock, tmp_path: Path) -> None:
    """Requests that wait in two gates on one file of windows are never more than the limit, by the
    arithmetic of all that were admitted; and all are, one after the other.
    """
    rule = {"path": "/export", "limits": ["3/second"], "wait": "30s"}
    values = {"plans": PLANS, "rules": [rule], "store_url": f"sqlite:///{tmp_path}/keyrush.db"}
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        worlds = []
        for _ in range(2):
            gate = Gate.open(settings(**values), clock=clock)
            stack.callback(gate.close)
            worlds.append(World(gate, clock, portal.start_task_soon, "asyncio"))
        key = worlds[0].key()
        admitted: list[int] = []
        for number in range(3):
            assert worlds[number % 2].get(key).status == 200
            admitted.append(clock.now)
        waits = [worlds[number % 2].wait(key) for number in range(12)]
        for one in waits:
            one.add_done_callback(lambda _: admitted.append(clock.now))
        while len(admitted) < 15:
            for world in worlds:
                # Which of them is asked first, and when, must not matter.
                clock.advance(170)
                before = len(world.lines), len(admitted)
                world.pass_time(0)
                portal.call(settled, world)
                assert len(admitted) - before[1] == before[0] - len(world.lines)
        assert [one.result(PATIENCE).status for one in waits] == [200] * 12
    window = Window("of all", 1000, 3, "second")
    counters: dict[str, tuple[int, int, int]] = {}
    for instant in admitted:
        tally, changes = sliding.take([window], counters, 1, instant)
        assert tally.admitted
        counters.update(changes)


async def settled(world: World) -> None:
    """Let all that are rung try, until none does."""
    for _ in range(50):
        await anyio.lowlevel.checkpoint()


#: Ten requests at once in each of two processes; it prints how each was answered, and how many
#: seconds it took.
PROCESSES = """
import os, sys, time
from concurrent.futures import ThreadPoolExecutor
from keyrush import Gate, Settings, wsgi

url, key = sys.argv[1:]
rules = [{"path": "/export", "limits": ["5/second"], "wait": "30s"}]
gate = Gate.open(Settings(store_url=url, rules=rules, verify="fingerprint"))
app = wsgi.KeyrushMiddleware(lambda environ, start: start("200 OK", []) and [], gate=gate)


def call(_):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/export", "HTTP_X_API_KEY": key}
    statuses = []
    app(environ, lambda status, headers: statuses.append(status[:3])).close()
    return statuses[0]


began, child = time.monotonic(), os.fork()
with ThreadPoolExecutor(10) as pool:
    statuses = list(pool.map(call, range(10)))
sys.stdout.write(" ".join(statuses) + " ")
sys.stdout.flush()
if child:
    os.waitpid(child, 0)
    sys.stdout.write(str(time.monotonic() - began))
gate.close()
"""


def test_two_processes_on_one_file(tmp_path: Path) -> None:
    """R15: two processes whose requests wait for one window have all of them admitted, and no more
    of them than five a second.
    """
    url = f"sqlite:///{tmp_path}/keyrush.db"
    gate = Gate.open(settings(store_url=url, verify="fingerprint"))
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "agent").text
    gate.close()
    *statuses, seconds = finish(start(PROCESSES, url, key)).split()
    assert statuses == ["200"] * 20
    assert float(seconds) > 2  # four times five of them, in windows that slide
