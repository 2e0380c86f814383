"""Public paths, rules, and whether a caller has what a rule needs."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyrush.errors import ConfigurationError
from keyrush.model import Identity, Plan, Refusal, Scopes
from keyrush.policy import ANY_KEY, Policy, Rule, modules_in, plain
from tests.values import identity

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
    "entry", ["health", "", "/health/", "//", "/a/../b", "/a//b", "GET health"]
)
def test_bad_public_path(entry: str) -> None:
    """A public path that no request could match is refused at start-up, and named."""
    with pytest.raises(ConfigurationError, match="public path"):
        Policy([entry])


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
def test_rule(method: str, path: str, rule: Rule) -> None:
    """The first rule for method and path counts; elsewhere any key will do."""
    assert POLICY.rule(method, path) == rule


def test_first_rule_counts() -> None:
    """R19: `/api/articles/search` before `/api/articles/{id}` is its own rule, and never after."""
    search = Rule("/api/articles/search", scopes=("search",))
    assert Policy((), [search, ARTICLE]).rule("GET", "/api/articles/search") == search
    assert Policy((), [ARTICLE, search]).rule("GET", "/api/articles/search") == ARTICLE


@pytest.mark.parametrize(
    "path",
    [
        "/api/articles/",
        "/api/articles//",
        "//api/articles",
        "/api//articles",
        "/api/./articles",
        "/api/articles/.",
        "/x/../api/articles",
        "/api/x/../articles",
        "/../api/articles",
        "/api/articles\n",
        "/api/articles/\n",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "get", "Get"])
def test_other_spellings_do_not_escape(method: str, path: str) -> None:
    """Traps: what an app or a proxy may take for the path needs what the path needs."""
    assert "read:articles" in POLICY.rule(method, path).scopes


@pytest.mark.parametrize(
    "path",
    [
        "/admin/x/../../elsewhere",
        "/admin/..",
        "/admin/x/..",
        "/admin/../api/articles",
        "/admin//",
        "/admin/.",
        "//admin/x",
    ],
)
def test_dots_do_not_lead_out_of_a_rule(path: str) -> None:
    """Traps: an app that does not resolve `..` serves such a path by its `/admin/…` route."""
    assert "admin" in POLICY.rule("GET", path).scopes


def test_dots_need_what_both_paths_need() -> None:
    """A path that two rules may claim needs the scopes of both."""
    scopes = POLICY.rule("GET", "/admin/x/../../api/articles").scopes
    assert {"admin", "read:articles"} <= set(scopes)


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """`/api/articles/7` with repeated slashes, dots and detours that lead back to it."""
    detour = st.sampled_from(["/", "/.", "//.", "/x/..", "/x/y/../..", "/./x/.."])
    path = ""
    for segment in ("api", "articles", "7"):
        path += "".join(draw(st.lists(detour, max_size=2))) + "/" + segment
    return path + draw(st.sampled_from(["", "/", "//", "/.", "/x/..", "\n", "/\n"]))


@given(spellings())
@example("/api/articles/7\n")
def test_no_spelling_escapes(path: str) -> None:
    """Traps: however the path is spelled, its rule holds."""
    assert "read:articles" in POLICY.rule("GET", path).scopes


@given(st.text(alphabet="/.ab", max_size=12).map(lambda text: f"/{text}"))
def test_plain_is_stable_and_clean(path: str) -> None:
    """A plain path holds no `//`, `.`, `..` or trailing slash, and is its own plain path."""
    made = plain(path)
    assert made.startswith("/")
    assert plain(made) == made
    assert "//" not in made
    assert not {".", ".."} & set(made.split("/"))
    assert made == "/" or not made.endswith("/")


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
        assert policy.rule(f"M{number}", "/api/articles") == ANY_KEY
    assert len(policy._by_method) == tables  # noqa: SLF001  # as above


@given(st.text())
def test_any_path_has_an_answer(path: str) -> None:
    """Hostile paths get a rule, not an exception, quoted or not."""
    assert POLICY.rule("GET", path) is not None
    quoted = quote(path, errors="replace").encode("ascii")
    assert POLICY.is_public("GET", path, quoted) is (path in {"/health", "/", "/é:x"}) or (
        path == "/v1/capabilities"
    )


# --- authorise -----------------------------------------------------------------------------------

STARTER = Plan("starter", modules=frozenset({"meta", "translations"}))
KNOWN = frozenset({"meta", "translations", "sentiment", "scoring"})


def authorise(caller: Identity, rule: Rule, query: bytes = b"") -> Refusal | None:
    """What a policy that knows these modules says."""
    return Policy((), [rule], modules=KNOWN).authorise(caller, rule, query)


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
    assert authorise(identity(*granted), Rule("/", scopes=needed)) is None


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
    refusal = authorise(identity(*granted), Rule("/", scopes=needed))
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
    assert authorise(identity(plan=STARTER), rule, query) is None


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
    refusal = authorise(identity(plan=STARTER), Rule("/", modules_from="include"), query)
    assert refusal == Refusal("module_not_in_plan", names=named)
    assert refusal.status == 403


def test_modules_of_the_rule() -> None:
    """A rule may need modules itself; a `*` scope is full access within the plan only (R4)."""
    rule = Rule("/", modules=("sentiment",))
    refusal = authorise(identity("*", plan=STARTER), rule)
    assert refusal == Refusal("module_not_in_plan", names=("sentiment",))
    pro = Plan("pro", modules=KNOWN)
    assert authorise(identity(plan=pro), rule) is None


def test_gated_feature() -> None:
    """O12: where settings say so, a plan without the module is answered with 402."""
    rule = Rule("/", modules=("sentiment", "made-up"))
    policy = Policy((), [rule], modules=KNOWN, gated="gated_feature")
    refusal = policy.authorise(identity(plan=STARTER), rule, b"")
    assert refusal == Refusal("gated_feature", names=("sentiment",))
    assert refusal.status == 402


def test_scope_comes_before_module() -> None:
    """A caller without the scope learns nothing about the plan."""
    rule = Rule("/", scopes=("a",), modules=("sentiment",))
    refusal = authorise(identity("b", plan=STARTER), rule)
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


def test_path_without_its_slash_has_its_rule() -> None:
    """Traps: `GET admin`, which some servers pass on and some frameworks mend, needs the scope."""
    rule = Rule("/admin", scopes=("admin",))
    assert Policy((), [rule]).rule("GET", "admin") == rule


@pytest.mark.parametrize("path", ["/api/*", "/api/{x"])
def test_patterns_that_would_match_nothing_are_refused(path: str) -> None:
    """A wildcard that keyrush does not know must not leave a path open in silence."""
    with pytest.raises(ConfigurationError, match="name:path"):
        Policy((), [Rule(path)])
    with pytest.raises(ConfigurationError, match="one exact path"):
        Policy([path])
