"""A store and a limiter of a user's own: plain, with coroutines, and in a mix of both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest

from keyrush import Gate, StoreError
from keyrush.core.identity import account_subject
from keyrush.core.times import month_of
from keyrush.limiter.memory import MemoryLimiter
from keyrush.limiter.protocol import SmallLimiter
from keyrush.runtime import bridge
from keyrush.runtime.bridge import on_behalf_of, synchronous
from keyrush.store.memory import MemoryStore
from keyrush.store.opening import given
from keyrush.store.protocol import Store
from tests.conftest import Clock, settings, still
from tests.support.calls import Asgi, Sent, Trio, Wsgi, asgi_call, scope_of
from tests.support.faults import PATIENCE

STORE = frozenset(
    name for kind in (Store, *Store.__bases__) for name in vars(kind) if not name.startswith("_")
)
LIMITER = frozenset({"take", "give_back", "close"})


def own_class(kept: type, names: Collection[str], asynchronous: Collection[str]) -> Any:
    """A class that is related to none of keyrush's, with these methods, some of them coroutines."""

    class Own:
        is_local = False

        def __init__(self) -> None:
            self.kept = kept()
            self.loops: set[asyncio.AbstractEventLoop | None] = set()
            self.threads: set[int] = set()

    def method(name: str) -> Callable[..., Any]:
        if name in asynchronous:

            async def call(self: Any, *args: Any) -> Any:
                self.loops.add(asyncio.get_running_loop())
                await asyncio.sleep(0)
                return getattr(self.kept, name)(*args)

            return call

        def plain(self: Any, *args: Any) -> Any:
            self.threads.add(threading.get_ident())
            return getattr(self.kept, name)(*args)

        return plain

    for name in names:
        setattr(Own, name, method(name))
    return Own


PlainStore = own_class(MemoryStore, STORE, ())
AsyncStore = own_class(MemoryStore, STORE, STORE)
MixedStore = own_class(MemoryStore, STORE, {"find", "charge", "add_usage"})
PlainLimiter = own_class(MemoryLimiter, LIMITER, ())
AsyncLimiter = own_class(MemoryLimiter, LIMITER, LIMITER)
MixedLimiter = own_class(MemoryLimiter, LIMITER, {"take"})

PEPPER = "0123456789abcdef0123456789abcdef"
RULES = [{"path": "/paid", "credits": 3}, {"path": "/other", "scopes": ["other"]}]


def opened(clock: Clock, store: Any = None, limiter: Any = None, **more: Any) -> Gate:
    """A gate with an account that has 5 credits, and a limit of 3 a minute."""
    plans = {"only": {"limits": "3/minute", "monthly_quota": 100}}
    gate = Gate.open(
        settings(**{"plans": plans, "rules": RULES, "scopes": "read", "pepper": PEPPER, **more}),
        store=store,
        limiter=limiter,
        clock=clock,
    )
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 5)
    return gate


@pytest.fixture(params=[PlainStore, AsyncStore, MixedStore], ids=["plain", "async", "mixed"])
def store(request: pytest.FixtureRequest) -> Any:
    """A store of a user's own."""
    return request.param()


@pytest.fixture(params=[PlainLimiter, AsyncLimiter, MixedLimiter], ids=["plain", "async", "mixed"])
def limiter(request: pytest.FixtureRequest) -> Any:
    """A limiter of a user's own."""
    return request.param()


@pytest.fixture(params=[Asgi, Trio, Wsgi], ids=["asgi", "trio", "wsgi"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Each way of sending requests."""
    return request.param


def get(sender: Any, key: str, path: str = "/") -> int:
    """The status of one request."""
    status: int = sender.send(Sent(path, [("X-API-Key", key)])).status
    return status


def test_protocols_are_complete() -> None:
    """The names below are those of the protocols."""
    assert {"find", "charge", "reverse", "replace", "add_usage", "close"} <= STORE
    assert {name for name in vars(SmallLimiter) if not name.startswith("_")} == LIMITER


def test_own_store(store: Any, adapter: Any, clock: Clock) -> None:
    """A store of one's own serves keys, credits, counts and revocation under ASGI and WSGI."""
    # The loop of each request ends with it, below what the background may be asking.
    gate = still(opened(clock, store=store))
    made = gate.keys.create("acct_a", "production")
    sender = adapter(gate)
    assert get(sender, made.text) == 200
    assert get(sender, made.text, "/paid") == 200
    assert get(sender, made.text, "/paid") == 402
    assert gate.accounts.get("acct_a").balance == 2
    assert get(sender, gate.keys.create("acct_a", "other").text) == 200
    gate.flush()
    assert store.kept.usage(account_subject("acct_a"), month_of(clock.now)) == 3
    assert store.kept.key(made.key.id).last_used_at == clock.now
    gate.keys.revoke(made.key.id)
    assert get(sender, made.text) == 401
    gate.close()


def test_own_store_gives_back(store: Any, adapter: Any, clock: Clock) -> None:
    """O11: what a store of one's own has charged it gives back for an answer that is an error."""
    gate = still(opened(clock, store=store))
    key = gate.keys.create("acct_a", "production").text
    gives_nothing = {Wsgi: failing_wsgi}.get(adapter, failing)
    assert [get(adapter(gate, gives_nothing), key, "/paid") for _ in range(2)] == [500, 500]
    gate.flush()
    assert gate.accounts.get("acct_a").balance == 5
    assert get(adapter(gate), key, "/paid") == 200
    assert gate.accounts.get("acct_a").balance == 2
    gate.close()


async def failing(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 500, "headers": []})
    await send({"type": "http.response.body", "body": b"oops"})


def failing_wsgi(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("500 Oops", [("Content-Type", "text/plain")])
    return [b"oops"]


def test_own_limiter(limiter: Any, adapter: Any, clock: Clock) -> None:
    """A limiter of one's own limits, shows what is left, and gets back what was refused."""
    gate = opened(clock, limiter=limiter)
    key = gate.keys.create("acct_a", "production", scopes=["read"]).text
    sender = adapter(gate)
    assert get(sender, key, "/other") == 403
    assert get(sender, key, "/paid") == 200
    assert get(sender, key, "/paid") == 402
    reply = sender.send(Sent("/", [("X-API-Key", key)]))
    assert (reply.status, reply["x-ratelimit-remaining"]) == (200, "1")
    assert [get(sender, key) for _ in range(2)] == [200, 429]
    assert len(limiter.kept) == 1
    gate.close()


def test_named_by_settings(adapter: Any, clock: Clock) -> None:
    """Both may be named as package.module:Class."""
    gate = opened(
        clock,
        store_url=f"{__name__}:AsyncStore",
        limiter_url=f"{__name__}:AsyncLimiter",
        pepper="0123456789abcdef0123456789abcdef",
    )
    key = gate.keys.create("acct_a", "production").text
    sender = adapter(gate)
    assert [get(sender, key) for _ in range(4)] == [200, 200, 200, 429]
    gate.close()


class EmptyStore(MemoryStore):
    """A store that is false, as an empty collection is."""

    def __len__(self) -> int:
        return 0


def test_empty_objects_are_used(clock: Clock) -> None:
    """What is passed is used, even if it is false."""
    store, limiter = EmptyStore(), MemoryLimiter()
    assert not store
    assert not limiter
    gate = Gate.open(settings(), store=store, limiter=limiter, clock=clock)
    assert gate.limiter is limiter
    assert gate.store is store
    gate.close()


def test_awaited_on_the_loop_of_the_app(clock: Clock) -> None:
    """Under ASGI the coroutines run on the app's own loop, where its connections belong."""
    store = AsyncStore()
    gate = still(opened(clock, store=store))
    key = gate.keys.create("acct_a", "production").text
    asgi = Asgi(gate).middleware
    loops = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        store.loops.clear()
        reply = await asgi_call(asgi, scope_of(Sent("/", [("X-API-Key", key)])))
        assert reply.status == 200

    asyncio.run(main())
    assert store.loops == set(loops)
    gate.close()


def test_plain_store_is_kept_off_the_loop(clock: Clock) -> None:
    """Under ASGI plain methods, which may block, run in another thread than the loop."""
    store = PlainStore()
    gate = still(opened(clock, store=store))
    key = gate.keys.create("acct_a", "production").text
    store.threads.clear()
    assert get(Asgi(gate), key) == 200
    assert store.threads
    assert threading.get_ident() not in store.threads
    gate.close()


# --- the bridge itself ---------------------------------------------------------------------------


class Echo:
    """A few coroutines to call."""

    name = "echo"

    async def say(self, word: str, *, times: int = 1) -> str:
        await asyncio.sleep(0)
        return word * times

    async def fail(self) -> None:
        raise TimeoutError("the store's own")

    async def hang(self, begun: threading.Event) -> None:
        begun.set()
        await asyncio.Event().wait()

    def plainly(self) -> str:
        return "plain"


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in another thread."""
    running = asyncio.new_event_loop()
    thread = threading.Thread(target=running.run_forever)
    thread.start()
    yield running
    if running.is_running():
        running.call_soon_threadsafe(running.stop)
    thread.join()
    for task in asyncio.all_tasks(running):
        task.cancel()
    running.run_until_complete(asyncio.sleep(0))
    running.close()


def test_plain_objects_are_left_alone() -> None:
    """Nothing stands between keyrush and an object without coroutines."""
    store = MemoryStore()
    assert synchronous(store) is store
    assert not given(store).is_async
    own = AsyncStore()
    assert given(own).is_async
    assert given(own).store is not own


def test_called_where_no_loop_runs() -> None:
    """In a script, or under WSGI, coroutines are run to their end."""
    front: Any = synchronous(Echo())
    assert front.say("a", times=3) == "aaa"
    assert front.plainly() == "plain"
    assert front.name == "echo"
    with pytest.raises(TimeoutError, match="own"):
        front.fail()
    with pytest.raises(AttributeError):
        front.nothing_like_it()


def test_called_on_behalf_of_a_loop(loop: asyncio.AbstractEventLoop) -> None:
    """From a worker thread coroutines are awaited on the loop that sent the work there."""
    front: Any = synchronous(Echo())
    assert on_behalf_of(loop, front.say, "b") == "b"
    assert on_behalf_of(loop, front.plainly) == "plain"
    with pytest.raises(TimeoutError, match="own"):
        on_behalf_of(loop, front.fail)
    assert front.say("c") == "c"


def test_called_after_the_loop_has_ended() -> None:
    """A loop that is gone is not waited for: the final flush still gets through."""
    front: Any = synchronous(Echo())

    async def main() -> str:
        running = asyncio.get_running_loop()
        return await asyncio.to_thread(on_behalf_of, running, front.say, "d")

    assert asyncio.run(main()) == "d"
    assert front.say("e") == "e"
    assert asyncio.run(main()) == "d"


def test_loop_that_stops_meanwhile(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a loop that stops learns of it instead of waiting for ever."""
    monkeypatch.setattr(bridge, "_POLL", 0.01)
    front: Any = synchronous(Echo())
    begun = threading.Event()

    def stop() -> None:
        assert begun.wait(10)
        loop.call_soon_threadsafe(loop.stop)

    stopping = threading.Thread(target=stop)
    stopping.start()
    with pytest.raises(StoreError, match="event loop stopped"):
        on_behalf_of(loop, front.hang, begun)
    stopping.join()


def test_slow_answers_are_waited_for(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that runs is waited for, however long its answer takes."""
    monkeypatch.setattr(bridge, "_POLL", 0.001)
    looked = threading.Event()

    class Slow:
        async def answer(self) -> str:
            return await asyncio.to_thread(lambda: str(looked.wait(10)))

    original = loop.is_running
    looks: list[bool] = []

    def is_running() -> bool:
        looks.append(original())
        if len(looks) > 3:
            looked.set()
        return looks[-1]

    monkeypatch.setattr(loop, "is_running", is_running)
    front: Any = synchronous(Slow())
    assert on_behalf_of(loop, front.answer) == "True"


def test_blocking_its_own_loop_is_an_error() -> None:
    """A blocking call on the loop that should answer it is an error, not a deadlock."""
    front: Any = synchronous(Echo())

    async def main() -> None:
        await asyncio.to_thread(on_behalf_of, asyncio.get_running_loop(), front.say, "f")
        with pytest.raises(RuntimeError, match="block the event loop"):
            front.say("g")

    asyncio.run(main())
    with pytest.raises(RuntimeError):
        asyncio.run(_call_directly(synchronous(Echo())))


async def _call_directly(front: Any) -> None:
    front.say("h")


def test_told_to_stop_on_its_loop(clock: Clock) -> None:
    """R12: counts are written to a store of coroutines that is told to stop on the loop on which
    these run, and which goes on.
    """
    written = asyncio.Event()
    store = AsyncStore()
    add = store.kept.add_usage

    def adding(*args: Any) -> Any:
        written.set()
        return add(*args)

    store.kept.add_usage = adding
    gate = still(Gate.open(settings(pepper="p" * 32), store=store, clock=clock))
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "first").text

    def counted() -> int:
        return int(store.kept.usage(account_subject("acct_a"), month_of(clock.now)))

    async def main() -> None:
        app = Asgi(gate).middleware
        sent = scope_of(Sent("/", [("X-API-Key", key)]))
        assert (await asgi_call(app, sent)).status == 200
        assert counted() == 0
        gate.prepare_to_stop()
        await asyncio.wait_for(written.wait(), PATIENCE)
        assert counted() == 1
        assert (await asgi_call(app, sent)).status == 200
        assert counted() == 2  # before its answer

    asyncio.run(main())
    gate.close()
