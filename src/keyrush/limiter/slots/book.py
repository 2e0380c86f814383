"""What a process holds of slots on a ledger, and what the ledger knows of that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from keyrush.core.concurrency import Want
from keyrush.runtime.forks import process_name


class Life:
    """A time for which a process goes by one name, under which the ledger knows what it holds.

    It ends with its lease, and with any call of which nobody knows whether it had its effect:
    then all that is held is told anew, under another name, and what the ledger has under the old
    one is void.
    """

    def __init__(self) -> None:
        self.worker = process_name()
        self.has_begun = False  # the ledger has heard of it
        self.good_until = -math.inf  # seconds, by the monotonic clock: when to renew before a take
        self.alive: frozenset[str] = frozenset()  # as last heard
        self.rank = 0  # among them


class Book:
    """Counts of slots by subject. Not thread-safe.

    What is under way is in neither count: whoever sends changes counts them as told at once, for
    if that fails, the life ends, and nothing has been told.
    """

    def __init__(self) -> None:
        self.life = Life()
        self.retired: list[str] = []  # names of lives that have ended, until the ledger knows
        self.held: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self.untold: set[str] = set()  # subjects of which the two may differ

    def hold(self, wants: Iterable[Want], *, told_in: Life | None) -> None:
        """Hold one more of each, of which the ledger knows if this is still the life."""
        for want in wants:
            key = want.key
            _add(self.held, key, 1)
            if told_in is self.life:
                _add(self._told, key, 1)
            else:
                self.untold.add(key)

    def let_go(self, wants: Iterable[Want]) -> None:
        """Hold one less of each, which the ledger is to be told."""
        for want in wants:
            _add(self.held, want.key, -1)
            self.untold.add(want.key)

    def changes(self, keys: Iterable[str]) -> list[tuple[str, int]]:
        """What the ledger is to be told of subjects; they count as told."""
        found = []
        for key in keys:
            self.untold.discard(key)
            count = self.held.get(key, 0) - self._told.get(key, 0)
            if count:
                _add(self._told, key, count)
                found.append((key, count))
        return found

    def full(self, wants: Iterable[Want]) -> Want | None:
        """The first of those of which all slots there are are held here."""
        return next((one for one in wants if self.held.get(one.key, 0) >= one.most), None)

    def owes(self, wants: Sequence[Want]) -> list[str]:
        """The subjects of those of which the ledger is to be told something."""
        return [want.key for want in wants if want.key in self.untold]

    def end(self, life: Life) -> None:
        """End the life, if it has not been ended."""
        if life is self.life:
            self.retired.append(life.worker)
            self.life = Life()
            self.life.alive, self.life.rank = life.alive, life.rank
            self._told.clear()
            self.untold = set(self.held)


def _add(counts: dict[str, int], key: str, more: int) -> None:
    after = counts.get(key, 0) + more
    if after:
        counts[key] = after
    else:
        counts.pop(key, None)
