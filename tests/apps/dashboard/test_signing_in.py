"""Signing in to the dashboard (contract O8, O10): links, the session of the app around, sessions of
issuers; and out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.requests import Request

from keyrush import Gate, KeyrushMiddleware
from keyrush.apps import Dashboard
from keyrush.core.portal import LINK_AGE, SESSION_AGE
from keyrush.errors import ConfigurationError, NotFound
from keyrush.gate.strangers import TOLERATED
from keyrush.store.memory import MemoryStore
from tests.apps.dashboard.conftest import app_of
from tests.conftest import Clock, settings, still
from tests.support.calls import Sent, run, together
from tests.support.dashboard import Browser, Page
from tests.support.issuer import secret_signer

PATHS = ("/dashboard", "/dashboard/", "/dashboard/*")

SECRET = "s" * 48
ISSUER = "https://login.example.com"


def link(gate: Gate, account_id: str = "acct_a", **values: Any) -> str:
    """The path of a new link."""
    url = gate.portal_link(account_id, **values)
    return url.removeprefix("https://api.example.com")


def use(browser: Browser, path: str) -> Page:
    """Open a link and press its button."""
    return browser.submit(browser.get(path), path)


# --- links ---------------------------------------------------------------------------------------


def test_a_link_signs_in(gate: Gate, nobody: Browser) -> None:
    """O10: a link leads to a page with a button, which leads to the account's dashboard."""
    assert nobody.get("/dashboard/").status == 401
    path = link(gate)
    page = nobody.get(path)
    assert page.status == 200
    assert "acct_a" in page.said
    home = nobody.follow(nobody.submit(page, path))
    assert home.status == 200
    assert "acct_a" in home.said
    assert list(nobody.cookies) == ["__Host-keyrush-session"]


def test_what_the_cookie_is(gate: Gate, nobody: Browser) -> None:
    """S82: the session is a cookie of this host alone, which no script reads, over https."""
    answer = use(nobody, link(gate))
    cookie = answer["set-cookie"]
    assert cookie.startswith("__Host-keyrush-session=")
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/", "Max-Age=86400"} <= set(
        cookie.split("; ")
    )


def test_opening_a_link_does_not_use_it(gate: Gate, nobody: Browser) -> None:
    """O10: who only looks at a link, as scanners of mail do, leaves it as it is."""
    path = link(gate)
    for method in ("GET", "HEAD", "GET"):
        assert Browser(nobody.app).get(path, method=method).status == 200
    assert use(nobody, path).status == 303


def test_a_link_is_good_once(gate: Gate, nobody: Browser) -> None:
    """O10: once it has been used it is nothing any more, for anybody."""
    path = link(gate)
    other = Browser(nobody.app)
    before = other.get(path)
    assert use(nobody, path).status == 303
    late = other.submit(before, path)
    assert (late.status, other.cookies) == (404, {})
    assert "does not work any more" in late.said
    assert other.get(path).status == 404


def test_one_of_two_posts_wins(gate: Gate, nobody: Browser) -> None:
    """O10: of posts at once one is signed in."""
    path = link(gate)
    fields = nobody.get(path).form(path).fields
    pages = run(together(lambda: nobody.posting(path, fields), 8))
    assert sorted(page.status for page in pages) == [303] + [404] * 7
    assert len(gate.portal.sessions("acct_a")) == 1


def test_how_long_things_are_good(gate: Gate, nobody: Browser, clock: Clock) -> None:
    """O10: a link for 10 minutes, its session for 24 hours."""
    old = link(gate)
    clock.advance(LINK_AGE)
    assert nobody.get(old).status == 404
    path = link(gate)
    clock.advance(LINK_AGE - 1)
    assert use(nobody, path).status == 303
    clock.advance(SESSION_AGE - 1)
    assert nobody.get("/dashboard/").status == 200
    clock.advance(1)
    over = nobody.get("/dashboard/")
    assert over.status == 401
    assert "Your session has ended" in over.said


def test_signing_out(gate: Gate, nobody: Browser) -> None:
    """O10: it ends the session here and in the store: its cookie opens nothing any more."""
    use(nobody, link(gate))
    stolen = dict(nobody.cookies)
    page = nobody.get("/dashboard/sign-out")
    nobody.submit(page, "/dashboard/sign-out")
    assert nobody.cookies == {}
    assert gate.portal.sessions() == []
    nobody.cookies = stolen
    assert nobody.get("/dashboard/").status == 401


def test_revoked_by_the_operator(gate: Gate, nobody: Browser) -> None:
    """O10: an operator ends sessions, which are over with the next request."""
    use(nobody, link(gate))
    (session,) = gate.portal.sessions("acct_a")
    gate.portal.end(session.id)
    assert nobody.get("/dashboard/").status == 401
    with pytest.raises(NotFound):
        gate.portal.end(session.id)
    with pytest.raises(NotFound):
        gate.portal.end("../x")


def test_a_link_that_only_shows(gate: Gate, nobody: Browser) -> None:
    """O10: the session of a link without writing changes nothing, and can sign out."""
    path = link(gate, write=False)
    page = nobody.get(path)
    assert "change nothing" in page.said
    nobody.submit(page, path)
    assert nobody.get("/dashboard/").status == 200
    out = nobody.submit(nobody.get("/dashboard/sign-out"), "/dashboard/sign-out")
    assert out.status == 303
    assert gate.portal.sessions() == []


def test_no_link_for_nobody(gate: Gate) -> None:
    """O10: there is no link to an account that is not there."""
    with pytest.raises(NotFound):
        gate.portal_link("acct_x")
    with pytest.raises(NotFound):
        gate.portal_link("../acct_a")


def test_where_links_lead(clock: Clock) -> None:
    """A link leads to where the dashboard is, as settings have it."""
    for given, at in (
        ({}, "http://127.0.0.1:8000/dashboard/link/"),
        ({"public_url": "https://api.example.com/"}, "https://api.example.com/dashboard/link/"),
        ({"dashboard_url": "https://my.example.com/app"}, "https://my.example.com/app/link/"),
    ):
        gate = Gate.open(settings(**given), clock=clock)
        gate.accounts.create("acct_a")
        assert gate.portal_link("acct_a").startswith(at)
        gate.close()


@pytest.mark.parametrize(
    "cookie",
    ["", "x", "A" * 43, "A" * 5000, "' OR 1=1 --", "sess_a", "é", "__Host-", "A" * 42 + "="],
)
def test_hostile_cookies(nobody: Browser, cookie: str) -> None:
    """Whatever stands for a session that is not there is nobody's."""
    nobody.cookies = {"__Host-keyrush-session": cookie}
    assert nobody.get("/dashboard/").status == 401


@pytest.mark.parametrize("code", ["x", "A" * 43, "A" * 5000, "%00", "%2e%2e", "'--", "%c3%28"])
def test_hostile_links(nobody: Browser, code: str) -> None:
    """Whatever stands for a link that is not there leads nowhere."""
    assert nobody.get(f"/dashboard/link/{code}").status == 404


def test_guessing_ends_soon(gate: Gate, nobody: Browser) -> None:
    """S19: who sends what is not there again and again is not let ask the store any more while he
    asks already; who is signed in goes on.
    """
    asked = 0
    look = gate.portal.linked

    def counting(code: str) -> Any:
        nonlocal asked
        asked += 1
        return look(code)

    gate.portal.linked = counting  # type: ignore[method-assign]  # it counts
    for number in range(TOLERATED + 2):
        nobody.get(f"/dashboard/link/{number:043}")
    before = asked
    pages = run(together(lambda: _get(nobody, f"/dashboard/link/{'B' * 43}"), 64))
    assert {page.status for page in pages} == {404, 429}
    assert asked - before < 64


async def _get(browser: Browser, path: str) -> Page:
    return await browser.send(Sent(path))


def test_plain_loopback(gate: Gate) -> None:
    """O10: on this machine a link works without https, by a cookie without the prefix; behind a
    proxy with https there it has the prefix; anywhere else it works over https alone.
    """
    app = app_of(Dashboard(gate))
    local = Browser(app, "http://127.0.0.1:8000")
    assert use(local, link(gate)).status == 303
    assert list(local.cookies) == ["keyrush-session"]
    assert local.get("/dashboard/").status == 200
    proxied = Browser(app, "http://127.0.0.1:8000")
    proxied.headers = [("x-forwarded-proto", "https")]
    assert use(proxied, link(gate))["set-cookie"].startswith("__Host-")
    far = Browser(app, "http://app.example")
    assert use(far, link(gate)).status == 303
    assert far.get("/dashboard/").status == 401  # the browser has not kept what was Secure
    planted = Browser(app)
    planted.cookies = dict(local.cookies)
    assert planted.get("/dashboard/").status == 401


def test_who_is_gone(nobody: Browser, tmp_path: Any, clock: Clock) -> None:
    """O10: a session is over when its account is."""
    url = f"sqlite:///{tmp_path}/keyrush.db"
    gate = still(Gate.open(settings(store_url=url), clock=clock))
    gate.accounts.create("acct_a")
    browser = Browser(app_of(Dashboard(gate)))
    path = gate.portal_link("acct_a").removeprefix("http://127.0.0.1:8000")
    assert use(browser, path).status == 303
    assert browser.get("/dashboard/").status == 200
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM keyrush_accounts"))
    engine.dispose()
    assert browser.get("/dashboard/").status == 401
    gate.close()


def test_nothing_of_a_link_is_kept(tmp_path: Any, clock: Clock) -> None:
    """S82: the database has neither the code nor what the browser has."""
    file = tmp_path / "keyrush.db"
    gate = still(Gate.open(settings(store_url=f"sqlite:///{file}"), clock=clock))
    gate.accounts.create("acct_a")
    first, second = gate.portal.link("acct_a"), gate.portal.link("acct_a")
    entered = gate.portal.enter(first)
    assert entered is not None
    gate.close()
    written = b"".join(one.read_bytes() for one in tmp_path.iterdir())
    assert not any(one.encode() in written for one in (first, second, entered.token))
    assert entered.token not in repr(entered.session)


class Small(MemoryStore):
    """A store of one's own that can't keep links."""

    portal_link = None  # type: ignore[assignment]  # as if it had none


def test_a_store_without_them(clock: Clock) -> None:
    """A store of one's own without `PortalStore` has no links, says so, and serves the rest."""
    gate = still(Gate.open(settings(), store=Small(), clock=clock))
    gate.accounts.create("acct_a")
    with pytest.raises(ConfigurationError, match="PortalStore"):
        gate.portal_link("acct_a")
    with pytest.raises(ConfigurationError, match="PortalStore"):
        gate.portal.sessions()
    browser = Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_a")))
    browser.cookies = {"__Host-keyrush-session": "A" * 43}
    assert browser.get("/dashboard/").status == 200
    assert browser.get(f"/dashboard/link/{'A' * 43}").status == 404
    assert [gate.portal.spend("form", clock() + 1) for _ in range(2)] == [True, False]
    gate.close()


# --- the app around ------------------------------------------------------------------------------


async def coroutine(_: Request) -> str | None:
    return "acct_b"


class Asking:
    """Says whom a header names."""

    async def __call__(self, request: Request) -> str | None:
        return request.headers.get("x-who")


WAYS: list[Callable[[Request], Any]] = [
    lambda _: "acct_b",
    coroutine,
    Asking(),
]


@pytest.mark.parametrize("account_of", WAYS, ids=["plain", "coroutine", "object"])
def test_the_app_around(gate: Gate, account_of: Any, backend: str) -> None:
    """O10: who the app around has signed in sees the account that it says, by whatever function."""
    browser = Browser(app_of(Dashboard(gate, account_of=account_of)))
    page = browser.get("/dashboard/", ("x-who", "acct_b"))
    assert page.status == 200
    assert "acct_b" in page.said


@pytest.mark.parametrize("account_id", ["acct_x", "", "../a", 7, b"acct_a", "acct_a\n", "A" * 99])
def test_an_account_that_is_not_there(gate: Gate, account_id: Any) -> None:
    """O6: an id of no account is not permitted, and says nothing of any."""
    browser = Browser(app_of(Dashboard(gate, account_of=lambda _: account_id)))
    page = browser.get("/dashboard/keys")
    assert page.status == 403
    assert "acct_" not in page.said


def test_one_account_alone(gate: Gate) -> None:
    """O10: a dashboard of one account shows nothing to another's people, however they came."""
    gate.accounts.create("acct_z")
    browser = Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_a", only="acct_a")))
    assert browser.get("/dashboard/").status == 200
    browser = Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_z", only="acct_a")))
    assert browser.get("/dashboard/").status == 403


def test_where_to_sign_in(gate: Gate) -> None:
    """O10: who is not signed in is led to where one is, and back, by a path and never a host."""
    for url, led in (
        ("/login?next={next}", "/login?next=%2Fdashboard%2Fkeys%3Fq%3Da%2526b"),
        ("https://id.example/", "https://id.example/"),
    ):
        browser = Browser(app_of(Dashboard(gate, account_of=lambda _: None, sign_in_url=url)))
        page = browser.get("/dashboard/keys?q=a%26b")
        assert page.status == 401
        assert led in page.links


def test_an_app_that_fails(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """What the app's own function raises is an error with a reference, which the log has, too."""

    def fail(_: Request) -> str:
        raise RuntimeError("no session store")

    page = Browser(app_of(Dashboard(gate, account_of=fail))).get("/dashboard/")
    assert page.status == 500
    reference = page.said.partition("Reference ")[2].partition(".")[0]
    assert reference.startswith("ref_")
    assert reference in caplog.text
    assert "no session store" not in page.text


# --- issuers -------------------------------------------------------------------------------------


@pytest.fixture
def people(clock: Clock) -> Iterator[Gate]:
    """A gate that knows sessions and OAuth clients of an issuer."""
    known = {"issuer": ISSUER, "algorithms": ("HS256",), "secret": SECRET, "audience": "api"}
    opened = still(
        Gate.open(
            settings(
                issuers=(
                    {**known, "kind": "session", "scopes": ("keys:*",)},
                    {**known, "kind": "oauth", "scopes": ("*",), "typ": "at+jwt"},
                ),
                dashboard_cookie="sb-token",
                public_paths=PATHS,
            ),
            clock=clock,
        )
    )
    opened.accounts.create("acct_a")
    opened.accounts.link("acct_a", issuer=ISSUER, subject="user-1")
    yield opened
    opened.close()


def token(clock: Clock, typ: str = "JWT", **claims: Any) -> str:
    now = clock() // 1000
    usual = {"iss": ISSUER, "aud": "api", "sub": "user-1", "iat": now, "exp": now + 3600}
    return secret_signer(SECRET.encode()).sign(usual | claims, typ=typ, kid=None)


def test_a_session_of_an_issuer(people: Gate, clock: Clock) -> None:
    """O8: a session token opens the dashboard, in `Authorization` or in the cookie named for it."""
    for app in (app_of(Dashboard(people)), KeyrushMiddleware(app_of(Dashboard()), gate=people)):
        bearer = Browser(app).get("/dashboard/", ("authorization", f"Bearer {token(clock)}"))
        assert bearer.status == 200
        assert "acct_a" in bearer.said
        browser = Browser(app)
        browser.cookies = {"sb-token": token(clock)}
        assert browser.get("/dashboard/").status == 200
        assert browser.get("/dashboard/sign-out").status == 303  # there is nothing to end here


def test_what_is_no_session(people: Gate, clock: Clock) -> None:
    """O8, S45: neither a token that is not good, nor one of an OAuth client, nor a key opens it."""
    key = people.keys.create("acct_a", "production").text
    forged = secret_signer(b"x" * 48).sign({"iss": ISSUER, "sub": "user-1"}, kid=None)
    browser = Browser(app_of(Dashboard(people)))
    for text in (
        token(clock, exp=clock() // 1000 - 1),
        token(clock, sub="stranger"),
        token(clock, aud="other"),
        token(clock, typ="at+jwt"),
        forged,
        key,
        "a.b.c",
        "é.é.é",
        ("A" * 9000) + ".A.A",
    ):
        browser.cookies = {"sb-token": text}
        assert browser.get("/dashboard/").status == 401
        sent = ("authorization", f"Bearer {text}".encode("ascii", "replace").decode())
        assert Browser(browser.app).get("/dashboard/", sent).status == 401


def test_a_session_that_is_revoked(people: Gate, clock: Clock) -> None:
    """O8: an issuer's session that is revoked is over with the next request."""
    browser = Browser(app_of(Dashboard(people)))
    browser.cookies = {"sb-token": token(clock)}
    assert browser.get("/dashboard/").status == 200
    people.sessions.revoke("user-1")
    assert browser.get("/dashboard/").status == 401


def test_behind_the_gate(people: Gate, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """S61: where its paths are not public, a key gets as far as a page that says what is wrong, and
    the log says once what to do.
    """
    gate = still(Gate.open(settings(), clock=clock))
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "production").text
    browser = Browser(KeyrushMiddleware(app_of(Dashboard()), gate=gate))
    assert browser.get("/dashboard/")["content-type"] == "application/json"
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            page = browser.get("/dashboard/", ("x-api-key", key))
            assert page.status == 401
            assert "An API key does not open this" in page.said
    told = [record for record in caplog.records if "KEYRUSH_PUBLIC_PATHS" in record.message]
    assert len(told) == 1
    assert "/dashboard/*" in told[0].message
    gate.close()


def test_without_a_gate() -> None:
    """A dashboard with neither a gate nor the middleware says how it gets one."""
    with pytest.raises(RuntimeError, match=r"KeyrushMiddleware|Dashboard\(gate"):
        Browser(app_of(Dashboard())).get("/dashboard/")


# --- what was typed ------------------------------------------------------------------------------


def test_what_was_typed_is_kept(gate: Gate, clock: Clock) -> None:
    """O10: what was posted when the session was over is sent again by one press once there is
    another, by this browser alone; never a key, nor the form's token.
    """
    who: list[str | None] = ["acct_a"]
    browser = Browser(app_of(Dashboard(gate, account_of=lambda _: who[-1], sign_in_url="/login")))
    key = gate.keys.create("acct_a", "x").text
    page = browser.get("/dashboard/theme-less")
    assert page.status == 404
    who.append(None)
    fields = [("name", 'a "b" <c>'), ("scope", "read:*"), ("scope", "x"), ("oops", key)]
    kept = browser.post("/dashboard/sign-out", [*fields, ("_token", "old")])
    assert kept.status == 401
    assert "/login" in kept.links
    form = kept.form("/dashboard/sign-out")
    sent = [pair for pair in form.fields if pair[0] != "_token"]
    assert sent == fields[:3]
    assert key not in kept.text
    who.append("acct_a")
    thief = Browser(browser.app)
    assert thief.submit(kept, "/dashboard/sign-out").status == 403
    assert browser.submit(kept, "/dashboard/sign-out").status == 303
