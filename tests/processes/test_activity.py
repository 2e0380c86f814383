"""Activity of whole servers: it agrees with the monthly counts, whatever ends their processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx2
import pytest

from keyrush import Gate
from keyrush.core.activity import Activity
from keyrush.core.identity import account_subject
from keyrush.core.times import month_of
from tests.conftest import settings
from tests.support.serving import serve_process

APP = """
from keyrush import KeyrushMiddleware

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await scope["keyrush"].charge_async(2)
    status = 500 if scope["path"] == "/fails" else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})

app = KeyrushMiddleware(app)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an app that is configured by the environment alone."""
    (tmp_path / "served.py").write_text(APP)
    return tmp_path


def opened(folder: Path) -> Gate:
    """A gate of another process over the same database."""
    return Gate.open(settings(store_url=f"sqlite:///{folder}/keyrush.db"))


def kept(folder: Path) -> tuple[list[Activity], int, int]:
    """The rows of the account, its monthly count, and what it has spent."""
    gate = opened(folder)
    rows: list[Activity] = []
    page = gate.activity.page("acct_a", limit=100)
    rows += page.items
    while page.cursor is not None:
        page = gate.activity.page("acct_a", limit=100, cursor=page.cursor)
        rows += page.items
    counted = gate.store.usage(account_subject("acct_a"), month_of(gate.clock()))
    spent = 1000 - gate.credits.balance("acct_a")
    gate.close()
    return rows, counted, spent


def test_kills_and_stops(folder: Path) -> None:
    """O20: after a normal stop rows, counts and credits agree; a kill loses one flush at most."""
    gate = opened(folder)
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 1000)
    headers = {"X-API-Key": gate.keys.create("acct_a", "a").text, "User-Agent": "tests"}
    gate.close()
    paths = ["/a", "/fails", "/b"]
    with serve_process("served:app", folder=folder) as server:
        for path in paths * 4:
            httpx2.get(server.url + path, headers=headers)
    rows, counted, spent = kept(folder)
    assert (len(rows), counted, spent) == (12, 12, sum(row.credits for row in rows))
    assert [row.outcome for row in rows].count("error") == 4

    with serve_process("served:app", folder=folder) as server:
        httpx2.get(f"{server.url}/a", headers=headers)
        while len(kept(folder)[0]) < 13 or kept(folder)[1] < 13:
            assert server.process.poll() is None
        for path in paths:
            httpx2.get(server.url + path, headers=headers)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
    rows, counted, _ = kept(folder)
    assert 13 <= len(rows) <= 16
    assert 13 <= counted <= 16

    before = len(rows), counted
    with serve_process("served:app", folder=folder) as server:
        for path in paths:
            httpx2.get(server.url + path, headers=headers)
    rows, counted, _ = kept(folder)
    assert (len(rows), counted) == (before[0] + 3, before[1] + 3)
    assert len({row.id for row in rows}) == len(rows)
