"""Clients of a server: connections that each ask again as soon as they are answered."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator, Sequence

from benchmarks.apps import HEADERS
from benchmarks.fleet.contenders import HEADER

#: Seconds after which no more is asked.
_LONGEST = 6.0

_OK, _END = b"HTTP/1.1 200 ", b"\r\n\r\nok"

_LARGEST = 65_536


def message(key: bytes) -> bytes:
    """A request with a key, as it is sent."""
    fields = b"".join(name + b": " + value + b"\r\n" for name, value in (*HEADERS, (HEADER, key)))
    return b"GET /api/articles HTTP/1.1\r\n" + fields + b"\r\n"


def ask(
    ports: Sequence[int], connections: int, messages: Iterator[bytes]
) -> tuple[list[float], float]:
    """The latency of each request, and how long all took, in seconds; the connections are spread
    over the ports.

    Raises:
        SystemExit: One was not answered 200.
    """
    latencies: list[float] = []
    sent: dict[socket.socket, float] = {}
    with selectors.DefaultSelector() as selector:
        for number in range(connections):
            peer = socket.create_connection(("127.0.0.1", ports[number % len(ports)]))
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(peer, selectors.EVENT_READ)
            sent[peer] = 0
        began = time.perf_counter()
        end = began + _LONGEST

        def ask_again(peer: socket.socket) -> None:
            text = next(messages, None) if time.perf_counter() < end else None
            if text is None:
                del sent[peer]
                selector.unregister(peer)
                peer.close()
                return
            sent[peer] = time.perf_counter()
            peer.sendall(text)

        for peer in list(sent):
            ask_again(peer)
        while sent:
            for found, _ in selector.select():
                peer = found.fileobj  # type: ignore[assignment]  # that is what was registered
                answer = peer.recv(_LARGEST)
                while answer and not answer.endswith(_END) and answer.startswith(_OK):
                    answer += peer.recv(_LARGEST)
                if not answer.startswith(_OK):
                    raise SystemExit(f"unexpected answer: {answer[:200]!r}")
                latencies.append(time.perf_counter() - sent[peer])
                ask_again(peer)
    return latencies, time.perf_counter() - began
