"""WebSockets and streams that are still open when their key or session ends: they end too, within a
second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Protocol

from keyrush.core.identity import Session
from keyrush.errors import Away
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.forks import after_fork
from keyrush.store.protocol import Store

#: Seconds between two looks at what is open.
LOOK_INTERVAL = 0.25


class Connection(Protocol):
    """A response that has begun and not ended."""

    key_id: str | None  #: of the key or link; None where nobody but time ends it
    session: Session | None  #: of a token; None of a key
    account_id: str
    ends_at: int  #: Unix milliseconds: when its key stops by itself

    def end(self) -> None:
        """End it, from any thread; returns at once."""
        ...


class Connections:
    """All that is open in this process. Safe to use from any thread.

    A key is looked up when its account has changed, and every `ttl` milliseconds while
    `is_told` is false: then nobody would say so. `clock` gives Unix milliseconds.
    """

    def __init__(
        self,
        store: Store,
        circuit: Circuit,
        clock: Callable[[], int],
        *,
        ttl: int,
        is_told: Callable[[], bool],
    ) -> None:
        self._store = store
        self._circuit = circuit
        self._clock = clock
        self._ttl = ttl
        self._is_told = is_told
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Connection] = set()
        self._due: set[str] = set()  # accounts of which keys are to be looked up
        self._all_due = False
        self._looked_at = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """Watch over a connection, until `remove`."""
        with self._lock:
            self._open.add(connection)
            # It may have changed since the key was verified.
            self._due.add(connection.account_id)

    def remove(self, connection: Connection) -> None:
        """The connection has ended."""
        with self._lock:
            self._open.discard(connection)

    def drop(self, accounts: Collection[str] | None) -> None:
        """Have the keys of accounts looked up, or with None all, because they may have changed."""
        if not self._open:
            return
        with self._lock:
            if accounts is None:
                self._all_due = True
            else:
                self._due.update(accounts)

    def look(self) -> None:
        """End what is open by keys that have ended. Called again and again by one thread."""
        if not self._open:
            return
        now = self._clock()
        with self._lock:
            is_all = self._all_due or (not self._is_told() and now >= self._looked_at + self._ttl)
            due, self._due, self._all_due = self._due, set(), False
            ended = [one for one in self._open if now >= one.ends_at]
            keys: dict[tuple[str, bool], list[Connection]] = {}
            for one in self._open:
                if one.key_id is not None and (is_all or one.account_id in due):
                    keys.setdefault((one.key_id, one.session is None), []).append(one)
        if is_all:
            self._looked_at = now
        for one in ended:
            one.end()
        for (key_id, is_key), connections in keys.items():
            try:
                if is_key:
                    self._look_up(key_id, connections, now)
                else:
                    self._look_up_link(key_id, connections)
            except Away:  # an outage revokes nothing; later
                with self._lock:
                    self._due.add(connections[0].account_id)

    def _look_up_link(self, link_id: str, connections: list[Connection]) -> None:
        link = self._circuit.call(self._store.link, link_id)
        for one in connections:
            issued_at = None if one.session is None else one.session.issued_at
            if link is None or not link.admits(issued_at):
                one.end()

    def _look_up(self, key_id: str, connections: list[Connection], now: int) -> None:
        key = self._circuit.call(self._store.key, key_id)
        for one in connections:
            if key is None or not key.is_active(now):
                one.end()
            elif key.ends_at is not None:
                one.ends_at = key.ends_at
