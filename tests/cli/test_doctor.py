"""`keyrush doctor`: what it finds, that it goes on when something is wrong, that it is discreet."""

from __future__ import annotations

import re
import shlex
import socket
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from argon2.exceptions import HashingError

from keyrush import Gate, Settings
from keyrush.core.sliding import Window
from keyrush.limiter.memory import MemoryLimiter
from keyrush.limiter.opening import open_limiter
from keyrush.runtime.clock import now_ms
from keyrush.store.opening import open_store
from tests.conftest import settings
from tests.support.calls import decide
from tests.support.faults import until
from tests.support.mapped import holding
from tests.support.running import Result, Runner, run_process
from tests.support.valkey import Valkey

#: What doctor tries windows by.
DOCTORS = Window("doctor:60", 60_000, 1000, "minute")

LONG, OTHER = "l" * 32, "o" * 32


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """The command in a folder with nothing in it, so over a new SQLite file."""
    return Runner(monkeypatch, capsys, tmp_path)


def make_key(run: Runner) -> None:
    """A key in the store."""
    assert run("keys", "create", "--account", "acct_x", "--name", "n").code == 0


def findings(result: Result, level: str) -> dict[str, str]:
    """The findings of a level, as text by what they are about."""
    found: list[dict[str, Any]] = result.json["findings"]
    return {item["about"]: item["text"] for item in found if item["level"] == level}


def test_nothing_is_wrong(run: Runner) -> None:
    """With the defaults nothing is wrong: exit code 0, and every setting is shown."""
    make_key(run)
    result = run("doctor")
    assert result.code == 0
    assert "Nothing is wrong." in result.out
    for name in Settings.model_fields:
        assert f"KEYRUSH_{name.upper()} " in result.out
    here = Path.cwd()
    assert f"ok       store: {here}/keyrush.db: 1 account, 1 active key\n" in result.out
    assert f"ok       pepper: {here}/keyrush.pepper fits every active key" in result.out


def test_file_that_is_found(run: Runner, tmp_path: Path) -> None:
    """A keyrush.toml of the working folder is shown as found, by its path."""
    assert run("doctor", "--json").json["sources"]["config"] == "default"
    (tmp_path / "keyrush.toml").write_text("cache_size = 10\n")
    report = run("doctor", "--json").json
    assert report["settings"]["config"] == str(tmp_path / "keyrush.toml")
    assert (report["sources"]["config"], report["sources"]["cache_size"]) == ("found", "file")
    names = list(report["settings"])
    assert names[0] == "config"  # what says where all others are from
    assert names[-1].startswith("dashboard_")


@pytest.mark.parametrize("limiter", ["store", "memory://"])
def test_no_store_yet(run: Runner, tmp_path: Path, limiter: str) -> None:
    """Where there is no store, that and its place is said, and none is made; all else is looked at
    as far as it needs none.
    """
    run.env(KEYRUSH_LIMITER_URL=limiter)
    result = run("doctor", "--json")
    assert result.code == 0
    said = f"there is none yet at {tmp_path}/keyrush.db; the app makes it, or the first key"
    assert findings(result, "note")["store"] == said
    assert ("limits" in findings(result, "note")) is (limiter == "memory://")
    assert result.json["active_keys"] is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("made", [0, 1, 2])
def test_each_thing_is_said_once(run: Runner, made: int) -> None:
    """No two findings at one level are about the same, numbers and nouns agree, and a variable that
    stops the start is one problem, not a warning as well.
    """
    run("accounts", "create", "acct_x")
    for _ in range(made):
        make_key(run)
    result = run("doctor", "--json")
    said = [(one["level"], one["about"]) for one in result.json["findings"]]
    assert len(said) == len(set(said))
    keys = "1 active key" if made == 1 else f"{made} active keys"
    assert findings(result, "ok")["store"].endswith(f": 1 account, {keys}")
    run.env(KEYRUSH_VERFIY="fingerprint")
    result = run("doctor", "--json")
    (found,) = result.json["findings"]
    assert found["text"] == "KEYRUSH_VERFIY: is no setting; did you mean KEYRUSH_VERIFY?"
    assert result.code == 2


def test_json(run: Runner) -> None:
    """`--json` has settings, where they come from, findings and what hashing costs."""
    (Path.cwd() / "keyrush.toml").write_text("cache_size = 10\n")
    run.env(KEYRUSH_CONFIG="keyrush.toml", KEYRUSH_CACHE_TTL="2")
    make_key(run)
    report = run("doctor", "--json").json
    assert report["settings"]["cache_size"] == 10
    assert report["settings"]["plans"]["starter"]["limits"] == "100/minute"
    sources = report["sources"]
    assert (sources["cache_size"], sources["cache_ttl"]) == ("file", "environment")
    assert sources["realm"] == "default"
    assert report["active_keys"] == 1
    assert report["argon2_ms"] > 0
    assert report["cores"] >= 1
    assert report["exit_code"] == 0


def test_tables_are_named(run: Runner, tmp_path: Path) -> None:
    """Plans and rules are shown by their names, a function for errors by its module."""
    (tmp_path / "keyrush.toml").write_text(
        '[plans.team]\nlimits = "1/minute"\n[[rules]]\npath = "/a"\n[[rules]]\npath = "/b"\n'
    )
    run.env(KEYRUSH_CONFIG="keyrush.toml", KEYRUSH_ERRORS=f"{__name__}:body")
    shown = run("doctor").out
    assert "team\n" in shown.replace(" ", "")
    assert "/a, /b" in shown
    assert f"{__name__}:body" in shown


def body(_refusal: object, text: str) -> tuple[str, bytes]:
    """A refusal body of the user's own."""
    return "text/plain", text.encode()


def test_secrets_are_masked(run: Runner) -> None:
    """O22: neither peppers nor passwords in URLs are printed, wherever they stand."""
    run.env(
        KEYRUSH_PEPPER=f"{LONG},{OTHER}",
        KEYRUSH_STORE_URL="postgresql://someone:geheim@127.0.0.1:1/keys?password=geheim",
        KEYRUSH_LIMITER_URL=f"{__name__}:Unanswering",
    )
    for arguments in (("doctor",), ("doctor", "--json")):
        result = run(*arguments)
        assert LONG not in result.out + result.err
        assert "geheim" not in result.out + result.err
    assert result.json["settings"]["pepper"] == ["(32 bytes)", "(32 bytes)"]
    url = "postgresql://***@127.0.0.1:1/keys?…"
    assert result.json["settings"]["store_url"] == url
    assert result.json["settings"]["limiter_url"] == f"{__name__}:Unanswering"


def test_wrong_setting(run: Runner) -> None:
    """A wrong setting is named: exit code 2."""
    run.env(KEYRUSH_CACHE_TTL="long", KEYRUSH_HEADERS="none")
    result = run("doctor")
    assert result.code == 2
    assert "problem  settings: KEYRUSH_CACHE_TTL: 'long'" in result.out
    assert "problem  settings: KEYRUSH_HEADERS: 'none'" in result.out
    assert "Something is wrong." in result.out


RULED = """
[[rules]]
path = "/a/"
methods = ["GET"]
[[rules]]
path = "/a"
methods = ["post"]
[[rules]]
path = "/b"
"""


@pytest.mark.parametrize("unruled", ["any_key", "refuse"])
def test_what_is_left_open(run: Runner, tmp_path: Path, unruled: str) -> None:
    """Closed by default: paths of which rules name only some methods are listed, unless the rest is
    refused; and it is said when a prefix must be named.
    """
    (tmp_path / "keyrush.toml").write_text(f'unruled = "{unruled}"{RULED}')
    run.env(KEYRUSH_CONFIG="keyrush.toml")
    make_key(run)
    shown = run("doctor")
    assert shown.code == 0
    named = "note     rules: /a is named for GET, HEAD, POST alone"
    assert (named in shown.out) is (unruled == "any_key")
    assert "/b is named" not in shown.out
    assert "KEYRUSH_ROOT_PATH names it" in shown.out
    run.env(KEYRUSH_ROOT_PATH="/api")
    assert "KEYRUSH_ROOT_PATH names it" not in run("doctor").out


def test_rules_that_surprise(run: Runner, tmp_path: Path) -> None:
    """A module that no plan has is a warning: exit code 1; a tool of two prices is noted."""
    (tmp_path / "keyrush.toml").write_text(
        '[plans.p]\nmodules = ["meta"]\n'
        '[[rules]]\npath = "/a"\nmodules = ["meta", "mteta"]\ntool = "a"\ncredits = 1\n'
        '[[rules]]\npath = "/b"\nmodules = ["meta"]\ntool = "a"\ncredits = 2\n'
    )
    run.env(KEYRUSH_CONFIG="keyrush.toml")
    result = run("doctor")
    assert result.code == 1
    assert "rules.0.modules: no plan has mteta, so every caller is refused at /a" in result.out
    assert "rules.1.modules" not in result.out
    assert "the tool a costs 1 or 2 credits, depending on the rule" in result.out


def test_preflights_that_pass(run: Runner) -> None:
    """S76: that preflights reach the app is a warning: exit code 1."""
    run.env(KEYRUSH_PREFLIGHT="pass")
    make_key(run)
    result = run("doctor", "--json")
    assert result.code == 1
    assert "reaches the app without a key" in findings(result, "warning")["preflights"]


def test_unknown_variable(run: Runner) -> None:
    """A KEYRUSH_* variable that is no setting is named: exit code 1."""
    run.env(KEYRUSH_COLOUR="blue", KEYRUSH_REALM="shop")
    result = run("doctor", "--json")
    assert result.code == 1
    assert findings(result, "warning") == {
        "settings": "KEYRUSH_COLOUR is no setting and has no effect"
    }


def test_short_pepper(run: Runner) -> None:
    """A pepper of fewer than 32 bytes is a problem, said by its number: exit code 2."""
    run.env(KEYRUSH_PEPPER=f"{LONG},short")
    result = run("doctor", "--json")
    assert result.code == 2
    text = findings(result, "problem")["settings"]
    assert text.startswith("KEYRUSH_PEPPER: number 2 has 5 bytes, which can be guessed; give at")
    assert "short" not in result.out


def test_wrong_pepper(run: Runner) -> None:
    """Where no key fits the pepper, that is said, and everything else all the same."""
    make_key(run)
    run.env(KEYRUSH_PEPPER=OTHER)
    result = run("doctor", "--json")
    assert result.code == 2
    assert "it fits no key in the store (1 active key)" in findings(result, "problem")["pepper"]
    assert "1 active key" in findings(result, "ok")["store"]
    assert "argon2" in findings(result, "ok")
    assert result.err == ""


def test_pepper_that_some_keys_need(run: Runner) -> None:
    """Keys made with a pepper that is not configured are counted: exit code 2."""
    run.env(KEYRUSH_PEPPER=LONG)
    make_key(run)
    run.env(KEYRUSH_PEPPER=f"{OTHER},{LONG}")
    make_key(run)
    rotating = run("doctor", "--json")
    assert rotating.code == 0
    assert "an older one is still needed by 1 active key;" in findings(rotating, "note")["pepper"]
    run.env(KEYRUSH_PEPPER=OTHER)
    result = run("doctor", "--json")
    assert result.code == 2
    assert (
        "another than KEYRUSH_PEPPER is needed by 1 active key,"
        in findings(result, "problem")["pepper"]
    )


def test_missing_pepper_file(run: Runner, tmp_path: Path) -> None:
    """A pepper file that is gone while keys need it is said: exit code 2."""
    make_key(run)
    (tmp_path / "keyrush.pepper").unlink()
    result = run("doctor", "--json")
    assert result.code == 2
    assert "keyrush.pepper is missing" in findings(result, "problem")["pepper"]


@pytest.mark.parametrize(
    "name", ["keyrush.db", "keyrush.db-wal", "keyrush.db-shm", "keyrush.pepper"]
)
def test_files_that_others_can_read(run: Runner, tmp_path: Path, name: str) -> None:
    """A file with secrets that is not private is warned of by name, with what mends it: exit 1."""
    make_key(run)
    store = open_store(f"sqlite:///{tmp_path}/keyrush.db").store
    store.set_plan("acct_x", "pro")  # so that files beside it are there, and not empty
    assert findings(run("doctor", "--json"), "warning") == {}
    for mode in (0o644, 0o640, 0o602, 0o601):
        (tmp_path / name).chmod(mode)
        result = run("doctor", "--json")
        assert result.code == 1, oct(mode)
        (warning,) = (item for item in result.json["findings"] if item["level"] == "warning")
        said, command = warning["text"].split(": ")
        assert said == f"{tmp_path / name} can be read by others"
        subprocess.run(shlex.split(command), check=True)  # noqa: S603  # it is what is tested
        assert run("doctor").code == 0
    store.close()


@pytest.mark.parametrize(
    ("url", "code", "text"),
    [
        ("sqlite:///absent/keys.db", 3, "can't open sqlite:///absent/keys.db"),
        ("mysql://u:geheim@host/keys", 2, "'mysql' is not supported"),
        ("://", 2, "not a database URL"),
        ("absent.module:Store", 2, "can't import"),
        (f"{__name__}:Unmakeable", 2, "can't be made: ZeroDivisionError"),
        (f"{__name__}:Unanswering", 3, "can't answer: ZeroDivisionError"),
    ],
)
def test_store_that_fails(run: Runner, url: str, code: int, text: str) -> None:
    """A store that can't be opened or asked is said; the rest is examined all the same."""
    run.env(KEYRUSH_STORE_URL=url)
    result = run("doctor", "--json")
    assert result.code == code
    assert text in findings(result, "problem")["store"]
    assert "argon2" in findings(result, "ok")
    assert "geheim" not in result.out
    assert result.json["active_keys"] is None


class Unmakeable:
    """A store that can't be made."""

    def __init__(self) -> None:
        raise ZeroDivisionError


class Unanswering:
    """A store that can be made, and no more."""

    def add_account(self, account: object) -> bool:
        raise ZeroDivisionError(account)

    def peppers(self, now: int) -> dict[str, int]:
        raise ZeroDivisionError(now)

    def close(self) -> None:
        """Nothing to let go of."""


def test_newer_schema(run: Runner, tmp_path: Path) -> None:
    """A database of a newer keyrush: exit code 2."""
    make_key(run)
    with sqlite3.connect(tmp_path / "keyrush.db") as database:
        database.execute("UPDATE keyrush_meta SET value = '99' WHERE name = 'schema'")
    database.close()
    result = run("doctor", "--json")
    assert result.code == 2
    assert "the database has schema 99" in findings(result, "problem")["store"]


def test_memory(run: Runner) -> None:
    """A store in memory is fine, and said to be out of the commands' reach."""
    run.env(KEYRUSH_STORE_URL="memory://")
    result = run("doctor", "--json")
    assert result.code == 0
    assert "out of reach" in findings(result, "note")["store"]


def test_accounts_on_a_plan_that_left_the_table(run: Runner, tmp_path: Path) -> None:
    """Accounts whose plan is gone are counted, because their requests fail: exit code 2."""
    make_key(run)
    (tmp_path / "keyrush.toml").write_text('[plans.team]\nlimits = "1/minute"\n')
    run.env(KEYRUSH_CONFIG="keyrush.toml")
    result = run("doctor", "--json")
    assert result.code == 2
    assert findings(result, "problem")["plans"].startswith(
        "'starter' is not in the table; the keys of 1 "
    )


def test_cold_start(run: Runner, tmp_path: Path) -> None:
    """A cold start costs one hash for each active key, shared by the cores."""
    make_key(run)
    make_key(run)
    gate = Gate.open(Settings(store_url=f"sqlite:///{tmp_path}/keyrush.db"))
    gate.keys.revoke(gate.keys.list()[0].id)
    gate.close()
    result = run("doctor", "--json")
    notes = [item["text"] for item in result.json["findings"] if item["about"] == "cold start"]
    assert result.json["active_keys"] == 1
    (note,) = notes
    assert note.startswith("1 active key, each used once: 0.0")
    assert "KEYRUSH_VERIFY=fingerprint would save it" in note


def test_cold_start_without_argon2(run: Runner) -> None:
    """VERIFY=fingerprint is said to save the hashing."""
    run.env(KEYRUSH_VERIFY="fingerprint")
    run("accounts", "create")
    notes = findings(run("doctor", "--json"), "note")
    assert notes["cold start"].startswith("KEYRUSH_VERIFY=fingerprint saves this: 0 active keys")


def test_impossible_argon2(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs with which argon2 can't hash here are a problem: exit code 2."""

    def hash_(*_: object) -> str:
        raise HashingError("Memory allocation error")

    monkeypatch.setattr("keyrush.authentication.keyring.Hashing.hash", hash_)
    result = run("doctor", "--json")
    assert result.code == 2
    assert "can't hash with these costs" in findings(result, "problem")["argon2"]


class OwnInMemory(MemoryLimiter):
    """A whole limiter of a user's own, in each process."""


@pytest.mark.parametrize("url", ["memory://", "limits+memory://", f"{__name__}:OwnInMemory"])
def test_limits_in_several_workers(run: Runner, url: str) -> None:
    """Windows in memory are counted in each process: said, and by how much where it is known."""
    run.env(KEYRUSH_LIMITER_URL=url)
    assert "each admits the whole limit" in findings(run("doctor", "--json"), "note")["limits"]
    run.env(WEB_CONCURRENCY="4")
    assert "4 times the limit" in findings(run("doctor", "--json"), "note")["limits"]


def test_limits_are_counted_together(run: Runner, postgres_url: str) -> None:
    """On PostgreSQL windows are with the keys; what is asked there leaves no process behind."""
    run.env(KEYRUSH_STORE_URL=postgres_url, KEYRUSH_PEPPER=LONG)
    for _ in range(2):
        text = findings(run("doctor", "--json"), "ok")["limits"]
        assert "counted together with the keys, leased; processes at work: 0;" in text


def app_starts(tmp_path: Path) -> Path:
    """A file of windows as an app leaves it."""
    Gate.open(Settings(store_url=f"sqlite:///{tmp_path}/keyrush.db")).close()
    return tmp_path / "keyrush.db-windows"


def test_windows_beside_the_store(run: Runner, tmp_path: Path) -> None:
    """By default windows are in a file beside the store: said by its path, with how fast it is;
    what doctor has tried counts for nobody.
    """
    path = app_starts(tmp_path)
    for _ in range(2):
        text = findings(run("doctor", "--json"), "ok")["limits"]
        said = rf"counted by the file {path}, which is asked for every request: \d+\.\d\d ms"
        assert re.fullmatch(said, text)
    limiter = open_limiter(f"file://{path}").limiter
    assert limiter.take([DOCTORS], 1000, now_ms()).admitted
    limiter.close()


@pytest.mark.parametrize("url", ["store", "file://{}/other"])
def test_windows_that_are_not_there_yet(run: Runner, tmp_path: Path, url: str) -> None:
    """Neither commands nor doctor make the file, whose owner would be theirs: that is the app's."""
    run.env(KEYRUSH_LIMITER_URL=url.format(tmp_path))
    make_key(run)
    result = run("doctor", "--json")
    assert result.code == 0
    assert "which the app makes: it is not there yet" in findings(result, "note")["limits"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keyrush.db", "keyrush.pepper"]


def test_windows_that_others_may_open(run: Runner, tmp_path: Path) -> None:
    """A file of windows that others than its owner may use is a problem: the app would not start;
    commands, which count nothing, go on.
    """
    path = app_starts(tmp_path)
    path.chmod(0o640)
    result = run("doctor", "--json")
    assert result.code == 2
    said = findings(result, "problem")["limits"]
    assert str(path) in said
    assert "its mode must be 0600" in said
    make_key(run)


@pytest.mark.parametrize(("outage", "meanwhile"), [("local", "with 503"), ("open", "without")])
def test_windows_that_are_held(run: Runner, tmp_path: Path, outage: str, meanwhile: str) -> None:
    """A process that was stopped while it held the lock that doctor tries is a problem: exit code
    3, with what holds meanwhile.
    """
    path = app_starts(tmp_path)
    run.env(KEYRUSH_LIMITER_OUTAGE=outage)
    with holding(path, "doctor"):
        result = run("doctor", "--json")
    assert result.code == 3
    assert f"some can't be counted by the file {path}" in findings(result, "problem")["limits"]
    assert meanwhile in findings(result, "problem")["limits"]


@pytest.mark.parametrize(
    ("outage", "meanwhile"),
    [("local", "its share of the limits"), ("open", "without limits"), ("closed", "with 503")],
)
def test_limits_are_away(run: Runner, outage: str, meanwhile: str) -> None:
    """S19: a server of windows that does not answer is a problem, with what holds meanwhile."""
    with socket.socket() as nobody:  # bound, so that nobody else listens there
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://:hunter2@127.0.0.1:{nobody.getsockname()[1]}"
        run.env(KEYRUSH_LIMITER_URL=url, KEYRUSH_LIMITER_OUTAGE=outage)
        result = run("doctor", "--json")
    assert result.code == 3
    assert meanwhile in findings(result, "problem")["limits"]
    assert "hunter2" not in result.out


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """The exit code reaches scripts, and piped output is neither coloured nor wrapped."""
    result = run_process("doctor", folder=tmp_path, env={"COLUMNS": "30", "KEYRUSH_COLOUR": "blue"})
    assert result.code == 1
    assert "warning  settings: KEYRUSH_COLOUR is no setting and has no effect\n" in result.out
    assert "\x1b" not in result.out
    assert ["KEYRUSH_STORE_URL", "default", "sqlite:///keyrush.db"] in map(
        str.split, result.out.splitlines()
    )


@pytest.fixture
def user_without_channels(own_valkey: Valkey) -> str:
    """The URL of a server, for a user as Redis makes them: with no right to any channel."""
    own_valkey.run("ACL", "SETUSER", "app", "on", ">geheim", "~*", "+@all", "resetchannels")
    return own_valkey.url.replace("redis://", "redis://app:geheim@")


def test_changes_that_are_heard(run: Runner, own_valkey: Valkey) -> None:
    """What is published is heard: doctor tries it as the app will do."""
    run.env(KEYRUSH_LIMITER_URL=own_valkey.url)
    make_key(run)
    result = run("doctor", "--json")
    assert result.code == 0
    assert findings(result, "ok")["changes"] == "made by other processes are heard of at once"


def test_a_user_without_channels(run: Runner, user_without_channels: str) -> None:
    """Without channels all works, but changes hold later: a warning that says so, exit code 1."""
    run.env(KEYRUSH_LIMITER_URL=user_without_channels)
    make_key(run)
    result = run("doctor", "--json")
    assert result.code == 1
    assert "hold within KEYRUSH_CACHE_TTL, not at once" in findings(result, "warning")["changes"]
    assert "geheim" not in result.out + result.err


def test_health_without_channels(user_without_channels: str) -> None:
    """A missing comfort is no illness: health is well, and says that changes are not heard."""
    gate = Gate.open(settings(limiter_url=user_without_channels))
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k").text
    assert isinstance(decide(gate, key), tuple)
    until(lambda: gate.health().workers)
    assert gate.health().is_well
    assert not gate.health().hears_changes
    gate.close()


def test_ledgers_that_add_up(run: Runner, tmp_path: Path) -> None:
    """O19: doctor says whether every balance is the sum of its ledger, and where one is not."""
    make_key(run)
    run("accounts", "credits", "acct_x", "--grant", "5")
    found = findings(run("doctor", "--json"), "ok")["credits"]
    assert found == "every balance is the sum of its ledger: 1 account and 1 entry"
    with sqlite3.connect(tmp_path / "keyrush.db") as database:
        database.execute("DROP TRIGGER keyrush_balance_has_entry")
        database.execute("UPDATE keyrush_accounts SET balance = 6")
    database.close()
    result = run("doctor", "--json")
    assert result.code == 1
    found = findings(result, "problem")["credits"]
    assert found == (
        "the ledger does not add up, as of acct_x: 'keyrush accounts check' says where"
    )


def test_large_ledgers(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """O19: doctor looks at no more than there is time for, and names the command that does."""
    make_key(run)
    monkeypatch.setattr("keyrush.cli.doctor.store._LOOKING", -1)
    result = run("doctor", "--json")
    assert result.code == 0
    found = findings(result, "ok")["credits"]
    assert found.startswith("no balance is wrong of 0 accounts and 0 entries; 'keyrush accounts")
