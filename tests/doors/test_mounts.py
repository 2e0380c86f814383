"""The account API mounted as its page says, in each framework, over sockets."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx2
import pytest
from openapi_spec_validator import validate

from keyrush import Gate
from keyrush.apps.account_api import openapi
from tests.conftest import CHEAP
from tests.support.pages import PAGES
from tests.support.serving import serve

MOUNTING = PAGES["docs/account-api.md"].code("python")
NAMES = [re.findall(r"Starlette|FastAPI|Litestar|Quart|Flask", code)[0] for code in MOUNTING]
KEYS = "/v1/me/api-credentials"


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """The test has its own output."""


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The app on a socket, ASGI by uvicorn, WSGI by wsgiref; gives its URL."""
    if not hasattr(app, "wsgi_app"):
        with serve(app) as url:
            yield url
        return
    with make_server("127.0.0.1", 0, app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_each_framework_has_its_own() -> None:
    """There is a way for each framework that has a gate."""
    assert sorted(NAMES) == ["FastAPI", "Flask", "Litestar", "Quart", "Starlette"]


@pytest.mark.parametrize("code", MOUNTING, ids=NAMES)
def test_mounted(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """O3 to O7, R8: keys are made, listed, rotated and revoked; errors have their one form."""
    monkeypatch.chdir(tmp_path)
    for name, value in CHEAP.items():
        monkeypatch.setenv(f"KEYRUSH_{name.upper()}", str(value))
    monkeypatch.setenv("KEYRUSH_PUBLIC_PATHS", "/v1/capabilities,/capabilities")
    gate = Gate.open()
    gate.accounts.create("acct_a")
    caller = {"X-API-Key": gate.keys.create("acct_a", "first").text}
    namespace: dict[str, Any] = {"__name__": "app"}
    exec(compile(code, "app.py", "exec"), namespace)  # noqa: S102  # our own text
    with served(namespace["app"]) as url, httpx2.Client(base_url=url) as client:
        made = client.post(KEYS, headers=caller, json={"name": "n"})
        assert made.status_code == 201
        own = {"X-API-Key": made.json()["key"]}
        one = f"{KEYS}/{made.json()['api_credential']['id']}"
        assert [key["name"] for key in client.get(KEYS, headers=own).json()] == ["first", "n"]
        assert client.get(f"{KEYS}/", headers=own).status_code == 200
        assert client.post(f"{one}/rotate", headers=caller).status_code == 201
        assert client.post(f"{one}/revoke", headers=caller).status_code == 200
        assert client.get("/v1/me/credits", headers=own).status_code == 401
        assert client.get("/v1/me/credits", headers=caller).json() == {"balance": 0}
        assert client.get("/v1/me/credits").status_code == 401
        assert client.get("/v1/capabilities").json() == {"tools": [], "sources": []}
        for method, path, status in (("GET", "/v1/nothing", 404), ("DELETE", KEYS, 405)):
            reply = client.request(method, path, headers=caller)
            assert (reply.status_code, reply.json()["statusCode"]) == (status, status)
        wrong = client.post(KEYS, headers=caller, json={"nam": "n"})
        assert (wrong.status_code, list(wrong.json())) == (422, ["detail"])
        assert client.get("/v1/openapi.json", headers=caller).json() == openapi("/v1")
        if "add_openapi" in code:
            document = client.get("/openapi.json", headers=caller).json()
            validate(document)
            assert set(openapi("/v1")["paths"]) <= set(document["paths"])
    for opened in (gate, namespace.get("gate")):
        if opened is not None:
            opened.close()
