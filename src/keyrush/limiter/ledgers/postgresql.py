"""Windows in a PostgreSQL database: for all processes of all machines that share it.

By the driver, below SQLAlchemy, whose part in a take would cost more than all the rest. The
arithmetic of `core.sliding` is restated in `sql/functions.sql`. Calls that come while one is under
way go together in the next message, in threads and on event loops alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from keyrush.core import sliding
from keyrush.core.sliding import Taken, Window
from keyrush.errors import DataError, StoreError
from keyrush.limiter.ledgers.calls import Call, NoReply, taken_of
from keyrush.limiter.ledgers.protocol import WORKER_TTL, Place
from keyrush.limiter.ledgers.tasks import Line, Loops
from keyrush.limiter.ledgers.threads import ThreadBatches
from keyrush.runtime.forks import after_fork
from keyrush.sql.awaited import AwaitedConnection
from keyrush.sql.engine import Database
from keyrush.sql.patience import ServerSilent

#: Idle counters that one `enlist` deletes at most.
SWEPT = 1000

_TTL = int(WORKER_TTL * 1000)


#: Calls that go together in one message at most: it holds the locks of all their windows, for
#: which the server has a table of some thousands.
TOGETHER = 32

#: Before each call, in the same message, and so in the same transaction: what the functions rely
#: on, whatever the database's default is; and a server that is well ends what takes too long
#: before the client does, which would not know whether it was done.
FIRST = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
    "SET LOCAL statement_timeout = 1800; "  # milliseconds
)

_ENLIST = "SELECT keyrush_enlist(%s::text, %s::bigint, %s::bigint, %s::bigint)"


class PostgresqlLedger:
    """A ledger in the tables of a PostgreSQL database, which remains the store's to close.

    It goes by the server's clock; `clock`, in Unix milliseconds, stands in for that. Counters that
    count no more are deleted by `enlist`. A call is one message, and so one round trip.
    Where the database can't answer, every method raises `StoreError`, or `NoReply`.
    """

    def __init__(self, database: Database, clock: Callable[[], int] | None = None) -> None:
        self._database = database  # kept, or its connections would not be
        self._clock = clock
        self.has_own_clock = clock is None
        self._loops = Loops(self._line, TOGETHER)
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        self._threads = ThreadBatches(self._send, TOGETHER)

    def _ask(self, statement: str, *values: Any) -> Any:
        """What a statement returns: one message, and so one transaction, without BEGIN and COMMIT.

        Several statements in one message have their values written into them, by the driver.
        """
        with self._database.driver() as connection, connection.literal_cursor() as cursor:
            cursor.execute(FIRST + statement, values)
            while cursor.nextset():
                pass
            (answer,) = cursor.fetchone() or (None,)
        return answer

    # --- windows ---

    def take(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        return self._threads.ask(Call("take", windows, cost, extra))

    async def take_async(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        """`take`. What is granted to a task that has been cancelled meanwhile is given back."""
        return await self._loops.ask(0, Call("take", windows, cost, extra))

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        self._threads.ask(Call("give", windows, cost, taken_at))

    def _send(self, calls: Sequence[Call]) -> list[Taken]:
        answers = []
        with _heard(), self._database.driver() as connection, connection.cursor() as cursor:
            cursor.execute(self.message(calls))
            while True:
                if cursor.description is not None:
                    answers.append(cursor.fetchone()[0])
                if not cursor.nextset():
                    break
        return _decoded(answers, calls)

    def _line(self) -> Line:
        return _Line(self, AwaitedConnection(self._database))

    def message(self, calls: Sequence[Call]) -> bytes:
        """What is sent for calls: one message. Several take the locks of all their windows first,
        in one order, so that no two messages wait for each other for ever.
        """
        at = "NULL" if self._clock is None else str(self._clock())
        parts = [_statement(call, at) for call in calls]
        if len(calls) > 1:
            keys = [window.key for call in calls for window in call.windows]
            parts.insert(0, f"SELECT keyrush_lock({_texts(keys)})")
        try:
            return (FIRST + "; ".join(parts)).encode()
        except UnicodeError:
            raise DataError("the name of a window is no text that PostgreSQL holds") from None

    # --- processes ---

    def enlist(self, worker: str) -> Place:
        at = self._clock and self._clock()
        return Place(*self._ask(_ENLIST, worker, _TTL, SWEPT, at))

    def leave(self, worker: str) -> None:
        self._ask("DELETE FROM keyrush_workers WHERE id = %s RETURNING id", worker)

    def advice(self) -> str | None:
        """None: a database has no other way of being used."""
        return None

    def close(self) -> None:
        """Close the connections of event loops soon; the others are the database's."""
        self._loops.close()


class _Line:
    """Calls on an event loop."""

    def __init__(self, ledger: PostgresqlLedger, connection: AwaitedConnection) -> None:
        self._ledger = ledger
        self._connection = connection
        self.close = connection.close

    async def send(self, calls: Sequence[Call]) -> list[Taken]:
        with _heard():
            texts = await self._connection.ask(self._ledger.message(calls))
        return _decoded([text and [*map(int, text[1:-1].split(b","))] for text in texts], calls)


@contextmanager
def _heard() -> Iterator[None]:
    """Tell silence from what else goes wrong."""
    try:
        yield
    except StoreError as error:
        if isinstance(error.__cause__, ServerSilent):
            raise NoReply(str(error)) from error.__cause__
        raise


def _statement(call: Call, at: str) -> str:
    keys = _texts([window.key for window in call.windows])
    lengths = _numbers([window.length for window in call.windows])
    if call.operation == "give":
        return f"SELECT keyrush_give_back({keys}, {lengths}, {call.cost}, {call.other})"
    amounts = _numbers([window.amount for window in call.windows])
    numbers = f"{call.cost}, {call.other}, {sliding.SHARE}, {at}"
    return f"SELECT keyrush_take({keys}, {lengths}, {amounts}, {numbers})"


def _numbers(values: Sequence[int]) -> str:
    return f"'{{{','.join(map(str, values))}}}'::bigint[]"


def _texts(values: Sequence[str]) -> str:
    """Texts as an SQL array, whatever is in them and however the server reads a backslash."""
    if any("\0" in value for value in values):  # libpq would end there
        raise DataError("the name of a window is no text that PostgreSQL holds")
    escaped = (value.replace("\\", "\\\\").replace("'", "''") for value in values)
    return "ARRAY[" + ",".join([f"E'{text}'" for text in escaped]) + "]::text[]"


def _decoded(answers: Sequence[Any], calls: Sequence[Call]) -> list[Taken]:
    """What each call comes to, of what the statements have returned."""
    taken = []
    for answer, call in zip(answers[-len(calls) :], calls, strict=True):
        if call.operation == "give":
            taken.append(Taken(0, 0, []))
            continue
        granted, now, *counters = answer
        taken.append(taken_of(call, now, iter([granted, *counters])))
    return taken
