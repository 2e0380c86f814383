"""What users write, as type checkers see it. Never run: `make types` is the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Never, assert_type

import pytest
from fastapi import FastAPI, Security
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

import keyrush.fastapi
from keyrush import (
    ConfigurationError,
    Gate,
    InvalidArgument,
    KeyrushError,
    KeyrushMiddleware,
    Principal,
    Refusal,
    Refused,
    Scopes,
    Settings,
    StoreError,
    TooManyKeys,
    testing,
    wsgi,
)
from keyrush.apps import account_api, add_openapi
from keyrush.core.ledger import Entry, Posting, Refill
from keyrush.core.sliding import Tally, Window
from keyrush.limiter.protocol import SmallLimiter
from keyrush.store.memory import MemoryStore
from keyrush.store.protocol import Store

# --- in front of an app ------------------------------------------------------------------------


async def articles(request: Request) -> Response:
    """Starlette: the caller is `request.user`, which Starlette does not type."""
    caller: Principal = request.scope["keyrush"]
    caller.require_scope("read:articles", "read:drafts")
    caller.require_module("sentiment")
    assert_type(caller.has_module("translations"), bool)
    assert_type(await caller.charge_async(3), int | None)
    return JSONResponse({"name": caller.name, "plan": caller.plan})


app = Starlette(routes=[Route("/articles", articles), Mount("/v1", app=account_api)])
app.add_middleware(KeyrushMiddleware)
app.add_middleware(KeyrushMiddleware, settings=Settings(key_prefix="or"))
app.add_middleware(KeyrushMiddleware, gate=Gate.open())

bare = KeyrushMiddleware(app)
given = KeyrushMiddleware(bare, gate=Gate.open(Settings(store_url="memory://")))


def wsgi_app(environ: dict[str, object], start_response: object) -> list[bytes]:
    """Any WSGI app."""
    caller = environ["keyrush.principal"]
    assert isinstance(caller, Principal)
    assert_type(caller.charge(3), int | None)
    return [b""]


application = wsgi.KeyrushMiddleware(wsgi_app)
shared = wsgi.KeyrushMiddleware(wsgi_app, gate=Gate.open())

# --- who calls ---------------------------------------------------------------------------------


def describe(caller: Principal) -> str:
    """All that an app may ask of its caller."""
    assert_type(caller.account_id, str)
    assert_type(caller.key_id, str | None)
    assert_type(caller.subject, str | None)
    assert_type(caller.session_id, str | None)
    assert_type(caller.client_id, str | None)
    assert_type(caller.source, str)
    assert_type(caller.name, str)
    assert_type(caller.environment, str | None)
    assert_type(caller.scopes, Scopes)
    assert_type(caller.plan, str)
    assert_type("read:articles" in caller.scopes, bool)
    return caller.display_name


def refused(caller: Principal) -> str:
    """What is raised to refuse."""
    try:
        caller.charge(1)
    except Refused as error:
        assert_type(error.refusal, Refusal)
        return f"{error.refusal.status} {error.refusal.reason}"
    return "paid"


def never(caller: Principal) -> Never:
    """What always raises ends a function, as checkers know."""
    caller.refuse(Refusal("rate_limited", retry_after=30))


# --- FastAPI -----------------------------------------------------------------------------------

api = FastAPI()
api.add_middleware(KeyrushMiddleware)

Reader = Annotated[Principal, Security(keyrush.fastapi.principal, scopes=["read:articles"])]


@api.get("/articles")
async def read(caller: Reader) -> dict[str, str]:
    """The dependency gives a Principal."""
    return {"account": caller.account_id}


assert_type(add_openapi(api.openapi(), "/v1"), dict[str, Any])

# --- operations --------------------------------------------------------------------------------


def operate(gate: Gate) -> list[str]:
    """Accounts, keys and credits in code."""
    try:
        gate.accounts.create("acct_1", plan="pro")
        made = gate.keys.create("acct_1", "ci", scopes=["read:*"], environment="test")
    except (TooManyKeys, InvalidArgument, StoreError, ConfigurationError) as error:
        assert_type(str(error), str)
        raise KeyrushError(str(error)) from error
    assert_type(made.text, str)
    assert_type(gate.credits.grant("acct_1", 100), int)
    gate.keys.rotate(made.key.id)
    gate.keys.revoke(made.key.id)
    state = gate.health()
    assert_type(state.is_well, bool)
    gate.close()
    return [key.prefix for key in gate.keys.list("acct_1")]


# --- of one's own ------------------------------------------------------------------------------


class Limiter:
    """A limiter of three methods."""

    def take(self, windows: Sequence[Window], cost: int, now: int) -> Tally:
        """Nothing limits."""
        return Tally(admitted=bool(windows), window=None, remaining=cost, ready_at=now)

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing to let go of."""


class Watched(MemoryStore):
    """A store that sees what is added to balances."""

    def post(self, account_id: str, posting: Posting, refill: Refill | None = None) -> Entry | None:
        """As the store in memory."""
        return super().post(account_id, posting, refill)


limiter: SmallLimiter = Limiter()
store: Store = Watched()
own = Gate.open(Settings(pepper="p" * 32), store=store, limiter=limiter)
also = Gate.open(Settings(pepper="p" * 32), store=Watched(), limiter=Limiter())


def document(refusal: Refusal, text: str) -> tuple[str, bytes]:
    """A body of one's own, as `KEYRUSH_ERRORS` names it."""
    return "text/plain", f"{refusal.reason}: {text}".encode()


# --- testing -----------------------------------------------------------------------------------


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate in memory, with a clock to turn."""
    clock = testing.Clock()
    opened = testing.open_gate(clock, config="keyrush.toml")
    clock.advance(seconds=120)
    yield opened
    opened.close()


def check(gate: Gate) -> None:
    """Keys and callers for tests."""
    key = testing.create_key(gate, scopes=["read:articles"], plan="pro", credits=5)
    sent: Mapping[str, str] = testing.headers(gate, key)
    assert_type(testing.caller(gate, key), Principal)
    with testing.calling(gate, key) as same:
        assert_type(same.text, str)
    assert sent
