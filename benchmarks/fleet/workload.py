"""Who calls how often: thousands of keys by Zipf's law, on the plans that the docs name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import NamedTuple

#: How much busier a key is than the ones behind it: `rank ** -EXPONENT`. The busiest of 2,000 at
#: 800 requests a second has 1,600 a minute, and so stays within the largest documented plan: what
#: is measured is requests that are let through.
EXPONENT = 0.7

#: Requests a second of each key, on average.
RATE = 0.4

#: The share of the busiest keys on each plan that is not Starter, cumulated.
_PLANS = ((0.01, "business"), (0.1, "pro"))


class Load(NamedTuple):
    """Requests that come one after another."""

    made: int  #: keys that there are
    keys: int  #: how many of them take part
    requests: int
    gap: float  #: seconds from one to the next; 0 for as fast as possible

    def each(self) -> Sequence[int]:
        """The number of each key that takes part, the busiest first; each plan has its share."""
        spread = self.made // self.keys
        return range(0, self.keys * spread, spread)

    def order(self, seed: int) -> list[int]:
        """The number of the key of each request; the same for everybody."""
        weights = list(accumulate((rank + 1) ** -EXPONENT for rank in range(self.keys)))
        draw = Random(seed)  # noqa: S311  # a load, no secret
        return draw.choices(self.each(), cum_weights=weights, k=self.requests)


def paced(made: int, keys: int, seconds: float) -> Load:
    """Keys that each come by now and then, together at a steady pace."""
    return Load(made, keys, int(keys * RATE * seconds), 1 / (keys * RATE))


def fast(made: int, requests: int) -> Load:
    """All keys, as fast as the contender answers."""
    return Load(made, made, requests, 0)


def plan_of(number: int, made: int) -> str:
    """The plan of a key by its number, 0 for the busiest of those that are made."""
    for share, plan in _PLANS:
        if number < made * share:
            return plan
    return "starter"
