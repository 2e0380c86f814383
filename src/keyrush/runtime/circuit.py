"""A circuit: what does not answer is left alone for a while, so that nobody waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TypeVar

from keyrush.errors import Away, DataError
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault

T = TypeVar("T")

#: Seconds for which nothing is asked after a failure. Then one call tries.
PAUSE = 1.0

_log = logging.getLogger("keyrush")


class Circuit:
    """Closed while all is well; a failure opens it. `name` says what is behind it in the log.

    While it is open calls fail at once. Every `PAUSE` seconds one is let through, and closes
    the circuit if it succeeds: nothing needs to be restarted.
    """

    def __init__(self, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._monotonic = monotonic
        self._opened_at = 0.0
        self._open_until = 0.0  # 0 when closed
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    @property
    def is_closed(self) -> bool:
        """True while all is well."""
        return not self._open_until

    @property
    def is_open(self) -> bool:
        """True while calls fail at once."""
        return bool(self._open_until) and self._monotonic() < self._open_until

    @property
    def seconds_away(self) -> float:
        """For how long it has not been closed; 0 while all is well."""
        return self._monotonic() - self._opened_at if self._open_until else 0.0

    def call(self, function: Callable[..., T], *args: object) -> T:
        """`function(*args)`; what it raises opens the circuit, but for what is about the data.

        Raises:
            Away: The circuit is open, or the function has failed: then with its cause.
            DataError: What is behind the circuit has answered, and can't take these values.
        """
        self.enter()
        try:
            result = function(*args)
        except DataError:
            self.succeeded()
            raise
        except CancelledError as error:
            # The event loop that should have answered has ended: that says nothing of what is
            # behind it, and the last counts are to be written yet.
            raise Away(f"{self.name} has not been heard") from error
        except Exception as error:
            self.failed(error)
            raise Away(f"{self.name} is away") from error
        self.succeeded()
        return result

    def enter(self) -> None:
        """Go ahead with a call that ends with `failed` or `succeeded`.

        Raises:
            Away: The circuit is open.
        """
        if not self._open_until:
            return
        with self._lock:
            now = self._monotonic()
            if now < self._open_until:
                raise Away(f"{self.name} is away")
            if self._open_until:
                self._open_until = now + PAUSE  # this call tries, others don't wait for it

    def failed(self, error: Exception) -> None:
        """Open the circuit."""
        with self._lock:
            if not self._open_until:
                self._opened_at = self._monotonic()
                log_fault(f"{self.name} is away", error)
            self._open_until = self._monotonic() + PAUSE

    def succeeded(self) -> None:
        """Close the circuit."""
        if not self._open_until:
            return
        with self._lock:
            if self._open_until:
                seconds = self._monotonic() - self._opened_at
                _log.warning("%s answers again, after %.1f seconds", self.name, seconds)
            self._open_until = 0.0
