"""Python processes that need not import everything anew: forks of one that has.

What a process of keyrush costs at its start is its imports, a second of a core, and the tests start
hundreds. One process imports what most of them do, and nothing else: it has no threads, no gate and
no event loop. It forks for each that is wanted, with the streams, the folder, the environment and
the arguments that this one is to have; the child replaces its streams, runs what the command line
says, and ends as an interpreter does. Whoever asked has a `Popen` as of any process.

What a start itself does, as which modules it imports, is for `subprocess`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import types
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

#: What most processes import. No framework: which one has been imported decides what an app is.
#: Nor gunicorn, which remembers the folder that it was imported in.
_MODULES = ("keyrush.cli", "keyrush.wsgi", "keyrush.store.sql", "uvicorn.main")

#: This Python.
_PYTHON = sys.executable

#: The installed command.
COMMAND = str(Path(sys.executable).with_name("keyrush"))

_ROOT = str(Path(__file__).parents[2])


def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    **options: Any,
) -> subprocess.Popen[Any]:
    """`subprocess.Popen` of a command; forked where it begins with this Python, or is `COMMAND`."""
    env = os.environ if env is None else env
    is_ours = command[0] in {_PYTHON, COMMAND}
    popen = _Forked if is_ours and _is_like_here(env) else subprocess.Popen
    return popen(command, env=env, cwd=cwd, **options)


def _is_like_here(env: Mapping[str, str]) -> bool:
    """Whether nothing in this environment has an interpreter start otherwise than this one did,
    on a system that passes descriptors in messages. Who counts lines wants to see each start.
    """
    return (
        sys.platform == "linux"
        and "COVERAGE_PROCESS_CONFIG" not in os.environ
        and all(
            os.environ.get(name) == value
            for name, value in env.items()
            if name.startswith(("PYTHON", "LC_", "LANG")) and name != "PYTHONPATH"
        )
    )


class _Forked(subprocess.Popen[Any]):
    """A process that is another's child: that one says its id, and how it has ended."""

    _ended: int  # a pipe that its status comes from

    # The three methods of a Popen that know how a process is made and waited for.
    def _execute_child(self, command: Sequence[str], *given: Any) -> None:
        folder, env, streams = given[4], given[5], given[9:15]
        own = (streams[0], streams[3], streams[5])
        theirs = [own_end if own_end >= 0 else number for number, own_end in enumerate(own)]
        self._ended, ended = os.pipe()
        job = {"command": command, "folder": os.fspath(folder or Path.cwd()), "env": dict(env)}
        self.pid = _factory().fork(job, [*theirs, ended])
        self._child_created = True
        os.close(ended)
        self._close_pipe_fds(*streams)  # type: ignore[attr-defined]  # typeshed has none of them

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if not select.select([self._ended], [], [], 0 if flags & os.WNOHANG else None)[0]:
            return 0, 0
        status = os.read(self._ended, 16)
        os.close(self._ended)
        return self.pid, int(status or b"9")  # none if the factory was killed, and it with that


class _Factory:
    """The process that others are forks of, seen from here."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
        self._lock = Lock()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # ours
                [_PYTHON, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                cwd=_ROOT,
            )
        atexit.register(self.close)

    def fork(self, job: Mapping[str, Any], descriptors: Sequence[int]) -> int:
        """The id of a new process that does the job with these streams."""
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(job).encode()], descriptors)
            return int(self._channel.recv(16))

    def close(self) -> None:
        """End it; its children go on."""
        self._channel.close()
        self._process.wait()


@cache
def _factory() -> _Factory:
    return _Factory()


# --- in the process that forks --------------------------------------------------------------------


def _serve(channel: socket.socket) -> NoReturn:
    """Fork for each message, and tell how children end, until nobody is there to ask."""
    waiting: dict[int, int] = {}
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([channel.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 512)
            _tell(waiting)
        if channel.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 4)
            if not message:
                os._exit(0)
            pid = os.fork()
            if not pid:
                channel.detach()
                _become(json.loads(message), descriptors)
            waiting[pid] = descriptors.pop()
            for descriptor in descriptors:
                os.close(descriptor)
            channel.send(str(pid).encode())


def _tell(waiting: dict[int, int]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            end = waiting.pop(ended[0])
            with suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(end, str(ended[1]).encode())
            os.close(end)


def _become(job: dict[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """Do in this child what a new interpreter would."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.closerange(3, 1024)
    sys.stdin = sys.__stdin__ = _stream(0, "r", sys.stdin)  # type: ignore[misc]  # as at a start
    sys.stdout = sys.__stdout__ = _stream(1, "w", sys.stdout)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w", sys.stderr)  # type: ignore[misc]
    sys.stderr.reconfigure(line_buffering=True)
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["folder"])
    more = filter(None, job["env"].get("PYTHONPATH", "").split(os.pathsep))
    sys.path[1:1] = [place for place in more if place not in sys.path]
    _run(job["command"])
    raise SystemExit


def _stream(number: int, mode: str, like: Any) -> Any:
    return open(number, mode, encoding=like.encoding, errors=like.errors, closefd=False)


def _run(command: list[str]) -> None:
    """As the command line of an interpreter: `-W` any number of times, then `-c` or `-m`."""
    program, *arguments = command
    if program == COMMAND:
        sys.argv = command
        sys.path[0] = str(Path(COMMAND).parent)
        runpy.run_path(COMMAND, run_name="__main__")
        return
    while arguments[0] == "-W":
        sys.warnoptions.append(arguments[1])
        del arguments[:2]
    warnings._processoptions(sys.warnoptions)  # type: ignore[attr-defined]  # noqa: SLF001  # as it does
    how, what, *rest = arguments
    if how == "-m":
        sys.argv = [what, *rest]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    assert how == "-c"
    sys.argv = ["-c", *rest]
    sys.path[0] = ""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), main.__dict__)  # noqa: S102  # the tests' own code


if __name__ == "__main__":
    for module in _MODULES:
        importlib.import_module(module)
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
