"""What an error of a database says: of its connections, by its SQLSTATE, and for a log."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from sqlalchemy.exc import DataError as SqlDataError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from keyrush.core.urls import is_quotable
from keyrush.errors import DataError, KeyrushError, StoreError
from keyrush.sql.pool import let_go

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
    _given_up.add(let_go(engine))


def is_given_up(pool: Any) -> bool:
    """True for a pool whose connections were given up."""
    return pool in _given_up


# --- what is said of it --------------------------------------------------------------------------

#: Classes of which messages quote values, or are a trigger's of the user's own.
_OF_VALUES = ("22", "23", "P0")

#: Characters of a message that are shown.
_SHOWN = 300


def told(error: Exception, engine: Any) -> KeyrushError:
    """What has gone wrong, in one line, for a log: why, but no value that was given.

    `error` is SQLAlchemy's or the driver's own, of a call by the SQLAlchemy engine.
    """
    text = f"{type(error).__name__} from {engine.dialect.name}"
    cause = getattr(error, "orig", None) or error
    # Integrity and data are SQLSTATE's classes 23 and 22, or what SQLite's driver takes for such;
    # lone surrogates and numbers beyond 64 bits it says by Python's own errors.
    driver = engine.dialect.loaded_dbapi
    about_data = (IntegrityError, SqlDataError, driver.IntegrityError, driver.DataError)
    if isinstance(error, about_data) or isinstance(cause, UnicodeError | OverflowError):
        state = getattr(cause, "sqlstate", None)
        return DataError(f"{text}: {state} {type(cause).__name__}" if state else text)
    why = _why(cause, engine)
    return StoreError(f"{text}: {why}" if why else text)


def _why(cause: BaseException, engine: Any) -> str:
    state = getattr(cause, "sqlstate", None)
    if isinstance(state, str):
        # Of the parts of its message the one that quotes neither rows nor statements.
        primary = getattr(getattr(cause, "diag", None), "message_primary", None)
        if not primary or state.startswith(_OF_VALUES):
            return f"{state} {type(cause).__name__}"
        return f"{state} {_line(primary)}"
    if isinstance(cause, PoolTimeout):
        return _line(str(cause))
    driver = engine.dialect.loaded_dbapi
    is_about_itself = isinstance(cause, driver.OperationalError | driver.InterfaceError)
    if not is_about_itself or not is_quotable(engine.url.render_as_string(hide_password=False)):
        return ""
    return f"{getattr(cause, 'sqlite_errorname', '')} {_line(str(cause))}".strip()


def _line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:_SHOWN]
