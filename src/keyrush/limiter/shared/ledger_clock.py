"""The ledger's clock, which may be another machine's, as far as one process can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keyrush.core import sliding
from keyrush.core.sliding import Taken, Tally, Window
from keyrush.runtime.clock import Clock
from keyrush.runtime.forks import after_fork


@dataclass(frozen=True, slots=True)
class Answer:
    """What the ledger said. The shifts turn its instants into those of this process.

    Between asking and hearing, this process doesn't know when the ledger's clock was read.
    Adding `shift` gives the earliest instant that it can have been on the clock of
    `LedgerClock.instant`, by which units expire; adding `late_shift` gives the latest, and
    adding `wall_shift` the same on the wall clock, by which a client that waits until then is
    not too early.
    """

    taken: Taken
    shift: int = 0
    late_shift: int = 0
    wall_shift: int = 0

    @property
    def periods(self) -> list[int]:
        """Of the windows, the periods that they are in."""
        return [counter[0] for counter in self.taken.counters]

    @property
    def earliest(self) -> int:
        """The earliest instant at which it can have been given."""
        return self.taken.now + self.shift

    def is_overdrawn(self, windows: Sequence[Window]) -> bool:
        """Whether more counts against one of the windows than it allows, as what was added may."""
        return any(
            sliding.used(counter, window.length, self.taken.now) > window.amount
            for window, counter in zip(windows, self.taken.counters, strict=True)
        )

    def tally(self, windows: Sequence[Window], cost: int) -> Tally:
        """The tally of a take of `cost`, on the wall clock."""
        tally = sliding.tally(windows, self.taken, cost)
        return tally._replace(ready_at=tally.ready_at + self.wall_shift)


class LedgerClock:
    """Turns instants of this process into the ledger's; all are milliseconds.

    Needs no lock: what is known is one number, and whoever writes it has it from an answer.
    """

    def __init__(self, clock: Clock, *, is_own: bool) -> None:
        self.wall = clock.now  #: gives the wall clock's Unix milliseconds
        self.is_own = is_own  #: False where the ledger goes by the wall clock of whoever calls
        self._monotonic = clock.monotonic
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        #: What an instant is ahead of the ledger's, at most; None until the ledger has answered.
        self._late_shift: int | None = None

    @property
    def is_known(self) -> bool:
        """True where it can be told what the ledger's clock shows."""
        return not self.is_own or self._late_shift is not None

    def instant(self, now: int | None = None) -> int:
        """The instant that it is, on the clock by which units expire: the wall clock, `now` where
        it has been read already, if the ledger goes by it; else one that nobody can set.
        """
        if self.is_own:
            return int(self._monotonic() * 1000)
        return self.wall() if now is None else now

    def ledger_time(self, at: int) -> int:
        """The instant `at` of the wall clock on the ledger's, rather too early than too late. As
        long as that is not known, the wall clock stands in for it.
        """
        if self._late_shift is None:
            return at
        return at - self.wall() + self.instant() - self._late_shift

    def heard(self, taken: Taken, asked_at: float) -> Answer:
        """The answer to what was asked when the monotonic clock showed `asked_at` seconds."""
        if not self.is_own:
            return Answer(taken)
        wall = self.wall()
        # Both instants are cut to milliseconds: the difference may be one less, or one more.
        earliest = int(asked_at * 1000) - taken.now - 1
        late_shift = self.instant() - taken.now
        latest, known = late_shift + 1, self._late_shift
        if known is None or not earliest <= known <= latest:  # known better, or set anew
            self._late_shift = latest
        return Answer(taken, earliest, late_shift, wall - taken.now)
