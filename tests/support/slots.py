"""Processes that hold slots, each driven from the test by a pipe; they may be killed or stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from keyrush.errors import Away
from keyrush.limiter.slots.protocol import RENEWAL, Slot, Slots, Want
from keyrush.runtime.clock import Clock

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
