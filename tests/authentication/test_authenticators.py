"""A second kind of credential, of a few lines: behind it everything is as for API keys."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from keyrush import Gate
from keyrush.authentication.protocol import Authenticator, Proof, Work
from keyrush.core.identity import Claims, account_subject, key_subject
from keyrush.core.key_text import KeyFormat
from keyrush.core.times import month_of
from keyrush.store.memory import MemoryStore
from keyrush.wire.request import Credential
from tests.conftest import Clock, settings
from tests.support.calls import Asgi, Reply, Sent, Wsgi
from tests.support.faults import until

#: Two accounts alike, one of which calls with a key and the other with a token.
KEYS, TOKENS = "acct_k", "acct_t"

VARIABLE = "TOKENS_OF_TESTS"

TOKEN, UNKNOWN = "tok_of_the_pipeline", "tok_of_nobody"

SETTINGS: dict[str, Any] = {
    "scopes": "read",
    "plans": {
        "starter": {"limits": "3/minute", "monthly_quota": 5, "on_exceed": "block"},
        "pro": {"limits": "50/minute;500/hour"},
    },
    "rules": [
        {"path": "/admin", "scopes": ["admin"]},
        {"path": "/scores", "modules": ["scores"]},
        {"path": "/paid", "credits": 2},
    ],
}


class Tokens:
    """The tokens in an environment variable, by name; each says its account and its scopes."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._known: dict[str, Any] = json.loads(os.environ[VARIABLE])
        self._names = {Credential(it["token"].encode()).digest: n for n, it in self._known.items()}
        self.is_away = False
        self.asked: list[str] = []

    def may_be_mine(self, credential: Credential) -> bool:
        return credential.text.startswith(b"tok_")

    def prove(
        self, credential: Credential, known: str | None, now: int
    ) -> Proof[str] | Work[str] | None:
        self._ask("prove")
        name = self._names.get(credential.digest)
        return None if name is None else self._proof(name, now)

    def renew(self, known: str, now: int) -> Proof[str] | None:
        self._ask("renew")
        return self._proof(known, now)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.is_away:
            raise ConnectionError("the issuer is away")

    def _proof(self, name: str, now: int) -> Proof[str] | None:
        token = self._known[name]
        account, ends_at = self._store.account(token["account"]), token["ends_at"]
        if account is None or (ends_at is not None and now >= ends_at):
            return None
        claims = Claims(
            id=name,
            lineage=name,
            name=name,
            prefix="tok_...",
            scopes=("read",),
            environment="live",
            ends_at=ends_at,
            source="token",
        )
        subjects = key_subject(name), account_subject(account.id)
        month = month_of(now)
        own, all_of_it = (self._store.usage(subject, month) for subject in subjects)
        return Proof(claims, account, own, all_of_it, name)


class Laborious(Tokens):
    """The same, where the proof is work for a core."""

    def prove(
        self, credential: Credential, known: str | None, now: int
    ) -> Proof[str] | Work[str] | None:
        return lambda: self._proof(self._names[credential.digest], now)


class World:
    """A gate that knows keys and tokens, and the accounts of one of each."""

    def __init__(self, clock: Clock, kind: type[Tokens] = Tokens) -> None:
        self.clock = clock
        self.store = MemoryStore()
        self.tokens = kind(self.store)
        known: Authenticator[str] = self.tokens
        self.gate = Gate.open(
            settings(**SETTINGS), store=self.store, clock=clock, authenticators=[known]
        )
        for account_id in (KEYS, TOKENS):
            self.gate.accounts.create(account_id)
        self.key = self.gate.keys.create(KEYS, "ci", scopes=["read"]).text

    def ask(self, adapter: Any, credential: str, path: str = "/", app: Any = None) -> Reply:
        sent = Sent(path, [("Authorization", f"Bearer {credential}")])
        made = adapter(self.gate) if app is None else adapter(self.gate, app)
        reply: Reply = made.send(sent)
        return reply

    def alike(self, adapter: Any, *paths: str) -> list[Reply]:
        """The answers to the token, which are to the byte those that a key gets."""
        replies = [self.ask(adapter, TOKEN, path) for path in paths]
        of_a_key = [self.ask(adapter, self.key, path) for path in paths]
        assert [it.body.replace(b"acct_t", b"acct_k") for it in replies] == [
            it.body for it in of_a_key
        ]
        assert [(it.status, it.headers) for it in replies] == [
            (it.status, it.headers) for it in of_a_key
        ]
        return replies


def tokens_in(monkeypatch: pytest.MonkeyPatch, ends_at: int | None = None) -> None:
    """Put the token of the tests into the environment."""
    found = {"ci": {"token": TOKEN, "account": TOKENS, "ends_at": ends_at}}
    monkeypatch.setenv(VARIABLE, json.dumps(found))


@pytest.fixture
def world(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world whose token never ends by itself."""
    tokens_in(monkeypatch)
    made = World(clock)
    yield made
    made.gate.close()


both = pytest.mark.parametrize("adapter", [Asgi, Wsgi])


@both
def test_known_to_the_app(world: World, adapter: Any) -> None:
    """The app finds the caller of a token where it finds that of a key, and what has proved it."""
    (reply,) = world.alike(adapter, "/")
    assert (reply.status, reply.body) == (200, b"acct_t live ci")
    told: list[str] = []

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        told.append(environ["keyrush.principal"].source)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        told.append(scope["keyrush"].source)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    for credential in (TOKEN, world.key):
        world.ask(adapter, credential, app=asgi_app if adapter is Asgi else wsgi_app)
    assert told == ["token", "key"]


@both
def test_scopes_modules_and_credits(world: World, adapter: Any) -> None:
    """R4, R7, O12: what a token may not do, or can't pay, is refused in the words for keys."""
    replies = world.alike(adapter, "/admin", "/scores", "/paid")
    assert [reply.status for reply in replies] == [403, 403, 402]
    for account_id in (KEYS, TOKENS):
        world.gate.credits.grant(account_id, 5)
    assert [reply.status for reply in world.alike(adapter, "/paid")] == [200]
    assert world.gate.accounts.get(TOKENS).balance == 3


@both
def test_limits_and_quota(world: World, adapter: Any) -> None:
    """R6, R13: windows, the monthly quota and their header fields are those of the plan."""
    statuses = [reply.status for reply in world.alike(adapter, *["/"] * 4)]
    assert statuses == [200, 200, 200, 429]
    world.clock.advance(120_000)
    replies = world.alike(adapter, *["/"] * 3)
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[-1].json["error"].startswith("Monthly quota exceeded.")
    world.gate.flush()
    month = month_of(world.clock())
    assert world.store.usage(key_subject("ci"), month) == 5
    assert world.store.usage(account_subject(TOKENS), month) == 5


@both
def test_unknown_ones_read_alike(world: World, adapter: Any) -> None:
    """S4: an unknown token, an unknown key and rubbish are refused with one and the same answer;
    an unknown one is remembered, and asked about once.
    """
    stranger = KeyFormat("kr", ("live", "test")).mint("live").text.decode()
    answers = [world.ask(adapter, it) for it in (UNKNOWN, UNKNOWN, stranger, "rubbish")]
    assert answers == [answers[0]] * 4
    assert answers[0].status == 401
    assert world.tokens.asked == ["prove"]


@both
def test_one_that_cannot_tell_its_own(
    world: World, adapter: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Closed by default: an authenticator that fails to say what is its own is passed over, its
    credentials are refused like unknown ones, and those of others go on.
    """

    def failing(_: Credential) -> bool:
        raise LookupError("no shape")

    monkeypatch.setattr(world.tokens, "may_be_mine", failing)
    assert world.ask(adapter, TOKEN).status == 401
    assert world.ask(adapter, world.key).status == 200
    assert "passed over" in caplog.text


@both
def test_cached_and_changed_at_once(world: World, adapter: Any) -> None:
    """A token is proved once, until its time to live is over or its account changes."""
    assert {world.ask(adapter, TOKEN)["x-ratelimit-limit"] for _ in range(3)} == {"3"}
    assert world.tokens.asked == ["prove"]
    world.gate.accounts.set_plan(TOKENS, "pro")
    assert world.ask(adapter, TOKEN)["x-ratelimit-limit"] == "50"
    world.clock.advance(5000)
    assert world.ask(adapter, TOKEN).status == 200
    assert world.tokens.asked == ["prove"] * 3


def test_renewed_ahead_of_need(world: World) -> None:
    """A token in use is renewed by its evidence alone, so that no request waits for it."""
    assert world.ask(Wsgi, TOKEN).status == 200
    world.clock.advance(3001)
    assert world.ask(Wsgi, TOKEN).status == 200
    until(lambda: world.tokens.asked == ["prove", "renew"])


@both
def test_its_issuer_is_away(world: World, adapter: Any, caplog: pytest.LogCaptureFixture) -> None:
    """S19: who was proved before goes on for STALE_IF_ERROR, whoever is new gets 503; keys are
    not concerned.
    """
    world.gate.accounts.set_plan(TOKENS, "pro")
    assert world.ask(adapter, TOKEN).status == 200
    world.tokens.is_away = True
    for _ in range(6):
        world.clock.advance(10_000)
        assert world.ask(adapter, TOKEN).status == 200
    world.clock.advance(10_000)
    for credential in (TOKEN, UNKNOWN):
        reply = world.ask(adapter, credential)
        assert (reply.status, reply["retry-after"]) == (503, "5")
    assert world.ask(adapter, world.key).status == 200
    assert "a credential can't be verified: ConnectionError: the issuer is away" in caplog.text
    world.tokens.is_away = False
    assert world.ask(adapter, TOKEN).status == 200


@both
@pytest.mark.parametrize("is_away", [False, True])
def test_ends_to_the_millisecond(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, adapter: Any, is_away: bool
) -> None:
    """R5: on every hit it is looked at whether the token has ended, also while nobody can say."""
    tokens_in(monkeypatch, clock.now + 4000)
    world = World(clock)
    assert world.ask(adapter, TOKEN).status == 200
    world.tokens.is_away = is_away
    clock.advance(3999)
    assert world.ask(adapter, TOKEN).status == 200
    clock.advance(1)
    assert world.ask(adapter, TOKEN).status == 401
    clock.advance(5000)
    assert world.ask(adapter, TOKEN).status == 401
    world.gate.close()


def test_work_is_done_in_its_own_threads(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an authenticator says is work for a core keeps no look-up and no event loop waiting."""
    tokens_in(monkeypatch)
    world = World(clock, Laborious)
    pools: list[str] = []
    submit = world.gate.workers.submit

    def counted(pool: Any, *args: Any, **options: Any) -> Any:
        pools.append(pool)
        return submit(pool, *args, **options)

    monkeypatch.setattr(world.gate.workers, "submit", counted)
    assert world.ask(Asgi, TOKEN).status == 200
    assert pools == ["io", "hash"]
    assert world.ask(Wsgi, TOKEN).status == 200
    world.gate.close()


def test_nothing_of_it_is_written_as_of_a_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`last_used_at` is kept of keys alone: the store hears nothing of a token's name."""
    touched: list[Any] = []
    add = world.store.add_usage

    def seen(*args: Any) -> Any:
        touched.extend(args[3])
        return add(*args)

    monkeypatch.setattr(world.store, "add_usage", seen)
    for credential in (TOKEN, world.key):
        assert world.ask(Wsgi, credential).status == 200
        assert world.ask(Wsgi, credential).status == 200
    world.gate.flush()
    assert touched == [world.store.keys()[0].id]
