"""The command line: keys, accounts, exit codes, and an answer to every bad input."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import sqlalchemy as sa

import keyrush
from keyrush import Gate, Settings
from keyrush.core.key_text import KeyFormat
from tests.conftest import CHEAP
from tests.support.running import Runner, built, run_process
from tests.support.values import HIDINGS

#: The `api_credential` of contract O4, in its order.
CREDENTIAL = [
    "id",
    "account_id",
    "name",
    "prefix",
    "is_active",
    "created_at",
    "last_used_at",
    "expires_at",
]

#: What the command line says of a key beside these.
MORE = ["environment", "scopes", "limits", "max_concurrent", "revoked_at", "created_by"]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """The command in a folder with nothing in it, so over a new SQLite file."""
    return Runner(monkeypatch, capsys, tmp_path)


def create(run: Runner, *more: str, account: str = "acct_x") -> dict[str, object]:
    """The `api_credential` of a new key."""
    result = run("keys", "create", "--account", account, "--name", "production", "--json", *more)
    assert result.code == 0, result.err
    credential: dict[str, object] = result.json["api_credential"]
    return credential


def key_id(run: Runner, *more: str, account: str = "acct_x") -> str:
    """The id of a new key."""
    return str(create(run, *more, account=account)["id"])


# --- the command itself ---


def test_version(run: Runner) -> None:
    """--version prints name and version."""
    result = run("--version")
    assert (result.code, result.out) == (0, f"keyrush {keyrush.__version__}\n")


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), ("keys", "--help"), ("keys",), ("accounts",)]
)
def test_help_documents_exit_codes(run: Runner, arguments: tuple[str, ...]) -> None:
    """Help, which a group alone prints too, says what the exit codes mean."""
    result = run(*arguments)
    assert (result.code, result.err) == (0, "")
    assert "0 done; 1 not found" in result.out
    assert run(*arguments[:1], "--help").out == result.out


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_help_is_whole(run: Runner, columns: str) -> None:
    """No help cuts a sentence, or speaks of Python's types, however narrow the terminal."""
    run.env(COLUMNS=columns)
    for path in sorted({path for path, _ in _places()}):
        shown = run(*path, "--help").out
        command = built()
        for part in path:
            command = command.commands[part]
        for name, inner in getattr(command, "commands", {}).items():
            summary = inner.help.partition(". ")[0].partition("\n")[0].removesuffix(".")
            assert f"{name} {summary}." in " ".join(shown.split())
        assert "..." not in shown.replace("[ARGS]...", "").replace("kr_live_abc123...", "")
        assert not re.search(r"<|>|\{|\}|\bstr\b|\blist\[", shown)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("keys", "lst"), "Error: No such command 'lst'."),
        (("keys", "create", "--name", "a"), "Error: Missing option '--account'"),
        (
            ("accounts", "credits", "acct_x", "--grant", "lots"),
            "Error: Invalid value for '--grant': 'lots' is no whole number (see keyrush accounts",
        ),
    ],
)
def test_wrong_command_lines(run: Runner, arguments: tuple[str, ...], error: str) -> None:
    """A wrong command line is one line on standard error that names its help, and exit code 2."""
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(error)
    assert result.err.count("\n") == 1
    assert "--help)" in result.err


# --- keys ---


def test_create_prints_the_key_once(run: Runner, tmp_path: Path) -> None:
    """R3, O2: the full key is printed with a note, and is nowhere else afterwards."""
    result = run("keys", "create", "--account", "acct_x", "--name", "production")
    [key] = re.findall(r"kr_live_[0-9A-Za-z]{36}", result.out)
    assert "shown this once" in result.out
    for arguments in (("list",), ("list", "--json"), ("show", key_id(run), "--json")):
        assert key not in run("keys", *arguments).out
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key.encode() not in stored


def test_created_key_is_let_in(run: Runner, tmp_path: Path) -> None:
    """A key made on the command line is one that the store's gate finds."""
    result = run("keys", "create", "--account", "acct_x", "--name", "production", "--json")
    gate = Gate.open(Settings(store_url=f"sqlite:///{tmp_path}/keyrush.db"))
    assert gate.keys.get(result.json["api_credential"]["id"]).name == "production"
    gate.close()


def test_create_json_is_the_documented_object(run: Runner) -> None:
    """O4: `keys create --json` prints exactly `key` and `api_credential`, this with what else is
    known of the key after the documented fields.
    """
    result = run("keys", "create", "--account", "acct_x", "--name", "production", "--json")
    created = result.json
    assert list(created) == ["key", "api_credential"]
    credential = created["api_credential"]
    assert list(credential) == CREDENTIAL + MORE
    assert (credential["environment"], credential["scopes"]) == ("live", ["*"])
    assert credential["limits"] is None
    assert credential["account_id"] == "acct_x"
    assert credential["name"] == "production"
    assert credential["is_active"] is True
    assert credential["last_used_at"] is None
    assert credential["expires_at"] is None
    assert credential["id"].startswith("cred_")
    assert created["key"].startswith(credential["prefix"].removesuffix("..."))
    assert re.fullmatch(r"[0-9-]{10}T[0-9:.]+Z", credential["created_at"])


def test_create_many(run: Runner, tmp_path: Path) -> None:
    """R3: with --count as many keys are printed, an id and a key a line, all else aside."""
    result = run("keys", "create", "--account", "acct_x", "--name", "fleet", "--count", "3")
    lines = [line.split() for line in result.out.splitlines()]
    assert (result.code, len(lines)) == (0, 3)
    assert "New account acct_x" in result.err
    assert "Made 3 keys. They are shown this once" in result.err
    gate = Gate.open(Settings(store_url=f"sqlite:///{tmp_path}/keyrush.db"))
    assert [gate.keys.find(text).id for _, text in lines] == [key for key, _ in lines]
    gate.close()


def test_create_many_json(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """O4: with --json each line is what `keys create --json` prints of one key, for 1 too; what
    does not fit in one step is made in several.
    """
    monkeypatch.setattr("keyrush.cli.keys._AT_ONCE", 2)
    create = ("keys", "create", "--account", "acct_x", "--name", "fleet", "--json", "--count")
    for number in (1, 5):
        made = [json.loads(line) for line in run(*create, str(number)).out.splitlines()]
        assert len({one["key"] for one in made}) == number
        for one in made:
            assert list(one) == ["key", "api_credential"]
            assert list(one["api_credential"]) == CREDENTIAL + MORE


def test_create_too_many(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More keys than there is room for are refused, and leave nothing behind. Where others take
    the room meanwhile, what was made before is printed, and said: exit code 1.
    """
    monkeypatch.setattr("keyrush.cli.keys._AT_ONCE", 2)
    (tmp_path / "keyrush.toml").write_text("[plans.three]\nmax_keys = 3\n")
    run.env(KEYRUSH_CONFIG="keyrush.toml")
    create = ("keys", "create", "--account", "acct_x", "--name", "n", "--count")
    refused = run(*create, "4")
    no_room = "Error: there is no room for 4 more: its plan allows 3 active keys\n"
    assert (refused.code, refused.out, refused.err) == (1, "", no_room)
    assert [path.name for path in tmp_path.iterdir()] == ["keyrush.toml"]
    run("accounts", "create", "acct_y")
    assert run(*create, "4").err == no_room
    assert [one["id"] for one in run("accounts", "list", "--json").json] == ["acct_y"]
    monkeypatch.setattr("keyrush.operations.keys.Keys.check_room", lambda *_: None)
    result = run(*create, "4")
    assert (result.code, len(result.out.splitlines())) == (1, 2)
    assert "Made 2 keys." in result.err
    assert result.err.endswith(
        "Error: there is no room for 2 more: its plan allows 3 active keys\n"
    )
    assert (run(*create, "2").code, run(*create, "0").code, run(*create, "x").code) == (1, 2, 2)


def test_create_with_everything(run: Runner) -> None:
    """R2 to R5: environment, scopes, expiry and limits of its own are kept."""
    made = key_id(
        run,
        *("--scope", "read:articles", "--scope", "read:entities", "--environment", "test"),
        *("--expires", "2099-01-31", "--limit", "60/minute;1000/hour", "--plan", "pro"),
    )
    shown = run("keys", "show", made, "--json").json
    assert shown["scopes"] == ["read:articles", "read:entities"]
    assert shown["environment"] == "test"
    assert shown["expires_at"] == "2099-01-31T00:00:00Z"
    assert shown["limits"] == "60/minute;1000/hour"
    assert run("accounts", "show", "acct_x", "--json").json["plan"] == "pro"


@pytest.mark.parametrize("expires", ["30d", "90d", "1y", "2099-01-31", "2099-01-31T12:00+02:00"])
def test_expiry_is_kept(run: Runner, expires: str) -> None:
    """R5: an expiry may be a duration, a date, or a time with a zone."""
    assert create(run, "--expires", expires)["expires_at"] is not None


def test_expiry_of_none(run: Runner) -> None:
    """R5: `--expires none` is valid until revoked."""
    assert create(run, "--expires", "none")["expires_at"] is None


# --- finding a key ---


@pytest.mark.parametrize("dots", ["", "...", "…"])
def test_show_by_what_people_have(run: Runner, monkeypatch: pytest.MonkeyPatch, dots: str) -> None:
    """A key is found by its id, by its whole text, also from standard input, and by its display
    prefix; S82: its text is in nothing that is printed.
    """
    text = run("keys", "create", "--account", "a", "--name", "n", "--json").json["key"]
    create(run, account="b")
    (wanted, _) = run("keys", "list", "--json").json
    prefix = wanted["prefix"].removesuffix("...") + dots
    for given in (wanted["id"], text, prefix, "-"):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{text}\n"))
        assert run("keys", "show", given, "--json").json == wanted
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        result = run("keys", "show", given)
        assert wanted["id"] in result.out
        assert text not in result.out + result.err
    run("keys", "revoke", wanted["id"])
    assert run("keys", "show", text, "--json").json["is_active"] is False


def test_keys_that_begin_alike(run: Runner, tmp_path: Path) -> None:
    """Several keys of one display prefix are listed, on whatever page they stand."""
    ids = [key_id(run, account=account) for account in ("a", "b", "c")]
    with closing(sqlite3.connect(tmp_path / "keyrush.db")) as database, database:
        database.execute("UPDATE keyrush_keys SET prefix = 'kr_live_abc123...'")
    create(run, account="d")
    assert [key["id"] for key in run("keys", "show", "kr_live_abc123", "--json").json] == ids
    shown = run("keys", "show", "kr_live_abc123...")
    assert [line.split()[0] for line in shown.out.splitlines()] == ["ID", *ids]


def test_key_on_the_last_page(run: Runner, tmp_path: Path) -> None:
    """A display prefix is looked for among all keys, page by page."""
    create(run)
    gate = Gate.open(Settings(store_url=f"sqlite:///{tmp_path}/keyrush.db"))
    gate.accounts.create("many")
    for _ in range(49):
        gate.keys.create("many", "n")
    gate.accounts.create("more")
    for _ in range(50):
        gate.keys.create("more", "n")
    gate.accounts.create("last")
    wanted = gate.keys.create("last", "n").key
    gate.close()
    assert run("keys", "show", wanted.prefix, "--json").json["id"] == wanted.id


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("kr_live_zQWBuT", "no such credential"),
        ("kr_live_", "no such credential"),
        ("kr_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17", "none was made with this text"),
        ("kr_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq18", "has a typing error"),
        ("kr_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq", "no such credential"),
        ("cred_é", "no such credential"),
        ("", "no such credential"),
    ],
)
def test_key_that_is_not_found(
    run: Runner, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    """What belongs to no key is exit code 1, and is not repeated."""
    create(run)
    for argument in (given, "-"):
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        result = run("keys", "show", argument)
        assert (result.code, result.out) == (1, "")
        assert said in result.err
        assert not given or given not in result.err


# --- what a new key says ---


def test_new_account_is_said_first(run: Runner) -> None:
    """That an account is new comes before all else, with its plan, once."""
    create_args = ("keys", "create", "--account", "acct_shop", "--name", "n")
    first, second = run(*create_args, "--plan", "pro").out, run(*create_args).out
    assert first.startswith("New account acct_shop on plan pro.\n")
    assert "New account" not in second
    beside = run("keys", "create", "--account", "acct_7", "--name", "n", "--json")
    assert beside.err.startswith("New account acct_7 on plan starter.\n")


@pytest.mark.parametrize(
    ("account", "meant"),
    [
        ("acct_shopp", "acct_shop"),
        ("acct_sohp", "acct_shop"),
        ("acct-shop", "acct_shop"),
        ("acct_42", None),
        ("acct_2", None),
        ("other", None),
    ],
)
def test_account_that_may_be_meant(run: Runner, account: str, meant: str | None) -> None:
    """A new account whose name is nearly another's is asked about; one of a series is not."""
    for existing in ("acct_shop", "acct_1", "acct_41"):
        run("accounts", "create", existing)
    lines = run("keys", "create", "--account", account, "--name", "n").out.splitlines()
    asked = [line for line in lines if line.startswith("Did you mean")]
    assert asked == ([f"Did you mean {meant}?"] if meant else [])
    assert not asked or lines.index(asked[0]) == 1


def test_full_access_is_said(run: Runner) -> None:
    """R4: that no scope is every scope is said, unless it was asked for."""
    common = ("keys", "create", "--account", "a", "--name", "n")
    said = "Full access: no --scope given.\n"
    assert said in run(*common).out
    assert said in run(*common, "--json").err
    for scope in ("*", "read"):
        result = run(*common, "--scope", scope)
        assert said not in result.out + result.err


# --- where ---


ISSUER = {"issuer": "https://i", "kind": "session", "audience": "api", "scopes": ["*"]}

NAMED = ("--issuer", "https://i", "--subject", "user-1")

WRITING = [
    ("accounts", "create", "acct_y"),
    ("accounts", "plan", "acct_x", "pro"),
    ("accounts", "limits", "acct_x", "1/minute"),
    ("accounts", "credits", "acct_x", "--grant", "1"),
    ("accounts", "link", "acct_x", *NAMED),
    ("accounts", "unlink", "acct_x", *NAMED),
    ("sessions", "revoke", "--subject", "user-1"),
    ("keys", "create", "--account", "acct_x", "--name", "n"),
    ("keys", "edit", "ID", "--name", "n"),
    ("keys", "limits", "ID", "1/minute"),
    ("keys", "rotate", "ID"),
    ("keys", "revoke", "ID"),
    ("dashboard", "link", "acct_x"),
]
READING = [
    ("accounts", "list"),
    ("accounts", "show", "acct_x"),
    ("accounts", "credits", "acct_x"),
    ("accounts", "ledger", "acct_x"),
    ("accounts", "check"),
    ("accounts", "activity", "acct_x"),
    ("keys", "list"),
    ("keys", "show", "ID"),
    ("dashboard", "sessions"),
]


def test_all_commands_read_or_write() -> None:
    """The two lists are of all commands that have to do with the store."""
    known = {command[:2] for command in WRITING + READING} | {("keys", "pattern")}
    assert {path for path, _ in _places() if len(path) == 2} == known


@pytest.mark.parametrize("command", WRITING + READING)
def test_writing_says_where(run: Runner, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Each command that writes says into which file, away from JSON; no other does."""
    made = key_id(run)
    run.env(KEYRUSH_ISSUERS=json.dumps([ISSUER]))
    assert run("accounts", "link", "acct_x", *NAMED).code == 0
    arguments = [made if word == "ID" else word for word in command]
    plain, json_ = run(*arguments), None
    if command[1] not in {"unlink", "rotate"} and command[:2] != ("accounts", "create"):  # once
        json_ = run(*arguments, "--json")
        assert isinstance(json_.json, dict | list)
    said = f"Written to {tmp_path}/keyrush.db\n"
    assert plain.code == 0
    assert plain.out.endswith(said) is (command in WRITING)
    assert json_ is None or json_.err.endswith(said) is (command in WRITING)


@pytest.mark.parametrize("json_", [(), ("--json",)])
@pytest.mark.parametrize(
    "command", [one for one in WRITING + READING if one[1] != "create"] + [("keys", "show", "-")]
)
def test_wrong_folder(
    run: Runner, tmp_path: Path, command: tuple[str, ...], json_: tuple[str, ...]
) -> None:
    """Where there is no store, only what creates makes one: else exit code 1, and its place."""
    result = run(*command, *json_)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: there is no store yet at {tmp_path}/keyrush.db; ")
    assert list(tmp_path.iterdir()) == []


def test_reading_makes_no_tables(run: Runner, tmp_path: Path, url: str) -> None:
    """A database without keyrush's tables is left as it is by a command that reads."""
    run.env(KEYRUSH_STORE_URL=url, KEYRUSH_PEPPER="p" * 32)
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(tmp_path / "keyrush.db")) as database:
            database.execute("CREATE TABLE notes (text)")
    result = run("keys", "list")
    assert (result.code, result.out) == (1, "")
    assert "there is no store yet at" in result.err
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    assert not [name for name in sa.inspect(engine).get_table_names() if "keyrush" in name]
    engine.dispose()
    run("accounts", "create", "acct_x")
    assert run("keys", "list").out == "No keys.\n"


def test_new_account_is_on_the_first_plan(run: Runner) -> None:
    """An account that does not exist is made on the first plan of the table."""
    create(run)
    assert run("accounts", "show", "acct_x", "--json").json["plan"] == "starter"


def test_existing_account_keeps_its_plan(run: Runner) -> None:
    """Another plan for an account that exists is refused, and the way to change it named."""
    create(run, "--plan", "pro")
    create(run, "--plan", "pro")
    create(run)
    result = run("keys", "create", "--account", "acct_x", "--name", "n", "--plan", "business")
    assert result.code == 1
    assert "keyrush accounts plan acct_x business" in result.err
    assert len(run("keys", "list", "--json").json) == 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--plan", "gold"), "plan: 'gold' is not in the table; use one of starter, pro, business"),
        (("--environment", "prod"), "environment: 'prod' is unknown; use one of live, test"),
        (("--scope", "read articles"), "scopes: 'read articles' is no scope"),
        (("--limit", "many"), "limits: 'many' is no limit"),
        (("--limit", "60/fortnight"), "limits: '60/fortnight' is no limit"),
        (("--expires", "2001-01-31"), "expires_at: 2001-01-31T00:00:00Z is in the past"),
        (("--expires", "soon"), "expires: 'soon' is no expiry"),
        (("--expires", "2099-01-31T12:00"), "expires: '2099-01-31T12:00' has no time zone"),
        (("--name", ""), "name: must have 1 to 120 characters, not 0"),
        (("--name", "a" * 121), "name: must have 1 to 120 characters, not 121"),
        (("--name", "<script>"), "name: must hold no < or >"),
        (("--account", "acct/x"), "account: 'acct/x' must be 1 to 64 letters"),
    ],
)
def test_wrong_arguments_of_create(
    run: Runner, tmp_path: Path, arguments: tuple[str, ...], error: str
) -> None:
    """What is wrong is named, with what is allowed; exit code 2, and nothing is left: no key, no
    account, and where there was no store yet, none.
    """
    result = run("keys", "create", "--account", "acct_x", "--name", "n", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"Error: {error}")
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    run("accounts", "create", "acct_y")
    assert run("keys", "create", "--account", "acct_x", "--name", "n", *arguments) == result
    assert [one["id"] for one in run("accounts", "list", "--json").json] == ["acct_y"]


def test_new_store_is_warned_of_once(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    """What a gate warns of is said once where a command makes a new store, too."""
    run.env(KEYRUSH_PREFLIGHT="pass")
    create(run)
    assert [one.levelname for one in caplog.records].count("WARNING") == 1


def test_unknown_scope(run: Runner) -> None:
    """Where scopes are configured, others are refused; wildcards that cover one are not."""
    run.env(KEYRUSH_SCOPES="read:articles,read:entities")
    create(run, "--scope", "read:*")
    result = run("keys", "create", "--account", "a", "--name", "n", "--scope", "read:weather")
    assert result.code == 2
    assert "'read:weather' is unknown; use *, read:articles, read:entities" in result.err


def test_limit_of_zero_is_not_no_limit(run: Runner) -> None:
    """A limit of 0 admits nothing and is kept; `unlimited` is another."""
    assert run("keys", "show", key_id(run, "--limit", "0/minute"), "--json").json["limits"] == (
        "0/minute"
    )
    assert run("keys", "show", key_id(run, "--limit", "unlimited"), "--json").json["limits"] == (
        "unlimited"
    )


def test_list(run: Runner) -> None:
    """O5: `keys list --json` is an array of `api_credential`, of one account or of all."""
    mine, other = create(run), create(run, account="acct_y")
    everything = run("keys", "list", "--json").json
    assert {item["id"] for item in everything} == {mine["id"], other["id"]}
    assert all(list(item) == CREDENTIAL + MORE for item in everything)
    assert run("keys", "list", "--account", "acct_y", "--json").json == [other]


def test_list_for_people(run: Runner) -> None:
    """Without --json keys are a table, or a sentence where there are none."""
    run("accounts", "create", "acct_x")
    assert run("keys", "list").out == "No keys.\n"
    made = key_id(run)
    run("keys", "revoke", key_id(run))
    table = run("keys", "list").out
    assert made in table
    assert "active" in table
    assert "revoked" in table


def test_names_are_text(run: Runner) -> None:
    """A name is printed as it is, never read as markup of the terminal's."""
    name = "[bold red]prod[/] :smile: [link=x]"
    run("keys", "create", "--account", "acct_x", "--name", name)
    assert name in run("keys", "list").out


def test_names_beyond_the_terminal(run: Runner, tmp_path: Path) -> None:
    """A name that standard output can't encode is escaped, not a crash."""
    run("keys", "create", "--account", "acct_x", "--name", "naïve ✓")
    result = run_process("keys", "list", folder=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert result.code == 0
    assert r"na\xefve \u2713" in result.out


@pytest.mark.parametrize("columns", ["20", "80"])
def test_narrow_output_is_not_cut(run: Runner, columns: str) -> None:
    """Ids and prefixes stand whole on one line, however narrow the terminal."""
    run.env(COLUMNS=columns)
    credential = create(run, account="a" * 64)
    lines = run("keys", "list").out.splitlines()
    assert any(str(credential["id"]) in line and "a" * 64 in line for line in lines)
    assert str(credential["prefix"]) in run("keys", "show", str(credential["id"])).out


def test_revoke(run: Runner) -> None:
    """O6: a revoked key is revoked for good, and revoking it again changes nothing."""
    made = key_id(run)
    assert run("keys", "revoke", made, "--json").json["is_active"] is False
    revoked_at = run("keys", "show", made, "--json").json["revoked_at"]
    assert f"{made} (kr_live_" in run("keys", "revoke", made).out
    assert run("keys", "show", made, "--json").json["revoked_at"] == revoked_at


def with_descendants(run: Runner, tmp_path: Path) -> list[str]:
    """The ids of a key, of one that it has made, and of one that this one has."""
    first = key_id(run)
    gate = Gate.open(Settings(store_url=f"sqlite:///{tmp_path}/keyrush.db"))
    ids = [first]
    for _ in range(2):
        ids.append(gate.keys.create("acct_x", "n", by=ids[-1]).key.id)
    gate.close()
    return ids


def test_revoke_with_descendants(run: Runner, tmp_path: Path) -> None:
    """O6: what a key has made goes along when that is asked for, and its number is told."""
    ids = with_descendants(run, tmp_path)
    assert run("keys", "show", ids[1], "--json").json["created_by"] == ids[0]
    assert "Made by      the operator" in run("keys", "show", ids[0]).out
    run("keys", "revoke", ids[0])
    active = {key["id"] for key in run("keys", "list", "--json").json if key["is_active"]}
    assert active == set(ids[1:])
    said = run("keys", "revoke", ids[0], "--with-descendants")
    assert said.code == 0
    assert said.out.startswith(f"{ids[0]} (kr_live_")
    assert "With it, 2 keys that it had made, directly or not.\n" in said.out
    assert not [key for key in run("keys", "list", "--json").json if key["is_active"]]


def test_revoke_with_descendants_json(run: Runner, tmp_path: Path) -> None:
    """O6: --json lists all that were revoked, the key itself first."""
    ids = with_descendants(run, tmp_path)
    revoked = run("keys", "revoke", ids[0], "--with-descendants", "--json").json
    assert revoked[0]["id"] == ids[0]
    assert {item["id"] for item in revoked} == set(ids)
    assert all(set(CREDENTIAL) <= set(item) and not item["is_active"] for item in revoked)
    again = run("keys", "revoke", ids[0], "--with-descendants", "--json").json
    assert again == revoked[:1]


def test_too_many_keys(run: Runner, tmp_path: Path) -> None:
    """The plan's number of keys is the most for the operator too: exit code 1, and the number."""
    (tmp_path / "keyrush.toml").write_text("[plans.two]\nmax_keys = 2\n")
    run.env(KEYRUSH_CONFIG="keyrush.toml")
    create(run)
    made = key_id(run)
    result = run("keys", "create", "--account", "acct_x", "--name", "n")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: the account has 2 active keys, as many as its plan allows\n"
    assert "2 of 2" in run("accounts", "show", "acct_x").out
    shown = run("accounts", "show", "acct_x", "--json").json
    assert (shown["active_keys"], shown["max_keys"]) == (2, 2)
    assert run("keys", "rotate", made).code == 0


def test_whose_quota(run: Runner, tmp_path: Path) -> None:
    """R12: what limits and the quota are counted of is told apart."""
    (tmp_path / "keyrush.toml").write_text(
        '[plans.team]\nlimits = "60/minute"\nmonthly_quota = 10\nquota_per = "account"\n'
    )
    run.env(KEYRUSH_CONFIG="keyrush.toml")
    create(run)
    shown = run("accounts", "show", "acct_x", "--json").json
    assert (shown["counted_per"], shown["quota_per"]) == ("key", "account")
    assert "usage" not in shown["keys"][0]
    people = run("accounts", "show", "acct_x").out
    assert "60/minute per key" in people
    assert "0 of 10 requests" in people


def followed(run: Runner, *command: str) -> tuple[list[str], int]:
    """The ids of all pages, each asked for as the one before says, and how many there were."""
    ids: list[str] = []
    for number in range(1, 20):
        result = run(*command, "--json")
        assert result.code == 0, result.err
        ids += [item["id"] for item in result.json]
        if not result.err:
            return ids, number
        found = re.fullmatch(r"There are more: keyrush (.+) --json\n", result.err)
        assert found, result.err
        command = tuple(shlex.split(found[1]))
    raise AssertionError("it does not end")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has 110 accounts and 109 keys, 49 of them those of acct_x."""
    folder = tmp_path_factory.mktemp("filled")
    gate = Gate.open(Settings(store_url=f"sqlite:///{folder}/keyrush.db", **CHEAP))
    gate.accounts.create("acct_x")
    for number in range(109):
        made = gate.accounts.create()
        gate.keys.create("acct_x" if number < 49 else made.id, "n")
    gate.close()
    return folder


@pytest.mark.parametrize(
    "command", [("keys", "list"), ("keys", "list", "--account", "acct_x"), ("accounts", "list")]
)
def test_pages(run: Runner, tmp_path: Path, filled: Path, command: tuple[str, ...]) -> None:
    """Lists come by pages; each says the command for the next, --all lists all."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    everything = [item["id"] for item in run(*command, "--all", "--json").json]
    total = 110 if command[0] == "accounts" else 49 if "--account" in command else 109
    assert len(everything) == len(set(everything)) == total
    assert followed(run, *command) == (everything, -(-total // 50))
    assert followed(run, *command, "--limit", "20") == (everything, -(-total // 20))
    first = run(*command, "--limit", "3").out.splitlines()
    assert len(first) == 5
    assert first[-1].startswith(f"There are more: keyrush {' '.join(command)} --limit 3 --cursor ")
    second = run(*shlex.split(first[-1].partition(": keyrush ")[2]), "--json").json
    assert [item["id"] for item in second] == everything[3:6]
    rest = run(*shlex.split(first[-1].partition(": keyrush ")[2]), "--all", "--json").json
    assert [item["id"] for item in rest] == everything[3:]
    assert "There are more" not in run(*command, "--all").out


@pytest.mark.parametrize("group", ["keys", "accounts"])
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--limit", "0"), "limit: must be a whole number from 1 to 100"),
        (("--limit", "101"), "limit: must be a whole number from 1 to 100"),
        (("--cursor", "x"), "cursor: is none that a list has given"),
        (("--cursor", "\udcff"), "cursor: is none that a list has given"),
    ],
)
def test_wrong_pages(run: Runner, group: str, arguments: tuple[str, ...], error: str) -> None:
    """A limit or a cursor that can't be is exit code 2."""
    create(run)
    result = run(group, "list", *arguments)
    assert (result.code, result.err) == (2, f"Error: {error}\n")


def test_account_with_many_keys(run: Runner, tmp_path: Path) -> None:
    """An account with more keys than a page holds is shown with the first, and how to go on."""
    (tmp_path / "keyrush.toml").write_text("[plans.wide]\nmax_keys = 90\n")
    run.env(KEYRUSH_CONFIG="keyrush.toml")
    gate = Gate.open(Settings(store_url=f"sqlite:///{tmp_path}/keyrush.db"))
    gate.accounts.create("acct_x")
    for _ in range(52):
        gate.keys.create("acct_x", "n")
    gate.close()
    shown = run("accounts", "show", "acct_x", "--json")
    assert len(shown.json["keys"]) == 50
    command = shown.err.partition(": keyrush ")[2]
    assert len(run(*shlex.split(command)).json) == 2
    assert "There are more: keyrush keys list" in run("accounts", "show", "acct_x").out


@pytest.mark.parametrize("word", ["\udcff", "a\udcffb", "a b", "\u202e", "x" * 10_000, "a\x07"])
def test_words_that_are_no_ids(run: Runner, word: str) -> None:
    """Whatever bytes are given where an id belongs, the answer is one line and exit code 1 or 2."""
    create(run)
    for command in (
        ("keys", "show", word),
        ("keys", "revoke", word),
        ("keys", "rotate", word),
        ("keys", "limits", word, "1/minute"),
        ("keys", "list", "--account", word),
        ("keys", "create", "--account", word, "--name", "n"),
        ("keys", "create", "--account", "acct_x", "--name", f"<{word}"),
        ("accounts", "create", word),
        ("accounts", "show", word),
        ("accounts", "plan", word, "pro"),
        ("accounts", "plan", "acct_x", word),
        ("accounts", "limits", word, "1/minute"),
        ("accounts", "limits", "acct_x", word),
        ("accounts", "credits", word, "--grant", "5"),
        ("accounts", "credits", "acct_x", "--grant", "5", "--reason", word),
        ("accounts", "ledger", word),
        ("accounts", "ledger", "acct_x", "--reason", word),
        ("accounts", "activity", word),
        ("accounts", "activity", "acct_x", "--source", word),
        ("accounts", "activity", word, "--follow"),
    ):
        result = run(*command)
        assert result.code in (1, 2), command
        assert result.err.count("\n") == 1, command
    assert len(run("keys", "list", "--json").json) == 1


def test_rotate(run: Runner) -> None:
    """R17: rotating gives a new key of the same name, and the old one an end."""
    old = create(run, "--scope", "read:articles")
    rotated = run("keys", "rotate", str(old["id"]), "--grace", "24h", "--json").json
    assert list(rotated) == ["key", "api_credential"]
    new = rotated["api_credential"]
    assert new["name"] == "production"
    assert new["expires_at"] is None
    assert new["id"] != old["id"]
    before = run("keys", "show", str(old["id"]), "--json").json
    assert before["is_active"] is True
    assert before["expires_at"] is not None


def test_rotate_for_people(run: Runner) -> None:
    """R17: rotating prints the new key and until when the old one works."""
    result = run("keys", "rotate", key_id(run), "--expires", "2099-01-31")
    assert re.search(r"kr_live_[0-9A-Za-z]{36}", result.out)
    assert re.search(r"The old key, kr_live_\w{6}\.\.\., works until \d{4}-", result.out)
    assert "2099-01-31 00:00" in result.out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--grace", "a while"), "grace: 'a while' is no duration"),
        (("--grace", "31d"), "grace: 2678400 is not from 0 to 2592000 seconds"),
        (("--expires", "2001-01-31"), "expires_at: 2001-01-31T00:00:00Z is in the past"),
    ],
)
def test_wrong_arguments_of_rotate(run: Runner, arguments: tuple[str, ...], error: str) -> None:
    """A wrong grace or expiry is named; exit code 2 and no new key."""
    result = run("keys", "rotate", key_id(run), *arguments)
    assert result.code == 2
    assert error in result.err
    assert len(run("keys", "list", "--json").json) == 1


def test_rotating_keeps_a_date(run: Runner) -> None:
    """R17: a replacement of a key that expires does too; `none` is refused, and changes nothing."""
    made = key_id(run, "--expires", "2099-01-31")
    result = run("keys", "rotate", made, "--expires", "none")
    assert (result.code, result.err.startswith("Error: expires: ")) == (2, True)
    kept = run("keys", "rotate", made, "--json").json["api_credential"]
    assert kept["expires_at"] == "2099-01-31T00:00:00Z"


def test_rotating_a_revoked_key(run: Runner) -> None:
    """A revoked key is not replaced: exit code 1."""
    made = key_id(run)
    run("keys", "revoke", made)
    result = run("keys", "rotate", made)
    assert (result.code, result.err) == (1, f"Error: {made} is revoked; create a new key\n")


def test_edit(run: Runner) -> None:
    """R3: the operator changes a key's name, scopes and end; what is not named stays."""
    made = key_id(run, "--expires", "2099-01-31")
    edited = run("keys", "edit", made, "--name", "other", "--scope", "read:a", "--json").json
    assert (edited["name"], edited["scopes"]) == ("other", ["read:a"])
    assert edited["expires_at"] == "2099-01-31T00:00:00Z"
    assert run("keys", "edit", made, "--expires", "none", "--json").json["expires_at"] is None
    assert "Name         other" in run("keys", "edit", made, "--expires", "30d").out


def test_wrong_edits(run: Runner) -> None:
    """An edit of nothing is no edit, and what has ended is not edited: exit code 2, and why."""
    made = key_id(run)
    for arguments, says in (
        ((), "give --name, --scope, --expires or --max-concurrent"),
        (("--name", "<b>"), "name: "),
        (("--expires", "2001-01-01"), "is in the past"),
    ):
        result = run("keys", "edit", made, *arguments)
        assert (result.code, says in result.err) == (2, True), result.err
    assert run("keys", "edit", "cred_none", "--name", "n").code == 1
    run("keys", "revoke", made)
    result = run("keys", "edit", made, "--name", "n")
    assert (result.code, result.err) == (2, "Error: credential: is revoked or expired\n")


def test_limits_of_a_key(run: Runner) -> None:
    """O13: a key may have limits of its own, and give them up again."""
    made = key_id(run)
    assert run("keys", "limits", made, "60/minute", "--json").json["limits"] == "60/minute"
    assert "60/minute" in run("keys", "show", made).out
    assert run("keys", "limits", made, "--inherit", "--json").json["limits"] is None


@pytest.mark.parametrize("group", ["keys", "accounts"])
@pytest.mark.parametrize("arguments", [(), ("60/minute", "--inherit")])
def test_limits_or_inherit(run: Runner, group: str, arguments: tuple[str, ...]) -> None:
    """Setting limits needs either limits or --inherit."""
    result = run(group, "limits", "any", *arguments)
    assert result.code == 2
    assert "either limits" in result.err


def test_limits_until(run: Runner) -> None:
    """O13: an account may have limits until a date; they are shown with it, and with those that
    hold then, wherever limits are; the next ones, or none, take their place.
    """
    run("accounts", "create", "acct_x")
    given = run(
        "accounts", "limits", "acct_x", "900/minute", "--until", "9000-01-01", "--json"
    ).json
    shown = {name: given[name] for name in ("limits", "limits_until", "permanent_limits")}
    assert shown == {
        "limits": "900/minute",
        "limits_until": "9000-01-01T00:00:00Z",
        "permanent_limits": None,
    }
    for command in (("show", "acct_x"), ("list",)):
        said = run("accounts", *command).out
        assert "900/minute until 9000-01-01 00:00, then as its plan" in said
    assert run("accounts", "show", "acct_x", "--json").json.items() >= shown.items()
    for until in ("9001-02-03T04:05:06.789+02:00", "2d"):
        given = run("accounts", "limits", "acct_x", "7/minute", "--until", until, "--json").json
        assert given["limits"] == "7/minute"
    given = run("accounts", "limits", "acct_x", "5/minute", "--json").json
    assert (given["limits"], given["limits_until"]) == ("5/minute", None)
    run("accounts", "limits", "acct_x", "900/minute", "--until", "9000-01-01")
    assert "then 5/minute" in run("accounts", "show", "acct_x").out
    given = run("accounts", "limits", "acct_x", "--inherit", "--json").json
    assert (given["limits"], given["limits_until"], given["permanent_limits"]) == (None,) * 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("1/minute", "--until", "2020-01-01"), "until: 2020-01-01T00:00:00Z is in the past"),
        (("1/minute", "--until", "0s"), "is in the past"),
        (("1/minute", "--until", "soon"), "until: 'soon' is no"),
        (("1/minute", "--until", "2090-01-01T00:00"), "until: '2090-01-01T00:00' has no time zone"),
        (("1/minute", "--until", "none"), "until: must be a time"),
        (("1/minute", "--until", ""), "until: must be a time"),
        (("--inherit", "--until", "9000-01-01"), "until: goes with limits"),
    ],
)
def test_wrong_until(run: Runner, arguments: tuple[str, ...], error: str) -> None:
    """An end that is past, or none, is named; exit code 2, and nothing is changed."""
    made = run("accounts", "create", "acct_x", "--json").json
    result = run("accounts", "limits", "acct_x", *arguments)
    assert result.code == 2
    assert error in result.err
    assert run("accounts", "list", "--json").json == [made]


def test_requests_at_once_of_a_key(run: Runner) -> None:
    """A key may have a number of requests at once of its own: when it is made, by an edit, and
    through a rotation, until it is given up.
    """
    made = key_id(run, "--max-concurrent", "5")
    assert run("keys", "show", made, "--json").json["max_concurrent"] == 5
    assert "Concurrent" in run("keys", "show", made).out
    assert run("keys", "edit", made, "--max-concurrent", "7", "--json").json["max_concurrent"] == 7
    rotated = run("keys", "rotate", made, "--json").json["api_credential"]
    assert rotated["max_concurrent"] == 7
    edited = run("keys", "edit", rotated["id"], "--max-concurrent", "none", "--json").json
    assert edited["max_concurrent"] is None
    assert [key["max_concurrent"] for key in run("keys", "list", "--json").json] == [7, None]


@pytest.mark.parametrize("number", ["0", "-1", "x", "", "1.5", "1000001", "NONE5"])
def test_wrong_requests_at_once(run: Runner, number: str) -> None:
    """A number of requests at once that can't be is exit code 2, and changes nothing."""
    made = key_id(run)
    for command in (
        ("keys", "create", "--account", "acct_x", "--name", "n"),
        ("keys", "edit", made),
    ):
        result = run(*command, f"--max-concurrent={number}")
        assert result.code == 2
        assert "concurrent" in result.err
    assert [key["max_concurrent"] for key in run("keys", "list", "--json").json] == [None]


@pytest.mark.parametrize("limits", ["fast", "60/minute;30/minute"])
@pytest.mark.parametrize("group", ["keys", "accounts"])
def test_malformed_limits(run: Runner, group: str, limits: str) -> None:
    """Malformed limits are named; exit code 2."""
    made = key_id(run)
    result = run(group, "limits", made if group == "keys" else "acct_x", limits)
    assert result.code == 2
    assert f"limits: {limits!r}" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "show", "cred_x"),
        ("keys", "revoke", "cred_x"),
        ("keys", "rotate", "cred_x"),
        ("keys", "limits", "cred_x", "1/minute"),
        ("keys", "list", "--account", "acct_y"),
        ("accounts", "show", "acct_y"),
        ("accounts", "plan", "acct_y", "pro"),
        ("accounts", "limits", "acct_y", "1/minute"),
        ("accounts", "credits", "acct_y"),
        ("accounts", "credits", "acct_y", "--grant", "5"),
        ("accounts", "ledger", "acct_y"),
        ("accounts", "activity", "acct_y"),
        ("accounts", "activity", "acct_y", "--follow"),
    ],
)
def test_unknown_ids(run: Runner, arguments: tuple[str, ...]) -> None:
    """An unknown credential or account is exit code 1 and one line."""
    run("accounts", "create", "acct_x")
    result = run(*arguments)
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(r"Error: no (such credential[:;].*|account 'acct_y')\n", result.err)


@pytest.mark.parametrize(
    "command",
    [
        "accounts show KEY",
        "keys create --account a --name n --expires KEY",
        "keys create --account a --name n --scope KEY --environment KEY",
        "keys list KEY",
        "keys KEY",
    ],
)
def test_keys_are_not_echoed(run: Runner, command: str) -> None:
    """O22, S82: a key given in the wrong place shows as its display prefix at most."""
    run("accounts", "create", "acct_x")
    minted = KeyFormat("kr", ("live", "test")).mint("live")
    result = run(*command.replace("KEY", minted.text.decode()).split())
    assert result.code in (1, 2)
    assert minted.text.decode() not in result.out + result.err
    assert minted.display in result.err or "must hold no API key" in result.err


def _places() -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command with the name of each of its arguments and options that take a value."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), built())]
    while waiting:
        path, command = waiting.pop()
        for name, inner in getattr(command, "commands", {}).items():
            waiting.append(((*path, name), inner))
        yield path, "nothing"  # one argument too many
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False):
                yield path, parameter.name


#: What the commands take.
_RIGHT = {
    "account": "acct_x",
    "account_id": "acct_x",
    "name": "n",
    "plan": "pro",
    "limits": "1/minute",
    "key_id": "cred_x",
}


@pytest.fixture(scope="module")
def one_account(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has the account acct_x."""
    folder = tmp_path_factory.mktemp("one")
    gate = Gate.open(Settings(store_url=f"sqlite:///{folder}/keyrush.db", **CHEAP))
    gate.accounts.create("acct_x")
    gate.close()
    return folder


@pytest.mark.parametrize(("path", "name"), list(_places()))
def test_keys_are_refused_wherever_they_are_given(
    run: Runner, tmp_path: Path, one_account: Path, path: tuple[str, ...], name: str
) -> None:
    """O22: no argument of any command takes a key; it is neither stored nor echoed."""
    shutil.copytree(one_account, tmp_path, dirs_exist_ok=True)
    command = built()
    for part in path:
        command = command.commands[part]
    minted = KeyFormat("kr", ("live", "test")).mint("live").text.decode()
    for hide in HIDINGS.values():
        hidden = hide(minted)
        arguments: list[str] = []
        for parameter in command.params:
            value = hidden if parameter.name == name else _RIGHT.get(str(parameter.name), "x")
            if parameter.param_type_name == "argument":
                arguments.append(value)
            elif parameter.required or parameter.name == name:
                arguments += [parameter.opts[0], value]
        if name == "nothing":
            arguments.append(hidden)
        result = run(*path, *arguments)
        assert result.code in (1, 2), result
        assert minted[-30:] not in unquote(unquote(result.out + result.err))
        for file in tmp_path.iterdir():
            assert hidden[-30:].encode() not in file.read_bytes()
    assert minted[-30:] not in run("keys", "list", "--json").out


def test_pattern(run: Runner) -> None:
    """The pattern for secret scanners finds a key in the middle of a text and nothing shorter."""
    run.env(KEYRUSH_KEY_PREFIX="or", KEYRUSH_KEY_ENVIRONMENTS="")
    key = run("keys", "create", "--account", "a", "--name", "n", "--json").json["key"]
    pattern = run("keys", "pattern").out.removesuffix("\n")
    assert re.findall(pattern, f"token={key};") == [key]
    assert not re.search(pattern, key[:-1])
    assert run("keys", "pattern", "--json").json == {"pattern": pattern}


# --- accounts ---


def test_create_account(run: Runner) -> None:
    """An account has the plan and limits that it was given, else the first plan and none."""
    made = run(
        "accounts", "create", "acct_x", "--plan", "pro", "--limit", "5/minute", "--json"
    ).json
    assert made | {"created_at": ""} == {
        "id": "acct_x",
        "plan": "pro",
        "limits": "5/minute",
        "limits_until": None,
        "permanent_limits": "5/minute",
        "balance": 0,
        "created_at": "",
    }
    unnamed = run("accounts", "create", "--json").json
    assert unnamed["id"].startswith("acct_")
    assert (unnamed["plan"], unnamed["limits"]) == ("starter", None)
    assert run("accounts", "list", "--json").json == [made, unnamed]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("acct_x",), 1, "account acct_x exists already"),
        (("acct x",), 2, "account: 'acct x' must be 1 to 64 letters"),
        (("acct_y", "--plan", "gold"), 2, "plan: 'gold' is not in the table"),
        (("acct_y", "--limit", "many"), 2, "limits: 'many' is no limit"),
    ],
)
def test_wrong_accounts(run: Runner, arguments: tuple[str, ...], code: int, error: str) -> None:
    """An account that exists is refused, wrong arguments are named."""
    run("accounts", "create", "acct_x")
    result = run("accounts", "create", *arguments)
    assert result.code == code
    assert result.err.startswith(f"Error: {error}")
    assert len(run("accounts", "list", "--json").json) == 1


def test_accounts_for_people(run: Runner, tmp_path: Path) -> None:
    """Accounts are a table, or a sentence where there are none; one that is refused makes no
    store.
    """
    assert run("accounts", "create", "acct_x", "--limit", "many").code == 2
    assert list(tmp_path.iterdir()) == []
    Gate.open(Settings()).close()
    assert run("accounts", "list").out == "No accounts.\n"
    assert "starter" in run("accounts", "create", "acct_x").out
    assert "acct_x" in run("accounts", "list").out


def test_show_account(run: Runner, tmp_path: Path) -> None:
    """An account is shown with plan, limits, balance, keys and this month's usage."""
    made = key_id(run)
    gate = Gate.open(Settings(store_url=f"sqlite:///{tmp_path}/keyrush.db"))
    month = gate.usage.this_month("acct_x").month
    counted = {f"key:{made}": 500_002, "account:acct_x": 600_000}
    gate.store.add_usage(month, counted)
    gate.close()
    shown = run("accounts", "show", "acct_x", "--json").json
    assert shown["plan_limits"] == "100/minute"
    assert shown["counted_per"] == "key"
    assert shown["usage"]["counted"] == 600_000
    [key] = shown["keys"]
    assert key["id"] == made
    assert (key["usage"]["counted"], key["usage"]["limit"]) == (500_002, 500_000)
    assert (key["usage"]["remaining"], key["usage"]["overage"]) == (0, 2)
    people = run("accounts", "show", "acct_x").out
    assert "100/minute per key" in people
    assert "600,000 requests" in people
    assert "500,002 of 500,000 (2 over)" in people


def test_show_account_counted_as_a_whole(run: Runner, tmp_path: Path) -> None:
    """O13: where a plan counts the account, its usage stands beside the quota."""
    (tmp_path / "keyrush.toml").write_text(
        '[plans.team]\nper = "account"\nlimits = "60/minute"\nmonthly_quota = 10\n'
    )
    run.env(KEYRUSH_CONFIG="keyrush.toml")
    create(run)
    assert "0 of 10 requests" in run("accounts", "show", "acct_x").out
    [key] = run("accounts", "show", "acct_x", "--json").json["keys"]
    assert "usage" not in key


def test_account_on_a_plan_that_left_the_table(run: Runner, tmp_path: Path) -> None:
    """An account whose plan is gone can still be looked at, and put on another."""
    create(run, "--plan", "pro")
    (tmp_path / "keyrush.toml").write_text('[plans.team]\nlimits = "60/minute"\n')
    run.env(KEYRUSH_CONFIG="keyrush.toml")
    assert "pro, which is not in the table" in run("accounts", "show", "acct_x").out
    assert run("accounts", "show", "acct_x", "--json").json["usage"] is None
    assert run("accounts", "plan", "acct_x", "team", "--json").json["plan"] == "team"


def test_plan_of_an_account(run: Runner) -> None:
    """An account is put on another plan; one that is not in the table is refused."""
    create(run)
    assert run("accounts", "plan", "acct_x", "pro", "--json").json["plan"] == "pro"
    result = run("accounts", "plan", "acct_x", "gold")
    assert (result.code, "'gold' is not in the table" in result.err) == (2, True)


def test_limits_of_an_account(run: Runner) -> None:
    """O13: an account may have limits of its own, and give them up again."""
    create(run)
    wanted = "60/minute;1000/hour"
    assert run("accounts", "limits", "acct_x", wanted, "--json").json["limits"] == wanted
    assert run("accounts", "limits", "acct_x", "--inherit", "--json").json["limits"] is None


def test_credits(run: Runner) -> None:
    """O3, O19: the balance is shown, and grows by what is granted."""
    create(run)
    assert run("accounts", "credits", "acct_x", "--json").json == {"balance": 0}
    granted = run("accounts", "credits", "acct_x", "--grant", "1000", "--json")
    assert granted.json == {"balance": 1000}
    assert run("accounts", "credits", "acct_x").out == "acct_x has 1,000 credits.\n"


@pytest.mark.parametrize("credits", ["0", "-5", "1000000001", "9" * 400])
def test_wrong_credits(run: Runner, credits: str) -> None:
    """A grant that is no positive number, or beyond any price, is refused."""
    create(run)
    result = run("accounts", "credits", "acct_x", "--grant", credits)
    assert result.code == 2
    assert result.err.startswith(f"Error: credits: {credits[:9]}")
    assert run("accounts", "credits", "acct_x", "--json").json == {"balance": 0}


# --- settings and stores ---


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("memory://", "nothing made here would reach your app"),
        ("sqlite://", "SQLite needs a file here"),
        ("sqlite:///:memory:", "SQLite needs a file here"),
        ("sqlite:///file:k.db?mode=memory&uri=true", "SQLite needs a file here"),
    ],
)
def test_store_in_memory(run: Runner, url: str, error: str) -> None:
    """Keys made in the memory of the command would be gone at once: exit code 2."""
    run.env(KEYRUSH_STORE_URL=url)
    result = run("keys", "create", "--account", "a", "--name", "n")
    assert result.code == 2
    assert error in result.err


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"KEYRUSH_CACHE_TTL": "long"}, "KEYRUSH_CACHE_TTL: 'long'"),
        ({"KEYRUSH_STORE_URL": "mysql://u:secret@host/x"}, "KEYRUSH_STORE_URL: 'mysql'"),
        ({"KEYRUSH_STORE_URL": "not a url"}, "KEYRUSH_STORE_URL: must be a URL"),
        ({"KEYRUSH_STORE_URL": "sqlite://keys.db"}, "KEYRUSH_STORE_URL: SQLite has neither hosts"),
        ({"KEYRUSH_STORE_URL": "://"}, "KEYRUSH_STORE_URL: not a database URL"),
        ({"KEYRUSH_CONFIG": "absent.toml"}, "KEYRUSH_CONFIG: can't read absent.toml"),
    ],
)
def test_wrong_settings(run: Runner, variables: dict[str, str], error: str) -> None:
    """A wrong setting is named, without its secrets; exit code 2."""
    run.env(**variables)
    result = run("keys", "list")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"Error: {error}")
    assert "secret" not in result.err
    assert ("three slashes, as in sqlite:///keyrush.db" in result.err) is ("SQLite" in error)


def test_several_wrong_settings(run: Runner) -> None:
    """Every wrong setting has a line of its own."""
    run.env(KEYRUSH_CACHE_TTL="long", KEYRUSH_HEADERS="none")
    lines = run("keys", "list").err.splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        "KEYRUSH_CACHE_TTL",
        "KEYRUSH_HEADERS",
    ]


def test_postgresql_needs_a_pepper(run: Runner, postgres_url: str) -> None:
    """A store that is not a file beside its pepper needs KEYRUSH_PEPPER: exit code 2."""
    run.env(KEYRUSH_STORE_URL=postgres_url)
    result = run("accounts", "create")
    assert result.code == 2
    assert result.err.startswith("Error: KEYRUSH_PEPPER: needed for this store")


def test_store_out_of_reach(run: Runner) -> None:
    """A database that can't be reached is exit code 3, on one line, without its password."""
    run.env(
        KEYRUSH_STORE_URL="postgresql://someone:geheim@127.0.0.1:1/keys", KEYRUSH_PEPPER="p" * 32
    )
    result = run("keys", "list")
    assert result.code == 3
    assert result.err.startswith("Error: KEYRUSH_STORE_URL: can't open postgresql")
    assert result.err.count("\n") == 1
    assert "geheim" not in result.err


def test_windows_are_left_alone(run: Runner, tmp_path: Path) -> None:
    """R17: a command counts nothing, so that windows of another user's are no obstacle to it."""
    windows = tmp_path / "keyrush.db-windows"
    windows.touch(mode=0o644)  # which the app would not take
    assert run("keys", "create", "--account", "acct_1", "--name", "ci").code == 0
    assert run("accounts", "show", "acct_1").code == 0
    assert windows.read_bytes() == b""


@pytest.mark.parametrize("path", ["absent/keys.db", "folder.db", "text.db"])
def test_unreadable_sqlite_path(run: Runner, tmp_path: Path, path: str) -> None:
    """A path that is no database, or in no folder, is exit code 3 and names the path."""
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "text.db").write_text("no database, but long enough to be taken for one" * 30)
    run.env(KEYRUSH_STORE_URL=f"sqlite:///{path}")
    for command in (("keys", "list"), ("accounts", "create")):
        result = run(*command)
        assert result.code == 3
        assert f"can't open sqlite:///{path}" in result.err


def test_newer_schema(run: Runner, tmp_path: Path) -> None:
    """A database of a newer keyrush is left alone: exit code 2, and what to do."""
    create(run)
    with sqlite3.connect(tmp_path / "keyrush.db") as database:
        database.execute("UPDATE keyrush_meta SET value = '99' WHERE name = 'schema'")
    database.close()
    result = run("keys", "list")
    assert result.code == 2
    assert "the database has schema 99" in result.err
    assert "upgrade keyrush" in result.err


def test_wrong_pepper(run: Runner) -> None:
    """A pepper that no key was made with is refused: exit code 2."""
    create(run)
    run.env(KEYRUSH_PEPPER="p" * 32)
    result = run("keys", "list")
    assert result.code == 2
    assert "restore the pepper they were made with" in result.err


def test_pepper_file_is_private(run: Runner, tmp_path: Path) -> None:
    """The pepper that is made beside the SQLite file is readable by its owner alone."""
    create(run)
    assert stat.S_IMODE((tmp_path / "keyrush.pepper").stat().st_mode) == 0o600


def test_store_that_stops_answering(run: Runner, tmp_path: Path) -> None:
    """A store that fails in the middle of a command is exit code 3."""
    create(run)
    with sqlite3.connect(tmp_path / "keyrush.db") as database:
        database.execute("DROP TABLE keyrush_usage")
    database.close()
    result = run("accounts", "show", "acct_x")
    said = "OperationalError from sqlite: SQLITE_ERROR no such table: keyrush_usage"
    assert (result.code, " ".join(result.err.split())) == (3, f"Error: {said}")


class Broken:
    """A store whose author has made a mistake."""

    def __getattr__(self, name: str) -> object:
        raise ZeroDivisionError(name)


def test_unforeseen_errors_are_raised(run: Runner) -> None:
    """What nobody has foreseen is a traceback, not a tidy message."""
    run.env(KEYRUSH_STORE_URL=f"{__name__}:Broken", KEYRUSH_PEPPER="p" * 32)
    with pytest.raises(ZeroDivisionError):
        run("keys", "list")


def test_interrupted(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command with exit code 130 and without a traceback."""
    run("accounts", "create")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Gate, "close", interrupt)
    assert run("keys", "list").code == 130


# --- in a process of its own ---


def test_as_scripts_use_it(tmp_path: Path) -> None:
    """Piped, the command prints bare JSON, and ends with the documented codes."""
    made = run_process(
        *("keys", "create", "--account", "acct_x", "--name", "ci", "--json"), folder=tmp_path
    )
    assert made.code == 0
    assert made.err == (
        "New account acct_x on plan starter.\nFull access: no --scope given.\n"
        f"Written to {tmp_path}/keyrush.db\n"
    )
    credential = json.loads(made.out)["api_credential"]
    listed = run_process("keys", "list", folder=tmp_path, env={"COLUMNS": "30"})
    assert credential["id"] in listed.out
    assert "\x1b" not in listed.out
    assert run_process("keys", "revoke", "cred_unknown", folder=tmp_path).code == 1
    assert run_process("keys", "revoke", folder=tmp_path).code == 2
    nowhere = {"KEYRUSH_STORE_URL": "sqlite:///absent/keys.db"}
    assert run_process("keys", "list", folder=tmp_path, env=nowhere).code == 3
