"""Slots in this process's memory: exact between its threads, unknown to other processes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from keyrush.core.concurrency import Want
from keyrush.limiter.protocol import WELL, LimiterState
from keyrush.limiter.slots.protocol import Slot
from keyrush.runtime.background import Background
from keyrush.runtime.forks import after_fork


class MemorySlots:
    """`memory://`. Knows the subjects of which slots are held, and no others."""

    def __init__(self) -> None:
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        """As in a new process, which holds nothing."""
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self._life = object()

    def __len__(self) -> int:
        return len(self._held)

    def take_at_once(self, wants: Sequence[Want]) -> Slot | Want:
        with self._lock:
            held = self._held
            for want in wants:
                if held.get(want[0], 0) >= want[1]:
                    return want
            for key, _ in wants:
                held[key] = held.get(key, 0) + 1
            return Slot(self._life, wants)

    def take(self, wants: Sequence[Want]) -> Slot | Want:
        return self.take_at_once(wants)

    def give_back(self, slot: Slot) -> None:
        with self._lock:
            if slot.life is not self._life:
                return
            slot.life = None
            held = self._held
            for key, _ in slot.wants:
                left = held[key] - 1
                if left:
                    held[key] = left
                else:
                    del held[key]

    def start(self, background: Background) -> None:
        """Nothing to be done: it ends with its process."""

    def state(self) -> LimiterState:
        return WELL

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._begin()
