"""Python code run in a process of its own: for forks, races between processes, and imports."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from textwrap import dedent
from typing import Any

from tests.support import warm

#: Seconds after which a script is taken to hang.
PATIENCE = 120

#: Warnings are errors, but for that about forks with threads.
_WARNINGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")


def start(
    code: str, *arguments: str, popen: Callable[..., Any] = subprocess.Popen
) -> subprocess.Popen[str]:
    """The process, started: a child of this one, unless `popen` makes it otherwise."""
    started: subprocess.Popen[str] = popen(
        [sys.executable, *_WARNINGS, "-c", dedent(code), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return started


def finish(process: subprocess.Popen[str]) -> str:
    """What it printed, once it has ended well."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out


def run(code: str, *arguments: str) -> str:
    """What the code prints. What it imports may have been imported already."""
    return finish(start(code, *arguments, popen=warm.start))


def run_anew(code: str, *arguments: str) -> str:
    """What the code prints in an interpreter that has imported nothing, where that matters."""
    return finish(start(code, *arguments))


def together(code: str, *each: Sequence[str]) -> list[str]:
    """What processes print that run the code with these arguments each: it prints `ready` and
    waits for a line, and goes on when all have.
    """
    processes = [start(code, *arguments, popen=warm.start) for arguments in each]
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
