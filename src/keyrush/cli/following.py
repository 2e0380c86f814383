"""Rows of activity as they come, until nobody wants them."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator

from keyrush.cli import output
from keyrush.core.activity import Activity, Where
from keyrush.core.paging import MAX_LIMIT, checked_limit
from keyrush.core.times import SECOND
from keyrush.gate.gate import Gate
from keyrush.operations.documents import activity_json

#: Seconds between two looks: rows are written about once a second.
INTERVAL = 1.0

#: Milliseconds before the newest row in which others may still turn up: a row stands where its
#: request came, and is there once that has ended and has been written.
LATE = 60 * SECOND

#: Rows that one look reads at most; where there are more, the older ones are passed over.
AT_ONCE = 1_000


def follow(gate: Gate, account_id: str, where: Where, limit: int, json: bool) -> None:
    """Print the last `limit` rows, oldest first, and then new ones: until Ctrl-C, or until
    whoever reads standard output has gone.

    Raises:
        NotFound: There is no such account.
        InvalidArgument: What is asked for can't be.
    """
    checked_limit(limit)
    try:
        for row in _rows(gate, account_id, where, limit):
            if json:
                output.dump_line(activity_json(row))
            else:
                output.activity_line(row)
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # What is still buffered would be tried, and told of, again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _rows(gate: Gate, account_id: str, where: Where, limit: int) -> Iterator[Activity]:
    """The last rows and then new ones, as long as somebody reads standard output."""
    newest, floor = gate.clock(), where.since or 0
    recent, floor = _read(gate, account_id, where, max(floor, newest - LATE))
    last = gate.activity.page(account_id, where, limit=limit)
    seen = {row.id: row.at for row in (*recent, *last)}
    yield from reversed(last)
    while _is_wanted(INTERVAL):
        found, floor = _read(gate, account_id, where, max(floor, newest - LATE))
        for row in sorted(found, key=lambda row: (row.at, row.id)):
            if row.id not in seen:
                yield row
            newest = max(newest, min(row.at, gate.clock()))  # of a process whose clock is wrong
        seen = {row_id: at for row_id, at in seen.items() if at >= newest - LATE}
        seen |= {row.id: row.at for row in found}


def _read(gate: Gate, account_id: str, where: Where, since: int) -> tuple[list[Activity], int]:
    """The rows since then, and since when: later than asked for where there are too many."""
    where = where._replace(since=since)
    page = gate.activity.page(account_id, where, limit=MAX_LIMIT)
    found = [*page]
    while page.cursor is not None:
        if len(found) >= AT_ONCE:
            return found, found[-1].at
        page = gate.activity.page(account_id, where, limit=MAX_LIMIT, cursor=page.cursor)
        found += page
    return found, since


def _is_wanted(seconds: float) -> bool:
    """Wait; False as soon as whoever reads standard output has gone."""
    if sys.platform == "win32":  # where a pipe can't be waited for
        time.sleep(seconds)
        return True
    poller = select.poll()
    poller.register(sys.stdout, 0)  # that it is broken is told without being asked for
    return not poller.poll(seconds * 1000)
