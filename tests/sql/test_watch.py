"""What other processes change is learned here: the news of stores, and the watch over them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keyrush.core.changes import Changes
from keyrush.core.model import Limit
from keyrush.errors import DataError, StoreError
from keyrush.gate.watch import PAUSE, Watch
from keyrush.runtime.clock import now_ms
from keyrush.runtime.logs import faults
from keyrush.sql.changes import LOOK, PostgresqlChanges, tell
from keyrush.sql.engine import Database
from keyrush.store.memory import MemoryStore
from keyrush.store.opening import given, open_store
from keyrush.store.protocol import Batch
from keyrush.store.sql import SqlStore
from tests.support.faults import cut, until
from tests.support.scripts import finish, run, start
from tests.support.stores import grant
from tests.support.values import MONTH, NOW, account, api_key


@pytest.fixture(params=["sqlite", "postgresql"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path}/keyrush.db"


def opened(url: str) -> SqlStore:
    """A store with the account `acct_a` and its key `cred_a`, and the account `acct_b`."""
    store = SqlStore(Database(url))
    if store.add_account(account("acct_a")):
        store.add_account(account("acct_b"))
        store.add_keys([api_key("cred_a")])
    return store


@pytest.fixture
def store(sql_url: str) -> Iterator[SqlStore]:
    """A store in a database of each kind, filled."""
    made = opened(sql_url)
    yield made
    made.close()


@pytest.fixture
def postgresql(postgres_url: str) -> Iterator[SqlStore]:
    """A store in PostgreSQL, filled."""
    made = opened(postgres_url)
    yield made
    made.close()


@pytest.fixture
def changes(store: SqlStore) -> Iterator[Changes]:
    """Its news, asked for once."""
    made = store.changes()
    assert made.poll() is None
    yield made
    made.close()


def news(changes: Changes) -> set[str]:
    """The next accounts that there is news of."""
    found = until(changes.poll)
    assert found is not None
    return set(found)


def marks(store: SqlStore) -> list[tuple[int, str]]:
    """All changes that can be read."""
    with store.database.engine.begin() as connection:
        select = sa.text("SELECT mark, account_id FROM keyrush_changes ORDER BY mark")
        return [(row.mark, row.account_id) for row in connection.execute(select)]


# --- what is told --------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[SqlStore], object]] = {
    "revoke": lambda store: store.revoke("cred_a", NOW),
    "replace": lambda store: store.replace("cred_a", api_key("cred_b"), NOW),
    "key limits": lambda store: store.set_key_limits("cred_a", (Limit(5, 60),)),
    "plan": lambda store: store.set_plan("acct_a", "pro"),
    "account limits": lambda store: store.set_account_limits("acct_a", ()),
    "grant": lambda store: grant(store, "acct_a", 5),
}

NO_CHANGES: dict[str, Callable[[SqlStore], object]] = {
    "account": lambda store: store.add_account(account("acct_c")),
    "key": lambda store: store.add_keys([api_key("cred_b")]),
    "refingerprint": lambda store: store.refingerprint("cred_a", "e" * 64, "p2", None),
    "touch": lambda store: store.add_usage(MONTH, {}, used={"cred_a": NOW}),
    "grant to unknown": lambda store: grant(store, "acct_x", 5),
    "charge": lambda store: store.charge("acct_a", 0, "one", NOW),
    "reverse": lambda store: store.reverse("acct_a", "one", NOW),
    "usage": lambda store: store.add_usage(MONTH, {"key:cred_a": 1}, Batch("one", 1)),
    "revoke unknown": lambda store: store.revoke("cred_x", NOW),
    "replace unknown": lambda store: store.replace("cred_x", api_key("cred_b"), NOW),
    "limits of unknown": lambda store: store.set_key_limits("cred_x", ()),
    "plan of unknown": lambda store: store.set_plan("acct_x", "pro"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_told(store: SqlStore, changes: Changes, change: str) -> None:
    """What changes how a key is treated is told, once, by the account it belongs to."""
    assert CHANGES[change](store)
    assert news(changes) == {"acct_a"}
    assert not changes.poll()
    assert [account_id for _, account_id in marks(store)] == ["acct_a"]


@pytest.mark.parametrize("change", NO_CHANGES)
def test_other_writes_are_not_told(store: SqlStore, changes: Changes, change: str) -> None:
    """What a cached key does not depend on, or what did not happen, tells nobody anything."""
    NO_CHANGES[change](store)
    assert marks(store) == []
    told = [changes.poll(), changes.poll()]
    assert [set(one) for one in told if one is not None] == [set()] * 2


def test_change_and_news_are_one_step(store: SqlStore, changes: Changes) -> None:
    """A change that can't be told of is not made, and one that fails is not told of."""
    store.add_keys([api_key("cred_b")])
    with pytest.raises(DataError):
        store.replace("cred_a", api_key("cred_b"), NOW)
    assert marks(store) == []
    with store.database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE keyrush_changes RENAME TO elsewhere"))
    with pytest.raises(StoreError):
        store.revoke("cred_a", NOW)
    with store.database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO keyrush_changes"))
    assert store.key("cred_a") == api_key("cred_a")
    assert not changes.poll()


def test_old_changes_are_deleted(store: SqlStore, changes: Changes) -> None:
    """Changes can be read for an hour; later ones are told all the same, and keep their order."""
    store.set_plan("acct_a", "pro")
    assert news(changes) == {"acct_a"}
    with store.database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE keyrush_changes SET changed_at = changed_at - 3601000"))
    store.set_plan("acct_b", "pro")
    assert marks(store) == [(2, "acct_b")]
    assert news(changes) == {"acct_b"}


# --- what is learned -----------------------------------------------------------------------------


def test_first_poll_knows_nothing(store: SqlStore) -> None:
    """Anything may have changed before one asks first, but not after that."""
    store.revoke("cred_a", NOW)
    made = store.changes()
    assert made.poll() is None
    assert not made.poll()
    store.set_plan("acct_b", "pro")
    assert news(made) == {"acct_b"}
    made.close()


def test_change_by_another_process(store: SqlStore, changes: Changes, sql_url: str) -> None:
    """A key revoked in one process is news in another."""
    process = start(
        """
        import sys
        from keyrush.store.opening import given, open_store

        store = open_store(sys.argv[1]).store
        print(store.revoke("cred_a", 1).outcome, flush=True)
        sys.stdin.readline()
        store.close()
        """,
        sql_url,
    )
    assert news(changes) == {"acct_a"}
    assert finish(process) == "done\n"
    assert store.key("cred_a") == api_key("cred_a", revoked_at=1)


def test_every_feed_learns_everything(store: SqlStore) -> None:
    """Those that ask don't take news from each other, and many changes come together."""
    made = [store.changes() for _ in range(3)]
    assert [one.poll() for one in made] == [None] * 3
    for number in range(50):
        store.add_account(account(f"acct_{number}"))
        store.set_plan(f"acct_{number}", "pro")
    for one in made:
        learned: set[str] = set()
        while len(learned) < 50:
            learned |= news(one)
        assert learned == {f"acct_{number}" for number in range(50)}
        assert not one.poll()
        one.close()


def test_changes_at_once(store: SqlStore, changes: Changes) -> None:
    """Of changes by many threads at once, none is missed while news is asked for all the time."""
    names = {f"acct_{number}" for number in range(40)}
    for name in names:
        store.add_account(account(name))

    def work(share: list[str]) -> None:
        for name in share:
            store.set_plan(name, "pro")

    ordered = sorted(names)
    threads = [threading.Thread(target=work, args=(ordered[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    learned: set[str] = set()
    while learned != names:
        learned |= news(changes)
    for thread in threads:
        thread.join()
    assert [mark for mark, _ in marks(store)] == list(range(1, 41))


def test_marks_become_visible_in_their_order(postgresql: SqlStore) -> None:
    """A change that is committed late is not passed by a later one, and so never missed."""
    made = postgresql.changes()
    assert made.poll() is None
    with postgresql.database.engine.begin() as slow:
        tell(slow, ["acct_a"], now_ms())
        quick = threading.Thread(target=postgresql.set_plan, args=("acct_b", "pro"))
        quick.start()
        waits = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        until(lambda: slow.execute(waits).scalar())
        assert marks(postgresql) == []
        assert not made.poll()
    quick.join()
    learned: set[str] = set()
    while learned != {"acct_a", "acct_b"}:
        learned |= news(made)
    assert marks(postgresql) == [(1, "acct_a"), (2, "acct_b")]
    made.close()


def statements(store: SqlStore, changes: Any) -> list[str]:
    """A list that grows with every statement that goes through the engine; in SQLite with every
    one that the news' own connection runs, below the engine too.
    """
    seen: list[str] = []
    if store.database.dialect == "sqlite":
        changes._driver.set_trace_callback(seen.append)  # noqa: SLF001  # to see what it runs
        return seen

    @sa.event.listens_for(store.database.engine, "before_cursor_execute")
    def _seen(_c: Any, _k: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    return seen


def test_cheap_when_nothing_has_changed(store: SqlStore, changes: Changes) -> None:
    """Where nothing was written, a poll is no statement at all, or in SQLite one that reads none
    of the tables.
    """
    seen = statements(store, changes)
    for _ in range(10):
        assert changes.poll() == ()
    is_sqlite = store.database.engine.dialect.name == "sqlite"
    assert seen == ["PRAGMA data_version"] * 10 * is_sqlite


def test_usage_of_others_is_no_news(tmp_path: Path) -> None:
    """SQLite: after a flush of counts the changes are looked at once, and there are none."""
    store = opened(f"sqlite:///{tmp_path}/keyrush.db")
    made = store.changes()
    made.poll()
    seen = statements(store, made)
    store.add_usage(MONTH, {"key:cred_a": 1})
    del seen[:]
    assert [set(made.poll() or ()) for _ in range(3)] == [set()] * 3
    assert [statement.split()[0] for statement in seen] == ["PRAGMA", "SELECT", "PRAGMA", "PRAGMA"]
    made.close()
    store.close()


@pytest.mark.parametrize("left", [0, 2])
def test_place_that_was_deleted(store: SqlStore, changes: Changes, left: int) -> None:
    """Who was asleep for long learns that something was missed, then goes on."""
    store.set_plan("acct_a", "pro")
    assert news(changes) == {"acct_a"}
    for number in range(5):
        store.set_plan("acct_b", f"plan_{number}")
    with store.database.engine.begin() as connection:
        connection.execute(
            sa.text("DELETE FROM keyrush_changes WHERE mark <= :mark"), {"mark": 6 - left}
        )
    until(lambda: changes.poll() is None)
    assert not changes.poll()
    store.revoke("cred_a", NOW)

    def learns() -> bool:
        told = changes.poll()
        return told is None or "acct_a" in told

    until(learns)
    store.set_plan("acct_b", "pro")
    assert news(changes) == {"acct_b"}


def test_closed_news_begin_again(store: SqlStore, changes: Changes) -> None:
    """After a close anything may have changed."""
    changes.close()
    changes.close()
    assert changes.poll() is None
    store.revoke("cred_a", NOW)
    assert news(changes) == {"acct_a"}


def test_news_go_on_when_the_store_is_closed(store: SqlStore, changes: Changes) -> None:
    """Its connection is its own."""
    store.close()
    store.revoke("cred_a", NOW)
    assert news(changes) == {"acct_a"}


def test_asked_by_another_thread(store: SqlStore, changes: Changes) -> None:
    """The thread that polls need not be the one that has made or asked it first."""
    store.revoke("cred_a", NOW)
    learned: list[set[str]] = []
    thread = threading.Thread(target=lambda: learned.append(news(changes)))
    thread.start()
    thread.join()
    assert learned == [{"acct_a"}]


def test_feed_after_a_fork(sql_url: str) -> None:
    """A forked child has a connection of its own, and leaves its parent's alone."""
    opened(sql_url).close()
    out = run(
        """
        import os, sys, time
        from keyrush.store.opening import given, open_store

        store = open_store(sys.argv[1]).store
        changes = store.changes()
        assert changes.poll() is None
        child = os.fork()
        if not child:
            assert changes.poll() is None
            store.revoke("cred_a", 1)
            while not (learned := changes.poll()):
                time.sleep(0.001)
            assert set(learned) == {"acct_a"}
            changes.close()
            store.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        while not (learned := changes.poll()):
            time.sleep(0.001)
        print(*learned)
        assert store.set_plan("acct_b", "pro")
        while not (learned := changes.poll()):
            time.sleep(0.001)
        print(*learned)
        changes.close()
        store.close()
        """,
        sql_url,
    )
    assert out == "acct_a\nacct_b\n"


def test_table_that_is_away(store: SqlStore, changes: Changes) -> None:
    """What can't be read is an error, each time; afterwards anything may have changed."""
    with store.database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE keyrush_changes RENAME TO elsewhere"))
    changes.close()
    for _ in range(3):
        with pytest.raises(
            StoreError, match=rf"from {store.database.engine.dialect.name}: .*keyrush_changes"
        ):
            changes.poll()
    with store.database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO keyrush_changes"))
    assert changes.poll() is None
    store.revoke("cred_a", NOW)
    assert news(changes) == {"acct_a"}


# --- PostgreSQL ----------------------------------------------------------------------------------


def test_connection_that_is_cut(postgresql: SqlStore, postgres_url: str) -> None:
    """News whose connection has ended say so, are there again, and miss nothing."""
    made = postgresql.changes()
    assert made.poll() is None
    cut(postgres_url)
    with pytest.raises(StoreError, match="from postgresql"):
        until(lambda: made.poll() is None)
    assert postgresql.revoke("cred_a", NOW).outcome == "done"
    assert made.poll() is None
    postgresql.set_plan("acct_b", "pro")
    assert news(made) == {"acct_b"}
    made.close()


def test_notifications_that_get_lost(postgresql: SqlStore) -> None:
    """What no notification tells of is seen a second later: not even then much later."""
    seconds = 100.0
    made = PostgresqlChanges(postgresql.database, lambda: seconds)
    assert made.poll() is None
    with postgresql.database.engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO keyrush_changes (account_id, changed_at) VALUES ('acct_a', 1)")
        )
    assert made.poll() == ()
    seconds += LOOK
    assert set(made.poll() or ()) == {"acct_a"}
    assert made.poll() == ()
    made.close()


def test_notification_while_the_table_is_read(postgresql: SqlStore) -> None:
    """A notification that comes with another answer is not lost."""
    made = PostgresqlChanges(postgresql.database, lambda: 100.0)
    assert made.poll() is None
    postgresql.revoke("cred_a", NOW)
    # In place of a change that is committed while it is read: what reads does so before it listens.
    connection: Any = made._connection  # noqa: SLF001  # there is no other way in between
    listening = connection.connection.dbapi_connection
    until(lambda: listening.execute("SELECT 1") and made._heard)  # noqa: SLF001  # nothing else shows it
    assert set(made.poll() or ()) == {"acct_a"}
    made.close()


def test_news_take_no_place_in_the_pool(postgresql: SqlStore) -> None:
    """However many ask for news, the store's own calls have as many connections as before."""
    made = [postgresql.changes() for _ in range(30)]
    assert [one.poll() for one in made] == [None] * 30
    assert postgresql.account("acct_a") == account("acct_a")
    for one in made:
        one.close()


# --- the watch -----------------------------------------------------------------------------------


class Told:
    """News that the test has written down; what is an exception is raised."""

    def __init__(self, *answers: Collection[str] | Exception | None) -> None:
        self.answers = list(answers)
        self.published: list[str] = []
        self.polls = 0
        self.closes = 0

    def poll(self) -> Collection[str] | None:
        self.polls += 1
        answer = self.answers.pop(0) if self.answers else ()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def publish(self, account_id: str) -> None:
        self.published.append(account_id)

    def close(self) -> None:
        self.closes += 1


class Seconds:
    """Monotonic seconds that only the test moves."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


def test_watch_drops_what_has_changed() -> None:
    """News from everywhere is handed on as it comes, and nothing where there is none."""
    dropped: list[Collection[str] | None] = []
    watch = Watch([Told(None, (), {"acct_a"}), Told((), ["acct_b", "acct_c"])], dropped.append)
    for _ in range(5):
        watch.poll()
    assert dropped == [None, ["acct_b", "acct_c"], {"acct_a"}]
    assert watch.is_healthy


def test_watch_without_news() -> None:
    """Where there is no news to be had there is nothing to do."""
    watch = Watch([], lambda _: pytest.fail("there is nothing to drop"))
    watch.poll()
    watch.close()
    assert watch.is_healthy


def test_watch_when_news_fail(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, left alone for a second, and everything is dropped when it is back."""
    seconds = Seconds()
    dropped: list[Collection[str] | None] = []
    away = Told((), StoreError("away"), StoreError("away"), None, {"acct_a"})
    other = Told()
    watch = Watch([away, other], dropped.append, seconds)
    watch.poll()
    watch.poll()
    assert not watch.is_healthy
    seconds.now += PAUSE - 0.001
    watch.poll()
    assert (away.polls, other.polls) == (2, 3)
    seconds.now += 0.001
    watch.poll()
    assert (away.polls, other.polls) == (3, 4)
    assert dropped == []
    watch.poll()
    assert away.polls == 3
    seconds.now += PAUSE
    watch.poll()
    assert watch.is_healthy
    watch.poll()
    assert dropped == [None, {"acct_a"}]
    faults = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in faults] == [
        "changes made elsewhere can't be followed; they hold later: StoreError: away"
    ]


def test_watch_logs_each_outage(caplog: pytest.LogCaptureFixture) -> None:
    """What was back is logged again when it fails again."""
    seconds = Seconds()
    watch = Watch([Told(StoreError(), (), StoreError())], lambda _: None, seconds)
    for _ in range(3):
        watch.poll()
        seconds.now += PAUSE
        faults.forget()  # as after a second
    assert len(caplog.records) == 2


def test_watch_trusts_no_news_that_were_away() -> None:
    """What failed may have missed something, even if it says otherwise."""
    for answer in ((), {"acct_a"}, None):
        seconds = Seconds()
        dropped: list[Collection[str] | None] = []
        watch = Watch([Told(OSError(), answer)], dropped.append, seconds)
        watch.poll()
        seconds.now += PAUSE
        watch.poll()
        assert dropped == [None]


def test_watch_when_dropping_fails() -> None:
    """What could not be dropped is dropped later, with everything else."""
    seconds = Seconds()
    dropped: list[Collection[str] | None] = []

    def drop(changed: Collection[str] | None) -> None:
        dropped.append(changed)
        if len(dropped) == 1:
            raise RuntimeError("not now")

    watch = Watch([Told({"acct_a"})], drop, seconds)
    watch.poll()
    assert not watch.is_healthy
    seconds.now += PAUSE
    watch.poll()
    watch.poll()
    assert dropped == [{"acct_a"}, None]


def test_watch_closes_all(caplog: pytest.LogCaptureFixture) -> None:
    """Each is closed, even if another can't be."""

    class Stuck(Told):
        def close(self) -> None:
            raise OSError("stuck")

    last = Told()
    Watch([Stuck(), last], lambda _: None).close()
    assert last.closes == 1
    assert "stuck" in caplog.text


def test_watch_publishes_to_all(caplog: pytest.LogCaptureFixture) -> None:
    """What changes here is told everywhere, even where it can't be told somewhere else."""

    class Mute(Told):
        def publish(self, account_id: str) -> None:
            raise OSError("mute")

    last = Told()
    watch = Watch([Mute(), last], lambda _: None)
    watch.publish("acct_a")
    assert last.published == ["acct_a"]
    assert watch.is_healthy
    assert len(caplog.records) == 1


def test_watch_over_a_server_that_goes_and_comes(
    postgresql: SqlStore, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut off, the watch goes on by itself, and what changed meanwhile is dropped."""
    seconds = Seconds()
    dropped: list[Collection[str] | None] = []
    watch = Watch([postgresql.changes()], dropped.append, seconds)
    watch.poll()
    cut(postgres_url)
    postgresql.revoke("cred_a", NOW)

    def notices() -> bool:
        watch.poll()
        return not watch.is_healthy

    until(notices)
    assert dropped == [None]
    seconds.now += PAUSE
    watch.poll()
    assert watch.is_healthy
    assert dropped == [None, None]
    postgresql.set_plan("acct_b", "pro")

    def drops() -> bool:
        watch.poll()
        return len(dropped) == 3

    until(drops)
    assert set(dropped[2] or ()) == {"acct_b"}
    watch.close()
    assert len(caplog.records) == 1


# --- stores of a user's own ----------------------------------------------------------------------


class StoreWithNews(MemoryStore):
    """A store of a user's own that knows what others change."""

    def __init__(self) -> None:
        super().__init__()
        self.told = Told(None, {"acct_a"})

    def changes(self) -> Changes:
        return self.told

    async def account(self, account_id: str) -> Any:  # type: ignore[override]  # so that it is bridged
        return super().account(account_id)


def test_news_of_an_own_store() -> None:
    """A store may have news, and one with coroutines too; that in memory needs none."""
    assert open_store("memory://").changes is None
    made: Any = StoreWithNews()
    own = given(made)
    assert own.is_async
    assert own.changes is not None
    dropped: list[Collection[str] | None] = []
    watch = Watch([own.changes], dropped.append)
    watch.poll()
    watch.poll()
    assert dropped == [None, {"acct_a"}]
