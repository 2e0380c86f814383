"""What a process holds of one subject's windows: units taken ahead, or a refusal that stands."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from keyrush.core.sliding import SHARE, UNLIMITED, Tally, Window
from keyrush.limiter.shared.ledger_clock import Answer

#: Milliseconds of a process's own use that a block is meant to last, for a window of a minute and
#: more: a slow key, which comes by every few seconds, gets one too. It is the same part of one that
#: is shorter, but no less than the second figure.
HORIZON, SHORTEST = 5_000, 200

#: The part of a minute that `HORIZON` is, and the part of the horizon after which units that nobody
#: has used lie idle.
_OF_WINDOW, _IDLE = 12, 0.4

#: Milliseconds for which the rate of a subject is known that asks for nothing.
KEPT = 10_000

#: Makes a Tally in a third of the time that calling the class takes.
_tally = tuple.__new__

#: A block is asked for ahead of need when this part of the last one is left.
_LOW = 4


class Lease:
    """What a process holds of one subject's windows, and what it knows of them.

    Changed under the lock of `LeasedLimiter` alone; who asks the ledger holds `asking`, so
    that answers come in order. Instants without a word are those of `LedgerClock.instant`.
    """

    __slots__ = (
        "asked_at",
        "asking",
        "ends_at",
        "filled",
        "horizon",
        "idle",
        "idle_since",
        "left",
        "low",
        "out_until",
        "overdrawn",
        "periods",
        "ready_at",
        "refusal",
        "refused",
        "room",
        "since",
        "stale",
        "taken_at",
        "told",
        "until",
        "window",
        "windows",
    )

    def __init__(self) -> None:
        self.asking = threading.Lock()
        self.asked_at = 0
        # The units.
        self.windows: Sequence[Window] = ()
        self.periods: list[int] = []  # of the windows, when the units were taken
        self.left = 0  # units
        self.filled = 0  # units there were after the last answer
        self.low = -1  # units at which more are asked for ahead; -1: not ahead
        self.horizon = HORIZON
        self.idle = -1  # units there were at the last look
        self.idle_since = 0  # the instant of the first look at which there were as many
        self.since = self.until = 0  # when the units are good
        self.taken_at = 0  # on the ledger's clock
        # For the tally: the most constrained window, what others leave in it, and the ends.
        self.window: Window | None = None
        self.room = 0
        self.ends_at = self.ready_at = 0  # on the wall clock
        self.stale = False  # something was given back or added since, which only the ledger knows
        self.overdrawn = False  # what is given back is the ledger's then
        # A refusal.
        self.refusal: Tally = UNLIMITED
        self.refused = 0  # the cost that was refused
        self.told: Answer | None = None  # by which it was
        self.out_until = 0  # until then the ledger need not be asked

    def is_good(self, instant: int) -> bool:
        """True when its units may be used."""
        return self.since <= instant < self.until

    def has(self, windows: Sequence[Window], cost: int, instant: int) -> bool:
        """True when a take of `cost` need not ask: a look neither, unless something is stale."""
        return (
            (self.windows is windows or self.windows == windows)
            and self.since <= instant < self.until
            and self.left >= cost
            and (cost > 0 or not self.stale)
        )

    def refuses(self, windows: Sequence[Window], cost: int, instant: int) -> bool:
        """True while it is known that a take of `cost` is refused: where less was."""
        is_it = self.windows is windows or self.windows == windows
        is_out = self.since <= instant < self.out_until
        return is_it and is_out and cost >= self.refused

    def refusal_of(self, cost: int) -> Tally:
        """What a take of `cost` comes to that it `refuses`."""
        if cost == self.refused or self.told is None:
            return self.refusal
        return self.told.tally(self.windows, cost)

    def use(self, cost: int) -> Tally:
        """Take `cost` of its units, which there are."""
        left = self.left = self.left - cost
        remaining = self.room + left
        ready_at = self.ends_at if remaining else self.ready_at
        return _tally(Tally, (True, self.window, remaining, ready_at))

    def is_of_use(self, instant: int) -> bool:
        """True while it saves a call, or may: it has units, or a refusal, or its rate is known and
        there is room for a block.
        """
        is_known = self.room >= SHARE and 0 <= instant - self.asked_at < KEPT
        return self.left > 0 or instant < self.out_until or is_known

    def ahead(self, cost: int, instant: int) -> int:
        """How many units to ask for ahead: what `HORIZON` needs at the rate since the last time,
        in steps that double at most, so that a single pair of requests makes no block.
        """
        if not self.asked_at:
            return 0
        used = self.filled - self.left + cost
        elapsed = max(1, instant - self.asked_at)
        horizon = self.horizon
        if self.is_good(instant):
            horizon = min(horizon, self.until - instant)
        return max(0, min(used * horizon // elapsed, 2 * self.filled + 1))

    def is_idle(self, instant: int) -> bool:
        """True when no unit has been used for long; to be called now and then."""
        if self.left != self.idle:
            self.idle, self.idle_since = self.left, instant
        return abs(instant - self.idle_since) >= self.horizon * _IDLE

    def lose(self) -> int:
        """Hold nothing any more: how many units that leaves to be given back."""
        units, self.left = self.left, 0
        self.filled -= units  # they were not used
        self.stale = self.stale or units > 0
        return units

    def is_of(self, windows: Sequence[Window], periods: Sequence[int]) -> bool:
        """True when its units are of these windows, taken in these periods."""
        return self.periods == periods and self.windows == windows

    def turn_to(self, windows: Sequence[Window], answer: Answer) -> None:
        """Be of the windows and periods of an answer from now on. It must hold nothing."""
        self.windows, self.periods = windows, answer.periods
        shortest = min(window.length for window in windows)
        self.horizon = max(SHORTEST, min(HORIZON, shortest // _OF_WINDOW))
        self.since = answer.earliest

    def absorb(self, answer: Answer, cost: int, asked_at: int | None) -> Tally:
        """Make an answer of its windows and periods part of it, and take `cost` of that. Without
        `asked_at` only that was asked for, beside somebody who holds `asking`.
        """
        self.stale = False
        self.overdrawn = answer.is_overdrawn(self.windows)
        self._date(answer)
        self._prepare_tally(answer)
        if answer.taken.granted < cost:
            self.asked_at = asked_at or self.asked_at
            return self._refuse(answer, cost)
        self.out_until = 0
        if asked_at is None:
            self.filled += cost  # it counts as used since the last block
        else:
            self.asked_at = asked_at
            self._fill(answer.taken.granted - cost)
        remaining = self.room + self.left
        return Tally(True, self.window, remaining, self.ends_at if remaining else self.ready_at)

    def _date(self, answer: Answer) -> None:
        """Note when the units are good: until the first of the windows turns."""
        self.since = min(self.since, answer.earliest)  # the clock has stepped back
        lengths = [window.length for window in self.windows]
        starts = [period * length for period, length in zip(self.periods, lengths, strict=True)]
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        self.until = min(ends) + answer.shift
        self.taken_at = max(answer.taken.now, *starts)  # they may be held at a later period

    def _prepare_tally(self, answer: Answer) -> None:
        _, self.window, self.room, self.ready_at = answer.tally(self.windows, 0)
        assert self.window is not None  # noqa: S101  # there are windows
        length = self.window.length
        self.ends_at = (answer.taken.now // length + 1) * length + answer.wall_shift

    def _refuse(self, answer: Answer, cost: int) -> Tally:
        self.refusal = answer.tally(self.windows, cost)
        self.refused, self.told = cost, answer
        self.out_until = self.refusal.ready_at - answer.wall_shift + answer.late_shift
        self.low = -1
        return self.refusal

    def _fill(self, units: int) -> None:
        self.left += units
        self.filled = self.left
        self.low = self.left // _LOW or -1
        if self.left:
            self.idle = -1
