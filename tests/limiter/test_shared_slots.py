"""Slots on a ledger that may be away, or lose an answer: none leaks, and none is forgotten."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from keyrush.core.concurrency import Want
from keyrush.errors import Away, ConfigurationError
from keyrush.limiter.ledgers.postgresql_slots import PostgresqlSlots
from keyrush.limiter.ledgers.redis.slots import RedisSlots
from keyrush.limiter.protocol import WELL, Outage
from keyrush.limiter.slots.mapped import MappedSlots
from keyrush.limiter.slots.memory import MemorySlots
from keyrush.limiter.slots.opening import open_slots
from keyrush.limiter.slots.protocol import RENEWAL, Slot
from keyrush.limiter.slots.shared import TOUCH, AwaitedSharedSlots, SharedSlots
from keyrush.runtime import clock as clocks
from keyrush.runtime.circuit import PAUSE
from keyrush.sql.engine import Database
from keyrush.sql.tables import SLOT_WORKERS
from tests.conftest import Clock
from tests.support.chores import Chores
from tests.support.faults import until
from tests.support.slots import MemorySlotLedger, outcome
from tests.support.valkey import Valkey

A = Want("cred_a:slots", 4)
B = Want("cred_b:slots", 4)

#: Milliseconds after which what was away is asked again, and after which a lease has ended.
TRIED_AGAIN, ENDED = int(PAUSE * 1000), 10_000


@pytest.fixture
def ledger(clock: Clock) -> MemorySlotLedger:
    """One that may be away."""
    return MemorySlotLedger(clock)


Make = Callable[..., SharedSlots]


@pytest.fixture
def make(ledger: MemorySlotLedger, clock: Clock) -> Make:
    """What makes processes that share it."""
    return lambda outage="closed": SharedSlots(ledger, outage, clocks.Clock.of(clock))


def held(slots: SharedSlots, *wants: Want) -> Slot:
    """What is taken, which must be there."""
    found = slots.take(wants)
    assert isinstance(found, Slot)
    return found


def back(ledger: MemorySlotLedger, clock: Clock, *processes: SharedSlots) -> None:
    """Let the ledger answer again, and all processes notice."""
    ledger.fault = None
    clock.advance(TRIED_AGAIN)
    for process in processes:
        process.renew()


# --- round trips ----------------------------------------------------------------------------------


def test_round_trips(make: Make, ledger: MemorySlotLedger, clock: Clock) -> None:
    """A take is one round trip, a refusal too; what was given back goes along with the next take,
    or alone with all else; a renewal is one, whatever is held.
    """
    slots = make()
    taken = [held(slots, A) for _ in range(4)]
    assert ledger.calls == ["renew", *["take"] * 4]
    assert slots.take([A]) == A
    slots.give_back(taken[0])
    held(slots, A)
    assert ledger.calls[5:] == ["take"] * 2
    for one in taken[1:]:
        slots.give_back(one)
    slots.give_back(held(slots, B))
    slots.settle()
    slots.settle()
    assert ledger.calls[7:] == ["take", "tell"]
    assert (ledger.counted(A.key), ledger.counted(B.key)) == (1, 0)
    clock.advance(int(RENEWAL * 1000))
    slots.renew()
    assert ledger.calls[9:] == ["renew"]


def test_who_holds_all_asks_nobody(make: Make, ledger: MemorySlotLedger) -> None:
    """Where a process holds all slots that there are it refuses without a call, however often; what
    others hold, and how many there are after one was given back, the ledger tells.
    """
    slots, other = make(), make()
    taken = [held(slots, A) for _ in range(A.most)]
    before = len(ledger.calls)
    assert [slots.take_at_once([B, A]) for _ in range(9)] == [A] * 9
    fewer = A._replace(most=2)
    assert slots.take_at_once([fewer]) == fewer
    assert slots.take_at_once([A._replace(most=5)]) is None
    assert len(ledger.calls) == before
    assert other.take_at_once([A]) is None
    assert other.take([A]) == A
    slots.give_back(taken[0])
    slots.settle()
    assert slots.take_at_once([A]) is None
    held(other, A)
    assert slots.take([A]) == A


def test_told_in_the_background(make: Make, ledger: MemorySlotLedger, clock: Clock) -> None:
    """What is given back is told at once, once for all that came meanwhile."""
    slots, chores = make(), Chores()
    slots.start(chores)
    assert chores.again == {slots.renew: RENEWAL, slots.touch: TOUCH}
    for one in [held(slots, A) for _ in range(3)]:
        slots.give_back(one)
    assert len(chores.jobs) == 1
    chores.work_off()
    assert ledger.held == {}
    one = held(slots, A)
    slots.touch()
    assert ledger.calls[-1] == "tell"
    assert ledger.counted(A.key) == 1
    slots.give_back(one)
    chores.work_off()
    assert ledger.held == {}


def test_who_has_ended_is_looked_for_once(
    make: Make, ledger: MemorySlotLedger, clock: Clock
) -> None:
    """Who is refused because of a process that is not known to be at work asks who is: one that has
    just begun keeps its slots, one that has ended loses them.
    """
    one, two = make(), make()
    one.renew()
    for _ in range(4):
        held(two, A)
    ledger.calls.clear()
    assert one.take([A]) == A
    assert ledger.calls == ["take", "renew"]
    assert one.take([A]) == A
    assert ledger.calls == ["take", "renew", "take"]
    for _ in range(5):
        clock.advance(int(RENEWAL * 1000))
        one.renew()
    ledger.calls.clear()
    held(one, A)
    assert ledger.calls == ["take", "renew", "take"]
    ledger.fault = "before"
    assert outcome(lambda: one.take([A])) is Away


# --- outages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_lost_answer_leaks_nothing(
    make: Make, ledger: MemorySlotLedger, clock: Clock, fault: str
) -> None:
    """Whether a take whose answer is lost was made, nobody knows: it holds nothing afterwards, and
    what is held besides is.
    """
    one, two = make(), make()
    kept = held(one, A)
    ledger.fault = fault  # type: ignore[assignment]  # one of the two
    assert outcome(lambda: one.take([A])) is Away
    assert outcome(lambda: one.take_at_once([A])) is Away
    back(ledger, clock, one, two)
    assert ledger.counted(A.key) == 1
    three = [held(two, A) for _ in range(3)]
    assert two.take([A]) == A
    one.give_back(kept)
    for slot in three:
        two.give_back(slot)
    one.flush()
    two.flush()
    assert ledger.counted(A.key) == 0


@pytest.mark.parametrize("fault", ["before", "after"])
def test_given_back_while_the_ledger_is_away(
    make: Make, ledger: MemorySlotLedger, clock: Clock, fault: str
) -> None:
    """What can't be told then is told later, and no more is than was given back."""
    slots = make()
    taken = [held(slots, A, B) for _ in range(3)]
    ledger.fault = fault  # type: ignore[assignment]  # one of the two
    slots.give_back(taken[0])
    slots.settle()
    slots.give_back(taken[1])
    slots.give_back(taken[1])
    slots.settle()
    back(ledger, clock, slots)
    assert (ledger.counted(A.key), ledger.counted(B.key)) == (1, 1)


def test_a_lease_that_has_ended(
    make: Make, ledger: MemorySlotLedger, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a lease ends while its process goes on, as after a long outage, what it holds counts
    again, beyond the maximum if need be; and that is said.
    """
    one, two = make(), make()
    mine = [held(one, A) for _ in range(3)]
    clock.advance(ENDED)
    others = [held(two, A) for _ in range(4)]
    with caplog.at_level(logging.ERROR):
        one.renew()
    assert "slots did not count for a while, and do so again" in caplog.text
    assert ledger.counted(A.key) == 7
    for slot in [*mine, *others]:
        (one if slot in mine else two).give_back(slot)
    one.flush()
    two.flush()
    assert ledger.counted(A.key) == 0
    assert ledger.seen.keys() == {one._book.life.worker, two._book.life.worker}  # noqa: SLF001  # nothing else tells


def test_closed(make: Make, ledger: MemorySlotLedger) -> None:
    """S19: where the policy is `closed`, nobody gets a slot that nothing counts."""
    slots = make("closed")
    ledger.fault = "before"
    assert outcome(lambda: slots.take([A])) is Away
    assert slots.state().is_away
    assert slots.state().meanwhile == "closed"


def test_open(make: Make, ledger: MemorySlotLedger, clock: Clock) -> None:
    """Where it is `open`, everybody does; what is held when the ledger answers then counts."""
    slots = make("open")
    ledger.fault = "before"
    taken = [held(slots, A) for _ in range(6)]
    assert isinstance(slots.take_at_once([A]), Slot)
    slots.give_back(taken[0])
    back(ledger, clock, slots)
    assert ledger.counted(A.key) == 6
    assert slots.take([A]) == A
    assert slots.state().is_away is False


def test_local(make: Make, ledger: MemorySlotLedger, clock: Clock) -> None:
    """Where it is `local`, a process may hold its share; one that is too small for that is 503."""
    one, two, three = make("local"), make("local"), make("local")
    for process in (one, two, three, one, two, three):
        process.renew()
    held(one, A)
    ledger.fault = "before"
    counts = []
    for process in (one, two, three):
        found = [outcome(partial(process.take, [A])) for _ in range(4)]
        counts.append(sum(isinstance(slot, Slot) for slot in found))
        assert found[-1] == A
    assert sum(counts) == 3  # and the one that was held
    tiny = [outcome(partial(process.take, [B._replace(most=1)])) for process in (one, two, three)]
    assert tiny.count(Away) == 2
    back(ledger, clock, one, two, three)
    assert ledger.counted(A.key) == 4
    stranger = make("local")
    ledger.fault = "before"
    assert outcome(lambda: stranger.take([A])) is Away


class Course:
    """Three processes, and what they hold."""

    def __init__(self, outage: Outage) -> None:
        self.clock = Clock()
        self.ledger = MemorySlotLedger(self.clock)
        clock = clocks.Clock.of(self.clock)
        self.processes = [SharedSlots(self.ledger, outage, clock) for _ in range(3)]
        self.taken: dict[Slot, SharedSlots] = {}

    def step(self, data: st.DataObject, longest: int) -> None:
        """Have one of them do something, and maybe the ledger fail."""
        self.ledger.fault = data.draw(st.sampled_from([None, None, None, "before", "after"]))
        process = data.draw(st.sampled_from(self.processes))
        which = data.draw(st.integers(0, 63))  # whatever there is: shares go by names, at random
        match data.draw(st.sampled_from(["take", "take", "back", "settle", "renew", "wait"])):
            case "take":
                wants = data.draw(st.sampled_from([[A], [B], [A, B]]))
                found = outcome(partial(process.take, wants))
                if isinstance(found, Slot):
                    self.taken[found] = process
            case "back" if self.taken:
                slot = list(self.taken)[which % len(self.taken)]
                self.taken.pop(slot).give_back(slot)
            case "settle":
                process.settle()
            case "renew":
                process.renew()
            case "wait":
                self.clock.advance(data.draw(st.integers(1, longest)))

    def count(self, want: Want) -> int:
        """Slots of a subject that are held."""
        return sum(want in slot.wants for slot in self.taken)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["closed", "local", "open"]), st.booleans(), st.data())
def test_schedules_with_faults(outage: Outage, stands_still: bool, data: st.DataObject) -> None:
    """Whatever is lost, and whenever: in the end the ledger counts what is held, no more, no less;
    and where the policy is `closed` never more is granted than there is.
    """
    course = Course(outage)
    for _ in range(data.draw(st.integers(1, 40))):
        course.step(data, 20_000 if stands_still else 100)  # of which 40 are no lease's end
        if outage == "closed" and not stands_still:
            assert all(course.count(want) <= want.most for want in (A, B))
    back(course.ledger, course.clock, *course.processes, *course.processes)
    for process in course.processes:
        process.flush()
    for want in (A, B):
        assert course.ledger.counted(want.key) == course.count(want)


# --- event loops ----------------------------------------------------------------------------------


@pytest.fixture(params=["valkey", "postgresql"])
def awaited(request: pytest.FixtureRequest) -> AwaitedSharedSlots:
    """Slots on real servers."""
    if request.param == "valkey":
        return AwaitedSharedSlots(RedisSlots(request.getfixturevalue("valkey_url")), "closed")
    database = Database(request.getfixturevalue("postgres_url"))
    return AwaitedSharedSlots(PostgresqlSlots(database), "closed")


def test_awaited(awaited: AwaitedSharedSlots) -> None:
    """On an event loop slots are taken without a thread, once the process has a lease."""

    async def use() -> None:
        assert await awaited.take_async([A]) is None
        awaited.renew()
        taken = await asyncio.gather(*(awaited.take_async([A, B]) for _ in range(6)))
        slots = [one for one in taken if isinstance(one, Slot)]
        assert len(slots) == 4
        assert taken.count(A) == 2
        awaited.give_back(slots[0])
        assert isinstance(await awaited.take_async([A]), Slot)
        assert isinstance(await awaited.take_async([]), Slot)

    asyncio.run(use())
    awaited.close()


def test_cancelled(awaited: AwaitedSharedSlots) -> None:
    """A client that leaves while its slot is taken, at whatever moment, leaves none behind."""
    chores = Chores()
    awaited.start(chores)
    awaited.renew()

    async def leave(turns: int) -> None:
        task = asyncio.ensure_future(awaited.take_async([A]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        found = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(found, Slot):  # it came first
            awaited.give_back(found)

    async def use() -> None:
        for turns in range(12):
            await asyncio.gather(*(leave(turns) for _ in range(3)))
        last = await awaited.take_async([B])  # whose answer comes after all others
        assert isinstance(last, Slot)

    asyncio.run(use())
    chores.work_off()
    assert [isinstance(awaited.take([A]), Slot) for _ in range(5)] == [True] * 4 + [False]
    awaited.close()


def test_a_server_that_is_gone(own_valkey: Valkey) -> None:
    """What is held counts again on a server that was started anew, with nothing on it."""
    slots, other = (AwaitedSharedSlots(RedisSlots(own_valkey.url), "closed") for _ in range(2))
    for _ in range(3):
        held(slots, A)
    own_valkey.kill()
    assert outcome(lambda: slots.take([A])) is Away
    own_valkey.restart()

    def is_back() -> bool:
        slots.renew()
        return not slots.state().is_away

    until(is_back)
    held(other, A)
    assert other.take([A]) == A
    slots.close()
    other.close()


# --- opening --------------------------------------------------------------------------------------


def test_opened_where_windows_are(tmp_path: Path, valkey_url: str, postgres_url: str) -> None:
    """Slots are kept where windows are counted: in a file beside theirs, or the same server."""
    sqlite = Database(f"sqlite:///{tmp_path}/keyrush.db")
    beside = open_slots("store", sqlite).slots
    assert isinstance(beside, MappedSlots)
    assert beside.path == f"{tmp_path}/keyrush.db-slots"
    named = open_slots(f"file://{tmp_path}/windows").slots
    assert repr(named) == f"the file {tmp_path}/windows-slots"
    for opened in (open_slots("memory://"), open_slots("store")):
        assert isinstance(opened.slots, MemorySlots)
        assert not opened.is_shared
    for url, database in ((valkey_url, None), ("store", Database(postgres_url))):
        opened = open_slots(url, database)
        assert opened.awaited is opened.slots
        assert opened.slots.state() == WELL
        opened.slots.close()
    for slots in (beside, named):
        slots.close()
    sqlite.close()


@pytest.mark.parametrize("url", ["limits+memory://", "memcached://localhost", "package:Class"])
def test_not_everywhere(url: str) -> None:
    """Storages of `limits`, and a limiter of one's own, keep no slots, as is said at once."""
    with pytest.raises(ConfigurationError, match="KEYRUSH_LIMITER_URL: max_concurrent"):
        open_slots(url)


def test_a_take_after_the_lease_has_ended(postgres_url: str) -> None:
    """On PostgreSQL a take of a process whose lease has ended meanwhile is refused as an outage is,
    though it is none: the next one passes, and what it holds besides counts again.
    """
    database = Database(postgres_url)
    slots, other = (SharedSlots(PostgresqlSlots(database), "closed") for _ in range(2))
    held(slots, A)
    with database.engine.begin() as connection:
        connection.execute(sa.delete(SLOT_WORKERS))
    assert outcome(lambda: slots.take([B])) is Away
    assert slots.state().is_away is False
    held(slots, B)
    slots.settle()
    for _ in range(3):
        held(other, A)
    assert other.take([A]) == A
    slots.close()
    other.close()
