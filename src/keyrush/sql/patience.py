"""Connections to PostgreSQL that don't wait for ever.

A frozen server, or a network that swallows packets, gives no error: the server's own timeouts
are not kept then, and where only the process stands still TCP goes on acknowledging. So the
client keeps the time.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Generator
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from sqlalchemy.exc import DisconnectionError

from keyrush.sql.states import ends_connections, give_up

#: Seconds without a byte from the server, while its answer is waited for.
ANSWER = 2.0

_NOTHING = 0  # what psycopg sends its generators, every 0.1 s, when the socket is not ready


class ServerSilent(psycopg.OperationalError):
    """The server has not answered in time. Whether it has done what it was told is unknown."""


class PatientConnection(psycopg.Connection[Any]):
    """Waits `patience` seconds for the server, as a rule `ANSWER`, and then is closed for good."""

    patience: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._opened_in = os.getpid()

    def wait(self, gen: PQGen[Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return super().wait(_watched(gen, self.patience), *args, **kwargs)
        except ServerSilent:
            self.close()  # or a late answer would be taken for that to the next statement
            raise

    def literal_cursor(self) -> psycopg.ClientCursor[Any]:
        """A cursor that writes values into the statement, of which there may be several."""
        return psycopg.ClientCursor(self)

    def has_unread(self) -> bool:
        """True when the server has sent something that nobody has read; needs no round trip.

        Raises:
            psycopg.OperationalError: The connection is closed.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self.fileno(), selectors.EVENT_READ)
            return bool(selector.select(0))

    @property
    def is_direct(self) -> bool:
        """Whether the server itself is at the other end, and no pooler that shares sessions out;
        asks the server.
        """
        row = self.execute("SELECT pg_backend_pid()").fetchone()
        return row is not None and row[0] == self.info.backend_pid

    def __del__(self, *args: Any) -> None:
        if getattr(self, "_opened_in", None) == os.getpid():  # a forked child has none to close
            super().__del__(*args)


def _watched(steps: PQGen[Any], patience: float | None = None) -> Generator[Any, Any, Any]:
    """The steps of a dialogue with the server, ended when it has been silent for too long."""
    patience = ANSWER if patience is None else patience
    deadline = time.monotonic() + patience
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            wanted = steps.send(ready)  # first, for what came at the last moment
            now = time.monotonic()
            if ready != _NOTHING:
                deadline = now + patience
            elif now > deadline:
                steps.close()
                raise ServerSilent(f"no answer from the server for {patience} seconds")
    except StopIteration as done:
        return done.value


def make_patient(engine: sa.Engine) -> None:
    """Have the engine use patient connections, and none that the server has closed meanwhile, or
    that have turned out to be of no use.
    """

    @sa.event.listens_for(engine, "handle_error")
    def _judge(context: sa.engine.ExceptionContext) -> None:
        if ends_connections(context.original_exception):
            context.is_disconnect = True
            give_up(engine)  # those that are idle, and that of its news, are no better

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: Any, options: Any) -> PatientConnection:
        return PatientConnection.connect(*args, **options)

    # In place of SQLAlchemy's ping, which would be a round trip each time: a server that ends
    # a connection says so, and between statements it has nothing else to say.
    @sa.event.listens_for(engine, "checkout")
    def _check(connection: PatientConnection, _record: Any, _proxy: Any) -> None:
        try:
            has_ended = connection.has_unread()
        except psycopg.OperationalError:
            has_ended = True
        if has_ended:
            raise DisconnectionError("the server has closed the connection")
