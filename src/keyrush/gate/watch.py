"""The watch over stores that other processes change: what has changed is dropped here."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from keyrush.core.news import Feed
from keyrush.errors import NotTold
from keyrush.runtime.logs import log_fault

#: Seconds for which a feed that has failed is left alone.
PAUSE = 1.0

#: Seconds for which one is left alone whose server does not allow it.
MUTE_PAUSE = 30.0


class Watch:
    """Hands on the news of feeds. `drop` gets ids of accounts, or None when all may have changed.

    Used by one thread. `monotonic` gives seconds.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        drop: Callable[[Collection[str] | None], object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feeds = feeds
        self._drop = drop
        self._monotonic = monotonic
        #: When to ask again, by the place of feeds that have failed.
        self._due: dict[int, float] = {}
        self._away: set[int] = set()
        self._mute: set[int] = set()  # they answer, but not with news

    @property
    def is_healthy(self) -> bool:
        """False while a feed is away: then changes hold here when cache entries expire."""
        return not self._away

    @property
    def hears_all(self) -> bool:
        """False while a feed is away, or none can be had because a server does not allow it."""
        return not (self._away or self._mute)

    def poll(self) -> None:
        """Ask every feed, and drop what has changed. Never raises, never waits for news."""
        for place, feed in enumerate(self._feeds):
            if place not in self._due or self._monotonic() >= self._due[place]:
                self._ask(place, feed)

    def _ask(self, place: int, feed: Feed) -> None:
        try:
            changed = feed.poll()
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

    def _failed(self, place: int, how: set[int], pause: float) -> None:
        self._away.discard(place)
        self._mute.discard(place)
        how.add(place)
        self._due[place] = self._monotonic() + pause

    def close(self) -> None:
        """Let go of connections. The watch may go on afterwards."""
        for feed in self._feeds:
            try:
                feed.close()
            except Exception as error:
                log_fault("a feed can't be closed", error)
