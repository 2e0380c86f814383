"""`KEYRUSH_LIMITER_MODE=leased`: a process takes units of shared windows in blocks, ahead of need.

A block follows what the process itself uses in some seconds, and the ledger grants no more than
one part in `sliding.SHARE` of what is left: near the limit, units are taken one by one. What
lies idle is given back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from keyrush.core.sliding import Demand, Tally, Window
from keyrush.errors import Away
from keyrush.limiter.ledgers.protocol import AsyncLedger
from keyrush.limiter.protocol import LimiterState
from keyrush.limiter.shared.client import LedgerClient
from keyrush.limiter.shared.demands import limited
from keyrush.limiter.shared.lease import Lease
from keyrush.limiter.shared.leases import Leases
from keyrush.limiter.shared.membership import SIGN_OF_LIFE
from keyrush.runtime.background import Background
from keyrush.runtime.bridge import in_event_loop

#: Seconds between two looks at what lies idle.
TICK = 0.1


class LeasedLimiter(Leases):
    """Exact between all processes, at nearly the cost of one alone."""

    def start(self, background: Background) -> None:
        self._background = background
        background.every(SIGN_OF_LIFE, self.client.membership.enlist)
        background.every(TICK, self.tick)

    # --- taking ---

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        tally = self.take_at_once(windows, cost, now)
        if tally is not None:
            return tally
        lease = self._lease(windows)
        # Where no thread could be started this is the event loop's own, and who asks may be one of
        # its tasks, which goes on when this is over.
        is_first = lease.asking.acquire(blocking=not in_event_loop())
        try:
            now = self._clock.wall()
            tally = self.take_at_once(windows, cost, now)  # of what another has brought meanwhile
            if tally is not None:
                return tally
            tally = self._ask(lease, windows, cost, is_first=is_first)
            if tally.admitted or not self._gives_way((lease, windows)):
                return tally
            return self._ask(lease, windows, cost, is_first=is_first)
        except Away:
            return self._books.answer_in_outage([Demand(windows, cost)], self._clock.wall())
        finally:
            if is_first:
                lease.asking.release()

    def _ask(self, lease: Lease, windows: Sequence[Window], cost: int, *, is_first: bool) -> Tally:
        """Ask the ledger; who `is_first` holds `lease.asking`, and asks for a block.

        Raises:
            Away: It can't answer.
        """
        asked_at = self._clock.instant()
        if is_first:
            self._prepare(lease, windows)
        extra = lease.ahead(cost, asked_at) if is_first and cost else 0
        answer = self.client.ask(windows, cost, extra)
        with self._lock:
            return self._absorb(lease, windows, answer, cost, asked_at if is_first else None)

    def take_together(self, demands: Sequence[Demand], now: int) -> Tally:
        """Of what leases lack, all is asked for at once; what they have is kept for this take."""
        demands = limited(demands)
        tally = self.take_together_at_once(demands, now)
        if tally is not None:
            return tally
        try:
            with self._asking(demands, blocking=not in_event_loop()) as (leases, first):
                hand = self._begin(demands, leases, first)
                if isinstance(hand, Tally):
                    return hand
                try:
                    answers = self.client.ask_together(hand.parts)
                except BaseException:
                    self._let_be(hand)
                    raise
                tally = self._end(hand, answers)
                if tally.admitted or not self._gives_way(*hand.asked()):
                    return tally
            return self.take_together(demands, now)
        except Away:
            return self._books.answer_in_outage(demands, self._clock.wall())

    @contextmanager
    def _asking(
        self, demands: Sequence[Demand], *, blocking: bool
    ) -> Iterator[tuple[list[Lease], list[Lease]]]:
        """The leases of the demands, and those that lack units and of which this take asks first.
        All wait for them in one order, so that no two wait for each other.
        """
        leases: dict[str, Lease] = {}
        first: list[Lease] = []
        try:
            for windows, cost in sorted(demands, key=_first_key):
                lease = leases[windows[0].key] = self._lease(windows)
                if lease.has(windows, cost, self._clock.instant()):
                    continue
                if lease.asking.acquire(blocking=blocking):
                    first.append(lease)
                    self._prepare(lease, windows)
            yield [leases[windows[0].key] for windows, _ in demands], first
        finally:
            for lease in first:
                lease.asking.release()

    # --- in the background ---

    def _refill(self, lease: Lease) -> None:
        """Ask for another block, unless that is being done."""
        if not lease.asking.acquire(blocking=False):
            return
        try:
            self._ask_ahead(lease)
        except Away:
            return  # whoever comes next finds out what holds then
        finally:
            lease.asking.release()

    def _ask_ahead(self, lease: Lease) -> None:
        asked_at, windows = self._clock.instant(), lease.windows
        if not lease.is_good(asked_at):
            return  # whoever comes next asks for what is needed then
        if extra := lease.ahead(0, asked_at):
            answer = self.client.ask(windows, 0, extra)
            if answer.taken.granted:
                with self._lock:
                    self._absorb(lease, windows, answer, 0, asked_at)

    def tick(self) -> None:
        """Give back what lies idle or can't be used any more."""
        with self._lock:
            instant = self._clock.instant()
            for lease in list(self._held):
                if lease.is_idle(instant) or not lease.is_good(instant):
                    self._let_go(lease)
        self.client.settle()

    # --- state and end ---

    def state(self) -> LimiterState:
        return self.client.state()

    def flush(self) -> None:
        """Give back everything that is held; blocks."""
        with self._lock:
            for lease in list(self._held):
                self._let_go(lease)
        self.client.flush()

    def close(self) -> None:
        self.flush()
        self.client.close()


def _first_key(demand: Demand) -> str:
    return demand.windows[0].key


class AwaitedLeasedLimiter(LeasedLimiter):
    """The same over a ledger that can be awaited: who has to ask needs no thread.

    One of a subject's requests asks for a block, as in threads; those beside it don't wait for
    what it brings, but ask for their own cost, which the ledger sends along with the block.
    """

    def __init__(self, client: LedgerClient, ledger: AsyncLedger) -> None:
        super().__init__(client)
        self._take = ledger.take_async
        self._take_together = ledger.take_together_async

    async def take_async(self, windows: Sequence[Window], cost: int, now: int) -> Tally | None:
        """`take`, on the event loop; None where the ledger has to be told something before."""
        if cost < 0:
            raise ValueError(f"cost: {cost} is negative")
        tally = self.take_at_once(windows, cost, now)
        if tally is not None:
            return tally
        lease = self._lease(windows)
        is_first = lease.asking.acquire(blocking=False)
        try:
            if is_first:
                self._prepare(lease, windows)
            if self._books.slots(windows):
                return None
            tally = await self._ask_async(lease, windows, cost, is_first=is_first)
            return tally if tally.admitted or not self._gives_way((lease, windows)) else None
        except Away:
            return self._books.answer_in_outage([Demand(windows, cost)], self._clock.wall())
        finally:
            if is_first:
                lease.asking.release()

    async def _ask_async(
        self, lease: Lease, windows: Sequence[Window], cost: int, *, is_first: bool
    ) -> Tally:
        asked_at = self._clock.instant()
        extra = lease.ahead(cost, asked_at) if is_first and cost else 0
        answer = await self.client.ask_async(self._take, windows, cost, extra)
        with self._lock:
            return self._absorb(lease, windows, answer, cost, asked_at if is_first else None)

    async def take_together_async(self, demands: Sequence[Demand], now: int) -> Tally | None:
        """`take_together`, on the event loop; None as of `take_async`."""
        demands = limited(demands)
        tally = self.take_together_at_once(demands, now)
        if tally is not None:
            return tally
        try:
            with self._asking(demands, blocking=False) as (leases, first):
                if any(self._books.slots(windows) for windows, _ in demands):
                    return None
                hand = self._begin(demands, leases, first)
                if isinstance(hand, Tally):
                    return hand
                try:
                    take = self._take_together
                    answers = await self.client.ask_together_async(take, hand.parts)
                except BaseException:
                    self._let_be(hand)
                    raise
                tally = self._end(hand, answers)
                if tally.admitted or not self._gives_way(*hand.asked()):
                    return tally
                return None
        except Away:
            return self._books.answer_in_outage(demands, self._clock.wall())
