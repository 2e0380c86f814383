"""Contenders in processes of their own, by turns, so that none warms, slows or favours another."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

Process = subprocess.Popen[str]


@contextmanager
def started(command: list[str], *, folder: str, env: Mapping[str, str]) -> Iterator[Process]:
    """A module of this package, running in a folder; told to end when this does."""
    with subprocess.Popen(  # noqa: S603  # this very package
        [sys.executable, "-m", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "KEYRUSH_PEPPER": "benchmarks" * 4, **env},
        cwd=folder,
    ) as process:
        yield process
        process.communicate()


def tell(process: Process, line: str = "") -> None:
    """Have a process play a round."""
    assert process.stdin  # noqa: S101  # it is a pipe
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process: Process) -> Any:
    """What came of the round."""
    assert process.stdout  # noqa: S101  # it is a pipe
    return json.loads(process.stdout.readline())


def take_turns(
    command: list[str], names: Iterable[str], *, rounds: int, env: Mapping[str, str] | None = None
) -> dict[str, list[Any]]:
    """What each of the contenders answered to each of its rounds. Each has a new folder."""
    with ExitStack() as stack:
        parent = stack.enter_context(tempfile.TemporaryDirectory(prefix="keyrush-"))
        running = {
            name: stack.enter_context(
                started([*command, name], folder=tempfile.mkdtemp(dir=parent), env=env or {})
            )
            for name in names
        }
        answers: dict[str, list[Any]] = {name: [] for name in running}
        for _ in range(rounds):
            for name, process in running.items():
                tell(process)
                answers[name].append(hear(process))
    return answers


def serve(play: Callable[[str], Any]) -> None:
    """In a contender's process: a round for each line on standard input."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(play(line)) + "\n")
        sys.stdout.flush()
