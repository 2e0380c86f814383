"""README and docs are true: their code runs, their commands run, their tables say what the code
says, and their links lead somewhere.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
import typer
from starlette.testclient import TestClient

from keyrush import Gate, Refusal, Settings
from keyrush.cli import app as command_line
from keyrush.core.refusal import Reason
from keyrush.settings.tables import built_in_plans
from keyrush.wire.refusals import Refusals
from tests.conftest import CHEAP, Clock, settings
from tests.support import floors, points
from tests.support.calls import Asgi, Sent
from tests.support.faults import until
from tests.support.pages import ALL, PAGES, README, ROOT, Page
from tests.support.running import Result, Runner, run_process
from tests.support.serving import serve_process

#: Each block of Python, by where it is; those about moving are parts of apps, which
#: test_migrating.py puts together and runs.
PYTHON = {
    f"{page.name}-{number}": code
    for page in PAGES.values()
    if page.name != "docs/migrating.md"
    for number, code in enumerate(page.code("python"))
}

#: Where links lead on the web; those on README are such, because PyPI shows it.
WEB = re.compile(r"https://github\.com/keyrush/keyrush/(?:blob|tree)/main/")


def keyrush(command: str, run: Callable[..., Result]) -> Result:
    """How a `keyrush …` command ends; fails unless it exits with 0."""
    result = run(*shlex.split(command)[1:])
    assert result.code == 0, result.err
    return result


def execute(code: str) -> dict[str, Any]:
    """The names in an `app.py` of this code, run in the working folder."""
    namespace: dict[str, Any] = {"__name__": "app"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "app.py", "exec"), namespace)  # noqa: S102  # our own text
    return namespace


# --- code and commands -------------------------------------------------------------------------


def test_code_comes_first() -> None:
    """README's first code begins by line 20, and the whole is no more than a few screens."""
    lines = README.text.splitlines()
    assert lines.index("```python") < 20
    assert len(lines) <= 130


@pytest.mark.parametrize("place", PYTHON)
def test_python_runs(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block runs as it stands."""
    monkeypatch.chdir(tmp_path)
    namespace = execute(PYTHON[place])
    assert "app" in namespace
    if gate := namespace.get("gate"):
        gate.close()


def test_first_example_end_to_end(tmp_path: Path) -> None:
    """README's first commands, one after the other, lead to the response that is shown."""
    (tmp_path / "app.py").write_text(README.code("python")[0])
    install, create, serve, curl = README.commands[:4]
    assert shlex.split(install, comments=True) == ["pip", "install", ".", "uvicorn", "starlette"]
    key = keyrush(f"{create} --json", partial(run_process, folder=tmp_path)).json["key"]
    shown = README.code("console")[0]
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
    refused = next(text for text in README.code("") if "401 Unauthorized" in text)
    for line in refused.splitlines()[1:3]:
        name, _, value = line.partition(": ")
        assert missing.headers[name] == value
    assert missing.text == refused.splitlines()[-1]


@pytest.mark.parametrize("page", [page for page in PAGES.values() if page.commands])
def test_commands_run(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every `keyrush` command runs as it stands, in this order, and exits with 0. What the page
    shows as `keyrush.toml` stands in place of the one that `keyrush init` writes.
    """
    run = Runner(monkeypatch, capsys, tmp_path)
    for command in page.commands:
        if command.startswith("keyrush "):
            keyrush(command, run)
        if command == "keyrush init":
            (tmp_path / "keyrush.toml").write_text(page.code("toml")[0])


def test_installing_is_said_alike() -> None:
    """What can't be installed yet is said with the one command that works."""
    said = {text for page in PAGES.values() for text in re.findall(r"pip install \S+", page.text)}
    assert said == {"pip install ."}


def test_quickstart_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quickstart's app answers as its table says, with its settings and its key."""
    page = PAGES["docs/quickstart.md"]
    monkeypatch.chdir(tmp_path)
    for name, value in CHEAP.items():
        monkeypatch.setenv(f"KEYRUSH_{name.upper()}", str(value))
    (tmp_path / "keyrush.toml").write_text(page.code("toml")[0])
    gate = Gate.open()
    gate.accounts.create("acct_1")
    key = {"X-API-Key": gate.keys.create("acct_1", "first", scopes=["read:articles"]).text}
    (code,) = page.code("python")
    rows = page.rows(r" `GET (\S+)` [|] (\d+)(.*) [|] (\d+) ")
    assert len(rows) == 3
    with TestClient(execute(code)["app"]) as client:
        for path, known, more, unknown in rows:
            for status in [int(known)] * (3 if "three times" in more else 1):
                assert client.get(path, headers=key).status_code == status
            if then := re.findall(r"then (\d+)", more):
                assert client.get(path, headers=key).status_code == int(then[0])
            assert client.get(path).status_code == int(unknown)
        gate.accounts.set_plan("acct_1", "paid")
        until(lambda: client.get("/api/articles", headers=key).status_code == 200)
    gate.close()


@pytest.mark.parametrize("page", list(ALL.values()), ids=list(ALL))
def test_mentioned_commands_exist(page: Page) -> None:
    """Every `keyrush …` and `make …` in the text is a command, with options that it has."""
    whole = typer.main.get_command(command_line)
    for words in map(shlex.split, re.findall(r"`(keyrush [a-z][^`…]*)`", page.prose)):
        command: Any = whole
        for word in words[1:]:
            if commands := getattr(command, "commands", None):  # a group of them
                assert word in commands, words
                command = commands[word]
            elif word.startswith("--"):
                assert any(word in option.opts for option in command.params), words
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    typed = [*re.findall(r"`(make [a-z][^`]*)`", page.prose), *page.commands]
    made = {line.split()[1] for line in typed if line.startswith("make ")}
    assert made <= targets


# --- tables ------------------------------------------------------------------------------------


def test_settings_table() -> None:
    """The table names every setting with its default, and no other."""
    rows = PAGES["docs/settings.md"].rows("(.*?)[|](.*?)[|].*")
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


def test_mentioned_settings_exist() -> None:
    """Every `KEYRUSH_…` on any page is a setting."""
    known = {f"KEYRUSH_{name.upper()}" for name in Settings.model_fields}
    for page in ALL.values():
        assert set(re.findall(r"KEYRUSH_[A-Z0-9_]*[A-Z0-9]", page.text)) <= known, page.name


@pytest.mark.parametrize("text", [text for page in PAGES.values() for text in page.code("toml")])
def test_toml_is_valid(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TOML example is a configuration that keyrush takes, with its plans and rules."""
    path = tmp_path / "keyrush.toml"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "refusals.py").write_text("def body(refusal, message): return {}\n")
    path.write_text(text)
    taken, written = Settings(config=path), tomllib.loads(text)
    assert list(taken.catalog().plans) == list(written.get("plans", built_in_plans()))
    assert [rule.credits for rule in taken.catalog().rules] == [
        rule.get("credits", 0) for rule in written.get("rules", [])
    ]
    assert len(taken.issuers) == len(written.get("issuers", []))
    assert len(taken.resources) == len(written.get("resources", []))


def test_table_of_refusals() -> None:
    """R7, O12, O15, S13 to S18: the table has every reason, with the status, the challenge and
    whether it says when to try again, as the gate answers it.
    """
    rows = PAGES["docs/errors-and-headers.md"].rows(
        r" (\d+) [|] `(\w+)` [|] [^|]+ [|] (no|`[^|]+`) [|] (no|yes) "
    )
    assert sorted(reason for _, reason, _, _ in rows) == sorted(get_args(Reason))
    refusals = Refusals("documented", "api", None)
    for status, reason, challenge, waits in rows:
        names = ("read:articles",) if reason == "insufficient_scope" else ()
        refusal = Refusal(reason, names, 32 if waits == "yes" else None)  # type: ignore[arg-type]  # held against the literals above
        headers = dict(refusals.response(refusal).headers)
        assert refusal.status == int(status)
        assert headers.get(b"www-authenticate", b"no").decode() == challenge.strip("`")
        assert ("{wait}" in refusals.text(refusal) or "32" in refusals.text(refusal)) == (
            waits == "yes"
        )


def test_body_of_refusals() -> None:
    """R8, R10: the body that is shown is the one that is sent."""
    (shown,) = PAGES["docs/errors-and-headers.md"].code("json")
    sent = Refusals("documented", "api", None).response(Refusal("rate_limited", retry_after=32))
    assert sent.body.decode() == shown.strip()


def test_table_of_headers(clock: Clock) -> None:
    """R11 to R13, S23: the table has the headers of an authorised answer, all and no other."""
    plans = {"starter": {"limits": "100/minute", "monthly_quota": 1}}
    gate = Gate.open(settings(plans=plans), clock=clock)
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "key").text
    sent = Sent("/", [("X-API-Key", key)])
    replies = [Asgi(gate).send(sent) for _ in range(2)]
    gate.close()
    of_the_app = {"content-type", "content-length"}
    found = {name for reply in replies for name, _ in reply.headers} - of_the_app
    rows = PAGES["docs/errors-and-headers.md"].rows(r" `([A-Z][A-Za-z-]+)` [|][^|]*")
    assert {name.lower() for (name,) in rows} == found


# --- links and points --------------------------------------------------------------------------


@pytest.mark.parametrize("page", list(ALL.values()), ids=list(ALL))
def test_links_lead_somewhere(page: Page) -> None:
    """Every link to a file of ours names one, and every anchor a heading; README's are absolute."""
    for target in re.findall(r"\]\(([^)]+)\)", page.prose):
        if WEB.match(target):
            path, folder = WEB.sub("", target), ROOT
        elif ":" in target:
            continue  # elsewhere
        else:
            assert page is not README, f"{target} is relative"
            path, folder = target, page.path.parent
        name, _, anchor = path.partition("#")
        found = (folder / name).resolve() if name else page.path
        assert found.exists(), target
        if anchor:
            assert anchor in Page(found).anchors, target


def test_every_page_is_in_the_index() -> None:
    """The index names every page of docs."""
    index = PAGES["docs/index.md"]
    named = set(re.findall(r"\]\(([\w-]+\.md)\)", index.text))
    assert named == {path.name for path in index.path.parent.glob("*.md")} - {"index.md"}


def test_points_mean_something() -> None:
    """Each point of contract and standards is named by a test, and each that code or tests name
    is a point.
    """
    listed = {
        point
        for name in ("docs/contract.md", "docs/standards.md")
        for (point,) in PAGES[name].rows(r" ([ROS]\d+) [|].*")
    }
    named = {
        folder: points.points(
            "".join(path.read_text("utf-8") for path in (ROOT / folder).rglob("*.py"))
        )
        for folder in ("src", "tests")
    }
    assert named["src"] <= listed
    assert named["tests"] == listed


def test_architecture_is_what_the_code_says() -> None:
    """The pictures and the table are those that imports and calls make; else: make pictures."""
    assert floors.PAGE.read_text("utf-8") == floors.page()


def test_services_are_tested_without_a_gap() -> None:
    """Every point of a service is held by a test of its example, but those that are said; the table
    has them as they are: else make pictures.
    """
    listed = points.numbers(points.PAGE.read_text("utf-8"))
    assert listed == [f"R{number}" for number in range(1, 21)] + [
        f"O{number}" for number in range(1, 23)
    ]
    held = {point for kind in points.SERVICES for point in points.of_services(kind)}
    assert set(listed) - held == set(points.WITHOUT)
    assert points.PAGE.read_text("utf-8") == points.page()
