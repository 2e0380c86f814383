"""`keyrush init`: from an empty folder to the first protected answer, by what it prints."""

from __future__ import annotations

import json
import re
import shlex
import stat
import tomllib
from pathlib import Path

import httpx2
import pytest

from keyrush import Settings
from keyrush.core.model import Limit, Plan, Quota
from keyrush.core.policy import Rule
from tests.support.running import CHEAP_ENVIRONMENT, Runner
from tests.support.serving import serve_process

APP = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from keyrush import KeyrushMiddleware


async def articles(request):
    return PlainTextResponse("articles")


app = Starlette(routes=[Route("/api/articles", articles)])
app.add_middleware(KeyrushMiddleware)
"""


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """The command in a folder with nothing in it."""
    return Runner(monkeypatch, capsys, tmp_path)


def test_first_answer(run: Runner, tmp_path: Path) -> None:
    """The three commands that it prints, one after the other, lead to a protected answer."""
    (tmp_path / "app.py").write_text(APP)
    shown = run("init")
    assert shown.code == 0
    create, serve, curl = (
        shlex.split(line) for line in shown.out.splitlines() if line.startswith("  ")
    )
    assert (create[0], serve[0], curl[0]) == ("keyrush", "uvicorn", "curl")
    made = run(*create[1:])
    key = re.search(r"kr_live_\w{36}", made.out)
    assert key
    header, url = curl[-2].replace("YOUR_KEY", key[0]).split(": "), curl[-1]
    with serve_process(serve[1], folder=tmp_path, env=CHEAP_ENVIRONMENT) as server:
        assert any(f"settings from {tmp_path}/keyrush.toml" in line for line in server.lines)
        url = url.replace("http://127.0.0.1:8000", server.url)
        assert httpx2.get(url, headers=[(header[0], header[1])]).text == "articles"
        assert httpx2.get(url).status_code == 401
    assert not (tmp_path / "keyrush.pepper").exists()


def test_file(run: Runner, tmp_path: Path) -> None:
    """One plan, one rule and a pepper of its own, readable by the owner alone; with --json it is
    said where, and the commands.
    """
    shown = run("init", "--json").json
    path = tmp_path / "keyrush.toml"
    assert shown["config"] == str(path)
    assert len(shown["commands"]) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    settings = Settings()
    assert settings.catalog().plans == {
        "starter": Plan("starter", (Limit(100, 60),), Quota(500_000))
    }
    read = ("read:articles",)
    assert settings.catalog().rules == (Rule("/api/articles", frozenset({"GET"}), read),)
    (pepper,) = tomllib.loads(path.read_text())["pepper"]
    path.unlink()
    run("init")
    assert tomllib.loads(path.read_text())["pepper"] != [pepper]
    assert pepper not in json.dumps(shown)


def test_every_commented_setting_is_one(run: Runner, tmp_path: Path) -> None:
    """What stands in comments as a setting is taken as one, too."""
    run("init")
    path = tmp_path / "keyrush.toml"
    text = re.sub(r"^# (?=\w+ = )", "", path.read_text(), flags=re.MULTILINE)
    path.write_text(text)
    assert Settings().store_url.startswith("postgresql://")


def test_nothing_is_overwritten(run: Runner, tmp_path: Path) -> None:
    """A file that is there stays as it is: exit code 1."""
    (tmp_path / "keyrush.toml").write_text("realm = 'mine'")
    result = run("init")
    assert (result.code, result.out) == (1, "")
    assert result.err == f"Error: {tmp_path}/keyrush.toml exists already\n"
    assert (tmp_path / "keyrush.toml").read_text() == "realm = 'mine'"


def test_file_that_would_not_be_read(run: Runner, tmp_path: Path) -> None:
    """Where KEYRUSH_CONFIG names another file, that is said: exit code 1."""
    (tmp_path / "other.toml").write_text("")
    run.env(KEYRUSH_CONFIG="other.toml")
    result = run("init")
    assert (result.code, result.out) == (1, "")
    assert "KEYRUSH_CONFIG names other.toml" in result.err
    assert not (tmp_path / "keyrush.toml").exists()


@pytest.mark.parametrize("source", ["file", "environment"])
def test_keys_that_are_there_stay_good(run: Runner, tmp_path: Path, source: str) -> None:
    """A pepper that is in use is not replaced, and is not copied into the file."""
    if source == "environment":
        run.env(KEYRUSH_PEPPER="p" * 32)
    assert run("keys", "create", "--account", "acct_x", "--name", "n").code == 0
    assert run("init").code == 0
    assert "pepper" not in tomllib.loads((tmp_path / "keyrush.toml").read_text())
    assert run("keys", "list").code == 0
    assert "fits every active key" in run("doctor").out


def test_accounts_keep_their_plans(run: Runner, tmp_path: Path) -> None:
    """Where accounts are on plans that the file would not have, none is written: exit code 1."""
    for plan in ("starter", "pro"):
        run("accounts", "create", f"acct_{plan}", "--plan", plan)
    result = run("init")
    assert (result.code, result.err) == (
        1,
        "Error: accounts are on plans that the file would not have: pro\n",
    )
    assert not (tmp_path / "keyrush.toml").exists()
