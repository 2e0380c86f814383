"""The body of a request to a resource: held while it is read, and given to the app as it came.

Nobody else's body is read (S71).
"""

from __future__ import annotations

from keyrush.asgi.messages import Message, Receive, Scope

#: Messages that are held each by itself. A body that comes in more is one when it is replayed:
#: a message takes hundreds of bytes, be there a single one in it.
_EACH = 64


class TooLarge(Exception):
    """A body of more bytes than are read."""


class ClientLeft(Exception):
    """The client has left before the end of its body, so that nobody waits for an answer."""


class HeldBody:
    """The body of one request. Read it once; then `receive` is for the app."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._held: list[Message] = []

    async def read(self, limit: int) -> bytes:
        """The whole of it; nothing of one that says that it is too large.

        Raises:
            TooLarge: It has more than `limit` bytes.
            ClientLeft: It does not end.
        """
        for name, value in self._scope["headers"]:
            if name.lower() == b"content-length" and not _is_at_most(value, limit):
                raise TooLarge
        parts: list[bytes] = []
        size, has_more = 0, True
        while has_more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientLeft
            part, has_more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > limit:
                raise TooLarge
            parts.append(part)
            self._held.append(message)
            if len(self._held) > _EACH:
                parts = [b"".join(parts)]
                self._held = [{"type": "http.request", "body": parts[0], "more_body": has_more}]
        return b"".join(parts)

    async def receive(self) -> Message:
        """What was held, unchanged and in its order; then what the server has to say."""
        return self._held.pop(0) if self._held else await self._receive()


def _is_at_most(value: bytes, limit: int) -> bool:
    """Whether a length is; one that is none is the server's to refuse, and is counted anyway."""
    return not value.isdigit() or (len(value) <= len(str(limit)) and int(value) <= limit)
