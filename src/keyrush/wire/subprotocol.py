"""Keys that browsers send with a WebSocket: as one of the subprotocols that they offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from keyrush.wire.request import AUTHORIZATION, CredentialHeaders, Header

_PROTOCOL = b"sec-websocket-protocol"


#: Bytes of a header with subprotocols that are read: room for a key, and for many names.
MAX_PROTOCOLS = 4096


class Offer(NamedTuple):
    """What a WebSocket's handshake with keys among its subprotocols comes to."""

    keys: list[Header]  #: the keys, as headers that may hold one
    subprotocols: list[bytes]  #: the others, which the app may choose from
    headers: list[Header]  #: the headers without the keys


class KeyProtocol:
    """The WebSocket subprotocol `name`, after which browsers send a key, because script can set
    no header. The key is taken as if it had come in one of the `credentials`.
    """

    def __init__(self, name: str, credentials: CredentialHeaders) -> None:
        self.name = name
        self._name = name.encode("ascii")
        others = [header for header in credentials.names if header != AUTHORIZATION]
        self._header = others[0] if others else AUTHORIZATION
        self._scheme = b"" if others else b"Bearer "

    def offer(self, headers: Sequence[Header]) -> Offer | None:
        """What is offered with this subprotocol; None where it is not."""
        values = [value for name, value in headers if name.lower() == _PROTOCOL]
        if sum(map(len, values)) > MAX_PROTOCOLS:
            return None
        tokens = [token.strip(b" \t") for value in values for token in value.split(b",")]
        if self._name not in tokens:
            return None
        keys: list[Header] = []
        left: list[bytes] = []
        waiting = iter(tokens)
        for token in waiting:
            if token != self._name:
                left.append(token)
            elif key := next(waiting, b""):
                keys.append((self._header, self._scheme + key))
        rest = [header for header in headers if header[0].lower() != _PROTOCOL]
        if left:
            rest.append((_PROTOCOL, b", ".join(left)))
        return Offer(keys, left, rest)
