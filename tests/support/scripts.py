"""Python code run in a process of its own: for forks, races between processes, and imports."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

#: Seconds after which a script is taken to hang.
PATIENCE = 120


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """The process, started; warnings are errors in it, but for that about forks with threads."""
    return subprocess.Popen(  # noqa: S603  # the tests' own code
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore:This process:DeprecationWarning",
            "-c",
            dedent(code),
            *arguments,
        ],
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
