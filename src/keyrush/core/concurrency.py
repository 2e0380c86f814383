"""How many requests may be under way at once: what is asked of slots."""

from __future__ import annotations

from typing import NamedTuple


class Want(NamedTuple):
    """One slot of a subject's, for as long as a request is under way."""

    key: str  #: names the subject, and what goes on; never the maximum
    most: int  #: slots there are; 0 admits none
