"""What is logged: no text from outside begins a line, and no fault floods."""

from __future__ import annotations

import logging
import re
import threading
import time
import traceback
from collections.abc import Callable

#: What begins a line of its own, moves the cursor, or turns the direction of text.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


#: Seconds for which the same fault is not logged again.
_QUIET = 1.0


#: Faults that are remembered; older ones are logged as if they were new.
_REMEMBERED = 256


def plain(text: str) -> str:
    """The text on one line, control characters and the like as escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Plain(logging.Filter):
    """Lets no text from outside begin a line in the log or act on a terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = plain(record.getMessage()), ()
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = _traceback(record.exc_info[1])  # which formatters take as it is
        return True


def _traceback(error: BaseException) -> str:
    """The traceback as Python prints it, but each message on one line."""
    lines: list[str] = []
    for one in _chain(error):
        for frame in traceback.extract_tb(one.__traceback__):
            lines.append(plain(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'))
            lines.append(plain(f"    {frame.line}"))
        lines.append(plain(f"{type(one).__name__}: {one}"))
    return "\n".join(lines)


def _chain(error: BaseException) -> list[BaseException]:
    """The error after those that it came of."""
    found = [error]
    while True:
        last = found[-1]
        cause = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if cause is None or cause in found:
            return found[::-1]
        found.append(cause)


_log = logging.getLogger("keyrush")


_log.addFilter(_Plain())


class Faults:
    """Faults as they were logged: each at most once a second, then with how many were not.

    `clock` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    def log(self, what: str, error: BaseException) -> None:
        """Log the fault in one line, unless the same has just been."""
        fault = (what, type(error).__name__)
        now = self._clock()
        with self._lock:
            at, left_out = self._logged.pop(fault, (-_QUIET, 0))
            is_due = now - at >= _QUIET
            self._logged[fault] = (now, 0) if is_due else (at, left_out + 1)
            if len(self._logged) > _REMEMBERED:
                del self._logged[next(iter(self._logged))]
        if is_due:
            also = f" (and {left_out:,} times more that were not logged)" if left_out else ""
            cause = error if _log.isEnabledFor(logging.DEBUG) else None
            _log.error("%s: %s: %s%s", *fault, error, also, exc_info=cause)

    def forget(self) -> None:
        """Begin anew: whatever comes is logged."""
        with self._lock:
            self._logged.clear()


faults = Faults()


def log_fault(what: str, error: BaseException) -> None:
    """Log in one line that something keyrush depends on is away; with DEBUG, the traceback too.

    The same fault is logged once a second at most.
    """
    faults.log(what, error)
