"""Credits: charged before the work, given back where there was none (contract O11, O12)."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection

from keyrush.core.identity import Identity
from keyrush.core.policy import Policy
from keyrush.core.refusal import UNAVAILABLE, Refusal, Refused
from keyrush.errors import Away
from keyrush.gate.principal import Caller, Principal
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.forks import after_fork, process_name
from keyrush.runtime.workers import Workers
from keyrush.store.protocol import Batch, Store

#: Seconds for which a balance that was short is taken to be short still, where nothing is heard
#: of it: what another process gives back is not told.
SHORT_FOR = 1.0

#: Accounts that are known to be short.
_REMEMBERED = 10_000

SHORT = Refusal("insufficient_credits")


class Credits:
    """What requests are charged, over a store. Safe to use from any thread or event loop.

    With `policy`, all that a `Principal` asks of a gate. What is to be given back while the
    store is away is owed, and told later, once: in numbered batches, as counts are. `monotonic`
    gives seconds.
    """

    def __init__(
        self,
        store: Store,
        policy: Policy,
        circuit: Circuit,
        workers: Workers,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self.policy = policy
        self._circuit = circuit
        self._workers = workers
        self._monotonic = monotonic
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """As in a new process: in a forked child, what is owed is the parent's to tell."""
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._worker = f"credits-{process_name()}"
        self._number = 0  # of the last batch
        self._batch: Counter[str] = Counter()  # what is being told, or could not be
        self._owed: Counter[str] = Counter()  # what comes after it, by account
        #: The least that an account could not pay, and until when that is not asked again.
        self._short: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._generation = 0  # of what is known to be short

    # --- charging ---

    def charge(self, principal: Principal, credits: int) -> int | None:
        """See `Principal.charge`."""
        identity = principal.resolved
        if not identity.is_metered:
            return None
        account_id, generation = identity.account_id, self._generation
        if self.is_short(identity, credits):
            principal.refuse(SHORT)
        try:
            balance = self._circuit.call(self._store.charge, account_id, credits)
        except Away as error:
            principal.refusal = UNAVAILABLE
            raise Refused(UNAVAILABLE) from error
        if balance is None:
            self._note_short(account_id, credits, generation)
            principal.refuse(SHORT)
        with self._lock:
            principal.charged += credits
        return balance

    async def charge_async(self, principal: Principal, credits: int) -> int | None:
        """See `Principal.charge_async`."""

        def undo(balance: int | None) -> None:
            if balance is not None:  # nobody waits for the work that it was for
                self._give_back(principal, credits)

        try:
            return await self._workers.run("io", self.charge, principal, credits, undo=undo)
        except Away as error:  # no thread is free
            principal.refusal = UNAVAILABLE
            raise Refused(UNAVAILABLE) from error

    # --- what is known of balances ---

    def is_short(self, identity: Identity, credits: int) -> bool:
        """True when the account is known not to have so many, without asking."""
        if not self._short or not identity.is_metered:
            return False
        known = self._short.get(identity.account_id)
        return known is not None and credits >= known[0] and self._monotonic() < known[1]

    def forget(self, accounts: Collection[str] | None) -> None:
        """Ask for the balances of accounts anew, or with None of all: they may have changed."""
        with self._lock:
            self._generation += 1
            for account_id in list(self._short) if accounts is None else accounts:
                self._short.pop(account_id, None)

    def _note_short(self, account_id: str, credits: int, generation: int) -> None:
        with self._lock:
            if generation != self._generation:  # it may have changed meanwhile
                return
            least, until = self._short.get(account_id, (credits, 0.0))
            if self._monotonic() >= until:
                least = credits
            self._short[account_id] = (min(least, credits), self._monotonic() + SHORT_FOR)
            self._short.move_to_end(account_id)
            if len(self._short) > _REMEMBERED:
                self._short.popitem(last=False)

    # --- giving back ---

    def uncharge(self, caller: Caller) -> None:
        """Give back all credits charged for this request; may block."""
        if isinstance(caller, Principal) and caller.charged:
            self._give_back(caller, caller.charged)

    def _give_back(self, principal: Principal, credits: int) -> None:
        with self._lock:  # whoever comes second finds nothing left to give back
            credits = min(credits, principal.charged)
            principal.charged -= credits
            if credits:
                self._owed[principal.account_id] += credits
        self.settle()

    def settle(self) -> None:
        """Tell the store what it is owed; what can't be told waits for the next time. Blocks."""
        if not self._owed and not self._batch:
            return
        with self._telling:
            while self._gather():
                try:
                    self._circuit.call(
                        self._store.give_back, self._batch, Batch(self._worker, self._number)
                    )
                except Away:
                    return
                self.forget(self._batch.keys())
                self._batch = Counter()

    def _gather(self) -> bool:
        """Make a batch of what is owed, unless there is one that is not told yet."""
        with self._lock:
            if not self._batch and self._owed:
                self._batch, self._owed = self._owed, Counter()
                self._number += 1
            return bool(self._batch)
