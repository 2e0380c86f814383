"""How often pages may be asked for, by one session and on one account: windows of the gate's
limiter, so that all processes count together.
"""

from __future__ import annotations

from keyrush.apps.dashboard.addresses import MINUTE, seconds
from keyrush.apps.dashboard.visit import Stop, Visit, asked, kept
from keyrush.core.sliding import Tally, Window

#: What a minute has for a session, and for all sessions on an account: a page is 1 of it. A page
#: that lies open in a tab asks for newer rows 12 times a minute.
SESSION, ACCOUNT = 300, 1200

#: What a page costs that reads much, and a file, which may be of all that there is.
READING, FILE = 3, 10


async def keep_pace(visit: Visit, cost: int) -> None:
    """Let somebody who is signed in go on with what costs so much.

    Raises:
        Stop: They have asked for too much, or all on the account together have.
        Unavailable: The limiter can't answer, and lets nothing pass meanwhile.
    """
    limiter, now = visit.gate.limiter, visit.now
    taken: list[Window] = []
    for subject, amount in ((visit.may.mark, SESSION), (f"account {visit.account_id}", ACCOUNT)):
        window = Window(f"dashboard:{subject}:60", MINUTE, amount, "minute")
        tally = limiter.take_at_once([window], cost, now)
        if tally is None:
            tally = await asked(visit.gate, limiter.take, [window], cost, now)
        if not tally.admitted:
            for earlier in taken:
                await asked(visit.gate, limiter.give_back, [earlier], cost, now)
            raise await _too_often(visit, tally)
        taken.append(window)


async def _too_often(visit: Visit, tally: Tally) -> Stop:
    """What is said then; what was typed can be sent again."""
    wait = seconds(tally, visit.now)
    if visit.request.method != "POST":
        return Stop("too_often", 429, wait=wait)
    return Stop("too_often", 429, wait=wait, fields=kept(visit.gate, await visit.posted()))
