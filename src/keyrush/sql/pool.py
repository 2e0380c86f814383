"""Where connections wait between two uses, until all are let go of: then none stays open."""

from __future__ import annotations

import threading
from typing import Any

from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from keyrush.runtime.forks import after_fork


class ClosingPool(QueuePool):
    """A pool that is of no use any more after `dispose`, when it has been replaced: what is in use
    by then is closed when it comes back. SQLAlchemy's own would keep it, where nobody ever asks,
    and the server with it, for as long as the garbage lies about.
    """

    #: Under its own name it would log for keyrush what SQLAlchemy has to say to SQLAlchemy.
    _sqla_logger_namespace = "sqlalchemy.pool.impl.QueuePool"

    _is_over = False

    def dispose(self) -> None:
        """Close what waits here, at once, and what comes back, then."""
        self._is_over = True
        super().dispose()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if self._is_over:
            record.close()  # whoever waits for it connects anew
            super()._do_return_conn(record)
            return
        super()._do_return_conn(record)
        if self._is_over:  # meanwhile
            super().dispose()


class _Turn:
    """Whoever replaces a pool has it: of two at once, one would replace the other's new one."""

    def __init__(self) -> None:
        self.forget()
        after_fork(self.forget)  # it may have been a thread's that the child has not

    def forget(self) -> None:
        # Taken again by whom a signal interrupts in it, whose handler closes all.
        self.lock = threading.RLock()


_turn = _Turn()


def let_go(engine: Any) -> Any:
    """Close the connections of a SQLAlchemy engine, those that are in use as they come back. New
    ones come with use. Returns the pool that they were of.
    """
    with _turn.lock:
        pool = engine.pool
        engine.dispose()
        return pool
