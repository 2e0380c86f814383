"""What a body of the account API may say, and the 422 that says what is wrong with one, or with a
query (contract O16).
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import pydantic_core
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from keyrush.core.checks import MAX_GRACE, MAX_NAME, SCOPE
from keyrush.core.key_text import KeyFormat
from keyrush.errors import InvalidArgument
from keyrush.operations.keys import DEFAULT_GRACE

#: Bytes; a larger request body is refused with 413, unread.
MAX_BODY = 65_536

#: As the OpenAPI document has it, too.
ScopeName = Annotated[str, Field(pattern=f"^{SCOPE}$")]

#: Dates at the end of the calendar overflow in some time zone.
Expiry = Annotated[AwareDatetime, Field(lt=datetime(9999, 1, 1, tzinfo=UTC))]


class Body(BaseModel):
    """A request body. What it does not know is wrong: a misspelt expires_at must not make a key
    that never expires.
    """

    model_config = ConfigDict(extra="forbid")


class Creation(Body):
    """A new key. Without scopes it has those of the key that asks."""

    name: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME),
    ]
    expires_at: Expiry | None = None
    scopes: Annotated[list[ScopeName], Field(max_length=100)] | None = None


class Change(Body):
    """What is to be of a key; what is not named stays. `expires_at` null is never."""

    name: Annotated[
        str | None,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME),
    ] = None
    expires_at: Expiry | None = None
    scopes: Annotated[list[ScopeName] | None, Field(min_length=1, max_length=100)] = None


class Rotation(Body):
    """A replacement. `grace` is the seconds for which the old key goes on working."""

    grace: Annotated[int, Field(ge=0, le=MAX_GRACE, strict=True)] = DEFAULT_GRACE
    expires_at: Expiry | None = None


class Revocation(Body):
    """With `descendants`, what the key has made ends with it."""

    descendants: Annotated[bool, Field(strict=True)] = False


Model = TypeVar("Model", bound=BaseModel)


class BadBody(Exception):
    """A body or a query that is answered with 422 and `detail`, as FastAPI does."""

    def __init__(self, kind: str, loc: list[str | int], message: str, given: object) -> None:
        super().__init__(kind)
        self.detail = [_problem(kind, loc, message, given)]

    @classmethod
    def of(cls, where: str, error: ValidationError, model: type[BaseModel]) -> BadBody:
        """All that pydantic found wrong; where fields are, with those that there may be."""
        bad = cls("", [], "", None)
        bad.detail = []
        for found in error.errors(include_url=False, include_context=False):
            message = found["msg"]
            if found["type"] in _ABOUT_FIELDS:
                message += f"; allowed are {', '.join(model.model_fields)}"
            loc = [where, *found["loc"]]
            bad.detail.append(_problem(found["type"], loc, message, found["input"]))
        return bad


class TooLarge(Exception):
    """A body that is answered with 413."""


#: What pydantic calls a field that is none, and what has no fields at all.
_ABOUT_FIELDS = {"extra_forbidden", "model_attributes_type"}


def _problem(kind: str, loc: list[str | int], message: str, given: object) -> dict[str, Any]:
    return {"type": kind, "loc": loc, "msg": message, "input": given}


async def read_body(chunks: AsyncIterable[bytes], keys: KeyFormat, model: type[Model]) -> Model:
    """The body that comes in `chunks`. One that holds a key is refused whole: whoever pastes it
    where a name belongs must find it neither echoed nor stored (O22).

    Raises:
        BadBody: It is no JSON, or not what `model` says.
        TooLarge: It has more than `MAX_BODY` bytes.
    """
    raw = bytearray()
    async for chunk in chunks:
        raw += chunk
        if len(raw) > MAX_BODY:
            raise TooLarge
    try:
        values = pydantic_core.from_json(bytes(raw), allow_inf_nan=False) if raw.strip() else None
    except ValueError as error:
        raise BadBody("json_invalid", ["body"], f"JSON decode error: {error}", {}) from None
    if keys.is_in(values):
        raise BadBody("value_error", ["body"], "Body should hold no key", None)
    if values is None:
        if any(field.is_required() for field in model.model_fields.values()):
            raise BadBody("missing", ["body"], "Field required", None)
        values = {}
    try:
        return model.model_validate(values, from_attributes=True)
    except ValidationError as error:
        raise BadBody.of("body", error, model) from None


def wrong(error: InvalidArgument, body: Body) -> BadBody:
    """What an operation found wrong with a field of the body."""
    given = getattr(body, error.field, None)
    return BadBody("value_error", ["body", error.field], error.message, given)
