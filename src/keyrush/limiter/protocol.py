"""Where windows are counted: the protocol, and `open_limiter`, which chooses by URL.

A limiter of your own is one class with these methods, plain or coroutines. Pass an instance
to `Gate`, or name the class in `KEYRUSH_LIMITER_URL` as `package.module:Class`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from keyrush.core.sliding import Tally, Window

#: Units taken ahead in blocks, or one by one.
Mode = Literal["leased", "exact"]


#: What a request gets while the ledger is away: its process's share of the limit, everything,
#: or 503.
Outage = Literal["local", "open", "closed"]


class Limiter(Protocol):
    """What keyrush asks of a limiter. Instants are Unix milliseconds.

    One that is not local may have more, which the gate uses where it is there:
    `take_at_once(windows, cost, now)`, which is `take` without I/O, or gives None where it can't
    tell without; a coroutine `take_async` with `is_async` true; `bind(background)`, called once,
    to have work done in the background; `flush()`, to write what it holds back.
    """

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
