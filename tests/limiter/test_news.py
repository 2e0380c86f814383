"""Servers that answer and tell no news: no illness, but a comfort that is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrush import Gate
from keyrush.errors import LimiterError, NotTold
from keyrush.gate.health import Health
from keyrush.gate.watch import MUTE_PAUSE, PAUSE, Watch
from keyrush.limiter.ledgers.redis.ledger import RedisLedger
from keyrush.store.memory import MemoryStore
from tests.conftest import Clock, settings
from tests.sql.test_watch import Seconds, Told
from tests.support.calls import decide
from tests.support.faults import until
from tests.support.running import Runner
from tests.support.valkey import Valkey, running

LOGIN = "app:secret"
USER = ("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "resetchannels")


@pytest.fixture(params=["no-channels", "no-command", "no-publish"])
def mute(request: pytest.FixtureRequest, own_valkey: Valkey) -> Iterator[Valkey]:
    """A server whose user has no channels, as by default since Redis 7, or that lets nobody
    subscribe, as some proxies, or that user not publish.
    """
    if request.param == "no-command":
        with running("--rename-command", "SUBSCRIBE", "") as server:
            server.run(*USER, "allchannels")
            yield server
        return
    own_valkey.run(*USER)
    if request.param == "no-publish":
        own_valkey.run("ACL", "SETUSER", "app", "allchannels", "-publish", "-subscribe")
    yield own_valkey


def url_of(server: Valkey) -> str:
    """Its URL for the app's user."""
    return server.url.replace("://", f"://{LOGIN}@")


def test_health_without_news(
    mute: Valkey, clock: Clock, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """All works, so all is well; that changes elsewhere take as long as the cache is told, and
    logged once. It is asked again later, so that nothing needs a restart.
    """
    url = f"sqlite:///{tmp_path}/keyrush.db"
    gate = Gate.open(settings(store_url=url, limiter_url=url_of(mute), cache_ttl=7), clock=clock)
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "n").text
    for _ in range(5):
        gate.watch.poll()
        clock.advance(5 * 1000)
    assert isinstance(decide(gate, key), tuple)
    health = gate.health()
    assert health.is_well
    assert (health.hears_changes, health.changes_within) == (False, 7)
    said = [line for line in caplog.messages if "there is no news of changes" in line]
    assert len(said) == 1
    assert "ACL SETUSER … '&keyrush:changes' +subscribe +publish" in said[0]
    gate.close()


def test_news_once_they_are_allowed(own_valkey: Valkey, clock: Clock) -> None:
    """A user that is given its channel hears within `MUTE_PAUSE`, without a restart."""
    own_valkey.run(*USER)
    gate = Gate.open(settings(limiter_url=url_of(own_valkey)), clock=clock)
    gate.watch.poll()
    assert not gate.health().hears_changes
    own_valkey.run("ACL", "SETUSER", "app", "&keyrush:changes")
    gate.watch.poll()
    assert not gate.health().hears_changes
    clock.advance(int(MUTE_PAUSE * 1000))
    gate.watch.poll()
    health = gate.health()
    assert (health.hears_changes, health.changes_within) == (True, 0.05)
    gate.close()


def test_a_server_that_is_away_is_an_illness(own_valkey: Valkey) -> None:
    """News that can't be reached are told from those that are not allowed."""
    own_valkey.run(*USER)
    url = url_of(own_valkey)
    changes = RedisLedger(url).changes()
    with pytest.raises(NotTold):
        changes.poll()
    own_valkey.kill()
    with pytest.raises(LimiterError) as away:
        changes.poll()
    assert not isinstance(away.value, NotTold)
    own_valkey.restart()  # which has forgotten the user
    with pytest.raises(LimiterError, match="Authentication") as unknown:
        changes.poll()
    assert not isinstance(unknown.value, NotTold)


def test_who_may_not_publish(own_valkey: Valkey) -> None:
    """Not being allowed to tell is told from a server that is away, too, with what would help."""
    own_valkey.run(*USER)
    ledger = RedisLedger(url_of(own_valkey))
    with pytest.raises(NotTold, match=r"ACL SETUSER … '&keyrush:changes' \+subscribe \+publish"):
        ledger.changes().publish("acct_a")
    own_valkey.kill()
    with pytest.raises(LimiterError) as away:
        ledger.changes().publish("acct_a")
    assert not isinstance(away.value, NotTold)
    ledger.close()


def test_watch_tells_news_not_allowed_from_those_that_are_away() -> None:
    """What was wrong before does not matter; when there is news again everything is dropped."""
    seconds = Seconds()
    dropped: list[object] = []
    told = Told(NotTold("no"), LimiterError("away"), NotTold("no"), {"acct_a"})
    watch = Watch([told], dropped.append, seconds)
    for pause, is_healthy in ((MUTE_PAUSE, True), (PAUSE, False), (MUTE_PAUSE, True)):
        watch.poll()
        assert (watch.is_healthy, watch.hears_all) == (is_healthy, False)
        seconds.now += pause / 2
        polls = told.polls
        watch.poll()
        assert told.polls == polls
        seconds.now += pause / 2
    watch.poll()
    assert (watch.is_healthy, watch.hears_all) == (True, True)
    assert dropped == [None]


# --- news that are away ---------------------------------------------------------------------------


class Silent(MemoryStore):
    """A store whose news are away, and which may be away itself."""

    is_away = False

    def changes(self) -> Told:
        return Told(*[LimiterError("no connection is left for it")] * 100)

    def usage(self, subject: str, month: str) -> int:
        if self.is_away:
            raise LimiterError("away")
        return super().usage(subject, month)


def test_health_where_news_are_away(clock: Clock) -> None:
    """A store that can't tell news, and answers, is well; where it does not, health finds that out
    without a request, and finds out, too, when it answers again.
    """
    store = Silent()
    gate = Gate.open(settings(cache_ttl=7), store=store, clock=clock)
    gate.background.start()
    until(lambda: not gate.watch.is_healthy)
    gate.background.close()

    def health(*, is_away: bool) -> Health:
        store.is_away = is_away
        clock.advance(1000)
        gate.background.start()  # does all of its work at once
        until(lambda: gate.health().is_well is not is_away)
        gate.background.close()
        return gate.health()

    for is_away in (False, True, False):
        found = health(is_away=is_away)
        assert (found.hears_changes, found.changes_within) == (False, 7)
    gate.close()


# --- doctor ---------------------------------------------------------------------------------------


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """The command in a folder with nothing in it."""
    return Runner(monkeypatch, capsys, tmp_path)


def test_doctor_tries_the_news(run: Runner, mute: Valkey) -> None:
    """What will not be heard is a warning, with what follows and what would help: exit code 1."""
    run.env(KEYRUSH_LIMITER_URL=url_of(mute), KEYRUSH_CACHE_TTL="7")
    assert run("accounts", "create").code == 0
    result = run("doctor")
    assert result.code == 1
    (line,) = (line for line in result.out.splitlines() if line.startswith("warning"))
    assert line.startswith("warning  changes: made by other processes hold within")
    assert "not at once (7 s): " in line
    assert line.endswith("a user may with ACL SETUSER … '&keyrush:changes' +subscribe +publish")
    assert "secret" not in result.out


def test_doctor_who_may_listen_and_not_speak(run: Runner, own_valkey: Valkey) -> None:
    """Others would not hear of what this process changes: a warning, too."""
    own_valkey.run(*USER, "allchannels", "-publish")
    run.env(KEYRUSH_LIMITER_URL=url_of(own_valkey))
    assert run("accounts", "create").code == 0
    result = run("doctor")
    assert result.code == 1
    (line,) = (line for line in result.out.splitlines() if line.startswith("warning"))
    assert "NoPermissionError from the limiter's server" in line
    assert line.endswith("+subscribe +publish")


def test_doctor_hears_a_cluster(run: Runner, cluster_url: str) -> None:
    """What one node is told is heard by way of another."""
    run.env(KEYRUSH_LIMITER_URL=cluster_url)
    assert run("accounts", "create").code == 0
    result = run("doctor")
    assert result.code == 0, result.out
    assert "ok       changes: made by other processes are heard of at once" in result.out
