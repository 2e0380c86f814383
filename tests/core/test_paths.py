"""Paths that are open, by patterns: in plain form alone, whether or not there are rules."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyrush import Gate
from keyrush.core.paths import PathList, is_plain
from keyrush.core.policy import Policy, Rule
from keyrush.errors import ConfigurationError
from tests.conftest import Clock, settings
from tests.core.test_policy import NOT_PLAIN, PARSER, steps
from tests.support.calls import Asgi, Headers, Sent, Wsgi

OPEN = PathList(
    "public",
    [
        "/docs/*",
        "/webhooks/{id}",
        "POST /hooks/{id}/events",
        "GET /hooks/{id}/state.{kind}",
        "/feeds/{name}/",
        "/health/",
    ],
)


@pytest.mark.parametrize(
    ("method", "path", "raw_path"),
    [
        ("GET", "/docs/a", b"/docs/a"),
        ("BREW", "/docs/a", None),
        ("GET", "/docs/a/b.css", b"/docs/a/b.css"),
        ("GET", "/docs/a/", b"/docs/a/"),
        ("GET", "/docs/...", b"/docs/..."),
        ("GET", "/docs/é f", b"/docs/%C3%A9%20f"),
        ("GET", "/docs/é", b"/docs/%c3%a9"),
        ("GET", "/docs/a", b"/mounted/docs/a"),
        ("POST", "/webhooks/7", b"/webhooks/7"),
        ("POST", "/hooks/7/events", None),
        ("HEAD", "/hooks/7/state.json", None),
        ("GET", "/feeds/x/", b"/feeds/x/"),
        ("GET", "/health/", b"/health/"),
    ],
)
def test_open(method: str, path: str, raw_path: bytes | None) -> None:
    """R1: a pattern opens what is beneath it, or one segment in each of its places."""
    assert OPEN.holds(method, path, raw_path)


@pytest.mark.parametrize(
    ("method", "path", "raw_path"),
    [
        pytest.param("GET", "/docs", None, id="the path itself"),
        pytest.param("GET", "/docs/", None, id="the path itself, with a slash"),
        pytest.param("GET", "/docsx", None, id="longer"),
        pytest.param("GET", "/x/docs/a", None, id="elsewhere"),
        pytest.param("GET", "/docs/../secret", None, id="dots"),
        pytest.param("GET", "/docs/..", None, id="dots at the end"),
        pytest.param("GET", "/docs/./a", None, id="dot"),
        pytest.param("GET", "/docs//a", None, id="double slash"),
        pytest.param("GET", "//docs/a", None, id="double slash in front"),
        pytest.param("GET", "/docs/a\\..\\b", None, id="backslash"),
        pytest.param("GET", "/docs/a\n", None, id="newline"),
        pytest.param("GET", "/docs/a\0", None, id="NUL"),
        pytest.param("GET", "/docs/..;/secret", None, id="dots with a parameter"),
        pytest.param("GET", "/docs/%2e%2e/secret", None, id="quoted twice"),
        pytest.param("GET", "/docs/%2e%2e/secret", b"/docs/%252e%252e/secret", id="so, and sent"),
        pytest.param("GET", "/docs/a/b", b"/docs/a%2Fb", id="quoted slash"),
        pytest.param("GET", "/docs/a", b"/doc%73/a", id="quoted letter"),
        pytest.param("GET", "/docs/a", b"/docs/%61", id="quoted letter beneath"),
        pytest.param("GET", "/docs/a", b"/x/../docs/a", id="dots that a server has resolved"),
        pytest.param("GET", "/DOCS/a", None, id="case"),
        pytest.param("GET", "/webhooks", None, id="no segment"),
        pytest.param("GET", "/webhooks/", None, id="an empty one"),
        pytest.param("GET", "/webhooks/7/", None, id="trailing slash"),
        pytest.param("GET", "/webhooks/7/8", None, id="two segments"),
        pytest.param("GET", "/webhooks/7/8", b"/webhooks/7%2f8", id="two in one"),
        pytest.param("GET", "/hooks/7/events", None, id="other method"),
        pytest.param("post", "/hooks/7/events", None, id="lower-case method"),
        pytest.param("GET", "/hooks/7/state.", None, id="empty part"),
        pytest.param("GET", "/hooks/7/state_x", None, id="a dot is a dot"),
        pytest.param("GET", "/feeds/x", None, id="without its slash"),
        pytest.param("GET", "/health", None, id="exact, without its slash"),
    ],
)
def test_closed(method: str, path: str, raw_path: bytes | None) -> None:
    """R1, traps: what only resembles a pattern, or could be taken for something else, is closed."""
    assert not OPEN.holds(method, path, raw_path)


@pytest.mark.parametrize(
    "path", [*NOT_PLAIN, *("/docs" + path for path in NOT_PLAIN if path[:1] == "/")]
)
@pytest.mark.parametrize("rules", [(), (Rule("/x"),)], ids=["no rules", "rules"])
def test_plain_form_alone(path: str, rules: tuple[Rule, ...]) -> None:
    """Traps: no path that is not in plain form is open, decoded or as it was sent."""
    for policy in (Policy(["/*"], rules), Policy((), rules, optional_paths=["/*"])):
        for is_open in (policy.is_public, policy.is_optional):
            assert not is_open("GET", path, None)
            assert not is_open("GET", "/docs/a", quote(path).encode("ascii"))


@given(st.text(alphabet="/.a;%\\é\n"), st.sampled_from(["", "/docs/", "/webhooks/"]))
def test_open_is_what_it_says(rest: str, front: str) -> None:
    """Traps: beneath `/docs`, or one segment of `/webhooks`, in plain form and nothing else."""
    path = front + rest
    segments = [*path.split("/")[1:], ""]
    is_beneath = segments[0] == "docs" and segments[1] != ""
    is_hook = segments[0] == "webhooks" and len(segments) == 3 and segments[1] != ""
    expected = is_plain(path, None) and not {"%", ";"} & set(path) and (is_beneath or is_hook)
    assert OPEN.holds("GET", path, quote(path).encode("ascii")) is expected


@pytest.mark.parametrize(
    "entry",
    [
        "/docs*", "/docs/*/x", "/*/docs", "/docs/**", "/docs//*", "/../*", "docs/*", "/a/{b",
        "/a/}", "/{}", "/{1}", "/{a b}", "/{rest:path}", "/{a}{b}", "/{a}-{b}", "/x/../{a}",
        "{a}", "*", "",
    ],
)  # fmt: skip
def test_bad_entries(entry: str) -> None:
    """A pattern that is none, or would match in many ways, is refused at start-up, and named."""
    with pytest.raises(ConfigurationError, match="public path") as raised:
        PathList("public", [entry])
    assert repr(entry) in str(raised.value)


@pytest.mark.parametrize(
    ("path", "server", "app", "expected"),
    [
        ("/api/docs/a", "/api", "", True),
        ("/docs/a", "/api", "", True),
        ("/api/docs/a", "", "/api", True),
        ("/api/docs/a", "/api", "/api", True),
        ("/apidocs/a", "/api", "", False),
        ("/docs/api/v1/tools", "/api", "", False),
        ("/docs/api/v1/tools", "", "/api", False),
        ("/docs/apiv1/tools", "/api", "", False),
        ("/docs/x/api", "/api", "", False),
        ("/docs/api/docs/a", "/api", "", True),
        ("/docs/v1/tools", "/api", "/docs", False),
        ("/x/api/docs/a", "/api", "", False),
        ("/docs/a", "/docs", "", False),
    ],
)
def test_within_a_prefix(path: str, server: str, app: str, expected: bool) -> None:
    """Traps: behind a prefix, all that an app may take the path for must be open."""
    listed = PathList("public", ["/docs/*"], app)
    assert listed.holds("GET", path, None, server) is expected


def test_entries_of_one_pattern_add_up() -> None:
    """Several entries for one pattern, or an exact path beside it, open all methods they name."""
    listed = PathList("public", ["GET /a/*", "POST /a/*", "PUT /a/b", "DELETE /{x}/b"])
    methods = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")
    assert [one for one in methods if listed.holds(one, "/a/b", None)] == [*methods[:-1]]
    assert not listed.holds("PUT", "/a/c", None)


@given(
    st.lists(
        st.sampled_from(["/a", "/{n}", "/a{n}", "/{n}.x", "/a{n}-x", "/-"]), min_size=1, max_size=5
    ),
    st.sampled_from(["", "/*"]),
    st.sampled_from(["a", "-", "/a", "/-", ".x", "/a.x"]),
)
def test_one_pass(parts: list[str], end: str, unit: str) -> None:
    """Every pattern that is accepted is matched in steps that grow as the path does."""
    assume(end or any("{" in part for part in parts))
    listed = PathList("public", ["".join(parts) + end])
    expression = getattr(listed._any_method, "__self__").pattern  # noqa: SLF001, B009  # what is run
    taken = []
    for length in (100, 200):
        count = [0]
        steps(PARSER.parse(expression), "/a" + unit * length + "/", 0, count)
        taken.append(count[0])
    assert taken[1] <= 2.5 * taken[0] + 100


# --- optional keys -------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
@pytest.mark.parametrize("path", ["/feed", "/posts/7"])
def test_optional_key(adapter: type[Asgi | Wsgi], path: str, clock: Clock) -> None:
    """S23, S34: a good key is known, counted and limited; none is nobody, told apart by Vary."""
    values = {"plans": {"one": {"limits": "2/minute", "monthly_quota": 100}}}
    gate = Gate.open(settings(optional_paths=["/feed", "/posts/*"], **values), clock=clock)
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "first", environment="live").text
    send = adapter(gate).send

    without: list[Headers] = [[], [("Authorization", "Basic dTpw")]]
    for headers in without:
        nobody = send(Sent(path, headers))
        assert (nobody.status, nobody.body) == (200, b"nobody")
        assert nobody["vary"] == "Authorization, X-API-Key"
        assert "x-ratelimit-limit" not in nobody
    for remaining in ("1", "0"):
        known = send(Sent(path, [("X-API-Key", key)]))
        assert (known.status, known.body) == (200, b"acct_a live first")
        assert known["x-ratelimit-remaining"] == remaining
        assert known["vary"] == "Authorization, X-API-Key"
    assert send(Sent(path, [("X-API-Key", key)])).status == 429
    assert send(Sent(path)).status == 200
    gate.flush()
    assert gate.usage.this_month("acct_a").counted == 2
    gate.close()


@pytest.mark.parametrize("adapter", [Asgi, Wsgi])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("X-API-Key", "nonsense")], 401),
        ([("X-API-Key", "kr_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17")], 401),
        ([("Authorization", "Bearer")], 401),
        ([("X-API-Key", "")], 401),
        ([("X-API-Key", "a"), ("Authorization", "Bearer b")], 400),
    ],
)
def test_bad_key_where_it_is_optional(
    adapter: type[Asgi | Wsgi], headers: Headers, status: int, clock: Clock
) -> None:
    """R7, S7: a key that is not good is refused, so that its owner learns of it."""
    gate = Gate.open(settings(optional_paths=["/feed"]), clock=clock)
    reply = adapter(gate).send(Sent("/feed", headers))
    assert (reply.status, reply["cache-control"]) == (status, "no-store")
    gate.close()


def test_revoked_key_where_it_is_optional(clock: Clock) -> None:
    """O6: a key that is revoked makes nobody of its owner, but is refused."""
    gate = Gate.open(settings(optional_paths=["/feed"]), clock=clock)
    gate.accounts.create("acct_a")
    made = gate.keys.create("acct_a", "first")
    send = Asgi(gate).send
    headers: Headers = [("X-API-Key", made.text)]
    assert send(Sent("/feed", headers)).status == 200
    gate.keys.revoke(made.key.id)
    assert send(Sent("/feed", headers)).status == 401
    gate.close()


@pytest.mark.parametrize(
    "path", ["/feed/../secret", "/feed/%2e%2e/secret", "/feed/a%2fb", "/feed/", "/x"]
)
def test_optional_in_plain_form_alone(path: str, clock: Clock) -> None:
    """Traps: without a key, what only resembles an optional path is closed."""
    gate = Gate.open(settings(optional_paths=["/feed", "/feed/*"]), clock=clock)
    for adapter in (Asgi, Wsgi):
        assert adapter(gate).send(Sent(path)).status == 401
    gate.close()


@pytest.mark.parametrize("unruled", ["any_key", "refuse"])
@pytest.mark.parametrize("root", ["", "/api"])
def test_rules_of_optional_paths(unruled: str, root: str, clock: Clock) -> None:
    """R7: rules hold for who sends a key; where none names the path, no key is worse than none."""
    gate = Gate.open(
        settings(
            optional_paths=["/feed/*"],
            rules=[{"path": "/feed/raw", "scopes": ["raw"]}],
            scopes=["other"],
            unruled=unruled,
            root_path=root,
        ),
        clock=clock,
    )
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "first", scopes=["other"]).text
    send = Asgi(gate).send
    for path, status in (("/feed/x", 200), ("/feed/raw", 403)):
        assert send(Sent(root + path)).status == 200
        assert send(Sent(root + path, [("X-API-Key", key)])).status == status
    elsewhere = send(Sent(root + "/x", [("X-API-Key", key)])).status
    assert elsewhere == (403 if unruled == "refuse" else 200)
    gate.close()


def test_preflight_where_keys_are_optional(clock: Clock) -> None:
    """S76: it is a request from nobody like any other, about which nothing is logged."""
    gate = Gate.open(settings(optional_paths=["/feed", "GET /read"]), clock=clock)
    headers: Headers = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")]
    assert Asgi(gate).send(Sent("/feed", headers, "OPTIONS")).status == 200
    assert Asgi(gate).send(Sent("/read", headers, "OPTIONS")).status == 401
    gate.close()
