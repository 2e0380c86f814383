"""An app served on a free port: by uvicorn in a thread, by uvicorn or gunicorn in processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from tests.support import warm

#: Seconds after which a server ends connections that do not end, and after which one that does
#: not stop is ended by force; a slow machine needs more than a few.
_GRACE, _PATIENCE = 10, 60


class _Server(uvicorn.Server):
    """A server that tells when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answered = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answered.set()


def listening() -> socket.socket:
    """A socket on a free port."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener


def url_of(listener: socket.socket) -> str:
    """The base URL of what is served there."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def serve(app: Any, listener: socket.socket | None = None, **options: Any) -> Iterator[str]:
    """Serve `app` in a thread; gives the base URL, or none for a Unix socket at the path `uds`.
    `options` are those of `uvicorn.Config`. A `listener` is where, for apps that must know that.

    Raises:
        RuntimeError: The server did not start, as when the app's lifespan fails.
    """
    # With the protocol named, asyncio turns Nagle's algorithm off, as for a socket of its own.
    if "uds" in options:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(options["uds"])
        url = ""
    else:
        listener = listener or listening()
        url = url_of(listener)
    defaults = {
        "log_config": None,
        "ws": "websockets-sansio",  # the other one warns of its deprecation
        "timeout_graceful_shutdown": _GRACE,
    }
    server = _Server(uvicorn.Config(app, **defaults | options))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.run(sockets=[listener])
        except BaseException as error:  # given to the thread that waits
            failures.append(error)
        finally:
            listener.close()
            server.answered.set()

    thread = threading.Thread(target=run, name="uvicorn")
    thread.start()
    server.answered.wait()
    try:
        if not server.started:
            raise RuntimeError("uvicorn did not start") from next(iter(failures), None)
        yield url
    finally:
        server.should_exit = True
        thread.join()


#: Where `tests.support.served` is found from any folder.
_ROOT = str(Path(__file__).parents[2])


@dataclass
class Process:
    """A server in a process of its own. `lines` is what it has logged so far."""

    url: str
    process: subprocess.Popen[str] = field(repr=False)
    lines: list[str] = field(repr=False)


def serve_process(
    target: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stop: signal.Signals = signal.SIGINT,
) -> AbstractContextManager[Process]:
    """Serve `target`, as in `"package.module:app"`, by uvicorn, imported in `folder`.

    `arguments` are more of uvicorn's, `env` is added to the environment. At the end the
    process is sent `stop`. After SIGINT it ends as any program does, after SIGTERM by the
    signal: no `atexit` function runs then.

    Raises:
        RuntimeError: The server did not start; says what it logged.
    """
    command = [sys.executable, "-m", "uvicorn", target, "--port", "0", *arguments]
    return _serve(command, "Uvicorn running on ", env, folder, stop)


def serve_gunicorn(
    target: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> AbstractContextManager[Process]:
    """`serve_process` by gunicorn, where `target` may also be `"package.module:factory()"`."""
    command = [sys.executable, "-m", "gunicorn", target, "--bind", "127.0.0.1:0", *arguments]
    command.append("--no-control-socket")  # it would be one for all servers of this user
    return _serve(command, "Listening at: ", env, folder, stop)


@contextmanager
def _serve(
    command: Sequence[str],
    says: str,
    env: Mapping[str, str] | None,
    folder: Path | None,
    stop: signal.Signals,
) -> Iterator[Process]:
    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    with warm.start(
        command,
        env={**os.environ, "PYTHONPATH": path, **(env or {})},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        reader = threading.Thread(target=lines.extend, args=(process.stderr,))
        try:
            url = _url(process.stderr, says, lines)
            reader.start()  # so that the pipe never fills
            yield Process(url, process, lines)
        finally:
            if process.poll() is None:
                process.send_signal(stop)
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            if reader.ident is not None:
                reader.join()


def _url(log: Iterator[str], says: str, lines: list[str]) -> str:
    for line in log:
        lines.append(line)
        if says in line:
            return line.partition(says)[2].split()[0]
    raise RuntimeError("the server did not start:\n" + "".join(lines))
