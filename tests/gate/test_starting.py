"""The line that a gate says of itself as it starts: in whose log, and what of the settings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keyrush import ConfigurationError, Gate, Settings
from keyrush.core.sliding import UNLIMITED, Tally, Window
from keyrush.limiter.memory import MemoryLimiter
from keyrush.store.memory import MemoryStore
from tests.conftest import settings
from tests.support.running import CHEAP_ENVIRONMENT, run_process
from tests.support.serving import serve_gunicorn, serve_process

FILE = """
[plans.team]
limits = "5/minute"
[[rules]]
path = "/a/{id}"
"""

ASGI = """
from keyrush import KeyrushMiddleware
from starlette.applications import Starlette

app = Starlette()
app.add_middleware(KeyrushMiddleware)
"""

WSGI = """
from keyrush.wsgi import KeyrushMiddleware

def bare(environ, start_response):
    start_response("200 OK", [])
    return []

app = KeyrushMiddleware(bare)
"""


@pytest.mark.parametrize(
    ("serve", "code"),
    [(serve_process, ASGI), (serve_gunicorn, WSGI)],
    ids=["uvicorn", "gunicorn"],
)
def test_said_under_the_defaults_of_servers(tmp_path: Path, serve: Any, code: str) -> None:
    """Under a server's own logging, one line says store, limiter, plans, rules, public paths, and
    the file that was found in the working folder.
    """
    (tmp_path / "app.py").write_text(code)
    (tmp_path / "keyrush.toml").write_text(FILE)
    with serve("app:app", folder=tmp_path, env=CHEAP_ENVIRONMENT) as server:
        pass
    (line,) = (line for line in server.lines if "keyrush: store" in line)
    assert "INFO" in line
    assert line.partition("keyrush: ")[2] == (
        f"store {tmp_path}/keyrush.db; limits beside the store; plans team; rules /a/{{id}}; "
        f"public paths /health; settings from {tmp_path}/keyrush.toml\n"
    )


def test_said_once_without_lifespan(tmp_path: Path) -> None:
    """Where the middleware is made by the first request, that one says the line, under uvicorn's
    own logging, and no other does.
    """
    (tmp_path / "app.py").write_text(ASGI)
    more = ("--lifespan", "off")
    with serve_process("app:app", *more, folder=tmp_path, env=CHEAP_ENVIRONMENT) as server:
        assert not any("keyrush: store" in line for line in server.lines)
        assert [httpx2.get(server.url).status_code for _ in range(3)] == [401] * 3
    (line,) = (line for line in server.lines if "keyrush: store" in line)
    assert line.startswith("INFO: ")


def test_keyrush_has_the_last_word(caplog: pytest.LogCaptureFixture) -> None:
    """Where the logging of `keyrush` is configured, the line goes there, at INFO."""
    caplog.set_level(logging.INFO, "keyrush")
    Gate.open(settings()).close()
    (record,) = (one for one in caplog.records if "keyrush: store" in one.getMessage())
    assert (record.name, record.levelname) == ("keyrush", "INFO")
    assert record.getMessage() == (
        "keyrush: store memory://; limits in each process by itself; "
        "plans starter, pro, business; rules none; public paths /health; settings from no file"
    )


def test_configured_loggers_are_obeyed(caplog: pytest.LogCaptureFixture) -> None:
    """Where INFO is not wanted of `keyrush`, the line goes nowhere else."""
    caplog.set_level(logging.WARNING, "keyrush")
    caplog.set_level(logging.INFO, "uvicorn.error")
    Gate.open(settings()).close()
    assert "keyrush: store" not in caplog.text


def test_own_classes_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """A store and a limiter of one's own are said by their classes."""
    caplog.set_level(logging.INFO, "keyrush")
    Gate.open(settings(pepper="p" * 32), store=MemoryStore(), limiter=MemoryLimiter()).close()
    assert "keyrush: store MemoryStore; limits by MemoryLimiter; " in caplog.text


class OwnInMemory(MemoryLimiter):
    """A whole limiter of a user's own, in each process."""


class OwnTogether:
    """All that a user writes; nothing says that it is in this process alone."""

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        return UNLIMITED

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        """Nothing was taken."""

    def close(self) -> None:
        """Nothing to let go of."""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("OwnInMemory", "in each process by itself"),
        ("OwnTogether", f"in {__name__}:OwnTogether"),
    ],
)
def test_own_limiter_by_name(caplog: pytest.LogCaptureFixture, name: str, said: str) -> None:
    """Of a limiter of one's own that the settings name it is said whether each process counts by
    itself; leased or exact are windows of a ledger alone.
    """
    caplog.set_level(logging.INFO, "keyrush")
    Gate.open(settings(limiter_url=f"{__name__}:{name}")).close()
    assert f"; limits {said}; " in caplog.text


def test_secrets_are_not_said(caplog: pytest.LogCaptureFixture, valkey_url: str) -> None:
    """O22: of URLs only what may be shown is said, and nothing begins a line of its own."""
    caplog.set_level(logging.INFO, "keyrush")
    host = valkey_url.partition("://")[2]
    url = f"redis://default:geheim@{host}"
    plans: dict[str, Any] = {f"plan{number}": {} for number in range(12)}
    values = {"limiter_url": url, "pepper": "p" * 32, "plans": plans}
    Gate.open(settings(**values, public_paths=["/x\u2028y"])).close()
    assert "geheim" not in caplog.text
    assert "p" * 32 not in caplog.text
    assert "plan7 and 4 more" in caplog.text
    assert r"/x\u2028y" in caplog.text


def test_commands_do_not_say_it(tmp_path: Path) -> None:
    """A command prints what it was asked for, and no log."""
    result = run_process("accounts", "create", "acct_x", "--json", folder=tmp_path)
    assert "keyrush: store" not in result.out + result.err


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"settings": "memory://"}, "settings: must be Settings, .* not str"),
        ({"settings": {}}, "settings: must be Settings, .* not dict"),
        ({"store": "memory://"}, "store: str is no store"),
        ({"store": MemoryStore}, "store: must be a store, not the class MemoryStore"),
        ({"limiter": MemoryLimiter}, "limiter: must be a limiter, not the class MemoryLimiter"),
        ({"limiter": object()}, "limiter: object is no limiter; it lacks take, give_back, close"),
    ],
)
def test_gates_of_the_wrong_things(given: dict[str, Any], error: str) -> None:
    """What can't be part of a gate is refused when it is opened, not by the first request."""
    with pytest.raises(ConfigurationError, match=error):
        Gate.open(given.pop("settings", Settings(store_url="memory://")), **given)


def test_middleware_with_settings_for_a_gate() -> None:
    """What is no gate is refused when the middleware is made."""
    given: Any = Settings(store_url="memory://")
    with pytest.raises(ConfigurationError, match=r"gate: must be a Gate, .* not Settings"):
        Gate.chosen(None, given)


def test_module_of_no_plan(caplog: pytest.LogCaptureFixture) -> None:
    """A rule that asks for a module that no plan has is warned of, since it refuses everybody."""
    Gate.open(settings(rules=[{"path": "/a", "modules": ["insights"]}])).close()
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    said = "rules.0.modules: no plan has insights, so every caller is refused at /a"
    assert warned == [f"{said}; modules of plans are none"]
