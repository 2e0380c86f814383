"""What an error of a database server says of its connections, by its SQLSTATE."""

from __future__ import annotations

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
