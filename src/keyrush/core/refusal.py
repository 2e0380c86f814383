"""Why a request is refused: one row for each reason, and the refusal as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

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
    "not_json",
    "not_json_rpc",
    "batch_refused",
    "call_without_id",
    "id_in_use",
    "header_mismatch",
    "unavailable",
]


class Meaning(NamedTuple):
    """What a reason stands for, to clients and to people."""

    status: int  #: of HTTP (contract R7, O12, O15)
    #: What is said to people; `{names}`, `{wait}` (seconds) and `{hint}` are filled in.
    sentence: str
    #: The same where there are no names, or such as can't be shown.
    nameless: str = ""
    #: OAuth's code in the challenge (S13–S18); "" is a challenge without one, None is no challenge.
    error: str | None = None
    description: str = ""  #: that goes with the code

    def said(self, *, names: str = "", wait: object = "N", hint: str = "") -> str:
        """The sentence, of one refusal or, as it stands, of all for this reason."""
        sentence = self.sentence if names else self.nameless or self.sentence
        return sentence.format(names=names, wait=wait, hint=hint)


_NO_KEY = "Invalid or missing API key.{hint}"
_NO_MODULE = (
    "Your plan does not include {names}.",
    "Your plan does not include a requested module.",
)

MEANINGS: dict[Reason, Meaning] = {
    "missing_credential": Meaning(401, _NO_KEY, error=""),
    "invalid_credential": Meaning(
        401, _NO_KEY, error="invalid_token", description="The credential is invalid or expired"
    ),
    "two_credentials": Meaning(
        400,
        "Send exactly one credential: Authorization or X-API-Key.",
        error="invalid_request",
        description="Send exactly one credential",
    ),
    "malformed_path": Meaning(
        400, "The path must be in plain form, without empty or dot segments."
    ),
    "insufficient_scope": Meaning(
        403,
        "The API key lacks the scope {names}.",
        "The API key lacks a scope.",
        error="insufficient_scope",
    ),
    "unruled": Meaning(403, "API keys are not admitted to this path by this method."),
    "beyond_caller": Meaning(
        403, "An API key can't make one that may do more than itself, or manage such."
    ),
    "too_many_keys": Meaning(
        403, "The account has {names} active keys, as many as its plan allows."
    ),
    "module_not_in_plan": Meaning(403, *_NO_MODULE),
    "gated_feature": Meaning(402, *_NO_MODULE),
    "rate_limited": Meaning(
        429,
        "Rate limit exceeded. Try again in {wait} seconds. {names} requests are under way, "
        "as many as may be at once.",
        "Rate limit exceeded. Try again in {wait} seconds.",
    ),
    "quota_exceeded": Meaning(429, "Monthly quota exceeded. Try again in {wait} seconds."),
    "insufficient_credits": Meaning(402, "Not enough credits."),
    "not_found": Meaning(404, "Not found."),
    "method_not_allowed": Meaning(405, "Method not allowed."),
    "body_too_large": Meaning(413, "The request body has more than {names} bytes."),
    "not_json": Meaning(
        400, "The request body must be JSON in UTF-8, in which no member comes twice."
    ),
    "not_json_rpc": Meaning(400, "The request body must be a message of JSON-RPC 2.0."),
    "batch_refused": Meaning(400, "JSON-RPC batches are not taken here."),
    "call_without_id": Meaning(400, "A call that is paid for needs an id."),
    "id_in_use": Meaning(400, "A call of this session with the same id has not been answered."),
    "header_mismatch": Meaning(400, "The MCP headers and the request body differ."),
    "unavailable": Meaning(503, "Service unavailable. Try again in {wait} seconds."),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let through: a value, made a response by `wire.refusals.Refusals`.

    `names` are the scopes or modules that were missing, the number of keys that an account may
    have, or of requests that may be under way at once; `retry_after` is whole seconds, at least 1
    (S21); `headers` are the rate-limit fields of an authenticated caller.
    """

    reason: Reason
    names: tuple[str, ...] = ()
    retry_after: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def status(self) -> int:
        """The HTTP status of the refusal."""
        return MEANINGS[self.reason].status


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
