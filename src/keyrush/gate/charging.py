"""Credits: charged before the work, given back where there was none (contract O11, O12)."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection

from keyrush.core.activity import Source as Door
from keyrush.core.identity import Verified
from keyrush.core.issuers import SESSION
from keyrush.core.ledger import CHARGE, By, refill_of
from keyrush.core.refusal import UNAVAILABLE, Refusal, Refused
from keyrush.core.times import month_of
from keyrush.errors import Away, DataError
from keyrush.gate.principal import Caller, Charge, Principal
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.clock import now_ms
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault
from keyrush.runtime.workers import Workers
from keyrush.store.protocol import Store

#: Seconds for which a balance that was short is taken to be short still, where nothing is heard
#: of it: what another process gives back is not told.
SHORT_FOR = 1.0

#: Accounts that are known to be short.
_REMEMBERED = 10_000

#: Charges that are reversed in one turn of a thread that has other things to do.
A_TURN = 100

#: Charges that are named when they are lost.
_NAMED = 10

_log = logging.getLogger("keyrush")

SHORT = Refusal("insufficient_credits")


class Charging:
    """What requests are charged, over a store. Safe to use from any thread or event loop.

    Each charge has a reference, by which it is reversed, once. What is to be reversed while the
    store is away is owed, and told later. `monotonic` gives seconds, `clock` Unix milliseconds.
    """

    def __init__(
        self,
        store: Store,
        circuit: Circuit,
        workers: Workers,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._store = store
        self._circuit = circuit
        self._workers = workers
        self._monotonic = monotonic
        self._clock = clock
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """As in a new process: in a forked child, what is owed is the parent's to tell."""
        self._lock = threading.Lock()
        self._owed: dict[str, Charge] = {}  # charges to be reversed, by reference
        #: The least that an account could not pay, until when that is not asked again, and in
        #: which month it was: with the next one credits may come.
        self._short: OrderedDict[str, tuple[int, float, str]] = OrderedDict()
        self._generation = 0  # of what is known to be short

    # --- charging ---

    def charge(self, principal: Principal, credits: int, rule: str | None = None) -> int | None:
        """See `Principal.charge`; `rule` is what it is for, where that is not the whole request."""
        charge, balance = self._charge(principal, credits, rule)
        self._note(principal, charge)
        return balance

    async def charge_async(self, principal: Principal, credits: int) -> int | None:
        """See `Principal.charge_async`."""

        def undo(done: tuple[Charge | None, int | None]) -> None:
            charge, _ = done
            if charge is not None:  # nobody waits for the work that it was for
                self._reverse((charge,))

        try:
            charge, balance = await self._workers.run(
                "io", self._charge, principal, credits, undo=undo
            )
        except Away as error:  # no thread is free
            principal.refusal = UNAVAILABLE
            raise Refused(UNAVAILABLE) from error
        self._note(principal, charge)  # no sooner: what is undone was never the request's
        return balance

    def _note(self, principal: Principal, charge: Charge | None) -> None:
        if charge is not None:
            with self._lock:
                principal.charges += (charge,)

    def _charge(
        self, principal: Principal, credits: int, rule: str | None = None
    ) -> tuple[Charge | None, int | None]:
        """What was charged, if anything, and the new balance."""
        verified = principal.verified
        if not verified.is_metered:
            return None, None
        account_id, generation = verified.account_id, self._generation
        if self.is_short(verified, credits):
            principal.refuse(SHORT)
        now = self._clock()
        charge = Charge(_reference(now), account_id, credits)
        try:
            balance = self._circuit.call(
                self._store.charge,
                account_id,
                credits,
                charge.reference,
                now,
                _by(principal, rule),
                refill_of(verified.plan.credits_per_month, now),
            )
        except Away as error:
            if error.__cause__ is not None:  # it was asked, and may have charged all the same
                self._owe((charge,))
            principal.refusal = UNAVAILABLE
            raise Refused(UNAVAILABLE) from error
        except DataError:  # it has answered
            raise
        except BaseException:  # a worker is told to end, a greenlet's time is over
            self._owe((charge,))
            raise
        if balance is None:
            self._note_short(account_id, credits, generation, now)
            principal.refuse(SHORT)
        return charge if credits else None, balance

    # --- what is known of balances ---

    def is_short(self, verified: Verified, credits: int) -> bool:
        """True when the account is known not to have so many, without asking."""
        if not self._short or not verified.is_metered:
            return False
        known = self._short.get(verified.account_id)
        if known is None or credits < known[0] or self._monotonic() >= known[1]:
            return False
        return known[2] == month_of(self._clock())

    def forget(self, accounts: Collection[str] | None) -> None:
        """Ask for the balances of accounts anew, or with None of all: they may have changed."""
        with self._lock:
            self._generation += 1
            for account_id in list(self._short) if accounts is None else accounts:
                self._short.pop(account_id, None)

    def _note_short(self, account_id: str, credits: int, generation: int, now: int) -> None:
        month = month_of(now)
        with self._lock:
            if generation != self._generation:  # it may have changed meanwhile
                return
            least, until, of = self._short.get(account_id, (credits, 0.0, month))
            if self._monotonic() >= until or of != month:
                least = credits
            until = self._monotonic() + SHORT_FOR
            self._short[account_id] = (min(least, credits), until, month)
            self._short.move_to_end(account_id)
            if len(self._short) > _REMEMBERED:
                self._short.popitem(last=False)

    # --- giving back ---

    def uncharge(self, caller: Caller) -> None:
        """Give back all credits charged for this request; may block."""
        if caller.charges:
            self.give_back(caller, caller.charges)

    def give_back(self, caller: Caller, charges: Collection[Charge]) -> None:
        """Give back some of what this request was charged; may block."""
        with self._lock:  # whoever comes second finds nothing left to give back
            mine = [charge for charge in caller.charges if charge in charges]
            caller.charges = tuple(one for one in caller.charges if one not in charges)
        self._reverse(mine)

    def _reverse(self, charges: Collection[Charge]) -> None:
        self._owe(charges)
        self._reverse_each(charges)

    def _owe(self, charges: Collection[Charge]) -> None:
        with self._lock:
            self._owed.update({charge.reference: charge for charge in charges if charge.credits})

    def settle(self, at_most: int | None = None) -> None:
        """Tell the store what it is owed; what can't be told waits for the next time. Blocks."""
        if self._owed:
            with self._lock:
                owed = list(itertools.islice(self._owed.values(), at_most))
            self._reverse_each(owed)

    def close(self) -> None:
        """Tell the store what it is owed; what can't be told is lost, and logged. Blocks."""
        self.settle()
        with self._lock:
            lost = list(self._owed.values())
        if lost:
            named = ", ".join(f"{one.account_id} {one.reference}" for one in lost[:_NAMED])
            _log.error("charges not given back, as the store is away: %d, as %s", len(lost), named)

    def _reverse_each(self, charges: Collection[Charge]) -> None:
        """Reverse charges that are owed, as far as the store answers."""
        for charge in charges:
            try:
                self._circuit.call(
                    self._store.reverse, charge.account_id, charge.reference, self._clock()
                )
            except Away:
                return
            except DataError as error:  # and never will
                log_fault(f"a charge of {charge.account_id} can't be reversed", error)
            with self._lock:
                self._owed.pop(charge.reference, None)
            self.forget({charge.account_id})


def _reference(now: int) -> str:
    """A new one. The account reads it, so it tells of nobody else; those of one time are together,
    which keeps the index of them small.
    """
    return f"{CHARGE}{now:x}-{secrets.token_hex(8)}"


def _by(principal: Principal, rule: str | None) -> By:
    """Who is charged, and for what."""
    session = principal.verified.session
    return By(
        _door(principal),
        principal.verified.key_id,
        None if session is None else session.subject,
        rule or principal.rule,
        principal.request_id,
    )


def _door(principal: Principal) -> Door:
    if principal.resource is not None:
        return "mcp"
    return "dashboard" if principal.source == SESSION else "api"
