"""What is around every page of the dashboard: where it is, what each answer has, what is said when
there is no page.
"""

from __future__ import annotations

import gzip
import re
from typing import Any

import pytest
from starlette.routing import Route, Router

from keyrush import Gate
from keyrush.apps import Dashboard
from keyrush.apps.dashboard.app import ROUTES
from keyrush.apps.dashboard.assets import _built_in
from keyrush.apps.dashboard.endpoints import page as page_of
from keyrush.apps.dashboard.frame import FRAME, Frame
from keyrush.core.portal import PortalSession
from keyrush.errors import StoreError
from keyrush.store.memory import MemoryStore
from tests.apps.dashboard.conftest import app_of
from tests.conftest import Clock, settings, still
from tests.support.calls import Sent, run, scope_of
from tests.support.dashboard import Browser

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def path_of(route: Route) -> str:
    """A path of a route, at the mount."""
    return "/dashboard" + re.sub(r"\{[a-z_]+\}", "cred_x", route.path)


# --- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize("route", ROUTES, ids=[route.path for route in ROUTES])
def test_headers_of_every_route(
    browser: Browser, nobody: Browser, route: Route, method: str
) -> None:
    """O10: no answer of any route may be framed, cached, sniffed, referred to, or hold a script of
    others; what is no page is one that says so.
    """
    for someone in (browser, nobody):
        page = (
            someone.post(path_of(route))
            if method == "POST"
            else someone.get(path_of(route), method=method)
        )
        assert page["content-security-policy"] == POLICY
        assert page["referrer-policy"] == "no-referrer"
        assert page["x-content-type-options"] == "nosniff"
        assert page["cache-control"] == "no-store"
        assert "content-encoding" not in page
        assert page.status < 500
        if method in {"PUT", "OPTIONS"}:
            assert page.status == 405
            assert page["allow"]


@pytest.mark.parametrize("route", ROUTES, ids=[route.path for route in ROUTES])
def test_nothing_inline(browser: Browser, route: Route) -> None:
    """O10: no page has an inline style, script or handler, nor anything of another host."""
    text = browser.get(path_of(route)).text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|data:|<script(?! src=)", text)
    hosts = set(re.findall(r'(?:src|href|action)="(https?:[^"]*|//[^"]*)"', text))
    assert not hosts


def test_static_files_ask_for_nothing() -> None:
    """O10: style sheets and the script name no other host, and no file beside them."""
    for name, asset in _built_in().items():
        text = asset.content.decode().replace("http://www.w3.org/2000/svg", "")
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        assert "http" not in text, name
        assert not re.search(r"url\(|data:|@import|\beval\(|innerHTML\s*\+=", text), name


# --- files ---------------------------------------------------------------------------------------


def test_files_are_kept_for_good(nobody: Browser) -> None:
    """Files are named by what is in them, kept for good, and compressed where that is taken."""
    page = nobody.get("/dashboard/")
    names = re.findall(r'"(/dashboard/static/[^"]+)"', page.text)
    assert len(names) == 4
    for name in names:
        plain = nobody.get(name)
        packed = nobody.get(name, ("accept-encoding", "br, gzip"))
        assert plain.status == packed.status == 200
        assert "immutable" in plain["cache-control"]
        assert plain["x-content-type-options"] == "nosniff"
        assert plain["vary"] == packed["vary"] == "Accept-Encoding"
        if "content-encoding" in packed:
            assert packed["content-encoding"] == "gzip"
            assert gzip.decompress(packed.body) == plain.body
        again = nobody.get(name, ("if-none-match", plain["etag"]))
        assert (again.status, again.body) == (304, b"")
        head = nobody.get(name, method="HEAD")
        assert head["content-length"] == str(len(plain.body))


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [
        *(("gzip", True), ("br, GZIP ; q=0.5", True), ("gzip;q=1.0", True), ("", False)),
        *(("gzip;q=0", False), ("gzip;q=0.0", False), ("br", False), ("x-gzip", False)),
    ],
)
def test_who_takes_gzip(nobody: Browser, accepted: str, is_packed: bool) -> None:
    """A file is compressed for those alone who take that."""
    (sheet, *_) = re.findall(r'stylesheet" href="([^"]+)"', nobody.get("/dashboard/").text)
    page = nobody.get(sheet, ("accept-encoding", accepted))
    assert ("content-encoding" in page) is is_packed


def test_a_first_visit_is_small(browser: Browser) -> None:
    """O10: a page with all its files is less than 60 kB."""
    page = browser.get("/dashboard/")
    names = set(re.findall(r'"(/dashboard/static/[^"]+)"', page.text))
    files = [browser.get(name, ("accept-encoding", "gzip")).body for name in names]
    assert len(page.body) + sum(map(len, files)) < 60_000


@pytest.mark.parametrize(
    "name", ["dashboard.css", "..%2fapp.py", "%2e%2e/app.py", "x", "base.html", "own.css"]
)
def test_no_other_file(nobody: Browser, name: str) -> None:
    """Nothing is served but what is listed, under the name that it has there."""
    assert nobody.get(f"/dashboard/static/{name}").status == 404


# --- where it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root_path", "at", "asked", "base"),
    [
        ("", "/dashboard", "/dashboard/keys", "/dashboard"),
        ("", "/a/b c", "/a/b%20c/keys", "/a/b%20c"),
        ("", "", "/keys", ""),
        ("/api", "/dashboard", "/api/dashboard/keys", "/api/dashboard"),  # as uvicorn has it
        ("/api", "/dashboard", "/dashboard/keys", "/api/dashboard"),  # the proxy has stripped it
        ("/api/v1", "/my/dash", "/my/dash/keys", "/api/v1/my/dash"),
        ("/keys", "/keys", "/keys/keys/keys", "/keys/keys"),
    ],
)
def test_under_any_mount(gate: Gate, root_path: str, at: str, asked: str, base: str) -> None:
    """O10: whatever it is mounted at, and whatever a proxy strips, links are paths that lead back
    to it, and no host.
    """
    dashboard = Dashboard(gate, account_of=lambda _: "acct_a")
    browser = Browser(app_of(dashboard, at), root_path=root_path)
    page = browser.get(asked)
    assert page.status == 200
    assert {f"{base}/", f"{base}/keys", f"{base}/activity"} <= set(page.links)
    assert all(link.startswith((f"{base}/", "#")) for link in page.links)
    assert f'action="{base}/theme"' in page.text
    assert f'href="{base}/static/dashboard.' in page.text
    assert f'<a href="{base}/keys" aria-current="page">' in page.text


def test_without_any_mount(gate: Gate) -> None:
    """By itself, or where a framework strips the path and says so only by what was sent."""
    dashboard = Dashboard(gate, account_of=lambda _: "acct_a")
    assert "/keys" in Browser(dashboard).get("/").links
    stripped = Browser(dashboard, path="/keys", raw_path=b"/my/dash/keys")
    assert "/my/dash/keys" in stripped.get("/").links


def test_no_host_in_a_mount(gate: Gate) -> None:
    """O10: a path that begins like a host is none in links, wherever the app around takes it."""
    dashboard = Dashboard(gate, account_of=lambda _: "acct_a")
    page = Browser(dashboard, root_path="//evil.example/d").get("//evil.example/d/keys")
    assert page.status == 200
    assert "/evil.example/d/keys" in page.links
    assert '"//' not in page.text


def test_a_slash_at_the_end(browser: Browser) -> None:
    """A slash at the end of a path never matters."""
    assert browser.get("/dashboard/keys/").status == 200
    assert browser.get("/dashboard/keys//").status == 200


@pytest.mark.parametrize("host", ["evil.example", "app.example:444", "x@evil.example", ""])
def test_hosts_are_not_believed(browser: Browser, host: str) -> None:
    """O10: nothing of the page, and no redirect, depends on `Host`."""
    browser.headers = [("host", host), ("x-forwarded-host", host)]
    page = browser.get("/dashboard/")
    assert "evil" not in page.text
    assert page.status == 200


# --- what there is not ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("/nope", "/keys/cred_x/nope", "/static/", "/..%2f", "/%00", "/link/", "/theme/x"),
        *("/keys%2fnew", "/\u00e9", "/<script>alert(1)</script>", "/keys/../keys"),
    ],
)
def test_no_such_page(browser: Browser, path: str) -> None:
    """What is nowhere is a page that says so, with a way on, and echoes nothing."""
    page = browser.get("/dashboard" + path)
    assert page.status in {200, 404}
    assert "alert(1)</" not in page.text
    if page.status == 404:
        assert "There is no such page" in page.said


@pytest.mark.parametrize(
    "query", ["x=<script>", "q=%00", "q=%ff%fe", "a" * 5000, "&&&===", "q=%3Csvg/onload=x%3E" * 9]
)
def test_hostile_queries(browser: Browser, query: str) -> None:
    """Whatever the query is, the page is the page, and nothing of it is markup."""
    for path in ("/", "/keys", "/activity", "/billing", "/nope"):
        page = browser.get(f"/dashboard{path}?{query}")
        assert page.status in {200, 400, 404}
        assert "<script>" not in page.text
        assert "<svg/onload" not in page.text


class Away(MemoryStore):
    """A store that answers until it does not."""

    error: Exception | None = None

    def account(self, account_id: str) -> Any:
        if self.error is not None:
            raise self.error
        return super().account(account_id)

    def portal_session(self, hash: str, now: int) -> PortalSession | None:
        if self.error is not None:
            raise self.error
        return super().portal_session(hash, now)


@pytest.mark.parametrize(
    "error", [StoreError("no route to 10.1.2.3"), ValueError("secret words"), OSError(5, "disk")]
)
def test_the_store_is_away(clock: Clock, error: Exception, caplog: Any) -> None:
    """S19: while the store does not answer, whatever it raises, a page says so with a reference
    that the log has, and nothing of why.
    """
    store = Away()
    gate = still(Gate.open(settings(), store=store, clock=clock))
    gate.accounts.create("acct_a")
    host = Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_a")))
    linked = Browser(app_of(Dashboard(gate)))
    linked.cookies = {"__Host-keyrush-session": "A" * 43}
    store.error = error
    for browser in (host, linked):
        page = browser.get("/dashboard/keys")
        assert page.status == 503
        assert page["retry-after"] == "1"
        assert "Your API goes on working" in page.said
        reference = page.said.partition("Reference ")[2].partition(".")[0]
        assert reference in caplog.text
        assert str(error) not in page.text
    gate.close()


def test_a_page_that_fails(gate: Gate, caplog: Any) -> None:
    """A fault of ours is a page with a reference that the log has, and nothing of the fault."""

    async def failing(_: object) -> Any:
        raise RuntimeError("broken in here")

    frame = Frame(gate, lambda _: "acct_a")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        router = Router([page_of("/x", failing)])
        await router({**scope, FRAME: frame}, receive, send)

    page = Browser(app).get("/x")
    assert page.status == 500
    assert "broken" not in page.text
    assert page.said.partition("Reference ")[2].partition(".")[0] in caplog.text


def test_who_goes_in_the_middle(browser: Browser, caplog: Any) -> None:
    """S10: who goes away while they send a form is no fault that the log tells of."""
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        messages.append(message)

    kind = ("content-type", "application/x-www-form-urlencoded")
    sent = Sent("/dashboard/theme", [kind, ("sec-fetch-site", "same-origin")], "POST")
    run(browser.app(scope_of(sent), receive, send))
    assert messages[0]["status"] == 400
    assert caplog.text == ""


def test_web_sockets_are_closed(gate: Gate) -> None:
    """There is nothing to talk to."""
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {**scope_of(Sent("/dashboard/keys")), "type": "websocket"}
    run(app_of(Dashboard(gate))(scope, receive, send))
    assert [message["type"] for message in messages] == ["websocket.close"]


# --- the brand -----------------------------------------------------------------------------------


def branded(clock: Clock, **values: Any) -> Browser:
    """The browser at a dashboard with settings."""
    gate = still(Gate.open(settings(**values), clock=clock))
    gate.accounts.create("acct_a")
    return Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_a")))


def test_a_brand(clock: Clock, tmp_path: Any) -> None:
    """O10: name, logo, accent, links and a style sheet of one's own, which comes last."""
    logo, css = tmp_path / "logo.svg", tmp_path / "own.css"
    logo.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    css.write_text("main { border: 0 }")
    browser = branded(
        clock,
        dashboard_name="Fern & <Post>",
        dashboard_logo=logo,
        dashboard_brand="#0f8a6b",
        dashboard_css=css,
        dashboard_links={"Documentation": "https://docs.example/?a=1&b=2"},
        dashboard_sign_out_url="/logout",
    )
    page = browser.get("/dashboard/")
    assert "Fern &amp; &lt;Post&gt;" in page.text
    assert {"https://docs.example/?a=1&b=2", "/logout"} <= set(page.links)
    sheets = re.findall(r'stylesheet" href="([^"]+)"', page.text)
    assert [name.partition("/static/")[2].partition(".")[0] for name in sheets] == [
        *("dashboard", "brand", "own"),
    ]
    assert browser.get(sheets[1]).text == ":root{--brand:#0f8a6b}"
    assert browser.get(sheets[2]).text == css.read_text()
    image = re.findall(r'<img class="logo" src="([^"]+)"', page.text)[0]
    assert browser.get(image)["content-type"] == "image/svg+xml"
    assert browser.get(image)["content-security-policy"] == POLICY


def test_templates_of_ones_own(clock: Clock, tmp_path: Any) -> None:
    """O10: a template of one's own stands in for the dashboard's, and may extend it."""
    (tmp_path / "base.html").write_text(
        '{% extends "keyrush/base.html" %}{% block nav %}<p>Ours</p>{{ super() }}{% endblock %}'
    )
    (tmp_path / "state.html").write_text("<p>{{ t('nav.keys') }}: {{ name }} <b></p>")
    browser = branded(clock, dashboard_templates=tmp_path)
    assert browser.get("/dashboard/nope").text == "<p>API access: not_found <b></p>"
    assert "Ours" in browser.get("/dashboard/").text


def test_another_language(clock: Clock, tmp_path: Any) -> None:
    """O10: another language is a file; what it lacks is said in English."""
    texts = tmp_path / "pt.toml"
    texts.write_text('[nav]\nkeys = "Acesso <b>"\n[base.credits]\none = "{n} crédito"\n')
    browser = branded(clock, dashboard_language="pt-PT", dashboard_texts=texts)
    page = browser.get("/dashboard/")
    assert '<html lang="pt-PT">' in page.text
    assert "Acesso &lt;b&gt;" in page.text
    assert "Activity" in page.said


def test_who_may_frame_it(clock: Clock) -> None:
    """O10: frame-ancestors is a setting, and nothing else of the policy is."""
    browser = branded(clock, dashboard_frame_ancestors="'self',https://*.example.com")
    policy = browser.get("/dashboard/")["content-security-policy"]
    assert policy == POLICY.replace(
        "frame-ancestors 'none'", "frame-ancestors 'self' https://*.example.com"
    )


# --- the theme -----------------------------------------------------------------------------------


@pytest.mark.parametrize("signed_in", [True, False])
def test_the_theme(browser: Browser, nobody: Browser, signed_in: bool) -> None:
    """O10: a theme is chosen by a form, kept in a cookie, read by the server, and leads back."""
    someone = browser if signed_in else nobody
    page = someone.get("/dashboard/keys?status=active")
    assert "data-theme" not in page.text
    chosen = someone.submit(page, "/dashboard/theme", theme="dark")
    assert chosen["location"] == "/dashboard/keys?status=active"
    assert 'data-theme="dark"' in someone.follow(chosen).text
    someone.submit(page, "/dashboard/theme", theme="")
    assert "data-theme" not in someone.get("/dashboard/").text


@pytest.mark.parametrize("theme", ["evil", 'dark" onload="x', "é", "a" * 5000])
def test_a_theme_is_one_of_ours(browser: Browser, theme: str) -> None:
    """O10: of a cookie or a form only our own values are taken."""
    page = browser.get("/dashboard/")
    browser.submit(page, "/dashboard/theme", theme=theme)
    assert "data-theme" not in browser.get("/dashboard/").text
    browser.cookies["keyrush-theme"] = theme
    assert "data-theme" not in browser.get("/dashboard/").text


@pytest.mark.parametrize(
    "to",
    [
        *("//evil.example", "https://evil.example", "\\\\evil.example", "/\\evil.example", ""),
        *("javascript:alert(1)", "/x\r\nset-cookie: a=b", "/" + "a" * 5000, "/é", "/a b"),
    ],
)
def test_back_to_us_alone(gate: Gate, to: str) -> None:
    """O10: what a form says to go back to is a path of the dashboard, or the first page."""
    for at in ("", "/dashboard"):
        browser = Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_a"), at))
        page = browser.get(f"{at}/")
        answer = browser.submit(page, f"{at}/theme", to=to, theme="dark")
        assert answer["location"] == f"{at}/"
