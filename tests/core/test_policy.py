"""Public paths, rules, and whether a caller has what a rule needs."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyrush.core.identity import Verified
from keyrush.core.model import Plan, Scopes
from keyrush.core.paths import is_plain, pattern
from keyrush.core.policy import ANY_KEY, Needs, Policy, Rule, modules_in, named_by_method_alone
from keyrush.core.refusal import Refusal
from keyrush.errors import ConfigurationError
from tests.support.values import verified

GET = frozenset({"GET"})

ARTICLES = Rule("/api/articles", GET, ("read:articles",))
ARTICLE = Rule("/api/articles/{id}", GET, ("read:articles",))
PUBLISH = Rule("/api/articles", frozenset({"post"}), ("write:articles",))
ADMIN = Rule("/admin/{rest:path}", scopes=("admin",))
DOTTED = Rule("/v1.0/a+b", scopes=("dotted",))
LOG = Rule("/files/{name}/versions/{version}.json", scopes=("files",))
RULES = [ARTICLES, ARTICLE, PUBLISH, ADMIN, DOTTED, LOG]

POLICY = Policy(["/health", "GET /v1/capabilities", "/", "/é:x"], RULES)


# --- public paths --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "raw_path"),
    [
        ("GET", "/health", b"/health"),
        ("GET", "/health", None),
        ("POST", "/health", b"/health"),
        ("BREW", "/health", b"/health"),
        ("GET", "/health", b"/mounted/health"),
        ("GET", "/health", b"/b%C3%BCro/health"),
        ("GET", "/v1/capabilities", b"/v1/capabilities"),
        ("HEAD", "/v1/capabilities", b"/v1/capabilities"),
        ("GET", "/", b"/"),
        ("GET", "/é:x", b"/%C3%A9:x"),
        ("GET", "/é:x", b"/%c3%a9:x"),
    ],
)
def test_public(method: str, path: str, raw_path: bytes | None) -> None:
    """R1: a public path is open, for all its methods, wherever the app is mounted."""
    assert POLICY.is_public(method, path, raw_path)


@pytest.mark.parametrize(
    ("method", "path", "raw_path"),
    [
        pytest.param("GET", "/healthz", None, id="longer"),
        pytest.param("GET", "/heal", None, id="shorter"),
        pytest.param("GET", "/health/", None, id="trailing slash"),
        pytest.param("GET", "//health", None, id="double slash"),
        pytest.param("GET", "/health/..", None, id="dots at the end"),
        pytest.param("GET", "/x/../health", None, id="dots"),
        pytest.param("GET", "/./health", None, id="dot"),
        pytest.param("GET", "/Health", None, id="case"),
        pytest.param("GET", "/health\n", None, id="newline"),
        pytest.param("GET", "/health\0", None, id="NUL"),
        pytest.param("GET", "/health;x", None, id="parameter"),
        pytest.param("GET", "", None, id="empty"),
        pytest.param("GET", "*", None, id="asterisk"),
        pytest.param("GET", "//health", b"/%2Fhealth", id="quoted slash"),
        pytest.param("GET", "/health", b"/%68ealth", id="quoted letter"),
        pytest.param("GET", "/health", b"/x%2F..%2Fhealt%68", id="quoted dots"),
        pytest.param("POST", "/v1/capabilities", None, id="other method"),
        pytest.param("get", "/v1/capabilities", None, id="lower-case method"),
        pytest.param("OPTIONS", "/v1/capabilities", None, id="OPTIONS"),
    ],
)
def test_not_public(method: str, path: str, raw_path: bytes | None) -> None:
    """R1, traps: everything else is closed, whatever it resembles."""
    assert not POLICY.is_public(method, path, raw_path)


@given(st.text(), st.sampled_from(["GET", "POST", "HEAD"]))
def test_only_listed_paths_are_public(path: str, method: str) -> None:
    """No path is public but those listed, letter by letter."""
    policy = Policy(["/health"])
    assert policy.is_public(method, path, None) is (path == "/health")


@pytest.mark.parametrize("given_paths", [["GET /a", "POST /a"], ["/a", "GET /a"], ["GET /a", "/a"]])
def test_public_entries_add_up(given_paths: list[str]) -> None:
    """Several entries for one path open all the methods they name."""
    policy = Policy(given_paths)
    assert policy.is_public("GET", "/a", None)
    assert policy.is_public("POST", "/a", None)


@pytest.mark.parametrize(
    "entry", ["health", "", "//", "/a/../b", "/a//b", "GET health", "*", "GET *", "/a\\b"]
)
def test_bad_public_path(entry: str) -> None:
    """A public path that no request could match is refused at start-up, and named."""
    with pytest.raises(ConfigurationError, match="public path"):
        Policy([entry])
    with pytest.raises(ConfigurationError, match="optional path"):
        Policy((), optional_paths=[entry])


# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("GET", "/api/articles", ARTICLES),
        ("HEAD", "/api/articles", ARTICLES),
        ("POST", "/api/articles", PUBLISH),
        ("PUT", "/api/articles", ANY_KEY),
        ("GET", "/api/articles/17", ARTICLE),
        ("GET", "/api/articles/17/x", ANY_KEY),
        ("GET", "/api/articles/é", ARTICLE),
        ("DELETE", "/admin/a/b", ADMIN),
        ("BREW", "/admin/a", ADMIN),
        ("GET", "/admin/", ADMIN),
        ("GET", "/admin", ADMIN),
        ("GET", "/administration", ANY_KEY),
        ("GET", "/v1.0/a+b", DOTTED),
        ("GET", "/v1x0/aab", ANY_KEY),
        ("GET", "/files/x/versions/2.json", LOG),
        ("GET", "/files/x/versions/2_json", ANY_KEY),
        ("GET", "/elsewhere", ANY_KEY),
        ("GET", "", ANY_KEY),
        ("OPTIONS", "*", ANY_KEY),
    ],
)
def test_rule(method: str, path: str, rule: Rule | Needs) -> None:
    """The first rule for method and path counts; elsewhere any key will do."""
    assert POLICY.needs(method, path) == (Needs.of(rule) if isinstance(rule, Rule) else rule)


def test_first_rule_counts() -> None:
    """R19: `/api/articles/search` before `/api/articles/{id}` is its own rule, and never after."""
    search = Rule("/api/articles/search", scopes=("search",))
    path = "/api/articles/search"
    assert Policy((), [search, ARTICLE]).needs("GET", path) == Needs.of(search)
    assert Policy((), [ARTICLE, search]).needs("GET", path) == Needs.of(ARTICLE)


@pytest.mark.parametrize("path", ["/api/articles", "/api/articles/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "get", "Get"])
@pytest.mark.parametrize("spelled", ["/api/articles", "/api/articles/"])
def test_a_trailing_slash_never_matters(method: str, path: str, spelled: str) -> None:
    """Traps: neither of a rule nor of a path; what is named is never another's to close."""
    closing = Rule("/{rest:path}", scopes=("*",))
    policy = Policy((), [Rule(spelled, GET, ("read:articles",)), closing])
    assert policy.needs(method, path).scopes == ("read:articles",)


PLAIN = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/.well-known/x",
    "/a/...",
    "/a/..b",
    "/a/b.",
    "/é/\u2028",
    "/a b",
]

NOT_PLAIN = [
    "", "a", "*", "http://h/a", "x:/a", "//", "//a", "/a//", "/a//b", "/.", "/..", "/./a", "/../a",
    "/a/.", "/a/./", "/a/..", "/a/../b", "/a\\b", "/\\a", "/a\n", "/\na", "/a\0", "/a\x7f",
    "/a\x85b", "/a\t", "/a/\r",
]  # fmt: skip


@pytest.mark.parametrize("path", PLAIN)
def test_plain_paths(path: str) -> None:
    """Traps: what every app takes for the same path."""
    assert is_plain(path, None)
    assert is_plain(path, path.encode())
    assert is_plain(path, quote(path).encode("ascii"))


@pytest.mark.parametrize("path", NOT_PLAIN)
def test_paths_that_are_not_plain(path: str) -> None:
    """Traps: what some app takes for another path, decoded or as it was sent."""
    assert not is_plain(path, None)
    assert not is_plain("/a", path.encode())
    assert not is_plain(path, quote(path).encode("ascii"))


@given(st.text(alphabet="/.ab\\\n\x80 é"), st.booleans())
def test_plain_is_what_it_says(path: str, raw: bool) -> None:
    """Traps: one slash first; no empty or dot segment, no backslash, no control character."""
    segments = path[1:].split("/")
    if segments[-1] == "":
        del segments[-1]  # a slash at the end
    expected = (
        path[:1] == "/"
        and not {"", ".", ".."} & set(segments)
        and not any(char in path for char in "\\\n\x80")
    )
    assert is_plain(path, quote(path).encode("ascii") if raw else None) is expected


# --- prefixes ------------------------------------------------------------------------------------

MOUNTED = [Rule("/v1/tools", scopes=("tools",)), Rule("/api/v1/tools", scopes=("outer",))]


@pytest.mark.parametrize(
    ("path", "scopes"),
    [
        ("/api/v1/tools", {"tools", "outer"}),
        ("/v1/tools", {"tools", "outer"}),
        ("/api/v1/tools/", {"tools", "outer"}),
        ("/apiv1/tools", {"tools"}),
        ("/x/api/v1/tools", {"tools"}),
        ("/api/api/v1/tools", {"outer"}),
        ("/apiapi/v1/tools", {"outer"}),
        ("/api", set()),
        ("/elsewhere", set()),
    ],
)
@pytest.mark.parametrize("where", ["server", "app", "both"])
def test_with_a_prefix_all_rules_hold(where: str, path: str, scopes: set[str]) -> None:
    """Traps: the rules of the path with the prefix, without it, and as apps strip it hold."""
    policy = Policy((), MOUNTED, root_path="" if where == "server" else "/api")
    needs = policy.needs("GET", path, "" if where == "app" else "/api")
    assert scopes <= set(needs.scopes)


@pytest.mark.parametrize("path", ["/apiv1/tools", "/x/api/v1/tools"])
def test_a_path_that_only_looks_like_one_within_is_unnamed(path: str) -> None:
    """Closed by default: a spelling that some app strips does not name what another serves."""
    policy = Policy((), MOUNTED, unruled="refuse", root_path="/api")
    needs = policy.needs("GET", path)
    assert "tools" in needs.scopes
    assert policy.authorise(verified("*"), needs, b"") == Refusal("unruled")


@pytest.mark.parametrize("unruled", ["any_key", "refuse"])
def test_what_several_forms_need_is_made_once(unruled: Any) -> None:
    """A path that two rules name, with its prefix and without, needs the same object each time:
    what requests take is known by it, and would be made, and kept, for each of them.
    """
    rules = [Rule("/api/{rest:path}", scopes=("a",)), Rule("/{rest:path}", scopes=("b",))]
    policy = Policy((), rules, unruled=unruled, root_path="/api")
    first = policy.needs("GET", "/api/x")
    assert set(first.scopes) == {"a", "b"}
    assert policy.needs("GET", "/api/y") is first
    alone = policy.needs("GET", "/")
    assert alone is not first
    assert policy.needs("GET", "/") is alone


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/health", True),
        ("/api/health", True),
        ("/apihealth", False),
        ("/x/api/health", False),
        ("/api/api/health", False),
    ],
)
def test_public_within_a_prefix(path: str, expected: bool) -> None:
    """R1: a public path is one of the app; the prefix is stripped where a segment ends."""
    assert Policy(["/health"]).is_public("GET", path, None, "/api") is expected
    assert Policy(["/health"], root_path="/api").is_public("GET", path, None) is expected


@given(
    st.lists(st.sampled_from(["/api", "api", "/v1", "/x", "/"]), max_size=6).map("".join),
    st.sampled_from(["", "/api", "/v1", "/api/"]),
    st.sampled_from(["", "/api", "/x"]),
)
def test_whatever_is_stripped_its_rule_holds(path: str, server: str, app: str) -> None:
    """Traps: wherever an app strips the prefix, the rule of what is left holds."""
    policy = Policy((), [Rule("/v1", scopes=("v1",))], root_path=app)
    assume(is_plain(path, None))
    needs = policy.needs("GET", path, server)
    for root in (server.rstrip("/"), app):
        if root:
            for inner in (path.removeprefix(root), path.split(root, 1)[-1]):
                if inner.strip("/") == "v1":
                    assert needs.scopes == ("v1",)


def test_rules_that_hold_together_hold_whole() -> None:
    """R16: scopes, modules, parameters of all rules, and the highest price."""
    one = Rule("/a", scopes=("x", "y"), modules=("m",), modules_from="include", credits=3)
    other = Rule("/p/a", scopes=("y", "z"), modules=("n",), modules_from="with", credits=5)
    needs = Policy((), [one, other]).needs("GET", "/p/a", "/p")
    assert set(needs.scopes) == {"x", "y", "z"}
    assert set(needs.modules) == {"m", "n"}
    assert set(needs.modules_from) == {"include", "with"}
    assert needs.credits == 5


# --- what no rule names --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "is_open"),
    [
        ("GET", "/api/articles", True),
        ("HEAD", "/api/articles", True),
        ("get", "/api/articles", True),
        ("POST", "/api/articles", True),
        ("PUT", "/api/articles", False),
        ("TRACE", "/api/articles", False),
        ("FOO", "/api/articles", False),
        ("OPTIONS", "/api/articles", False),
        ("FOO", "/admin/x", True),
        ("GET", "/elsewhere", False),
    ],
)
def test_unruled(method: str, path: str, is_open: bool) -> None:
    """Closed by default: with `unruled = "refuse"`, a path or method that no rule names is 403."""
    policy = Policy(["/health"], RULES, unruled="refuse")
    refusal = policy.authorise(verified("*"), policy.needs(method, path), b"")
    assert (refusal is None) is is_open
    assert refusal is None or (refusal.reason, refusal.status) == ("unruled", 403)
    assert POLICY.authorise(verified("*"), POLICY.needs(method, path), b"") is None


def test_unruled_without_rules() -> None:
    """Closed by default: where there are no rules at all, `refuse` refuses everything."""
    policy = Policy((), unruled="refuse")
    assert policy.authorise(verified("*"), policy.needs("GET", "/"), b"") == Refusal("unruled")


def test_paths_named_by_method_alone() -> None:
    """What is told of rules that leave other methods of their path to any key."""
    rules = [Rule("/a", GET), Rule("/a/", frozenset({"post"})), Rule("/b", GET), Rule("/b"), ADMIN]
    assert named_by_method_alone(rules) == {"/a": {"GET", "HEAD", "POST"}}


# --- patterns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/{a}-{b}",
        "/{a}{b}",
        "/x/{a}-{b}-{c}/y",
        "/{a:path}/{b:path}",
        "/{a:path}x{b:path}y",
        "/{a}-{rest:path}",
        "/x//y",
        "/x/../y",
        "/x/./{a}",
        "/a\\b",
        "/a\n",
    ],
)
def test_paths_that_match_in_many_ways_are_refused(path: str) -> None:
    """A rule path that could hold the event loop, or match nothing, is refused, and named."""
    with pytest.raises(ConfigurationError, match="rule path") as raised:
        Policy((), [Rule(path)])
    assert repr(path) in str(raised.value)


#: How the standard library reads a pattern, and the names that it gives its parts.
PARSER: Any = import_module("re._parser")
NAMES: Any = import_module("re._constants")


def steps(node: Any, text: str, at: int, count: list[int]) -> list[int]:
    """Where a backtracking matcher may stand after `node`, and how many steps that took."""
    ends = [at]
    for operation, argument in node:
        following: list[int] = []
        for place in ends:
            count[0] += 1
            if operation in (NAMES.LITERAL, NAMES.NOT_LITERAL, NAMES.ANY):
                if place < len(text) and re.fullmatch(_of(operation, argument), text[place]):
                    following.append(place + 1)
            elif operation is NAMES.MAX_REPEAT:
                least, most, inner = argument
                reached = [place]
                turns = 0
                while reached and turns <= most:
                    if turns >= least:
                        following += reached
                    reached = [end for where in reached for end in steps(inner, text, where, count)]
                    turns += 1
            elif operation is NAMES.SUBPATTERN:
                following += steps(argument[-1], text, place, count)
            else:
                raise AssertionError(operation)
        ends = following
    return ends


def _of(operation: Any, argument: Any) -> str:
    if operation is NAMES.ANY:
        return "."
    if operation is NAMES.LITERAL:
        return re.escape(chr(argument))
    return f"[^{re.escape(chr(argument))}]"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", ".x", "-"]),
            st.sampled_from(["", "{n}", "{n:path}"]),
            st.sampled_from(["", "a", ".x", "-"]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["a", "-", "/a", "/-", ".x", "/a.x"]),
)
def test_rules_match_in_one_pass(parts: list[tuple[str, str, str]], unit: str) -> None:
    """Every rule path that is accepted is matched in steps that grow as the path does."""
    path = "".join(
        f"/{before}{middle.replace('n', f'n{number}', 1)}{after}"
        for number, (before, middle, after) in enumerate(parts)
    )
    try:
        expression = pattern(path)
    except ConfigurationError:
        return
    parsed = PARSER.parse(expression)
    taken = []
    for length in (100, 200):
        count = [0]
        steps(parsed, "/a" + unit * length + "/", 0, count)
        taken.append(count[0])
    assert taken[1] <= 2.5 * taken[0] + 100


@pytest.mark.parametrize(
    "path", ["api", "", "{path:path}", "/a/{", "/a/}", "/a/{}", "/a/{1}", "/a/{b:int}", "/{a b}"]
)
def test_bad_rule_path(path: str) -> None:
    """A rule path that is no pattern is refused at start-up, and named."""
    with pytest.raises(ConfigurationError, match="rule path"):
        Policy((), [Rule(path)])


def test_methods_that_nobody_knows_take_no_memory() -> None:
    """A client that invents a method for each request leaves nothing behind."""
    policy = Policy((), RULES)
    tables = len(policy._by_method)  # noqa: SLF001  # what must not grow
    for number in range(10_000):
        assert policy.needs(f"M{number}", "/api/articles") == ANY_KEY
    assert len(policy._by_method) == tables  # noqa: SLF001  # as above


@given(st.text())
def test_any_path_has_an_answer(path: str) -> None:
    """Hostile paths get a rule, not an exception, quoted or not."""
    assert POLICY.needs("GET", path) is not None
    quoted = quote(path, errors="replace").encode("ascii")
    assert POLICY.is_public("GET", path, quoted) is (path in {"/health", "/", "/é:x"}) or (
        path == "/v1/capabilities"
    )


# --- authorise -----------------------------------------------------------------------------------

STARTER = Plan("starter", modules=frozenset({"meta", "translations"}))
KNOWN = frozenset({"meta", "translations", "sentiment", "scoring"})


def authorise(caller: Verified, rule: Rule, query: bytes = b"") -> Refusal | None:
    """What a policy that knows these modules says."""
    return Policy((), [rule], modules=KNOWN).authorise(caller, Needs.of(rule), query)


@pytest.mark.parametrize(
    ("granted", "needed"),
    [
        (("*",), ("read:articles", "write:anything")),
        (("read:*",), ("read:articles",)),
        (("read:*",), ("read:articles:drafts",)),
        (("read:articles:*",), ("read:articles:drafts",)),
        (("read:articles",), ("read:articles",)),
        (("a", "b"), ("a", "b")),
        (("a",), ()),
    ],
)
def test_scopes_that_suffice(granted: tuple[str, ...], needed: tuple[str, ...]) -> None:
    """R4: a scope, a wildcard above it, or `*`."""
    assert authorise(verified(*granted), Rule("/", scopes=needed)) is None


@pytest.mark.parametrize(
    ("granted", "needed"),
    [
        (("read:articles",), ("read:entities",)),
        (("read:articles",), ("read:articles", "read:entities")),
        (("read:*",), ("write:articles",)),
        (("read:*",), ("read",)),
        (("read",), ("read:articles",)),
        (("read:articles",), ("read:*",)),
        (("read:articles",), ("*",)),
        (("rea*",), ("read:articles",)),
        (("READ:ARTICLES",), ("read:articles",)),
    ],
)
def test_scopes_that_do_not_suffice(granted: tuple[str, ...], needed: tuple[str, ...]) -> None:
    """R7, S17: 403 insufficient_scope, naming all that the rule needs."""
    refusal = authorise(verified(*granted), Rule("/", scopes=needed))
    assert refusal == Refusal("insufficient_scope", names=needed)
    assert refusal.status == 403


@pytest.mark.parametrize(
    "query",
    [
        b"",
        b"include=",
        b"include=meta",
        b"include=meta,translations",
        b"include=meta&include=translations",
        b"include=meta%2Ctranslations",
        b"include=+meta+,",
        b"includes=sentiment",
        b"INCLUDE=sentiment",
        b"q=include%3Dsentiment",
        b"sentiment",
    ],
)
def test_modules_that_the_plan_has(query: bytes) -> None:
    """R16: modules of the plan, in any spelling of the list, and none at all."""
    rule = Rule("/", modules_from="include")
    assert authorise(verified(plan=STARTER), rule, query) is None


@pytest.mark.parametrize(
    ("query", "named"),
    [
        (b"include=sentiment", ("sentiment",)),
        (b"include=meta,sentiment", ("sentiment",)),
        (b"include=sentiment,scoring", ("scoring", "sentiment")),
        (b"include=meta&include=sentiment", ("sentiment",)),
        (b"include=%73entiment", ("sentiment",)),
        (b"%69nclude=sentiment", ("sentiment",)),
        (b"include=meta%2Csentiment", ("sentiment",)),
        (b"include=%20sentiment", ("sentiment",)),
        (b"a=1&include=sentiment&b=2", ("sentiment",)),
        (b"include=made-up", ()),
        (b"include=SENTIMENT", ()),
        (b"include=%ff", ()),
        (b"include=<script>", ()),
        (b"include=*", ()),
    ],
)
def test_modules_that_the_plan_lacks(query: bytes, named: tuple[str, ...]) -> None:
    """R16, S16, S18: 403, naming only modules that exist: request data is never echoed."""
    refusal = authorise(verified(plan=STARTER), Rule("/", modules_from="include"), query)
    assert refusal == Refusal("module_not_in_plan", names=named)
    assert refusal.status == 403


def test_modules_of_the_rule() -> None:
    """A rule may need modules itself; a `*` scope is full access within the plan only (R4)."""
    rule = Rule("/", modules=("sentiment",))
    refusal = authorise(verified("*", plan=STARTER), rule)
    assert refusal == Refusal("module_not_in_plan", names=("sentiment",))
    pro = Plan("pro", modules=KNOWN)
    assert authorise(verified(plan=pro), rule) is None


def test_gated_feature() -> None:
    """O12: where settings say so, a plan without the module is answered with 402."""
    rule = Rule("/", modules=("sentiment", "made-up"))
    policy = Policy((), [rule], modules=KNOWN, gated="gated_feature")
    refusal = policy.authorise(verified(plan=STARTER), Needs.of(rule), b"")
    assert refusal == Refusal("gated_feature", names=("sentiment",))
    assert refusal.status == 402


def test_scope_comes_before_module() -> None:
    """A caller without the scope learns nothing about the plan."""
    rule = Rule("/", scopes=("a",), modules=("sentiment",))
    refusal = authorise(verified("b", plan=STARTER), rule)
    assert refusal is not None
    assert refusal.reason == "insufficient_scope"


@given(st.binary(max_size=100))
def test_any_query_has_an_answer(query: bytes) -> None:
    """Hostile query strings are read without an exception."""
    assert isinstance(list(modules_in(query, "include")), list)


@given(st.sets(st.sampled_from(["a", "a:b", "a:*", "*", "b:*", "b:c:d", "b:c:*"])))
def test_wildcards_say_the_same_everywhere(granted: set[str]) -> None:
    """`in` and `covers` agree, and iterating gives what was granted."""
    scopes = Scopes(granted)
    assert set(scopes) == granted
    for name in ("a", "a:b", "b:c:d", "z"):
        parts = name.split(":")
        above = {":".join([*parts[:depth], "*"]) for depth in range(len(parts))}
        assert (name in scopes) is bool(granted & {name, *above})
        assert scopes.covers([name]) is (name in scopes)
    anything: object = 7
    assert (anything in scopes) is ("*" in granted)


@pytest.mark.parametrize("path", ["/api/*", "/api/{x"])
def test_patterns_that_would_match_nothing_are_refused(path: str) -> None:
    """A wildcard that keyrush does not know must not leave a path open in silence."""
    with pytest.raises(ConfigurationError, match="name:path"):
        Policy((), [Rule(path)])
