"""Writers of one process take turns at a SQLite file.

SQLite has no queue: whoever finds the file locked asks again after a pause that grows, and among
many threads some wait longer than they are ready to, though each writes for a millisecond
(sqlite3_busy_timeout). So those of one process queue here, in order of arrival. Between processes
it remains as it is; the lock is always SQLite's own.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from threading import Lock
from weakref import WeakValueDictionary

from keyrush.runtime.forks import after_fork

#: Seconds that a writer waits for its turn. After that it asks SQLite, which waits as long again.
WAIT = 2.0


class Turns:
    """A turn that is handed on in order of arrival."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._is_taken = False
        self._waiting: deque[Lock] = deque()

    def take(self, wait: float) -> bool:
        """Wait for the turn, at most `wait` seconds; whether it has come."""
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return True
            mine = Lock()
            mine.acquire()
            self._waiting.append(mine)
        if mine.acquire(timeout=wait):
            return True
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return False
        return True  # it came at the last moment

    def hand_on(self) -> None:
        """Give the turn to whoever has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False


class _Files:
    """The turns of each file, for as long as a connection to it is open."""

    def __init__(self) -> None:
        self.forget()
        after_fork(self.forget)  # a turn may have been a thread's that the child has not

    def forget(self) -> None:
        self._lock = Lock()
        self._turns: WeakValueDictionary[str, Turns] = WeakValueDictionary()

    def turns_of(self, path: str) -> Turns:
        with self._lock:
            if (found := self._turns.get(path)) is None:
                found = self._turns[path] = Turns()
            return found


_files = _Files()


class Writer(sqlite3.Connection):
    """A connection that writes when it is its turn, and has it until its transaction has ended."""

    _turns: Turns | None = None
    _has_turn = False

    def await_turn(self) -> None:
        """Wait for the turn; to be followed by `BEGIN IMMEDIATE`, whether or not it has come."""
        if self._turns is None:
            path = self.execute("PRAGMA database_list").fetchone()[2]  # as SQLite has resolved it
            self._turns = _files.turns_of(path)
        if not self._has_turn:
            self._has_turn = self._turns.take(WAIT)

    def commit(self) -> None:
        super().commit()
        self._hand_on()

    def rollback(self) -> None:
        super().rollback()
        self._hand_on()

    def close(self) -> None:
        super().close()
        self._hand_on()

    def __del__(self) -> None:
        self._hand_on()  # it was dropped without being closed

    def _hand_on(self) -> None:
        if self._has_turn and self._turns is not None:
            self._has_turn = False
            self._turns.hand_on()
