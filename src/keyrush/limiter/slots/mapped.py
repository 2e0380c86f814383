"""Slots of one machine, in a file that all its workers map: exact, on the caller's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from keyrush.core.concurrency import Want
from keyrush.errors import Away
from keyrush.limiter.ledgers.mapped.records import Held, NoPlace
from keyrush.limiter.ledgers.mapped.slots import (
    SLOT_TABLES,
    WORKERS,
    SlotTable,
    TooMany,
    Unclaimed,
)
from keyrush.limiter.over_file import OverFile
from keyrush.limiter.protocol import Outage
from keyrush.limiter.slots.protocol import RENEWAL, Slot
from keyrush.runtime.background import Background
from keyrush.runtime.clock import now_ms
from keyrush.runtime.logs import log_fault


class MappedSlots(OverFile[SlotTable]):
    """`file:///…`. A process that is killed loses its slots with the next renewal of another, one
    that is stopped when its lease ends. `monotonic` gives seconds, of one clock for all processes.

    Raises:
        Unusable: The file can't be used.
    """

    _what = "slots"

    def __init__(
        self,
        path: str,
        outage: Outage = "local",
        clock: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        super().__init__(path, SLOT_TABLES, outage, clock, monotonic)

    def take_at_once(self, wants: Sequence[Want]) -> Slot | Want | None:
        table = self._table
        if table is None:
            return self._without(wants) if self._circuit.is_open else None
        try:
            taken = table.take(wants, self._monotonic)
        except Unclaimed:
            return None
        except Held as held:
            return self._without(wants) if held.stripe in table.stuck else None
        except NoPlace:
            return self._without(wants) if self._room.is_open else None
        if table.filling:
            self._grow_soon()
        return taken

    def take(self, wants: Sequence[Want]) -> Slot | Want:
        def ask(table: SlotTable, _: bool) -> Slot | Want:
            try:
                return table.take(wants, self._monotonic)
            except Unclaimed:
                self._claim(table)
                return table.take(wants, self._monotonic)

        try:
            return self._patiently(ask)
        except Away:
            return self._without(wants)

    def _claim(self, table: SlotTable) -> None:
        try:
            table.claim(self._monotonic())
        except TooMany as error:
            log_fault(f"more than {WORKERS} processes want slots", error)
            raise Away("there are too many processes") from error

    def _without(self, wants: Sequence[Want]) -> Slot:
        """The answer of the outage policy: a slot that nothing counts."""
        if self._outage == "closed":
            raise Away("the limiter is away")
        return Slot(None, wants)

    def give_back(self, slot: Slot) -> None:
        table = self._table
        if table is not None:
            table.give_back(slot)

    def start(self, background: Background) -> None:
        super().start(background)
        background.every(RENEWAL, self.renew)

    def renew(self) -> None:
        """Say that this process goes on, and see who has ended."""
        table = self._table
        if table is None:
            return
        try:
            table.renew(self._monotonic())
        except Unclaimed:
            if table.held:  # somebody has taken this process for ended
                with suppress(Away):
                    self._patiently(lambda table, _: self._claim(table))
        if table.stood_still:
            stopped = TimeoutError(f"this process stood still for {table.stood_still:.1f} s")
            log_fault("its slots did not count, and do so again", stopped)
            table.stood_still = 0.0

    def flush(self) -> None:
        """Nothing is held back."""
