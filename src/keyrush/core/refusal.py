"""Why a request is refused: one row for each reason, and the refusal as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from keyrush.errors import KeyrushError

Reason = Literal[
    "missing_credential",
    "invalid_credential",
    "two_credentials",
    "malformed_path",
    "insufficient_scope",
    "unruled",
    "beyond_caller",
    "too_many_keys",
    "module_not_in_plan",
    "gated_feature",
    "rate_limited",
    "quota_exceeded",
    "insufficient_credits",
    "not_found",
    "method_not_allowed",
    "body_too_large",
    "unavailable",
]


#: The status of every reason (contract R7, O12, O15).
STATUS: dict[Reason, int] = {
    "missing_credential": 401,
    "invalid_credential": 401,
    "two_credentials": 400,
    "malformed_path": 400,
    "insufficient_scope": 403,
    "unruled": 403,
    "beyond_caller": 403,
    "too_many_keys": 403,
    "module_not_in_plan": 403,
    "gated_feature": 402,
    "rate_limited": 429,
    "quota_exceeded": 429,
    "insufficient_credits": 402,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_too_large": 413,
    "unavailable": 503,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let through: a value, made a response by `wire.refusals.Refusals`.

    `names` are the scopes or modules that were missing, or the number of keys that an account
    may have; `retry_after` is whole seconds, at
    least 1 (S21); `headers` are the rate-limit fields of an authenticated caller.
    """

    reason: Reason
    names: tuple[str, ...] = ()
    retry_after: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def status(self) -> int:
        """The HTTP status of the refusal."""
        return STATUS[self.reason]


class Refused(KeyrushError):
    """Raised inside an app to refuse the request: the gate answers with the documented body."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.status} {refusal.reason}")
        self.refusal = refusal


def refused_in(error: BaseException) -> Refused | None:
    """The refusal that an error stands for: it is one, was raised from one, or is a group of
    nothing else, as task groups make; the first, where there are several.
    """
    for _ in range(_DEPTH):
        if isinstance(error, Refused):
            return error
        if isinstance(error, BaseExceptionGroup):
            found = [refused_in(one) for one in error.exceptions]
            if all(found):
                return found[0]
        if error.__cause__ is None:
            return None
        error = error.__cause__
    return None


#: Causes of causes that are looked at: more are nobody's, and might be a circle.
_DEPTH = 16


#: Seconds after which a client may try again when the store is away (S19).
OUTAGE_RETRY = 5


UNAVAILABLE = Refusal("unavailable", retry_after=OUTAGE_RETRY)
