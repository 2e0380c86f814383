"""How often a caller may come to a resource of MCP, whatever for.

Lists, the beginning of a session and its like spend no window: a client that is refused there
takes the server for an older one, or starts anew. And what a message is shows only once it has
been read. So every request to a resource counts here, before anything of its body is read: ten
times as many may come as the plan allows requests, which a client does that sends nothing but
what is free. In this process alone, from memory.
"""

from __future__ import annotations

import threading

from keyrush.core import sliding
from keyrush.core.identity import Verified
from keyrush.core.sliding import Tally
from keyrush.limiter.counters import WindowCounts
from keyrush.runtime.forks import after_fork

#: How many may come for each request of the plan.
TIMES = 10


class Courtesy:
    """Who has come to resources how often. Safe to use from any thread."""

    def __init__(self) -> None:
        self._counters = WindowCounts()
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def take(self, verified: Verified, now: int) -> Tally | None:
        """One more of the caller: None, or the tally where there have been too many."""
        if verified.is_observed:
            return None
        wanted = [
            window._replace(key=f"any:{window.key}", amount=window.amount * TIMES)
            for window in verified.windows
        ]
        with self._lock:
            tally, changes = sliding.take(wanted, self._counters, 1, now)
            self._counters.put(changes, wanted, now)
        return None if tally.admitted else tally
