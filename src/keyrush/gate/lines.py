"""Lines of requests that wait for a window, in the order in which they came."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from keyrush.core.refusal import Refusal
from keyrush.core.sliding import UNLIMITED, Tally
from keyrush.runtime.bells import Bell
from keyrush.runtime.forks import after_fork

#: Requests that wait at most, in one process: a few kilobytes each, beside what the server holds.
MOST = 10_000

#: Those of one account among them, so that nobody takes the places of all others.
MOST_OF_ONE = 1_000


@dataclass(frozen=True, slots=True)
class Full(Refusal):
    """429 by a window, whose fields it has; the `tally` says until when. The request may wait."""

    tally: Tally = UNLIMITED


class Place:
    """Of one request among those that wait. It stands in one line, or in none."""

    __slots__ = ("account_id", "bell", "keys", "line", "number")

    def __init__(self, number: int, account_id: str, keys: Sequence[str], bell: Bell) -> None:
        self.number = number  #: those that came earlier have lower ones
        self.account_id = account_id
        self.keys = keys  #: of all windows that it takes from
        self.bell = bell  #: rings when it may be its turn
        self.line: Line | None = None


class Line:
    """Who waits for one window; never empty. The `tally` is what the first was refused by."""

    __slots__ = ("key", "places", "tally")

    def __init__(self, key: str, tally: Tally) -> None:
        self.key = key
        self.tally = tally
        self.places: list[Place] = []


def _number(place: Place) -> int:
    return place.number


class Lines:
    """All lines of a process, by the keys of their windows. Safe to use from any thread.

    Whoever takes from a window for which somebody waits who came earlier stands behind them. So
    whoever came first of all is behind nobody, whatever each of them waits for.
    """

    def __init__(self) -> None:
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, Line] = {}
        self._of: Counter[str] = Counter()  # places in lines, by account
        self._all = 0
        self._number = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._all

    def enter(self, account_id: str, keys: Sequence[str], bell: Bell) -> Place:
        """A place for one that has come just now and stands in no line yet; `leave` ends it."""
        with self._lock:
            self._number += 1
            return Place(self._number, account_id, keys, bell)

    def follow(self, place: Place) -> Line | None:
        """Have it stand in a line where others were earlier, if there is one: that line. Where no
        room is left it stands in none.
        """
        with self._lock:
            for key in place.keys:
                line = self._lines.get(key)
                if line is not None and line.places[0].number < place.number:
                    self._stand(place, key, line.tally)
                    return line
        return None

    def wait_for(self, place: Place, tally: Tally) -> bool:
        """Have it stand in the line for the window that has refused it, as its `tally` says. False
        where no room is left.
        """
        assert tally.window is not None  # noqa: S101  # without one nothing refuses
        with self._lock:
            if not self._stand(place, tally.window.key, tally):
                return False
            self._lines[tally.window.key].tally = tally
            return True

    def is_first(self, place: Place) -> bool:
        """Whether it is the first of its line."""
        with self._lock:
            return place.line is not None and place.line.places[0] is place

    def leave(self, place: Place) -> None:
        """It waits no more."""
        with self._lock:
            if place.line is not None:
                self._step_out(place)
                self._all -= 1
                self._of[place.account_id] -= 1
                if not self._of[place.account_id]:
                    del self._of[place.account_id]

    def ring(self) -> None:
        """Have all that wait look anew."""
        with self._lock:
            for line in self._lines.values():
                for place in line.places:
                    place.bell.ring()

    # --- with the lock held ---

    def _stand(self, place: Place, key: str, tally: Tally) -> bool:
        if place.line is None:
            if self._all >= MOST or self._of[place.account_id] >= MOST_OF_ONE:
                return False
            self._all += 1
            self._of[place.account_id] += 1
        elif place.line.key == key:
            return True
        else:
            self._step_out(place)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key, tally)
        insort(line.places, place, key=_number)
        place.line = line
        return True

    def _step_out(self, place: Place) -> None:
        line, place.line = place.line, None
        assert line is not None  # noqa: S101  # who asks has seen that
        at = bisect_left(line.places, place.number, key=_number)
        del line.places[at]
        if not line.places:
            del self._lines[line.key]
        elif not at:
            line.places[0].bell.ring()
