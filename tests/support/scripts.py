"""Python code run in a process of its own: for forks, races between processes, and imports."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from textwrap import dedent

#: Seconds after which a script is taken to hang.
PATIENCE = 120

#: Where `tests` is imported from.
_ROOT = Path(__file__).parents[2]

#: Warnings are errors, but for that about forks with threads.
_PYTHON = (sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning")


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """The process, started."""
    return subprocess.Popen(  # noqa: S603  # the tests' own code
        [*_PYTHON, "-c", dedent(code), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What it printed, once it has ended well."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out


def run(code: str, *arguments: str) -> str:
    """What the code prints."""
    return finish(start(code, *arguments))


def forked(code: str, *arguments: str) -> str:
    """What the code prints, in a new process that has keyrush imported already: for code that is
    not about imports, which take longer than most of it.
    """
    forker = _forker()
    order = {
        "code": dedent(code),
        "arguments": arguments,
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
    }
    with (
        Path(os.devnull).open("rb") as nothing,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        files = [file.fileno() for file in (nothing, out, err)]
        socket.send_fds(forker, [json.dumps(order).encode()], files)
        status = forker.recv(16)
        for file in (out, err):
            file.seek(0)
        assert status == b"0", (status, err.read().decode())
        return out.read().decode()


@cache
def _forker() -> socket.socket:
    """Where the one process of these tests takes orders that forks for each; it ends with them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    with theirs:
        process = subprocess.Popen(  # noqa: S603  # the tests' own code
            [*_PYTHON, "-m", "tests.support.forker", str(theirs.fileno())],
            cwd=_ROOT,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait(PATIENCE)

    atexit.register(end)
    return ours


def together(code: str, *each: Sequence[str]) -> list[str]:
    """What processes print that run the code with these arguments each: it prints `ready` and
    waits for a line, and goes on when all have.
    """
    processes = [start(code, *arguments) for arguments in each]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [finish(process) for process in processes]


def fork_while_held(lock: threading.Lock, in_child: Callable[[], object]) -> None:
    """Fork while another thread holds the lock, and wait for the child to end well; for scripts,
    which have no other threads.
    """
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            assert forked.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    child = os.fork()
    if not child:
        in_child()
        os._exit(0)
    forked.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
