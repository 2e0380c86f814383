"""What is particular to the ledger on Redis; the rest is in `test_ledgers`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import signal
import socket
import socketserver
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from redis.crc import key_slot

from keyrush.core.sliding import Part, Taken, Window
from keyrush.errors import ConfigurationError, LimiterError
from keyrush.limiter.ledgers.calls import Call, NoReply
from keyrush.limiter.ledgers.redis.changes import RedisChanges
from keyrush.limiter.ledgers.redis.ledger import RedisLedger
from keyrush.limiter.ledgers.redis.script import TOGETHER, key_of
from keyrush.limiter.ledgers.redis.server import PATIENCE, parse
from keyrush.limiter.ledgers.threads import ThreadBatches
from tests.support.faults import outcome, until
from tests.support.proxy import Proxy, proxy
from tests.support.scripts import run, run_anew
from tests.support.valkey import Valkey, Watched, running

HOUR = 3_600_000
DAY = 24 * HOUR

#: Two windows of one subject, so long that no test sees their periods change twice.
WANTED = [Window("key:a:2592000", 30 * DAY, 1000, "month"), Window("key:a:86400", DAY, 500, "day")]


def window(subject: str, amount: int = 1000) -> Window:
    return Window(f"{subject}:2592000", 30 * DAY, amount, "month")


def taking(windows: Sequence[Window], cost: int = 1) -> Call:
    """A take of one subject."""
    return Call("take", [Part(windows, cost, 0)])


def giving(windows: Sequence[Window], cost: int, taken_at: int) -> Call:
    """What gives back."""
    return Call("give", [(windows, cost, taken_at)])


def counted(ledger: RedisLedger, *wanted: Window) -> int:
    """What counts in the first of the windows."""
    _, current, previous = ledger.take(wanted or WANTED, 0, 0).counters[0]
    return current + previous


async def together(*asked: Coroutine[Any, Any, Taken]) -> list[Any]:
    """What they answer or raise, asked at once."""
    return list(await asyncio.gather(*asked, return_exceptions=True))


def take_in_loop(ledger: RedisLedger, *wanted: Window) -> Taken:
    """A take in an event loop of its own."""
    return asyncio.run(ledger.take_async(wanted or WANTED, 1, 0))


#: The two ways to ask.
Ask = Callable[[RedisLedger], Taken]
ways = pytest.mark.parametrize(
    "ask", [lambda ledger: ledger.take(WANTED, 1, 0), take_in_loop], ids=["sync", "async"]
)


@pytest.fixture
def ledger(valkey_url: str) -> Iterator[RedisLedger]:
    """A ledger on a real server."""
    opened = RedisLedger(valkey_url)
    yield opened
    opened.close()


@contextlib.contextmanager
def ledger_at(place: Valkey | Proxy, options: str = "") -> Iterator[RedisLedger]:
    """A ledger on the server at a port."""
    opened = RedisLedger(f"redis://127.0.0.1:{place.port}?{options}")
    try:
        yield opened
    finally:
        opened.close()


def prefix_of(url: str) -> str:
    return url.partition("prefix=")[2]


# --- keys -----------------------------------------------------------------------------------------


def test_names_of_keys(ledger: RedisLedger, valkey_server: Valkey, valkey_url: str) -> None:
    """Field 8: keys have the prefix, the subject as hash tag, escaped, and the length."""
    ledger.take([Window("key:a{b}%:60", 60_000, 5, "minute")], 1, 0)
    ledger.take([Window("key:a{b}%:3600", HOUR, 5, "hour")], 1, 0)
    ledger.enlist("worker")
    prefix = prefix_of(valkey_url)
    assert set(valkey_server.run("KEYS", f"{prefix}:*")) == {
        f"{prefix}:{{key:a%7Bb%7D%25}}:60",
        f"{prefix}:{{key:a%7Bb%7D%25}}:3600",
        f"{prefix}:workers",
    }


def test_a_subject_is_in_one_slot() -> None:
    """All windows of a subject are on one node of a Cluster, and subjects spread over them."""

    def slot(key: str) -> int:
        found: int = key_slot(key_of("keyrush", key).encode())
        return found

    for subject in ["key:a", "", "{", "}{", "{}", "a:b", "%"]:
        assert slot(f"{subject}:60") == slot(f"{subject}:3600")
        for group in ["export", "{x}", "}", "", "a:b|c"]:
            assert slot(f"{subject}|{group}:60") == slot(f"{subject}:60")
    assert len({slot(f"key:{number}:60") for number in range(100)}) > 90


def test_every_key_expires(ledger: RedisLedger, valkey_server: Valkey, valkey_url: str) -> None:
    """Field 8: a counter goes when it counts no more, whoever has written it last."""
    taken = ledger.take(WANTED, 3, 0)
    ledger.give_back(WANTED, 1, taken.now)
    ledger.give_back([window("key:added")], -1, taken.now)
    ledger.take([window("key:added")], 0, 0)
    ledger.enlist("worker")
    prefix = prefix_of(valkey_url)
    ends = {key: valkey_server.run("PEXPIRETIME", key) for key in valkey_server.run("KEYS", "*")}
    ends = {key: end for key, end in ends.items() if key.startswith(f"{prefix}:")}
    assert len(ends) == 4
    assert all(end > 0 for end in ends.values())
    for one, (index, *_) in zip(WANTED, taken.counters, strict=True):
        assert abs(ends[key_of(prefix, one.key)] - (index + 2) * one.length) < 1000
    assert valkey_server.run("GET", key_of(prefix, WANTED[0].key)).endswith(":2:0")


def test_prefixes_are_apart(valkey_server: Valkey, valkey_url: str) -> None:
    """Two installations on one server share nothing when their prefixes differ."""
    for number in range(2):
        other = RedisLedger(f"{valkey_url}-{number}")
        assert other.take([window("key:a", 1)], 1, 0).granted == 1
        assert other.enlist("worker").workers == 1
        other.close()


# --- round trips ----------------------------------------------------------------------------------


def test_one_round_trip(valkey_server: Valkey, valkey_url: str) -> None:
    """Field 5: each call is one round trip, whatever it answers."""
    with proxy(valkey_server.port) as way, ledger_at(way, f"prefix={prefix_of(valkey_url)}") as it:
        calls: list[Callable[[], object]] = [
            lambda: it.take(WANTED, 1, 0),
            lambda: it.take(WANTED, 1, 100),
            lambda: it.take(WANTED, 0, 0),
            lambda: it.take(WANTED, 2000, 0),
            lambda: it.give_back(WANTED, 1, 0),
            lambda: it.enlist("worker"),
            lambda: it.changes().publish("acct_a"),
            lambda: it.leave("worker"),
        ]
        for call in calls:  # which also makes the connection and loads the scripts
            call()
        before = way.round_trips
        for call in calls:
            call()
        assert way.round_trips - before == len(calls)


def test_tasks_share_round_trips(valkey_server: Valkey, valkey_url: str) -> None:
    """64 requests that come together are one call; so are those that come while it is under way."""

    async def ask(way: Proxy, it: RedisLedger) -> None:
        await it.take_async(WANTED, 1, 0)
        before = way.round_trips
        subjects = [[window(f"key:{number % 8}", 6)] for number in range(64)]
        answers = await together(*(it.take_async(wanted, 1, 0) for wanted in subjects))
        assert sum(answer.granted for answer in answers) == 48
        assert way.round_trips - before == 1
        first = asyncio.create_task(it.take_async(WANTED, 1, 0))
        for _ in range(3):  # until it has been sent
            await asyncio.sleep(0)
        await together(*(it.take_async(wanted, 1, 0) for wanted in subjects))
        assert (await first).granted == 1
        assert way.round_trips - before == 3

    with proxy(valkey_server.port) as way, ledger_at(way, f"prefix={prefix_of(valkey_url)}") as it:
        asyncio.run(ask(way, it))


def test_threads_share_round_trips(valkey_server: Valkey, valkey_url: str) -> None:
    """Of threads that ask while a call is under way, one calls for all; each gets its answer."""
    with proxy(valkey_server.port) as way, ledger_at(way, f"prefix={prefix_of(valkey_url)}") as it:
        it.take(WANTED, 1, 0)
        before = way.round_trips
        way.delay = 0.03
        barrier = threading.Barrier(16)

        def work(number: int) -> list[tuple[int, int]]:
            barrier.wait()
            wanted = [window(f"key:{number}", 3)]
            taken = [it.take(wanted, 1, 0) for _ in range(5)]
            return [(one.granted, one.counters[0][1]) for one in taken]

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(work, range(16)))
        assert answers == [[(1, 1), (1, 2), (1, 3), (0, 3), (0, 3)]] * 16
        assert way.round_trips - before <= 30  # of 80 requests


def test_a_call_is_not_too_long(valkey_server: Valkey, ledger: RedisLedger) -> None:
    """No call holds the server for more than `TOGETHER` requests."""
    ledger.take(WANTED, 1, 0)
    before = calls_of(valkey_server)
    many = 2 * TOGETHER + 1

    async def ask() -> list[Any]:
        return await together(*(ledger.take_async(WANTED[:1], 1, 0) for _ in range(many)))

    assert sum(answer.granted for answer in asyncio.run(ask())) == many
    assert calls_of(valkey_server) - before == 3
    assert counted(ledger) == 1 + many


def test_many_windows_in_one_call(ledger: RedisLedger) -> None:
    """S19: as many calls as go together take as many windows each as limits can name; no other
    request pays for it.
    """
    many = [Window(f"key:m:{number}", number * 1000, 9, "") for number in range(1, 80)]
    others = [Window(f"key:m|rule:{number}", number * 1000, 2, "") for number in range(1, 3)]
    parts = [(many, 1, 0), (others, 1, 0)]
    answers = ledger._send([Call("take", parts)] * TOGETHER)  # noqa: SLF001  # all at once
    assert [[one.granted for one in answer] for answer in answers] == [[1, 1]] * 2 + [[0, 0]] * (
        TOGETHER - 2
    )
    assert {count[1] for one in answers[-1] for count in one.counters} == {2}


def calls_of(server: Valkey) -> int:
    """How often a server has run a script that it knew."""
    stats = server.run("INFO", "commandstats")
    return int(stats["cmdstat_evalsha"]["calls"])


def test_mixed_in_one_call(ledger: RedisLedger, clock: Callable[[], int]) -> None:
    """Requests of one call see what those before them have done."""
    ledger._clock = clock  # noqa: SLF001  # one instant for all
    wanted = [window("key:a", 5)]
    calls = [
        taking(wanted, 5),
        taking(wanted),
        giving(wanted, 2, clock()),
        taking([]),
        taking([window("key:b", 5), *wanted]),
        giving([window("key:c")], -3, clock()),
        taking([window("key:c")], 0),
    ]
    answers = [taken for its in ledger._send(calls) for taken in its]  # noqa: SLF001  # threads would come in any order
    assert [answer.granted for answer in answers] == [5, 0, 0, 1, 0]
    assert [counter[1] for answer in answers for counter in answer.counters] == [5, 5, 1, 4, 3]


# --- errors ---------------------------------------------------------------------------------------


@ways
def test_script_cache_is_lost(ledger: RedisLedger, valkey_server: Valkey, ask: Ask) -> None:
    """Field 7: NOSCRIPT is no outage; the take is executed once."""
    for _ in range(2):
        valkey_server.run("SCRIPT", "FLUSH")
        assert ask(ledger).granted == 1
        assert ledger.enlist("worker").workers == 1
    assert counted(ledger) == 2


@ways
def test_restart(own_valkey: Valkey, ask: Ask) -> None:
    """A server that comes back without scripts, keys and connections is used as it is."""
    with ledger_at(own_valkey) as it:
        assert ask(it).granted == 1
        own_valkey.kill()
        with pytest.raises(LimiterError, match="ConnectionError"):
            ask(it)
        own_valkey.restart()
        assert ask(it).granted == 1
        assert counted(it) == 1


def test_restart_under_an_open_loop(own_valkey: Valkey) -> None:
    """A connection that has been closed meanwhile is noticed before anything is sent."""

    async def ask() -> None:
        assert (await it.take_async(WANTED, 1, 0)).granted == 1
        await asyncio.to_thread(own_valkey.restart)
        assert (await it.take_async(WANTED, 1, 0)).granted == 1

    with ledger_at(own_valkey) as it:
        asyncio.run(ask())
        assert counted(it) == 1


@ways
def test_replica_behind_the_address(own_valkey: Valkey, ask: Ask) -> None:
    """A server that has become a replica does not write: whoever is behind its address now does."""
    with running() as other, proxy(own_valkey.port) as way, ledger_at(way) as it:
        assert ask(it).granted == 1
        own_valkey.run("REPLICAOF", "127.0.0.1", other.port)
        with pytest.raises(LimiterError, match="replica"):
            ask(it)
        way.target = other.port
        until(lambda: other.run("ROLE")[2])  # the replica has come
        assert ask(it).granted == 1
        assert counted(it) == 1


def test_replica_under_an_open_loop(own_valkey: Valkey) -> None:
    """The same with a connection that is open already."""

    async def ask(way: Proxy, it: RedisLedger, other: Valkey) -> None:
        assert (await it.take_async(WANTED, 1, 0)).granted == 1
        await asyncio.to_thread(own_valkey.run, "REPLICAOF", "127.0.0.1", other.port)
        way.target = other.port
        assert (await it.take_async(WANTED, 1, 0)).granted == 1

    with running() as other, proxy(own_valkey.port) as way, ledger_at(way) as it:
        asyncio.run(ask(way, it, other))
        assert counted(it) == 1


def test_sentinel_failover(watched: Watched) -> None:
    """The ledger goes where the Sentinel says that the master is, and counts go on."""
    ledger = RedisLedger(watched.url)
    changes = ledger.changes()

    async def ask() -> None:
        assert (await ledger.take_async(WANTED, 1, 0)).granted == 1
        await asyncio.to_thread(watched.fail_over)
        assert (await ledger.take_async(WANTED, 1, 0)).granted == 1

    assert ledger.take(WANTED, 1, 0).granted == 1
    assert changes.poll() is None
    before = watched.master()
    asyncio.run(ask())
    assert watched.master() is not before
    assert ledger.take(WANTED, 1, 0).granted == 1
    assert counted(ledger) == 4
    with pytest.raises(LimiterError):
        changes.poll()
    assert changes.poll() is None
    ledger.changes().publish("acct_a")
    assert until(changes.poll) == ("acct_a",)
    changes.close()
    ledger.close()


@ways
def test_a_sentinel_that_is_frozen(watched: Watched, ask: Ask) -> None:
    """S19: where one Sentinel takes connections and answers nothing, the next one is asked."""
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        port = frozen.getsockname()[1]
        places = f"127.0.0.1:{port},127.0.0.1:{watched.sentinel.port}"
        ledger = RedisLedger(f"redis+sentinel://{places}/mymaster?socket_timeout=0.2")
        assert ask(ledger).granted == 1
        ledger.close()


@ways
def test_frozen_server(own_valkey: Valkey, ask: Ask) -> None:
    """No answer within the timeout is an error, and nothing is asked again by itself."""
    with ledger_at(own_valkey, "socket_timeout=0.5") as it:
        assert ask(it).granted == 1
        own_valkey.freeze()
        assert isinstance(outcome(lambda: ask(it)), LimiterError)
        own_valkey.thaw()
        assert ask(it).granted == 1
        assert counted(it) in (2, 3)  # what it was asked while it was frozen may have its effect


def test_all_threads_get_the_same_silence() -> None:
    """Threads that wait for a call that gets no answer don't each wait for one of their own."""
    sent = []

    def send(calls: object) -> list[list[Taken]]:
        sent.append(calls)
        until(lambda: len(threads._waiting) == 7)  # noqa: SLF001  # nothing else shows it
        raise NoReply("nothing was heard")

    threads: ThreadBatches[Call, list[Taken]] = ThreadBatches(send, TOGETHER)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(threads.ask, taking(WANTED)) for _ in range(8)]
        assert [str(one.exception(30)) for one in asked] == ["nothing was heard"] * 8
    assert len(sent) == 1


def test_all_tasks_get_the_same_silence(own_valkey: Valkey) -> None:
    """So it is with tasks, of which more wait than go in one call."""

    async def ask(way: Proxy, it: RedisLedger) -> None:
        await it.take_async(WANTED, 1, 0)
        way.freeze()
        answers = await together(*(it.take_async(WANTED, 1, 0) for _ in range(3 * TOGETHER)))
        assert all(isinstance(answer, LimiterError) for answer in answers)
        way.thaw()
        assert (await it.take_async(WANTED, 1, 0)).granted == 1
        assert way.connections == 2  # no third or fourth was tried

    with proxy(own_valkey.port) as way, ledger_at(way, "socket_timeout=0.1") as it:
        asyncio.run(ask(way, it))


class _Stub(socketserver.ThreadingTCPServer):
    """A server that answers every command with one line, or with None ends the connection."""

    daemon_threads = True

    def __init__(self, line: bytes | None) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.line = line
        self.port: int = self.server_address[1]
        self.commands: list[bytes] = []


class _Answer(socketserver.StreamRequestHandler):
    server: _Stub

    def handle(self) -> None:
        while head := self.rfile.readline():
            words = []
            for _ in range(int(head[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2])
            if words[0] == b"CLIENT":
                self.wfile.write(b"+OK\r\n")
                continue
            self.server.commands.append(words[0])
            if self.server.line is None:
                return
            self.wfile.write(self.server.line + b"\r\n")


@contextlib.contextmanager
def stub(line: bytes | None) -> Iterator[_Stub]:
    with _Stub(line) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@ways
@pytest.mark.parametrize(
    "line",
    [
        b"-LOADING Redis is loading the dataset in memory",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        b"-CLUSTERDOWN The cluster is down",
        b"-OOM command not allowed when used memory > 'maxmemory'.",
        b"-BUSY Redis is busy running a script.",
        None,
    ],
)
def test_what_may_have_had_its_effect_is_not_sent_again(ask: Ask, line: bytes | None) -> None:
    """Field 7: a server that can't answer, or that goes in the middle, is asked once."""
    with stub(line) as server:
        ledger = RedisLedger(f"redis://127.0.0.1:{server.port}")
        with pytest.raises(LimiterError):
            ask(ledger)
        ledger.close()
        assert server.commands == [b"EVALSHA"]


@ways
def test_older_servers_say_otherwise_that_they_are_replicas(ask: Ask) -> None:
    """Redis 6 wraps what fails within a script; it is sent once more all the same."""
    line = b"-ERR Error running script (call to f_0): @user_script:1: -READONLY You can't write"
    with stub(line) as server:
        ledger = RedisLedger(f"redis://127.0.0.1:{server.port}")
        with pytest.raises(LimiterError):
            ask(ledger)
        ledger.close()
        assert server.commands == [b"EVALSHA", b"EVAL"]


def test_a_thread_that_gives_up_waiting(ledger: RedisLedger) -> None:
    """Ctrl-C in a thread that waits for its turn does not keep the others from theirs."""
    called, go_on = threading.Event(), threading.Event()

    def send(calls: object) -> list[list[Taken]]:
        called.set()
        assert go_on.wait(30)
        return ledger._send(calls)  # type: ignore[arg-type]  # noqa: SLF001  # that of a ledger

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupt_when_it_waits() -> None:
        until(lambda: threads._waiting)  # noqa: SLF001  # nothing else shows it
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    threads: ThreadBatches[Call, list[Taken]] = ThreadBatches(send, TOGETHER)
    call = taking(WANTED)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with ThreadPoolExecutor(2) as pool:
            leader = pool.submit(threads.ask, call)
            assert called.wait(30)
            pool.submit(interrupt_when_it_waits)
            with pytest.raises(KeyboardInterrupt):
                threads.ask(call)
            go_on.set()
            assert leader.result(30)[0].granted == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert threads.ask(call)[0].granted == 1
    assert counted(ledger) == 2


def test_a_call_that_is_broken_off(ledger: RedisLedger) -> None:
    """Ctrl-C in the thread that calls is an error to those for whom it called."""
    errors = iter([KeyboardInterrupt, None])

    def send(calls: object) -> list[list[Taken]]:
        if error := next(errors, None):
            raise error
        return ledger._send(calls)  # type: ignore[arg-type]  # noqa: SLF001  # that of a ledger

    threads: ThreadBatches[Call, list[Taken]] = ThreadBatches(send, TOGETHER)
    with pytest.raises(KeyboardInterrupt):
        threads.ask(taking(WANTED))
    assert threads.ask(taking(WANTED))[0].granted == 1


# --- tasks and loops ------------------------------------------------------------------------------


def test_cancelled_while_under_way(valkey_server: Valkey, valkey_url: str) -> None:
    """S35: what is granted to a task that no longer waits is given back; others keep theirs."""

    async def ask(way: Proxy, it: RedisLedger) -> None:
        await it.take_async(WANTED, 1, 0)
        way.freeze()
        tasks = [asyncio.create_task(it.take_async(WANTED, 1, 0)) for _ in range(10)]
        for _ in range(3):  # until they have been sent
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        way.thaw()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(answer, asyncio.CancelledError) for answer in answers[::2]] == [True] * 5
        assert [answer.granted for answer in answers[1::2] if isinstance(answer, Taken)] == [1] * 5
        await asyncio.to_thread(until, lambda: counted(it) == 6)

    with proxy(valkey_server.port) as way, ledger_at(way, f"prefix={prefix_of(valkey_url)}") as it:
        asyncio.run(ask(way, it))


def test_cancelled_before_it_is_sent(ledger: RedisLedger, valkey_server: Valkey) -> None:
    """A request that is cancelled in time is not sent."""

    async def ask() -> None:
        await ledger.take_async(WANTED, 1, 0)
        before = calls_of(valkey_server)
        task = asyncio.create_task(ledger.take_async(WANTED, 1, 0))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert calls_of(valkey_server) == before

    asyncio.run(ask())
    assert counted(ledger) == 1


def test_cancelled_when_answered(ledger: RedisLedger) -> None:
    """A task that is cancelled after its answer has come, but before it runs again, gives back."""

    async def ask() -> None:
        async def kill() -> None:
            await ledger.take_async(WANTED, 1, 0)
            victim.cancel()  # which was answered by the same call, and is to run next

        killer = asyncio.create_task(kill())
        victim = asyncio.create_task(ledger.take_async(WANTED, 1, 0))
        with pytest.raises(asyncio.CancelledError):
            await victim
        await killer
        await asyncio.to_thread(until, lambda: counted(ledger) == 1)

    asyncio.run(ask())


def connections(server: Valkey, kind: str = "normal") -> int:
    """How many there are to a server, that of this look not among them."""
    clients = server.run("CLIENT", "LIST", "TYPE", kind)
    return len(clients.splitlines()) - (kind == "normal")


def test_loops_come_and_go(own_valkey: Valkey) -> None:
    """Each event loop has connections of its own, which are closed when it ends."""
    with ledger_at(own_valkey) as it:
        assert [take_in_loop(it).granted for _ in range(3)] == [1, 1, 1]
        with ThreadPoolExecutor(4) as pool:
            taken = list(pool.map(lambda _: take_in_loop(it).granted, range(20)))
        assert taken == [1] * 20
        until(lambda: connections(own_valkey) == 0)
        gc.collect()  # what is not closed would warn now
        assert counted(it) == 23


def test_a_loop_that_ends_without_a_word(own_valkey: Valkey) -> None:
    """A loop that is closed as it is does not keep another from its place."""
    with ledger_at(own_valkey) as it:
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(it.take_async(WANTED, 1, 0)).granted == 1
        it.close()  # comes to the loop when it runs again
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        assert take_in_loop(it).granted == 1
        until(lambda: connections(own_valkey) == 0)


def test_closed_under_an_open_loop(own_valkey: Valkey) -> None:
    """`close` closes the connections of loops that go on, too; they may use it again."""

    async def ask(it: RedisLedger) -> None:
        for _ in range(2):
            under_way = [asyncio.create_task(it.take_async(WANTED, 1, 0)) for _ in range(5)]
            await asyncio.sleep(0)
            await asyncio.to_thread(it.close)
            assert [(await one).granted for one in under_way] == [1] * 5
            await asyncio.to_thread(until, lambda: connections(own_valkey) == 0)

    with ledger_at(own_valkey) as it:
        asyncio.run(ask(it))
        assert counted(it) == 10


def test_nothing_is_opened_before_the_first_call() -> None:
    """Whoever makes a ledger, as before a fork, connects to nothing."""
    with stub(None) as server:
        for scheme in ("redis", "redis+cluster"):
            ledger = RedisLedger(f"{scheme}://127.0.0.1:{server.port}")
            ledger.changes().close()
            ledger.close()
        assert server.commands == []


def test_fork(own_valkey: Valkey) -> None:
    """A child uses no connection of its parent's, and the parent goes on with its own."""
    out = run(
        """
        import asyncio, os, sys
        from keyrush.limiter.ledgers.redis.ledger import RedisLedger
        from keyrush.core.sliding import Window

        ledger = RedisLedger(sys.argv[1])
        wanted = [Window("key:a:2592000", 2_592_000_000, 1000, "month")]
        changes = ledger.changes()
        assert changes.poll() is None and changes.poll() == ()

        def take():
            return ledger.take(wanted, 1, 0).granted

        take()
        loop = asyncio.new_event_loop()
        loop.run_until_complete(ledger.take_async(wanted, 1, 0))
        child = os.fork()
        if not child:
            assert changes.poll() is None and changes.poll() == ()
            count = sum(take() for _ in range(3))
            count += asyncio.run(ledger.take_async(wanted, 1, 0)).granted
            ledger.close()
            os._exit(count - 4)
        assert os.waitpid(child, 0)[1] == 0
        ledger.changes().publish("acct_a")
        while not (changed := changes.poll()):
            assert changed == ()
        take()
        loop.run_until_complete(ledger.take_async(wanted, 1, 0))
        print(changed, ledger.take(wanted, 0, 0).counters[0][1])
        changes.close()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        ledger.close()
        """,
        own_valkey.url,
    )
    assert out == "('acct_a',) 8\n"


def test_fork_during_a_call(own_valkey: Valkey) -> None:
    """A child does not wait for a call that a thread of its parent's has under way."""
    out = run(
        """
        import os, signal, sys, threading
        from keyrush.limiter.ledgers.redis.ledger import RedisLedger
        from keyrush.core.sliding import Window

        ledger = RedisLedger(sys.argv[1] + "?socket_timeout=20")
        wanted = [Window("key:a:2592000", 2_592_000_000, 1000, "month")]
        ledger.take(wanted, 1, 0)
        os.kill(int(sys.argv[2]), signal.SIGSTOP)
        thread = threading.Thread(target=ledger.take, args=(wanted, 1, 0))
        thread.start()
        while not ledger._threads[0]._is_busy:
            pass
        child = os.fork()
        if not child:
            os.kill(int(sys.argv[2]), signal.SIGCONT)
            os._exit(ledger.take(wanted, 1, 0).granted - 1)
        assert os.waitpid(child, 0)[1] == 0
        thread.join()
        print(ledger.take(wanted, 0, 0).counters[0][1])
        ledger.close()
        """,
        own_valkey.url,
        str(own_valkey.pid),
    )
    assert out == "3\n"


# --- Cluster and other places ---------------------------------------------------------------------


def test_cluster(cluster_url: str) -> None:
    """Subjects on all nodes are counted, by tasks and threads at once; news reaches everyone."""
    ledger, other = RedisLedger(cluster_url), RedisLedger(cluster_url)
    subjects = [[window(f"key:{number}", 3)] for number in range(40)]

    async def ask() -> list[Any]:
        return await together(*(ledger.take_async(subjects[n % 40], 1, 0) for n in range(160)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda wanted: other.take(wanted, 1, 0), subjects))
    assert sum(answer.granted for answer in asyncio.run(ask())) == 80
    assert [counted(other, *wanted) for wanted in subjects] == [3] * 40
    changes = other.changes()
    assert changes.poll() is None
    ledger.changes().publish("acct_a")
    assert until(changes.poll) == ("acct_a",)
    for one in (changes, ledger, other):
        one.close()


@contextlib.contextmanager
def moved(nodes: list[Valkey], key: str) -> Iterator[None]:
    """The slot of a key moves to another node of the Cluster, and then back, empty."""
    slot = key_slot(key.encode())
    owner, other = nodes[slot * len(nodes) // 16384], nodes[slot * len(nodes) // 16384 - 1]
    give(nodes, slot, owner, other)
    yield
    other.run("DEL", key)
    give(nodes, slot, other, owner)


def give(nodes: list[Valkey], slot: int, giver: Valkey, taker: Valkey) -> None:
    name = taker.run("CLUSTER", "MYID")
    for node in (taker, giver, *nodes):
        node.run("CLUSTER", "SETSLOT", slot, "NODE", name)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_slot_moves(valkey_cluster: list[Valkey], cluster_url: str, *, is_async: bool) -> None:
    """A request that comes to the wrong node of a Cluster is led to the right one, once."""
    ledger, prefix = RedisLedger(cluster_url), prefix_of(cluster_url)
    wanted = window(f"key:{prefix}")  # with no other test's keys in its slot

    def ask() -> Taken:
        return take_in_loop(ledger, wanted) if is_async else ledger.take([wanted], 1, 0)

    ledger.take([window("key:other")], 1, 0)
    with moved(valkey_cluster, key_of(prefix, wanted.key)):
        assert [ask().granted, ask().granted] == [1, 1]
        assert counted(ledger, wanted) == 2
    assert ask().granted == 1
    assert counted(ledger, wanted) == 1
    ledger.close()


class Apart:
    """Subjects of a test's own, the second on another node of a Cluster than the first."""

    def __init__(self, nodes: list[Valkey], url: str, options: str = "") -> None:
        self.ledger = RedisLedger(url + options)
        prefix = prefix_of(url)
        names = (f"address:{prefix}:{number}" for number in itertools.count())
        here = nodes[0]
        self.first, self.second = (
            next(name for name in names if (self.node(nodes, prefix, name) is here) is is_here)
            for is_here in (True, False)
        )
        self.other = self.node(nodes, prefix, self.second)
        self.parts = [Part([window(self.first, 5)], 1, 0), Part([window(self.second, 2)], 1, 0)]

    def node(self, nodes: list[Valkey], prefix: str, subject: str) -> Valkey:
        """Where a subject is."""
        slot = key_slot(key_of(prefix, window(subject).key).encode())
        return nodes[slot * len(nodes) // 16384]

    def counts(self) -> list[int]:
        """What counts of each."""
        return [counted(self.ledger, *part.windows) for part in self.parts]

    async def take(self, *, is_async: bool) -> list[int]:
        """What each is granted, on the event loop or in a thread."""
        if is_async:
            taken = await self.ledger.take_together_async(self.parts)
        else:
            taken = await asyncio.to_thread(self.ledger.take_together, self.parts)
        return [one.granted for one in taken]

    async def are(self, *counts: int) -> None:
        """Wait until so much counts of each."""
        await asyncio.to_thread(until, lambda: self.counts() == [*counts])


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_subjects_on_several_nodes(
    valkey_cluster: list[Valkey], cluster_url: str, *, is_async: bool
) -> None:
    """S35: in a Cluster each slot is asked; what one refuses, the others have again."""
    apart = Apart(valkey_cluster, cluster_url)

    async def ask() -> None:
        for granted in ([1, 1], [1, 1], [0, 0]):
            assert await apart.take(is_async=is_async) == granted
        await apart.are(2, 2)

    asyncio.run(ask())
    refused = apart.ledger.take_together(apart.parts[::-1])
    assert [one.granted for one in refused] == [0, 0]
    assert [one.counters[0][1] + one.counters[0][2] for one in refused] == [2, 2]
    assert apart.counts() == [2, 2]
    apart.ledger.close()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_answer_of_several_nodes_that_is_lost(
    valkey_cluster: list[Valkey], cluster_url: str, *, is_async: bool
) -> None:
    """Outages: where one node does not answer, the other has back what it granted; what the silent
    one may have granted stays counted.
    """
    apart = Apart(valkey_cluster, cluster_url)
    first, second = (part.windows for part in apart.parts)

    async def ask() -> None:
        assert await apart.take(is_async=is_async) == [1, 1]
        assert apart.counts() == [1, 1]
        apart.other.freeze()
        try:
            with pytest.raises(LimiterError):
                await apart.take(is_async=is_async)
            await asyncio.to_thread(until, lambda: counted(apart.ledger, *first) == 1)
        finally:
            apart.other.thaw()

    asyncio.run(ask())
    assert counted(apart.ledger, *second) in (1, 2)
    apart.ledger.close()


def test_a_cancelled_take_of_several_nodes(valkey_cluster: list[Valkey], cluster_url: str) -> None:
    """S35: a task that is cancelled when one node has answered and another not consumes nothing."""
    apart = Apart(valkey_cluster, cluster_url, "&socket_timeout=60")

    async def ask() -> None:
        await apart.ledger.take_together_async(apart.parts)
        assert apart.counts() == [1, 1]
        apart.other.freeze()
        try:
            task = asyncio.create_task(apart.ledger.take_together_async(apart.parts))
            first = apart.parts[0].windows
            await asyncio.to_thread(until, lambda: counted(apart.ledger, *first) == 2)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        finally:
            apart.other.thaw()
        await apart.are(1, 1)

    asyncio.run(ask())
    apart.ledger.close()


@ways
@pytest.mark.parametrize("scheme", ["unix", "redis+unix", "valkey+unix"])
def test_unix_socket(scheme: str, ask: Ask) -> None:
    """A server may be reached by a socket of this machine."""
    with TemporaryDirectory(prefix="keyrush-") as folder:
        path = f"{folder}/socket"
        with running("--unixsocket", path):
            ledger = RedisLedger(f"{scheme}://{path}")
            assert ask(ledger).granted == 1
            ledger.close()


@ways
def test_password(own_valkey: Valkey, ask: Ask) -> None:
    """O22: a server gets the password, and whoever reads of a failure does not."""
    own_valkey.run("ACL", "SETUSER", "keyrush", "on", ">hunter:2@/", "~*", "&*", "+@all")
    for credentials in ("keyrush:hunter%3A2%40%2F@", "keyrush:hunter@"):
        ledger = RedisLedger(f"redis://{credentials}127.0.0.1:{own_valkey.port}")
        if credentials.endswith("2F@"):
            assert ask(ledger).granted == 1
        else:
            with pytest.raises(LimiterError, match="AuthenticationError") as caught:
                ask(ledger)
            assert "hunter" not in "".join(traceback.format_exception(caught.value))
        assert "hunter" not in repr(ledger) + repr(vars(ledger))
        ledger.close()


@ways
def test_password_in_an_answer(ask: Ask) -> None:
    """O22: a server that does not know AUTH shows what it was sent; nobody sees it here."""
    line = b"-ERR unknown command 'AUTH', with args beginning with: 'default' 'hunter2'"
    with stub(line) as server:
        ledger = RedisLedger(f"redis://:hunter2@127.0.0.1:{server.port}")
        with pytest.raises(LimiterError, match="unknown command") as caught:
            ask(ledger)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
        ledger.close()


# --- news -----------------------------------------------------------------------------------------


def test_news(ledger: RedisLedger, valkey_url: str) -> None:
    """At first anything may have changed; then what is published, by whatever process, once."""
    changes, other = ledger.changes(), RedisLedger(valkey_url)
    assert [changes.poll() for _ in range(3)] == [None, (), ()]
    for account_id in ("acct_a", "acct_b", "acct_a", "acct_last"):
        other.changes().publish(account_id)
    heard: list[str] = []
    while "acct_last" not in heard:  # which comes after all others, in however many portions
        heard += until(changes.poll)
    assert set(heard) == {"acct_a", "acct_b", "acct_last"}
    assert changes.poll() == ()
    stranger = RedisLedger(f"{valkey_url}-other")
    stranger.changes().publish("acct_c")
    other.changes().publish("acct_d")
    assert until(changes.poll) == ("acct_d",)
    changes.close()
    assert changes.poll() is None  # who knows what has been missed
    for one in (changes, other, stranger):
        one.close()


def test_news_outlive_their_ledger_s_connections(ledger: RedisLedger) -> None:
    """What a ledger closes is not what its news are heard on."""
    changes = ledger.changes()
    assert changes.poll() is None
    ledger.close()
    assert changes.poll() == ()
    ledger.changes().publish("acct_a")
    assert until(changes.poll) == ("acct_a",)
    changes.close()


def test_news_are_cut(own_valkey: Valkey) -> None:
    """A connection that ends is an error once; then anything may have changed."""
    with proxy(own_valkey.port) as way, ledger_at(way) as it:
        changes = it.changes()
        assert changes.poll() is None
        way.cut()
        error = until(lambda: next(iter(failures(changes)), None))
        assert isinstance(error, LimiterError)
        it.changes().publish("acct_a")  # which can't be heard
        assert changes.poll() is None
        it.changes().publish("acct_b")
        assert until(changes.poll) == ("acct_b",)
        changes.close()


def failures(changes: RedisChanges) -> list[Exception]:
    """What a poll raises, if it does."""
    try:
        assert changes.poll() == ()
    except LimiterError as error:
        return [error]
    return []


def test_news_from_a_silent_server(own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing is asked whether it is there, so that no news is missed long."""
    monkeypatch.setattr("keyrush.limiter.ledgers.redis.changes.SILENCE", 0.0)
    with ledger_at(own_valkey, "socket_timeout=0.1") as it:
        changes = it.changes()
        assert [changes.poll() for _ in range(3)] == [None, (), ()]
        it.changes().publish("acct_a")
        assert changes.poll() == ("acct_a",)  # asked last, so that nothing is under way any more
        own_valkey.freeze()
        assert isinstance(outcome(changes.poll), LimiterError)
        assert isinstance(outcome(changes.poll), LimiterError)
        own_valkey.thaw()
        assert changes.poll() is None
        assert changes.poll() == ()
        own_valkey.kill()
        assert isinstance(outcome(changes.poll), LimiterError)
        own_valkey.restart()
        assert changes.poll() is None
        changes.close()


# --- URLs -----------------------------------------------------------------------------------------


def test_plain_urls() -> None:
    """`redis://` is as redis-py reads it; short timeouts stand where it names none."""
    server = parse("rediss://me:a%40b@host:1/2?socket_timeout=3&ssl_cert_reqs=none&prefix=mine")
    assert (server.kind, server.tls, server.prefix) == ("", True, "mine")
    assert server.options == {
        "host": "host",
        "port": 1,
        "db": 2,
        "username": "me",
        "password": "a@b",
        "socket_timeout": 3.0,
        "socket_connect_timeout": PATIENCE,
        "protocol": 2,
        "ssl_cert_reqs": "none",
    }
    server = parse("redis://")
    assert [server.options[name] for name in ("host", "port")] == ["localhost", 6379]
    assert (server.options["socket_timeout"], server.prefix) == (PATIENCE, "keyrush")


@pytest.mark.parametrize("base", ["redis", "valkey"])
def test_schemes_of_valkey(base: str) -> None:
    """`valkey` says the same as `redis`, with an s in the end for TLS."""
    tls = "rediss" if base == "redis" else "valkeys"
    assert (parse(f"{base}://host").kind, parse(f"{base}://host").tls) == ("", False)
    assert parse(f"{tls}://host").tls
    assert parse(f"{base}+sentinel://host/service").kind == "sentinel"
    assert parse(f"{tls}+cluster://host").tls


def test_sentinel_urls() -> None:
    """As the `limits` library writes them: credentials are for the Sentinels, too."""
    server = parse("redis+sentinel://:pw@one:1,two/service/3?socket_timeout=2&client_name=x")
    assert (server.places, server.service) == ([("one", 1), ("two", 26379)], "service")
    assert (server.options["db"], server.options["password"]) == (3, "pw")
    assert "client_name" not in server.sentinel_options
    assert [server.sentinel_options[name] for name in ("password", "socket_timeout")] == ["pw", 2]
    server = parse("redis+sentinel://:pw@one/service?sentinel_username=s&sentinel_password=t")
    assert [server.sentinel_options[name] for name in ("username", "password")] == ["s", "t"]
    server = parse("redis+sentinel://one/service?password=pw")
    assert (server.options["password"], server.sentinel_options["password"]) == ("pw", None)


def test_cluster_urls() -> None:
    """As the `limits` library writes them."""
    server = parse("redis+cluster://:pw@one:1,[::1]:2,three?max_connections=7")
    assert server.places == [("one", 1), ("::1", 2), ("three", 6379)]
    assert (server.options["password"], server.options["max_connections"]) == ("pw", 7)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host:port",
        "redis://:hunter2@host:99999",
        "redis://:hunter2@[::1",
        "redis://:hunter2@host/zero",
        "redis://:hunter2@one,two",
        "redis://:hunter2@host?colour=red",
        "redis://:hunter2@host?socket_timeout=soon",
        "redis://:hunter2@host?retry_on_timeout=yes",
        "redis://:hunter2@host?decode_responses=yes",
        "redis://:hunter2@host?protocol=3",
        "redis://:hun#ter2@host",
        "redis://:hun?ter2@host",
        "redis://:hun/ter2@host",
        "redis://:hun?colour=ter2@host",
        "rediss://:hunter2@host?ssl_cert_reqs=perhaps",
        "rediss+unix:///hunter2",
        "redis+unix://hunter2",
        "redis+unix://host/hunter2",
        "redis+sentinel://:hunter2@host",
        "redis+sentinel://:hunter2@host/service/zero",
        "redis+cluster://:hunter2@host/1",
        "redis+cluster://:hunter2@host?db=1",
        "redis+cluster://:hunter2@host?colour=red",
        "redis+carrier-pigeon://:hunter2@host",
        "redis:hunter2",
        "",
    ],
)
def test_bad_urls(url: str) -> None:
    """Field 6, O22: what is no server is refused at start-up; the message shows no password."""
    with pytest.raises(ConfigurationError, match="KEYRUSH_LIMITER_URL") as caught:
        RedisLedger(url)
    shown = "".join(traceback.format_exception(caught.value))
    for part in ("hunter2", "ter2", "hun#", "hun?", "hun/"):
        assert part not in shown.replace(f'"{url}"', "")


def test_without_the_module() -> None:
    """Whoever lacks the module `redis` hears how to get it."""
    out = run_anew(
        """
        import sys
        from keyrush.errors import ConfigurationError

        sys.modules["redis"] = None
        try:
            import keyrush.limiter.ledgers.redis.ledger
        except ConfigurationError as error:
            print(error)
        """
    )
    assert out == (
        "KEYRUSH_LIMITER_URL: redis:// needs the module 'redis'; pip install 'keyrush[redis]'\n"
    )
