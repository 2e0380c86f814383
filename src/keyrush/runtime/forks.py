"""Telling processes apart: calls back in a forked child, and a name for each process."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from types import MethodType
from typing import cast
from weakref import WeakKeyDictionary

_names: WeakKeyDictionary[object, str] = WeakKeyDictionary()


def after_fork(method: Callable[[], None]) -> None:
    """Call the bound `method` in every forked child, for as long as its object lives."""
    bound = cast("MethodType", method)
    _names[bound.__self__] = bound.__name__


def process_name() -> str:
    """A new name for something in this process, which nothing in any other has."""
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"


def _in_child() -> None:
    for subject, name in list(_names.items()):
        getattr(subject, name)()


if hasattr(os, "register_at_fork"):  # not where processes never fork
    os.register_at_fork(after_in_child=_in_child)
