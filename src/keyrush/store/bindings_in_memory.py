"""Which account has opened a session of an MCP server, in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

from keyrush.runtime.forks import after_fork
from keyrush.store.protocol import MAX_BINDINGS

#: Of all accounts, in a process.
_ALL = 100_000


class Bindings:
    """See `protocol.BindingStore`. Safe to call from any thread."""

    def __init__(self) -> None:
        self._renew_lock()
        after_fork(self._renew_lock)
        self._of_name: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._of_account: dict[str, OrderedDict[str, None]] = {}

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def bind(self, name: str, account_id: str, now: int, ends_at: int) -> str:
        with self._lock:
            owner, until = self._of_name.get(name, (account_id, 0))
            if owner != account_id and until > now:
                return owner
            self._forget(name)
            self._of_name[name] = account_id, ends_at  # last, as the one that ends last
            names = self._of_account.setdefault(account_id, OrderedDict())
            names[name] = None
            if len(names) > MAX_BINDINGS:
                self._forget(next(iter(names)))
            first, (_, until) = next(iter(self._of_name.items()))
            if until <= now or len(self._of_name) > _ALL:
                self._forget(first)
            return account_id

    def bound(self, name: str, now: int) -> str | None:
        owner, until = self._of_name.get(name, (None, 0))
        return owner if until > now else None

    def _forget(self, name: str) -> None:
        owner, _ = self._of_name.pop(name, (None, 0))
        if owner is not None:
            del self._of_account[owner][name]
            if not self._of_account[owner]:
                del self._of_account[owner]
