"""What a fleet of keys costs where windows are on a server: messages, shared by requests under way
together, and no thread beside the event loop.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from keyrush import Gate, KeyrushMiddleware
from keyrush.core.sliding import Demand, Tally, Window
from keyrush.errors import LimiterError, StoreError
from keyrush.limiter.ledgers import postgresql_calls
from keyrush.limiter.ledgers.calls import Call
from keyrush.limiter.ledgers.postgresql import PostgresqlLedger
from keyrush.limiter.ledgers.postgresql_calls import TOGETHER
from keyrush.limiter.opening import open_limiter
from keyrush.limiter.protocol import AwaitedLimiter, Mode
from keyrush.sql import patience
from keyrush.sql.engine import AT_ONCE, Database
from tests.conftest import settings, still
from tests.support.faults import Proxy, cut, until

MINUTE = 60_000
MONTH = 31 * 24 * 60 * MINUTE


def window(number: int, amount: int = 100) -> Window:
    """The window of a key of a fleet."""
    return Window(f"key:{number}:60", MINUTE, amount, "minute")


class Server(NamedTuple):
    """Where windows are."""

    limiter_url: str
    store_url: str


@pytest.fixture(params=["postgresql", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Server:
    """PostgreSQL, and a server like Redis with the store in a file."""
    if request.param == "valkey":
        return Server(request.getfixturevalue("valkey_url"), f"sqlite:///{tmp_path}/keyrush.db")
    return Server("store", request.getfixturevalue("postgres_url"))


class Counted:
    """A limiter over a server, and how many messages it has sent."""

    def __init__(self, server: Server, mode: Mode) -> None:
        self.database = Database(server.store_url)
        opened = open_limiter(server.limiter_url, self.database, mode=mode)
        assert opened.awaited is not None
        self.limiter: AwaitedLimiter = opened.awaited
        ledger: Any = opened.ledger
        self.ledger = ledger
        self.messages = 0
        self._message = ledger.message
        ledger.message = self._counted

    def _counted(self, calls: Sequence[Any]) -> Any:
        self.messages += 1
        return self._message(calls)

    def close(self) -> None:
        """Close what was opened."""
        self.limiter.close()
        self.database.close()

    async def take(self, *wanted: Window) -> Tally:
        """A take of one."""
        tally = await self.limiter.take_async(list(wanted), 1, 0)
        assert tally is not None
        return tally


@pytest.fixture(params=["leased", "exact"])
def counted(server: Server, request: pytest.FixtureRequest) -> Iterator[Counted]:
    """A limiter of either mode."""
    made = Counted(server, request.param)
    yield made
    made.close()


def test_requests_under_way_share_a_trip(counted: Counted) -> None:
    """Requests of many keys that come together are one message, and one of the same key, too."""

    async def ask() -> None:
        await counted.take(window(0))  # opens the connection
        for keys in (range(1, 31), [0] * 30):
            before = counted.messages
            tallies = await asyncio.gather(*(counted.take(window(key)) for key in keys))
            assert all(tally.admitted for tally in tallies)
            assert counted.messages - before == 1
        assert (await counted.take(window(0))).remaining == 100 - 32

    asyncio.run(ask())


def test_the_limit_is_kept_by_those_who_share(counted: Counted) -> None:
    """S35: of more requests than a limit allows, which share trips, exactly so many pass."""

    async def ask() -> int:
        wanted = [window(1, 150), window(2, 170)]
        tallies = await asyncio.gather(*(counted.take(*wanted) for _ in range(250)))
        return sum(tally.admitted for tally in tallies)

    assert asyncio.run(ask()) == 150


def of_a_rule(key: int, cost: int = 1) -> list[Demand]:
    """What a request takes of its key's plan, of a rule for the key, and of its address, by windows
    that no test sees turn.
    """
    names = [f"key:{key}", f"key:{key}|export", "address:2001:db8::"]
    plan, rule, address = ([Window(f"{name}:2678400", MONTH, 2_000_000, "month")] for name in names)
    return [Demand(plan, 1), Demand(rule, cost), Demand(address, 1)]


def test_windows_of_rules_are_one_trip(counted: Counted) -> None:
    """What a request takes of several subjects is one message, by a task or a thread, also where
    it is refused; and requests that come together are one.
    """
    limiter = counted.limiter

    async def ask() -> None:
        await counted.take(window(0))  # opens the connection
        counted.messages = 0
        tally = await limiter.take_together_async(of_a_rule(1), 0)
        assert tally
        assert tally.admitted
        assert counted.messages == 1
        asked = (limiter.take_together_async(of_a_rule(key), 0) for key in range(2, 22))
        assert all(tally and tally.admitted for tally in await asyncio.gather(*asked))
        assert counted.messages == 2

    asyncio.run(ask())
    assert limiter.take_together(of_a_rule(30, 2), 0).admitted
    assert counted.messages == 3
    assert not limiter.take_together(of_a_rule(31, 2_000_001), 0).admitted
    assert counted.messages == 4


def test_windows_of_rules_cost_no_trip_when_warm(server: Server) -> None:
    """Once leases have units, plan and rule windows together ask for nothing, admitted or refused;
    where one of them has none, one message asks for that alone.
    """
    counted = Counted(server, "leased")
    limiter = counted.limiter
    for _ in range(8):  # each asks for twice the block of the one before
        for demand in of_a_rule(1):
            limiter.take(demand.windows, 1000, 0)
    asked = counted.messages
    for _ in range(20):
        tally = limiter.take_together_at_once(of_a_rule(1, 3), 0)
        assert tally
        assert tally.admitted
    assert counted.messages == asked
    plan, _, address = of_a_rule(1)
    full = Demand([Window("key:1|tool:2678400", MONTH, 0, "month")], 1)
    assert not limiter.take_together([plan, full, address], 0).admitted
    assert counted.messages == asked + 1
    for _ in range(20):
        refused = limiter.take_together_at_once([plan, full, address], 0)
        assert refused
        assert not refused.admitted
    assert counted.messages == asked + 1
    counted.close()


def test_threads_share_trips(counted: Counted) -> None:
    """So do threads: those that wait while one is asking go together with the next."""
    counted.limiter.take([window(0)], 1, 0)
    send = counted.ledger._send  # noqa: SLF001  # held up, so that others come meanwhile
    asked: list[int] = []

    def held(calls: Sequence[Any]) -> Any:
        if not asked:
            until(lambda: len(batches._waiting) == 9)  # noqa: SLF001  # nothing else shows it
        asked.append(len(calls))
        return send(calls)

    batches = counted.ledger._threads  # noqa: SLF001  # as above
    if isinstance(batches, dict):  # of a Cluster's slots
        batches = batches[0]
    batches._send = held  # noqa: SLF001  # as above
    with ThreadPoolExecutor(10) as pool:
        tallies = list(pool.map(lambda n: counted.limiter.take([window(n)], 1, 0), range(1, 11)))
    assert all(tally.admitted for tally in tallies)
    assert asked == [1, 9]


class Fleet:
    """Keys at a gate that is awaited, and what it costs: messages, and calls handed to threads."""

    def __init__(self, server: Server) -> None:
        where = {"store_url": server.store_url, "limiter_url": server.limiter_url}
        self.gate = still(Gate.open(settings(**where, pepper="x" * 32)))
        for number in range(FLEET):
            self.gate.accounts.create(f"acct_{number}")
        made = [self.gate.keys.create(f"acct_{number}", "k") for number in range(FLEET)]
        self.keys = [one.text.encode() for one in made]
        self.gate.watch.poll()  # the first news, after which nothing known is doubted
        self._app = KeyrushMiddleware(self._ok, gate=self.gate)
        self.admitted = self.messages = self.handed = 0
        self._submit = self.gate.workers.submit
        ledger: Any = self.gate.limiter.client.ledger  # type: ignore[attr-defined]  # it is over one
        self._message = ledger.message
        self.gate.workers.submit = self._submitted  # type: ignore[method-assign]  # to be counted
        ledger.message = self._sent

    def _submitted(self, *values: Any, **more: Any) -> Any:
        self.handed += 1
        return self._submit(*values, **more)

    def _sent(self, calls: Any) -> Any:
        self.messages += 1
        return self._message(calls)

    async def _ok(self, _scope: Any, _receive: Any, _send: Any) -> None:
        self.admitted += 1

    async def come(self, key: bytes) -> None:
        """One request."""

        async def nothing(*_: Any) -> Any:
            return {"type": "http.disconnect"}

        scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "root_path": ""}
        await self._app(
            {**scope, "query_string": b"", "headers": [(b"x-api-key", key)]}, nothing, nothing
        )


FLEET = 20


def test_no_thread_on_asyncio(server: Server) -> None:
    """Once keys are known, their requests hand nothing to threads; each that comes alone is one
    message, and those that come together are one.
    """
    fleet = Fleet(server)

    async def come() -> None:
        for key in fleet.keys:
            await fleet.come(key)
        fleet.messages = fleet.handed = 0
        for key in 3 * fleet.keys:
            await fleet.come(key)
        assert (fleet.handed, fleet.messages) == (0, 3 * FLEET)
        for _ in range(3):
            await asyncio.gather(*map(fleet.come, fleet.keys))
        assert (fleet.handed, fleet.messages) == (0, 3 * FLEET + 3)

    asyncio.run(come())
    fleet.gate.close()
    assert fleet.admitted == 7 * FLEET


def test_what_is_written_a_second(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PostgreSQL is told and asked each second beside the windows does not grow with the keys:
    counts of all are one transaction, last uses another, and news one message at most.
    """
    fleet = Fleet(Server("store", postgres_url))
    waits: list[object] = []
    wait = patience.PatientConnection.wait

    def counting(self: patience.PatientConnection, *steps: Any, **more: Any) -> Any:
        waits.append(self)
        return wait(self, *steps, **more)

    async def come() -> None:
        await asyncio.gather(*map(fleet.come, fleet.keys))

    def waits_of(work: Callable[[], object]) -> int:
        waits.clear()
        work()
        return len(waits)

    monkeypatch.setattr(patience.PatientConnection, "wait", counting)
    asyncio.run(come())
    for _ in range(3):
        assert waits_of(lambda: asyncio.run(come())) == 0
        # A transaction waits for its begin, two statements at most, its end, and the pool.
        assert waits_of(fleet.gate.counts.flush) <= 2 * 5 < FLEET
        assert waits_of(fleet.gate.watch.poll) <= 1
    fleet.gate.close()


# --- PostgreSQL on an event loop ------------------------------------------------------------------


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    """A database of windows."""
    made = Database(postgres_url)
    yield made
    made.close()


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a lock does so for as long as a busy machine needs to see that."""
    monkeypatch.setattr(patience, "ANSWER", 60.0)
    monkeypatch.setattr(postgresql_calls, "AT_ONCE", AT_ONCE.replace("1800", "60000"))


def on_loop(database: Database, work: Callable[[PostgresqlLedger], Any]) -> None:
    """Do what is awaited with a ledger."""
    ledger = PostgresqlLedger(database)
    asyncio.run(work(ledger))
    ledger.close()


def test_many_calls_go_in_portions(database: Database) -> None:
    """No more than `TOGETHER` calls hold locks together; what doesn't fit waits for the next, and a
    message larger than a socket's buffer gets there, too.
    """
    many = [[window(key) for key in range(9000)]]

    async def work(ledger: PostgresqlLedger) -> None:
        sent: list[int] = []
        message = ledger.message

        def counted(calls: Sequence[Call]) -> bytes:
            sent.append(len(calls))
            return message(calls)

        ledger.message = counted  # type: ignore[method-assign]  # to be counted
        taken = await asyncio.gather(
            *(ledger.take_async([window(key)], 1, 0) for key in range(2 * TOGETHER + 1))
        )
        assert [one.granted for one in taken] == [1] * (2 * TOGETHER + 1)
        assert sent == [TOGETHER, TOGETHER, 1]
        assert (await ledger.take_async(many[0], 0, 0)).counters[0][1] == 1

    on_loop(database, work)


def test_whatever_a_name_has(database: Database) -> None:
    """Names are values, whatever quotes they have, and those that PostgreSQL can't hold."""
    names = ["'", "\\'", '"; DROP TABLE keyrush_windows; --', "%s", "{a,b}", "ö\U0001f511", ""]
    names += ["a\0b", "\ud800", "x" * 500]

    async def work(ledger: PostgresqlLedger) -> None:
        for count in (1, 2):
            for name in names:
                wanted = [Window(name, MINUTE, 9, "minute")]
                assert (await ledger.take_async(wanted, 1, 0)).counters[0][1] == 2 * count - 1
                assert ledger.take(wanted, 1, 0).counters[0][1] == 2 * count
        assert (await ledger.take_async([window(1)], 1, 0)).granted == 1

    on_loop(database, work)


@pytest.mark.usefixtures("_patient")
def test_a_connection_that_the_server_has_ended(database: Database, postgres_url: str) -> None:
    """After a restart of the server the next take on the loop works; one under way has failed."""

    async def work(ledger: PostgresqlLedger) -> None:
        assert (await ledger.take_async([window(1)], 1, 0)).granted == 1
        cut(postgres_url)
        await asyncio.to_thread(until, lambda: not sessions(postgres_url))
        assert (await ledger.take_async([window(1)], 1, 0)).counters[0][1] == 2
        with psycopg.connect(postgres_url, autocommit=True) as other, other.transaction():
            other.execute("SELECT keyrush_lock(%s)", ([window(1).key],))
            taking = asyncio.create_task(ledger.take_async([window(1)], 1, 0))
            await asyncio.to_thread(until, lambda: sessions(postgres_url, "Lock") == 1)
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            with pytest.raises(StoreError, match="from postgresql"):
                await taking
        assert (await ledger.take_async([window(1)], 1, 0)).counters[0][1] == 3

    on_loop(database, work)


def sessions(url: str, waiting: str = "%") -> int:
    """How many others there are in the database, that wait for such."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND coalesce(wait_event_type, '') LIKE %s",
            (waiting,),
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_server_that_says_nothing(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages: silence ends, for those that wait as well, and no answer comes to the wrong one."""
    monkeypatch.setattr(patience, "ANSWER", 0.2)

    async def work(ledger: PostgresqlLedger) -> None:
        assert (await ledger.take_async([window(1)], 1, 0)).granted == 1
        proxy.freeze()
        lost = await asyncio.gather(
            *(ledger.take_async([window(key)], 1, 0) for key in range(3 * TOGETHER)),
            return_exceptions=True,
        )
        assert all(isinstance(one, LimiterError) for one in lost)
        proxy.thaw()
        assert (await ledger.take_async([window(2, 7)], 1, 0)).granted == 1

    with tempfile.TemporaryDirectory(prefix="keyrush-") as folder:
        proxy = Proxy(postgres_url, folder)
        database = Database(proxy.url)
        on_loop(database, work)
        database.close()
        proxy.close()


def test_what_fails_in_the_database(database: Database, postgres_url: str) -> None:
    """O22: on the loop, too, it is an error without values, and the connection goes on."""
    rename = "ALTER TABLE keyrush_{} RENAME TO keyrush_{}"

    async def work(ledger: PostgresqlLedger) -> None:
        await ledger.take_async([window(1)], 1, 0)
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute(rename.format("windows", "w"))
            with pytest.raises(StoreError) as caught:
                await ledger.take_async([window(1)], 1, 0)
            assert window(1).key not in str(caught.value)
            other.execute(rename.format("w", "windows"))
        assert (await ledger.take_async([window(1)], 1, 0)).counters[0][1] == 2

    on_loop(database, work)


@pytest.mark.usefixtures("_patient")
def test_cancelled_on_postgresql(database: Database, postgres_url: str) -> None:
    """S35: what is granted to a task that no longer waits is given back; others keep theirs."""

    async def work(ledger: PostgresqlLedger) -> None:
        await ledger.take_async([window(1)], 1, 0)
        with psycopg.connect(postgres_url, autocommit=True) as other, other.transaction():
            other.execute("SELECT keyrush_lock(%s)", ([window(1).key],))
            tasks = [asyncio.create_task(ledger.take_async([window(1)], 1, 0)) for _ in range(10)]
            await asyncio.to_thread(until, lambda: sessions(postgres_url, "Lock") == 1)
            for task in tasks[::2]:
                task.cancel()
        taken = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in taken] == [True, False] * 5
        assert (await ledger.take_async([window(1)], 0, 0)).counters[0][1] == 6

    on_loop(database, work)
