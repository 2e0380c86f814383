"""How somebody without a session of their own signs in to the dashboard: by a link with a code that
is good once, which becomes a session.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from keyrush.core.times import DAY, SECOND

#: Milliseconds for which a link is good.
LINK_AGE = 600 * SECOND

#: Milliseconds for which a session is, at most.
SESSION_AGE = DAY


@dataclass(frozen=True, slots=True)
class PortalLink:
    """A link that has not been used. `hash` is SHA-256 of its code, which nobody else has kept."""

    hash: str = field(repr=False)
    account_id: str
    created_at: int
    ends_at: int
    write: bool = True  #: False where its session may look, and change nothing


@dataclass(frozen=True, slots=True)
class PortalSession:
    """Somebody who has used a link. `id` names the session, and is no secret; `hash` is SHA-256 of
    what their browser has.
    """

    id: str
    hash: str = field(repr=False)
    account_id: str
    created_at: int
    ends_at: int
    write: bool = True
