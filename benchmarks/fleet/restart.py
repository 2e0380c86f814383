"""A service that starts anew under load: `python -m benchmarks.fleet.restart [--postgresql]`.

Each worker is uvicorn with keyrush on its defaults, over a store full of keys that have been
proved before, and none of them known to it. As soon as all workers serve, requests come at a
steady pace, each when it is due, whether or not those before it were answered: what waits in a
queue counts. Prints latencies by second, and ends with 1 where a request was refused, or where in
any second more than one in a hundred took longer than `BOUND`.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import NamedTuple

import uvicorn

from benchmarks import servers
from benchmarks.apps import plain
from benchmarks.fleet.clients import message
from benchmarks.fleet.contenders import Asked
from benchmarks.fleet.playing import summary
from benchmarks.turns import hear, started, tell

#: Seconds that 99 of 100 requests may take, in any second.
BOUND = 0.05

KEYS = 10_000
RATE = 1_000  #: requests a second
SECONDS = 6

#: Connections to each worker: more than ever wait.
_CONNECTIONS = 64

#: Keys of each account.
_EACH = 50

#: Seconds after the last request for what is late.
_PATIENCE = 5

_OK, _END = b"HTTP/1.1 200 ", b"\r\n\r\nok"


def _fill() -> None:
    """Keys that need no proof any more."""
    from keyrush import Gate, Settings

    gate = Gate.open(Settings(store_url=os.environ["BENCH_STORE"], verify="fingerprint"))
    texts: list[str] = []
    for number in range(KEYS // _EACH):
        account = gate.accounts.create(f"acct_{number}")
        texts += [one.text for one in gate.keys.create_many(account.id, "bench", _EACH)]
    gate.close()
    Path(os.environ["BENCH_KEYS"]).write_text("\n".join(texts), encoding="utf-8")


def _serve() -> None:
    """One worker. It says its port once it serves, and for each line what it has done."""
    from keyrush import Gate, KeyrushMiddleware, Settings

    gate = Gate.open(Settings(store_url=os.environ["BENCH_STORE"]))
    asked = Asked()
    asked.watch(gate.store, ["find"], "look_ups")
    app = KeyrushMiddleware(plain, gate=gate)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=60)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def answer() -> None:
        while not server.started:
            time.sleep(0.001)
        print(listener.getsockname()[1], flush=True)  # noqa: T201  # the one who asks reads it
        for _ in sys.stdin:
            print(json.dumps(asked.look_ups), flush=True)  # noqa: T201  # as above
        server.should_exit = True

    threading.Thread(target=answer).start()
    server.run(sockets=[listener])


class _Answer(NamedTuple):
    due: float  #: seconds from the beginning
    took: float  #: seconds since it was due
    is_ok: bool


class _Clients:
    """Connections to one worker, and what waits for one."""

    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self._port = port
        self._selector = selector
        self._free = [self._connected() for _ in range(_CONNECTIONS)]
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._sent: dict[socket.socket, float] = {}

    def _connected(self) -> socket.socket:
        peer = socket.create_connection(("127.0.0.1", self._port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(peer, selectors.EVENT_READ, self)
        return peer

    def ask(self, due: float, text: bytes) -> None:
        """Send a request, now or when a connection is free."""
        self._waiting.append((due, text))
        self._send()

    def _send(self) -> None:
        while self._free and self._waiting:
            peer = self._free.pop()
            self._sent[peer], text = self._waiting.popleft()
            peer.sendall(text)

    def read(self, peer: socket.socket) -> tuple[float, bool]:
        """When the request was due that is answered, and whether it was let through."""
        answer = peer.recv(65_536)
        while answer.startswith(_OK) and not answer.endswith(_END):
            answer += peer.recv(65_536)
        is_ok = answer.startswith(_OK)
        due = self._sent.pop(peer)
        if not is_ok:  # nobody reads the rest
            self._selector.unregister(peer)
            peer.close()
            peer = self._connected()
        self._free.append(peer)
        self._send()
        return due, is_ok


def _load(ports: Sequence[int], texts: Sequence[bytes]) -> list[_Answer]:
    """Every key as likely as any other, so that nearly all are new to who is asked at first."""
    draw = Random(1)  # noqa: S311  # a load, no secret
    order = [message(draw.choice(texts)) for _ in range(RATE * SECONDS)]
    answers: list[_Answer] = []
    with selectors.DefaultSelector() as selector:
        clients = [_Clients(port, selector) for port in ports]
        began = time.perf_counter()
        asked = 0
        while len(answers) < len(order):
            now = time.perf_counter() - began
            if now > SECONDS + _PATIENCE:
                raise SystemExit(f"{len(order) - len(answers)} requests were not answered")
            while asked < len(order) and asked / RATE <= now:
                clients[asked % len(clients)].ask(asked / RATE, order[asked])
                asked += 1
            wait = asked / RATE - now if asked < len(order) else 1
            for found, _ in selector.select(max(0, wait)):
                due, is_ok = found.data.read(found.fileobj)
                answers.append(_Answer(due, time.perf_counter() - began - due, is_ok))
    return answers


def _restart(workers: int, folder: str, env: dict[str, str]) -> bool:
    """Start workers, ask them, and print what came of it; whether it is as it should be."""
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                started(["benchmarks.fleet.restart", "--part", "serve"], folder=folder, env=env)
            )
            for _ in range(workers)
        ]
        answers = _load(
            [hear(one) for one in running], Path(env["BENCH_KEYS"]).read_bytes().split()
        )
        for one in running:
            tell(one)
        look_ups = sum(hear(one) for one in running)
    refused = sum(not answer.is_ok for answer in answers)
    lines = [
        f"{workers} workers: {len(answers)} requests, {look_ups} look-ups, {refused} refused",
        "",
        "| second | p50 | p99 | max |",
        "|---:|---:|---:|---:|",
    ]
    is_well = not refused
    for second in range(SECONDS):
        took = [answer.took for answer in answers if int(answer.due) == second]
        ms = {what: figure / 1000 for what, figure in summary(took).items()}
        lines.append(f"| {second + 1} | " + " | ".join(f"{ms[w]:.1f} ms" for w in ms) + " |")
        is_well &= ms["p99"] <= BOUND * 1000
    sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()
    return is_well


def main() -> None:
    """Fill a store, and have one worker and then four start upon it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet.restart")
    parser.add_argument("--postgresql", action="store_true", help="in place of SQLite")
    parser.add_argument("--part", choices=("fill", "serve"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        {"fill": _fill, "serve": _serve}[options.part]()
        return
    make_place = servers.postgresql if options.postgresql else servers.sqlite
    with make_place() as place, tempfile.TemporaryDirectory(prefix="keyrush-") as folder:
        env = {"BENCH_STORE": place.store_url, "BENCH_KEYS": f"{folder}/keys.txt"}
        with started(["benchmarks.fleet.restart", "--part", "fill"], folder=folder, env=env) as one:
            one.wait()
        if one.returncode:
            raise SystemExit("no keys could be made")
        sys.stdout.write(f"{place.version}, {KEYS} keys, {RATE} requests a second\n\n")
        are_well = [_restart(workers, folder, env) for workers in (1, 4)]
        if not all(are_well):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
