"""The log as a listener: who failed to authenticate, for those who watch for break-ins; who is over
limits that are tried out.
"""

from __future__ import annotations

import logging

from keyrush.events.protocol import Event, WouldLimit
from keyrush.wire.sender import shown_address

#: Statuses of refusals that are logged.
_WATCHED = {400, 401}

_log = logging.getLogger("keyrush")


def log_event(event: Event) -> None:
    """Log at INFO a refusal, and whom it is of, or whom an observed limit would refuse; never the
    key.
    """
    if isinstance(event, WouldLimit):
        _log.info("%s of %s is over %s, observed", event.key_id, event.account_id, event.window)
        return
    refusal = event.refusal
    if refusal.status in _WATCHED and _log.isEnabledFor(logging.INFO):
        address = shown_address(event.sender.address)
        _log.info("%d %s from %s", refusal.status, refusal.reason, address)
