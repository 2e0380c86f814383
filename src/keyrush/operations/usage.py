"""What accounts and keys have used in a month."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from keyrush.core.catalog import Catalog
from keyrush.core.checks import checked_plan, is_id
from keyrush.core.identity import account_subject, key_subject
from keyrush.core.times import month_bounds, month_of
from keyrush.operations.ids import LINK
from keyrush.operations.keys import Keys
from keyrush.operations.owners import Owned, Owners
from keyrush.store.protocol import Store


@dataclass(frozen=True, slots=True)
class MonthlyUsage:
    """What a subject has used in one month, UTC; `limit` None is no quota (contract R12, R13)."""

    month: str
    counted: int
    limit: int | None
    overage: int  #: requests above the quota; of an account, above the quotas of its keys
    resets_at: int
    overage_price: Decimal | None


class Usage(Owned):
    """The operations on usage, over a store."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        accounts: Owners,
        keys: Keys,
        *,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._keys = keys
        self._plans = catalog.plans
        self._clock = clock

    def this_month(self, account_id: str, key_id: str | None = None) -> MonthlyUsage:
        """This month's use as stored: of the key, or of the link that stands where one does, where
        its quota is a key's, else of the account.

        Raises:
            NotFound: There is no such account, or no such key or link in it.
        """
        now = self._clock()
        account = self._accounts.get(account_id)
        plan = self._plans[checked_plan(account.plan, self._plans)]
        month = month_of(now)
        limit = plan.quota.amount if plan.quota else None
        if plan.quota_per == "account" or key_id is None:
            counted = self._store.usage(account_subject(account.id), month)
        else:
            counted = self._store.usage(key_subject(self._lineage(key_id, account.id)), month)
        overage = 0 if limit is None else max(0, counted - limit)
        if plan.quota_per == "key" and key_id is None:  # each key has one, the account has none
            overage = 0 if limit is None else self._store.overage(account.id, month, limit)
            limit = None
        return MonthlyUsage(
            month, counted, limit, overage, month_bounds(now)[1], plan.overage_price
        )

    def _lineage(self, key_id: str, account_id: str) -> str:
        if is_id(key_id) and key_id.startswith(f"{LINK}_"):
            link = self._store.link(key_id)
            if link is not None and link.account_id == account_id:
                return link.id
        return self._keys.get(key_id, account_id).lineage
