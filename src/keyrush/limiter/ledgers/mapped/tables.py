"""One table of a file in a process, whoever uses it: two gates, or an app and doctor.

A second descriptor of a file would take the locks of the first for its own, and closing it, or any
other open and close of the file in the process, would let go of them all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from keyrush.limiter.ledgers.mapped.file import MappedFile
from keyrush.limiter.ledgers.mapped.records import Records
from keyrush.limiter.ledgers.mapped.table import Table
from keyrush.runtime.forks import after_fork

Identity = tuple[int, int]

T = TypeVar("T", bound=Records)


class Tables(Generic[T]):
    """Those that are open, by the device and number of their files, and how many use each.
    `make` makes one of the file at a path.
    """

    def __init__(self, make: Callable[[str], T]) -> None:
        self._make = make
        self._open: dict[Identity, tuple[T, int]] = {}
        self._renew()
        after_fork(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def open(self, path: str) -> T:
        """The table of the file, to be closed by `close`.

        Raises:
            Unusable: The file can't be used.
        """
        with self._lock:
            known = _identity(path)
            if known in self._open:
                table, users = self._open[known]
                table.file.check_whole()
            else:
                table, users = self._make(path), 0
            self._open[table.file.identity] = (table, users + 1)
            return table

    def close(self, table: T) -> None:
        """Use the table no more; its file is closed when nobody does."""
        with self._lock:
            table, users = self._open.pop(table.file.identity)
            if users > 1:
                self._open[table.file.identity] = (table, users - 1)
            else:
                table.close()


def _identity(path: str) -> Identity | None:
    """Of the file, without opening it."""
    try:
        found = Path(path).lstat()
    except OSError:  # opening it says why
        return None
    return found.st_dev, found.st_ino


#: Of windows.
TABLES = Tables(lambda path: Table(MappedFile(path)))
open_table, close_table = TABLES.open, TABLES.close
