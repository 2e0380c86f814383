"""`keyrush demo`: every answer as documented, and no demo that calls a wrong answer right."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

import keyrush.cli
from keyrush import Gate, Settings
from keyrush.cli.demo import example
from keyrush.cli.demo.walk import Answer, Demo
from keyrush.operations.keys import Keys
from tests.support.pages import PAGES
from tests.support.running import CHEAP_ENVIRONMENT, COMMAND, Result, Runner, run_process

EXAMPLES = Path(__file__).parents[2] / "examples"


#: The commands that the quickstart shows, with an ellipsis in place of what is new each time.
SAID = re.sub(r":\d{4,5}", "…", PAGES["docs/quickstart.md"].text).splitlines()


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """The command in a folder with nothing in it."""
    return Runner(monkeypatch, capsys, tmp_path)


def test_every_answer_is_as_documented(run: Runner, tmp_path: Path) -> None:
    """R2 to R17, O8, O9, O11, O20: every row is as documented: exit code 0, whatever KEYRUSH_*
    says.
    """
    run.env(KEYRUSH_KEY_PREFIX="or", KEYRUSH_STORE_URL="nonsense", KEYRUSH_REALM="shop")
    result = run("demo", "--json")
    assert result.code == 0, result.out
    rows: list[dict[str, Any]] = result.json
    assert all(row["wrong"] == [] for row in rows)
    assert [row["status"] for row in rows] == [
        *(200, 200, 200),  # public, live, test
        *(401, 401, 401, 200, 401),  # none, unknown, malformed, revoked
        *(403, 403, 200),  # scope, module, module of a larger plan
        *(200, 200, 200, 429, 200),  # the limit, and after the wait
        200,  # over the monthly quota
        *(200, 200, 401, 200),  # rotation
        401,  # expired
        *(401, 200),  # MCP: no token, metadata
        *(200, 200, 200, 200),  # key, session, agent, key: one balance
        *(200, 200, 401),  # a failed call, which costs nothing; the agent's token elsewhere
        200,  # activity
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """What the demo prints on a narrow terminal, without arguments in a process of its own; it
    runs for seconds, so once for each set of arguments.
    """
    narrow = {"COLUMNS": "40"}

    @cache
    def run_once(*arguments: str) -> Result:
        if arguments:
            done = CliRunner().invoke(keyrush.cli.app, ["demo", *arguments], env=narrow)
            return Result(done.exit_code, done.stdout, done.stderr)
        return run_process("demo", folder=tmp_path_factory.mktemp("demo"), env=narrow)

    return run_once


def test_a_line_a_check(shown: Callable[..., Result]) -> None:
    """By default every check is one line: whether it is right, the status and what it was."""
    result = shown()
    assert (result.code, result.err) == (0, "")
    lines = [line for line in result.out.splitlines() if line.startswith(("ok", "WRONG"))]
    assert len(lines) == 32
    assert all(re.fullmatch(r"ok     (200|401|403|429)  \S.*", line) for line in lines)
    assert "32 of 32 answers are as documented." in result.out
    assert "{" not in result.out


@pytest.mark.parametrize("arguments", [(), ("--verbose",), ("--json",)])
def test_nobodys_address(shown: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    """No address in what is printed belongs to anybody."""
    result = shown(*arguments)
    hosts = set(re.findall(r"https?://([\w.-]+)", result.out))
    assert hosts <= {"127.0.0.1", "keys.example"}
    assert ".com" not in result.out


def test_table(shown: Callable[..., Result]) -> None:
    """With --verbose, a table with every row, headers and bodies, no key in full, exit code 0."""
    result = shown("--verbose")
    assert result.code == 0, result.out
    assert result.err == ""
    assert "32 of 32 answers are as documented." in result.out
    assert not re.search(r"rsh_(live|test)_\w{36}", result.out)
    for text in (
        "200 OK",
        "401 Unauthorized",
        "403 Forbidden",
        "429 Too Many Requests",
        "x-ratelimit-monthly-overage: 1",
        "retry-after: ",
        "X-API-Key: rsh_test_",
    ):
        assert text in result.out


@pytest.mark.parametrize("arguments", [(), ("--verbose",)])
def test_wrong_answers_are_told(
    run: Runner, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """A gate that goes on letting revoked keys in is found out: exit code 1."""
    monkeypatch.setattr(Keys, "revoke", lambda *_: None)
    result = run("demo", *arguments)
    assert result.code == 1
    assert "30 of 32 answers are as documented." in result.out
    assert "WRONG" in result.out
    assert "NOT AS DOCUMENTED: expected status 401" in result.out


class Answers(Demo):
    """A demo that is given answers instead of asking for them."""

    answer = Answer(200, {}, {})

    def _ask(self, path: str, key: str | None) -> Answer:
        del path, key
        return self.answer


@pytest.fixture
def answers() -> Answers:
    """A demo whose answers the test gives."""
    settings = Settings(store_url="memory://", key_prefix="rsh", argon2_memory_cost=8)
    return Answers(Gate.open(settings), 1)


LIMITS = {"x-ratelimit-limit": "3", "x-ratelimit-remaining": "2", "x-ratelimit-reset": "1"}


@pytest.mark.parametrize(
    ("answer", "expected", "wrong"),
    [
        (Answer(500, LIMITS, {}), {}, "status 200"),
        (Answer(200, {}, {}), {}, "a number as x-ratelimit-reset"),
        (Answer(200, LIMITS, {}), {"headers": {"x-ratelimit-remaining": "1"}}, "g: 1"),
        (Answer(200, LIMITS, {}), {"headers": {"x-ratelimit-limit": None}}, "no x-r"),
        (Answer(403, LIMITS, {}), {"status": 403, "text": "No."}, '"error": "No."'),
        (Answer(200, LIMITS, {"success": False}), {"first": "a"}, "a first article a"),
        (
            Answer(200, LIMITS, {"success": True, "data": [{"id": "b"}]}),
            {"first": "a"},
            "a first article a",
        ),
    ],
)
def test_what_a_row_finds(
    answers: Answers, answer: Answer, expected: dict[str, Any], wrong: str
) -> None:
    """A status, header, body or field that is not as documented is named in the row."""
    answers.answer = answer
    answers._row("what", ("secret", "shown"), **expected)  # noqa: SLF001  # what it checks with
    [row] = answers.rows
    assert wrong in " ".join(row.wrong)


def test_wait_that_is_not_documented(answers: Answers) -> None:
    """R10: a 429 without a wait, or whose text names another, is found out."""
    answers.answer = Answer(429, LIMITS, {"error": "Slow down."})
    answers._limited()  # noqa: SLF001  # sends to no server here
    refused = next(row for row in answers.rows if row.what == "one more")
    assert any(text.startswith("a Retry-After") for text in refused.wrong)


def test_without_its_extra(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where uvicorn is not installed, the demo says what to install: exit code 1."""
    theirs = ("keyrush.cli.demo", "keyrush.cli.serving")
    for name in [name for name in sys.modules if name.startswith(theirs)]:
        monkeypatch.delitem(sys.modules, name)
    for name in theirs:
        monkeypatch.delattr(name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("demo")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: the demo needs uvicorn: pip install 'keyrush[demo]'\n"


def test_serve_and_json_exclude_each_other(run: Runner) -> None:
    """`--serve` prints for people to paste, so it has no JSON: exit code 2."""
    result = run("demo", "--serve", "--json")
    assert result.code == 2
    assert "either --serve or --json" in result.err


def test_serve(tmp_path: Path) -> None:
    """`--serve` goes on serving; the curl commands it prints do what stands above them."""
    with subprocess.Popen(  # noqa: S603  # the command is the test's own
        [COMMAND, "demo", "--serve"],
        cwd=tmp_path,
        env={**os.environ, **CHEAP_ENVIRONMENT},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("Ctrl-C"):
                break
        commands = {
            about: shlex.split(command)
            for about, command in pairwise(lines)
            if command.startswith("curl ")
        }
        live, test, limited = commands.values()
        for line in lines:
            if line.startswith(("# ", "curl ")):
                assert re.sub(r"(_\w+_)\w{36}|:\d{4,5}", r"\1…", line) in SAID
        assert [about.split()[1] for about in commands] == ["live", "test", "limit"]
        assert curl(live).json()["data"][0]["id"] == "art_1"
        assert curl(test).json()["data"][0]["id"] == "test_art_1"
        assert 429 in [curl(limited).status_code for _ in range(7)]
        (link,) = [line for line in lines if "/dashboard/link/" in line]
        assert "Fernpost" in httpx2.get(link).text
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().endswith("Ended.\n")
    assert process.returncode == 0


def curl(command: list[str]) -> httpx2.Response:
    """What `curl -i -H 'name: value' url` gets."""
    _, include, option, header, url = command
    assert (include, option) == ("-i", "-H")
    name, _, value = header.partition(": ")
    return httpx2.get(url, headers={name: value})


def test_examples_are_found_in_an_installed_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The example is package data where keyrush is installed, beside `src` in a checkout."""
    assert example.examples() == EXAMPLES
    (tmp_path / "examples").mkdir()
    monkeypatch.setattr(example, "__file__", str(tmp_path / "cli" / "demo" / "example.py"))
    assert example.examples() == tmp_path / "examples"


def test_example_that_is_missing(tmp_path: Path, answers: Answers) -> None:
    """A file that is no Python module, or is missing, is said by its path."""
    gate = answers._gate  # noqa: SLF001  # any gate
    for name in ("absent.py", "rushed.toml"):
        with pytest.raises(FileNotFoundError, match=name):
            example.load(tmp_path / name, gate)
