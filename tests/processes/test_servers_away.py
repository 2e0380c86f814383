"""The servers that a gate depends on are killed, frozen or slow, behind the whole middleware."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate
from keyrush.core.identity import Found, account_subject
from keyrush.core.times import month_of
from keyrush.limiter.shared.client import LedgerClient
from keyrush.sql.engine import Database
from keyrush.store.sql import SqlStore
from tests.conftest import Clock, settings
from tests.long.chaos import ACCOUNT, PEPPER, Postgres
from tests.support import proxy as proxies
from tests.support.calls import Asgi, Reply, Sent, Wsgi, asgi_call, scope_of
from tests.support.faults import Proxy, until
from tests.support.running import run_process
from tests.support.valkey import Valkey, own_valkey

__all__ = ["own_valkey"]

LIMIT = 80

#: Milliseconds after which a circuit tries again.
PAUSE = 1_100

PUBLIC = Sent("/health")


def key_of(gate: Gate, limits: str = f"{LIMIT}/hour") -> Sent:
    """A request with a key of a new account."""
    if ACCOUNT not in {one.id for one in gate.accounts.list()}:
        gate.accounts.create(ACCOUNT, limits=limits)
    text = gate.keys.create(ACCOUNT, "production").text
    return Sent(headers=[("X-API-Key", text)])


async def send(app: Asgi, sent: Sent, times: int = 1) -> Counter[int]:
    """Send a request so many times; how often there was which status."""
    replies = [await asgi_call(app.middleware, scope_of(sent)) for _ in range(times)]
    for reply in replies:
        assert_well_formed(reply)
    return Counter(reply.status for reply in replies)


def assert_well_formed(reply: Reply) -> None:
    """An outage is never the caller's fault; who is refused learns when to come again (S19)."""
    assert reply.status in {200, 429, 503}
    if reply.status != 200:
        assert int(reply["retry-after"]) > 0
        assert reply["cache-control"] == "no-store"
    if reply.status == 503:
        assert "www-authenticate" not in reply


def stored(gate: Gate) -> int:
    """What the table says of the account this month."""
    return gate.store.usage(account_subject(ACCOUNT), month_of(gate.clock()))


# --- the limiter's server -------------------------------------------------------------------------


class Server:
    """A Valkey behind a proxy, that goes wrong in one of three ways."""

    def __init__(self, valkey: Valkey, proxy: proxies.Proxy, fault: str) -> None:
        # Where nothing is slow on purpose no call is given up for being slow.
        patience = "?socket_timeout=5" if fault == "killed" else ""
        self.url = f"redis://127.0.0.1:{proxy.port}{patience}"
        self._valkey, self._proxy, self._fault = valkey, proxy, fault
        #: Whether it has forgotten what it counted.
        self.forgets = fault == "killed"

    def fail(self) -> None:
        if self._fault == "killed":
            self._valkey.kill()
        elif self._fault == "frozen":
            self._valkey.freeze()
        else:
            self._proxy.delay = 0.8  # seconds, above the limiter's patience

    def recover(self) -> None:
        if self._fault == "killed":
            self._valkey.restart()
        elif self._fault == "frozen":
            self._valkey.thaw()
            until(self._valkey.is_there)
        else:
            self._proxy.delay = 0


@pytest.fixture(params=["killed", "frozen", "slow"])
def server(own_valkey: Valkey, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that can fail and recover."""
    with proxies.proxy(own_valkey.port) as proxy:
        yield Server(own_valkey, proxy, request.param)


@contextmanager
def opened(clock: Clock, **values: Any) -> Iterator[Gate]:
    """A gate over a store in memory, that has heard how many share its windows."""
    gate = Gate.open(settings(pepper=PEPPER, **values), clock=clock)
    gate.background.start()
    until(lambda: gate.health().workers)
    yield gate
    gate.close()


def answers(gate: Gate) -> Callable[[], bool]:
    """Whether all is known to be well, each time a second later."""

    def look() -> bool:
        gate.clock.advance(PAUSE)  # type: ignore[attr-defined]  # it is the tests' own
        client: LedgerClient = gate.limiter.client  # type: ignore[attr-defined]  # it is shared
        client.settle()
        client.membership.enlist()
        return gate.health().is_well

    return look


@pytest.mark.parametrize("mode", ["leased", "exact"])
@pytest.mark.parametrize("policy", ["local", "open", "closed"])
def test_limiter_away(server: Server, policy: str, mode: str, clock: Clock) -> None:
    """While the limiter's server is away each request is answered as the policy says, a public
    one before whoever waits for the server; afterwards the windows hold what was admitted.
    """

    async def scenario() -> None:
        with opened(
            clock, limiter_url=server.url, limiter_mode=mode, limiter_outage=policy
        ) as gate:
            app, sent = Asgi(gate), key_of(gate)
            before = 10
            assert await send(app, sent, before) == {200: before}
            server.fail()
            order: list[str] = []
            waiting = asyncio.ensure_future(noted(order, "waiting", send(app, sent)))
            await asyncio.sleep(0)
            await noted(order, "public", send(app, PUBLIC))
            first = await waiting
            assert order == ["public", "waiting"]
            meanwhile = first + await send(app, sent, LIMIT)
            left = LIMIT - before
            if policy == "local":
                assert meanwhile == {200: left, 429: LIMIT + 1 - left}
            else:
                assert meanwhile == {200 if policy == "open" else 503: LIMIT + 1}
            health = gate.health()
            assert not health.is_well
            assert health.limits_meanwhile == policy
            clock.advance(PAUSE)  # the circuit tries again, in vain
            again = await send(app, sent, 3)
            assert again == {429 if policy == "local" else next(iter(meanwhile)): 3}
            meanwhile += again
            server.recover()
            until(answers(gate))
            after = await send(app, sent, LIMIT + 1)
            known = 0 if server.forgets else before
            known += left if policy == "local" else 0
            assert after[200] + after[429] == LIMIT + 1
            # Calls that nobody heard the answer of may have had their effect.
            assert LIMIT - known - 3 <= after[200] <= LIMIT - known
            gate.flush()
            assert stored(gate) == before + meanwhile[200] + after[200]

    asyncio.run(scenario())


async def noted(order: list[str], name: str, work: Any) -> Any:
    """Do some work, and note when it is done."""
    result = await work
    order.append(name)
    return result


def test_wsgi_without_limiter(server: Server, clock: Clock) -> None:
    """The same through WSGI: this process's share, then 429, then what the server has left."""
    with opened(clock, limiter_url=server.url) as gate:
        app, sent = Wsgi(gate), key_of(gate)
        assert app.send(sent).status == 200
        server.fail()
        meanwhile = [app.send(sent) for _ in range(LIMIT)]
        for reply in meanwhile:
            assert_well_formed(reply)
        assert Counter(reply.status for reply in meanwhile) == {200: LIMIT - 1, 429: 1}
        server.recover()
        until(answers(gate))
        last = app.send(sent)
        assert last.status == (200 if server.forgets else 429)


def test_two_processes_share_what_was_left(own_valkey: Valkey, clock: Clock) -> None:
    """Two processes that count alone admit together what was left when they last heard, no more."""

    async def scenario() -> None:
        with (
            opened(clock, limiter_url=own_valkey.url, store_url=file) as one,
            opened(clock, limiter_url=own_valkey.url, store_url=file) as other,
        ):
            sent = key_of(one)
            apps = [Asgi(gate) for gate in (one, other)]
            for app in apps:
                assert await send(app, sent, 5) == {200: 5}
            for gate in (one, other):
                gate.limiter.client.membership.enlist()  # type: ignore[attr-defined]  # it is shared
                assert gate.health().workers == 2
            for gate in (one, other):  # each looks at what is left
                (entry,) = gate.cache._entries.values()  # noqa: SLF001  # the one key
                gate.limiter.client.ask(entry.verified.windows, 0, 0)  # type: ignore[attr-defined]  # it is shared
            own_valkey.freeze()
            meanwhile = [await send(app, sent, LIMIT) for app in apps]
            for _ in range(3):
                clock.advance(PAUSE)  # circuits try again, in vain
                meanwhile += [await send(app, sent, 3) for app in apps]
            assert sum(counted[200] for counted in meanwhile) == LIMIT - 10
            own_valkey.thaw()
            until(own_valkey.is_there)
            for gate in (one, other):
                until(answers(gate))
            for app in apps:
                assert await send(app, sent) == {429: 1}

    with tempfile.TemporaryDirectory() as folder:
        file = f"sqlite:///{folder}/keyrush.db"
        asyncio.run(scenario())


# --- the store's server ---------------------------------------------------------------------------


class Counting(SqlStore):
    """A SQL store that counts look-ups."""

    def __init__(self, url: str) -> None:
        super().__init__(Database(url))
        self.found = 0

    def find(self, fingerprints: Sequence[str], month: str) -> Found | None:
        self.found += 1
        return super().find(fingerprints, month)


@pytest.fixture
def away(postgres_url: str) -> Iterator[Proxy]:
    """Stands before PostgreSQL, and can be frozen."""
    with tempfile.TemporaryDirectory(prefix="keyrush-") as folder:
        opened = Proxy(postgres_url, folder)
        yield opened
        opened.close()


def test_store_frozen(away: Proxy, clock: Clock) -> None:
    """S19: while the store is frozen known keys go on, stale ones with one look-up a second and
    for `KEYRUSH_STALE_IF_ERROR`, others get 503; afterwards the counts are right.
    """

    async def scenario() -> None:
        store = Counting(away.url)
        chosen = settings(
            store_url=away.url, limiter_url="memory://", pepper=PEPPER, stale_if_error=30
        )
        gate = Gate.open(chosen, store=store, clock=clock)
        app, sent, unknown = Asgi(gate), key_of(gate, "1000/hour"), key_of(gate)
        gate.watch.poll()  # the first drops everything
        assert await send(app, sent, 5) == {200: 5}
        away.freeze()
        assert await send(app, sent, 20) == {200: 20}  # still fresh
        looked_up = 0
        for _ in range(3):
            clock.advance(6_000)
            store.found = 0
            order: list[str] = []
            waiting = asyncio.ensure_future(noted(order, "waiting", send(app, sent)))
            await asyncio.sleep(0)
            await noted(order, "public", send(app, PUBLIC))
            assert await waiting == {200: 1}
            if store.found:  # else the circuit was open, and neither waited for anything
                assert order == ["public", "waiting"]
            assert await send(app, sent, 20) == {200: 20}
            assert store.found <= 1
            looked_up += store.found
        assert looked_up
        assert await send(app, unknown, 3) == {503: 3}
        health = gate.health()
        assert not health.is_well
        assert health.unwritten == 88
        clock.advance(30_000)
        assert await send(app, sent, 3) == {503: 3}
        away.thaw()
        until(lambda: recovered(gate, clock))
        assert await send(app, sent, 2) == {200: 2}
        assert await send(app, unknown, 2) == {200: 2}
        gate.flush()
        assert gate.health().unwritten == 0
        assert stored(gate) == 92
        gate.close()

    asyncio.run(scenario())


def recovered(gate: Gate, clock: Clock) -> bool:
    """Whether counts can be written and news are heard, a second later each time."""
    clock.advance(PAUSE)
    gate.counts.flush()
    return gate.health().is_well


def test_credits_while_store_frozen(away: Proxy, clock: Clock) -> None:
    """O11, S19: a charge that the frozen store does not confirm is 503. The store makes it later,
    before or after its reversal: in either order it costs nothing.
    """
    rule = {"path": "/tools/{name}", "credits": 3}
    chosen = settings(store_url=away.url, limiter_url="memory://", pepper=PEPPER, rules=(rule,))
    gate = Gate.open(chosen, clock=clock)
    app, sent = Asgi(gate), key_of(gate, "1000/hour")
    gate.watch.poll()  # the first drops everything
    gate.credits.grant(ACCOUNT, 10)
    paid = Sent("/tools/audit_site", sent.headers)
    assert app.send(paid).status == 200
    gate.flush()  # so that nothing else is to be written
    away.freeze()
    reply = app.send(paid)
    assert reply.status == 503
    assert_well_formed(reply)
    away.thaw()
    until(lambda: recovered(gate, clock))
    gate.flush()  # tells what is owed, too
    assert gate.accounts.get(ACCOUNT).balance == 7
    assert app.send(paid).status == 200
    assert gate.accounts.get(ACCOUNT).balance == 4
    gate.flush()
    entries = gate.credits.ledger(ACCOUNT)
    given_back = {one.reverses for one in entries if one.reverses}
    kept = [one.amount for one in entries if not {one.reverses, one.reference} & given_back]
    assert kept == [-3, -3, 10]
    assert gate.credits.check().discrepancies == ()
    gate.close()


@pytest.fixture
def own_postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """A server for one test, which may break it."""
    folder = tempfile.mkdtemp(prefix="keyrush-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    server = Postgres(folder)
    yield server
    server.close()
    shutil.rmtree(folder)


def test_store_killed(own_postgres: Postgres, clock: Clock) -> None:
    """After `kill -9` of a PostgreSQL that keeps keys and windows, known keys go on with this
    process's share, others get 503; once it is back all is written and changes are heard again.
    """

    async def scenario() -> None:
        with opened(clock, store_url=own_postgres.url, limiter_url="store") as gate:
            app, sent, unknown = Asgi(gate), key_of(gate), key_of(gate)
            until(lambda: gate.health().hears_changes)
            assert await send(app, sent, 10) == {200: 10}
            own_postgres.kill()
            assert await send(app, sent, LIMIT) == {200: LIMIT - 10, 429: 10}
            assert await send(app, unknown, 2) == {503: 2}
            clock.advance(6_000)  # stale now
            assert await send(app, sent, 2) == {429: 2}
            assert not gate.health().hears_changes or gate.health().store_away
            own_postgres.start()
            until(answers(gate))
            until(lambda: recovered(gate, clock))
            gate.flush()
            assert stored(gate) == LIMIT
            after = await send(app, sent, 3)
            assert after == {429: 3}
            until(lambda: gate.health().hears_changes)

    asyncio.run(scenario())


# --- what operators see ---------------------------------------------------------------------------


def test_doctor_sees_outages(own_valkey: Valkey, away: Proxy, tmp_path: Path) -> None:
    """`keyrush doctor` names the server that is away, and what holds meanwhile."""
    env = {"KEYRUSH_LIMITER_URL": own_valkey.url, "KEYRUSH_PEPPER": PEPPER}
    file = {"KEYRUSH_STORE_URL": f"sqlite:///{tmp_path}/keyrush.db"}
    assert run_process("doctor", folder=tmp_path, env={**env, **file}).code == 0
    own_valkey.freeze()
    found = run_process("doctor", folder=tmp_path, env={**env, **file})
    assert found.code != 0
    assert "each process goes on with its share of the limits" in found.out
    own_valkey.thaw()
    away.freeze()
    found = run_process("doctor", folder=tmp_path, env={**env, "KEYRUSH_STORE_URL": away.url})
    assert found.code != 0
    assert "problem  store" in found.out
    assert PEPPER not in found.out + found.err
