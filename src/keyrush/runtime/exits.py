"""Closing what is open as a process ends: any, and one that `multiprocessing` has started, which
may end without Python's own exit (granian's workers are such).
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

#: Before what `multiprocessing` itself finalizes, whose own is at 0.
_PRIORITY = 10


class Closable(Protocol):
    """What is to be closed; may be used, and closed, again afterwards."""

    def close(self) -> None:
        """Let go of everything."""
        ...


_closables: weakref.WeakSet[Closable] = weakref.WeakSet()


def close_at_exit(subject: Closable) -> None:
    """Close `subject`, if it is still there, when this process ends or one forked from it."""
    close = _closing(subject)
    atexit.register(close)
    _at_end(subject, atexit.unregister, close)
    _closables.add(subject)
    _close_with_child(subject)


def _closing(subject: Closable) -> Callable[[], None]:
    reference = weakref.ref(subject)

    def close() -> None:
        if found := reference():
            found.close()

    return close


def _at_end(subject: Closable, function: Callable[..., object], *args: object) -> None:
    """Call `function` when the subject is gone; not because the process ends."""
    weakref.finalize(subject, function, *args).atexit = False


def _close_with_child(subject: Closable) -> None:
    """Close `subject` when `multiprocessing` ends this process, if it is one of its children."""
    process: Any = sys.modules.get("multiprocessing.process")  # loaded in all of these
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize  # noqa: PLC0415  # who has no children needs none

        ending = Finalize(None, _closing(subject), exitpriority=_PRIORITY)
        _at_end(subject, ending.cancel)


def _in_child() -> None:
    """`multiprocessing` forgets at a fork what is to be done at the end, after this."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        for subject in list(_closables):
            util.register_after_fork(subject, _close_with_child)


if hasattr(os, "register_at_fork"):  # not where processes never fork
    os.register_at_fork(after_in_child=_in_child)
