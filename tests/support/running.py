"""The `keyrush` command, run in this process or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import keyrush.cli
from tests.conftest import CHEAP
from tests.support import warm
from tests.support.warm import COMMAND

__all__ = ["COMMAND"]

#: For a process of its own: argon2id at its cheapest.
CHEAP_ENVIRONMENT = {f"KEYRUSH_{name.upper()}": str(value) for name, value in CHEAP.items()}


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


@cache
def built() -> Any:
    """The command with all its groups, as a process makes it; that takes longer than most of them
    run.
    """
    return typer.main.get_command(keyrush.cli.app)


class Runner:
    """Runs the command in this process, in a folder of the test's own."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        folder: Path,
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        monkeypatch.chdir(folder)
        self.env(**CHEAP_ENVIRONMENT)

    def env(self, **variables: str) -> None:
        """Set environment variables for this test."""
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def __call__(self, *arguments: str) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["keyrush", *arguments])
        self._monkeypatch.setattr(keyrush.cli, "app", built())
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            keyrush.cli.main()
        printed = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Result(code, printed.out, printed.err)


def run_process(
    *arguments: str, folder: Path, env: Mapping[str, str] | None = None, patience: float = 120
) -> Result:
    """Run the installed command in a process of its own, its output going into pipes."""
    with warm.start(
        [COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, **CHEAP_ENVIRONMENT, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=patience)
        finally:
            process.kill()
    return Result(process.returncode, out, err)
