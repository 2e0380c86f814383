"""The rate-limit fields of a response."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from keyrush.core.identity import Verified
from keyrush.core.sliding import Demand, Tally, Window
from keyrush.core.times import month_bounds
from keyrush.wire.request import Header

#: How the names of rate-limit fields begin, whoever sends them, in lower case.
RATE_LIMIT_FIELDS = ("x-ratelimit", "ratelimit", "x-rate-limit", "rate-limit")


_BEGINNINGS = tuple(name.encode("ascii") for name in RATE_LIMIT_FIELDS)


_INITIALS = frozenset({b"x", b"X", b"r", b"R"})  # to look at these first is what is cheap


def foreign(headers: Iterable[Header]) -> list[Header]:
    """The headers of an app that are no rate-limit fields: of these a response has one set (S69).
    Names may be in any case.
    """
    return [
        header
        for header in headers
        if header[0][:1] not in _INITIALS or not header[0].lower().startswith(_BEGINNINGS)
    ]


#: Fields that tell of one request, and not of how its windows stand: by what it would have been
#: refused, and how long it has waited.
WOULD_LIMIT, WAITED = b"x-ratelimit-would-limit", b"x-ratelimit-waited"


def is_of_windows(header: Header) -> bool:
    """Whether one of the gate's own fields says how windows stand."""
    return header[0] not in (WOULD_LIMIT, WAITED)


class Fields:
    """The rate-limit fields of authenticated responses: `x-ratelimit`, `ietf` or `both`."""

    def __init__(self, style: str) -> None:
        self._x = style in ("x-ratelimit", "both")
        self._ietf = style in ("ietf", "both")

    def of(
        self,
        verified: Verified,
        tally: Tally,
        now: int,
        demands: Sequence[Demand] | None = None,
    ) -> list[Header]:
        """The fields for one response (R11–R13, O14); `now` is Unix milliseconds. `demands` are on
        windows that are not those of the plan alone.
        """
        fields: list[Header] = []
        if self._x:
            _, window, remaining, ready_at = tally
            if window is not None:
                fields = [
                    _limit(window[2]),
                    (b"x-ratelimit-remaining", b"%d" % remaining),
                    _reset(ready_at),
                ]
            quota = verified.plan.quota
            if quota is not None:
                count = verified.quota_count
                left = quota.amount - count.stored - count.flushing - count.pending
                fields.append(_monthly_limit(quota.amount))
                if left >= 0:
                    fields.append((b"x-ratelimit-monthly-remaining", b"%d" % left))
                else:
                    fields.append((b"x-ratelimit-monthly-remaining", b"0"))
                    fields.append((b"x-ratelimit-monthly-overage", b"%d" % -left))
        if self._ietf:
            quota = verified.plan.quota
            windows = verified.windows
            if demands is not None:
                windows = tuple(window for demand in demands for window in demand.windows)
            fields += _ietf(windows, None if quota is None else quota.amount, tally, now)
        return fields

    def of_windows(self, windows: Sequence[Window], tally: Tally, now: int) -> list[Header]:
        """The fields for a response to nobody in particular, by windows alone."""
        fields: list[Header] = []
        if self._x and tally.window is not None:
            fields = [
                _limit(tally.window.amount),
                (b"x-ratelimit-remaining", b"%d" % tally.remaining),
                _reset(tally.ready_at),
            ]
        if self._ietf:
            fields += _ietf(windows, None, tally, now)
        return fields


@lru_cache(1024)
def _reset(ready_at: int) -> Header:
    return (b"x-ratelimit-reset", b"%d" % -(-ready_at // 1000))


@lru_cache(256)
def _limit(amount: int) -> Header:
    return (b"x-ratelimit-limit", b"%d" % amount)


@lru_cache(256)
def _monthly_limit(amount: int) -> Header:
    return (b"x-ratelimit-monthly-limit", b"%d" % amount)


def _ietf(windows: Sequence[Window], quota: int | None, tally: Tally, now: int) -> list[Header]:
    """RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers-11 (S28–S33)."""
    policies = [f'"{w.name}";q={w.amount};w={w.length // 1000}' for w in windows]
    if quota is not None:
        first, following = month_bounds(now)
        policies.append(f'"month";q={quota};w={(following - first) // 1000}')
    fields: list[Header] = []
    if policies:
        fields.append((b"ratelimit-policy", ", ".join(policies).encode("ascii")))
    if tally.window is not None:
        value = f'"{tally.window.name}";r={tally.remaining};t={seconds_until(tally.ready_at, now)}'
        fields.append((b"ratelimit", value.encode("ascii")))
    return fields


def seconds_until(instant: int, now: int) -> int:
    """Whole seconds from `now` to the Unix second at or after `instant`, at least 1 (S21).

    Reset is that second itself, so Retry-After, Reset and the text are one number (S30).
    """
    return max(1, -(-instant // 1000) - now // 1000)
