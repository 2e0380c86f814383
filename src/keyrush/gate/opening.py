"""A gate that could not be opened, in a server that has gone on all the same.

A wrong setting stays wrong until the next start. What a setting names may only be away as the
server starts, so that one is tried again.
"""

from __future__ import annotations

import logging
import threading
import time

from keyrush.core.refusal import UNAVAILABLE
from keyrush.errors import KeyrushError, Unavailable
from keyrush.gate.gate import Gate
from keyrush.settings.settings import Settings
from keyrush.wire.refusals import Refusals

#: Seconds between two tries.
RETRY = 1.0

#: What every request is answered meanwhile: how the settings would have it said is not known.
UNOPENED = Refusals("documented", "api", None).response(UNAVAILABLE)

_log = logging.getLogger("keyrush")


class Opening:
    """Opens a gate from settings, after `error` has stopped it the first time."""

    def __init__(self, settings: Settings | None, error: KeyrushError) -> None:
        self._settings = settings
        self._error = error
        self._is_said = False
        self._gate: Gate | None = None
        self._retry_at = time.monotonic() + RETRY

    def gate(self) -> Gate | None:
        """The gate, if there is one by now; waits for nothing."""
        if not self._is_said:
            self._is_said = True
            _log.critical("every request is answered 503: %s", self._error)
        if self._gate is None and time.monotonic() >= self._retry_at and self._may_pass:
            self._retry_at = float("inf")  # until this try is over
            thread = threading.Thread(target=self._open, name="keyrush-opening", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # "can't start new thread"
                self._retry_at = time.monotonic() + RETRY
        return self._gate

    @property
    def _may_pass(self) -> bool:
        return isinstance(self._error, Unavailable)

    def _open(self) -> None:
        try:
            self._gate = Gate.open(self._settings)
        except KeyrushError as error:
            self._is_said = str(error) == str(self._error)
            self._error = error
        finally:
            self._retry_at = time.monotonic() + RETRY
