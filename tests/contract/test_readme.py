"""README is true: its code runs, its commands run, its tables say what the code says."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keyrush import Settings
from tests.support.running import Runner
from tests.support.serving import serve_process

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.removeprefix("$ ")
    for language, text in BLOCKS
    if language == "console"
    for line in text.splitlines()
    if line.startswith("$ ")
]


def keyrush(command: str, folder: Path) -> str:
    """What a `keyrush …` command prints; fails unless it exits with 0."""
    done = subprocess.run(  # noqa: S603  # README's own commands
        [sys.executable, "-m", "keyrush", *shlex.split(command)[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_code_comes_first() -> None:
    """The first code begins by line 20."""
    assert README.splitlines().index("```python") < 20


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block runs as it stands."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "app"}  # as in a file of that name
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "README.md", "exec"), namespace)  # noqa: S102  # our own text
    assert "app" in namespace
    if gate := namespace.get("gate"):
        gate.close()


def test_first_example_end_to_end(tmp_path: Path) -> None:
    """The first commands, one after the other, lead to the response that is shown."""
    (tmp_path / "app.py").write_text(PYTHON[0])
    install, create, serve, curl = COMMANDS[:4]
    assert shlex.split(install, comments=True) == ["pip", "install", ".", "uvicorn", "starlette"]
    assert README.count("pip install") == 1  # what can't be installed is said in one place
    key = json.loads(keyrush(f"{create} --json", tmp_path))["key"]
    shown = next(text for language, text in BLOCKS if language == "console")
    head, body = shown.partition("HTTP/1.1 ")[2].split("\n\n")
    status, *headers = head.splitlines()
    words = shlex.split(curl.replace("kr_live_…", key))
    name, _, value = words[words.index("-H") + 1].partition(": ")
    with serve_process(serve.split()[1], folder=tmp_path) as server:
        url = words[-1].replace("http://127.0.0.1:8000", server.url)
        reply = httpx2.get(url, headers={name: value})
        missing = httpx2.get(url)
    assert f"{reply.status_code} {reply.reason_phrase}" == status
    assert reply.text == body.strip()
    for header in headers:
        name, _, value = header.partition(": ")
        found = reply.headers[name]
        assert found == value or (name == "x-ratelimit-reset" and found.isdecimal())
    refused = next(text for language, text in BLOCKS if "401 Unauthorized" in text)
    for line in refused.splitlines()[1:3]:
        name, _, value = line.partition(": ")
        assert missing.headers[name] == value
    assert missing.text == refused.splitlines()[-1]


def test_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every `keyrush` command runs as it stands, in this order, and exits with 0."""
    run = Runner(monkeypatch, capsys, tmp_path)
    commands = [command for command in COMMANDS if command.startswith("keyrush ")]
    assert len(commands) > 5
    for command in commands:
        result = run(*shlex.split(command, comments=True)[1:])
        assert result.code == 0, result.err


def test_make_targets_exist() -> None:
    """Every `make` command names a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"\bmake (\w+)", " ".join(COMMANDS) + " make bench"):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)


def test_settings_table() -> None:
    """The table names every setting with its default, and no other."""
    rows = re.findall(r"^\|(.*?)\|(.*?)\|.*\|$", README, re.MULTILINE)
    named = {name: row for row in rows for name in re.findall(r"`KEYRUSH_(\w+)`", row[0])}
    assert set(named) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default, shown = field.default, named[name.upper()][1].strip(" `")
        if name in {"plans", "rules", "pepper"}:
            continue
        if isinstance(default, tuple):
            default = ",".join(default)
        if isinstance(default, bool):
            default = str(default).lower()
        assert shown == ("" if default is None else str(default)), name


def test_toml_is_valid(tmp_path: Path) -> None:
    """The TOML example is a configuration that keyrush takes."""
    (text,) = (text for language, text in BLOCKS if language == "toml")
    path = tmp_path / "keyrush.toml"
    path.write_text(text)
    settings = Settings(config=path)
    assert list(settings.plan_values) == list(tomllib.loads(text)["plans"])
    assert settings.rule_values[1].credits == 10


def test_links_lead_somewhere() -> None:
    """Every relative link names a file, and every anchor a heading."""
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors
        else:
            assert (ROOT / target).exists(), target
