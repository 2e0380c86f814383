"""What is published: the source archive holds what it names, and nothing that lies about."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: What a developer's folder may hold besides, by path.
STRAYS = [
    ".env",
    "secrets.env",
    "keyrush.db",
    "keyrush.db-wal",
    "keyrush.pepper",
    "notes.txt",
    ".venv/lib/stray.py",
    "private/key.pem",
    "src/.env",
    "src/keyrush/.env",
    "src/keyrush/keyrush.db",
    "src/keyrush/keyrush.pepper",
    "examples/.env",
    "examples/keyrush.db",
    "examples/keyrush.pepper",
    "tests/.env.local",
    ".gitlab/token",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives that are made of a copy of this folder with strays in it."""
    folder = tmp_path_factory.mktemp("project") / "keyrush"
    folder.mkdir()
    for name in ("src", "tests", "examples", "benchmarks", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git" and not path.name.startswith(".coverage"):
            shutil.copy(path, folder)
    (folder / ".gitignore").unlink(missing_ok=True)  # by which hatchling would leave some out
    for stray in STRAYS:
        (folder / stray).parent.mkdir(parents=True, exist_ok=True)
        (folder / stray).write_text("secret")
    subprocess.run(  # the command is the test's own
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=240,
    )
    return folder / "dist"


@pytest.fixture(scope="module")
def names(built: Path) -> set[str]:
    """The files in the source archive."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        return {member.name.partition("/")[2] for member in opened if member.isfile()}


def test_the_wheel_holds_no_strays(built: Path) -> None:
    """What lies about in the package's own folder is not installed with it."""
    (archive,) = built.glob("*.whl")
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
    assert "keyrush/examples/rushed.toml" in names
    assert not {Path(name).name for name in names} & {Path(stray).name for stray in STRAYS}


def test_the_source_archive_holds_no_strays(names: set[str]) -> None:
    """No file that is not the project's is published, wherever it lies."""
    assert not names & set(STRAYS)
    tops = {name.partition("/")[0] for name in names}
    assert tops <= {
        *("src", "tests", "examples", "benchmarks", "docs"),
        *("pyproject.toml", "README.md", "LICENSE", "Makefile"),
        *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
        *("PKG-INFO", ".gitignore"),
    }


def test_the_source_archive_is_whole(names: set[str]) -> None:
    """All that is needed to build, to test and to read is published."""
    package = ROOT / "src" / "keyrush"
    ours = [
        path for path in package.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    ]
    wanted = {str(path.relative_to(ROOT)) for path in ours}
    wanted |= {"README.md", "LICENSE", "SECURITY.md", "CHANGELOG.md", "pyproject.toml", "Makefile"}
    wanted |= {"examples/rushed.py", "examples/rushed.toml", "tests/conftest.py"}
    wanted |= {"benchmarks/__main__.py", "PKG-INFO", "CONTRIBUTING.md"}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
    assert wanted <= names
