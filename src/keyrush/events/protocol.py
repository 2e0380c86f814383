"""What happens at the gate, as values, and who hears of it.

A request that is admitted is no event: whoever counts those is asked for it by name, because here
it would cost each of them. That one would not have been is told, once for each spell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keyrush.core.refusal import Refusal
from keyrush.runtime.logs import log_fault
from keyrush.wire.sender import Sender


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """A request is answered with a refusal, by the gate or by the app behind it."""

    refusal: Refusal
    sender: Sender


@dataclass(frozen=True, slots=True)
class WouldLimit:
    """A key is over a limit that is only observed; told once for each spell of it. The ids are
    those of the key, or of what stands for one, and of its account; `window` is the limit's name.
    """

    key_id: str
    account_id: str
    window: str


Event = RequestRefused | WouldLimit

#: Hears of events, in whatever thread or event loop they happen, before the answer is sent: so it
#: must be quick, and do no I/O. What it raises is logged, and changes no answer.
Listener = Callable[[Event], object]


class Events:
    """Hands events on to listeners, in their order. Safe to use from any thread."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners
        self._failing: set[int] = set()  # the places of those that have failed last

    def add(self, listener: Listener) -> None:
        """Have one more listener hear of what happens from now on."""
        self._listeners += (listener,)

    def emit(self, event: Event) -> None:
        """Tell every listener. Never raises; a listener that fails is logged once, until it has
        succeeded again.
        """
        for place, listener in enumerate(self._listeners):
            try:
                listener(event)
            except Exception as error:
                if place not in self._failing:
                    self._failing.add(place)
                    log_fault("a listener to events fails", error)
            else:
                self._failing.discard(place)
