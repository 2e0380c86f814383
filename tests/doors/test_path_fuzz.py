"""No spelling of a path gets round a rule, in any framework, on any server; and none that is right
is kept out.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import h2.config
import h2.connection
import h2.events
import hypercorn.asyncio
import hypercorn.config
import pytest

from keyrush import Gate
from tests.conftest import CHEAP, settings
from tests.long.path_fuzz import SEED, Answer, Caller, front_of, fuzz, fuzz_open, may_see, spellings
from tests.support.faults import PATIENCE
from tests.support.frameworks import (
    FRAMEWORKS,
    NEEDS,
    PLAIN,
    PREFIX,
    PREFIXED,
    PUBLIC,
    SCOPES,
    SERVED,
    Framework,
    Keys,
    gate_for,
    hub,
    hub_wsgi,
    marker,
    plans,
    rules,
)
from tests.support.serving import serve, serve_gunicorn
from tests.support.targets import (
    ASGI_SERVERS,
    ORDINARY,
    WSGI_SERVERS,
    Made,
    Server,
    Target,
    targets,
)

#: Of each framework, in each of its ways to stand under a prefix; `make chaos` has more.
PATHS = 100

#: Of each framework, without a key.
PATHS_OPEN = 150

#: Through each real server, at the root and under a prefix.
PATHS_OVER_SOCKETS = 80

SERVERS = {server.name: server for server in ASGI_SERVERS}

WAYS = [(framework, spelling) for framework in FRAMEWORKS for spelling in spellings(framework)]


# --- in process -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("framework", "spelling"), WAYS, ids=str)
def test_no_spelling_escapes(framework: Framework, spelling: str) -> None:
    """Traps: whatever is served to who lacks the scope, module or credits of its rule is a failure;
    a path that is not plain is 400 before anything else; who has all rights notices no gate.
    """
    report = fuzz(framework, spelling, PATHS)
    assert report.failures == [], f"seed {SEED}"
    assert report.served, "nothing was served to who has all rights: it tests nothing"


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=str)
def test_nothing_else_is_open(framework: Framework) -> None:
    """Traps: without a key no spelling of a public or optional pattern, with no rule in the way,
    gets at what is beside it, above it, or elsewhere.
    """
    report = fuzz_open(framework, PATHS_OPEN)
    assert report.failures == [], f"seed {SEED}"
    assert set(report.served) == set(PUBLIC), "what is open was not served: it tests nothing"


@cache
def _requests(framework: Framework) -> list[tuple[Made, str, str]]:
    """Every resource by each of its methods, with and without a slash at its end, as each server
    hands it on: scope or environ, method, marker.
    """
    servers = WSGI_SERVERS if framework.is_wsgi else ASGI_SERVERS
    methods = {"articles": ("GET", "HEAD", "PUT", "POST"), "generate": ("GET", "POST")}
    methods["hook"] = ("GET", "POST")
    seen: list[Made] = []  # what another server has handed on
    found = []
    for server in servers:
        for name, path in ORDINARY.items():
            for query in ("", "?include=sentiment") if name == "search" else ("",):
                for spelled in (path, path.rstrip("/") + "/" * (not path.endswith("/"))):
                    target = front_of(framework, server) + spelled + query
                    made = server.make(target.encode(), framework.server_root)
                    if made is not None and made not in seen:
                        seen.append(made)
                        for method in methods.get(name, ("GET", "HEAD")):
                            marked = marker(name, method, [query.partition("=")[2]])
                            found.append((made, method, marked))
    return found


@pytest.mark.parametrize(("framework", "spelling"), WAYS, ids=str)
def test_nobody_is_locked_out(framework: Framework, spelling: str) -> None:
    """R1: a key that has just what a resource needs gets what the bare app answers, with a slash at
    the end and without; so does nobody where the path is public.
    """
    gate = gate_for(framework, spelling)
    keys = Keys(gate)
    seen = set()

    async def run() -> None:
        gated, bare = (
            Caller(framework, framework.make(gate)),
            Caller(framework, framework.make(None)),
        )
        for made, method, marked in _requests(framework):
            headers = [("x-api-key", keys.just(marked))]
            expected = await bare.send(made, method, headers)
            assert await gated.send(made, method, headers) == expected, (made, method)
            seen.add(expected.served)

    with framework.around():
        asyncio.run(run())
    gate.close()
    assert seen >= {*NEEDS, *PUBLIC, "me", "search", "docs", "hooks", "secret"}


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=str)
def test_only_the_public_paths_are_open(framework: Framework) -> None:
    """S4: without a key public paths answer as the bare app does, and all else is 401."""
    gate = gate_for(framework, "")
    opened = set()

    async def run() -> None:
        gated, bare = (
            Caller(framework, framework.make(gate)),
            Caller(framework, framework.make(None)),
        )
        for made, method, marked in _requests(framework):
            answer = await gated.send(made, method, [])
            if answer != Answer(401):
                assert marked in PUBLIC
                assert answer == await bare.send(made, method, [])
                opened.add(answer.served)

    with framework.around():
        asyncio.run(run())
    gate.close()
    assert opened >= set(PUBLIC)


_METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO"),
    *("get", "head", "Put", "pOsT", "options", "GETX", "G"),
)

#: For paths without a rule: one that apps answer, one they don't, one in small letters.
_FEW_METHODS = ("GET", "PATCH", "pOsT")


@pytest.mark.parametrize("unruled", ["any_key", "refuse"])
@pytest.mark.parametrize("framework", PLAIN, ids=str)
def test_methods_that_no_rule_names(framework: Framework, unruled: str) -> None:
    """R7: with `UNRULED=refuse`, a path or a method that no rule names is 403 to every key; with
    `any_key` it takes any. A rule for GET holds for HEAD, in any case of letters.
    """
    gate = gate_for(
        framework,
        "",
        unruled=unruled,
        rules=[{"path": "/v1/articles/{id}", "methods": ["GET"], "scopes": ["read:articles"]}],
        scopes=[*SCOPES, "see:nothing"],
    )
    gate.accounts.create("acct_a", plan="full")
    owner = [("x-api-key", gate.keys.create("acct_a", "owner").text)]
    scopes = ["see:nothing"]
    weak = [("x-api-key", gate.keys.create("acct_a", "weak", scopes=scopes).text)]
    server = (WSGI_SERVERS if framework.is_wsgi else ASGI_SERVERS)[0]

    async def run() -> None:
        gated, bare = (
            Caller(framework, framework.make(gate)),
            Caller(framework, framework.make(None)),
        )
        for name, path in ORDINARY.items():
            made = server.make(path.encode(), "")
            assert made
            for method in _METHODS if name in {"articles", "docs"} else _FEW_METHODS:
                expected = await bare.send(made, method, owner)
                is_ruled = name == "articles" and method.upper() in {"GET", "HEAD"}
                is_open = name in PUBLIC or unruled == "any_key"
                for headers in (owner, weak):
                    answer = await gated.send(made, method, headers)
                    if (is_ruled and headers == owner) or (not is_ruled and is_open):
                        assert answer == expected, (path, method)
                    else:
                        assert answer == Answer(403), (path, method)
                unknown = expected if name in PUBLIC else Answer(401)
                assert await gated.send(made, method, []) == unknown, (path, method)

    with framework.around():
        asyncio.run(run())
    gate.close()


def test_there_are_enough_ways() -> None:
    """Traps: what is asked of a path includes what every front and end may do to it."""
    random = Random(SEED)  # noqa: S311  # repeatable, not secret
    made = list(islice(targets(random, PREFIX), 2000))
    assert len({one.bytes for one in made}) > 1500
    for part in (b"http://", b"x:", b"//", b"/..", b"%2e", b"%252e", b"\\", b"%0a", b"\x00", b";"):
        assert any(part in one.bytes for one in made), part
    assert {one.wants for one in made} == set(NEEDS)


# --- over sockets ---------------------------------------------------------------------------------

#: Sends a target with headers; status and marker of what comes back, status 0 for nothing.
Send = Callable[[Target, list[tuple[str, str]]], tuple[int, str | None]]


def _over_http1(port: int) -> Send:
    def send(target: Target, headers: list[tuple[str, str]]) -> tuple[int, str | None]:
        lines = [("Host", "h"), ("Connection", "close"), ("Content-Length", "0"), *headers]
        head = "".join(f"{name}: {value}\r\n" for name, value in lines).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.sendall(b"%s %s HTTP/1.1\r\n" % (target.method.encode(), target.bytes))
            connection.sendall(head + b"\r\n")
            received = b""
            try:
                while part := connection.recv(65536):
                    received += part
            except ConnectionResetError:
                pass  # it did not wait for the rest of what it refused
        return _heard(received)

    return send


def _heard(received: bytes) -> tuple[int, str | None]:
    if not received.startswith(b"HTTP/"):
        return 0, None
    first, *lines = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    return int(first.split()[1]), headers.get(SERVED)


def _over_http2(port: int) -> Send:
    """Over HTTP/2 with prior knowledge, where `:path` may hold what HTTP/1.1 can't send."""

    def send(target: Target, headers: list[tuple[str, str]]) -> tuple[int, str | None]:
        given = h2.config.H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False
        )
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            client = h2.connection.H2Connection(given)
            client.initiate_connection()
            path = target.bytes
            pseudo = [
                (b":method", target.method.encode()),
                (b":scheme", b"http"),
                (b":authority", b"h"),
                (b":path", path),
            ]
            lines = [(name.lower().encode(), value.encode()) for name, value in headers]
            client.send_headers(1, [*pseudo, *lines], end_stream=True)
            connection.sendall(client.data_to_send())
            return _heard_h2(client, connection)

    return send


def _heard_h2(
    client: h2.connection.H2Connection, connection: socket.socket
) -> tuple[int, str | None]:
    answer: tuple[int, str | None] = (0, None)
    while True:
        try:
            received = connection.recv(65536)
        except ConnectionResetError:
            return answer
        if not received:
            return answer
        for event in client.receive_data(received):
            if isinstance(event, h2.events.ResponseReceived):
                found = {bytes(name): bytes(value).decode() for name, value in event.headers or ()}
                answer = int(found[b":status"]), found.get(SERVED.encode())
            if isinstance(
                event,
                h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated,
            ):
                return answer
        connection.sendall(client.data_to_send())


@contextmanager
def _hypercorn(app: Any, root_path: str) -> Iterator[int]:
    """Hypercorn in a thread; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.root_path = root_path
    config.errorlog = None
    loop = asyncio.new_event_loop()
    ends = asyncio.Event()
    serving = hypercorn.asyncio.serve(app, config, shutdown_trigger=ends.wait)
    thread = threading.Thread(target=loop.run_until_complete, args=(serving,))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(ends.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        listener.detach()  # hypercorn has closed it


@contextmanager
def _asgi_server(name: str, app: Any, root: str) -> Iterator[Send]:
    if name.startswith("uvicorn"):
        with serve(app, http=name.partition("/")[2], root_path=root) as url:
            yield _over_http1(int(url.rpartition(":")[2]))
    else:
        with _hypercorn(app, root) as port:
            yield (_over_http2 if name.endswith("2") else _over_http1)(port)


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """The test has its own output."""


@contextmanager
def _wsgiref(app: Any) -> Iterator[Send]:
    with make_server("127.0.0.1", 0, app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield _over_http1(server.server_port)
        finally:
            server.shutdown()
            thread.join()


def _attack(
    send: Send, server: Server, frameworks: tuple[Framework, ...], keys_of: dict[str, Keys]
) -> tuple[list[str], int]:
    """Send targets to the frameworks by turns; what was served and should not have been, and how
    often a key that may see a resource did.
    """
    random = Random(f"{SEED} {server.name}")  # noqa: S311  # repeatable, not secret
    failures: list[str] = []
    front = front_of(frameworks[0], server)
    for number, target in enumerate(islice(targets(random, front), PATHS_OVER_SOCKETS)):
        framework = frameworks[number % len(frameworks)]
        keys = keys_of[framework.name]
        if b"\n" in target.bytes and not server.name.endswith("2"):
            continue  # that would be another line
        for key in (None, keys.lacking(target.wants)):
            headers = [("X-Framework", framework.name)] + ([("X-API-Key", key)] if key else [])
            status, served = send(target, headers)
            if not may_see(served, key, keys, target.wants):
                failures.append(f"{framework} on {server.name}, {target}: {status} {served}")
    reached = 0
    for framework in frameworks:
        keys = keys_of[framework.name]
        headers = [("X-Framework", framework.name), ("X-API-Key", keys.just("audit"))]
        target = Target("GET", (front + ORDINARY["audit"]).encode(), "audit")
        reached += send(target, headers) == (200, "audit")
    return failures, reached


ROOTED_ASGI = tuple(one for one in PREFIXED if one.server_root and not one.is_wsgi)
PLAIN_ASGI = tuple(one for one in PLAIN if not one.is_wsgi)
PLAIN_WSGI = tuple(one for one in PLAIN if one.is_wsgi)


@pytest.mark.parametrize("frameworks", [PLAIN_ASGI, ROOTED_ASGI], ids=["root", "prefix"])
@pytest.mark.parametrize(
    "name", ["uvicorn/h11", "uvicorn/httptools", "hypercorn/1.1", "hypercorn/2"]
)
def test_no_spelling_escapes_over_sockets(name: str, frameworks: tuple[Framework, ...]) -> None:
    """Traps: the same through real servers, HTTP/2 too, which hand on what their models say."""
    root = frameworks[0].server_root
    seen: list[dict[str, Any]] = []
    with ExitStack() as stack:
        gates = {one.name: gate_for(one, "") for one in frameworks}
        keys = {name: Keys(gate) for name, gate in gates.items()}
        for one in frameworks:
            stack.enter_context(one.around())
        apps = {one.name: one.make(gates[one.name]) for one in frameworks}
        send = stack.enter_context(_asgi_server(name, hub(apps, seen), root))
        failures, reached = _attack(send, SERVERS[name], frameworks, keys)
        for gate in gates.values():
            stack.callback(gate.close)
    assert failures == [], f"seed {SEED}"
    assert reached == len(frameworks)
    random = Random(f"{SEED} {name}")  # noqa: S311  # the same targets again
    front = front_of(frameworks[0], SERVERS[name])
    sent = [target.bytes for target in islice(targets(random, front), PATHS_OVER_SOCKETS)]
    sent.append((front + ORDINARY["audit"]).encode())
    modelled = [SERVERS[name].make(target, root) for target in sent]
    assert [scope for scope in seen if scope not in modelled] == []
    assert len(seen) > PATHS_OVER_SOCKETS


@pytest.mark.parametrize("name", ["wsgiref", "gunicorn"])
def test_no_spelling_escapes_over_sockets_wsgi(name: str, tmp_path: Path) -> None:
    """Traps: the same through real WSGI servers."""
    values = {"plans": plans(), "rules": rules(), "scopes": ["see:nothing"]}
    url = f"sqlite:///{tmp_path}/keyrush.db"
    gate = Gate.open(settings(store_url=url, **values))
    keys = Keys(gate)
    (server,) = (one for one in WSGI_SERVERS if one.name == name)
    with ExitStack() as stack:
        if name == "gunicorn":
            env = {f"KEYRUSH_{name.upper()}": str(value) for name, value in CHEAP.items()}
            env |= {f"KEYRUSH_{name.upper()}": json.dumps(value) for name, value in values.items()}
            env |= {"KEYRUSH_STORE_URL": url, "KEYRUSH_SCOPES": "see:nothing"}
            target = "tests.support.frameworks:wsgi_hub()"
            process = stack.enter_context(serve_gunicorn(target, env=env))
            send = _over_http1(int(process.url.rpartition(":")[2]))
        else:
            for one in PLAIN_WSGI:
                stack.enter_context(one.around())
            apps = {one.name: one.make(gate) for one in PLAIN_WSGI}
            send = stack.enter_context(_wsgiref(hub_wsgi(apps)))
        failures, reached = _attack(
            send, server, PLAIN_WSGI, {one.name: keys for one in PLAIN_WSGI}
        )
    gate.close()
    assert failures == [], f"seed {SEED}"
    assert reached == len(PLAIN_WSGI)
