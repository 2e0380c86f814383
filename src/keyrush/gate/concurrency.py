"""How many requests are under way at once: the slots that they hold until they are over.

A key may be given a `max_concurrent` at any time, and most have none: so slots are opened with the
gate only where a plan or a rule asks for them, else by the first request that wants one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from keyrush.core.concurrency import CONCURRENT, NO_WANTS, Want, Wants
from keyrush.core.identity import Verified
from keyrush.core.policy import Needs
from keyrush.core.rule_limits import RuleLimits
from keyrush.errors import Away, ConfigurationError, Unreachable
from keyrush.gate.principal import Caller
from keyrush.limiter.protocol import WELL, LimiterState
from keyrush.limiter.slots.opening import OpenedSlots
from keyrush.limiter.slots.protocol import Slot
from keyrush.runtime.background import Background
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault


class Held(NamedTuple):
    """What came of wanting slots."""

    slots: tuple[Slot, ...] = ()
    full: Want | None = None  #: of what no slot was left: then none is held
    would_limit: str = ""  #: the name of what is only observed, and would have refused it


#: Of who wants none.
NOTHING = Held()


class Concurrency:
    """Takes slots for requests, and gives them back. Safe to use from any thread or event loop.

    `opening` opens what they are taken of.
    """

    def __init__(
        self,
        opening: Callable[[], OpenedSlots],
        background: Background,
        monotonic: Callable[[], float],
    ) -> None:
        self._opening = opening
        self._background = background
        self._circuit = Circuit("what counts requests under way", monotonic)
        #: None while nobody has wanted any; looked at at the end of every request.
        self.opened: OpenedSlots | None = None
        self._is_nowhere = False  # they can't be counted by these settings
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def open(self) -> OpenedSlots:
        """Open them, unless they are.

        Raises:
            ConfigurationError: There are none where windows are counted, or can't be opened.
        """
        with self._lock:
            if self.opened is None:
                opened = self._opening()
                opened.slots.start(self._background)
                self.opened = opened
            return self.opened

    def _open_for_request(self) -> OpenedSlots:
        """The same, for a key of which nobody knew at the start.

        Raises:
            Away: They can't be opened, which is said in the log.
        """
        if self._is_nowhere:
            raise Away("nothing counts requests under way")
        self._circuit.enter()
        try:
            opened = self.open()
        except Exception as error:
            if isinstance(error, ConfigurationError) and not isinstance(error, Unreachable):
                self._is_nowhere = True  # for good, and no outage
                log_fault("keys with max_concurrent are refused", error)
            else:
                self._circuit.failed(error)
            raise Away("nothing counts requests under way") from error
        self._circuit.succeeded()
        return opened

    # --- taking ---

    def at_once(self, wants: Wants) -> Held | None:
        """From memory alone; None where I/O is needed, and nothing is held."""
        if wants is NO_WANTS:
            return NOTHING
        opened = self.opened
        if opened is None:
            return None
        take, would_limit = opened.slots.take_at_once, ""
        slots: tuple[Slot, ...] = ()
        if wants.enforced:
            found = take(wants.enforced)
            if not isinstance(found, Slot):
                return None if found is None else Held(full=found)
            slots = (found,)
            if not wants.observed:  # as nearly always
                return Held(slots)
        try:
            for name, want in wants.observed:
                found = take((want,))
                if found is None:
                    self.give_back(slots)
                    return None
                slots, would_limit = _noted(slots, would_limit, name, found)
        except BaseException:
            self.give_back(slots)
            raise
        return Held(slots, None, would_limit)

    def take(self, wants: Wants) -> Held:
        """The same; may block.

        Raises:
            Away: It can't be told, and the outage policy lets nothing pass.
        """
        if wants is NO_WANTS:
            return NOTHING
        try:
            take = (self.opened or self._open_for_request()).slots.take
        except Away:
            if wants.enforced:
                raise
            return NOTHING  # what is only observed refuses nothing
        slots: tuple[Slot, ...] = ()
        would_limit = ""
        if wants.enforced:
            found = take(wants.enforced)
            if isinstance(found, Want):
                return Held(full=found)
            slots = (found,)
        try:
            for name, want in wants.observed:
                with suppress(Away):  # which refuses nothing that nobody enforces
                    slots, would_limit = _noted(slots, would_limit, name, take((want,)))
        except BaseException:
            self.give_back(slots)
            raise
        return Held(slots, None, would_limit)

    async def take_async(self, wants: Wants) -> Held | None:
        """`take`, awaited; None where only what blocks can tell, and nothing is held."""
        if wants is NO_WANTS:
            return NOTHING
        slots: tuple[Slot, ...] = ()
        would_limit = ""
        if wants.enforced:
            found = await self._take_async(wants.enforced)
            if not isinstance(found, Slot):
                return None if found is None else Held(full=found)
            slots = (found,)
        try:
            for name, want in wants.observed:
                with suppress(Away):
                    found = await self._take_async((want,))
                    if found is None:
                        self.give_back(slots)
                        return None
                    slots, would_limit = _noted(slots, would_limit, name, found)
        except BaseException:  # the task is cancelled, too
            self.give_back(slots)
            raise
        return Held(slots, None, would_limit)

    async def _take_async(self, wants: Sequence[Want]) -> Slot | Want | None:
        opened = self.opened
        if opened is None:
            return None
        found = opened.slots.take_at_once(wants)
        if found is None and opened.awaited is not None:
            return await opened.awaited.take_async(wants)
        return found

    # --- giving back ---

    def give_back(self, slots: Iterable[Slot]) -> None:
        """Give back what is held; does no I/O. Again, it means nothing."""
        for slot in slots:
            if self.opened is not None:
                self.opened.slots.give_back(slot)

    def end(self, caller: Caller) -> None:
        """The caller's request is over, or refused after all: give back what it holds."""
        self.give_back(getattr(caller, "slots", ()))

    # --- state and end ---

    def state(self) -> LimiterState:
        """How they stand; does no I/O."""
        if not self._circuit.is_closed:
            return LimiterState(True, self._circuit.seconds_away, "closed")
        return WELL if self.opened is None else self.opened.slots.state()

    def flush(self) -> None:
        """Tell what has been given back; blocks."""
        if self.opened is not None:
            self.opened.slots.flush()

    def close(self) -> None:
        """End all that this process holds, and let go of files and connections. May be used again:
        requests that are still under way then hold nothing.
        """
        if self.opened is not None:
            self.opened.slots.close()


def _noted(
    slots: tuple[Slot, ...], would_limit: str, name: str, found: Slot | Want
) -> tuple[tuple[Slot, ...], str]:
    """What is held, and what would have refused it, with what came of an observed want."""
    return ((*slots, found), would_limit) if isinstance(found, Slot) else (slots, name)


def wants_of(verified: Verified, needs: Needs, address: str) -> Wants:
    """What a request takes slots of: its key or account, and each of its rules that says so.

    `address` is the subject of the client's. What is no request to windows is none here either,
    as a stream of an MCP client on which it listens for as long as it lives.
    """
    if not needs.has_slots:
        return verified.wants if needs.weight else NO_WANTS
    return _with_rules(verified.wants, needs, lambda one: one.want_of(verified, address))


def wants_of_anonymous(needs: Needs, address: str) -> Wants:
    """What a request of nobody's takes slots of: of its rules, by address, whatever they count."""
    if not needs.has_slots:
        return NO_WANTS
    return _with_rules(NO_WANTS, needs, lambda one: one.want_of_anonymous(address))


def _with_rules(own: Wants, needs: Needs, want_of: Callable[[RuleLimits], Want | None]) -> Wants:
    enforced = {want.key: want for want in own.enforced}
    observed = {want.key: (name, want) for name, want in own.observed}
    for limits, _ in needs.limits:
        want = want_of(limits)
        if want is None:
            continue
        if limits.is_observed:
            observed[want.key] = f"{limits.label}-{CONCURRENT}", want
        elif want.most <= enforced.get(want.key, want).most:
            enforced[want.key] = want
    return Wants(tuple(enforced.values()), tuple(observed.values()))
