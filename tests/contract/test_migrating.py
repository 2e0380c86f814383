"""docs/migrating.md is true: what it says that others write, and what it says to write here, answer
the same requests with the same statuses.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from werkzeug.test import Client

from keyrush import Gate, KeyrushMiddleware, wsgi
from tests.conftest import CHEAP, Clock
from tests.support.calls import wsgi_app
from tests.support.pages import PAGES, ROOT

# What others warn of, on newer Pythons and of loops that are closed, is no business of this page.
pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = PAGES["docs/migrating.md"]

#: fastapi-limiter before 0.2, which can't be installed beside it; `make test` does, in a folder.
OLD = ROOT / ".venv-fastapi-limiter-0.1"

#: Where each caller is; all but guests have keys, Anna and her sister one address.
ADDRESSES = {
    "anna": "192.0.2.1",
    "sister": "192.0.2.1",
    "ben": "192.0.2.2",
    "pat": "192.0.2.3",
    "guest": "192.0.2.4",
    "guest-elsewhere": "192.0.2.5",
}

#: What is asked, by section and heading: method, path, whose request, and the statuses one after
#: the other. `+staff` says that the request has `X-Staff: yes`.
ASKED = {
    ("slowapi", "limit"): """
        GET /search anna 200 200 429
        GET /search sister 429
        GET /search ben 200""",
    ("slowapi", "several limits"): """
        GET /search anna 200 200 429 429
        GET /search ben 200""",
    ("slowapi", "key_func"): """
        GET /search anna 200 200 429
        GET /search sister 200 200 429""",
    ("slowapi", "without keys"): """
        GET /search guest 200
        GET /articles guest 200 429
        GET /search guest 429
        GET /search guest-elsewhere 200""",
    ("slowapi", "application_limits"): """
        GET /search anna 200 200
        GET /articles anna 200 429
        GET /search anna 429
        GET /search sister 200""",
    ("slowapi", "default_limits, override_defaults"): """
        GET /articles anna 200 429
        GET /search anna 200 200 429
        GET /export anna 200 429
        GET /articles ben 200""",
    ("slowapi", "default_limits, each path its own"): """
        GET /search anna 200 200 429
        GET /articles anna 200 200 429
        GET /search ben 200""",
    ("slowapi", "shared_limit"): """
        GET /search anna 200
        GET /suggest anna 200 429
        GET /search anna 429
        GET /search ben 200""",
    ("slowapi", "methods"): """
        POST /articles anna 200 429
        GET /articles anna 200 200 200""",
    ("slowapi", "per_method"): """
        POST /articles anna 200 429
        GET /articles anna 200 429""",
    ("slowapi", "cost"): """
        GET /report anna 200 200 429
        GET /export?rows=6 anna 200
        GET /export?rows=4 anna 200 429
        GET /export?rows=9 ben 200""",
    ("slowapi", "error_message"): """
        GET /search anna 200 429""",
    ("slowapi", "exempt_when"): """
        GET /search anna 200 429
        GET /search anna+staff 200 200""",
    ("slowapi", "exempt_when, by plan"): """
        GET /search anna 200 429
        GET /search pat 200 200 200""",
    ("slowapi", "limits by a callable"): """
        GET /search anna 200 429
        GET /search pat 200 200 200 429""",
    ("slowapi", "exempt"): """
        GET /articles anna 200 429
        GET /health anna 200 200
        GET /health guest 200 200""",
    ("flask-limiter", "limit"): """
        GET /search anna 200 200 429
        GET /search ben 200""",
    ("flask-limiter", "default_limits"): """
        GET /search anna 200 429
        GET /articles anna 200 200 429
        GET /search ben 200""",
    ("flask-limiter", "application_limits, exempt"): """
        GET /search anna 200
        GET /articles anna 200 429
        GET /health anna 200
        GET /health guest 200
        GET /search ben 200""",
    ("flask-limiter", "shared_limit"): """
        GET /search anna 200
        GET /suggest anna 200 429
        GET /search anna 429
        GET /search ben 200""",
    ("flask-limiter", "blueprints"): """
        GET /admin/users anna 200
        GET /admin/roles anna 200 429
        GET /admin/users ben 200""",
    ("flask-limiter", "RouteLimit, Limit objects"): """
        POST /articles anna 200 200 429
        GET /articles anna 200 200 200""",
    ("flask-limiter", "cost"): """
        GET /export?rows=6 anna 200
        GET /export?rows=5 anna 429
        GET /export?rows=9 ben 200""",
    ("flask-limiter", "deduct_when"): """
        GET /unlock?code=1234 anna 200 200 200
        GET /unlock?code=1 anna 403 403 429
        GET /unlock?code=1234 anna 429
        GET /unlock?code=1234 ben 200""",
    ("flask-limiter", "with limiter.limit"): """
        GET /search?deep anna 200 429
        GET /search anna 200 200
        GET /search?deep ben 200""",
    ("fastapi-limiter", "RateLimiter"): """
        GET /search anna 200 200 429""",
    ("fastapi-limiter", "several RateLimiters"): """
        GET /search anna 200 200 429 429""",
    ("fastapi-limiter", "skip_limiter"): """
        GET /articles anna 200 200 429
        GET /health anna 200 200
        GET /health guest 200""",
    ("fastapi-limiter", "RateLimiter of 0.1"): """
        GET /search anna 200 200 429
        GET /search ben 200 200 429""",
}

#: Where it is messages that are limited.
TALKED = {("fastapi-limiter", "WebSocketRateLimiter")}

#: Begins code that is a module beside the app.
MODULE = "# refusals.py\n"


class Example(NamedTuple):
    """What stands under a heading, after what stands at the head of its section."""

    theirs: str
    ours: str  #: empty where ours needs no code in the app
    toml: str
    module: str = ""


def _examples() -> dict[tuple[str, str], Example]:
    found = {}
    for name, text in _parts(PAGE.text, "##"):
        head, *rest = re.split(r"^(?=### )", text, flags=re.MULTILINE)
        heads = _code(head)["python"]
        for title, under in _parts("".join(rest), "###"):
            if not (code := _code(under))["python"]:
                continue
            theirs, *ours = code["python"]
            (toml,) = code["toml"] or [""]
            module = ours.pop() if ours and ours[-1].startswith(MODULE) else ""
            mine = f"{heads[1]}\n\n{ours[0]}" if ours else ""
            found[name, title] = Example(f"{heads[0]}\n\n{theirs}", mine, toml, module)
    return found


def _parts(text: str, mark: str) -> list[tuple[str, str]]:
    parts = re.split(rf"^{mark} (.*)$", text, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _code(text: str) -> dict[str, list[str]]:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return {kind: [code for found, code in blocks if found == kind] for kind in ("python", "toml")}


EXAMPLES = _examples()


class World:
    """Callers with keys of a gate; apps that know them, ours and theirs, to ask."""

    def __init__(self, gate: Gate, stack: ExitStack) -> None:
        self.gate = gate
        self._stack = stack
        self.keys: dict[str, str] = {}
        for name in ADDRESSES:
            if not name.startswith("guest"):
                plan = "pro" if name == "pat" and "pro" in gate.catalog.plans else "starter"
                gate.accounts.create(f"acct_{name}", plan=plan)
                self.keys[name] = gate.keys.create(f"acct_{name}", name).text

    def headers(self, who: str) -> dict[str, str]:
        name, _, staff = who.partition("+")
        key = {"X-API-Key": self.keys[name]} if name in self.keys else {}
        return key | ({"X-Staff": "yes"} if staff else {})

    def asked_of(self, app: Any) -> Callable[[str, str, str], int]:
        """Asks an app: method, path and whose request; the status."""
        if isinstance(app, wsgi.KeyrushMiddleware) or hasattr(app, "wsgi_app"):
            client = Client(app)

            def ask_flask(method: str, path: str, who: str) -> int:
                there = {"REMOTE_ADDR": ADDRESSES[who.partition("+")[0]]}
                sent: Any = {"method": method, "headers": self.headers(who), "environ_base": there}
                return client.open(path, **sent).status_code

            return ask_flask
        # One client is entered, so that all share its event loop.
        shared = self._stack.enter_context(TestClient(app))

        def ask(method: str, path: str, who: str) -> int:
            client = TestClient(app, client=(ADDRESSES[who.partition("+")[0]], 1))
            client.portal = shared.portal
            return client.request(method, path, headers=self.headers(who)).status_code

        return ask


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is to be closed after the test."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def opened(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> Callable[..., World]:
    """Opens the gate that an app finds with this `keyrush.toml` in its folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"store_url": "memory://", **CHEAP}.items():
        monkeypatch.setenv(f"KEYRUSH_{name.upper()}", str(value))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "refusals", raising=False)

    def opening(example: Example, **environment: str) -> World:
        (tmp_path / "keyrush.toml").write_text(example.toml)
        (tmp_path / "refusals.py").write_text(example.module)
        for name, value in environment.items():
            monkeypatch.setenv(f"KEYRUSH_{name.upper()}", value)
        gate = Gate.open(clock=clock)
        stack.callback(gate.close)
        monkeypatch.setattr(Gate, "open", lambda *_, **__: gate)
        return World(gate, stack)

    return opening


def execute(code: str, **given: Any) -> Any:
    """The `app` of this code."""
    namespace: dict[str, Any] = {"__name__": "app", **given}
    exec(compile(code, "app.py", "exec", dont_inherit=True), namespace)  # noqa: S102  # our own text
    return namespace["app"]


def need(section: str) -> None:
    """Skip by name where the library is missing."""
    pytest.importorskip(section.replace("-", "_"), reason=f"{section} is missing: make test")


def our_app(example: Example, section: str) -> Any:
    """The app as it is here: without code, whatever the rules stand before."""
    if example.ours:
        return execute(example.ours)
    if section == "flask-limiter":
        return wsgi.KeyrushMiddleware(wsgi_app)
    anything = Starlette(routes=[Route("/{path:path}", answered, methods=["GET", "POST"])])
    return KeyrushMiddleware(anything)


async def answered(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.url.path)


def test_every_example_is_run() -> None:
    """Every heading with code has requests that are asked of both."""
    assert set(EXAMPLES) == set(ASKED) | TALKED


@pytest.fixture
def _fastapi_limiter_0_1(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is imported as fastapi_limiter is the older one."""
    if not OLD.exists():
        pytest.skip(f"fastapi-limiter 0.1 is not in {OLD.name}: make test")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_limiter(name)}
    monkeypatch.syspath_prepend(OLD)
    importlib.invalidate_caches()
    yield
    for name in list(sys.modules):
        if _is_limiter(name):
            del sys.modules[name]
    sys.modules.update(kept)


def _is_limiter(name: str) -> bool:
    return name.partition(".")[0] == "fastapi_limiter"


@pytest.mark.parametrize("where", ASKED, ids=" ".join)
def test_both_answer_alike(
    where: tuple[str, str], opened: Callable[..., World], request: pytest.FixtureRequest
) -> None:
    """The original and what stands here for it answer with the statuses that are expected."""
    need(where[0])
    example, given, settings = EXAMPLES[where], {}, {}
    if where[1].endswith("of 0.1"):
        request.getfixturevalue("_fastapi_limiter_0_1")
        settings["limiter_url"] = request.getfixturevalue("valkey_url")
        given["REDIS"] = settings["limiter_url"].partition("?")[0]
    world = opened(example, **settings)
    theirs = execute(example.theirs, PRO_KEYS={world.keys["pat"]}, **given)
    for app in (theirs, our_app(example, where[0])):
        ask = world.asked_of(app)
        for line in ASKED[where].strip().splitlines():
            method, path, who, *expected = line.split()
            found = [str(ask(method, path, who)) for _ in expected]
            assert found == expected, (line, "theirs" if app is theirs else "ours")


def test_own_words(opened: Callable[..., World]) -> None:
    """The body of a refusal is what the page's function makes of it, as there."""
    need("slowapi")
    example = EXAMPLES["slowapi", "error_message"]
    world = opened(example)
    found = []
    for app in (execute(example.theirs), our_app(example, "slowapi")):
        with TestClient(app, headers=world.headers("anna")) as client:
            found.append([client.get("/search") for _ in range(2)][1].json())
    assert found == [{"error": "Rate limit exceeded: slow down"}] * 2


@pytest.mark.parametrize("where", TALKED, ids=" ".join)
def test_both_talk_alike(where: tuple[str, str], opened: Callable[..., World]) -> None:
    """Messages of a WebSocket are limited one by one, there and here."""
    need(where[0])
    example = EXAMPLES[where]
    world = opened(example)
    for app in (execute(example.theirs), our_app(example, where[0])):
        headers = world.headers("anna")
        with TestClient(app) as client, client.websocket_connect("/feed", headers=headers) as feed:
            found = []
            for message in ("one", "two", "three"):
                feed.send_text(message)
                found.append(feed.receive_text())
        assert found == ["one", "two", "slower"]


def test_one_bucket_for_all(opened: Callable[..., World]) -> None:
    """What a limiter of rates counts in fastapi-limiter 0.2 is everybody's; here it is each key's,
    as the page says.
    """
    need("fastapi-limiter")
    example = EXAMPLES["fastapi-limiter", "RateLimiter"]
    world = opened(example)
    found = []
    for app in (execute(example.theirs), our_app(example, "fastapi-limiter")):
        ask = world.asked_of(app)
        found.append([ask("GET", "/search", who) for who in ("anna", "anna", "ben")])
    assert found == [[200, 200, 429], [200, 200, 200]]


def test_what_is_refused(opened: Callable[..., World]) -> None:
    """What one limit refuses has taken of another in slowapi, and of none here, as is said."""
    need("slowapi")
    head = EXAMPLES["slowapi", "limit"].theirs.partition("@app.get")[0]
    routes = """
@app.get("/search")
@limiter.limit("1/minute")
@limiter.shared_limit("3/hour", scope="all")
async def search(request: Request):
    return "found"


@app.get("/suggest")
@limiter.shared_limit("3/hour", scope="all")
async def suggest(request: Request):
    return "perhaps"
"""
    toml = """
[plans.starter]
limits = "3/hour"

[[rules]]
path = "/search"
limits = "1/minute"
"""
    example = Example(head + routes, "", toml)
    world = opened(example)
    found = []
    for app in (execute(example.theirs), our_app(example, "slowapi")):
        ask = world.asked_of(app)
        found.append([ask("GET", path, "anna") for path in ["/search"] * 3 + ["/suggest"]])
    assert found == [[200, 429, 429, 429], [200, 429, 429, 200]]
