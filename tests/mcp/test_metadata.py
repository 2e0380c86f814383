"""What the gate says of resources: their metadata, and challenges that name it."""

from __future__ import annotations

from typing import Any

import pytest

from keyrush import Gate, Settings
from keyrush.errors import ConfigurationError
from tests.conftest import Clock, settings, still
from tests.support.resources import DOORS, METADATA, RESOURCE, RULES, App, Door, call, message

PATH = "/.well-known/oauth-protected-resource/mcp"
RM = f'resource_metadata="{METADATA}"'
SCOPE = 'scope="tools seo"'
INVALID = 'error_description="The credential is invalid or expired"'
TWO = 'error_description="Send exactly one credential"'


@pytest.mark.parametrize("path", [PATH, "/.well-known/oauth-protected-resource"])
def test_metadata(door: Door, app: App, path: str) -> None:
    """S55 to S58: the gate itself says of a resource what a client must know, to anybody."""
    reply = door.send("GET", path=path)
    assert (reply.status, reply["content-type"]) == (200, "application/json")
    assert reply.json == {
        "resource": "https://api.openrush.io/mcp",
        "authorization_servers": ["https://login.openrush.io"],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["tools", "seo"],
    }
    assert reply["access-control-allow-origin"] == "*"
    head = door.send("HEAD", path=path)
    assert (head.status, head.body, head["content-length"]) == (
        200,
        b"",
        str(len(reply.body)),
    )
    preflight = door.send("OPTIONS", b"", None, ("origin", "https://a.example"), path=path)
    assert (preflight.status, preflight.body) == (204, b"")
    assert "mcp-protocol-version" in preflight["access-control-allow-headers"]
    assert door.send("POST", b"{}", path=path).status == 405
    assert not app.bodies


def test_metadata_is_never_limited(door: Door, mcp_gate: Gate, key: str) -> None:
    """S55: whoever is refused everything else is told how to get in, and it costs nothing."""
    for _ in range(5):
        assert door.post(call("inspect_page"), key).status == 200
    assert door.post(call("inspect_page"), key).status == 429
    for sent in (key, "nonsense", None):
        assert door.send("GET", b"", sent, path=PATH).status == 200
    assert mcp_gate.credits.balance("acct_a") == 90


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("https://API.openrush.io", "/.well-known/oauth-protected-resource"),
        ("https://api.openrush.io/", "/.well-known/oauth-protected-resource"),
        ("HTTPS://api.openrush.io/A/b", "/.well-known/oauth-protected-resource/A/b"),
        ("http://127.0.0.1:8000/mcp", "/.well-known/oauth-protected-resource/mcp"),
    ],
)
@pytest.mark.parametrize("kind", DOORS)
def test_where_metadata_is(kind: Any, clock: Clock, uri: str, path: str) -> None:
    """S56, S57, S86: at the root of the origin, by the path of the URI, whatever the Host."""
    two = [RESOURCE | {"resource": uri}, RESOURCE | {"path": "/b", "resource": "https://b/c"}]
    gate = still(Gate.open(settings(resources=two), clock=clock))
    door = kind(gate, App())
    reply = door.send("GET", b"", None, ("host", "evil.example"), path=path)
    scheme, _, rest = uri.partition("://")
    host, _, below = rest.partition("/")
    canonical = f"{scheme.lower()}://{host.lower()}" + (f"/{below}" if below else "")
    assert reply.json["resource"] == canonical
    challenge = door.send("GET")["www-authenticate"]
    assert f'resource_metadata="{scheme.lower()}://{host.lower()}{path}"' in challenge
    if path.count("/") > 2:  # there are two, of which none is meant without its path
        assert door.send("GET", path="/.well-known/oauth-protected-resource").status == 401
    gate.close()


def test_all_that_metadata_may_say(clock: Clock) -> None:
    """S55, S63: names and pages are there where they are set; scopes are those of the rules."""
    resource = {key: RESOURCE[key] for key in ("path", "resource", "authorization_servers")}
    resource |= {"name": "OpenRush", "documentation": "https://openrush.io/docs"}
    gate = still(Gate.open(settings(resources=[resource], rules=RULES), clock=clock))
    said = DOORS[0](gate, App()).send("GET", path=PATH).json
    assert said["resource_name"] == "OpenRush"
    assert said["resource_documentation"] == "https://openrush.io/docs"
    assert said["scopes_supported"] == ["seo"]
    gate.close()


# --- challenges ----------------------------------------------------------------------------------


def test_challenges(door: Door, mcp_gate: Gate, key: str) -> None:
    """S13 to S18, S62, S63, S87: as tabled, with the metadata and the scopes to ask for."""
    narrow = mcp_gate.keys.create("acct_a", "narrow", scopes=["tools"]).text
    refused: list[tuple[list[Any], int, str]] = [
        ([None], 401, f'Bearer realm="mcp", {RM}, {SCOPE}'),
        ([None, ("authorization", "Basic x")], 401, f'Bearer realm="mcp", {RM}, {SCOPE}'),
        (
            ["kr_live_nonsense"],
            401,
            f'Bearer realm="mcp", error="invalid_token", {INVALID}, {RM}, {SCOPE}',
        ),
        (
            [key, ("x-api-key", narrow)],
            400,
            f'Bearer realm="mcp", error="invalid_request", {TWO}, {RM}',
        ),
        (
            [narrow],
            403,
            f'Bearer realm="mcp", error="insufficient_scope", scope="seo", {RM}',
        ),
    ]
    for given, status, challenge in refused:
        for method in ("POST", "GET") if status != 403 else ("POST",):
            reply = door.send(method, call("audit_site"), *given)
            assert (reply.status, reply["www-authenticate"]) == (status, challenge)
    assert door.send("GET", path="/x")["www-authenticate"] == 'Bearer realm="api"'


def test_refusals_are_read_by_agents(door: Door, mcp_gate: Gate, key: str) -> None:
    """R8: a refused POST has an error of JSON-RPC, whose data is the documented body; a GET has
    that alone.
    """
    reply = door.post(call("audit_site", "id-7"))
    error = reply.json["error"]
    assert (reply.json["jsonrpc"], reply.json["id"]) == ("2.0", None)  # which nobody has read
    assert error["code"] == -32003
    assert error["data"] == {"success": False, "error": error["message"], "statusCode": 401}
    assert door.send("GET").json == error["data"]
    for _ in range(5):
        door.post(call("export"), key)
    reply = door.post(call("export", "id-8"), key)
    assert (reply.status, reply.json["id"]) == (429, "id-8")
    assert reply.json["error"]["message"].startswith("Rate limit exceeded. Try again in ")
    assert reply["retry-after"] in reply.json["error"]["message"]
    assert reply["x-ratelimit-remaining"] == "0"


def test_no_credits(door: Door, mcp_gate: Gate) -> None:
    """O12: without credits a dear tool is refused with 402 and no challenge, a list is not."""
    mcp_gate.accounts.create("acct_b")
    poor = mcp_gate.keys.create("acct_b", "poor").text
    for _ in range(2):  # asked of the store, then known
        reply = door.post(call("audit_site", 5), poor)
        assert (reply.status, reply.json["id"]) == (402, 5)
        assert "www-authenticate" not in reply
        assert reply["x-ratelimit-remaining"] == "5"
    assert door.post(message("server/discover"), poor).status == 200


@pytest.mark.parametrize("errors", ["problem", "tests.mcp.test_metadata:own_body"])
def test_own_bodies(clock: Clock, errors: str) -> None:
    """R8, S25: whatever form refusals have, it is in the data."""
    gate = still(Gate.open(settings(resources=[RESOURCE], errors=errors), clock=clock))
    data = DOORS[0](gate, App()).post(message("ping")).json["error"]["data"]
    assert data == "401 no" if errors != "problem" else data["title"] == "Unauthorized"
    gate.close()


def own_body(refusal: Any, text: str) -> tuple[str, bytes]:
    """A body of a user's own."""
    return "text/plain", f"{refusal.status} no".encode()


def test_the_key_stays_here(door: Door, app: App, key: str) -> None:
    """S61, S88: what was sent to get in is for nobody behind the gate; `Origin` is the server's."""
    door.post(call("export"), key, ("origin", "https://a.b"), ("accept-encoding", "gzip"))
    door.send("POST", call("export"), None, ("x-api-key", key))
    for seen in app.seen:
        assert not {"authorization", "x-api-key", "accept-encoding"} & set(seen)
    assert app.seen[0]["origin"] == "https://a.b"


# --- settings ------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"resource": "http://api.openrush.io/mcp"}, "an https URL"),
    ({"resource": "http://localhost.evil.example/mcp"}, "an https URL"),
    ({"resource": "https://api.openrush.io/mcp#x"}, "an https URL"),
    ({"resource": "https://api.openrush.io/mcp?x"}, "query"),
    ({"resource": "https://user@api.openrush.io/mcp"}, "user"),
    ({"resource": "https://api.openrush.io/mcp/"}, "slash"),
    ({"resource": "https://api.openrush.io/mcp/.."}, "segment"),
    ({"resource": "https://api.openrush.io//mcp"}, "segment"),
    ({"resource": "https://api.openrush.io/m%63p"}, "letters"),
    ({"resource": 'https://api.openrush.io/"'}, "URL"),
    ({"resource": "/mcp"}, "URL"),
    ({"path": "mcp"}, "path such as /mcp"),
    ({"path": "/{name}"}, "path such as /mcp"),
    ({"path": "/mcp/.."}, "path such as /mcp"),
    ({"authorization_servers": []}, "at least 1"),
    ({"authorization_servers": ["http://login.openrush.io"]}, "an https URL"),
    ({"scopes_supported": ["offline_access"]}, "offline_access"),
    ({"scopes_supported": ['a"b']}, "visible ASCII"),
    ({"accept_audience": "authenticated"}, "client_ids"),
    ({"client_ids": ["a"]}, "accept_audience"),
    ({"accept_audience": "", "client_ids": ["a"]}, "at least 1"),
    ({"batches": "yes"}, "refuse"),
    ({"surprise": 1}, "is no setting"),
]


@pytest.mark.parametrize(("values", "says"), WRONG)
def test_wrong_resources(values: dict[str, Any], says: str) -> None:
    """S57, S58, S65, S86: a resource that is wrong stops the start, and is named."""
    with pytest.raises(ConfigurationError) as caught:
        Settings(resources=[RESOURCE | values])
    assert "resources.0" in str(caught.value)
    assert says in str(caught.value)


#: A resource of an app that strips a prefix itself.
UNDER_A_PREFIX: dict[str, Any] = {
    "resources": [RESOURCE | {"path": "/api/mcp"}],
    "root_path": "/api",
}

TOGETHER: list[tuple[dict[str, Any], str]] = [
    ({"resources": [RESOURCE, RESOURCE | {"resource": "https://b/c"}]}, "two have the path /mcp"),
    ({"resources": [RESOURCE, RESOURCE | {"path": "/b"}]}, "two have the resource https://"),
    ({"resources": [RESOURCE | {"path": "/mcp/"}, RESOURCE | {"resource": "https://b"}]}, "/mcp"),
    ({"rules": [{"path": "/other", "mcp": "tools/call"}]}, "rules.0: /other"),
    ({"rules": [{"path": "/mcp", "mcp": "tools/call", "methods": ["GET"]}]}, "POST alone"),
    ({"rules": [{"path": "/mcp", "mcp": "tools/list", "credits": 1}]}, "never charged"),
    ({"rules": [{"path": "/mcp", "mcp": "notifications/x", "credits": 1}]}, "never charged"),
    ({"rules": [{"path": "/mcp", "mcp": "prompts/get", "tool": "x"}]}, "tools/call"),
    ({"public_paths": ["/mcp"]}, "KEYRUSH_PUBLIC_PATHS"),
    ({"public_paths": ["GET /mcp"]}, "KEYRUSH_PUBLIC_PATHS"),
    ({"public_paths": ["/{any}"]}, "KEYRUSH_PUBLIC_PATHS"),
    ({"public_paths": ["/mcp/*"]}, "KEYRUSH_PUBLIC_PATHS"),
    ({"public_paths": ["PUT /mcp"]}, "KEYRUSH_PUBLIC_PATHS"),
    (UNDER_A_PREFIX | {"public_paths": ["/mcp"]}, "KEYRUSH_PUBLIC_PATHS"),
    (UNDER_A_PREFIX | {"optional_paths": ["/mcp"]}, "KEYRUSH_OPTIONAL_PATHS"),
    ({"optional_paths": ["POST /mcp"]}, "KEYRUSH_OPTIONAL_PATHS"),
    ({"mcp_max_body": 0}, "KEYRUSH_MCP_MAX_BODY"),
]


@pytest.mark.parametrize(("values", "says"), TOGETHER)
def test_what_does_not_go_together(values: dict[str, Any], says: str) -> None:
    """S56, S86, O11: settings that contradict each other stop the start, and are named."""
    with pytest.raises(ConfigurationError, match=says):
        Settings(**{"resources": [RESOURCE], **values})


def test_resources_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """S57: KEYRUSH_RESOURCES holds them as JSON, KEYRUSH_MCP_MAX_BODY a number."""
    monkeypatch.setenv(
        "KEYRUSH_RESOURCES",
        '[{"path": "/mcp", "resource": "https://a/mcp", "authorization_servers": ["https://b"]}]',
    )
    monkeypatch.setenv("KEYRUSH_MCP_MAX_BODY", "2048")
    found = Settings()
    assert found.catalog().resources[0].uri == "https://a/mcp"
    assert found.mcp_max_body == 2048
