"""Sessions of MCP servers, each bound to the account that has opened it.

The id of a session is no credential: a server that goes by it alone lets one account use or end
another's session. So what a server answers with is noted, and who sends it must be whom it was
told. What nobody is known to have opened is nobody's: the client then starts anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

from keyrush.core.resources import Resource
from keyrush.core.times import DAY
from keyrush.errors import Away, DataError
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault
from keyrush.store.protocol import BindingStore

#: Milliseconds for which a session is known after it was last used.
LASTS = DAY

#: Remembered in this process; the others are asked for.
_REMEMBERED = 10_000


class McpSessions:
    """Who has which session, over a store. Safe to use from any thread."""

    def __init__(self, store: BindingStore, circuit: Circuit, clock: Callable[[], int]) -> None:
        self._store = store
        self._circuit = circuit
        self._clock = clock
        #: Accounts, and until when that is so, by the names of sessions.
        self._known: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def known(self, name: str) -> str | None:
        """The account that has a session, from memory; None where it has to be asked for."""
        owner, ends_at = self._known.get(name, (None, 0))
        return owner if ends_at - self._clock() > LASTS // 2 else None

    def owner(self, name: str, account_id: str) -> str | None:
        """The account that has a session, None where nobody has; may block. It is known for longer
        where that is the account that asks.

        Raises:
            Away: The store can't answer.
        """
        now = self._clock()
        owner: str | None = self._circuit.call(self._store.bound, name, now)
        if owner == account_id:
            owner = self._bound(name, account_id)
        return owner

    def open(self, name: str, account_id: str) -> None:
        """An account has been told of a session; may block. Never raises: where the store is away,
        it is known in this process at least.
        """
        try:
            self._bound(name, account_id)
        except (Away, DataError) as error:
            if not isinstance(error, Away):
                log_fault("a session of an MCP server can't be noted", error)
            self._remember(name, account_id, self._clock() + LASTS)

    def _bound(self, name: str, account_id: str) -> str:
        now = self._clock()
        owner = self._circuit.call(self._store.bind, name, account_id, now, now + LASTS)
        if owner == account_id:
            self._remember(name, owner, now + LASTS)
        return owner

    def _remember(self, name: str, account_id: str, ends_at: int) -> None:
        with self._lock:
            self._known[name] = account_id, ends_at
            self._known.move_to_end(name)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


def session_name(resource: Resource, session_id: bytes) -> str:
    """What stands for a session, and does not bring its id back."""
    return sha256(resource.uri.encode() + b"\0" + session_id).hexdigest()
