"""What a programmer can catch.

A refusal of a request is a value (`core.refusal.Refusal`), not an exception; `Refused`
carries one out of a handler, where raising is the only way to stop.
"""

from __future__ import annotations


class KeyrushError(Exception):
    """The base class of all errors that keyrush raises."""


class ConfigurationError(KeyrushError, ValueError):
    """A setting is wrong; the message names it and says what is allowed. Raised at start-up."""


class InvalidArgument(KeyrushError, ValueError):
    """An argument of an operation is wrong: `field` names it, the message says what is allowed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class NotFound(KeyrushError, LookupError):
    """No such account or credential, or not one of the caller's account (contract O6)."""


class Unavailable(KeyrushError):
    """Something that keyrush depends on can't be had as things stand. Another call, later, may
    find it. A request that needs it is refused with 503 (S19).
    """


class Unreachable(ConfigurationError, Unavailable):
    """What a setting names can't be opened as things stand; the message says why."""


class StoreError(Unavailable):
    """The store could not answer."""


class LimiterError(Unavailable):
    """The server of the limiter could not answer."""


class Away(Unavailable):
    """Something does not answer, or has not been asked because of that: it has been logged."""


class NotTold(Unavailable):
    """A server answers, and will not tell of changes: no outage, only later news."""


class DataError(KeyrushError, ValueError):
    """The store has answered, but can't hold or compare what it was given. This is not an outage: a
    call with other values succeeds.
    """


class TooManyKeys(KeyrushError):
    """The account has as many active keys as its plan allows, or has no room for `more` of them:
    `limit`, a number of keys.
    """

    def __init__(self, limit: int, more: int = 1) -> None:
        text = f"the account has {limit:,} active keys, as many as its plan allows"
        if more > 1:
            text = f"there is no room for {more:,} more: its plan allows {limit:,} active keys"
        super().__init__(text)
        self.limit = limit


class CallerEnded(KeyrushError):
    """The key that asks for an operation is revoked or expired, or is none of the account's."""


class BeyondCaller(KeyrushError):
    """The key that asks has been replaced and may no longer manage keys; or the new key could do
    more than the one that asks.
    """
