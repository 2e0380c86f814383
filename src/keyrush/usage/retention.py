"""How long activity is kept, also where no more of it comes."""

from __future__ import annotations

from collections.abc import Callable

from keyrush.core.times import SECOND
from keyrush.errors import Away, DataError
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.logs import log_fault
from keyrush.store.protocol import ActivityStore

#: Rows that are deleted at once: as many as counts are written, because each is looked for.
OLD = 500

#: Seconds between two looks at what is too old, once there is nothing more.
_LOOK = 60.0

#: A clock that has been set by more milliseconds is believed, as to what is too old, after so many
#: seconds: what is deleted by one that is wrong for a while does not come back.
_LEAP, _DOUBT = 3600 * SECOND, 3600.0


class Retention:
    """Deletes what is too old: rows, totals by the minute and by the hour, each after so many
    milliseconds of `kept`. `clock` gives Unix milliseconds, `monotonic` seconds, from anywhere,
    that nobody sets.
    """

    def __init__(
        self,
        store: ActivityStore,
        circuit: Circuit,
        kept: tuple[int, int, int],
        *,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._circuit = circuit
        self._kept = kept
        self._clock = clock
        self._monotonic = monotonic
        self._written = 0  # since the last look
        self._look_at = 0.0
        self._offset: int | None = None  # of the clock, from what nobody sets

    def note(self, rows: int) -> None:
        """So many have been written."""
        self._written += rows

    def forget(self) -> None:
        """Delete what is kept no longer, at most twice as much as came since; called again and
        again by one thread, so that millions of rows hold nothing up.
        """
        now, passed = self._clock(), self._monotonic()
        if self._has_leapt(now - int(passed * SECOND)):
            self._look_at = passed + _DOUBT
        if passed < self._look_at:
            return
        before = [now - kept for kept in self._kept]
        turns, self._written = 1 + 2 * self._written // OLD, 0
        try:
            for _ in range(turns):
                if not self._circuit.call(self._store.forget_activity, *before, OLD):
                    self._look_at = passed + _LOOK
                    return
        except Away:
            return
        except DataError as error:
            log_fault("activity that is too old can't be deleted", error)
            self._look_at = passed + _LOOK

    def _has_leapt(self, offset: int) -> bool:
        """Whether the clock has been set since the last time."""
        before, self._offset = self._offset, offset
        return before is not None and abs(offset - before) > _LEAP
