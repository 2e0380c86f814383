"""Slots of many machines, on a ledger that is asked for each: exact, at one round trip a take; but
where this process holds all that there are, it knows.

What is given back is told in the background, at once, and with the next take of the same subject.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial

from keyrush.core.concurrency import Want
from keyrush.errors import Away, DataError
from keyrush.limiter.protocol import LimiterState, Outage
from keyrush.limiter.slots.book import Book, Life
from keyrush.limiter.slots.ledger import AsyncSlotLedger, SlotAnswer, SlotCall, SlotLedger
from keyrush.limiter.slots.protocol import LEASE, RENEWAL, Slot
from keyrush.runtime.background import Background
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.clock import REAL, Clock
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault

#: Seconds before its end that a lease is good no more for a take: a call may be on its way as long.
_ON_THE_WAY = 2.0

#: Seconds between two times that a ledger is told of everything, lest it forgets what nobody takes.
TOUCH = 1800.0

#: Subjects of a process that are told of in one go.
_IN_ONE_GO = 1000


class SharedSlots:
    """Slots over a ledger. In an outage the policy holds: `open` gives a slot to whoever asks,
    `local` to as many as the process's share of the maximum; the ledger is told of both afterwards.
    """

    def __init__(self, ledger: SlotLedger, outage: Outage = "local", clock: Clock = REAL) -> None:
        self._ledger = ledger
        self._outage = outage
        self._monotonic = clock.monotonic
        self._circuit = Circuit("the limiter", clock.monotonic)
        self._background: Background | None = None
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        """As in a new process, which holds nothing."""
        self._lock = threading.Lock()  # of the book
        self._renewing = threading.Lock()
        self._book = Book()
        self._process = object()  # whose slots are given back here
        self._is_settling = False

    def __repr__(self) -> str:
        return repr(self._ledger)

    # --- taking ---

    def take_at_once(self, wants: Sequence[Want]) -> Slot | Want | None:
        if not wants:
            return Slot(None, wants)
        if self._circuit.is_open:
            return self._answer_in_outage(wants)
        with self._lock:
            return self._book.full(wants)

    def take(self, wants: Sequence[Want]) -> Slot | Want:
        taken: list[Want] = []
        try:
            for part in self._ledger.parts(wants) if wants else ():
                full = self._take(part)
                if full is not None:
                    if taken:
                        self._let_go(taken)
                        self.settle()
                    return full
                taken += part
        except Away:
            self._let_go(taken)
            return self._answer_in_outage(wants)
        except BaseException:  # as at Ctrl-C
            self._let_go(taken)
            raise
        return Slot(self._process, wants)

    def _take(self, part: Sequence[Want]) -> Want | None:
        """Take what goes in one call; the one that is full, or None.

        Raises:
            Away: The ledger can't answer.
        """
        life = self._current()
        answer = self._ask(life, part)
        if answer.full >= 0 and self._unknown(life, answer):
            full = part[answer.full]
            try:
                life = self._renew()  # and hear who is at work, now that they hold them
            except Away:
                return full
            gone = self._unknown(life, answer)
            if not gone:
                return full
            answer = self._ask(life, part, gone)
        return self._outcome(life, part, answer)

    def _ask(self, life: Life, part: Sequence[Want], gone: Sequence[str] = ()) -> SlotAnswer:
        self._circuit.enter()
        return self._send(life, self._call(life, part, gone))

    def _call(self, life: Life, part: Sequence[Want], gone: Sequence[str] = ()) -> SlotCall:
        """To be sent at once: what it tells counts as told."""
        with self._lock:
            owed = self._book.owes(part) if life is self._book.life else ()
            return SlotCall(life.worker, gone, self._book.changes(owed), part)

    def _send(self, life: Life, call: SlotCall) -> SlotAnswer:
        try:
            answer = self._ledger.ask(call)
        except BaseException as error:
            away = self._lost(life, error)
            if isinstance(error, Exception):
                raise away from error
            raise  # as at Ctrl-C
        self._circuit.succeeded()
        return answer

    def _lost(self, life: Life, error: BaseException) -> Away:
        """Have a life end of which nobody knows any more what the ledger has."""
        with self._lock:
            self._book.end(life)
        if isinstance(error, DataError):  # as where its lease has ended: the ledger is well
            self._circuit.succeeded()
        elif isinstance(error, Exception):
            self._circuit.failed(error)
        return Away("the limiter is away")

    def _outcome(self, life: Life, part: Sequence[Want], answer: SlotAnswer) -> Want | None:
        if answer.full >= 0:
            return part[answer.full]
        with self._lock:
            self._book.hold(part, told_in=life)
        return None

    def _unknown(self, life: Life, answer: SlotAnswer) -> list[str]:
        """Those who hold slots and were not at work when last heard."""
        return [name for name in answer.holders if name not in life.alive]

    def _answer_in_outage(self, wants: Sequence[Want]) -> Slot | Want:
        """What a take comes to while the ledger is away, by the outage policy.

        Raises:
            Away: It is refused: 503.
        """
        with self._lock:
            if self._outage == "local":
                for want in wants:
                    if self._book.held.get(want.key, 0) >= self._share(want):
                        return want
            elif self._outage != "open":
                raise Away("the limiter is away")
            self._book.hold(wants, told_in=None)
        return Slot(self._process, wants)

    def _share(self, want: Want) -> int:
        """Of the maximum, what this process may hold while nobody knows what others do. Where there
        are slots, but none for this process, only the outage refuses: that is 503, not 429.
        """
        life = self._book.life
        workers = len(life.alive)
        share = want.most // workers + (life.rank < want.most % workers) if workers else 0
        if want.most > 0 and not share:
            raise Away("the limiter is away, and its maximum can't be divided")
        return share

    # --- giving back ---

    def give_back(self, slot: Slot) -> None:
        with self._lock:
            if slot.life is not self._process:
                return
            slot.life = None
            self._book.let_go(slot.wants)
        self._settle_soon()

    def _let_go(self, wants: Sequence[Want]) -> None:
        if wants:
            with self._lock:
                self._book.let_go(wants)
            self._settle_soon()

    def _settle_soon(self) -> None:
        if self._background is not None and not self._is_settling:
            self._is_settling = True
            self._background.soon(self.settle)

    def settle(self) -> None:
        """Tell the ledger what it does not know; what can't be told waits."""
        self._is_settling = False
        try:
            while self._book.untold:
                self._current()
                with self._lock:
                    some = list(self._book.untold)[:_IN_ONE_GO]
                for keys in self._ledger.portions(some):
                    self._tell(keys)
        except Away:
            return

    def _tell(self, keys: Sequence[str], *, is_touch: bool = False) -> None:
        self._circuit.enter()
        with self._lock:
            life = self._book.life
            if not life.has_begun:
                return  # another call was lost meanwhile
            changes = [(key, 0) for key in keys] if is_touch else self._book.changes(keys)
        if changes:
            self._send(life, SlotCall(life.worker, (), changes, ()))

    def touch(self) -> None:
        """Tell the ledger of everything that is held, though it knows."""
        with self._lock:
            held = list(self._book.held)
        try:
            for keys in self._ledger.portions(held):
                self._current()
                self._tell(keys, is_touch=True)
        except Away:
            return

    # --- the lease ---

    def _current(self) -> Life:
        """The life, whose lease is good for a call.

        Raises:
            Away: It can't be renewed.
        """
        life = self._book.life
        if self._monotonic() < life.good_until:
            return life
        return self._renew()

    def renew(self) -> None:
        """Renew the lease, and hear who else is at work; what can't be done is done later."""
        try:
            self._renew()
        except Away:
            return
        if self._book.untold:
            self.settle()

    def _renew(self) -> Life:
        with self._renewing:
            life, retired = self._book.life, list(self._book.retired)
            was_there = self._try_to_renew(life, retired)
            if life.has_begun and not was_there:
                with self._lock:
                    held = sum(self._book.held.values())
                    self._book.end(life)
                if held:
                    ended = TimeoutError(f"the lease of {held:,} slots has ended")
                    log_fault("slots did not count for a while, and do so again", ended)
                life = self._book.life
                self._try_to_renew(life, list(self._book.retired))
            life.has_begun = True
            return life

    def _try_to_renew(self, life: Life, retired: Sequence[str]) -> bool:
        began = self._monotonic()
        was_there, alive = self._circuit.call(self._ledger.renew, life.worker, retired)
        life.alive = frozenset(alive)
        life.rank = sum(name < life.worker for name in alive)
        life.good_until = began + LEASE - _ON_THE_WAY
        with self._lock:
            self._book.retired = [name for name in self._book.retired if name not in retired]
        return was_there

    def start(self, background: Background) -> None:
        self._background = background
        background.every(RENEWAL, self.renew)
        background.every(TOUCH, self.touch)

    # --- state and end ---

    def state(self) -> LimiterState:
        workers = len(self._book.life.alive) or None
        if self._circuit.is_closed:
            return LimiterState(workers=workers)
        return LimiterState(True, self._circuit.seconds_away, self._outage, workers)

    def flush(self) -> None:
        """Tell what has been given back; blocks."""
        self.settle()

    def close(self) -> None:
        """Give back all that is held, and let go of connections. May be used again."""
        with self._lock:
            self._process = object()
            self._book.untold.update(self._book.held)
            self._book.held.clear()
        self.settle()
        self._ledger.close()


class AwaitedSharedSlots(SharedSlots):
    """The same over a ledger that can be awaited: who has to ask needs no thread."""

    def __init__(
        self, ledger: AsyncSlotLedger, outage: Outage = "local", clock: Clock = REAL
    ) -> None:
        super().__init__(ledger, outage, clock)
        self._join = ledger.ask_soon

    async def take_async(self, wants: Sequence[Want]) -> Slot | Want | None:
        """`take`, on the event loop; None where a lease is to be renewed first, or one who holds
        slots may have ended.
        """
        taken: list[Want] = []
        try:
            for part in self._ledger.parts(wants) if wants else ():
                life = self._book.life
                if self._monotonic() >= life.good_until:
                    self._let_go(taken)
                    return None
                answer = await self._ask_async(life, part)
                full = self._outcome(life, part, answer)
                if full is not None:
                    self._let_go(taken)
                    return None if self._unknown(life, answer) else full
                taken += part
        except Away:
            self._let_go(taken)
            return self._answer_in_outage(wants)
        except BaseException:  # the task is cancelled
            self._let_go(taken)
            raise
        return Slot(self._process, wants)

    async def _ask_async(self, life: Life, part: Sequence[Want]) -> SlotAnswer:
        self._circuit.enter()
        try:
            coming = await self._join(self._call(life, part))
        except BaseException as error:
            self._lost(life, error)
            raise
        try:
            answer = await asyncio.shield(coming)
        except asyncio.CancelledError:
            coming.add_done_callback(partial(self._came_late, life, part))
            raise
        except Exception as error:
            raise self._lost(life, error) from error
        self._circuit.succeeded()
        return answer

    def _came_late(
        self, life: Life, part: Sequence[Want], answer: asyncio.Future[SlotAnswer]
    ) -> None:
        """Give back what was taken for a task that is no longer there to use it."""
        error = asyncio.CancelledError() if answer.cancelled() else answer.exception()
        if error is not None:
            self._lost(life, error)
        elif self._outcome(life, part, answer.result()) is None:
            self._let_go(part)
