"""How a gate stands: what it depends on, and what holds while that is away."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """What a gate knows without asking anybody. `dataclasses.asdict` makes it JSON.

    Something is known to be away from the first call that failed until one succeeds.
    """

    is_well: bool  #: nothing that requests or counts depend on is known to be away
    store_away: float  #: seconds for which the store has not answered; 0 when it does
    limiter_away: float  #: the same of shared windows and slots; 0 also where they are not shared
    limits_meanwhile: str | None  #: `KEYRUSH_LIMITER_OUTAGE` while they are away, else None
    workers: int | None  #: processes that count in the same windows; None where that's not known
    hears_changes: bool  #: changes by other processes arrive at once; if not, nothing is ill
    changes_within: float  #: seconds until they hold here at the latest: CACHE_TTL without news
    has_thread: bool  #: False where none can be started for what no request waits for
    unwritten: int  #: requests counted here and not yet in the store
    unrecorded: int = 0  #: requests that activity has lost, because more came than was written
