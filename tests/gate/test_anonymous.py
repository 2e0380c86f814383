"""Requests without a key, on paths that need none: limited by the client's address."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from keyrush import Gate
from keyrush.core.concurrency import Want, Wants
from keyrush.core.refusal import Refusal
from keyrush.errors import ConfigurationError, InvalidArgument
from keyrush.gate.addresses import CROWDS, UNKNOWN, AddressSubjects
from keyrush.gate.principal import Anonymous
from keyrush.operations.keys import NewKey
from tests.conftest import Clock, settings
from tests.support.calls import Asgi, Reply, Sent, Wsgi
from tests.support.resources import RESOURCE

LIMITED = {"limits": ["2/minute"]}


class World:
    """A gate behind one of the adapters, that sees the client as `X-Forwarded-For` says."""

    def __init__(self, adapter: Any, gate: Gate) -> None:
        self.gate = gate
        self.client = adapter(gate)

    def get(self, path: str, address: str = "192.0.2.1", key: NewKey | None = None) -> Reply:
        headers: list[tuple[str, str | bytes]] = [("X-Forwarded-For", address)]
        if key is not None:
            headers.append(("Authorization", f"Bearer {key.text}"))
        reply: Reply = self.client.send(Sent(path, headers))
        return reply


Opening = Callable[..., World]


@pytest.fixture(params=["asgi", "wsgi"])
def opened(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Opening]:
    """Opens a gate behind each adapter."""
    gates: list[Gate] = []

    def opening(**values: Any) -> World:
        given = {"trusted_proxies": ("127.0.0.1",), "anonymous": LIMITED, **values}
        gates.append(Gate.open(settings(**given), clock=clock))
        return World(Asgi if request.param == "asgi" else Wsgi, gates[-1])

    yield opening
    for gate in gates:
        gate.close()


OPEN = [{"public_paths": ("/open",)}, {"optional_paths": ("/open",)}]


@pytest.mark.parametrize("where", OPEN, ids=["public", "optional"])
def test_by_address(opened: Opening, where: dict[str, Any]) -> None:
    """Who comes without a key has so many requests an address, with fields and 429 as anybody."""
    world = opened(**where)
    answers = [world.get("/open") for _ in range(3)]
    assert [one.status for one in answers] == [200, 200, 429]
    assert [one["x-ratelimit-remaining"] for one in answers] == ["1", "0", "0"]
    assert int(answers[2]["retry-after"]) > 0
    assert world.get("/open", "192.0.2.2").status == 200


def test_off_by_default(opened: Opening) -> None:
    """Without the table nobody is limited, and no fields are added."""
    world = opened(anonymous=None, public_paths=("/open",))
    answers = [world.get("/open") for _ in range(30)]
    assert {one.status for one in answers} == {200}
    assert not any(name.startswith("x-ratelimit") for name, _ in answers[0].headers)


def test_with_a_key(opened: Opening, clock: Clock) -> None:
    """On an optional path whoever sends a good key is held to their plan alone."""
    world = opened(optional_paths=("/open",))
    world.gate.accounts.create("acct_a")
    key = world.gate.keys.create("acct_a", "agent")
    assert [world.get("/open").status for _ in range(3)] == [200, 200, 429]
    assert world.get("/open", key=key)["x-ratelimit-limit"] == "100"
    clock.advance(120_000)
    assert [world.get("/open", key=key).status for _ in range(5)] == [200] * 5
    assert world.get("/open").status == 200


@pytest.mark.parametrize("per", ["key", "account", "address"])
@pytest.mark.parametrize("where", OPEN, ids=["public", "optional"])
def test_rules(opened: Opening, per: str, where: dict[str, Any]) -> None:
    """A rule's limits hold for who comes without a key too, by address, on top of the others."""
    rule = {"path": "/open", "limits": "1/minute", "per": per}
    world = opened(anonymous=None, rules=[rule], **where)
    assert [world.get("/open").status for _ in range(2)] == [200, 429]
    assert world.get("/open", "192.0.2.2").status == 200


@pytest.mark.parametrize("where", OPEN, ids=["public", "optional"])
def test_cost(opened: Opening, where: dict[str, Any]) -> None:
    """What a rule says of the cost holds for who comes without a key, be it the only one."""
    rule = {"path": "/open", "cost": 5}
    world = opened(anonymous={"limits": "10/minute"}, rules=[rule], **where)
    assert [world.get("/open").status for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("where", OPEN, ids=["public", "optional"])
def test_a_gate_within_the_gate(opened: Opening, where: dict[str, Any]) -> None:
    """Who passes the same gate twice is counted once, by what holds at either path."""
    rule = {"path": "/open", "limits": "3/minute", "cost": 3}
    world = opened(anonymous={"limits": "100/minute"}, rules=[rule], **where)
    adapter = type(world.client)
    twice = adapter(world.gate, adapter(world.gate).middleware)
    for _ in range(2):
        reply = twice.send(Sent("/open", [("X-Forwarded-For", "192.0.2.7")]))
    assert reply.status == 429
    for _ in range(32):
        assert world.get("/open", "192.0.2.7").status == 429


def test_metadata_of_resources(opened: Opening, valkey_url: str) -> None:
    """S52: what anybody may ask of a resource is never limited, wherever windows are counted."""
    world = opened(resources=[RESOURCE], limiter_url=valkey_url, limiter_mode="exact")
    path = "/.well-known/oauth-protected-resource/mcp"
    answers = [world.get(path) for _ in range(5)]
    assert {(one.status, one.json["resource"]) for one in answers} == {(200, RESOURCE["resource"])}


def test_noted(opened: Opening) -> None:
    """Behind a proxy a rule by address is about the client's, whatever else is recorded."""
    rule = {"path": "/a", "max_concurrent": 1, "per": "address"}
    world = opened(anonymous=None, rules=[rule], activity="off")
    world.gate.accounts.create("acct_a")
    key = world.gate.keys.create("acct_a", "agent")
    held = world.gate.concurrency.take(Wants((Want("address:192.0.2.1|rule /a", 1),)))
    assert world.get("/a", "192.0.2.1", key).status == 429
    assert world.get("/a", "192.0.2.2", key).status == 200
    world.gate.concurrency.give_back(held.slots)


def test_exempt_paths(opened: Opening) -> None:
    """What probes ask for may be exempt, in that very spelling."""
    world = opened(
        public_paths=("/health", "/open/*"),
        anonymous={**LIMITED, "exempt_paths": ["/health"]},
    )
    assert [world.get("/health").status for _ in range(5)] == [200] * 5
    assert [world.get("/open/health").status for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:0:1", True),
        ("2001:db8::1", "2001:DB8:0:0:abcd::", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("192.0.2.1:5678", "192.0.2.1", True),
        ("192.0.2.1:5678", "192.0.2.2:5678", False),
        ("[2001:db8::1]:443", "2001:db8::1", True),
        ("[2001:db8::1]", "[2001:db8:0:1::1]", False),
        ("unknown", "nonsense", True),
    ],
)
def test_one_client(opened: Opening, one: str, other: str, is_same: bool) -> None:
    """A client is an address of IPv4 or a /64 of IPv6, however it is written."""
    world = opened(public_paths=("/open",))
    for _ in range(2):
        world.get("/open", one)
    assert (world.get("/open", other).status == 429) is is_same


def test_forged_addresses(opened: Opening) -> None:
    """What an untrusted client writes in X-Forwarded-For is no address of its own."""
    world = opened(public_paths=("/open",), trusted_proxies=())
    statuses = [world.get("/open", f"192.0.2.{number}").status for number in range(3)]
    assert statuses == [200, 200, 429]
    behind = opened(public_paths=("/open",))
    statuses = [behind.get("/open", f"10.0.0.{n}, 192.0.2.1").status for n in range(3)]
    assert statuses == [200, 200, 429]


def test_unknown_addresses() -> None:
    """All whose address nobody knows, as at a Unix socket, are one."""
    subjects = AddressSubjects((), 60_000, lambda: 0)
    assert {subjects.of(peer, b"192.0.2.1") for peer in (None, "", "/run/x.sock")} == {UNKNOWN}


def test_a_flood_of_addresses() -> None:
    """Beyond so many addresses newcomers share windows, and who was there keeps their own."""
    clock = Clock()
    subjects = AddressSubjects((), 60_000, clock, most=1000)
    regular = subjects.of("192.0.2.1", None)
    flood = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(20_000)]
    found = {subjects.of(address, None) for address in flood}
    assert len(found) <= 1000 + CROWDS + 20_000 // 50  # of those that are taken for known
    assert subjects.of("192.0.2.1", None) == regular
    clock.advance(60_000)
    assert {subjects.of(address, None) for address in flood} <= found | {
        f"address:{address}" for address in flood
    }
    assert subjects.of("192.0.2.1", None) == regular  # of the period before, which counts still
    clock.advance(120_000)
    assert subjects.of("10.0.78.31", None) == "address:10.0.78.31"


def test_a_clock_that_steps_back() -> None:
    """Nobody is forgotten by a clock that steps back a little, over the end of a period too."""
    clock = Clock()
    clock.advance(60_000 - clock() % 60_000)
    subjects = AddressSubjects((), 60_000, clock, most=10)
    for number in range(10):
        subjects.of(f"192.0.2.{number}", None)
    clock.advance(-5)
    found = {subjects.of(f"198.51.100.{number}", None) for number in range(200)}
    assert len(found - {f"address:198.51.100.{number}" for number in range(200)}) > 100
    clock.advance(5)
    assert subjects.of("192.0.2.1", None) == "address:192.0.2.1"


@pytest.mark.parametrize(
    ("anonymous", "said"),
    [
        ({"limits": "x"}, "anonymous.limits"),
        ({}, "anonymous.limits"),
        ({"limits": "1/minute", "exempt_paths": ["open"]}, "anonymous.exempt_paths"),
        ({"limits": "1/minute", "per": "key"}, "anonymous.per"),
    ],
)
def test_wrong_settings(anonymous: Any, said: str) -> None:
    """A wrong table stops the start-up, and the field is named."""
    with pytest.raises(ConfigurationError, match=said):
        settings(anonymous=anonymous)


@pytest.mark.parametrize("mode", ["leased", "exact"])
@pytest.mark.parametrize("place", ["postgres_url", "valkey_url"])
def test_on_servers(opened: Opening, request: pytest.FixtureRequest, place: str, mode: str) -> None:
    """Windows on a server limit who comes without a key as well."""
    url = request.getfixturevalue(place)
    where = {"store_url": url, "pepper": "p" * 32}
    if place == "valkey_url":
        where = {"limiter_url": url}
    world = opened(public_paths=("/open",), limiter_mode=mode, **where)
    assert [world.get("/open").status for _ in range(3)] == [200, 200, 429]


def test_away(opened: Opening) -> None:
    """S19: while the limiter is away, and the policy lets nothing pass, it is 503."""
    world = opened(
        public_paths=("/open",), limiter_url="redis://127.0.0.1:1", limiter_outage="closed"
    )
    answer = world.get("/open")
    assert answer.status == 503
    assert int(answer["retry-after"]) > 0


def test_observed(opened: Opening) -> None:
    """What a rule only observes refuses nobody, and is told."""
    rule = {"path": "/open", "limits": "1/minute", "mode": "observe"}
    world = opened(public_paths=("/open",), rules=[rule])
    answers = [world.get("/open") for _ in range(3)]
    assert [one.status for one in answers] == [200, 200, 429]
    assert answers[1]["x-ratelimit-would-limit"] == "/open-minute"
    assert "x-ratelimit-would-limit" not in answers[0]


def test_cost_afterwards(clock: Clock) -> None:
    """Of who comes without a key, too, an app says what a request has cost once it knows: counted
    whole of what limits them, even beyond that, or given back; where nothing does it means nothing.
    """
    rules = [
        {"path": "/open", "limits": "20/minute"},
        {"path": "/open/tried", "limits": "1/minute", "mode": "observe"},
    ]
    open_paths = ("/open", "/open/*")
    given = settings(anonymous={"limits": "12/minute"}, public_paths=open_paths, rules=rules)
    with closing(Gate.open(given, clock=clock)) as gate:

        def left(path: str, *costs: int, before: Any = None) -> bytes:
            begun = gate.admission.begin(
                "GET", path, None, "", [], b"", ("192.0.2.1", 1), before=before
            )
            assert isinstance(begun, tuple)
            caller, headers = begun
            assert isinstance(caller, Anonymous)
            for cost in costs:
                caller.cost_after(cost)
            if any(costs) and before is None:  # a gate within the gate takes nothing that was taken
                left(path, before=caller)
            return dict(headers).get(b"x-ratelimit-remaining", b"")

        assert left("/open/a", 5, 2) == b"11"
        assert left("/open/a", 0) == b"9"
        assert left("/open", 4) == b"9"
        assert [left("/open/tried", 2), left("/open/tried", 1)] == [b"0", b"0"]
        with pytest.raises(InvalidArgument, match="cost"):
            left("/open/a", -1)
        assert left("/open", 16) == b"1"
        refused = gate.admission.begin("GET", "/open", None, "", [], b"", ("192.0.2.1", 1))
        assert isinstance(refused, Refusal)
        clock.advance(120_000)
        assert left("/open") == b"11"
    with closing(Gate.open(settings(public_paths=("/open",)), clock=clock)) as gate:
        assert left("/open", 5) == b""
