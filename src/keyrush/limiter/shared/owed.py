"""What a ledger has not been told yet, because it is away or because nobody waits for it."""

from __future__ import annotations

from collections.abc import Sequence

from keyrush.core.sliding import Window

Windows = tuple[Window, ...]

#: Windows, and of each the period in which units were taken, or -1 where it counts no more.
Slot = tuple[Windows, tuple[int, ...]]

#: What is owed is looked through when it has doubled, and is more than this.
_MANY = 1000


class Owed(dict[Slot, tuple[int, int]]):
    """Units to add to windows, or with a minus to give back, and when the first were taken.

    All instants are the ledger's. Not thread-safe.
    """

    def __init__(self) -> None:
        super().__init__()
        self._of: dict[str, dict[Slot, None]] = {}  # slots by the keys of their windows
        self._left = 0  # slots there were when it was last looked through

    def owe(self, windows: Windows, units: int, taken_at: int) -> None:
        """Have units added to windows, or with a minus given back."""
        self.add((windows, tuple(taken_at // window.length for window in windows)), units, taken_at)

    def add(self, slot: Slot, units: int, taken_at: int) -> None:
        """Have units added to what is owed of a slot. What comes to nothing is not kept."""
        known, at = self.get(slot, (0, taken_at))
        if known + units:
            self[slot] = (known + units, min(at, taken_at))
            for window in slot[0]:
                self._of.setdefault(window.key, {})[slot] = None
        elif self.pop(slot, None):
            for key in {window.key for window in slot[0]}:
                of_it = self._of[key]
                del of_it[slot]
                if not of_it:
                    del self._of[key]

    def concerning(self, windows: Sequence[Window]) -> list[Slot]:
        """The slots of windows of which `windows` has one: without a look at any other, for each
        request asks that, and much may be owed of others.
        """
        found: dict[Slot, None] = {}
        for window in windows:
            found |= self._of.get(window.key, {})
        return list(found)

    def adds_to(self, windows: Sequence[Window]) -> bool:
        """True when units are to be added to one of the windows."""
        return any(self[slot][0] > 0 for slot in self.concerning(windows))

    def tidy(self, now: int) -> None:
        """Forget what counts no more; put together what differs only in windows where it doesn't.

        So it does not grow with the length of an outage.
        """
        if len(self) <= max(2 * self._left, _MANY):
            return
        owed = list(self.items())
        self.clear()
        self._of.clear()
        for (windows, periods), (units, taken_at) in owed:
            counting = tuple(
                -1 if now // window.length > period + 1 else period
                for window, period in zip(windows, periods, strict=True)
            )
            if max(counting) >= 0:
                self.add((windows, counting), units, taken_at)
        self._left = len(self)
