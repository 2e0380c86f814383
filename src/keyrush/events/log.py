"""The log as a listener: who failed to authenticate, for those who watch for break-ins."""

from __future__ import annotations

import logging

from keyrush.events.protocol import Event
from keyrush.wire.sender import shown_address

#: Statuses of refusals that are logged.
_WATCHED = {400, 401}

_log = logging.getLogger("keyrush")


def log_refusal(event: Event) -> None:
    """Log a refusal and whom it is of at INFO; never the key."""
    refusal = event.refusal
    if refusal.status in _WATCHED and _log.isEnabledFor(logging.INFO):
        address = shown_address(event.sender.address)
        _log.info("%d %s from %s", refusal.status, refusal.reason, address)
