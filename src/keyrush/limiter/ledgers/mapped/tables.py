"""One table of a file in a process, whoever uses it: two gates, or an app and doctor.

A second descriptor of a file would take the locks of the first for its own, and closing it, or any
other open and close of the file in the process, would let go of them all.
"""

from __future__ import annotations

import threading
from pathlib import Path

from keyrush.limiter.ledgers.mapped.file import WindowsFile
from keyrush.limiter.ledgers.mapped.table import Table
from keyrush.runtime.forks import after_fork

Identity = tuple[int, int]


class _Tables:
    """Those that are open, by the device and number of their files, and how many use each."""

    def __init__(self) -> None:
        self._open: dict[Identity, tuple[Table, int]] = {}
        self._renew()
        after_fork(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def open(self, path: str) -> Table:
        with self._lock:
            known = _identity(path)
            if known in self._open:
                table, users = self._open[known]
                table.file.check_whole()
            else:
                table, users = Table(WindowsFile(path)), 0
            self._open[table.file.identity] = (table, users + 1)
            return table

    def close(self, table: Table) -> None:
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


_tables = _Tables()


def open_table(path: str) -> Table:
    """The table of the file, to be closed by `close_table`.

    Raises:
        Unusable: The file can't be used.
    """
    return _tables.open(path)


def close_table(table: Table) -> None:
    """Use the table no more; its file is closed when nobody does."""
    _tables.close(table)
