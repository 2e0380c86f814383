"""Links and sessions of the dashboard, and forms that were sent, in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from keyrush.core.portal import PortalLink, PortalSession
from keyrush.runtime.forks import after_fork
from keyrush.store.protocol import MAX_SESSIONS

#: Of each kind, in a process; of more, those go first that came first.
_ALL = 100_000


class _Ending(Protocol):
    @property
    def ends_at(self) -> int: ...


_T = TypeVar("_T", bound=_Ending)


class PortalInMemory:
    """See `protocol.PortalStore`: by itself, or a part of a store. Safe to call from any thread."""

    def __init__(self) -> None:
        self._renew_portal_lock()
        after_fork(self._renew_portal_lock)
        self._portal_links: dict[str, PortalLink] = {}
        self._portal_sessions: dict[str, PortalSession] = {}
        self._spent_forms: dict[str, int] = {}

    def _renew_portal_lock(self) -> None:
        self._portal_lock = threading.Lock()

    def add_portal_link(self, link: PortalLink) -> None:
        with self._portal_lock:
            _forget(self._portal_links, link.created_at)
            self._portal_links[link.hash] = link

    def portal_link(self, hash: str, now: int) -> PortalLink | None:
        return _held(self._portal_links, hash, now)

    def open_portal_session(self, hash: str, session: PortalSession) -> bool:
        with self._portal_lock:
            link = _held(self._portal_links, hash, session.created_at)
            self._portal_links.pop(hash, None)
            if link is None or link.account_id != session.account_id:
                return False
            _forget(self._portal_sessions, session.created_at)
            self._portal_sessions[session.hash] = session
            return True

    def portal_session(self, hash: str, now: int) -> PortalSession | None:
        return _held(self._portal_sessions, hash, now)

    def portal_sessions(self, now: int, account_id: str | None = None) -> Sequence[PortalSession]:
        with self._portal_lock:
            found = [
                one
                for one in self._portal_sessions.values()
                if now < one.ends_at and account_id in {None, one.account_id}
            ]
        return sorted(found, key=lambda one: (one.created_at, one.id))[:MAX_SESSIONS]

    def end_portal_session(self, session_id: str, now: int) -> bool:
        with self._portal_lock:
            for hash, one in self._portal_sessions.items():
                if one.id == session_id:
                    del self._portal_sessions[hash]
                    return now < one.ends_at
        return False

    def spend_form(self, name: str, now: int, ends_at: int) -> bool:
        with self._portal_lock:
            spent = self._spent_forms
            if spent.get(name, now) > now:
                return False
            first = next(iter(spent), name)
            if spent.get(first, now) <= now or len(spent) >= _ALL:
                spent.pop(first, None)
            spent[name] = ends_at
            return True


def _held(kept: Mapping[str, _T], hash: str, now: int) -> _T | None:
    found = kept.get(hash)
    return found if found is not None and now < found.ends_at else None


def _forget(kept: dict[str, _T], now: int) -> None:
    """Let go of what has ended, and where there is no room of what came first."""
    for hash in [hash for hash, one in kept.items() if one.ends_at <= now]:
        del kept[hash]
    while len(kept) >= _ALL:
        del kept[next(iter(kept))]
