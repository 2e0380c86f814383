"""Subjects that come for the first time, where their issuer may make accounts."""

from __future__ import annotations

from collections.abc import Callable

from keyrush.core.issuers import Issuer
from keyrush.core.model import Account, Link
from keyrush.core.times import SECOND
from keyrush.errors import Away
from keyrush.runtime.circuit import Circuit
from keyrush.store.protocol import Store

#: Milliseconds for which nobody new is tried once too many have come: the store is not asked.
_PAUSE = 5 * SECOND


class Newcomers:
    """Gives new subjects an account, one under any concurrency, and a bounded number a minute.

    `new_id` makes an id, by its kind; `default_plan` is that of issuers that name none.
    """

    def __init__(
        self, store: Store, circuit: Circuit, new_id: Callable[[str], str], default_plan: str
    ) -> None:
        self._store = store
        self._circuit = circuit
        self._new_id = new_id
        self._default_plan = default_plan
        self._full_until: dict[str, int] = {}  # by issuer

    def admit(self, issuer: Issuer, subject: str, now: int) -> bool:
        """Whether the subject is linked with an account now, by whatever process; blocks.

        Raises:
            Away: The store can't answer, or as many have come in the last minute as may.
        """
        if not issuer.creates:
            return False
        if now < self._full_until.get(issuer.issuer, 0):
            raise Away(f"too many new accounts by {issuer.issuer}")
        account = Account(self._new_id("acct"), issuer.plan or self._default_plan, now)
        link = Link(self._new_id("sub"), account.id, issuer.issuer, subject, now)
        outcome = self._circuit.call(self._store.add_link, link, account, issuer.new_accounts)
        if outcome == "too_many":
            self._full_until[issuer.issuer] = now + _PAUSE
            raise Away(f"too many new accounts by {issuer.issuer}")
        return outcome in ("done", "taken")
