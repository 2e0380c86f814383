"""What is shown of URLs: hosts and databases, and never a piece of a password (O22)."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as runs
from hypothesis import strategies as st

from keyrush import ConfigurationError, Gate
from keyrush.core.urls import is_plain, is_quotable, readable
from keyrush.errors import Unreachable
from tests.conftest import settings
from tests.support.running import Runner

#: Where passwords stand in URLs of a store, rightly or not.
STORES = [
    "postgresql://user:{}@127.0.0.1:1/keys",
    "postgresql://user:{}@127.0.0.1:1",
    "postgresql+psycopg://{}@127.0.0.1:1/keys",
    "postgres://user:{}@/keys?host=/nowhere",
    "postgresql://127.0.0.1:1/keys?user=me&password={}",
    "postgresql://127.0.0.1:1/keys?password={}&connect_timeout=1",
    "postgresql://user:{}@127.0.0.1:1,127.0.0.1:2/keys",
    "postgresql:user:{}@127.0.0.1/keys",
    "postgresql:{}",
    "sqlite://user:{}@/keys.db",
    "sqlite://{}@host/keys.db",
    "sqlite:///absent/keys.db?key={}",
    "sqlite:///keys.db?timeout={}",
    "mysql://user:{}@127.0.0.1/keys",
    "memory://user:{}@host",
    "my.own:{}",
]

#: The same for windows.
LIMITERS = [
    "redis://:{}@127.0.0.1:1/0",
    "redis://user:{}@127.0.0.1:1",
    "redis://{}@127.0.0.1:1",
    "rediss://user:{}@127.0.0.1:1/0",
    "redis://127.0.0.1:1?password={}",
    "redis+unix://user:{}@/nowhere/redis.sock",
    "unix:///nowhere/redis.sock?password={}",
    "redis+sentinel://:{}@127.0.0.1:1,127.0.0.1:2/service",
    "redis+sentinel://127.0.0.1:1/service?sentinel_password={}",
    "redis+cluster://:{}@127.0.0.1:1,127.0.0.1:2",
    "valkey://:{}@127.0.0.1:1",
    "limits+redis://:{}@127.0.0.1:1",
    "limits+redis+sentinel://:{}@127.0.0.1:1/service",
    "limits+valkey://user:{}@127.0.0.1:1",
    "memcached://user:{}@127.0.0.1:1",
    "mongodb://user:{}@127.0.0.1:1/keys",
    "nosuch://user:{}@127.0.0.1:1",
    "redis:{}",
    "package.module:{}",
]

#: Passwords of letters that no message has in a row, and of all that ends a part of a URL.
PASSWORDS = st.text(
    st.one_of(st.sampled_from("@/:?#%&=+;,[]\\ '\"\n\t\x00é\u2028"), st.sampled_from("QXZJVKW79")),
    min_size=4,
    max_size=24,
)
NASTY = [
    "QXZJ@VKWQ",
    "@QXZJVKW@",
    "QX/ZJVKW",
    "1234/QXZJ",
    "QXZJ#VKWQ",
    "QXZJ?VKWQ",
    "1234?QXZJ=VKWQ",
    "QXZJ:VKWQ@VKWQ:1234/QXZJ",
    "%QXZJ%VK%00W",
    "QXZJ%40VKWQ/JVKW",
    "QXZJ&VKWQ=JVKW",
    "QXZJ&timeout=VKWQ&connect_timeout=JVKW",
    "[QXZJ]VKWQ",
    "QXZJ,VKWQ:1234",
    "QXZJ://VKWQ@JVKW",
    "QXZJ_VKWQ",
    "\\QXZJ\nVKWQ JVKW",
]


def with_nasty(test: Any) -> Any:
    """The test with each of the passwords above as an example, too."""
    for password in NASTY:
        test = example(password)(test)
    return test


def shown_of(password: str, said: str, otherwise: str) -> set[str]:
    """The pieces of the password that are in what is said, and not in it with another password."""
    pieces = {password[start : start + 4] for start in range(len(password) - 3)}
    pieces = {piece for piece in pieces if not piece.islower()}  # as names of options are
    pieces |= {json.dumps(piece)[1:-1] for piece in pieces} | {
        repr(piece)[1:-1] for piece in pieces
    }
    return {piece for piece in pieces if piece in said and piece not in otherwise}


def opening(values: dict[str, Any], caplog: pytest.LogCaptureFixture) -> str:
    """What is said and logged, in all that hangs on the error, when a gate can't be opened."""
    caplog.clear()
    said = ""
    try:
        chosen = settings(**values)
        said += repr(chosen)
        gate = Gate.open(chosen)
    except ConfigurationError as error:
        said += "".join(traceback.format_exception(error)) + repr(error.args)
    else:
        said += repr(gate.limiter) + repr(gate.health())
        gate.close()
    # What a frame's line of source says is the program's, not the URL's.
    return said + caplog.text


GENERATED = runs(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("form", STORES)
def test_opening_a_store_shows_no_password(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """O22: no error at start-up, nor its causes or the log, has a piece of the password."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG, "keyrush")

    def said(password: str) -> str:
        values = {"store_url": form.format(password), "pepper": "p" * 32}
        return opening(values, caplog)

    otherwise = said("hunter2")

    @with_nasty
    @GENERATED
    @given(PASSWORDS)
    def property_(password: str) -> None:
        assert not shown_of(password, said(password), otherwise)

    property_()


@pytest.mark.parametrize("form", LIMITERS)
def test_opening_a_limiter_shows_no_password(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """O22: the same where windows are counted."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG, "keyrush")

    def said(password: str) -> str:
        return opening({"limiter_url": form.format(password)}, caplog)

    otherwise = said("hunter2")

    @with_nasty
    @GENERATED
    @given(PASSWORDS)
    def property_(password: str) -> None:
        assert not shown_of(password, said(password), otherwise)

    property_()


def without_server(run: Runner, variable: str, form: str) -> Callable[[str, tuple[str, ...]], str]:
    """What a command prints when the password in the URL is so."""

    def said(password: str, command: tuple[str, ...]) -> str:
        run.env(**{variable: form.format(password).replace("\x00", "%00")})
        result = run(*command)
        return result.out + result.err

    return said


@pytest.mark.parametrize(
    ("variable", "form"),
    [
        *(("KEYRUSH_STORE_URL", form) for form in STORES),
        *(("KEYRUSH_LIMITER_URL", form) for form in LIMITERS),
    ],
)
def test_no_command_shows_a_password(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    variable: str,
    form: str,
) -> None:
    """O22: neither `doctor`, for people or programs, nor a command has a piece of the password."""
    run = Runner(monkeypatch, capsys, tmp_path)
    run.env(KEYRUSH_PEPPER="p" * 32)
    said = without_server(run, variable, form)
    commands = [("doctor",), ("doctor", "--json"), ("keys", "list")]
    otherwise = "".join(said("hunter2", command) for command in commands)
    # Each of them with two of the passwords: others for each form.
    first = (STORES + LIMITERS).index(form)
    for number in range(6):
        password = NASTY[(first + 3 * number) % len(NASTY)]
        command = commands[number % len(commands)]
        assert not shown_of(password, said(password, command), otherwise), command


@with_nasty
@runs(max_examples=300, deadline=None, derandomize=True)
@given(PASSWORDS)
def test_readable_shows_no_password(password: str) -> None:
    """O22: what decides on what is shown lets no piece of a password pass, wherever it stands."""
    for form in STORES + LIMITERS:
        assert not shown_of(password, readable(form.format(password)), readable(form.format("pw")))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///keyrush.db", "sqlite:///keyrush.db"),
        ("sqlite:////srv/my app/keys#1.db", "sqlite:////srv/my app/keys#1.db"),
        ("sqlite:///C:\\keys\\keyrush.db", "sqlite:///C:\\keys\\keyrush.db"),
        ("sqlite:///file:keyrush.db?mode=rw&uri=true", "sqlite:///file:keyrush.db?…"),
        ("sqlite:////srv/a@b/keys.db", "sqlite://…"),
        ("postgresql://host/keys", "postgresql://host/keys"),
        ("postgresql://me:p%40ss@my_db:5432/keys", "postgresql://***@my_db:5432/keys"),
        ("postgresql://me:p^|<ss@host/keys", "postgresql://***@host/keys"),
        ("postgresql+psycopg://me@/keys?host=/run", "postgresql+psycopg://***@/keys?…"),
        ("postgresql://me:p@ss@host/keys", "postgresql://…"),
        ("redis://:pw@[::1]:6379/0", "redis://***@[::1]:6379/0"),
        ("redis+sentinel://:pw@a:1,b:2/main", "redis+sentinel://***@a:1,b:2/main"),
        ("redis+unix:///run/redis.sock?db=1", "redis+unix:///run/redis.sock?…"),
        ("mongodb://me:pw@a:1,b:2/keys", "mongodb://***@a:1,b:2/keys"),
        ("memcached://a:1,b:2", "memcached://a:1,b:2"),
        ("memory://", "memory://"),
        ("store", "store"),
        (f"{__name__}:readable", f"{__name__}:readable"),
        ("absent.module:Store", "absent.module:…"),
        ("redis:pw", "redis:…"),
        ("postgresql:/me:pw@host/keys", "…"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    """Hosts, ports and databases are shown where the URL leaves no doubt, else the scheme."""
    assert readable(url) == shown


@pytest.mark.parametrize(
    ("url", "plain", "quotable"),
    [
        ("postgresql://me:pw@host/keys?sslmode=require&host=/run", True, True),
        ("postgresql://me:pw@host/keys?password=pw", True, False),
        ("postgresql://me:pw@host/keys?p%61ssword=pw", True, False),
        ("postgresql://me:p@ss@host/keys", False, False),
        ("postgresql://me:p/ss@host/keys", False, False),
        ("postgresql://me:p\nss@host/keys", False, False),
    ],
)
def test_what_drivers_may_say(url: str, plain: bool, quotable: bool) -> None:
    """A driver's words are repeated where no option can hold a secret."""
    assert (is_plain(url), is_quotable(url)) == (plain, quotable)


def test_causes_of_a_store_that_is_away() -> None:
    """Where the URL is harmless, an error says the driver's reason, and has its error as cause."""
    url = "postgresql://me:pw@127.0.0.1:1/keys?connect_timeout=1"
    with pytest.raises(Unreachable, match="refused") as raised:
        Gate.open(settings(store_url=url, pepper="p" * 32))
    assert raised.value.__cause__ is not None
    assert "can't open postgresql://***@127.0.0.1:1/keys?…: " in str(raised.value)
    with pytest.raises(Unreachable, match="OperationalError, which may quote a secret") as raised:
        Gate.open(settings(store_url=f"{url}&password=pw", pepper="p" * 32))
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ("timeout=soon", "an option that its driver does not take"),
        ("colour=red", "options for SQLite are cache, "),
        ("uri=true&colour=red", "options for SQLite are cache, "),
    ],
)
def test_unknown_options(tmp_path: Path, options: str, match: str) -> None:
    """An option that SQLite does not take is a setting that is wrong, and is not shown."""
    with pytest.raises(ConfigurationError, match=match) as raised:
        Gate.open(settings(store_url=f"sqlite:///{tmp_path}/k.db?{options}"))
    assert not {"soon", "colour", "red"} & set(re.findall(r"\w+", str(raised.value)))
    assert not list(tmp_path.iterdir())
