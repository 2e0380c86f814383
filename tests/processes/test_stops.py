"""What a server leaves of its counts when it is told to stop: real servers, real signals, and the
table in the docs that says it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from keyrush.runtime.stopping import when_told_to_stop
from tests.long.chaos import Place, ask
from tests.support import warm
from tests.support.faults import PATIENCE, until
from tests.support.pages import PAGES
from tests.support.scripts import run
from tests.support.valkey import free_port

ROOT = Path(__file__).parents[2]

#: As `docs/outages.md` names them, and the whole command. They find the app in `app.py`.
SERVERS = {
    "uvicorn": "uvicorn app:app --port {port}",
    "uvicorn --lifespan off": "uvicorn app:app --port {port} --lifespan off",
    "hypercorn": "hypercorn app:app --bind 127.0.0.1:{port}",
    "hypercorn --worker-class trio": (
        "hypercorn app:app --bind 127.0.0.1:{port} --worker-class trio"
    ),
    "daphne": "daphne app:app --port {port}",
    "granian --interface asgi": "granian app:app --port {port} --interface asgi",
    "granian --interface asginl": "granian app:app --port {port} --interface asginl",
    "granian --interface wsgi": "granian app:app --port {port} --interface wsgi",
    "gunicorn": "gunicorn app:app --bind 127.0.0.1:{port} --no-control-socket",
    "gunicorn --worker-class asgi": (
        "gunicorn app:app --bind 127.0.0.1:{port} --no-control-socket --worker-class asgi"
    ),
    "waitress-serve": "waitress --listen 127.0.0.1:{port} app:app",
    "flask run": "flask --app app run --port {port}",
}

#: The apps of those that serve something else than ASGI.
APPS = {
    "granian --interface wsgi": "wsgi",
    "gunicorn": "wsgi",
    "waitress-serve": "wsgi",
    "flask run": "flask",
}

REQUESTS = 20

#: What the page says of each server.
_ROWS = PAGES["docs/outages.md"].rows(r" `([^`]+)` [|] (none|those of the last second) ")
TABLE = {row[0]: row[1] for row in _ROWS}


class Left(NamedTuple):
    """What is left of a server that has ended."""

    counted: int
    log: str


def stopped(command: str, app: str, folder: Path, stop: signal.Signals) -> Left:
    """Have a server answer so many requests, and then end by a signal."""
    (folder / "app.py").write_text(f"from tests.support.stopped import {app}\n\napp = {app}()\n")
    place = Place(f"sqlite:///{folder}/keyrush.db")
    key = place.make_key("100000/day")
    port = free_port()
    path = os.pathsep.join(filter(None, [str(ROOT), str(folder), os.environ.get("PYTHONPATH")]))
    log = folder / "log"
    with (
        log.open("w") as output,
        warm.start(
            [sys.executable, "-m", *shlex.split(command.format(port=port))],
            env={**os.environ, **place.env, "PYTHONPATH": path},
            cwd=folder,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: ask(f"{url}/health", "").status or process.poll() is not None)
            answers = [ask(url, key).status for _ in range(REQUESTS)]
            process.send_signal(stop)
            process.wait(PATIENCE)
        finally:
            process.kill()
    assert answers == [200] * REQUESTS, log.read_text()
    return Left(place.counted()[0], log.read_text())


#: What is tried: a server, an app, a signal.
Case = tuple[str, str, signal.Signals]

AT_SIGTERM = [(server, APPS.get(server, "asgi"), signal.SIGTERM) for server in SERVERS]
AT_SIGINT = [
    (server, APPS.get(server, "asgi"), signal.SIGINT)
    for server in SERVERS
    if TABLE.get(server) != "none"
]
UNHEARD = [("uvicorn", app, signal.SIGTERM) for app in ("mounted", "returning")]


@pytest.fixture(scope="module")
def lefts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Case, Future[Left]]]:
    """What is left in each case; two are tried at a time, for servers take long to start."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            (server, app, stop): pool.submit(
                stopped, SERVERS[server], app, tmp_path_factory.mktemp("stopped"), stop
            )
            for server, app, stop in AT_SIGTERM + AT_SIGINT + UNHEARD
        }


@pytest.mark.parametrize("case", AT_SIGTERM, ids=[case[0] for case in AT_SIGTERM])
def test_counts_at_sigterm(case: Case, lefts: dict[Case, Future[Left]]) -> None:
    """R12: a server that is told to stop has written what the table says: everything, with
    lifespan events and without; but for those that leave SIGTERM to the system.
    """
    left = lefts[case].result()
    lost = {"none": 0, "those of the last second": REQUESTS}
    assert REQUESTS - left.counted == lost[TABLE[case[0]]], left.log


def test_table_names_servers_that_were_tried() -> None:
    """The table has a row for each of these servers, and no other."""
    assert list(TABLE) == list(SERVERS)


@pytest.mark.parametrize("case", AT_SIGINT, ids=[case[0] for case in AT_SIGINT])
def test_counts_at_sigint(case: Case, lefts: dict[Case, Future[Left]]) -> None:
    """R12: servers that lose counts at SIGTERM lose none at SIGINT, as the page says."""
    left = lefts[case].result()
    assert left.counted == REQUESTS, left.log


@pytest.mark.parametrize("case", UNHEARD, ids=[case[1] for case in UNHEARD])
def test_apps_that_hear_of_no_end(case: Case, lefts: dict[Case, Future[Left]]) -> None:
    """R12: nothing is lost where the server sends lifespan events, but the gate sees none of their
    end: it is in a mounted app, or the app returns from its lifespan at once.
    """
    left = lefts[case].result()
    assert left.counted == REQUESTS, left.log


def test_children_of_multiprocessing(tmp_path: Path) -> None:
    """R12: a process that `multiprocessing` has forked writes its counts as it ends, whether its
    gate was made in it or before.
    """
    place = Place(f"sqlite:///{tmp_path}/keyrush.db")
    key = place.make_key("100000/day")
    out = run(
        """
        import multiprocessing, sys
        from tests.support import stopped  # so that nothing but the end writes counts
        from tests.support.calls import Asgi, Sent
        from tests.long.chaos import Place

        place, key = Place(sys.argv[1]), sys.argv[2]

        def use(gate):
            asked = Asgi(gate or place.gate())
            for _ in range(5):
                assert asked.send(Sent("/", [("X-API-Key", key)])).status == 200

        for gate in (place.gate(), None):
            child = multiprocessing.get_context("fork").Process(target=use, args=[gate])
            child.start()
            child.join()
            print(child.exitcode, place.counted()[0])
        """,
        place.store_url,
        key,
    )
    assert out.split() == ["0", "5", "0", "10"]


# --- the signal -----------------------------------------------------------------------------------


@pytest.fixture
def servers() -> Iterator[list[int]]:
    """A server's own handlers of both signals, and what they were called with."""
    heard: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda number, _: heard.append(number)) for number in numbers]
    yield heard
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_what_is_to_be_done_and_then_the_server(servers: list[int]) -> None:
    """At either signal each act is called once on the loop, and the server's handler too; loops
    that have ended are passed over, and however often one asks, there is one handler.
    """
    done: list[str] = []

    async def tell(*names: str) -> None:
        for name in names:
            when_told_to_stop(partial(done.append, name))

    asyncio.run(tell("ended"))
    ours = signal.getsignal(signal.SIGTERM)

    async def told(number: int) -> None:
        await tell("a", "b")
        assert signal.getsignal(signal.SIGTERM) is ours
        signal.raise_signal(number)
        assert servers[-1] == number
        assert done == []
        await asyncio.sleep(0)
        assert done == ["a", "b"]
        done.clear()

    asyncio.run(told(signal.SIGTERM))
    asyncio.run(told(signal.SIGINT))
    signal.raise_signal(signal.SIGTERM)
    assert servers == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]
    assert done == []


def test_signals_of_others_are_let_be() -> None:
    """Where SIGTERM is the system's, as in a program that runs an app in a loop of its own,
    neither signal is touched; nor from another thread, nor without a loop of asyncio.
    """
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert before[0] is signal.SIG_DFL

    async def tell() -> None:
        interrupt = signal.getsignal(signal.SIGINT)
        when_told_to_stop(list)
        assert signal.getsignal(signal.SIGINT) is interrupt

    asyncio.run(tell())
    signal.signal(signal.SIGTERM, ours := lambda *_: None)
    try:
        when_told_to_stop(list)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, tell()).result()
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
