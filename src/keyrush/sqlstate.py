"""What an error of a database server says of its connections, by its SQLSTATE."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

#: Pools whose connections were given up, as long as somebody holds one of them.
_given_up: WeakSet[Any] = WeakSet()

#: Classes of errors that another connection would give, too: about the data, the statement, or
#: the moment (a deadlock, a lock, a statement that took too long).
_OF_THE_CALL = ("22", "23", "42", "P0", "40", "55", "57014")

#: Of class 42 what the server has to answer for, not the statement: a right that was taken away.
_FORBIDDEN = "42501"


def ends_connections(error: BaseException | None) -> bool:
    """True when the server has said that its connections are of no use: not for this call alone.

    After a failover the old server goes on with those that it has, and refuses every write.
    """
    state: object = getattr(error, "sqlstate", None)  # as PostgreSQL's driver names it
    if not isinstance(state, str):  # the driver's own error: it knows whether it has closed
        return False
    return state == _FORBIDDEN or not state.startswith(_OF_THE_CALL)


def give_up(engine: Any) -> None:
    """Use no connection any more that the SQLAlchemy engine has: new ones come with use.

    Whoever has taken one out of the pool for good sees it by `is_given_up`.
    """
    _given_up.add(engine.pool)
    engine.dispose()


def is_given_up(pool: Any) -> bool:
    """True for a pool whose connections were given up."""
    return pool in _given_up
