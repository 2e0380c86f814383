"""The command line's ledger and activity: credits and their reasons, pages, the check, rows as they
come.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate, Settings
from keyrush.cli.following import AT_ONCE, _read
from keyrush.core.activity import ALL, Activity
from keyrush.core.times import iso, parse_past
from keyrush.errors import InvalidArgument
from keyrush.runtime.clock import now_ms
from keyrush.store.opening import activity_of
from keyrush.store.sql import SqlStore
from tests.conftest import CHEAP, settings
from tests.support.activity import row
from tests.support.pages import PAGES
from tests.support.running import CHEAP_ENVIRONMENT, COMMAND, Runner


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """The command in a folder with nothing but a new SQLite file that has `acct_a`."""
    runner = Runner(monkeypatch, capsys, tmp_path)
    assert runner("accounts", "create", "acct_a").code == 0
    return runner


@contextmanager
def kept(folder: Path) -> Iterator[Gate]:
    """What the commands of a folder work on."""
    gate = Gate.open(Settings(store_url=f"sqlite:///{folder}/keyrush.db", **CHEAP))
    yield gate
    gate.close()


def grant(run: Runner, credits: int, *more: str) -> Any:
    """What `accounts credits --grant` says as JSON."""
    result = run("accounts", "credits", "acct_a", "--grant", str(credits), *more, "--json")
    assert result.code == 0, result.err
    return result.json


def entries(run: Runner, *more: str) -> Any:
    """What `accounts ledger` says as JSON."""
    return run("accounts", "ledger", "acct_a", *more, "--json").json


# --- credits and the ledger ---


def test_credits_with_all_that_can_be_said(run: Runner) -> None:
    """O19: reason, reference, expiry and note are kept with the entry; what has a reference is
    added once, and that it was is said.
    """
    words = "--reason top_up --reference inv_42 --expires 2099-01-01 --note 'March, paid'"
    assert grant(run, 1000, *shlex.split(words)) == {"balance": 1000}
    (entry,) = entries(run)
    assert {name: entry[name] for name in ("id", "amount", "balance", "reason", "source")} == {
        "id": 1,
        "amount": 1000,
        "balance": 1000,
        "reason": "top_up",
        "source": "operator",
    }
    assert (entry["reference"], entry["note"]) == ("inv_42", "March, paid")
    assert entry["expires_at"] == "2099-01-01T00:00:00Z"
    again = run("accounts", "credits", "acct_a", "--grant", "1000", *shlex.split(words))
    assert again.code == 0
    first, second = again.out.splitlines()[:2]
    assert re.fullmatch(r"inv_42 was added before, at .*; nothing is new", first)
    assert second == "acct_a has 1,000 credits."
    assert grant(run, -300, "--reason", "adjustment") == {"balance": 700}
    assert [one["balance"] for one in entries(run)] == [700, 1000]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--reason top_up", "reason: is of credits to add: give --grant as well"),
        ("--reference inv_1", "reference: is of credits to add: give --grant as well"),
        ("--expires 1y", "expires: is of credits to add: give --grant as well"),
        ("--note n", "note: is of credits to add: give --grant as well"),
        ("--grant 1 --reason gift", "reason: 'gift' is none of grant, top_up, adjustment\n"),
        ("--grant 1 --reason charge", "reason: 'charge' is none of grant, top_up, adjustment"),
        ("--grant 1 --expires soon", "expires: 'soon' is no expiry"),
        ("--grant 1 --expires 2001-01-31", "expires_at: 2001-01-31T00:00:00Z is in the past"),
        ("--grant -1", "credits: -1 would take some, which the reason adjustment alone may"),
        ("--grant -8 --reason adjustment", "credits: the balance does not hold so many"),
        ("--grant 2 --reference first", "reference: 'first' is of an entry already: grant of 5"),
        ("--grant 1 --note '<b>'", "note: "),
        ("--grant 1 --reference ''", "reference: "),
    ],
)
def test_wrong_credits(run: Runner, words: str, error: str) -> None:
    """O19: what is wrong is one line that names the field, exit code 2, and nothing is added."""
    grant(run, 5, "--reference", "first")
    result = run("accounts", "credits", "acct_a", *shlex.split(words))
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"Error: {error}")
    assert result.err.count("\n") == 1
    assert len(entries(run)) == 1


def test_ledger_for_people(run: Runner) -> None:
    """O19: the ledger is a table, newest first, with what each entry has left."""
    assert run("accounts", "ledger", "acct_a").out == "No entries.\n"
    grant(run, 1500, "--note", "[bold]a[/] note")
    grant(run, -20, "--reason", "adjustment", "--reference", "slip")
    head, newest, oldest = run("accounts", "ledger", "acct_a").out.splitlines()
    assert head.split()[:5] == ["ID", "TIME", "AMOUNT", "BALANCE", "REASON"]
    assert re.match(r"2 +\d{4}-\d\d-\d\d \d\d:\d\d +-20 +1,480 +adjustment +operator", newest)
    assert newest.rstrip().endswith("slip")
    assert re.match(r"1 .* \+1,500 +1,500 +grant +operator", oldest)
    assert oldest.rstrip().endswith("[bold]a[/] note")


def followed(run: Runner, *command: str) -> list[Any]:
    """The items of all pages, each asked for as the one before says."""
    found: list[Any] = []
    while True:
        result = run(*command, "--json")
        assert result.code == 0, result.err
        found += result.json
        if not result.err:
            return found
        more = re.fullmatch(r"There are more: keyrush (.+) --json\n", result.err)
        assert more, result.err
        command = tuple(shlex.split(more[1]))


def test_pages_of_the_ledger(run: Runner, tmp_path: Path) -> None:
    """O19: the ledger comes by pages, of all reasons or of some; --all has all of it."""
    with kept(tmp_path) as gate:
        for number in range(1, 121):
            gate.credits.add("acct_a", number, reason="grant" if number % 2 else "top_up")
    every = [one["id"] for one in followed(run, "accounts", "ledger", "acct_a")]
    assert every == list(range(120, 0, -1))
    assert [one["id"] for one in entries(run, "--all")] == every
    command = ("accounts", "ledger", "acct_a", "--reason", "top_up", "--limit", "7")
    assert [one["id"] for one in followed(run, *command)] == list(range(120, 0, -2))
    for more in (("--source", "operator"), ("--since", "1h"), ("--until", "2999-01-01")):
        command = ("accounts", "ledger", "acct_a", *more, "--limit", "50")
        assert [one["id"] for one in followed(run, *command)] == every
    assert entries(run, "--source", "mcp", "--source", "system") == []
    assert entries(run, "--until", "1h") == entries(run, "--since", "2999-01-01") == []
    both = ("--reason", "top_up", "--reason", "grant", "--all")
    assert [one["id"] for one in entries(run, *both)] == every
    said = run("accounts", "ledger", "acct_a", "--limit", "7").out.splitlines()[-1]
    assert said.startswith("There are more: keyrush accounts ledger acct_a --limit 7 --cursor ")


def test_check(run: Runner, tmp_path: Path) -> None:
    """O19: the check proves that every balance is the sum of its ledger, or says where it is not:
    exit code 1.
    """
    run("accounts", "create", "acct_b")
    grant(run, 10)
    grant(run, 20)
    right = run("accounts", "check")
    assert right.code == 0
    assert right.out == "2 accounts, 2 entries: every balance is the sum of its ledger.\n"
    assert run("accounts", "check", "--json").json == {
        "is_right": True,
        "is_complete": True,
        "accounts": 2,
        "entries": 2,
        "wrong": [],
    }
    with closing(sqlite3.connect(tmp_path / "keyrush.db")) as database, database:
        database.execute("DROP TRIGGER keyrush_balance_has_entry")
        database.execute("UPDATE keyrush_accounts SET balance = 31 WHERE id = 'acct_a'")
    wrong = run("accounts", "check")
    assert wrong.code == 1
    assert wrong.out.startswith("acct_a: ")
    assert wrong.out.endswith("2 accounts, 2 entries: 1 wrong.\n")
    report = run("accounts", "check", "--json")
    assert (report.code, report.json["is_right"]) == (1, False)
    assert [one["account_id"] for one in report.json["wrong"]] == ["acct_a"]


# --- activity ---


def test_activity(run: Runner, tmp_path: Path) -> None:
    """O20: rows are a table, newest first, or JSON; filters and times are those of the account
    API, and the command of the next page has them, too.
    """
    assert run("accounts", "activity", "acct_a").out == "No activity.\n"
    now = now_ms()
    with kept(tmp_path) as gate:
        activity_of(gate.store).add_activity(
            [
                row(1, at=now - 7_200_000, path="/old", credits=0),
                row(2, at=now - 60_000, source="mcp", path="audit_site", rule="audit_site"),
                row(3, at=now - 1_000, outcome="limited", status=429, reason="rate_limited"),
                row(4, at=now, account_id="acct_b"),
            ]
        )
    head, *lines = run("accounts", "activity", "acct_a").out.splitlines()
    assert head.split() == [
        *("TIME", "SOURCE", "METHOD", "PATH", "STATUS", "OUTCOME", "CREDITS", "MS", "BY", "FROM"),
    ]
    assert [line.split()[4] for line in lines] == ["/articles/{id}", "audit_site", "/old"]
    assert "429" in lines[0]
    assert "limited: rate_limited" in lines[0]
    assert lines[1].split()[-3:] == ["1.5", "cred_1", "203.0.113.0/24"]
    for words, expected in (
        ("--source mcp", [2]),
        ("--outcome limited", [3]),
        ("--key cred_1", [3, 2, 1]),
        ("--key cred_2", []),
        ("--rule audit_site", [2]),
        ("--since 1h", [3, 2]),
        ("--until 1h", [1]),
        (f"--since {iso(now - 60_000)} --until {iso(now - 1_000)}", [2]),
    ):
        found = run("accounts", "activity", "acct_a", *words.split(), "--json").json
        assert [one["id"] for one in found] == [f"act_{one:04}" for one in expected], words
    few = ("accounts", "activity", "acct_a", "--key", "cred_1", "--since", "1d", "--limit", "1")
    assert [one["id"] for one in followed(run, *few)] == ["act_0003", "act_0002", "act_0001"]
    assert run(*few).out.splitlines()[-1] == "3 in all."


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--source web", "source: must be one of api, mcp, dashboard"),
        ("--outcome fine", "outcome: must be one of ok, error, limited, refused"),
        ("--since yesterday", "since: 'yesterday' is no time; write 2h, 30d"),
        ("--until 2026-01-01T00:00", "until: '2026-01-01T00:00' has no time zone"),
        ("--limit 0", "limit: must be a whole number from 1 to 100"),
        ("--cursor x", "cursor: is none that a list has given"),
        ("--follow --all", "follow: goes on from now"),
        ("--follow --limit 101", "limit: must be a whole number from 1 to 100"),
        ("--follow --source web", "source: must be one of"),
    ],
)
def test_wrong_activity(run: Runner, words: str, error: str) -> None:
    """O20: what is wrong is one line that names the option; exit code 2."""
    result = run("accounts", "activity", "acct_a", *words.split())
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"Error: {error}")
    assert result.err.count("\n") == 1


def test_texts_of_clients_move_no_cursor(run: Runner, tmp_path: Path) -> None:
    """O20: what a client has sent can't write to the terminal of who reads it."""
    with kept(tmp_path) as gate:
        hostile = row(1, at=now_ms(), path="/\x1b[2J\x9b\u202e\n", address="\x07")
        activity_of(gate.store).add_activity([hostile])
    shown = run("accounts", "activity", "acct_a").out
    assert len(shown.splitlines()) == 2
    assert shown.replace("\n", "").isprintable()


def test_past() -> None:
    """A time is given as how long ago, as a date, or as a time with a zone."""
    now = 1_795_000_020_000
    assert parse_past("2h", now, "since") == now - 7_200_000
    assert parse_past(" 30D ", now, "since") == now - 30 * 86_400_000
    assert parse_past("999999y", now, "since") == 0
    assert parse_past("2026-11-18", now, "since") == 1_794_960_000_000
    assert parse_past("2026-11-18T12:07:00+01:00", now, "since") == now
    for text in ("", "7200", "none", "2026", "2026-11-18T12:07"):
        with pytest.raises(InvalidArgument, match="since"):
            parse_past(text, now, "since")


def test_one_persons_rows(run: Runner, tmp_path: Path) -> None:
    """O20: by what the page says the rows of one person are deleted, and no others."""
    now = now_ms()
    with kept(tmp_path) as gate:
        activity_of(gate.store).add_activity(
            [
                row(1, at=now, subject="user-1", credential_id="link_1"),
                row(2, at=now, subject="user-2", credential_id="link_2"),
                row(3, at=now, credential_id="cred_1"),
                row(4, at=now, credential_id="cred_2", rule="/other"),
                row(5, at=now, credential_id="cred_1", rule=""),
            ]
        )
        assert isinstance(gate.store, SqlStore)
        gate.store.settle_activity()  # as after a minute
        with closing(sqlite3.connect(tmp_path / "keyrush.db")) as database:
            (script,) = PAGES["docs/activity.md"].code("sql")
            database.executescript(script)
        assert {one.id for one in gate.activity.page("acct_a")} == {"act_0002", "act_0004"}
        assert sum(one.requests for one in gate.activity.summary("acct_a")) == 5


# --- as it comes ---


class Following:
    """`keyrush accounts activity --follow` in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        # Else it is deaf to Ctrl-C where the tests run in the background of a shell.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(  # noqa: S603  # the command is the test's own
            [COMMAND, "accounts", "activity", "acct_a", "--follow", *words],
            cwd=folder,
            env={**os.environ, **CHEAP_ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        signal.signal(signal.SIGINT, before)

    def line(self) -> str:
        """What it prints next."""
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def ended(self) -> tuple[int, str]:
        """How it ends, and what it says of that."""
        assert self.process.stderr
        with self.process:
            return self.process.wait(30), self.process.stderr.read()


def write(folder: Path, *rows: Activity) -> None:
    """As an app does that serves beside."""
    with kept(folder) as gate:
        activity_of(gate.store).add_activity(rows)


def test_follow(run: Runner, tmp_path: Path) -> None:
    """O20: --follow begins with the last rows, oldest first, goes on with each new one once, those
    too that are written late, and ends with Ctrl-C as with success.
    """
    now = now_ms()
    write(tmp_path, *(row(number, at=now - 9_000 + number) for number in range(1, 6)))
    following = Following(tmp_path, "--limit", "3", "--json")
    assert [json.loads(following.line())["id"] for _ in range(3)] == [
        *("act_0003", "act_0004", "act_0005")
    ]
    write(tmp_path, row(7, at=now + 50), row(6, at=now - 8_999), row(8, account_id="acct_b"))
    write(tmp_path, row(9, at=now + 60))
    assert [json.loads(following.line())["id"] for _ in range(3)] == [
        *("act_0006", "act_0007", "act_0009")
    ]
    following.process.send_signal(signal.SIGINT)
    assert following.ended() == (0, "")


def test_follow_into_a_pipe_that_closes(run: Runner, tmp_path: Path) -> None:
    """O20: --follow ends by itself when whoever reads has gone, though no row comes any more."""
    write(tmp_path, row(1, at=now_ms()))
    following = Following(tmp_path)
    assert "/articles/{id}" in following.line()
    assert following.process.stdout
    following.process.stdout.close()
    assert following.ended() == (0, "")


def until_shown(terminal: int, text: bytes) -> None:
    """Wait until a text has come to a terminal, in however many pieces."""
    so_far = b""
    while text not in so_far:
        so_far += os.read(terminal, 1000)


def test_follow_at_a_terminal(run: Runner, tmp_path: Path) -> None:
    """O20: rows come at a terminal as in a pipe."""
    write(tmp_path, row(1, at=now_ms()))
    ours, theirs = pty.openpty()
    with subprocess.Popen(  # noqa: S603  # the command is the test's own
        [COMMAND, "accounts", "activity", "acct_a", "--follow"],
        cwd=tmp_path,
        env={**os.environ, **CHEAP_ENVIRONMENT},
        stdout=theirs,
    ) as process:
        until_shown(ours, b"/articles/{id}")
        write(tmp_path, row(2, at=now_ms(), path="/second"))
        until_shown(ours, b"/second")
        process.terminate()
    os.close(ours)
    os.close(theirs)


def test_more_than_one_look_reads() -> None:
    """O20: of more rows than one look reads the newest are, and no older ones are looked for
    later.
    """
    gate = Gate.open(settings())
    gate.accounts.create("acct_a")
    activity_of(gate.store).add_activity([row(one, at=one) for one in range(AT_ONCE + 500)])
    found, floor = _read(gate, "acct_a", ALL, 100)
    assert [one.at for one in found[:2]] == [AT_ONCE + 499, AT_ONCE + 498]
    assert (len(found), floor) == (AT_ONCE, 500)
    found, floor = _read(gate, "acct_a", ALL, AT_ONCE)
    assert (len(found), floor) == (500, AT_ONCE)
    gate.close()
