"""The watch over what other processes change: it is dropped here, and what changes here is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from keyrush.core.changes import Changes
from keyrush.errors import NotTold
from keyrush.runtime.logs import log_fault

#: Seconds for which news that have failed are left alone.
PAUSE = 1.0

#: Seconds for which those are left alone that a server does not allow.
MUTE_PAUSE = 30.0


class Watch:
    """Hands on news of changes. `drop` gets ids of accounts, or None when all may have changed.

    Those of `complete` name all that changes in the store. Once they have, and it is dropped,
    `vouch` gets the seconds since which something else may have changed.

    Polled by one thread; any may publish. `monotonic` gives seconds.
    """

    def __init__(
        self,
        changes: Sequence[Changes],
        drop: Callable[[Collection[str] | None], object],
        monotonic: Callable[[], float] = time.monotonic,
        *,
        complete: Changes | None = None,
        vouch: Callable[[float], object] = lambda _: None,
    ) -> None:
        self._changes = changes
        self._drop = drop
        self._complete = complete
        self._vouch = vouch
        self._monotonic = monotonic
        #: When to ask again, by the place of those that have failed.
        self._due: dict[int, float] = {}
        self._away: set[int] = set()
        self._mute: set[int] = set()  # they answer, but not with news

    @property
    def is_healthy(self) -> bool:
        """False while news are away: then changes hold here when cache entries expire."""
        return not self._away

    @property
    def hears_all(self) -> bool:
        """False where there are no news, or while some are away or not allowed by their server."""
        return bool(self._changes) and not (self._away or self._mute)

    def poll(self) -> None:
        """Ask for all news, and drop what has changed. Never raises, never waits for news."""
        for place, one in enumerate(self._changes):
            if place not in self._due or self._monotonic() >= self._due[place]:
                self._ask(place, one)

    def _ask(self, place: int, one: Changes) -> None:
        began = self._monotonic()
        try:
            changed = one.poll()
            if place in self._due:
                changed = None  # whatever it says: it was not listened to
            if changed is None or changed:
                self._drop(changed)
        except NotTold as error:
            if place not in self._mute:
                log_fault("there is no news of changes made elsewhere; they hold later", error)
            self._failed(place, self._mute, MUTE_PAUSE)
        except Exception as error:
            if place not in self._away:
                log_fault("changes made elsewhere can't be followed; they hold later", error)
            self._failed(place, self._away, PAUSE)
        else:
            self._due.pop(place, None)
            self._away.discard(place)
            self._mute.discard(place)
            if one is self._complete:
                self._vouch(self._monotonic() - began)

    def _failed(self, place: int, how: set[int], pause: float) -> None:
        self._away.discard(place)
        self._mute.discard(place)
        how.add(place)
        self._due[place] = self._monotonic() + pause

    def publish(self, account_id: str) -> None:
        """Tell the watches of all processes that something of an account has changed. Never
        raises: who is not told hears of it otherwise, or later.
        """
        for one in self._changes:
            try:
                one.publish(account_id)
            except Exception as error:
                log_fault("a change can't be told to all; elsewhere it may hold later", error)

    def close(self) -> None:
        """Let go of connections. The watch may go on afterwards."""
        for one in self._changes:
            try:
                one.close()
            except Exception as error:
                log_fault("what tells news of changes can't be closed", error)
