"""Calling objects back in a forked child, without keeping them alive for it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

_callbacks: list[weakref.WeakMethod[Callable[[], None]]] = []


def after_fork(method: Callable[[], None]) -> None:
    """Call the bound `method` in every forked child, for as long as its object lives."""
    _callbacks.append(weakref.WeakMethod(method, _callbacks.remove))


def _in_child() -> None:
    for reference in list(_callbacks):
        if method := reference():
            method()


os.register_at_fork(after_in_child=_in_child)
