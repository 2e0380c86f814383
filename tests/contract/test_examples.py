"""The minimal examples, each served as its framework's users would, over a shared SQLite file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from keyrush import Gate
from keyrush.operations.keys import NewKey
from tests.conftest import CHEAP, settings
from tests.support.serving import serve_process

EXAMPLES = Path(__file__).parents[2] / "examples"

#: The examples on WSGI, which has no CORS middleware.
WITHOUT_CORS = ("minimal_flask", "minimal_django")

#: Serves a WSGI app with nothing but the standard library, and tells on which port.
WSGIREF = """
import importlib, sys
from wsgiref.simple_server import make_server
module, _, name = sys.argv[1].partition(":")
server = make_server("127.0.0.1", 0, getattr(importlib.import_module(module), name))
print(server.server_port, flush=True)
server.serve_forever()
"""


@dataclass
class Served:
    """A running example: a client of it, and the gate over its database that makes keys."""

    client: httpx2.Client
    gate: Gate
    has_cors: bool  #: outside of the gate

    def key(self, *scopes: str, limits: str | None = None) -> NewKey:
        """A new key of `acct_a`."""
        return self.gate.keys.create("acct_a", "key", scopes=scopes, limits=limits)


@contextmanager
def wsgi_process(target: str, env: dict[str, str]) -> Iterator[str]:
    """Serve a WSGI example in a process of its own; gives the base URL."""
    with subprocess.Popen(  # noqa: S603  # the command is the test's own
        [sys.executable, "-c", WSGIREF, target],
        env={**os.environ, **env},
        cwd=EXAMPLES,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


@pytest.fixture(
    scope="module",
    params=[
        "minimal_starlette:app",
        "minimal_fastapi:app",
        "minimal_flask:app",
        "minimal_django:application",
        "cors_flask:app",
        "cors_django:app",
    ],
)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Each of the examples, configured by the environment alone."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/keyrush.db"
    env = {f"KEYRUSH_{name.upper()}": str(value) for name, value in CHEAP.items()}
    env["KEYRUSH_STORE_URL"] = url
    gate = Gate.open(settings(store_url=url))
    gate.accounts.create("acct_a")
    with ExitStack() as stack:
        if request.param.startswith(WITHOUT_CORS):
            base_url = stack.enter_context(wsgi_process(request.param, env))
        else:
            is_django = request.param.startswith("cors_django")  # which knows no lifespan
            options = ("--lifespan", "off") if is_django else ()
            process = stack.enter_context(
                serve_process(request.param, *options, env=env, folder=EXAMPLES)
            )
            base_url = process.url
        client = stack.enter_context(httpx2.Client(base_url=base_url))
        yield Served(client, gate, has_cors=not request.param.startswith(WITHOUT_CORS))
    gate.close()


def bearer(key: NewKey) -> dict[str, str]:
    """The header that presents the key."""
    return {"Authorization": f"Bearer {key.text}"}


def test_principal(served: Served) -> None:
    """The handler finds the caller; R11, R12, S23: the response has the documented headers."""
    key = served.key()
    for headers in (bearer(key), {"X-API-Key": key.text}):
        response = served.client.get("/hello", headers=headers)
        assert response.status_code == 200
        assert response.json() == {"key": key.key.id, "account": "acct_a"}
        assert response.headers["x-ratelimit-limit"] == "100"
        assert response.headers["x-ratelimit-monthly-limit"] == "500000"
        assert "Authorization, X-API-Key" in response.headers.get("vary", "")
    assert {"x-ratelimit-remaining", "x-ratelimit-reset"} <= response.headers.keys()


@pytest.mark.parametrize("path", ["/hello", "/nothing", "/hello/"])
def test_without_key(served: Served, path: str) -> None:
    """R1, R8: nothing is open, and the 401 has the documented body and challenge."""
    response = served.client.get(path)
    assert response.status_code == 401
    assert response.json() == {
        "success": False,
        "error": "Invalid or missing API key.",
        "statusCode": 401,
    }
    assert response.headers["www-authenticate"] == 'Bearer realm="api"'


def test_require_scope(served: Served) -> None:
    """R8, S17: `require_scope` in a handler becomes the documented 403, which takes nothing."""
    reader, writer = served.key("read:hello"), served.key("write:*")
    refused = served.client.post("/hello", headers=bearer(reader))
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/json"
    assert refused.json() == {
        "success": False,
        "error": "The API key lacks the scope write:hello.",
        "statusCode": 403,
    }
    challenge = 'Bearer realm="api", error="insufficient_scope", scope="write:hello"'
    assert refused.headers["www-authenticate"] == challenge
    assert refused.headers["x-ratelimit-remaining"] == "100"
    assert served.client.post("/hello", headers=bearer(writer)).status_code == 200


def test_rate_limited(served: Served) -> None:
    """R10, S21: above its limit a key gets 429 with one number for the wait; others go on."""
    key = served.key(limits="1/hour")
    assert served.client.get("/hello", headers=bearer(key)).status_code == 200
    refused = served.client.get("/hello", headers=bearer(key))
    assert refused.status_code == 429
    wait = refused.headers["retry-after"]
    assert refused.json()["error"] == f"Rate limit exceeded. Try again in {wait} seconds."
    assert served.client.get("/hello", headers=bearer(served.key())).status_code == 200


def test_unknown_path(served: Served) -> None:
    """With a key, what the framework answers itself is its own, and counts all the same."""
    response = served.client.get("/nothing", headers=bearer(served.key()))
    assert response.status_code == 404
    assert response.headers["x-ratelimit-remaining"] == "99"


def test_browser(served: Served) -> None:
    """S76: where CORS stands outside, a preflight is answered, and a refusal can be read; where it
    does not, a preflight is refused like any request without a key.
    """
    origin = {"Origin": "https://app.example"}
    asks = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-api-key"}
    preflight = served.client.options("/hello", headers=origin | asks)
    refused = served.client.get("/hello", headers=origin)
    assert refused.status_code == 401
    if served.has_cors:
        assert preflight.status_code == 200
        assert "x-api-key" in preflight.headers["access-control-allow-headers"].lower()
        key = {"X-API-Key": served.key().text}
        reply = served.client.get("/hello", headers=origin | key)
        for response in (preflight, refused, reply):
            assert response.headers["access-control-allow-origin"] == "https://app.example"
    else:
        assert (preflight.status_code, preflight.content) == (401, refused.content)
