"""What was asked of an app, and what came of it: the rows of activity (contract O20), and their
totals.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import Literal, NamedTuple

from keyrush.core.times import SECOND

#: By which door a caller came (contract O20): `mcp` to a resource, `dashboard` with the session
#: token of a person, `api` else.
Source = Literal["api", "mcp", "dashboard"]

#: What came of a request: `limited` is 429, `refused` whatever else the gate said itself, `error`
#: an answer of the app of 400 or above, or none.
Outcome = Literal["ok", "error", "limited", "refused"]

#: The `reason` of requests that limits would have refused that are only observed: what came of them
#: is the answer's own.
WOULD_LIMIT = "would_limit"

#: What totals may be told apart by.
Group = Literal["key", "rule", "source", "outcome"]

#: Upper bounds of the buckets of durations, in microseconds; one more has what is above.
BUCKETS = (
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
)  # fmt: skip

#: Milliseconds of the bins that totals are kept in: those of the last two days, and for longer.
FINE, MIDDLE, COARSE = 60 * SECOND, 1800 * SECOND, 3600 * SECOND


class Activity(NamedTuple):
    """One request, or one call of a request to an MCP server.

    `rule` is the template of the rule's path, or the tool's name; empty where there is no rule.
    `path` is that, too, or the path as it came, without its query, where there is none. With
    `is_kept` false it adds to totals alone.
    """

    id: str  #: no other row has it
    at: int  #: when it came, Unix milliseconds
    account_id: str
    credential_id: str  #: of the key, or of the link that a token stands for
    subject: str | None  #: whom the issuer of the token knows
    source: Source
    method: str  #: of HTTP, or of MCP
    path: str
    rule: str
    status: int  #: of HTTP; 101 for a WebSocket, 0 where there was no answer
    outcome: Outcome
    reason: str | None  #: why it was refused, as in `core.refusal`, or `WOULD_LIMIT`
    credits: int  #: what was charged, less what was given back
    duration: int  #: microseconds, to the end of the answer
    request_id: str | None  #: as the client or a proxy named it
    address: str | None  #: the client's, as far as it is kept
    agent: str | None  #: the first 80 characters of its user agent
    is_kept: bool = True


class Where(NamedTuple):
    """Which rows are meant: all of one account that agree with what is given."""

    source: Source | None = None
    credential_id: str | None = None
    outcome: Outcome | None = None
    rule: str | None = None
    since: int | None = None  #: from then on, Unix milliseconds
    until: int | None = None  #: before then


ALL = Where()


class Span(NamedTuple):
    """A span of whole units: minutes, half hours, hours or days. Unix milliseconds all."""

    since: int
    until: int
    unit: int


class DayOfKey(NamedTuple):
    """What came of the requests with one key in a day, UTC."""

    credential_id: str
    at: int  #: when it begins, Unix milliseconds
    outcome: Outcome
    requests: int


class Total(NamedTuple):
    """The rows of one bin that have one value in common."""

    at: int  #: when the bin begins, Unix milliseconds
    value: str | None  #: what they have in common, None where they were not told apart
    requests: int
    credits: int
    duration: int  #: their sum, microseconds
    longest: int  #: microseconds
    buckets: tuple[int, ...]  #: how many durations are in each of `BUCKETS`


def bucket_of(duration: int) -> int:
    """Which of the buckets has the duration, in microseconds."""
    return bisect_left(BUCKETS, duration)


#: No database holds NUL in a text (PostgreSQL), nor lone surrogates (UTF-8).
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


#: Of a row, what a client has chosen, or an issuer of tokens.
_TEXTS = (4, 6, 7, 8, 14, 15, 16)
_texts_of = itemgetter(*_TEXTS)


def storable(text: str) -> str:
    """The text with U+FFFD for what no database can hold."""
    return _UNSTORABLE.sub("\ufffd", text)


def storable_rows(rows: Sequence[Activity]) -> Sequence[Activity]:
    """The rows with such texts."""
    # In one look, because hardly any batch has any; each text once, because most are the same. What
    # is not looked at comes from no client.
    texts = set(chain.from_iterable(map(_texts_of, rows)))
    texts.discard(None)
    text = "".join(texts)
    if text.isascii() and "\x00" not in text:
        return rows
    return [
        Activity._make(storable(one) if isinstance(one, str) else one for one in row)
        for row in rows
    ]
