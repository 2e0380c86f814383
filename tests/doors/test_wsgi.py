"""What only the WSGI middleware has to do: start_response, iterables, close, threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx2
import pytest

from keyrush import Gate, Refusal, Refused, wsgi
from tests.conftest import settings
from tests.support.calls import Sent, Wsgi, environ_of, wsgi_call


@pytest.fixture
def key(gate: Gate) -> str:
    """A key of acct_a, which has 5 credits, that may read articles."""
    gate.accounts.create("acct_a")
    gate.credits.grant("acct_a", 5)
    return gate.keys.create("acct_a", "first", scopes=["read:articles"]).text


class Body:
    """An iterable that says what is done to it."""

    def __init__(self, *items: bytes, raises: BaseException | None = None) -> None:
        self.items = list(items)
        self.raises = raises
        self.log: list[str] = []

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.items:
            self.log.append("read")
            return self.items.pop(0)
        if self.raises:
            raise self.raises
        raise StopIteration

    def close(self) -> None:
        self.log.append("closed")


def run(gate: Gate, app: Any, key: str) -> tuple[Any, list[Any]]:
    """Call the middleware; its iterable, and what start_response was called with."""
    started: list[Any] = []

    def start_response(*args: Any) -> Any:
        started.append(args)
        return written.append

    written: list[bytes] = []
    environ = environ_of(Sent(headers=[("X-API-Key", key)]))
    result = wsgi.KeyrushMiddleware(app, gate=gate)(environ, start_response)
    started_with: list[Any] = started
    return result, started_with


def test_inner_iterable_is_closed(gate: Gate, key: str) -> None:
    """S72: the app's `close` is called when the server closes, after an early stop too."""
    body = Body(b"a", b"b")

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    result, _ = run(gate, app, key)
    assert next(iter(result)) == b"a"
    result.close()
    assert body.log == ["read", "closed"]


def test_errors_pass_and_close(gate: Gate, key: str) -> None:
    """S72: an error while iterating gets out, and the app's iterable is closed all the same."""
    body = Body(b"a", raises=ZeroDivisionError())

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    result, _ = run(gate, app, key)
    with pytest.raises(ZeroDivisionError):
        list(result)
    result.close()
    assert body.log == ["read", "closed"]


def test_nothing_is_read_ahead(gate: Gate, key: str) -> None:
    """S72: one item is read for each that the server asks for, and none before."""
    body = Body(b"a", b"b")

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    result, _ = run(gate, app, key)
    assert body.log == []
    items = iter(result)
    next(items)
    assert body.log == ["read"]


def test_late_start_response_is_decorated(gate: Gate, key: str) -> None:
    """S75: a generator app calls start_response only when it is read; its headers are added to."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"late"

    reply = Wsgi(gate, app).send(Sent(headers=[("X-API-Key", key)]))
    assert reply["x-ratelimit-remaining"] == "99"
    assert reply.body == b"late"


def test_one_set_of_rate_limit_fields(gate: Gate, key: str) -> None:
    """S69: the gate's rate-limit fields replace those of the app, which may be a proxy's."""
    own = [
        ("Set-Cookie", "a=1"),
        ("x-RateLimit-limit", "7"),
        ("X-Rate-Limit-Reset", "7"),
        ("Set-Cookie", "b"),
    ]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", own)
        return []

    _, ((_, headers),) = run(gate, app, key)
    assert headers[:2] == [own[0], own[3]]
    shown = [value for name, value in headers if name.lower() == "x-ratelimit-limit"]
    assert shown == ["100"]
    assert not any(name == "X-Rate-Limit-Reset" for name, _ in headers)
    assert len(own) == 4


def test_second_start_response(gate: Gate, key: str) -> None:
    """S73: with exc_info, start_response may come again: decorated again, not counted again."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            1 / 0  # noqa: B018  # the error is wanted
        except ZeroDivisionError:
            start_response("500 Oops", [("Content-Type", "text/html")], sys.exc_info())
        return [b"sorry"]

    result, started = run(gate, app, key)
    assert list(result) == [b"sorry"]
    (first, _), (second, headers, exc_info) = (
        call[:2] if len(call) < 3 else call for call in started
    )
    assert (first, second) == ("200 OK", "500 Oops")
    assert exc_info[0] is ZeroDivisionError
    assert dict(headers)["X-RateLimit-Remaining"] == "99"
    assert isinstance(headers, list)


def test_write_is_returned(gate: Gate, key: str) -> None:
    """S73: the server's `write` reaches the app."""
    written: list[bytes] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])(b"written")
        return []

    environ = environ_of(Sent(headers=[("X-API-Key", key)]))
    list(wsgi.KeyrushMiddleware(app, gate=gate)(environ, lambda *_: written.append))
    assert written == [b"written"]


def _raise_in_call(environ: Any, start_response: Any) -> list[bytes]:
    environ["keyrush.principal"].charge(3)
    environ["keyrush.principal"].require_scope("write:articles")
    return []


def _raise_after_start(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return _raise_in_call(environ, start_response)


def _raise_in_generator(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield from _raise_in_call(environ, start_response)


def _raise_as_500(environ: Any, start_response: Any) -> list[bytes]:
    try:
        return _raise_in_call(environ, start_response)
    except Refused:
        write = start_response("500 Internal Server Error", [("Content-Type", "text/html")])
        write(b"framework's page")
        return [b"framework's page"]


@pytest.mark.parametrize(
    "app", [_raise_in_call, _raise_after_start, _raise_in_generator, _raise_as_500]
)
def test_refusal_raised_in_the_app(gate: Gate, key: str, app: Any) -> None:
    """R8: until the first byte of the body, a refusal is the documented one and takes nothing."""
    result, started = run(gate, app, key)
    body = b"".join(result)
    result.close()
    status, headers = started[-1][:2]
    assert status == "403 Forbidden"
    assert body == (
        b'{"success": false, "error": "The API key lacks the scope write:articles.", '
        b'"statusCode": 403}'
    )
    assert dict(headers)["X-RateLimit-Remaining"] == "100"
    if len(started) > 1:
        assert started[-1][2][0] is Refused
    assert gate.accounts.get("acct_a").balance == 5


def test_refusal_after_the_body_has_begun(gate: Gate, key: str) -> None:
    """Once a byte is out, a refusal is the app's own error."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"begun"
        environ["keyrush.principal"].require_scope("write:articles")

    result, _ = run(gate, app, key)
    with pytest.raises(Refused):
        list(result)


def test_charging(gate: Gate, key: str) -> None:
    """O11: an app charges by the principal, and gets the new balance."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        body = str(environ["keyrush.principal"].charge(3)).encode()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    assert Wsgi(gate, app).send(Sent(headers=[("X-API-Key", key)])).body == b"2"
    refused = Wsgi(gate, app).send(Sent(headers=[("X-API-Key", key)]))
    assert refused.status == 402


@pytest.mark.parametrize(
    ("status", "balance"), [("200 OK", 2), ("302 Found", 5), ("404 No", 5), ("500 Oops", 5)]
)
def test_credits_of_failed_requests(gate: Gate, key: str, status: str, balance: int) -> None:
    """O11, O15: what was charged is given back when the app answers with an error."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["keyrush.principal"].charge(3)
        start_response(status, [("Content-Type", "text/plain")])
        return [b"done"]

    reply = Wsgi(gate, app).send(Sent(headers=[("X-API-Key", key)]))
    assert (reply.status, reply.body) == (int(status[:3]), b"done")
    assert gate.accounts.get("acct_a").balance == balance


def _crash_in_call(environ: Any, start_response: Any) -> list[bytes]:
    environ["keyrush.principal"].charge(3)
    raise ZeroDivisionError


def _crash_in_generator(environ: Any, start_response: Any) -> Iterator[bytes]:
    yield from _crash_in_call(environ, start_response)


@pytest.mark.parametrize("app", [_crash_in_call, _crash_in_generator])
def test_credits_of_crashed_requests(gate: Gate, key: str, app: Any) -> None:
    """O11: what was charged is given back when the app raises instead of answering."""
    with pytest.raises(ZeroDivisionError):
        list(run(gate, app, key)[0])
    assert gate.accounts.get("acct_a").balance == 5


def test_refusal_while_becoming_an_iterator(gate: Gate, key: str) -> None:
    """S72: an iterable whose `__iter__` refuses is refused, and closed."""

    class Refusing(Body):
        def __iter__(self) -> Iterator[bytes]:
            raise Refused(Refusal("not_found"))

    body = Refusing()
    result, started = run(gate, lambda environ, start_response: body, key)
    list(result)
    result.close()
    assert started[-1][0] == "404 Not Found"
    assert body.log == ["closed"]


def test_refusal_on_a_public_path(gate: Gate) -> None:
    """R8: an app may refuse on a public path too, where there is nothing to give back."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise Refused(Refusal("not_found"))

    assert Wsgi(gate, app).send(Sent("/health")).status == 404


def test_nested_counts_once(gate: Gate, key: str) -> None:
    """Traps: the same gate twice in one request counts once; a client can't set the mark."""
    inner = Wsgi(gate).middleware
    outer = wsgi.KeyrushMiddleware(inner, gate=gate)
    environ = environ_of(Sent(headers=[("X-API-Key", key)]))
    assert wsgi_call(outer, environ)["x-ratelimit-remaining"] == "99"
    forged = environ_of(Sent(headers=[("keyrush.gate", "1"), ("keyrush.principal", "1")]))
    assert wsgi_call(inner, forged).status == 401


def test_head_reaches_the_app(gate: Gate, key: str) -> None:
    """A HEAD request is answered with the rate-limit fields and no body."""
    reply = Wsgi(gate).send(Sent(headers=[("X-API-Key", key)], method="HEAD"))
    assert (reply.status, reply.body) == (200, b"")
    assert reply["x-ratelimit-remaining"] == "99"


def test_exactly_the_limit_passes_in_threads(gate: Gate, key: str) -> None:
    """S35: 50 concurrent requests at limit 10: exactly 10 pass."""
    tight = gate.keys.create("acct_a", "tight", limits="10/minute").text
    middleware = Wsgi(gate).middleware
    barrier = threading.Barrier(50)
    statuses: list[int] = []

    def send() -> None:
        barrier.wait()
        sent = Sent(headers=[("X-API-Key", tight)])
        statuses.append(wsgi_call(middleware, environ_of(sent)).status)

    threads = [threading.Thread(target=send) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (statuses.count(200), statuses.count(429)) == (10, 40)


def test_single_flight_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 concurrent first requests with one key make one look-up."""
    gate = Gate.open(settings())
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "k").text
    finds: list[int] = []
    find = gate.store.find
    barrier = threading.Barrier(20)

    def counted_find(*args: Any) -> Any:
        finds.append(1)
        return find(*args)

    monkeypatch.setattr(gate.store, "find", counted_find)

    def send() -> None:
        barrier.wait()
        Wsgi(gate).send(Sent(headers=[("X-API-Key", key)]))

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finds) == 1
    gate.close()


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """The test has its own output."""


def test_over_a_socket(gate: Gate, key: str) -> None:
    """R1, R8: a real server and a real client."""
    with make_server("127.0.0.1", 0, Wsgi(gate).middleware, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/api/articles"
            assert httpx2.get(url).status_code == 401
            reply = httpx2.get(url, headers={"X-API-Key": key})
            assert (reply.status_code, reply.text) == (200, "acct_a live first")
            assert reply.headers["x-ratelimit-limit"] == "100"
            both = [("X-API-Key", key), ("X-API-Key", key[:-1])]
            assert httpx2.get(url, headers=both).status_code == 400
        finally:
            server.shutdown()
            thread.join()
