"""What goes on for long, so many times at once and no more."""

from __future__ import annotations

import threading


class Turns:
    """So many of each at once. Safe to call from any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._taken: dict[str, int] = {}

    def take(self, who: str) -> bool:
        """One more for them, to be given back; False where they have as many as there may be."""
        with self._lock:
            taken = self._taken.get(who, 0)
            if taken >= self._most:
                return False
            self._taken[who] = taken + 1
            return True

    def give_back(self, who: str) -> None:
        """It has ended."""
        with self._lock:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]
