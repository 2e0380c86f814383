"""mcp 1.12, which speaks revision 2025-06-18 alone, as server and as client, over sockets.

It does not go together with the newer one, so it has an environment of its own, which `make test`
makes; where there is none, these are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate, KeyrushMiddleware
from tests.conftest import CHEAP, settings
from tests.support.mcp_server import RULES, mcp_server
from tests.support.resources import RESOURCE
from tests.support.serving import serve, serve_process

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-mcp-1.12" / "bin" / "python"
SCRIPT = Path(__file__).parents[1] / "support" / "mcp_1_12.py"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="mcp 1.12 is missing: make test")


def talk(url: str, key: str) -> Any:
    """What the old client finds."""
    ran = subprocess.run(  # noqa: S603  # the command is the test's own
        [str(PYTHON), "-P", str(SCRIPT), url, key],
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


FOUND = {
    "revision": "2025-06-18",
    "audited": "audited a.b",
    "failed": True,
    "session": True,
    "refused": 402,
}


def gate_of(**values: Any) -> Gate:
    """A gate with an account that can pay for five audits."""
    gate = Gate.open(settings(resources=[RESOURCE], rules=RULES, **values))
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 50)
    return gate


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_old_client(http: str) -> None:
    """S83, S84, O11: a client of 2025 pays what its calls cost, until it can't."""
    gate = gate_of()
    key = gate.keys.create("acct_a", "k").text
    with serve(KeyrushMiddleware(mcp_server(), gate=gate), http=http) as url:
        found = talk(url, key)
    assert {name: found[name] for name in FOUND} == FOUND
    assert gate.credits.balance("acct_a") == 0
    gate.close()


def test_old_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S60, S84, O11: a server of 2025, with its sessions, is behind the gate as a new one is."""
    store = f"sqlite:///{tmp_path}/keyrush.db"
    gate = gate_of(store_url=store)
    key = gate.keys.create("acct_a", "k").text
    env = {
        "KEYRUSH_STORE_URL": store,
        "KEYRUSH_RESOURCES": json.dumps([RESOURCE]),
        "KEYRUSH_RULES": json.dumps(RULES),
        **{f"KEYRUSH_{name.upper()}": str(value) for name, value in CHEAP.items()},
    }
    monkeypatch.setattr(sys, "executable", str(PYTHON))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    with serve_process("tests.support.mcp_1_12:app", env=env, folder=tmp_path) as server:
        found = talk(server.url, key)
    assert {name: found[name] for name in FOUND} == FOUND
    assert gate.credits.balance("acct_a") == 0
    gate.close()
