"""Children of tests that are forks: none outlives the process whose pipes it holds."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Have this child killed when the thread that forked it ends, on Linux: else whoever waits for
    a run of tests that was cut off would wait as long as anything holds its pipes.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
