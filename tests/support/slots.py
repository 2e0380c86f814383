"""Processes that hold slots, each driven from the test by a pipe; they may be killed or stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from keyrush.core.concurrency import Want
from keyrush.errors import Away
from keyrush.limiter.slots.ledger import SlotAnswer, SlotCall, Standing
from keyrush.limiter.slots.protocol import LEASE, RENEWAL, Slot, Slots
from keyrush.runtime.clock import Clock
from tests.support.ledgers import Fault

#: Milliseconds between two renewals.
STEP = int(RENEWAL * 1000)

#: Where all clocks begin.
START = 1_795_000_020_000


class Renewed(Slots, Protocol):
    """Slots whose lease is renewed by the test."""

    def renew(self) -> None:
        """As it is done in the background."""
        ...


Make = Callable[[Clock], Renewed]


class Process:
    """One that holds slots. What it has taken goes by numbers here."""

    def __init__(self, make: Make, now: int) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self.pid = os.fork()
        if not self.pid:
            _serve(theirs, make, now)
        theirs.close()

    def _ask(self, *message: Any) -> Any:
        self._pipe.send(message)
        answer = self._pipe.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def take(self, *wants: Want) -> int | str:
        """The number of what was taken, or the key of which there is none left."""
        taken: int | str = self._ask("take", wants)
        return taken

    def give_back(self, number: int) -> None:
        """And tell of it."""
        self._ask("give_back", number)

    def set_clock(self, now: int) -> None:
        """Set its clock."""
        self._ask("clock", now)

    def renew(self) -> None:
        """Renew its lease."""
        self._ask("renew")

    def stop(self) -> None:
        """Stop it from doing anything."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Have it end well."""
        self._ask("close")
        self._end()

    def kill(self) -> None:
        """End it without warning."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self._end()

    def _end(self) -> None:
        os.waitpid(self.pid, 0)
        self.pid = 0
        self._pipe.close()


def _serve(pipe: Any, make: Make, now: int) -> None:
    """Be a process, until the pipe ends."""
    try:
        time = [now]
        slots = make(Clock.of(lambda: time[0]))
        taken: list[Slot] = []
        while True:
            operation, *values = pipe.recv()
            answer: Any = None
            try:
                match operation:
                    case "clock":
                        time[:] = values
                    case "take":
                        answer = _take(slots, values[0], taken)
                    case "give_back":
                        slots.give_back(taken[values[0]])
                        slots.flush()
                    case "renew":
                        slots.renew()
                    case "close":
                        slots.close()
            except Exception as error:
                answer = error
            pipe.send(answer)
            if operation == "close":
                return
    except EOFError:
        pass
    finally:
        os._exit(0)


def _take(slots: Slots, wants: Sequence[Want], taken: list[Slot]) -> int | str:
    found = slots.take_at_once(wants) or slots.take(wants)
    if isinstance(found, Want):
        return found.key
    taken.append(found)
    return len(taken) - 1


class World:
    """Processes that share slots, and their clock."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self.now = START
        self.processes: list[Process] = []

    def process(self) -> Process:
        """A new one."""
        self.processes.append(Process(self._make, self.now))
        return self.processes[-1]

    def go_on(self, milliseconds: int, *but: Process) -> None:
        """Let time pass, in which all renew their leases, but for those that are named."""
        end = self.now + milliseconds
        while self.now < end:
            self.now = min(end, self.now + STEP)
            going = [one for one in self.processes if one.pid and one not in but]
            for process in going:
                process.set_clock(self.now)
            for process in going:
                process.renew()

    def close(self) -> None:
        """End them all."""
        for process in self.processes:
            process.kill()


def taken(process: Process, *wants: Want) -> int:
    """What it takes, which must be there."""
    found = process.take(*wants)
    assert isinstance(found, int), found
    return found


def is_full(process: Process, *wants: Want) -> bool:
    """Whether it is refused."""
    return isinstance(process.take(*wants), str)


def outcome(take: Callable[[], object]) -> object:
    """What it comes to, `Away` where it can't be told."""
    try:
        return take()
    except Away:
        return Away


class MemorySlotLedger:
    """A ledger of slots in memory, on which several `SharedSlots` of one process act as if they
    were processes. Counts its calls; with `fault` set, each fails before or after its effect.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        self.calls: list[str] = []
        self.fault: Fault | None = None
        self.held: dict[tuple[str, str], int] = {}  # by subject and worker
        self.seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def _fail(self, when: Fault) -> None:
        if self.fault == when:
            raise ConnectionError("the ledger is away")

    def renew(self, worker: str, retired: Sequence[str]) -> Standing:
        with self._lock:
            self.calls.append("renew")
            self._fail("before")
            now = self.clock()
            ended = {name for name, at in self.seen.items() if now - at >= LEASE * 1000}
            for name in {*ended, *retired}:
                self.seen.pop(name, None)
            was_there = worker in self.seen
            self.seen[worker] = now
            self._fail("after")
            return Standing(was_there, sorted(self.seen))

    def parts(self, wants: Sequence[Want]) -> Sequence[Sequence[Want]]:
        return [wants]

    def portions(self, keys: Sequence[str]) -> Sequence[Sequence[str]]:
        return [keys]

    def ask(self, call: SlotCall) -> SlotAnswer:
        with self._lock:
            self.calls.append("take" if call.wants else "tell")
            self._fail("before")
            for key, worker in list(self.held):
                if worker in call.gone and key in {want.key for want in call.wants}:
                    del self.held[key, worker]
            for key, count in call.changes:
                self._add(key, call.worker, count)
            answer = self._take(call)
            self._fail("after")
            return answer

    def _take(self, call: SlotCall) -> SlotAnswer:
        for number, want in enumerate(call.wants):
            holders = {worker: n for (key, worker), n in self.held.items() if key == want.key}
            if sum(holders.values()) >= want.most:
                return SlotAnswer(number, list(holders))
        for want in call.wants:
            self._add(want.key, call.worker, 1)
        return SlotAnswer(-1)

    def _add(self, key: str, worker: str, count: int) -> None:
        self.held[key, worker] = self.held.get((key, worker), 0) + count
        assert self.held[key, worker] >= 0
        if not self.held[key, worker]:
            del self.held[key, worker]

    def counted(self, key: str) -> int:
        """Slots of a subject that those hold who are at work."""
        return sum(
            n for (its, worker), n in self.held.items() if its == key and worker in self.seen
        )

    def close(self) -> None:
        """Nothing to let go of."""
