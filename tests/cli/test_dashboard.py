"""`keyrush dashboard`: links, sessions, and the pages on this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from keyrush import Gate, Settings
from keyrush.apps import Dashboard
from tests.conftest import still
from tests.support.dashboard import Browser, Page
from tests.support.running import CHEAP_ENVIRONMENT, COMMAND, Runner


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """The command, in a folder of its own, with an account."""
    made = Runner(monkeypatch, capsys, tmp_path)
    made.env(KEYRUSH_DASHBOARD_URL="https://app.example/dash")
    assert made("accounts", "create", "acct_a").code == 0
    return made


def test_a_link_and_its_session(run: Runner) -> None:
    """O10: the operator's link signs in at an app over the same store; its session is listed, and
    ended from here.
    """
    made = run("dashboard", "link", "acct_a")
    assert made.code == 0, made.err
    url = made.out.splitlines()[0]
    assert re.fullmatch(r"https://app\.example/dash/link/[A-Za-z0-9_-]{43}", url)
    gate = still(Gate.open(Settings()))
    path = urlsplit(url).path.removeprefix("/dash")
    browser = Browser(Dashboard(gate))
    assert browser.submit(browser.get(path), path).status == 303
    assert browser.get("/").status == 200
    (session,) = run("dashboard", "sessions", "--json").json
    assert session["account_id"] == "acct_a"
    assert session["read_only"] is False
    assert session["id"] in run("dashboard", "sessions").out
    assert run("dashboard", "sessions", "--account", "acct_b").out == "No sessions.\n"
    ended = run("dashboard", "sessions", "revoke", session["id"])
    assert ended.code == 0, ended.err
    assert browser.get("/").status == 401
    assert run("dashboard", "sessions", "revoke", session["id"]).code == 1
    gate.close()


def test_a_link_for_programs(run: Runner) -> None:
    """O10: as JSON the URL stands alone; a link that only shows says so in its session."""
    url = run("dashboard", "link", "acct_a", "--read-only", "--json").json["url"]
    gate = still(Gate.open(Settings()))
    assert gate.portal.enter(url.rpartition("/")[2]) is not None
    gate.close()
    assert run("dashboard", "sessions", "--json").json[0]["read_only"] is True


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["dashboard", "link", "acct_x"], 1, "no account 'acct_x'"),
        (["dashboard", "link"], 2, "ACCOUNT"),
        (["dashboard", "sessions", "revoke", "sess_x"], 1, "no such session"),
        (["dashboard", "--account", "acct_x"], 1, "no account 'acct_x'"),
        (["dashboard", "--read-only", "link", "acct_a"], 2, "behind the command"),
        (["dashboard", "nope"], 2, "nope"),
        (["dashboard", "--port", "70000"], 2, "70000"),
    ],
)
def test_what_is_wrong(run: Runner, words: list[str], code: int, said: str) -> None:
    """What can't be done is said in a line, with its code."""
    result = run(*words)
    assert result.code == code
    assert said in result.err


def test_which_account(run: Runner) -> None:
    """Where there are several accounts, one must be named."""
    assert run("accounts", "create", "acct_b").code == 0
    result = run("dashboard")
    assert result.code == 1
    assert "--account" in result.err


def test_on_this_machine(run: Runner, tmp_path: Path) -> None:
    """O10: served on loopback, over the configured store, to nobody without the link."""
    environment: dict[str, Any] = {**os.environ, **CHEAP_ENVIRONMENT}
    process = subprocess.Popen(  # noqa: S603  # ourselves
        [COMMAND, "dashboard"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment,
        # Where the tests run in the background, Ctrl-C is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    assert process.stdout is not None
    try:
        link = next(line for line in process.stdout if "/link/" in line).strip()
        base = link.partition("/link/")[0]
        assert urlsplit(base).hostname == "127.0.0.1"
        with httpx2.Client(base_url=base) as client:
            assert client.get("/").status_code == 401
            page = client.get(link)
            assert page.status_code == 200
            shown = Page(200, [], page.content, link)
            form = dict(shown.form(urlsplit(link).path).fields)
            headers = {"Sec-Fetch-Site": "same-origin"}
            entered = client.post(link, data=form, headers=headers)
            assert entered.status_code == 303
            assert client.get("/").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
