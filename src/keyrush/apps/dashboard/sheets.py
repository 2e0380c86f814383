"""CSV for spreadsheets (RFC 4180): streamed a page at a time, and nothing in it a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from keyrush.apps.dashboard.turns import Turns
from keyrush.apps.dashboard.visit import Stop, Visit
from keyrush.core.paging import Page

T = TypeVar("T")

#: What spreadsheets begin formulas with, also the full-width forms, and what moves a cell's
#: beginning on (OWASP, CSV Injection).
_FORMULA = "=+-@\t\r\n|%\uff1d\uff0b\uff0d\uff20"

#: Where a cell begins for those that take other separators than commas, as where numbers have
#: commas in them; commas there are within quotes, and so in one cell.
_AFTER = re.compile(rf"([;\t][ \u00a0\"]*)(?=[{re.escape(_FORMULA)}])")

_KIND = "text/csv; charset=utf-8"

#: A mark of the byte order, by which spreadsheets know UTF-8.
_MARK = "\ufeff"


def cell(value: object) -> str:
    """A value as a cell. Text that a spreadsheet might run has an apostrophe before it; numbers
    stay numbers, also below zero.
    """
    if value is None:
        return ""
    text = str(value)
    if not isinstance(value, str):
        return text
    if ";" in text or "\t" in text:
        text = _AFTER.sub(r"\1'", text)
    if text.lstrip(" \u00a0")[:1] in set(_FORMULA):
        return f"'{text}"
    return text


def lines(rows: Iterable[Sequence[object]]) -> bytes:
    """The rows as lines of CSV, in UTF-8."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerows([cell(value) for value in row] for row in rows)
    return out.getvalue().encode("utf-8", "replace")


class _Sheet(StreamingResponse):
    """What is streamed in somebody's turn, which ends with it, however it ends."""

    def __init__(
        self, parts: AsyncIterator[bytes], headers: dict[str, str], turns: Turns, who: str
    ) -> None:
        super().__init__(parts, 200, headers, _KIND)
        self._turns, self._who = turns, who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._turns.give_back(self._who)


async def streamed(
    visit: Visit,
    name: str,
    header: Sequence[str],
    page: Callable[[str | None], Awaitable[Page[T]]],
    row: Callable[[T], Sequence[object]],
) -> Response:
    """The answer with all that `page` gives for one cursor after another, as `name`.csv. No more
    than a page is held at any time; a reader who is slow is waited for.

    The first page is read before the answer begins, so that what is wrong with it is still said.
    What goes wrong later breaks the answer off, so that no half of it passes for the whole.

    Raises:
        Stop: As many are on their way to the account as may be.
    """
    turns, who = visit.frame.files, visit.account_id
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    if not turns.take(who):
        raise Stop("too_many_files", 429)
    try:
        first = await page(None)
    except BaseException:
        turns.give_back(who)
        raise
    if visit.request.method == "HEAD":
        turns.give_back(who)
        return Response(None, 200, headers, _KIND)

    async def parts() -> AsyncIterator[bytes]:
        yield _MARK.encode() + lines([header])
        found = first
        while True:
            yield lines(row(item) for item in found)
            if found.cursor is None:
                return
            found = await page(found.cursor)

    return _Sheet(parts(), headers, turns, who)
