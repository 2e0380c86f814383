"""Windows in a PostgreSQL database: for all processes of all machines that share it.

By the driver, below SQLAlchemy, whose part in a take would cost more than all the rest. The
arithmetic of `core.sliding` is restated in `sql/functions.sql`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keyrush.core import sliding
from keyrush.core.sliding import Taken, Window
from keyrush.limiter.ledgers.protocol import WORKER_TTL, Place
from keyrush.sql.engine import Database

#: Idle counters that one `enlist` deletes at most.
SWEPT = 1000

_TTL = int(WORKER_TTL * 1000)


#: Before each call, in the same message, and so in the same transaction: what the functions rely
#: on, whatever the database's default is; and a server that is well ends what takes too long
#: before the client does, which would not know whether it was done.
_FIRST = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
    "SET LOCAL statement_timeout = 1800; "  # milliseconds
)

_TAKE = """
    SELECT keyrush_take(
        %s::text[], %s::bigint[], %s::bigint[],
        %s::bigint, %s::bigint, %s::bigint, %s::bigint
    )
"""

_GIVE_BACK = "SELECT keyrush_give_back(%s::text[], %s::bigint[], %s::bigint, %s::bigint)"

_ENLIST = "SELECT keyrush_enlist(%s::text, %s::bigint, %s::bigint, %s::bigint)"


class PostgresqlLedger:
    """A ledger in the tables of a PostgreSQL database, which remains the store's to close.

    It goes by the server's clock; `clock`, in Unix milliseconds, stands in for that. Counters that
    count no more are deleted by `enlist`. A call is one message, and so one round trip.
    Where the database can't answer, every method raises `StoreError`.
    """

    def __init__(self, database: Database, clock: Callable[[], int] | None = None) -> None:
        self._database = database  # kept, or its connections would not be
        self._clock = clock
        self.has_own_clock = clock is None

    def _ask(self, statement: str, *values: Any) -> Any:
        """What a statement returns: one message, and so one transaction, without BEGIN and COMMIT.

        Several statements in one message have their values written into them, by the driver.
        """
        with self._database.driver() as connection, connection.literal_cursor() as cursor:
            cursor.execute(_FIRST + statement, values)
            while cursor.nextset():
                pass
            (answer,) = cursor.fetchone() or (None,)
        return answer

    def take(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        keys = [window.key for window in windows]
        lengths = [window.length for window in windows]
        amounts = [window.amount for window in windows]
        at = self._clock and self._clock()
        granted, now, *numbers = self._ask(
            _TAKE, keys, lengths, amounts, cost, extra, sliding.SHARE, at
        )
        counters = zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True)
        return Taken(granted, now, list(counters))

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        keys = [window.key for window in windows]
        lengths = [window.length for window in windows]
        self._ask(_GIVE_BACK, keys, lengths, cost, taken_at)

    def enlist(self, worker: str) -> Place:
        at = self._clock and self._clock()
        return Place(*self._ask(_ENLIST, worker, _TTL, SWEPT, at))

    def leave(self, worker: str) -> None:
        self._ask("DELETE FROM keyrush_workers WHERE id = %s RETURNING id", worker)

    def advice(self) -> str | None:
        """None: a database has no other way of being used."""
        return None

    def close(self) -> None:
        """Nothing to let go of: the connections are the database's."""
