"""What an account has used in a month."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class MonthlyUsage:
    """What a subject has used in one month, UTC; `limit` None is no quota (contract R12, R13)."""

    month: str
    counted: int
    limit: int | None
    overage: int  #: requests above the quota; of an account, above the quotas of its keys
    resets_at: int
    overage_price: Decimal | None
