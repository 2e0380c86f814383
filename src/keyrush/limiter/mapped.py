"""Windows of one machine, in a file that all its workers map: exact, on the caller's thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from keyrush.core import sliding
from keyrush.core.sliding import Tally, Window
from keyrush.errors import Away
from keyrush.limiter.ledgers.mapped.file import NoRoom
from keyrush.limiter.ledgers.mapped.table import Held, NoPlace, Table
from keyrush.limiter.ledgers.mapped.tables import close_table, open_table
from keyrush.limiter.protocol import WELL, LimiterState, Outage
from keyrush.runtime.background import Background
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.clock import now_ms
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault

#: Seconds for which one process may have a lock before it is taken to be stopped, and seconds that
#: a request waits at most, where it may, while processes pass a lock on to each other.
PATIENCE, LONGEST = 0.25, 2.0

#: Seconds between two tries, the first time and at most.
_PAUSE, _LONGEST_PAUSE = 0.0002, 0.01

#: Seconds between two looks at the file.
LOOK_INTERVAL = 1.0

#: What is to be given back and could not be yet; the oldest is forgotten, so that it counts.
_OWED = 10_000


class MappedLimiter:
    """`file:///…`. Safe to use from any thread. `clock` gives Unix milliseconds.

    Nothing of it is away as a whole but by a file that was deleted, replaced or cut short, and
    can't be made anew. Where another process holds the lock of some keys for long, as one that was
    stopped, the outage policy holds for these keys alone; where the file can't become larger, for
    new keys alone. A share of a limit is nothing that anybody knows: `local` is `closed` here.

    Raises:
        Unusable: The file can't be used.
    """

    def __init__(
        self,
        path: str,
        outage: Outage = "local",
        clock: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._outage: Outage = "open" if outage == "open" else "closed"
        self._clock = clock
        self._circuit = Circuit("the limiter", monotonic)
        self._room = Circuit("room for new windows", monotonic)
        self._owed: deque[tuple[Sequence[Window], int, int]] = deque(maxlen=_OWED)
        self._uncounted: dict[int, int] = {}  # when takes passed last that nothing has counted
        self._table: Table | None = None
        self._opened_at = 0
        self._background: Background | None = None
        self._renew_lock()
        after_fork(self._renew_lock)
        self._open()

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()
        self._is_growing = False  # what was queued in the parent is the parent's

    def __repr__(self) -> str:
        return f"the file {self.path}"

    def _open(self) -> Table:
        with self._lock:
            if self._table is None:
                self._table = open_table(self.path)
                self._opened_at = self._clock()
            return self._table

    # --- taking and giving back ---

    def take_at_once(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        table = self._table
        if table is None:
            return self._without(windows, now) if self._circuit.is_open else None
        try:
            tally = table.take(windows, cost, now, self._clock)
        except Held as held:
            return self._without(windows, now) if held.stripe in table.stuck else None
        except NoPlace:
            return self._without(windows, now) if self._room.is_open else None
        if table.filling:
            self._grow_soon()
        return tally

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        """`take_at_once`, where one may wait: for a lock, or until the file is larger."""
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        waiting, pause = _Waiting(), _PAUSE
        while True:
            try:
                table = self._table or self._circuit.call(self._open)
                tally = table.take(windows, cost, now, self._clock)
            except Held as held:
                if held.stripe not in table.stuck and waiting.goes_on(table, held.stripe):
                    time.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    now = max(now, self._clock())
                    continue
            except NoPlace as full:
                with suppress(Away):
                    self._room.call(table.enlarge, full.segments)
                    continue
            except Away:
                pass
            else:
                if table.filling:
                    self._grow_soon()
                return tally
            return self._without(windows, now)

    def _without(self, windows: Sequence[Window], now: int) -> Tally:
        """The answer of the outage policy."""
        if self._outage == "closed":
            raise Away("the limiter is away")
        slot = _slot(windows)
        self._uncounted[slot] = max(now, self._uncounted.get(slot, now))
        return sliding.take(windows, {}, 0, now)[0]

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        if windows and taken_at > self._uncounted.get(_slot(windows), -1):
            self._return(windows, cost, taken_at)

    def _return(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        table = self._table
        if table is None or not self.counts(taken_at):
            return
        try:
            table.give_back(windows, cost, taken_at)
        except Held:
            self._owed.append((windows, cost, taken_at))

    def counts(self, taken_at: int) -> bool:
        """False where a take at `taken_at` may have been counted in a file that is gone."""
        return taken_at >= self._opened_at

    def _settle(self) -> None:
        for _ in range(len(self._owed)):
            self._return(*self._owed.popleft())

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
            self._settle()

    def _lose(self, table: Table) -> None:
        with self._lock:
            if self._table is not table:
                return
            self._table = None
        close_table(table)
        gone = FileNotFoundError(f"{self.path} was deleted, replaced or cut short")
        log_fault("the windows of all keys begin anew", gone)
        with suppress(Away):
            self._circuit.call(self._open)

    def _try_room(self, table: Table) -> None:
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

    def flush(self) -> None:
        """Give back what could not be given back yet."""
        self._settle()

    def close(self) -> None:
        """`flush`, and let go of the file. May be used again."""
        self._settle()
        with self._lock:
            table, self._table = self._table, None
        if table is not None:
            close_table(table)


class _Waiting:
    """How long a take waits for a lock, and by whom that was held all the time."""

    def __init__(self) -> None:
        self._since = self._begun = time.monotonic()
        self._holder: int | None = None

    def goes_on(self, table: Table, stripe: int) -> bool:
        """False when it has been long enough. Where one process had the lock all the time, it is
        taken to be stopped, and nobody waits for it any more.
        """
        holder, now = table.file.lock.holder(stripe), time.monotonic()
        if holder is None or holder != self._holder:
            self._holder, self._since = holder, now
        elif now - self._since >= PATIENCE:
            table.give_up(stripe)
            stopped = TimeoutError(f"process {holder} has held their lock for {PATIENCE} s")
            log_fault("some keys are counted by nobody", stopped)
            return False
        return now - self._begun < LONGEST


def _slot(windows: Sequence[Window]) -> int:
    """Few numbers for all subjects, so that what is remembered by them is bounded."""
    return hash(windows[0].key) % 1024
