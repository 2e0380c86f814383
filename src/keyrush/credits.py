"""Credits: charged before the work, given back where there was none (contract O11, O12)."""

from __future__ import annotations

import threading

from keyrush.circuit import Away, Circuit
from keyrush.errors import Refused, log_fault
from keyrush.forks import after_fork
from keyrush.model import Refusal
from keyrush.policy import Policy
from keyrush.principal import Caller, Principal
from keyrush.store import Store
from keyrush.verification import UNAVAILABLE
from keyrush.workers import Workers


class Credits:
    """What requests are charged, over a store. Safe to use from any thread or event loop.

    With `policy`, all that a `Principal` asks of a gate.
    """

    def __init__(self, store: Store, policy: Policy, circuit: Circuit, workers: Workers) -> None:
        self._store = store
        self.policy = policy
        self._circuit = circuit
        self._workers = workers
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def charge(self, principal: Principal, credits: int) -> int | None:
        """See `Principal.charge`."""
        identity = principal.resolved
        if not identity.is_metered:
            return None
        try:
            balance = self._circuit.call(self._store.charge, identity.account_id, credits)
        except Away as error:
            principal.refusal = UNAVAILABLE
            raise Refused(UNAVAILABLE) from error
        if balance is None:
            principal.refuse(Refusal("insufficient_credits"))
        with self._lock:
            principal.charged += credits
        return balance

    async def charge_async(self, principal: Principal, credits: int) -> int | None:
        """See `Principal.charge_async`."""

        def undo(balance: int | None) -> None:
            if balance is not None:  # nobody waits for the work that it was for
                self._give_back(principal, credits)

        return await self._workers.run("io", self.charge, principal, credits, undo=undo)

    def uncharge(self, caller: Caller) -> None:
        """Give back all credits charged for this request; may block."""
        if isinstance(caller, Principal) and caller.charged:
            self._give_back(caller, caller.charged)

    def _give_back(self, principal: Principal, credits: int) -> None:
        with self._lock:  # whoever comes second finds nothing left to give back
            credits = min(credits, principal.charged)
            principal.charged -= credits
        if not credits:
            return
        try:
            self._store.grant(principal.account_id, credits)
        except Exception as error:
            log_fault(f"{credits} credits of {principal.account_id} not given back", error)
