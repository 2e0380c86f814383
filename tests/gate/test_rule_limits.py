"""Limits of rules: beside the plan's, taken together with them or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate, testing
from keyrush.core.concurrency import Want, Wants
from keyrush.errors import ConfigurationError, InvalidArgument
from keyrush.operations.keys import NewKey
from tests.conftest import Clock, settings
from tests.support.calls import Asgi, Sent, Wsgi, asgi_app, wsgi_app

PLANS = {"starter": {"limits": "100/minute"}, "pro": {"limits": "200/minute"}}


class World:
    """A gate with rules, behind one of the adapters."""

    def __init__(self, adapter: Any, app: Any, gate: Gate) -> None:
        self.gate = gate
        self.client = adapter(gate, app)

    def key(self, account_id: str = "acct_a", plan: str = "starter") -> NewKey:
        self.gate.accounts.create(account_id, plan=plan)
        return self.gate.keys.create(account_id, "agent")

    def get(self, key: NewKey, path: str, **more: Any) -> Any:
        return self.client.send(
            Sent(path, headers=[("authorization", f"Bearer {key.text}")], **more)
        )


Opening = Callable[..., World]


@pytest.fixture(params=["asgi", "wsgi"])
def opened(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Opening]:
    """Opens a gate with these rules, behind each adapter."""
    gates: list[Gate] = []

    def opening(*rules: dict[str, Any], app: Any = None, **values: Any) -> World:
        gate = Gate.open(settings(rules=list(rules), **{"plans": PLANS, **values}), clock=clock)
        gates.append(gate)
        if request.param == "asgi":
            return World(Asgi, app.asgi if app else asgi_app, gate)
        return World(Wsgi, app.wsgi if app else wsgi_app, gate)

    yield opening
    for gate in gates:
        gate.close()


def test_rule_and_plan(opened: Opening) -> None:
    """What a rule limits is refused beyond it, and elsewhere the plan alone counts."""
    world = opened({"path": "/export", "limits": ["2/minute"]})
    key = world.key()
    first = world.get(key, "/export")
    assert (first.status, first["x-ratelimit-limit"], first["x-ratelimit-remaining"]) == (
        200,
        "2",
        "1",
    )
    assert world.get(key, "/export").status == 200
    refused = world.get(key, "/export")
    assert refused.status == 429
    assert refused["x-ratelimit-remaining"] == "0"
    other = world.get(key, "/other")
    assert (other.status, other["x-ratelimit-limit"]) == (200, "100")
    # The refused request took nothing: three were let in.
    assert other["x-ratelimit-remaining"] == "97"


def test_by_plan(opened: Opening) -> None:
    """A rule may limit each plan otherwise; a plan that it does not name is not limited by it."""
    world = opened({"path": "/export", "limits": {"pro": "1/minute"}})
    starter, pro = world.key("acct_s"), world.key("acct_p", "pro")
    assert [world.get(pro, "/export").status for _ in range(2)] == [200, 429]
    assert [world.get(starter, "/export").status for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize("per", ["key", "account", "address"])
def test_whose_requests(opened: Opening, per: str) -> None:
    """A rule's limit is each key's, each account's or each client address's."""
    world = opened({"path": "/export", "limits": "1/minute", "per": per})
    first = world.key("acct_a")
    sister = world.gate.keys.create("acct_a", "sister")
    other = world.key("acct_b")
    statuses = [world.get(key, "/export").status for key in (first, sister, other)]
    expected = {"key": [200, 200, 200], "account": [200, 429, 200], "address": [200, 429, 429]}
    assert statuses == expected[per]


def test_a_shared_window(opened: Opening) -> None:
    """Rules of one group share its window, whatever path is asked for."""
    world = opened(
        {"path": "/search", "limits": "2/minute", "limit_group": "search"},
        {"path": "/suggest", "limit_group": "search"},
        {"path": "/export", "limits": "2/minute"},
    )
    key = world.key()
    paths = ("/search", "/suggest", "/suggest", "/search", "/export")
    assert [world.get(key, path).status for path in paths] == [200, 200, 429, 429, 200]


def test_cost(opened: Opening) -> None:
    """A request costs what its rule says, of the plan's windows and of the rule's."""
    world = opened({"path": "/export", "limits": "10/minute", "cost": 4})
    key = world.key()
    assert world.get(key, "/export")["x-ratelimit-remaining"] == "6"
    assert world.get(key, "/export")["x-ratelimit-remaining"] == "2"
    refused = world.get(key, "/export")
    assert (refused.status, refused["x-ratelimit-remaining"]) == (429, "2")
    assert world.get(key, "/other")["x-ratelimit-remaining"] == "91"
    world.gate.flush()
    assert world.gate.usage.this_month("acct_a").counted == 3  # which is no number of units


def test_until_when(opened: Opening, clock: Clock) -> None:
    """S21: who is refused by a rule is admitted when Retry-After has passed, and not before."""
    world = opened({"path": "/export", "limits": "1/minute"})
    key = world.key()
    assert world.get(key, "/export").status == 200
    wait = int(world.get(key, "/export")["retry-after"])
    clock.advance((wait - 1) * 1000)
    assert world.get(key, "/export").status == 429
    clock.advance(1000)
    assert world.get(key, "/export").status == 200


def test_ietf_fields(opened: Opening) -> None:
    """S28: RateLimit-Policy names the rule's windows beside the plan's."""
    world = opened({"path": "/a/{x}", "limits": "2/minute"}, headers="ietf")
    answer = world.get(world.key(), "/a/1")
    assert answer["ratelimit-policy"] == '"minute";q=100;w=60, "/a/{x}-minute";q=2;w=60'
    assert answer["ratelimit"].startswith('"/a/{x}-minute";r=1;')


def test_a_refusal_takes_nothing(opened: Opening) -> None:
    """What the rules refuse takes nothing of any window (R7), and shows how they stand."""
    world = opened({"path": "/admin", "limits": "1/minute", "scopes": ["admin"]}, scopes=["read"])
    key = world.key()
    reader = world.gate.keys.create("acct_a", "reader", scopes=["read"])
    refused = [world.get(reader, "/admin") for _ in range(3)]
    assert [(one.status, one["x-ratelimit-remaining"]) for one in refused] == [(403, "1")] * 3
    assert world.get(key, "/admin").status == 200


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([{"path": "/a", "limits": "x"}], "rules.0.limits"),
        ([{"path": "/a", "limits": {"gold": "1/minute"}}], "gold is no plan"),
        ([{"path": "/a", "limits": "1/minute", "per": "user"}], "rules.0.per"),
        ([{"path": "/a", "limit_group": "g"}], "limit_group: no rule says the limits of g"),
        (
            [
                {"path": "/a", "limit_group": "g", "limits": "1/minute"},
                {"path": "/b", "limit_group": "g", "limits": "2/minute"},
            ],
            "1.limit_group: g has other limits elsewhere",
        ),
        ([{"path": "/a", "cost": 0}], "rules.0.cost"),
        ([{"path": "/a", "wait": "soon"}], "rules.0.wait"),
        ([{"path": "/a", "max_concurrent": 0}], "rules.0.max_concurrent"),
        ([{"path": "/a", "per": "account"}], "per goes with limits"),
    ],
)
def test_wrong_rules(rules: list[dict[str, Any]], said: str) -> None:
    """A wrong limit of a rule stops the start-up and names the field."""
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        settings(rules=rules, plans=PLANS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("limits", "1/minute"), ("limit_group", "g"), ("max_concurrent", 1), ("cost", 2)],
)
@pytest.mark.parametrize("method", ["tools/list", "notifications/cancelled"])
def test_what_is_free_in_mcp(method: str, name: str, value: object) -> None:
    """A rule of messages that are never limited says no limit, which nobody would heed."""
    group = {"path": "/a", "limit_group": "g", "limits": "1/minute"}
    with pytest.raises(ConfigurationError, match=f"never limited: leave {name} out"):
        settings(rules=[group, {"path": "/mcp", "mcp": method, name: value}], plans=PLANS)


# --- in code ---


class Weighed:
    """An app that weighs its requests as their query says, before it answers or afterwards."""

    def __init__(self, *calls: tuple[str, tuple[Any, ...], dict[str, Any]]) -> None:
        self.calls = list(calls)
        self.callers: list[Any] = []

    def weigh(self, principal: Any) -> None:
        self.callers.append(principal)
        for name, args, named in self.calls:
            getattr(principal, name)(*args, **named)

    def wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        self.weigh(environ["keyrush.principal"])
        return wsgi_app(environ, start_response)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.callers.append(scope["keyrush"])
        for name, args, named in self.calls:
            if name == "cost_after":
                scope["keyrush"].cost_after(*args, **named)
            else:
                await getattr(scope["keyrush"], f"{name}_async")(*args, **named)
        await asgi_app(scope, receive, send)


def test_limits_by_name(opened: Opening) -> None:
    """A limit in code is its name's, wherever it is asked for; what it refuses takes nothing."""
    app = Weighed(("limit", ("2/minute",), {"name": "export"}))
    world = opened(app=app)
    key = world.key()
    answers = [world.get(key, f"/{number}") for number in range(3)]
    assert [one.status for one in answers] == [200, 200, 429]
    assert [one["x-ratelimit-limit"] for one in answers] == ["2", "2", "2"]
    assert [one["x-ratelimit-remaining"] for one in answers] == ["1", "0", "0"]
    assert int(answers[2]["retry-after"]) > 0
    app.calls.clear()
    assert world.get(key, "/")["x-ratelimit-remaining"] == "97"


@pytest.mark.parametrize(("first", "then"), [("limit", "refuse"), ("cost", "refuse")])
def test_given_back(opened: Opening, first: str, then: str) -> None:
    """What a request has taken in code is given back where it is refused later."""
    taking = (
        ("limit", ("2/minute",), {"name": "export"}) if first == "limit" else ("cost", (50,), {})
    )
    app = Weighed(taking, ("limit", ("0/minute",), {"name": then}))
    world = opened(app=app)
    key = world.key()
    assert [world.get(key, "/").status for _ in range(5)] == [429] * 5
    app.calls.pop()
    assert world.get(key, "/").status == 200


def test_cost_in_code(opened: Opening) -> None:
    """An app says what a request costs in all, more than its rule says or less."""
    app = Weighed(("cost", (30,), {}))
    world = opened({"path": "/dear", "cost": 50}, app=app)
    key = world.key()
    assert world.get(key, "/")["x-ratelimit-remaining"] == "70"
    world.get(key, "/dear")
    app.calls[:] = [("cost", (1,), {})]
    assert world.get(key, "/")["x-ratelimit-remaining"] == "39"
    app.calls[:] = [("cost", (40,), {})]
    refused = world.get(key, "/")
    assert (refused.status, refused["x-ratelimit-remaining"]) == (429, "38")


def test_cost_afterwards(opened: Opening, clock: Clock) -> None:
    """What is known late is counted whole, beyond the limit; who comes next waits for it."""
    app = Weighed(("cost_after", (150,), {}))
    world = opened(app=app)
    key = world.key()
    assert world.get(key, "/").status == 200
    app.calls.clear()
    refused = world.get(key, "/")
    assert refused.status == 429
    # 150 of the minute before are 100 or more until a third of this one has passed.
    assert int(refused["retry-after"]) == 60 + 21
    clock.advance(80_000)
    assert world.get(key, "/").status == 429
    clock.advance(1000)
    assert world.get(key, "/").status == 200


@pytest.mark.parametrize("where", ["memory://", "file"])
def test_a_cost_beyond_all_limits(opened: Opening, where: str, tmp_path: Path) -> None:
    """However many tokens or rows it was, they are counted: then nobody gets through in this minute
    or the next; and what a client asks too much of is refused, no error.
    """
    app = Weighed()
    limiter = where if where == "memory://" else f"file://{tmp_path}/windows"
    world = opened(app=app, limiter_url=limiter)
    for number, units in enumerate((1_048_577, 1_000_000_000)):
        key = world.key(f"acct_{number}")
        app.calls = [("cost", (units,), {})]
        assert world.get(key, "/").status == 429
        app.calls = [("cost_after", (units,), {})]
        assert world.get(key, "/")["x-ratelimit-remaining"] == "99"
        app.calls = []
        assert int(world.get(key, "/")["retry-after"]) > 60


def test_nothing_is_left_of_a_refusal(opened: Opening) -> None:
    """What was given back already is not taken again where the request is refused later."""
    app = Weighed(("cost", (7,), {}), ("cost", (0,), {}), ("limit", ("0/minute",), {"name": "x"}))
    world = opened(app=app)
    key = world.key()
    assert [world.get(key, "/").status for _ in range(5)] == [429] * 5
    app.calls.clear()
    assert world.get(key, "/")["x-ratelimit-remaining"] == "99"


def test_a_price_of_what_was_refused(opened: Opening) -> None:
    """A refused request consumes nothing, and gives nothing back twice, whatever it says then."""
    app = Weighed(("limit", ("0/minute",), {"name": "x"}))
    world = opened(app=app)
    key = world.key()
    refusal, app.calls = app.calls, []
    for _ in range(3):
        world.get(key, "/")
    app.calls = refusal
    assert world.get(key, "/").status == 429
    app.callers[-1].cost_after(0)
    app.callers[-1].cost_after(50)
    app.calls = []
    assert world.get(key, "/")["x-ratelimit-remaining"] == "96"


def test_a_cost_between_two_minutes(opened: Opening, clock: Clock) -> None:
    """What is given back is given back where it was taken."""
    app = Weighed()
    world = opened(app=app)
    key = world.key()
    world.get(key, "/")
    caller = app.callers[-1]
    clock.advance(60_000)
    caller.cost_after(50)
    caller.cost_after(0)
    assert world.get(key, "/")["x-ratelimit-remaining"] == "99"


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (("limit", ("5/minute",), {"name": ""}), "name"),
        (("limit", ("x",), {"name": "a"}), "limits"),
        (("limit", ("5/minute",), {"name": "a", "per": "address"}), "per"),
        (("limit", ("5/minute",), {"name": "a", "cost": -1}), "cost"),
        (("cost", (-1,), {}), "cost"),
        (("cost_after", (10**9 + 1,), {}), "cost"),
        (("cost_after", (1.5,), {}), "cost"),
    ],
)
def test_wrong_arguments(gate: Gate, call: tuple[str, tuple[Any, ...], Any], field: str) -> None:
    """A wrong argument names the field."""
    gate.accounts.create("acct_a")
    principal = testing.caller(gate, gate.keys.create("acct_a", "agent"))
    name, args, named = call
    with pytest.raises(InvalidArgument) as caught:
        getattr(principal, name)(*args, **named)
    assert caught.value.field == field


# --- a gate within the gate ---


class Outer:
    """An app that sends all requests on to `/inner` behind the same gate."""

    def __init__(self) -> None:
        self.inner: Any = None  # its middleware

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        await self.inner({**scope, "path": "/inner", "raw_path": b"/inner"}, receive, send)

    def wsgi(self, environ: Any, start_response: Any) -> Any:
        inner = {"PATH_INFO": "/inner", "REQUEST_URI": "/inner"}
        return self.inner({**environ, **inner}, start_response)


@pytest.fixture(params=["/outer", "/inner"])
def nested(request: pytest.FixtureRequest, opened: Opening) -> Callable[..., Any]:
    """Opens a world whose app is behind its gate once more, and says how to get at `/inner`, by
    another path or that very one.
    """

    def opening(*rules: dict[str, Any], **values: Any) -> tuple[World, Callable[[NewKey], Any]]:
        outer = Outer()
        world = opened(*rules, app=outer, **values)
        inner = Asgi(world.gate) if isinstance(world.client, Asgi) else Wsgi(world.gate)
        outer.inner = inner.middleware
        return world, lambda key: world.get(key, request.param)

    return opening


@pytest.mark.parametrize("per", ["key", "account", "address"])
def test_an_inner_gate_keeps_limits(nested: Any, per: str) -> None:
    """Behind a second gate what the rules of its path limit and cost is taken, once."""
    world, get = nested({"path": "/inner", "limits": "7/minute", "cost": 3, "per": per})
    key = world.key()
    answers = [get(key) for _ in range(3)]
    assert [one.status for one in answers] == [200, 200, 429]
    assert [one["x-ratelimit-remaining"] for one in answers] == ["4", "1", "1"]
    assert world.get(key, "/inner", method="OPTIONS").status == 429
    looked = world.gate.admission.begin(
        "GET", "/other", None, "", [(b"x-api-key", key.text.encode())], b""
    )
    assert (b"x-ratelimit-remaining", b"93") in looked[1]  # two of 3, and this one


def test_an_inner_gate_keeps_slots(nested: Any) -> None:
    """Behind a second gate no more are under way than its rule says, each once."""
    world, get = nested({"path": "/inner", "max_concurrent": 1})
    key = world.key()
    assert [get(key).status for _ in range(3)] == [200] * 3
    want = Want(f"key:{key.key.lineage}|rule /inner", 1)
    held = world.gate.concurrency.take(Wants((want,)))
    refused = get(key)
    assert (refused.status, refused["retry-after"]) == (429, "1")
    assert refused["x-ratelimit-remaining"] == "97"
    world.gate.concurrency.give_back(held.slots)
    assert get(key).status == 200


@pytest.mark.parametrize("place", ["postgres_url", "valkey_url"])
def test_an_inner_gate_on_servers(nested: Any, request: pytest.FixtureRequest, place: str) -> None:
    """It is the same where windows and slots are counted on a server."""
    url = request.getfixturevalue(place)
    where = {"store_url": url, "pepper": "p" * 32}
    if place == "valkey_url":
        where = {"limiter_url": url}
    rule = {"path": "/inner", "limits": "2/minute", "max_concurrent": 1}
    world, get = nested(rule, limiter_mode="exact", **where)
    key = world.key()
    assert [get(key).status for _ in range(3)] == [200, 200, 429]


def test_an_inner_gate_observes(nested: Any) -> None:
    """What a rule of an inner path only observes refuses nobody there, and is told."""
    world, get = nested({"path": "/inner", "limits": "1/minute", "mode": "observe"})
    key = world.key()
    answers = [get(key) for _ in range(2)]
    assert [one.status for one in answers] == [200, 200]
    told = ["x-ratelimit-would-limit" in one for one in answers]
    assert told == [False, True]


def test_a_request_that_goes_on(gate: Gate, clock: Clock) -> None:
    """What a long request takes again and again is remembered as one, and given back exactly."""
    gate.accounts.create("acct_a")
    principal = testing.caller(gate, gate.keys.create("acct_a", "agent"))
    for number in range(500):
        principal.limit("1000/minute", name="message")
        principal.limit("1000/second", name=f"item {number}")
        principal.cost_after(number % 50)
        clock.advance(1000)
    assert len(principal.takes) <= 120
    principal.cost_after(50)
    demands = [one for taken in principal.takes for one in taken.demands]
    own = principal.verified.windows
    assert sum(one.cost for one in demands if one.windows == own) == 50
