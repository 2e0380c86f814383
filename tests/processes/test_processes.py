"""Whole servers in processes of their own: start, stop by signals, restart, WebSockets."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from keyrush import Gate
from tests.conftest import settings
from tests.support.serving import serve_process

APP = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from keyrush import KeyrushMiddleware

async def hello(request):
    return PlainTextResponse(request.user.name)

async def chat(websocket):
    await websocket.accept()
    await websocket.send_text(websocket.user.name)
    await websocket.close()

app = Starlette(routes=[Route("/", hello), WebSocketRoute("/ws", chat)])
app.add_middleware(KeyrushMiddleware)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an app that is configured by the environment alone."""
    (tmp_path / "served.py").write_text(APP)
    return tmp_path


def make_key(folder: Path, name: str = "first") -> str:
    """A key in the folder's database, made by another process's gate."""
    gate = Gate.open(settings(store_url=f"sqlite:///{folder}/keyrush.db"))
    if not gate.accounts.list():
        gate.accounts.create("acct_a")
    made = gate.keys.create("acct_a", name)
    gate.close()
    return made.text


def counted(folder: Path) -> int:
    """What the table says of the account, this month."""
    with sqlite3.connect(folder / "keyrush.db") as database:
        (found,) = database.execute(
            "SELECT counted FROM keyrush_usage WHERE subject = 'account:acct_a'"
        ).fetchone() or (0,)
    database.close()
    return int(found)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_counts_survive_a_normal_stop(folder: Path, stop: signal.Signals) -> None:
    """R12: counts are written when the server is stopped, and are there after the restart."""
    key = make_key(folder)
    for run in (1, 2):
        with serve_process("served:app", folder=folder, stop=stop) as server:
            for _ in range(5):
                reply = httpx2.get(server.url, headers={"X-API-Key": key})
                assert reply.status_code == 200
        assert int(reply.headers["x-ratelimit-monthly-remaining"]) == 500_000 - 5 * run
        assert counted(folder) == 5 * run


def test_wrong_setting_stops_the_server(folder: Path) -> None:
    """A server with a wrong setting does not start, and says which setting it is."""
    with (
        pytest.raises(RuntimeError, match="KEYRUSH_CACHE_TTL: '-1'"),
        serve_process("served:app", folder=folder, env={"KEYRUSH_CACHE_TTL": "-1"}),
    ):
        pass


def test_key_made_elsewhere_works_at_once(folder: Path) -> None:
    """R3: a key made by another process needs no restart; the pepper file has mode 0600."""
    make_key(folder)
    with serve_process("served:app", folder=folder) as server:
        key = make_key(folder, "second")
        assert httpx2.get(server.url, headers={"Authorization": f"Bearer {key}"}).text == "second"
    assert (folder / "keyrush.pepper").stat().st_mode & 0o777 == 0o600


def test_websocket_over_a_socket(folder: Path) -> None:
    """S70: a refused handshake is a real 401; one that passes carries the rate-limit fields."""
    key = make_key(folder)
    with serve_process("served:app", "--ws", "websockets-sansio", folder=folder) as server:
        url = server.url.replace("http://", "ws://") + "/ws"
        with pytest.raises(InvalidStatus) as refused:
            connect(url)
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["WWW-Authenticate"] == 'Bearer realm="api"'
        with connect(url, additional_headers={"X-API-Key": key}) as socket:
            assert socket.recv() == "first"
            assert socket.response is not None
            assert socket.response.headers["X-RateLimit-Remaining"] == "99"


def test_no_key_in_the_log(folder: Path) -> None:
    """O22, S9: neither keys that are good nor keys that are refused reach the log."""
    key = make_key(folder)
    stranger = key[:-1] + ("0" if key[-1] != "0" else "1")
    with serve_process("served:app", "--log-level", "trace", folder=folder) as server:
        for text in (key, stranger):
            httpx2.get(server.url, headers={"X-API-Key": text})
    log = "".join(server.lines)
    assert key[10:] not in log
    assert stranger[10:] not in log
