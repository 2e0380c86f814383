"""A key at the moment when its text is known, and for how long a rotated one goes on."""

from __future__ import annotations

from dataclasses import dataclass, field

from keyrush.core.model import ApiKey

#: Seconds for which a rotated key goes on working, unless said otherwise.
DEFAULT_GRACE = 86_400


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the one moment when its text is known (contract O2)."""

    text: str = field(repr=False)
    key: ApiKey
