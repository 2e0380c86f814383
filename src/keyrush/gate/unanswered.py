"""Calls of MCP sessions that nobody has seen the answer of, by their ids.

Servers tell the answers of a session apart by the ids alone, and some take 1 and "1" for the same.
Where two calls have one id, the answer to one comes as the other's: a dear call would be given back
for the failure of a cheap one, and its result be had for the price of that. So an id is taken
until its answer has been seen. A server has a session in one process, and its gate sees them all.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable

from keyrush.core.times import SECOND
from keyrush.runtime.forks import after_fork

#: Milliseconds for which an id stays taken whose answer nobody has waited for: the call may go on.
LASTS = 3600 * SECOND

#: Of these in this process; each is a request, so that they come no faster than requests may.
_REMEMBERED = 100_000


class Unanswered:
    """Ids of calls, by names that say the session, too. Safe to use from any thread."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._renew()
        after_fork(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        #: For whose answer somebody waits, and whether the client has given them up.
        self._waiting: dict[str, bool] = {}
        self._left: OrderedDict[str, int] = OrderedDict()  # nobody does; until when they are taken

    def take(self, names: Collection[str]) -> bool:
        """Take the names, unless one of them is taken."""
        now = self._clock()
        with self._lock:
            if any(one in self._waiting or self._left.get(one, 0) > now for one in names):
                return False
            self._waiting.update(dict.fromkeys(names, False))
            for one in names:
                self._left.pop(one, None)
            return True

    def give_up(self, names: Iterable[str]) -> None:
        """The client has ended these calls."""
        with self._lock:
            self._waiting.update({one: True for one in names if one in self._waiting})

    def give_up_session(self, session: str) -> None:
        """The same of all that begin with its name."""
        with self._lock:
            names = [one for one in self._waiting if one.startswith(f"{session} ")]
        self.give_up(names)

    def are_given_up(self, names: Iterable[str]) -> bool:
        """Whether the client has ended one of these calls, while it waited for the answer."""
        return any(self._waiting.get(one, False) for one in names)

    def end(self, names: Iterable[str], *, are_answered: bool) -> None:
        """Nobody waits any more for the answers, which have been seen or not."""
        now = self._clock()
        with self._lock:
            for one in names:
                self._waiting.pop(one, None)
                if not are_answered:
                    self._left[one] = now + LASTS
            while self._left:  # in the order in which they end
                first, ends_at = next(iter(self._left.items()))
                if ends_at > now and len(self._left) <= _REMEMBERED:
                    break
                del self._left[first]
