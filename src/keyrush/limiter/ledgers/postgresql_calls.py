"""Calls of functions in a PostgreSQL database, of any thread and any event loop.

By the driver, below SQLAlchemy, whose part in a call would cost more than all the rest. Calls that
come while one is under way go together in the next message.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from keyrush.errors import StoreError
from keyrush.limiter.ledgers.calls import NoReply
from keyrush.limiter.ledgers.tasks import Line, Loops, Undo
from keyrush.limiter.ledgers.threads import ThreadBatches
from keyrush.runtime.forks import after_fork
from keyrush.sql.awaited import AwaitedConnection
from keyrush.sql.engine import AT_ONCE, Database
from keyrush.sql.patience import ServerSilent

C = TypeVar("C")  # a call
A = TypeVar("A")  # its answer

#: Characters of a name in the tables.
_LONGEST = 120

#: Calls that go together in one message at most: it holds the locks of all their windows, for
#: which the server has a table of some thousands.
TOGETHER = 32


class PostgresqlCalls(ABC, Generic[C, A]):
    """Who calls. A call is one message, and so one round trip. `clock`, in Unix milliseconds,
    stands in for the server's.

    Where the database can't answer, every method raises `StoreError`, or `NoReply`.
    """

    def __init__(
        self, database: Database, clock: Callable[[], int] | None, undo: Undo[C, A]
    ) -> None:
        self._database = database  # kept, or its connections would not be
        self._clock = clock
        self._loops = Loops(self._line, TOGETHER, undo)
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        self._threads = ThreadBatches(self._send, TOGETHER)

    @abstractmethod
    def statement(self, call: C, at: str) -> str:
        """A call, as SQL with its values; `at` is now, or NULL for the server's."""
        ...

    @abstractmethod
    def keys(self, call: C) -> Sequence[str]:
        """What a call locks."""
        ...

    @abstractmethod
    def answers(self, found: Sequence[Any], calls: Sequence[C]) -> list[A]:
        """What each call comes to, of the arrays of numbers that the statements have returned."""
        ...

    def execute(self, statement: str, *values: Any) -> Any:
        """What a statement returns, in one round trip."""
        (answer,) = self._database.call(statement, values) or (None,)
        return answer

    def _ask(self, call: C) -> A:
        return self._threads.ask(call)

    def _send(self, calls: Sequence[C]) -> list[A]:
        answers = []
        with _heard(), self._database.driver() as connection, connection.cursor() as cursor:
            cursor.execute(self.message(calls))
            while True:
                if cursor.description is not None:
                    answers.append(cursor.fetchone()[0])
                if not cursor.nextset():
                    break
        return self.answers(answers[-len(calls) :], calls)

    def _line(self) -> Line[C, A]:
        return _Line(self, AwaitedConnection(self._database))

    def message(self, calls: Sequence[C]) -> bytes:
        """What is sent for calls: one message. Several take the locks of all their keys first, in
        one order, so that no two messages wait for each other for ever.
        """
        at = "NULL" if self._clock is None else str(self._clock())
        parts = [self.statement(call, at) for call in calls]
        if len(calls) > 1:
            keys = [key for call in calls for key in self.keys(call)]
            parts.insert(0, f"SELECT keyrush_lock({texts(keys)})")
        return (AT_ONCE + "; ".join(parts)).encode()

    def close(self) -> None:
        """Close the connections of event loops soon; the others are the database's."""
        self._loops.close()


class _Line(Generic[C, A]):
    """Calls on an event loop."""

    def __init__(self, ledger: PostgresqlCalls[C, A], connection: AwaitedConnection) -> None:
        self._ledger = ledger
        self._connection = connection
        self.close = connection.close

    async def send(self, calls: Sequence[C]) -> list[A]:
        with _heard():
            found = await self._connection.ask(self._ledger.message(calls))
        numbers = [text and [*map(int, text[1:-1].split(b","))] for text in found]
        return self._ledger.answers(numbers[-len(calls) :], calls)


@contextmanager
def _heard() -> Iterator[None]:
    """Tell silence from what else goes wrong."""
    try:
        yield
    except StoreError as error:
        if isinstance(error.__cause__, ServerSilent):
            raise NoReply(str(error)) from error.__cause__
        raise


def numbers(values: Sequence[int]) -> str:
    """Numbers as an SQL array."""
    return f"'{{{','.join(map(str, values))}}}'::bigint[]"


def texts(values: Sequence[str]) -> str:
    """Names as an SQL array, as `stored`, however the server reads a backslash."""
    escaped = (stored(value).replace("\\", "\\\\").replace("'", "''") for value in values)
    return "ARRAY[" + ",".join([f"E'{text}'" for text in escaped]) + "]::text[]"


def stored(name: str) -> str:
    """A name as the tables hold it: its hash where it is too long for them, or no text for the
    server, which would refuse the whole message, and with it whoever else asks.
    """
    if len(name) <= _LONGEST and name.isprintable():
        return name
    return f"#{blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=32).hexdigest()}"
