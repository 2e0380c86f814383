"""What a query of the account API may say."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from keyrush.apps.account_api.bodies import BadBody
from keyrush.core.activity import Group, Outcome, Source, Where
from keyrush.core.key_text import KeyFormat
from keyrush.core.ledger import Reason
from keyrush.core.ledger import Source as Door
from keyrush.core.paging import DEFAULT_LIMIT, MAX_LIMIT
from keyrush.errors import InvalidArgument
from keyrush.operations.activity import Bins

#: A time with a zone.
Instant = Annotated[
    AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC))
]


class Paging(BaseModel):
    """The query of a list; what it says besides is no matter, as usual with queries."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    cursor: str | None = None


class Between(BaseModel):
    """From `since` on, and before `until`."""

    since: Instant | None = None
    until: Instant | None = None

    def bounds(self) -> tuple[int | None, int | None]:
        """Both, as Unix milliseconds."""
        return _milliseconds(self.since), _milliseconds(self.until)


class LedgerQuery(Paging, Between):
    """Of the ledger the entries that are there for one of the reasons, and came by one of the
    doors; without any, all.
    """

    reason: Annotated[list[Reason], Field(max_length=len(get_args(Reason)))] = []
    source: Annotated[list[Door], Field(max_length=len(get_args(Door)))] = []


class Filter(Between):
    """Of activity what agrees with all that is given."""

    source: Source | None = None
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")] | None = None
    outcome: Outcome | None = None
    rule: Annotated[str, Field(min_length=1, max_length=300)] | None = None

    def where(self) -> Where:
        """The same, as the operations take it."""
        return Where(self.source, self.key, self.outcome, self.rule, *self.bounds())


class ActivityQuery(Paging, Filter):
    """A page of activity."""


class SummaryQuery(Filter):
    """Totals of activity in bins, `by` a length; `group` is what they are told apart by."""

    by: Bins = "hour"
    group: Group | None = None


Model = TypeVar("Model", bound=BaseModel)


def read_query(query: Sequence[tuple[str, str]], keys: KeyFormat, model: type[Model]) -> Model:
    """What the query says, by name and value. Of what is given more than once the last counts, but
    in lists.

    Raises:
        BadBody: It is not what `model` says, or holds a key (O22).
    """
    values: dict[str, Any] = dict(query)
    for name, field in model.model_fields.items():
        if isinstance(field.default, list) and name in values:
            values[name] = [value for given, value in query if given == name]
    if keys.is_in(values):
        raise _wrong(None, "Query should hold no key", None)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise BadBody.of("query", error, model) from None


def wrong_query(error: InvalidArgument, query: BaseModel) -> BadBody:
    """What an operation found wrong with a field of the query."""
    return _wrong(error.field, error.message, getattr(query, error.field, None))


def _wrong(field: str | None, message: str, given: object) -> BadBody:
    loc: list[str | int] = ["query"] if field is None else ["query", field]
    return BadBody("value_error", loc, message, given)


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)
