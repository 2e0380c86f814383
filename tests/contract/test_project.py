"""What developers and machines are told: one Makefile, and the same Pythons everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

WORKFLOWS = ROOT / ".github" / "workflows"
HOOKS = ROOT / ".pre-commit-config.yaml"


def told(*arguments: str) -> str:
    """What make would do."""
    make = shutil.which("make")
    assert make
    done = subprocess.run(  # noqa: S603  # the command is the test's own
        [make, "--no-print-directory", "-n", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("python", ["python3.12", "/opt/python/bin/python3.14"])
def test_a_python_that_is_named_is_taken(python: str) -> None:
    """`make test PYTHON=…` makes a venv of that Python's own, and runs the tests there."""
    venv = f".venv-{Path(python).name}"
    lines = told("test", f"PYTHON={python}", "WORKERS=2").splitlines()
    assert any(line.endswith(f"{python} -m venv {venv}") for line in lines)
    assert lines[-1].rstrip() == f"{venv}/bin/python -m pytest --numprocesses=2"
    last = told("test", "WORKERS=0").splitlines()[-1].rstrip()
    assert last == ".venv/bin/python -m pytest --numprocesses=0"


def test_machines_only_call_make() -> None:
    """Whatever a workflow or a hook runs is a target of the Makefile."""
    files = [*WORKFLOWS.glob("*.yml"), HOOKS]
    assert len(files) == 3
    text = "\n".join(path.read_text("utf-8") for path in files)
    commands = re.findall(r"^\s*(?:- )?(?:run|entry): (.*)$", text, re.MULTILINE)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {command.split()[0] for command in commands} == {"make"}
    assert {command.split()[1] for command in commands} <= set(targets)


def test_pythons_are_the_same_everywhere() -> None:
    """Those that are named to users are those that are tested, from the first that is allowed."""
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    matrix = re.search(r"python: \[(.*)\]", (WORKFLOWS / "ci.yml").read_text("utf-8"))
    assert matrix
    assert re.findall(r"[\d.]+", matrix[1]) == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_addresses() -> None:
    """The project's pages are all below the one repository that README links to."""
    source = PROJECT["urls"]["Source"]
    assert all(url.startswith(source) for url in PROJECT["urls"].values())
    readme = (ROOT / "README.md").read_text("utf-8")
    assert set(re.findall(r"https://github\.com/[\w-]+/[\w-]+", readme)) == {source}
