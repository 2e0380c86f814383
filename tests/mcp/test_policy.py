"""Which paths belong to a resource, what its messages need, and which tokens are good for it."""

from __future__ import annotations

from typing import Any

import pytest

from keyrush.core.calls import Call, CallPolicy, Calls
from keyrush.core.identity import API, Session
from keyrush.core.policy import ANY_KEY, Needs, Policy, Rule
from keyrush.core.resources import AMBIGUOUS, Resource

MCP = Resource("/mcp", "https://h/mcp", ("https://as",))
ADMIN = Resource("/mcp/admin", "https://h/mcp/admin", ("https://as",))

#: A path, the prefix that the server names, the one in the settings, and whose it is.
PATHS: list[tuple[str, str, str, Resource | None]] = [
    ("/mcp", "", "", MCP),
    ("/mcp/", "", "", MCP),
    ("/mcp/x", "", "", MCP),
    ("/mcp/admin", "", "", ADMIN),
    ("/mcp/admin/", "", "", ADMIN),
    ("/mcp/admin/x/y", "", "", ADMIN),
    ("/mcp/administrator", "", "", MCP),
    ("/mcp2", "", "", None),
    ("/MCP", "", "", None),
    ("/", "", "", None),
    ("/v1/mcp", "/v1", "", MCP),
    ("/mcp", "/v1", "", MCP),
    ("/v1/mcp/admin", "/v1", "", ADMIN),
    ("/v1/mcp", "/v1/", "", MCP),
    ("/api/mcp", "", "/api", MCP),
    ("/v1/api/mcp", "/v1", "/api", MCP),
    ("/v1/me", "/v1", "", None),
    ("/v1/mcp2", "/v1", "", None),
    # What some apps take for the resource, and others for a path of the API.
    ("/mcp/v1/me", "/v1", "", AMBIGUOUS),
    ("/me/v1/mcp", "/v1", "", AMBIGUOUS),
    ("/v1mcp", "/v1", "", AMBIGUOUS),
    ("/mcp/v1/mcp/admin", "/v1", "", AMBIGUOUS),
]


@pytest.mark.parametrize(("path", "root", "inside", "resource"), PATHS)
def test_whose_a_path_is(path: str, root: str, inside: str, resource: Resource | None) -> None:
    """S59, S86: a path is a resource's by what any app may take it for; where these differ, it is
    nobody's that could be let in.
    """
    rules = [Rule("/{rest:path}", scopes=("api",))]
    policy = Policy((), rules, root_path=inside, resources=[MCP, ADMIN])
    assert policy.resource_at(path, root) == resource
    needs = policy.needs("POST", path, root)
    assert needs.resource == resource
    assert needs.is_unread == (resource is not None)


def test_without_resources() -> None:
    """S71: where there are none, no path is one, and nothing is looked for."""
    policy = Policy()
    assert policy.resource_at("/mcp") is None
    assert policy.needs("POST", "/mcp") is ANY_KEY


AUDIENCES: list[tuple[Session, set[str | None]]] = [
    (Session(None), {None, "/mcp", "/mcp/admin"}),
    (Session(frozenset({API})), {None}),
    (Session(frozenset({"https://h/mcp"})), {"/mcp"}),
    (Session(frozenset({"https://h/mcp", API})), {None, "/mcp"}),
    (Session(frozenset({"https://h/mcp/admin"})), {"/mcp/admin"}),
    (Session(frozenset({"https://h"})), set()),
    (Session(frozenset()), set()),
]


@pytest.mark.parametrize(("session", "good"), AUDIENCES)
def test_what_a_token_is_for(session: Session, good: set[str | None]) -> None:
    """S59, S86: a token is good for what it names, and for nothing around that."""
    found = {
        resource and resource.path
        for resource in (None, MCP, ADMIN)
        if Needs(resource=resource).are_for(session)
    }
    assert found == good


@pytest.mark.parametrize(
    ("audience", "client_id", "is_good"),
    [
        ({"authenticated", API}, "agent", True),
        ({"authenticated"}, "agent", True),
        ({"authenticated"}, "other", False),
        ({"authenticated"}, None, False),
        ({"other"}, "agent", False),
        ({API}, "agent", False),
    ],
)
def test_issuers_that_name_no_resource(
    audience: set[str], client_id: str | None, is_good: bool
) -> None:
    """S86: another audience is taken for the resource's where it is listed, of clients that are."""
    lenient = Resource(
        "/mcp",
        "https://h/mcp",
        ("https://as",),
        accept_audience="authenticated",
        client_ids=frozenset({"agent"}),
    )
    session = Session(frozenset(audience), client_id=client_id)
    assert lenient.accepts(session) == is_good
    assert not MCP.accepts(session)


RULES = [
    Rule("/mcp", mcp="tools/call", tool="dear", credits=10, scopes=("dear", "tools")),
    Rule("/mcp/", mcp="tools/call", credits=1, scopes=("tools",)),
    Rule("/mcp", mcp="tools/list", scopes=("list",)),
    Rule("/mcp", methods=frozenset({"POST"}), scopes=("any",), credits=5),
    Rule("/mcp/x", scopes=("x",), credits=7),
    Rule("/{rest:path}", scopes=("rest",)),
]


def needs(*calls: Call, path: str = "/mcp", **more: Any) -> Needs:
    """What the rules say of these messages."""
    resource = Resource("/mcp", "https://h/mcp", ("https://as",), **more)
    plain = Policy((), RULES, unruled="refuse")
    policy = CallPolicy(RULES, [resource], plain, "")
    return policy.needs_of(resource, "POST", path, "", Calls(calls, is_batch=len(calls) > 1))


def asks(method: str | None, name: str | None = None, number: int | None = 1) -> Call:
    """A message."""
    return Call(method, number, name)


MESSAGES: list[tuple[Call, tuple[str, ...], int, int]] = [
    (asks("tools/call", "dear"), ("dear", "tools"), 10, 1),
    (asks("tools/call", "other"), ("tools",), 1, 1),
    (asks("tools/list"), ("list",), 0, 0),
    (asks("ping"), ("any",), 0, 0),
    (asks("notifications/cancelled", number=None), ("any",), 0, 0),
    (asks(None), ("any",), 0, 0),
    (asks("notifications/cancelled"), ("any",), 5, 1),  # which wants an answer
    (asks("resources/read", "dear"), ("any",), 5, 1),
    (asks("own/method"), ("any",), 5, 1),
]


@pytest.mark.parametrize(("call", "scopes", "credits", "weight"), MESSAGES)
def test_the_first_rule_counts(
    call: Call, scopes: tuple[str, ...], credits: int, weight: int
) -> None:
    """O11, S84: rules for messages and rules for the path stand in one row."""
    found = needs(call)
    assert (found.scopes, found.credits, found.weight) == (scopes, credits, weight)
    assert not found.is_unread


def test_beneath_more_is_needed() -> None:
    """S84: what rules say of a path beneath holds as well, and never makes a call cheaper."""
    found = needs(asks("tools/call", "dear"), path="/mcp/x")
    assert (found.scopes, found.credits) == (("dear", "tools", "x"), 10)
    assert needs(asks("tools/call", "other"), path="/mcp/x").credits == 7


@pytest.mark.parametrize("root", ["", "/api"])
def test_beneath_nothing_is_free(root: str) -> None:
    """O11, O13: beneath a resource an app may serve anything, so that neither a message which is
    free at the resource itself nor a method without one has it for nothing.
    """
    rules = [Rule("/mcp/export", credits=5)]
    policy = CallPolicy(rules, [MCP], Policy((), rules, root_path=root), root)
    ping = Calls((asks("ping"),))
    for path, credits in (("/mcp/export", 5), ("/mcp/export/", 5), ("/mcp/other", 0)):
        for found in (
            policy.needs(MCP, "GET", root + path, ""),
            policy.needs_of(MCP, "POST", root + path, "", ping),
        ):
            assert (found.credits, found.prices, found.weight) == (credits, (credits,), 1)
    for path in ("/mcp", "/mcp/"):
        assert policy.needs(MCP, "GET", root + path, "").weight == 0
        assert policy.needs_of(MCP, "POST", root + path, "", ping).weight == 0


def test_batches() -> None:
    """S84, S87: a batch needs all that is in it, and is named where all of it is."""
    both = asks("tools/call", "dear"), asks("tools/list", number=2)
    assert needs(*both).refused is not None
    found = needs(*both, batches="sum")
    assert (found.scopes, found.prices, found.weight) == (("dear", "tools", "list"), (10, 0), 1)


@pytest.mark.parametrize(
    ("call", "is_named"), [(asks("ping"), True), (asks("tools/call", "other"), False)]
)
def test_what_no_rule_names(call: Call, is_named: bool) -> None:
    """S84: with KEYRUSH_UNRULED=refuse tools without a rule are refused, the protocol is not."""
    rules = [Rule("/mcp", mcp="tools/call", tool="dear", credits=10)]
    policy = CallPolicy(rules, [MCP], Policy((), rules, unruled="refuse"), "")
    found = policy.needs_of(MCP, "POST", "/mcp", "", Calls((call,)))
    assert found.is_named == is_named
    assert policy.needs(MCP, "GET", "/mcp", "").is_named
