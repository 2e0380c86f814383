"""What goes by a file that all workers of a machine map, as long as that is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from keyrush.errors import Away
from keyrush.limiter.ledgers.mapped.file import NoRoom
from keyrush.limiter.ledgers.mapped.records import Held, NoPlace, Records
from keyrush.limiter.ledgers.mapped.tables import Tables
from keyrush.limiter.protocol import WELL, LimiterState, Outage
from keyrush.runtime.background import Background
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault

T = TypeVar("T", bound=Records)
R = TypeVar("R")

#: Seconds for which one process may have a lock before it is taken to be stopped, and seconds that
#: a request waits at most, where it may, while processes pass a lock on to each other.
PATIENCE, LONGEST = 0.25, 2.0

#: Seconds between two tries, the first time and at most.
_PAUSE, _LONGEST_PAUSE = 0.0002, 0.01

#: Seconds between two looks at the file.
LOOK_INTERVAL = 1.0


class OverFile(Generic[T]):
    """Opens a table of `tables`, makes room in it, and answers for what it can't.

    Nothing of it is away as a whole but by a file that was deleted, replaced or cut short, and
    can't be made anew. Where another process holds the lock of some keys for long, as one that was
    stopped, the outage policy holds for these keys alone; where the file can't become larger, for
    new keys alone. A share of a limit is nothing that anybody knows: `local` is `closed` here.
    """

    def __init__(
        self,
        path: str,
        tables: Tables[T],
        outage: Outage,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self.path = path
        self._tables = tables
        self._outage: Outage = "open" if outage == "open" else "closed"
        self._clock = clock
        self._circuit = Circuit("the limiter", monotonic)
        self._room = Circuit(f"room for new {self._what}", monotonic)
        self._table: T | None = None
        self._opened_at = 0
        self._background: Background | None = None
        self._renew_lock()
        after_fork(self._renew_lock)
        self._open()

    #: Is in the file, for the log.
    _what = "records"

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()
        self._is_growing = False  # what was queued in the parent is the parent's

    def __repr__(self) -> str:
        return f"the file {self.path}"

    def _open(self) -> T:
        with self._lock:
            if self._table is None:
                self._table = self._tables.open(self.path)
                self._opened_at = self._clock()
            return self._table

    def _patiently(self, ask: Callable[[T, bool], R]) -> R:
        """What `ask` makes of the table, where one may wait: for a lock, which it is told of when
        it is asked again, or until the file is larger.

        Raises:
            Away: It can't be asked.
        """
        waiting, pause, has_waited = _Waiting(), _PAUSE, False
        while True:
            try:
                table = self._table or self._circuit.call(self._open)
                answer = ask(table, has_waited)
            except Held as held:
                if held.stripe in table.stuck or not waiting.goes_on(table, held.stripe):
                    raise Away("the limiter is away") from held
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                has_waited = True
            except NoPlace as full:
                self._room.call(table.enlarge, full.segments)
            else:
                if table.filling:
                    self._grow_soon()
                return answer

    # --- in the background ---

    def start(self, background: Background) -> None:
        self._background = background
        background.every(LOOK_INTERVAL, self.look)

    def _grow_soon(self) -> None:
        if self._background is not None and not self._is_growing:
            self._is_growing = True
            self._background.soon(self._grow)

    def _grow(self) -> None:
        """Have the next segment before one is needed: a part, and then whatever else is to be done
        in the background. Where there is no room now, it is tried again with the next look; who
        needs it meanwhile finds out, and says so.
        """
        table = self._table
        with suppress(NoRoom, OSError):
            if table is None or table.enlarge_ahead():
                self._is_growing = False
            elif self._background is not None:
                self._background.soon(self._grow)

    def look(self) -> None:
        """See whether the file is the one that it was, and whether what failed is well again."""
        table = self._table
        if table is not None and not table.file.is_current():
            self._lose(table)
        if self._table is None and not self._circuit.is_closed:
            with suppress(Away):
                self._circuit.call(self._open)
        table = self._table
        if table is not None:
            table.try_stuck()
            self._try_room(table)
            if self._is_growing:
                self._grow()
            self._tend(table)

    def _tend(self, table: T) -> None:
        """Do what is to be done besides, now and then."""

    def _lose(self, table: T) -> None:
        with self._lock:
            if self._table is not table:
                return
            self._table = None
        self._tables.close(table)
        gone = FileNotFoundError(f"{self.path} was deleted, replaced or cut short")
        log_fault(f"the {self._what} of all keys begin anew", gone)
        with suppress(Away):
            self._circuit.call(self._open)

    def _try_room(self, table: T) -> None:
        if not self._room.is_closed:
            with suppress(Away):
                while not self._room.call(table.enlarge_ahead):
                    pass

    def state(self) -> LimiterState:
        table = self._table
        if not self._circuit.is_closed:
            return LimiterState(True, self._circuit.seconds_away, self._outage)
        if table is not None and table.stuck:
            seconds = time.monotonic() - min(table.stuck.values())
            return LimiterState(True, seconds, self._outage)
        if not self._room.is_closed:
            return LimiterState(True, self._room.seconds_away, self._outage)
        return WELL

    def close(self) -> None:
        """Let go of the file. May be used again."""
        with self._lock:
            table, self._table = self._table, None
        if table is not None:
            self._tables.close(table)


class _Waiting:
    """How long a take waits for a lock, and by whom that was held all the time."""

    def __init__(self) -> None:
        self._since = self._begun = time.monotonic()
        self._held: tuple[int, int | None] | None = None

    def goes_on(self, table: Records, stripe: int) -> bool:
        """False when it has been long enough. Where one process had the lock all the time, it is
        taken to be stopped, and nobody waits for it any more.
        """
        holder, now = table.file.lock.holder(stripe), time.monotonic()
        if holder is None or self._held != (stripe, holder):
            self._held, self._since = (stripe, holder), now
        elif now - self._since >= PATIENCE:
            table.give_up(stripe)
            stopped = TimeoutError(f"process {holder} has held their lock for {PATIENCE} s")
            log_fault("some keys are counted by nobody", stopped)
            return False
        return now - self._begun < LONGEST
