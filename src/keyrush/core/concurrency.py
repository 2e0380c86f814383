"""How many requests may be under way at once: what is asked of slots."""

from __future__ import annotations

from typing import NamedTuple


class Want(NamedTuple):
    """One slot of a subject's, for as long as a request is under way."""

    key: str  #: names the subject, and what goes on; never the maximum
    most: int  #: slots there are; 0 admits none


class Wants(NamedTuple):
    """What a request takes slots of, by what becomes of it where there is none left."""

    enforced: tuple[Want, ...] = ()
    observed: tuple[tuple[str, Want], ...] = ()  #: each by the name that it is told by


#: Of a request of which any number may be under way.
NO_WANTS = Wants()

#: What is under way at once, by name, as windows are called by their lengths.
CONCURRENT = "concurrent"
