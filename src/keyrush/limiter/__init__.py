"""Where windows are counted: the protocol, and `open_limiter`.

A limiter of your own is one class with these methods, plain or coroutines. Pass an instance
to `Gate`, or name the class in `KEYRUSH_LIMITER_URL` as `package.module:Class`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from keyrush.errors import ConfigurationError
from keyrush.plugins import load
from keyrush.windows import Tally, Window


class Limiter(Protocol):
    """What keyrush asks of a limiter. Instants are Unix milliseconds."""

    @property
    def is_local(self) -> bool:
        """True when `take` does no I/O, so that the event loop may call it."""
        ...

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        """Take `cost` from all windows or from none. A cost of 0 only looks."""
        ...

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        """Undo a take made at `taken_at`, as far as it still counts."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def open_limiter(url: str) -> Limiter:
    """The limiter at a URL: `memory://`, or `package.module:Class`.

    Raises:
        ConfigurationError: There is no such limiter.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "memory":
        from keyrush.limiter.memory import MemoryLimiter

        return MemoryLimiter()
    if separator:
        raise ConfigurationError(
            f"KEYRUSH_LIMITER_URL: {scheme}:// is not supported; "
            "use memory:// or package.module:Class"
        )
    limiter: Limiter = load(url, "KEYRUSH_LIMITER_URL")
    return limiter


__all__ = ["Limiter", "open_limiter"]
