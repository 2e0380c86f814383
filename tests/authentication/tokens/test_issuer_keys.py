"""Keys of issuers: found, fetched, kept, and left alone while the issuer is away."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from keyrush.authentication.protocol import Later
from keyrush.authentication.tokens import fetching
from keyrush.authentication.tokens import issuer_keys as module
from keyrush.authentication.tokens.fetching import FetchError, fetch_keys, metadata_urls
from keyrush.authentication.tokens.issuer_keys import COOL_DOWN, REFRESH, IssuerKeys
from keyrush.core.issuers import Issuer as Known
from keyrush.errors import Away
from tests.support.faults import until
from tests.support.issuer import Issuer, served, signer
from tests.support.stores import in_threads

KEYS, OAUTH, OPENID = (
    "/.well-known/jwks.json",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
)


class Seconds:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def known(url: str, **values: Any) -> Known:
    return Known(**{"issuer": url, "kind": "session", "audience": frozenset("a"), **values})


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No slow machine is taken for an issuer that is away."""
    for one in (module, fetching):
        monkeypatch.setattr(one, "PATIENCE", 60.0)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer that is served."""
    with served() as made:
        yield made


class World:
    """An issuer's keys, and how often one was removed."""

    def __init__(self, issuer: Issuer, **values: Any) -> None:
        self.issuer = issuer
        self.seconds = Seconds()
        self.removed = 0
        self.keys = IssuerKeys(known(issuer.url, **values), self._count, self.seconds)

    def _count(self) -> None:
        self.removed += 1

    def finds(self, name: str, algorithm: str = "ES256") -> bool:
        """Whether it is found, perhaps once a fetch is over."""
        try:
            return self.keys.find(algorithm, name) is not None
        except Later as later:
            later.coming.result(60)
        return self.keys.find(algorithm, name) is not None

    @property
    def fetches(self) -> int:
        return self.issuer.asked.count(KEYS)

    def refresh(self) -> None:
        """Refresh, and wait for it."""
        self.keys.refresh()
        until(lambda: self.keys._flight is None)  # noqa: SLF001  # nobody else can tell


@pytest.fixture
def world(issuer: Issuer) -> World:
    return World(issuer)


# --- known and unknown keys --------------------------------------------------------------------


def test_found_by_its_name(world: World) -> None:
    """S44: a key is found by its name, for its own algorithm alone; one fetch is enough."""
    assert world.finds("k1")
    assert not world.finds("k1", "RS256")
    assert world.finds("k1")
    assert world.fetches == 1


def test_without_a_name(world: World) -> None:
    """S44: a token that names no key is meant for the only one, and for none of two."""
    assert world.finds("")
    world.issuer.keys.append(signer(kid="k2").jwk)
    world.seconds.now += REFRESH
    world.refresh()
    assert not world.finds("")
    assert world.finds("k2")


def test_one_refetch_a_cool_down(world: World) -> None:
    """S51: names that nobody knows cost one fetch in a cool-down, and then are refused at once."""
    for number in range(50):
        assert not world.finds(f"unknown-{number}")
    assert world.fetches == 1
    world.seconds.now += COOL_DOWN
    for number in range(50):
        assert not world.finds(f"unknown-{number}")
    assert world.fetches == 2


def test_rotation(world: World) -> None:
    """S51: a new key is fetched when the first token comes with it, and whoever held tokens of the
    old one hears that it is gone.
    """
    assert world.finds("k1")
    world.issuer.rotate("k2")
    world.seconds.now += COOL_DOWN
    assert world.finds("k2")
    assert not world.finds("k1")
    assert (world.fetches, world.removed) == (2, 1)


def test_single_flight(world: World) -> None:
    """S51: as many as ask at once are told of one fetch, and none of them waits."""
    world.issuer.go_on.clear()
    coming: set[Any] = set()
    for _ in range(20):
        with pytest.raises(Later) as told:
            world.keys.find("ES256", "k1")
        coming.add(told.value.coming)
    (flight,) = coming
    assert not flight.done()
    world.issuer.go_on.set()
    flight.result(60)
    assert world.finds("k1")
    assert world.fetches == 1


def test_single_flight_of_threads(world: World) -> None:
    """S51: the same of threads that begin together."""
    assert in_threads(lambda _: world.finds("k1"), 32) == [True] * 32
    assert world.fetches == 1


def test_known_keys_wait_for_nobody(world: World) -> None:
    """S51: while a key is fetched that is not known, those that are known are found at once."""
    assert world.finds("k1")
    world.seconds.now += COOL_DOWN
    world.issuer.go_on.clear()
    with pytest.raises(Later) as told:
        world.keys.find("ES256", "k2")
    assert world.keys.find("ES256", "k1") is not None
    assert not told.value.coming.done()
    world.issuer.go_on.set()
    told.value.coming.result(60)
    assert not world.finds("k2")


def test_who_waits_gives_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S51: nobody waits for longer than the patience, however long the issuer takes; and what it
    brings in the end is good.
    """
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    world.issuer.go_on.clear()
    with pytest.raises(Away):
        world.finds("k1")
    world.issuer.go_on.set()
    until(lambda: world.keys._known("ES256", "k1"))  # noqa: SLF001  # without asking for it
    assert world.finds("k1")
    assert world.fetches == 1


# --- away --------------------------------------------------------------------------------------


def test_away(world: World) -> None:
    """S51, S19: a failed fetch keeps the keys: those known are found, others can't be told, and
    nobody else asks within the cool-down.
    """
    assert world.finds("k1")
    world.issuer.respond = lambda _: (503, {}, b"")
    world.seconds.now += COOL_DOWN
    for _ in range(20):
        with pytest.raises(Away):
            world.finds("k2")
        assert world.finds("k1")
    assert world.issuer.asked.count(OAUTH) == 2
    world.issuer.respond = None
    world.seconds.now += COOL_DOWN
    world.refresh()
    assert not world.finds("k2")
    assert world.removed == 0


def test_away_from_the_beginning(world: World) -> None:
    """S19: an issuer that has never answered is asked once in a cool-down."""
    world.issuer.respond = lambda _: (500, {}, b"")
    for _ in range(20):
        with pytest.raises(Away):
            world.finds("k1")
    assert len(world.issuer.asked) == 1
    world.issuer.respond = None
    world.seconds.now += COOL_DOWN
    world.refresh()
    assert world.finds("k1")


@pytest.mark.parametrize("keys", [[], [{"kty": "oct", "kid": "k1", "k": "aa"}], ["k1"]])
def test_an_empty_set(world: World, keys: list[Any]) -> None:
    """S51: a set without a key that is of use is a mistake, and keeps those that were there."""
    assert world.finds("k1")
    world.issuer.keys = keys
    world.seconds.now += REFRESH
    world.refresh()
    assert world.finds("k1")
    assert (world.fetches, world.removed) == (2, 0)


def test_no_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: where no thread can be started the key can't be told, and is later."""

    def lacking(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", lacking)
        with pytest.raises(Away):
            world.finds("k1")
    world.seconds.now += COOL_DOWN
    world.refresh()
    assert world.finds("k1")


# --- refreshed ---------------------------------------------------------------------------------


def test_refreshed(world: World) -> None:
    """S54: keys are fetched again well within ten minutes, without anybody waiting; those of which
    nobody has asked are nobody's business.
    """
    world.refresh()
    assert world.fetches == 0
    assert world.finds("k1")
    world.seconds.now += REFRESH - 1
    world.refresh()
    assert world.fetches == 1
    world.seconds.now += 1
    world.issuer.rotate("k2")
    world.refresh()
    assert world.fetches == 2
    assert world.finds("k2")
    assert not world.finds("k1")
    assert world.removed == 1
    assert REFRESH <= 600


def test_refreshed_sooner_after_a_failure(world: World) -> None:
    """S51: what has failed is tried again after the cool-down."""
    assert world.finds("k1")
    world.issuer.respond = lambda _: (500, {}, b"")
    world.seconds.now += REFRESH
    world.refresh()
    asked = len(world.issuer.asked)
    world.seconds.now += COOL_DOWN
    world.issuer.respond = None
    world.refresh()
    assert len(world.issuer.asked) == asked + 2


def test_refreshed_in_a_child(world: World) -> None:
    """A process that was forked has the keys, and fetches them for itself."""
    assert world.finds("k1")
    world.keys._forget()  # noqa: SLF001  # as after a fork
    assert world.finds("k1")
    world.refresh()
    assert world.fetches == 2


def test_secret(issuer: Issuer) -> None:
    """S42, S48: HS256 is verified by the secret, whatever the key is called; nothing is fetched."""
    secret = b"s" * 32
    world = World(issuer, algorithms=("HS256",), secret=secret)
    assert world.finds("k1", "HS256")
    assert world.finds("", "HS256")
    world.refresh()
    assert issuer.asked == []


# --- fetching ----------------------------------------------------------------------------------

Respond = Callable[[str], tuple[int, dict[str, str], bytes] | None]


def answering(path: str, status: int, body: Any, **headers: str) -> Respond:
    """One path answers so, and others as ever."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda asked: (status, named, text) if asked == path else None


def asked_for(issuer: Issuer, respond: Respond | None, **values: Any) -> Sequence[Any]:
    issuer.respond = respond
    return fetch_keys(known(issuer.url, **values))


def test_metadata_in_order() -> None:
    """S85: metadata are looked for where RFC 8414 and OpenID Connect have them, in this order."""
    assert metadata_urls("https://h") == (f"https://h{OAUTH}", f"https://h{OPENID}")
    assert metadata_urls("https://h/") == metadata_urls("https://h")
    assert metadata_urls("https://h:8/a/b") == (
        f"https://h:8{OAUTH}/a/b",
        f"https://h:8{OPENID}/a/b",
        f"https://h:8/a/b{OPENID}",
    )


def test_discovery(issuer: Issuer) -> None:
    """S85: the first metadata that there are say where the keys are."""
    document = {"issuer": issuer.url, "jwks_uri": issuer.url + KEYS}

    def only_openid(path: str) -> tuple[int, dict[str, str], bytes] | None:
        if path == OAUTH:
            return 404, {}, b""
        return (200, {}, json.dumps(document).encode()) if path == OPENID else None

    assert asked_for(issuer, only_openid) == issuer.keys
    assert issuer.asked == [OAUTH, OPENID, KEYS]


def test_no_discovery(issuer: Issuer) -> None:
    """S85: where settings say where the keys are, nothing else is asked for."""
    assert asked_for(issuer, None, jwks_url=issuer.url + KEYS) == issuer.keys
    assert issuer.asked == [KEYS]


@pytest.mark.parametrize("suffix", ["/", "/other", "?a=b"])
def test_metadata_of_another_issuer(issuer: Issuer, suffix: str) -> None:
    """S85: metadata are the issuer's own, to the byte, or none."""
    document = {"issuer": issuer.url + suffix, "jwks_uri": issuer.url + KEYS}
    with pytest.raises(FetchError, match="another issuer"):
        asked_for(issuer, answering(OAUTH, 200, document))
    assert KEYS not in issuer.asked


@pytest.mark.parametrize(
    "url",
    ["http://example.com/keys", "file:///etc/passwd", "https://user@h/keys", "/keys", 7, None],
)
def test_keys_that_anybody_could_send(issuer: Issuer, url: Any) -> None:
    """S51: keys come over https, or from this machine."""
    with pytest.raises(FetchError, match="no keys over https"):
        asked_for(issuer, answering(OAUTH, 200, {"issuer": issuer.url, "jwks_uri": url}))


def test_no_redirects(issuer: Issuer) -> None:
    """S51: a redirect is no answer, wherever it leads."""
    with pytest.raises(FetchError, match="answers 302"):
        asked_for(issuer, answering(KEYS, 302, b"", Location=f"{issuer.url}/elsewhere"))
    assert issuer.asked == [OAUTH, KEYS]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"keys": [], "more": "x" * 256 * 1024}, {}),
        (gzip.compress(json.dumps({"keys": []}).encode(), mtime=0), {"Content_Encoding": "gzip"}),
        (b"", {}),
        (b"<html>", {}),
        ([], {}),
        ({}, {}),
        ({"keys": {}}, {}),
        (b'{"keys": [], "keys": []}', {}),
        ('{"keys": []}'.encode("utf-16"), {}),
    ],
)
def test_no_set_of_keys(issuer: Issuer, body: Any, headers: dict[str, str]) -> None:
    """S51: more than 256 KiB, what is compressed, and what is no set of keys are no keys."""
    with pytest.raises(FetchError):
        asked_for(issuer, answering(KEYS, 200, body, **headers))


@pytest.mark.parametrize(
    "begins",
    [
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\n\r\n{",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 9 + b"HTTP/1.1 200 OK\r\nX: ",
    ],
)
def test_drop_by_drop(begins: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """S51: an answer that comes a byte at a time ends with the patience, its header, too."""
    monkeypatch.setattr(fetching, "PATIENCE", 0.3)
    is_over = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):  # whoever has asked has given up
            connection.recv(4096)
            connection.sendall(begins)
            while not is_over.wait(0.01):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        dripping = pool.submit(drip, server)
        try:
            asked = pool.submit(fetch_keys, known(url, jwks_url=url + KEYS))
            with pytest.raises(FetchError):
                asked.result(30)
        finally:
            is_over.set()
        dripping.result(30)


def test_nobody_there() -> None:
    """S51: an issuer that does not listen is away; what is said of it holds no request."""
    with served() as issuer:
        url = issuer.url
    with pytest.raises(FetchError, match=f"^{url} does not answer: ConnectError$"):
        fetch_keys(known(url))
