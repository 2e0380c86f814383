"""News between processes by publish/subscribe of a server like Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from keyrush.limiter.ledgers.redis.script import untold
from keyrush.limiter.ledgers.redis.server import ERRORS
from keyrush.runtime.forks import after_fork

#: Seconds without a word from the server after which it is asked whether it is still there.
SILENCE = 1.0


class RedisChanges:
    """`core.changes.Changes` by a channel: told by `execute`, which runs a command of its
    arguments, and heard on what `connect` makes, a connection that is not opened yet.
    """

    def __init__(
        self, execute: Callable[..., object], connect: Callable[[], Any], channel: str
    ) -> None:
        self._execute = execute
        self._connect = connect
        self._channel = channel
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        self._connection: Any = None
        self._heard_at = 0.0

    def publish(self, account_id: str) -> None:
        """Tell all processes that something of an account has changed.

        Raises:
            NotTold: The server does not let this user, or anybody, publish.
            LimiterError: It can't be reached.
        """
        try:
            self._execute("PUBLISH", self._channel, account_id)
        except ERRORS as error:
            raise untold(error, self._channel) from None

    def poll(self) -> Collection[str] | None:
        """The accounts that have changed since the last call, or None when any may have.

        Raises:
            NotTold: The server does not let this user, or anybody, subscribe.
            LimiterError: It can't be reached.
        """
        try:
            if self._connection is not None:
                return self._news()
            self._connection = self._connect()
            self._connection.connect()
            self._connection.send_command("SUBSCRIBE", self._channel)
            self._hear()
        except BaseException as error:
            self.close()
            if isinstance(error, ERRORS):
                raise untold(error, self._channel) from None
            raise
        return None

    def _news(self) -> Collection[str]:
        changed = set()
        is_asking = time.monotonic() - self._heard_at > SILENCE
        if is_asking:
            self._connection.send_command("PING")
        while is_asking or self._connection.can_read(0):
            kind, *rest = self._hear()
            if kind == b"message":
                changed.add(rest[1].decode(errors="replace"))
            else:
                is_asking = False
        return tuple(changed)

    def _hear(self) -> Any:
        heard = self._connection.read_response()
        self._heard_at = time.monotonic()
        return heard

    def close(self) -> None:
        """Let go of the connection. The next poll makes another."""
        connection = self._connection
        self._forget()
        if connection is not None:
            connection.disconnect()
