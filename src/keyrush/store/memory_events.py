"""What was done to the keys of the store in memory, which calls all of this under its lock."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from functools import partial

from keyrush.store.edits import MAX_EVENTS, KeyEvent


class MemoryEvents:
    """Events by the ids of their keys."""

    def __init__(self) -> None:
        self._of: defaultdict[str, deque[KeyEvent]] = defaultdict(partial(deque, maxlen=MAX_EVENTS))

    def add(self, key_id: str, event: KeyEvent) -> None:
        """Keep the event; the oldest of a key that has too many goes."""
        self._of[key_id].appendleft(event)

    def of(self, key_id: str) -> Sequence[KeyEvent]:
        """`Store.key_events`."""
        return list(self._of.get(key_id, ()))
